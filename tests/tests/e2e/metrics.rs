//! What monitoring reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use tests::{Builder, Client, until};

const SOON: Duration = Duration::from_secs(10);

/// Samples by name and labels. What is told must be explained, and stand once.
async fn metrics(client: &Client) -> BTreeMap<String, f64> {
    let answer = client.open("/metrics", &[]).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"text/plain; version=0.0.4".parse().expect("a value"))
    );
    let text = answer.text().await.expect("text");
    let (mut explained, mut samples) = (BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, said) = help.split_once(' ').expect("a name and a text");
            assert!(!said.is_empty() && explained.insert(name.to_owned()), "{line}");
        } else if !line.starts_with('#') {
            let (of, value) = line.rsplit_once(' ').expect("a name and a value");
            let name = of.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(explained.contains(family) || explained.contains(name), "{line}");
            assert!(samples.insert(of.to_owned(), value.parse().expect("a number")).is_none(), "{line}");
        }
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_tell_how_they_are() {
    let world = Builder { heartbeat_ms: 100, sweep_ms: 100, ..Builder::default() }.start(&["s1", "s2"]).await;
    let (store, central) = (world.store("s1"), world.central());
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 10})).await.expect(201);
    for _ in 0..3 {
        store.post("/v1/purchase/tea", json!({"quantity": 2})).await.expect(200);
    }
    assert_eq!(store.post("/v1/purchase/tea", json!({"quantity": 5})).await.status, 409);
    world.converged(SOON).await;
    let bought = json!({"storeId": "s1", "productId": "tea", "quantity": 1});
    central.post("/v1/purchase", bought).await.expect(200);
    world.converged(SOON).await;

    let told = metrics(&world.store("s1")).await;
    let expected = [
        (r#"http_requests_total{method="POST",route="/purchase/{productId}",status="200"}"#, 3.0),
        (r#"http_requests_total{method="POST",route="/purchase/{productId}",status="409"}"#, 1.0),
        (r#"http_request_duration_seconds_count{method="POST",route="/purchase/{productId}"}"#, 4.0),
        (r#"shelfstream_events_total{type="sold"}"#, 3.0),
        (r#"shelfstream_events_total{type="purchase_confirmed"}"#, 1.0),
        ("shelfstream_purchases_to_pick", 1.0),
        ("shelfstream_items", 1.0),
        ("shelfstream_dead_letters", 0.0),
    ];
    for (of, value) in expected {
        assert_eq!(told.get(of), Some(&value), "{of} in {told:#?}");
    }
    let state = |name: &str| format!(r#"shelfstream_link{{state="{name}"}}"#);
    assert_eq!((told[&state("up")], told[&state("off")]), (1.0, 0.0));

    let told = metrics(&world.central()).await;
    let of = |name: &str, store: &str| format!(r#"shelfstream_store_{name}{{store_id="{store}"}}"#);
    assert_eq!((told["shelfstream_redis_up"], told[r#"shelfstream_stores{status="online"}"#]), (1.0, 2.0));
    assert_eq!(told[r#"shelfstream_events_total{type="sold"}"#], 3.0);
    for (name, value) in [("sells", 1.0), ("open_purchases", 0.0), ("digest_different", 0.0)] {
        assert_eq!(told.get(&of(name, "s1")), Some(&value), "{name} in {told:#?}");
    }
    assert!(told[&of("round_trip_seconds", "s1")] < 5.0 && !told.contains_key(&of("round_trip_seconds", "s2")));
    until("a heartbeat has told that all is acknowledged", SOON, async || {
        let told = metrics(&world.central()).await;
        if told.get(&of("backlog_entries", "s1")) == Some(&0.0) { Ok(()) } else { Err(told) }
    })
    .await;
    // Counted on, not counted again.
    assert_eq!(metrics(&world.central()).await[r#"shelfstream_events_total{type="sold"}"#], 3.0);

    store.post("/v1/disconnected", json!({})).await.expect(200);
    until("one store is offline", SOON, async || {
        let told = metrics(&world.central()).await;
        let sells = (told[&of("sells", "s1")], told[&of("sells", "s2")]);
        if sells == (0.0, 1.0) && told[r#"shelfstream_stores{status="offline"}"#] == 1.0 { Ok(()) } else { Err(told) }
    })
    .await;
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    let told = metrics(&world.store("s1")).await;
    assert_eq!((told["shelfstream_backlog_entries"], told[&state("off")]), (1.0, 1.0));
}
