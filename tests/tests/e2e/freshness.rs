//! How old what central shows is, what a reader may demand of it, and who is left out.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Builder, World, until};

const SOON: Duration = Duration::from_secs(10);

/// Two stores with ten units of tea each, which heartbeat often.
async fn two_stores() -> World {
    let world = Builder { heartbeat_ms: 100, sweep_ms: 100, ..Builder::default() }.start(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        world.store(store).post("/v1/inventory", json!({"productId": "tea", "quantity": 10})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_older_than_a_reader_allows_is_left_out_as_stale() {
    let world = two_stores().await;
    let central = world.central();
    let of = |most: u64| format!("/v1/availability/tea?maxStalenessMs={most}");
    world.store("s2").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    until("s2 alone is left out", SOON, async || {
        let found = central.get(&of(3_000)).await.body;
        let only = found["leftOut"] == json!([{"storeId": "s2", "reason": "stale"}]) && found["quantity"] == 10;
        if only && found["stores"][0]["storeId"] == "s1" { Ok(()) } else { Err(found) }
    })
    .await;
    let all = central.get(&of(600_000)).await;
    assert_eq!((&all.body["quantity"], &all.body["leftOut"]), (&json!(20), &json!([])));
    assert!(all.header("x-projection-lag-ms").parse::<i64>().is_ok(), "{:?}", all.headers);
    let none = central.get(&format!("{}&storeId=s2", of(1_000))).await;
    assert_eq!((none.status, none.code(), none.header("retry-after")), (503, "store_unavailable", "5"));
    assert_eq!((&none.body["reason"], &none.body["leftOut"][0]["storeId"]), (&json!("stale"), &json!("s2")));
    // Its items say how old they are.
    let age = async |store: &str| {
        let item = central.get(&format!("/v1/inventory/{store}/tea")).await.expect(200);
        serde_json::from_value::<protocol::time::Millis>(item["asOf"].clone()).expect("a time")
    };
    assert!(age("s2").await < age("s1").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_positions_and_is_told_when_they_do_not_come() {
    let world = two_stores().await;
    let (store, central) = (world.store("s1"), world.central());
    let sold = store.post("/v1/purchase/tea", json!({"quantity": 1})).await;
    let other = world.store("s2").post("/v1/purchase/tea", json!({"quantity": 3})).await;
    let (position, others) = (sold.header("shelf-position"), other.header("shelf-position"));
    for (path, quantity) in [("/v1/inventory/s1/tea", 9), ("/v1/availability/tea", 16)] {
        let path = format!("{path}?minPosition={position}&minPosition={others}");
        let read = central.ask(Method::GET, &path, &[("prefer", "wait=20")], None).await.expect("an answer");
        assert_eq!((read.status, &read.body["quantity"]), (200, &json!(quantity)), "{path}: {}", read.body);
    }
    // One that does not come, and then does.
    let (place, seq) = position.rsplit_once('-').expect("a position");
    let next = format!("{place}-{}", seq.parse::<u64>().expect("a number") + 1);
    let read = async |path: &str, wait: &str| {
        let path = format!("{path}minPosition={next}");
        central.ask(Method::GET, &path, &[("prefer", wait)], None).await.expect("an answer")
    };
    for path in ["/v1/inventory?", "/v1/inventory/s1?", "/v1/inventory/s1/tea?", "/v1/availability/tea?"] {
        let behind = read(path, "wait=0").await;
        assert_eq!((behind.status, behind.code(), behind.header("retry-after")), (503, "not_caught_up", "1"), "{path}");
    }
    let (waited, _) = tokio::join!(read("/v1/inventory/s1/tea?", "wait=20"), async {
        store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200)
    });
    assert_eq!((waited.status, &waited.body["quantity"]), (200, &json!(8)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_asks_for_many_products_at_once() {
    let world = two_stores().await;
    let central = world.central();
    world.store("s1").post("/v1/inventory", json!({"productId": "milk", "quantity": 4})).await.expect(201);
    world.converged(SOON).await;
    let found = central.get("/v1/availability?productId=tea&productId=beer&productId=milk").await.expect(200);
    let items = found["items"].as_array().expect("a list");
    let seen: Vec<_> =
        items.iter().map(|item| (item["productId"].as_str(), item["onlineAvailable"].as_i64())).collect();
    assert_eq!(seen, [(Some("tea"), Some(20)), (Some("milk"), Some(4))]);
    assert_eq!(found["unknown"], json!(["beer"]));
    let query = |many: usize| (0..many).map(|number| format!("productId=p{number}")).collect::<Vec<_>>().join("&");
    let most = central.get(&format!("/v1/availability?{}", query(100))).await.expect(200);
    assert_eq!(most["unknown"].as_array().map(Vec::len), Some(100));
    let more = central.get(&format!("/v1/availability?{}", query(101))).await;
    assert_eq!((more.status, more.code()), (400, "invalid_request"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_store_sells_nothing_online_and_is_looked_after_as_ever() {
    let world = two_stores().await;
    let central = world.central();
    let pause = async |online: bool| {
        let store = central.patch("/v1/stores/s1", json!({"onlineSale": online})).await.expect(200);
        assert_eq!(
            (&store["status"], &store["onlineSale"]),
            (&json!(if online { "online" } else { "paused" }), &json!(online))
        );
    };
    let patient = [("prefer", "wait=20")];
    let hold = json!({"storeId": "s1", "lines": [{"productId": "tea", "quantity": 1}]});
    let mut held = Vec::new();
    for _ in 0..3 {
        let made = central.post_with("/v1/reservations", &patient, hold.clone()).await.expect(201);
        held.push(format!("/v1/reservations/{}", made["reservationId"].as_str().expect("an id")));
    }
    let item = "/v1/inventory/s1/tea";
    world.converged(SOON).await;
    let selling = central.get(item).await.header("etag").to_owned();
    pause(false).await;
    pause(false).await;
    assert_eq!(
        central.ask(Method::GET, item, &[("if-none-match", &selling)], None).await.expect("an answer").status,
        200
    );
    let refused = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
    assert_eq!((refused.status, &refused.body["reason"]), (503, &json!("paused")));
    assert_eq!(refused.body["detail"], "the store's online sale is paused");
    // Nobody holds more, and who holds units may buy them, keep them or let them go.
    let more = central.post("/v1/reservations", hold).await;
    assert_eq!((more.status, &more.body["reason"]), (503, &json!("paused")));
    for (path, act, body, status) in [
        (&held[0], "confirm", json!({}), "confirmed"),
        (&held[1], "cancel", json!({}), "cancelled"),
        (&held[2], "extend", json!({"ttlSeconds": 900}), "open"),
        (&held[2], "cancel", json!({}), "cancelled"),
    ] {
        let done = central.post_with(&format!("{path}/{act}"), &patient, body).await.expect(200);
        assert_eq!(done["status"], status, "{act}");
    }
    let tea = central.get("/v1/availability/tea").await.expect(200);
    assert_eq!((&tea["available"], &tea["onlineAvailable"]), (&json!(19), &json!(10)));
    central.post_with("/v1/inventory/s1/tea/receive", &patient, json!({"quantity": 5})).await.expect(200);
    pause(true).await;
    central.post_with("/v1/purchase/s1/tea", &patient, json!({"quantity": 1})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_accepts_and_does_not_answer_holds_up_no_purchase() {
    let world = two_stores().await;
    let central = world.central();
    // So that there is a connection which has always answered.
    let patient = [("prefer", "wait=20")];
    central.post_with("/v1/purchase/s1/tea", &patient, json!({"quantity": 1})).await.expect(200);
    world.signal_redis(Signal::SIGSTOP);
    for attempt in 0..3 {
        let begun = Instant::now();
        let refused = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
        let took = begun.elapsed();
        assert_eq!((refused.status, &refused.body["reason"]), (503, &json!("redis")), "attempt {attempt}");
        assert!(took < Duration::from_millis(1_500), "attempt {attempt} took {took:?}");
        let detail = refused.body["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(!detail.contains("redis"), "a shop knows no Redis: {detail}");
    }
    central.get("/v1/inventory/s1/tea").await.expect(200);
    let till = Instant::now();
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    assert!(till.elapsed() < Duration::from_millis(1_500), "a till waits for nobody");
    until("central knows", SOON, async || {
        let ready = central.get("/ready").await;
        let told = (ready.status, &ready.body["status"], &ready.body["checks"]["redis"]);
        if told == (200, &json!("degraded"), &json!("down")) { Ok(()) } else { Err(ready.body) }
    })
    .await;
    until("the store knows", SOON, async || {
        let ready = world.store("s1").get("/ready").await;
        let told = (ready.status, &ready.body["status"], &ready.body["checks"]);
        if told == (200, &json!("degraded"), &json!({"database": "up", "link": "down"})) {
            Ok(())
        } else {
            Err(ready.body)
        }
    })
    .await;
    world.signal_redis(Signal::SIGCONT);
    until("purchases go on", SOON, async || {
        let bought = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
        if bought.status == 200 { Ok(()) } else { Err(bought.body) }
    })
    .await;
    until("both are ready", SOON, async || {
        let told = (central.get("/ready").await.body, world.store("s1").get("/ready").await.body);
        if told.0["status"] == "ready" && told.1["status"] == "ready" { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_a_stores_stock_at_a_position() {
    let world = two_stores().await;
    let (store, central) = (world.store("s1"), world.central());
    store
        .post("/v1/inventory", json!({"productId": "jam", "name": "Jam", "quantity": 3, "lowAt": 5}))
        .await
        .expect(201);
    let sold = store.post("/v1/purchase/tea", json!({"quantity": 1})).await;
    let position = sold.header("shelf-position").to_owned();
    let tea = sold.expect(200);
    world.converged(SOON).await;
    let snapshot = central.open("/v1/stores/s1/snapshot", &[]).await;
    assert_eq!(
        (snapshot.status().as_u16(), &snapshot.headers()["content-type"]),
        (200, &"application/x-ndjson".parse().expect("a value"))
    );
    let text = snapshot.text().await.expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let digest = store.get("/v1/status").await.expect(200)["digest"].clone();
    assert_eq!(lines[0], json!({"storeId": "s1", "position": position, "digest": digest}));
    let stock: Vec<[&Value; 3]> = lines[1..]
        .iter()
        .map(|line| [&line["productId"], &line["item"]["quantity"], &line["item"]["version"]])
        .collect();
    assert_eq!(stock, [[&json!("jam"), &json!(3), &json!(1)], [&json!("tea"), &json!(9), &tea["version"]]]);
    let unknown = central.get("/v1/stores/s9/snapshot").await;
    assert_eq!((unknown.status, unknown.code()), (404, "unknown_store"));
}
