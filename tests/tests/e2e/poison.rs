//! One bad message stops nothing (P7): it is parked or its store is set aside, and all others go on.

use std::time::Duration;

use protocol::time::Millis;
use protocol::wire::Command;
use rusqlite::Connection;
use serde_json::{Value, json};
use tests::{Builder, Daemon, World, ask_unknown, record_unknown, until};

const SOON: Duration = Duration::from_secs(20);

async fn world() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 2_000, sweep_ms: 300 }.start(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        world.store(store).post("/v1/inventory", json!({"productId": "tea", "quantity": 50})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

/// Adds an entry to a ledger that no process has open, as a later version of the agent might have.
fn record(world: &World, store: &str, kind: &str, body: &str) {
    let file = Connection::open(world.database(store)).expect("opens");
    record_unknown(&file, kind, body, "news", Millis(0)).expect("writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_parked_and_the_store_goes_on() {
    let mut world = world().await;
    let agent = Daemon::Store("s1".into());
    assert_eq!(world.terminate(&agent), Some(0));
    record(&world, "s1", "teleported\nto: the moon", "{}");
    record(&world, "s1", "sold", "{\"not\": \"a sale\"}");
    // Understood, but beyond what any table holds: it must not stop the batch it travels in.
    record(&world, "s1", "ready", "{\"commandEpoch\": 18446744073709551615}");
    world.restart(&agent).await;
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    let central = world.central();
    let letters = central.get("/v1/dead-letters?storeId=s1").await.expect(200);
    let reasons: Vec<&str> =
        letters["items"].as_array().expect("a list").iter().filter_map(|letter| letter["reason"].as_str()).collect();
    assert_eq!(reasons.len(), 3, "{letters}");
    assert!(reasons.iter().any(|reason| reason.contains("teleported")), "{reasons:?}");
    // Who follows all that happens hears of it, and of what came behind it.
    let mut stream = central.open("/v1/events/stream?after=0&storeId=s1", &[]).await;
    let mut told = String::new();
    while !told.split_once("event: unknown\n").is_some_and(|(_, behind)| behind.contains("\"quantity\":49")) {
        let part = tokio::time::timeout(SOON, stream.chunk()).await.expect("it goes on").expect("is read");
        told.push_str(&String::from_utf8_lossy(&part.expect("it does not end")));
    }
    let metrics = central.open("/metrics", &[]).await.text().await.expect("is read");
    assert!(metrics.contains("type=\"unknown\"") && !metrics.contains("moon"), "{metrics}");
    // A replay does not lose what is still not understood.
    central.post("/v1/dead-letters/replay", json!({})).await.expect(200);
    let again = central.get("/v1/dead-letters?storeId=s1").await.expect(200);
    assert_eq!(again["items"].as_array().map(Vec::len), Some(3), "{again}");
    let discard = format!("/v1/dead-letters/{}/discard", letters["items"][0]["id"].as_str().expect("an id"));
    assert_eq!(central.post(&discard, json!({})).await.expect(200)["discarded"], letters["items"][0]["id"]);
    let gone = central.post(&discard, json!({})).await;
    assert_eq!((gone.status, gone.code()), (404, "unknown_id"));
    let left = central.get("/v1/dead-letters?storeId=s1").await.expect(200);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(2), "{left}");
    // A resync has made the view sure of itself again.
    world.online("s1").await;
    central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_a_stream_is_cleared_and_others_do_not_notice() {
    let world = world().await;
    let poisons: [&[&str]; 5] = [
        &["XADD", "shelf:{s1}:events", "18446744073709551615-18446744073709551615", "x", "y"],
        &["SET", "shelf:{s1}:events", "not a stream"],
        &["SET", "shelf:{s1}:events:ack", "not an ack"],
        &[
            "SET",
            "shelf:{s1}:heartbeat",
            "{\"process\":1,\"epoch\":1,\"head\":1,\"backlog\":1,\"oldestUnsentMs\":-9223372036854775808,\"version\":\"\",\"lifeMs\":-9223372036854775808}",
        ],
        &["LPUSH", "shelf:{s1}:commands:ack", "not an ack"],
    ];
    for poison in poisons {
        let _ = world.redis(&["DEL", poison[1]]).await.expect("Redis answers");
        world.redis(poison).await.expect("Redis takes it");
        let sold = world.store("s2").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
        let central = world.central();
        until("the other store is seen at once", Duration::from_secs(5), async || {
            let seen = central.get("/v1/inventory/s2/tea").await.body;
            if seen["quantity"] == sold["quantity"] { Ok(()) } else { Err(seen) }
        })
        .await;
        world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
        world.converged(SOON).await;
    }
    // Nobody sells or asks: the store looks at its own stream, and central at its own.
    for stream in ["shelf:{s1}:events", "shelf:{s1}:commands"] {
        world.redis(&["DEL", stream]).await.expect("Redis answers");
        world.redis(&["SET", stream, "not a stream"]).await.expect("Redis takes it");
    }
    until("the foreign keys are gone", SOON, async || {
        let mut left = Vec::new();
        for stream in ["shelf:{s1}:events", "shelf:{s1}:commands"] {
            left.push(world.redis(&["TYPE", stream]).await.expect("Redis answers"));
        }
        let foreign = redis::Value::SimpleString("string".into());
        if left.contains(&foreign) { Err(left) } else { Ok(()) }
    })
    .await;
    world.online("s1").await;
    let central = world.central();
    until("a purchase is confirmed", SOON, async || {
        let answer = central.post_with("/v1/purchase/s1/tea", &[("prefer", "wait=5")], json!({"quantity": 1})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    let big = format!("{{\"quantity\": 1, \"reference\": \"{}\"}}", "x".repeat(10 << 20));
    let answer = central
        .send(reqwest::Method::POST, "/v1/purchase/s1/tea", &[("content-type", "application/json")], big.into_bytes())
        .await;
    assert_eq!((answer.status, answer.code()), (413, "body_too_large"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_beyond_all_numbers_stops_no_agent() {
    let world = world().await;
    let beyond = json!({"quantity": 5, "countedAt": "s1:5-18446744073709551615"});
    let (store, central) = (world.store("s1"), world.central());
    let at_store = store.put("/v1/inventory/tea", beyond.clone()).await;
    assert!((400..500).contains(&at_store.status), "{at_store:?}");
    let at_central = central.put("/v1/inventory/s1/tea", beyond).await;
    assert!((400..500).contains(&at_central.status), "{at_central:?}");
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_parks_what_it_does_not_understand_until_people_drop_it() {
    let mut world = world().await;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    let opened = Command::Opened { for_epoch: 1.into() };
    {
        let file = Connection::open(world.dir().join("central.db")).expect("opens");
        ask_unknown(&file, "s1", "teleport", "{\"productId\":\"tea\"}", "later-1").expect("writes");
        // Understood, but where no epoch opens.
        ask_unknown(&file, "s1", opened.kind(), &opened.encode(), "later-2").expect("writes");
    }
    world.restart(&Daemon::Central).await;
    let (store, central) = (world.store("s1"), world.central());
    let letters = async || store.get("/v1/dead-letters").await.expect(200)["items"].take();
    let parked = until("both are parked", SOON, async || {
        let parked = letters().await;
        if parked.as_array().map(Vec::len) == Some(2) { Ok(parked) } else { Err(parked) }
    })
    .await;
    let told = |at: usize| ["type", "operationId", "body"].map(|member| parked[at][member].as_str().expect("text"));
    assert_eq!(told(0), [opened.kind(), "later-2", &opened.encode()], "the newest first");
    assert_eq!(told(1), ["teleport", "later-1", "{\"productId\":\"tea\"}"]);
    assert!(parked[1]["reason"].as_str().is_some_and(|reason| reason.contains("teleport")), "{parked}");
    // The link goes on, and central was told.
    world.online("s1").await;
    central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    let refusals = central.get("/v1/events?storeId=s1&type=command_refused").await.expect(200);
    assert_eq!(refusals["items"].as_array().map(Vec::len), Some(2), "{refusals}");

    // A replay drops what is understood; nothing is executed.
    let [understood, other] = [0, 1].map(|at| parked[at]["id"].clone());
    let one = store.post("/v1/dead-letters/replay", json!({"ids": [other]})).await.expect(200);
    assert_eq!(one, json!({"replayed": [], "notUnderstood": [other]}));
    let all = store.post("/v1/dead-letters/replay", json!({})).await.expect(200);
    assert_eq!(all, json!({"replayed": [understood], "notUnderstood": [other]}));
    assert_eq!(letters().await.as_array().map(Vec::len), Some(1));
    let discard = format!("/v1/dead-letters/{}/discard", other.as_str().expect("an id"));
    assert_eq!(store.post(&discard, json!({})).await.expect(200), json!({"discarded": other}));
    let again = store.post(&discard, json!({})).await;
    assert_eq!((again.status, again.code()), (404, "unknown_id"));
    assert_eq!(letters().await, Value::Array(Vec::new()));
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 49);
}
