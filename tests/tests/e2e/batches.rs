//! Several operations at a store in one request to central.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Answer, Builder, Client, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/operations";

/// A store with ten units of tea and two of jam.
async fn stocked() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 20_000, sweep_ms: 300 }.start(&["s1"]).await;
    for (name, units) in [("tea", 10), ("jam", 2)] {
        let create = json!({"productId": name, "quantity": units});
        world.store("s1").post("/v1/inventory", create).await.expect(201);
    }
    world.converged(SOON).await;
    world.online("s1").await;
    world
}

fn sale(product: &str, units: i64) -> Value {
    json!({"op": "sell", "productId": product, "quantity": units})
}

fn batch(operations: &[Value]) -> Value {
    json!({"storeId": "s1", "operations": operations})
}

/// Asks, and waits for the answer.
async fn ask(central: &Client, key: &str, body: Value) -> Answer {
    central.post_with(PATH, &[("prefer", "wait=20"), ("idempotency-key", key)], body).await
}

async fn units(store: &Client, product: &str) -> i64 {
    store.get(&format!("/v1/inventory/{product}")).await.expect(200)["quantity"].as_i64().expect("a number")
}

/// What a store's own route answers to the same lines, without what central does not tell.
fn without_items(mut body: Value) -> Value {
    for line in body["results"].as_array_mut().expect("results") {
        line.as_object_mut().expect("a line").remove("item");
    }
    body
}

/// Status of each line, with the code of its problem.
fn told(body: &Value) -> Vec<(&str, &str)> {
    let lines = body["results"].as_array().expect("results").iter();
    lines
        .map(|line| (line["status"].as_str().expect("a status"), line["problem"]["code"].as_str().unwrap_or_default()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_through_central_is_what_it_is_at_the_store() {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 20_000, sweep_ms: 300 }.start(&["s1", "s2"]).await;
    let (central, store) = (world.central(), world.store("s1"));
    world.online("s1").await;
    let lines = [
        json!({"op": "create", "productId": "bun", "quantity": 9, "lowAt": 2}),
        json!({"op": "sell", "productId": "bun", "quantity": 4, "reference": "receipt-9"}),
        json!({"op": "receive", "productId": "ale", "quantity": 4}),
        json!({"op": "sell", "productId": "bun", "quantity": 6}),
        json!({"op": "count", "productId": "bun", "quantity": 2, "expectedVersion": 2}),
        json!({"op": "adjust", "productId": "bun", "delta": -1, "reason": "damage", "note": "wet"}),
    ];
    let mixed = |mut body: Value| {
        (body["operations"], body["atomic"]) = (json!(lines), json!(false));
        body
    };
    let answer = ask(&central, "mixed", mixed(json!({"storeId": "s1"}))).await;
    let position = answer.header("shelf-position").to_owned();
    let done = answer.expect(200);
    assert_eq!((&done["applied"], &done["refused"]), (&json!(4), &json!(2)));
    let refused = [(2, "unknown_product"), (3, "insufficient_stock")];
    for (index, code) in refused {
        assert_eq!(told(&done)[index], ("refused", code), "{done}");
    }
    let at_store = world.store("s2").post(PATH, mixed(json!({}))).await.expect(200);
    assert_eq!(done, without_items(at_store), "the same lines, asked for at a store");
    assert_eq!(units(&store, "bun").await, 1);
    world.converged(SOON).await;

    // Each line that was done is an event of its own, and the answer stands behind them.
    let listed = central.get("/v1/commands?storeId=s1").await.expect(200)["items"][0].clone();
    let id = listed["commandId"].as_str().expect("an id");
    assert_eq!(
        (&listed["operation"], &listed["status"], &listed["results"]),
        (&json!("batch"), &json!("done"), &Value::Null)
    );
    let command = central.get(&format!("/v1/commands/{id}")).await.expect(200);
    assert_eq!((&command["results"], &command["position"]), (&done["results"], &json!(position)));
    let events = central.get("/v1/events?storeId=s1&productId=bun&after=0").await.expect(200);
    let events: Vec<(Value, Value, Value)> = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| (event["type"].clone(), event["operationId"].clone(), event["delta"].clone()))
        .collect();
    let line = |kind: &str, index: usize, delta: i64| (json!(kind), json!(format!("{id}/{index}")), json!(delta));
    assert_eq!(
        events,
        [
            line("item_created", 0, 9),
            line("sold", 1, -4),
            line("counted", 4, -3),
            line("low_stock", 4, 0),
            line("adjusted", 5, -1)
        ]
    );
    let receipt = central.get("/v1/events?storeId=s1&reference=receipt-9").await.expect(200);
    assert_eq!(receipt["items"][0]["operationId"], json!(format!("{id}/1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_atomic_batch_through_central_all_is_done_or_nothing() {
    let world = stocked().await;
    let (central, store) = (world.central(), world.store("s1"));
    let too_much = batch(&[sale("jam", 1), sale("jam", 2), sale("tea", 1)]);
    for is_again in [false, true] {
        let refused = ask(&central, "k", too_much.clone()).await;
        assert_eq!((refused.status, refused.code()), (409, "batch_refused"), "{}", refused.body);
        assert_eq!(refused.header("idempotency-replayed") == "true", is_again);
        let expected = [("not_executed", ""), ("refused", "insufficient_stock"), ("not_executed", "")];
        assert_eq!(told(&refused.body), expected);
        assert_eq!(refused.body["storeId"], "s1");
        let id = refused.body["commandId"].as_str().expect("an id");
        let command = central.get(&format!("/v1/commands/{id}")).await.expect(200);
        let said = (&command["status"], &command["problem"]["code"], &command["results"]);
        assert_eq!(said, (&json!("refused"), &json!("batch_refused"), &refused.body["results"]));
    }
    assert_eq!((units(&store, "jam").await, units(&store, "tea").await), (2, 10));
    let done = ask(&central, "l", batch(&[sale("jam", 1), sale("jam", 1), sale("tea", 1)])).await.expect(200);
    assert_eq!((&done["applied"], &done["refused"]), (&json!(3), &json!(0)));
    assert_eq!((units(&store, "jam").await, units(&store, "tea").await), (0, 9));
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_asked_for_is_refused_and_does_nothing() {
    let world = stocked().await;
    let (central, store) = (world.central(), world.store("s1"));
    let bad = |line: Value| batch(&[sale("tea", 1), line]);
    for (body, pointer) in [
        (json!({"operations": [sale("tea", 1)]}), "/storeId"),
        (json!({"storeId": "no store", "operations": [sale("tea", 1)]}), "/storeId"),
        (batch(&[]), "/operations"),
        (batch(&vec![sale("tea", 1); 1_001]), "/operations"),
        (bad(json!({"op": "steal", "productId": "tea", "quantity": 1})), "/operations/1/op"),
        (bad(json!({"op": "sell", "quantity": 1})), "/operations/1/productId"),
        (bad(sale("tea", 0)), "/operations/1/quantity"),
        (json!({"storeId": "s1", "operations": [sale("tea", 1)], "atomic": "no"}), "/atomic"),
    ] {
        let refused = central.post(PATH, body).await;
        let said = (refused.status, refused.code(), &refused.body["errors"][0]["pointer"]);
        assert_eq!(said, (400, "invalid_request", &json!(pointer)), "{}", refused.body);
    }
    let tagged = central.post_with(PATH, &[("if-match", "*")], batch(&[sale("tea", 1)])).await;
    assert_eq!((tagged.status, &tagged.body["errors"][0]["pointer"]), (400, &json!("If-Match")));

    let note = "x".repeat(100);
    let long = |lines: usize| {
        let line = json!({"op": "adjust", "productId": "none", "delta": 1, "reason": "other", "note": note, "reference": note});
        json!({"storeId": "s1", "operations": vec![line; lines], "atomic": false})
    };
    let too_big = central.post(PATH, long(1_000)).await;
    assert_eq!((too_big.status, too_big.code(), &too_big.body["limitBytes"]), (413, "body_too_large", &json!(262_144)));
    let large = ask(&central, "large", long(900)).await.expect(200);
    assert_eq!((&large["applied"], &large["refused"]), (&json!(0), &json!(900)));

    let nowhere = central.post(PATH, json!({"storeId": "s9", "operations": [sale("tea", 1)]})).await;
    assert_eq!((nowhere.status, nowhere.code()), (404, "unknown_store"));
    ask(&central, "k", batch(&[sale("tea", 1)])).await.expect(200);
    let other = ask(&central, "k", batch(&[sale("tea", 2)])).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    assert_eq!(units(&store, "tea").await, 9);

    store.post("/v1/disconnected", json!({})).await.expect(200);
    let offline = until("the store is away", SOON, async || {
        let answer = central.post(PATH, batch(&[sale("tea", 1)])).await;
        if answer.status == 503 { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!((offline.code(), &offline.body["reason"]), ("store_unavailable", &json!("offline")));
    assert_eq!(
        ask(&central, "k", batch(&[sale("tea", 1)])).await.expect(200)["applied"],
        1,
        "what was done stays told"
    );
    until("the store is retired", SOON, async || {
        let answer = central.patch("/v1/stores/s1", json!({"retired": true})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    let retired = central.post(PATH, batch(&[sale("tea", 1)])).await;
    assert_eq!((retired.status, retired.code()), (409, "store_retired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_asked_for_twice_is_done_once() {
    let world = stocked().await;
    let (central, other) = (world.central(), world.central());
    let sales = batch(&[sale("tea", 2), sale("tea", 1)]);
    let (one, two) = tokio::join!(ask(&central, "twice", sales.clone()), ask(&other, "twice", sales.clone()));
    assert_eq!(one.expect(200), two.expect(200));
    let again = ask(&central, "twice", sales).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"));
    assert_eq!(units(&world.store("s1"), "tea").await, 7);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_wait_for_a_store_are_few_and_each_is_done_once_whatever_dies() {
    let mut world = stocked().await;
    let central = world.central();
    // Cut off with a fresh heartbeat: what is asked now waits in the stream.
    world.store("s1").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let delivery = json!({"op": "receive", "productId": "tea", "quantity": 1});
    let hundred = batch(&vec![delivery; 100]);
    let mut places = Vec::new();
    for number in 0..16 {
        let key = format!("k{number}");
        let headers = [("prefer", "respond-async"), ("idempotency-key", key.as_str())];
        let asked = central.post_with(PATH, &headers, hundred.clone()).await;
        places.push(asked.header("location").to_owned());
        let asked = asked.expect(202);
        assert_eq!((&asked["operation"], &asked["status"]), (&json!("batch"), &json!("pending")));
    }
    let full = central.post(PATH, hundred).await;
    assert_eq!((full.status, full.code(), full.header("retry-after")), (503, "overloaded", "1"));

    let (store, agent) = (world.store("s1"), Daemon::Store("s1".into()));
    store.post("/v1/connected", json!({})).await.expect(200);
    until("some are done", SOON, async || if units(&store, "tea").await > 10 { Ok(()) } else { Err(()) }).await;
    world.kill(&agent);
    world.kill(&Daemon::Central);
    world.restart(&Daemon::Central).await;
    world.restart(&agent).await;
    let central = world.central();
    for place in places {
        let done = until("each is done", SOON, async || {
            let command = central.get(&place).await.expect(200);
            if command["status"] == "pending" { Err(command) } else { Ok(command) }
        })
        .await;
        assert!(told(&done).iter().all(|line| *line == ("done", "")), "{done}");
    }
    world.converged(SOON).await;
    assert_eq!(units(&world.store("s1"), "tea").await, 1_610);
}
