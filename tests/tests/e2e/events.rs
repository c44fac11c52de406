//! Event lists: back to the first that is kept, forward without a gap, at the store and at central alike.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Client, World, until};

const SOON: Duration = Duration::from_secs(10);

fn positions(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|event| event["position"].as_str().expect("a position").to_owned()).collect()
}

/// All positions, the newest first, page by page.
async fn back(client: &Client, filter: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let list = client.get(&format!("/v1/events?size=3{filter}{cursor}")).await.expect(200);
        all.extend(positions(&list));
        match list["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// All positions behind a place, and the place to go on from.
async fn forward(client: &Client, filter: &str, mut after: String) -> (Vec<String>, String) {
    let mut all = Vec::new();
    loop {
        let list = client.get(&format!("/v1/events?size=3{filter}&after={after}")).await.expect(200);
        after = list["nextCursor"].as_str().expect("forward it is never null").to_owned();
        if positions(&list).is_empty() {
            return (all, after);
        }
        all.extend(positions(&list));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_list_events_back_to_the_first_and_forward_without_a_gap() {
    let world = World::with(&["s1", "s2"]).await;
    let (store, central) = (world.store("s1"), world.central());
    for shop in ["s1", "s2"] {
        let create = json!({"productId": "tea", "quantity": 50});
        world.store(shop).post("/v1/inventory", create).await.expect(201);
    }
    for number in 0..5 {
        let sale = json!({"quantity": 1, "reference": format!("receipt-{number}")});
        store.post_with("/v1/purchase/tea", &[("shelf-actor", "till-1")], sale.clone()).await.expect(200);
        world.store("s2").post("/v1/purchase/tea", sale).await.expect(200);
    }
    store.post("/v1/inventory/tea/receive", json!({"quantity": 7})).await.expect(200);
    world.converged(SOON).await;

    // From the newest to the first, and from the beginning to the newest: the same events.
    for (client, own) in [(&store, ""), (&central, "&storeId=s1"), (&central, "")] {
        let mut newest_first = back(client, own).await;
        let (oldest_first, place) = forward(client, own, "0".into()).await;
        newest_first.reverse();
        assert_eq!(newest_first, oldest_first, "{own}");
        assert_eq!(forward(client, own, place.clone()).await, (Vec::new(), place));
    }
    let own = forward(&store, "", "0".into()).await.0;
    assert_eq!(own, forward(&central, "&storeId=s1", "0".into()).await.0, "central has what the store has");
    assert_eq!(own.first().map(String::as_str).and_then(|first| first.rsplit('-').next()), Some("1"));

    // A position is a place at both.
    for (client, filter) in [(&store, ""), (&central, "&storeId=s1")] {
        assert_eq!(forward(client, filter, own[2].clone()).await.0, own[3..], "{filter}");
    }
    // A place that central has yet to reach is kept until it has.
    let (place, seq) = own.last().expect("events").rsplit_once('-').expect("a position");
    let ahead = format!("{place}-{}", seq.parse::<u64>().expect("a number") + 1);
    let waits = central.get(&format!("/v1/events?storeId=s1&after={ahead}")).await.expect(200);
    assert_eq!((&waits["items"], &waits["nextCursor"]), (&json!([]), &json!(ahead)));

    // A place that nothing has reached is one of a database that was set back: it is refused, not waited for.
    let last: u64 = forward(&central, "", "0".into()).await.1.parse().expect("a place in the chain");
    for (client, beyond, said) in
        [(&store, &ahead, own.last().expect("events")), (&central, &(last + 1).to_string(), &last.to_string())]
    {
        let refused = client.get(&format!("/v1/events?after={beyond}")).await;
        assert_eq!(
            (refused.status, &refused.body["errors"][0]["pointer"]),
            (400, &json!("?after")),
            "{}",
            refused.body
        );
        assert!(refused.body["errors"][0]["detail"].to_string().contains(said), "{}", refused.body);
        assert_eq!(client.get(&format!("/v1/events?after={said}")).await.expect(200)["items"], json!([]));
    }

    // What happens next is found from the stored place, by a filter that does not find it, too.
    let (_, sales) = forward(&central, "&type=sold", "0".into()).await;
    let (_, at_store) = forward(&store, "", "0".into()).await;
    for client in [&store, &world.store("s2")] {
        client.post("/v1/inventory/tea/adjust", json!({"delta": -1, "reason": "damage"})).await.expect(200);
    }
    let sold = store.post("/v1/purchase/tea", json!({"quantity": 1, "reference": "late"})).await;
    let sold_at = sold.header("shelf-position").to_owned();
    world.converged(SOON).await;
    assert_eq!(forward(&central, "&type=sold", sales).await.0, std::slice::from_ref(&sold_at));
    assert_eq!(forward(&store, "&type=sold", at_store).await.0, [sold_at]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_filter_events_alike() {
    let world = World::with(&["s1"]).await;
    let (store, central) = (world.store("s1"), world.central());
    for product in ["tea", "milk"] {
        store.post("/v1/inventory", json!({"productId": product, "quantity": 50})).await.expect(201);
    }
    let sell = async |product: &str, reference: &str, actor: &str| {
        let (path, sale) = (format!("/v1/purchase/{product}"), json!({"quantity": 1, "reference": reference}));
        let answer = store.post_with(&path, &[("shelf-actor", actor)], sale).await;
        answer.header("shelf-position").to_owned()
    };
    let first = sell("tea", "r-1", "till-1").await;
    let second = sell("milk", "r-2", "till-1").await;
    let third = sell("tea", "r-2", "till-2").await;
    world.converged(SOON).await;
    let event = store.get("/v1/events?reference=r-1").await.expect(200)["items"][0].clone();
    let at = event["recordedAt"].as_str().expect("a time").to_owned();
    let plus = |ms: i64| {
        let time: protocol::time::Millis = serde_json::from_value(json!(at)).expect("a time");
        time.plus(ms).to_string()
    };
    for client in [&store, &central] {
        let found = async |filter: &str| {
            let mut all = back(client, filter).await;
            all.reverse();
            all
        };
        assert_eq!(found("&type=sold").await, [&*first, &*second, &*third]);
        assert_eq!(found("&productId=tea&type=sold").await, [&*first, &*third]);
        assert_eq!(found("&reference=r-2").await, [&*second, &*third]);
        assert_eq!(found("&reference=r-2&productId=tea").await, [&*third]);
        assert_eq!(found("&actor=till-1").await, [&*first, &*second]);
        assert_eq!(found("&productId=beer").await, [""; 0]);
        assert_eq!(found("&type=nonsense").await, [""; 0]);
        // `since` is inclusive, `until` is not, and both are the store's time.
        let (this, next) = (plus(0), plus(1));
        assert_eq!(found(&format!("&reference=r-1&since={this}&until={next}")).await, [&*first]);
        assert_eq!(found(&format!("&reference=r-1&since={next}")).await, [""; 0]);
        assert_eq!(found(&format!("&reference=r-1&until={this}")).await, [""; 0]);
        let opened = client.get("/v1/events?type=epoch_opened").await.expect(200);
        assert_eq!(opened["items"].as_array().map(Vec::len), Some(1), "{opened}");
    }
    assert_eq!(central.get("/v1/events?storeId=nowhere").await.expect(200)["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_before_what_a_store_has_kept_is_gone_and_said_so() {
    let mut world = World::with(&["s1"]).await;
    let store = world.store("s1");
    for number in 0..4 {
        let id = format!("tea-{number}");
        store.post("/v1/inventory", json!({"productId": id, "quantity": 1})).await.expect(201);
    }
    world.converged(SOON).await;
    // The agent learns of the acknowledgement before it is stopped: only what is acknowledged may be forgotten.
    until("all is acknowledged", SOON, async || {
        let status = store.get("/v1/status").await.body;
        if status["acked"] == status["head"] { Ok(()) } else { Err(status) }
    })
    .await;
    let all = forward(&store, "", "0".into()).await.0;
    let agent = tests::Daemon::Store("s1".into());
    world.terminate(&agent);
    // As after thirty days.
    let kept = 4;
    let database = rusqlite::Connection::open(world.database("s1")).expect("opens");
    database.execute("delete from ledger where seq < ?1", [kept]).expect("deletes");
    drop(database);
    world.restart(&agent).await;
    let store = world.store("s1");
    let oldest = &all[kept as usize - 1];
    let gone = store.get(&format!("/v1/events?after={}", all[0])).await;
    assert_eq!((gone.status, gone.code(), &gone.body["oldest"]), (410, "cursor_expired", &json!(oldest)));
    // Who had read up to there has lost nothing; the beginning is that of what is kept.
    for after in [&all[kept as usize - 2], "0"] {
        let list = store.get(&format!("/v1/events?after={after}&size=1")).await.expect(200);
        assert_eq!(positions(&list), [&**oldest], "{after}");
    }
    assert_eq!(back(&store, "").await.last(), Some(oldest));
}
