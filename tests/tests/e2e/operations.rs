//! Several operations in one request: all or none, or each for itself.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Client, Daemon, World};

const SOON: Duration = Duration::from_secs(15);

async fn stocked() -> World {
    let world = World::with(&["s1"]).await;
    let create = |name: &str, units: i64| json!({"op": "create", "productId": name, "quantity": units});
    let lines = json!({"operations": [create("tea", 5), create("jam", 2)]});
    let created = world.store("s1").post("/v1/operations", lines).await.expect(200);
    assert_eq!((&created["applied"], &created["refused"]), (&json!(2), &json!(0)));
    world.converged(SOON).await;
    world
}

async fn units(store: &Client, product: &str) -> i64 {
    store.get(&format!("/v1/inventory/{product}")).await.expect(200)["quantity"].as_i64().expect("a number")
}

/// Status of each line, with the code of its problem or the quantity after it.
fn told(body: &Value) -> Vec<(u64, String, Value)> {
    let results = body["results"].as_array().expect("results").iter();
    results
        .map(|line| {
            let what = line["problem"].get("code").or(line["item"].get("quantity")).cloned().unwrap_or_default();
            (line["index"].as_u64().expect("a number"), line["status"].as_str().expect("a status").to_owned(), what)
        })
        .collect()
}

fn lines(of: &[(u64, &str, Value)]) -> Vec<(u64, String, Value)> {
    of.iter().map(|(index, status, what)| (*index, (*status).to_owned(), what.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_done_in_order_as_a_whole_or_not_at_all() {
    let mut world = stocked().await;
    let store = world.store("s1");
    let delivery = json!({"operations": [
        {"op": "receive", "productId": "tea", "quantity": 10, "reference": "delivery-7"},
        {"op": "sell", "productId": "tea", "quantity": 12},
        {"op": "adjust", "productId": "jam", "delta": -1, "reason": "damage"},
        {"op": "count", "productId": "jam", "quantity": 4},
    ]});
    let key = [("idempotency-key", "batch-1")];
    let done = store.post_with("/v1/operations", &key, delivery.clone()).await;
    assert_eq!(done.header("idempotency-replayed"), "");
    let position = done.header("shelf-position").to_owned();
    let done = done.expect(200);
    let expected = [(0, "done", json!(15)), (1, "done", json!(3)), (2, "done", json!(1)), (3, "done", json!(4))];
    assert_eq!(told(&done), lines(&expected));
    assert_eq!((&done["applied"], &done["results"][3]["item"]["difference"]), (&json!(4), &json!(3)));

    world.kill(&Daemon::Store("s1".into()));
    world.restart(&Daemon::Store("s1".into())).await;
    let store = world.store("s1");
    let again = store.post_with("/v1/operations", &key, delivery.clone()).await;
    assert_eq!((again.header("idempotency-replayed"), again.header("shelf-position")), ("true", position.as_str()));
    assert_eq!(again.expect(200), done);
    assert_eq!((units(&store, "tea").await, units(&store, "jam").await), (3, 4));
    let other = store.post_with("/v1/operations", &key, json!({"operations": [delivery["operations"][0]]})).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));

    // Each line is judged behind those before it: of 4 the first sale leaves 1.
    let sale = |product: &str, units: i64| json!({"op": "sell", "productId": product, "quantity": units});
    let too_much = json!({"operations": [sale("jam", 3), sale("jam", 2), sale("bun", 1), sale("tea", 1)]});
    let refused = store.post_with("/v1/operations", &[("idempotency-key", "batch-2")], too_much.clone()).await;
    assert_eq!((refused.status, refused.code()), (409, "batch_refused"));
    let expected = [
        (0, "not_executed", Value::Null),
        (1, "refused", json!("insufficient_stock")),
        (2, "refused", json!("unknown_product")),
        (3, "not_executed", Value::Null),
    ];
    assert_eq!(told(&refused.body), lines(&expected));
    assert_eq!((units(&store, "tea").await, units(&store, "jam").await), (3, 4), "nothing was done");

    // What was refused binds no key: it is judged anew.
    store.post("/v1/inventory/jam/receive", json!({"quantity": 1})).await.expect(200);
    store.post("/v1/inventory", json!({"productId": "bun", "quantity": 1})).await.expect(201);
    let judged = store.post_with("/v1/operations", &[("idempotency-key", "batch-2")], too_much).await.expect(200);
    let expected = [(0, "done", json!(2)), (1, "done", json!(0)), (2, "done", json!(0)), (3, "done", json!(2))];
    assert_eq!(told(&judged), lines(&expected));
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_not_atomic_are_done_each_for_itself() {
    let world = stocked().await;
    let store = world.store("s1");
    let version = store.get("/v1/inventory/jam").await.expect(200)["version"].as_i64().expect("a number");
    let mixed = json!({"atomic": false, "operations": [
        {"op": "sell", "productId": "tea", "quantity": 6},
        {"op": "sell", "productId": "tea", "quantity": 5, "expectedVersion": 1},
        {"op": "create", "productId": "tea"},
        {"op": "count", "productId": "jam", "quantity": 9, "expectedVersion": version + 1},
        {"op": "create", "productId": "bun", "name": "Bun", "quantity": 3, "lowAt": 1},
    ]});
    let done = store.post_with("/v1/operations", &[("idempotency-key", "mixed")], mixed.clone()).await.expect(200);
    let expected = [
        (0, "refused", json!("insufficient_stock")),
        (1, "done", json!(0)),
        (2, "refused", json!("already_exists")),
        (3, "refused", json!("version_conflict")),
        (4, "done", json!(3)),
    ];
    assert_eq!(told(&done), lines(&expected));
    assert_eq!((&done["applied"], &done["refused"]), (&json!(2), &json!(3)));
    assert_eq!(store.post_with("/v1/operations", &[("idempotency-key", "mixed")], mixed).await.expect(200), done);
    assert_eq!((units(&store, "tea").await, units(&store, "jam").await, units(&store, "bun").await), (0, 2, 3));

    let none = json!({"atomic": false, "operations": [{"op": "sell", "productId": "tea", "quantity": 1}]});
    let none = store.post("/v1/operations", none).await.expect(200);
    assert_eq!((&none["applied"], &none["refused"]), (&json!(0), &json!(1)));
    world.converged(SOON).await;

    // Central has one event for each line that was done, and no other.
    let events = world.central().get("/v1/events?storeId=s1&productId=bun").await.expect(200);
    assert_eq!(events["items"].as_array().expect("events").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_batches_at_once_under_one_key_one_is_done() {
    let world = stocked().await;
    let (store, other) = (world.store("s1"), world.store("s1"));
    let lines = json!({"operations": [{"op": "sell", "productId": "tea", "quantity": 2}]});
    let key = [("idempotency-key", "twice")];
    let (one, two) = tokio::join!(
        store.post_with("/v1/operations", &key, lines.clone()),
        other.post_with("/v1/operations", &key, lines)
    );
    assert_eq!(one.expect(200), two.expect(200));
    assert_eq!(units(&store, "tea").await, 3);
}
