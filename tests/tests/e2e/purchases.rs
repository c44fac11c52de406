//! The life of an online purchase (P5): one outcome, whatever happens in between.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);

async fn stocked(units: i64) -> World {
    let world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": units})).await.expect(201);
    world.converged(SOON).await;
    world
}

async fn purchase(world: &World, id: &Value, status: &str) -> Value {
    let (central, path) = (world.central(), format!("/v1/purchases/{}", id.as_str().expect("an id")));
    until(&format!("{path} is {status}"), SOON, async || {
        let body = central.get(&path).await.expect(200);
        if body["status"] == status { Ok(body) } else { Err(body) }
    })
    .await
}

async fn quantity(world: &World) -> Value {
    world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_picked_and_then_it_cannot_be_cancelled() {
    let world = stocked(10).await;
    let bought = world.central().post("/v1/purchase/s1/tea", json!({"quantity": 3, "reference": "o-1"})).await;
    let body = bought.expect(200);
    assert_eq!((&body["quantity"], &body["purchase"]["status"]), (&json!(7), &json!("confirmed")));
    let id = body["purchase"]["purchaseId"].clone();
    let to_pick = world.store("s1").get("/v1/purchases?picked=false").await.expect(200);
    assert_eq!(to_pick["items"][0]["purchaseId"], id);
    let path = format!("/v1/purchases/{}", id.as_str().expect("an id"));
    world.store("s1").post(&format!("{path}/picked"), json!({})).await.expect(200);
    world.store("s1").post(&format!("{path}/picked"), json!({})).await.expect(200);
    until("central knows that it is picked", SOON, async || {
        let seen = world.central().get(&path).await.body;
        if seen["picked"] == true { Ok(()) } else { Err(seen) }
    })
    .await;
    let refused = world.central().post(&format!("{path}/cancel"), json!({})).await;
    assert_eq!((refused.status, refused.code(), &refused.body["purchaseId"]), (409, "already_picked", &id));
    assert_eq!(quantity(&world).await, 7);
    let list = world.central().get("/v1/purchases?reference=o-1").await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_one_is_cancelled_once_and_its_units_come_back() {
    let world = stocked(10).await;
    let body = world.central().post("/v1/purchase/s1/tea", json!({"quantity": 4})).await.expect(200);
    let path = format!("/v1/purchases/{}", body["purchase"]["purchaseId"].as_str().expect("an id"));
    for replayed in ["", "true"] {
        let key = [("idempotency-key", "cancel-1")];
        let cancelled = world.central().post_with(&format!("{path}/cancel"), &key, json!({})).await;
        assert_eq!(cancelled.header("idempotency-replayed"), replayed);
        let position = cancelled.header("shelf-position").to_owned();
        let cancelled = cancelled.expect(200);
        assert_eq!((&cancelled["status"], &cancelled["position"]), (&json!("cancelled"), &json!(position)));
        assert_ne!(cancelled["position"], body["purchase"]["position"]);
    }
    assert_eq!(quantity(&world).await, 10);
    world.converged(SOON).await;
    let picked = world.store("s1").post(&format!("{path}/picked"), json!({})).await;
    assert_eq!((picked.status, picked.code()), (409, "purchase_cancelled"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_by_key_is_the_same_purchase() {
    let world = stocked(10).await;
    let central = world.central();
    let headers = [("idempotency-key", "order-1")];
    let (first, second) = tokio::join!(
        central.post_with("/v1/purchase/s1/tea", &headers, json!({"quantity": 1})),
        central.post_with("/purchase/s1/tea", &headers, json!({"quantity": 1})),
    );
    let replays = [first.header("idempotency-replayed").to_owned(), second.header("idempotency-replayed").to_owned()];
    assert!(replays.contains(&"true".to_owned()) && replays.contains(&String::new()), "{replays:?}");
    let (first, second) = (first.expect(200), second.expect(200));
    assert_eq!(first["purchase"]["purchaseId"], second["purchase"]["purchaseId"]);
    assert_eq!(quantity(&world).await, 9);
    let other = central.post_with("/v1/purchase/s1/tea", &headers, json!({"quantity": 2})).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    let known = central.get("/v1/idempotency/order-1").await.expect(200);
    assert_eq!((&known["status"], &known["effect"]["id"]), (&json!("confirmed"), &first["purchase"]["purchaseId"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heard_of_too_late_it_expires_and_cancelled_in_time_it_never_runs() {
    let mut world = stocked(10).await;
    let central = world.central();
    let agent = Daemon::Store("s1".into());
    // The agent stands still with a fresh heartbeat: purchases are accepted and wait.
    world.running(&agent).signal(Signal::SIGSTOP);
    let now = [("prefer", "respond-async")];
    let (tea, cart) = ("/v1/purchase/s1/tea", "/v1/purchase");
    let of_cart = |more: Value| {
        let mut body = json!({"storeId": "s1", "productId": "tea", "quantity": 1});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        body
    };
    let asked = [
        (tea, json!({"quantity": 1, "ttlSeconds": 1}), "purchase_expired"),
        (cart, of_cart(json!({"ttlSeconds": 1})), "purchase_expired"),
        (tea, json!({"quantity": 3}), "purchase_cancelled"),
        (cart, of_cart(json!({})), "purchase_cancelled"),
    ];
    let mut bought = Vec::new();
    for (number, (path, body, _)) in asked.iter().enumerate() {
        let key = format!("order-{number}");
        let first = central.post_with(path, &[now[0], ("idempotency-key", &key)], body.clone()).await;
        assert_eq!((first.header("preference-applied"), first.status), ("wait=0", 202), "{}", first.body);
        bought.push((key, first.header("location").to_owned()));
    }
    let kept = central.post_with(tea, &now, json!({"quantity": 2})).await.expect(202);
    let seen = central.get("/v1/inventory/s1/tea").await.expect(200);
    assert_eq!((&seen["pending"], &seen["onlineAvailable"]), (&json!(8), &json!(2)));
    let too_much = central.post(tea, json!({"quantity": 3})).await;
    assert_eq!((too_much.status, too_much.code()), (409, "insufficient_stock"));
    for (_, path) in &bought[2..] {
        let asked = central.post_with(&format!("{path}/cancel"), &now, json!({})).await.expect(202);
        assert_ne!(asked["cancelRequestedAt"], Value::Null);
    }
    tokio::time::sleep(Duration::from_millis(1_300)).await; // Longer than the first two's time to live.
    for (_, path) in &bought {
        assert_eq!(central.get(path).await.expect(200)["status"], "pending", "only the store settles");
    }
    world.running(&agent).signal(Signal::SIGCONT);
    purchase(&world, &kept["purchase"]["purchaseId"], "confirmed").await;
    // Under its key each is what it has become.
    for ((path, body, code), (key, location)) in asked.iter().zip(&bought) {
        let again = central.post_with(path, &[("idempotency-key", key), ("prefer", "wait=15")], body.clone()).await;
        assert_eq!((again.status, again.code()), (409, *code), "{path}: {}", again.body);
        assert_eq!((again.header("idempotency-replayed"), again.header("location")), ("true", &**location));
        assert_eq!(format!("/v1/purchases/{}", again.body["purchaseId"].as_str().expect("an id")), *location);
    }
    world.converged(SOON).await;
    assert_eq!(quantity(&world).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_says_no() {
    let mut world = stocked(5).await;
    let agent = Daemon::Store("s1".into());
    let central = world.central();
    // Central's view says five; the till sells four of them before the store hears of the purchase.
    world.store("s1").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 4})).await.expect(200);
    let now = [("prefer", "respond-async")];
    let asked = central.post_with("/v1/purchase/s1/tea", &now, json!({"quantity": 2})).await.expect(202);
    world.store("s1").post("/v1/connected", json!({})).await.expect(200);
    let rejected = purchase(&world, &asked["purchase"]["purchaseId"], "rejected").await;
    assert_eq!(rejected["code"], "insufficient_stock");
    assert!(world.running(&agent).is_running());
    world.converged(SOON).await;
    assert_eq!(quantity(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn item_commands_travel_to_the_store() {
    let world = stocked(5).await;
    let central = world.central();
    let created = central.post("/v1/inventory/s1", json!({"productId": "jam", "name": "Jam", "lowAt": 2})).await;
    assert_eq!(created.header("location"), "/v1/inventory/s1/jam");
    created.expect(201);
    let exists = central.post("/v1/inventory/s1", json!({"productId": "jam"})).await;
    assert_eq!((exists.status, exists.code()), (409, "already_exists"));
    let received = central.post("/v1/inventory/s1/jam/receive", json!({"quantity": 9})).await.expect(200);
    assert_eq!(received["quantity"], 9);
    let broken = json!({"delta": -4, "reason": "damage"});
    assert_eq!(central.post("/v1/inventory/s1/jam/adjust", broken).await.expect(200)["quantity"], 5);
    let position = central.get("/v1/events?storeId=s1&size=1").await.expect(200)["items"][0]["position"].clone();
    world.store("s1").post("/v1/purchase/jam", json!({"quantity": 1})).await.expect(200);
    let counted = central.put("/v1/inventory/s1/jam", json!({"quantity": 7, "countedAt": position})).await.expect(200);
    assert_eq!((&counted["quantity"], &counted["difference"]), (&json!(6), &json!(2)), "one was sold after the count");
    let stale = central.put("/v1/inventory/s1/jam", json!({"quantity": 1, "expectedVersion": 1})).await;
    assert_eq!((stale.status, stale.code()), (409, "version_conflict"));
    let gone = central.patch("/v1/inventory/s1/jam", json!({"discontinued": true})).await.expect(200);
    assert_eq!(gone["discontinued"], true);
    let refused = central.post("/v1/purchase/s1/jam", json!({"quantity": 1})).await;
    assert_eq!((refused.status, refused.code()), (409, "discontinued"));
    let unknown = central.post("/v1/purchase/s1/Jam", json!({"quantity": 1})).await;
    assert_eq!((unknown.status, unknown.code(), &unknown.body["didYouMean"]), (404, "unknown_product", &json!("jam")));
    world.converged(SOON).await;
}
