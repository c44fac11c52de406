//! Units that a store sets aside for online sale: central sells them at once, nobody else does, and none of them twice (P4).

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{Answer, Builder, Client, Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);
const TEA: &str = "/v1/inventory/tea/allotment";
const AT_CENTRAL: &str = "/v1/inventory/s1/tea/allotment";

/// A store with ten units of tea, of which so many are set aside.
async fn stocked(aside: i64) -> World {
    let world = World::with(&["s1"]).await;
    stock(&world, aside).await;
    world
}

async fn stock(world: &World, aside: i64) {
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "name": "Tea", "quantity": 10})).await.expect(201);
    store.put(TEA, json!({"quantity": aside})).await.expect(200);
    world.converged(SOON).await;
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

/// Quantity, set aside, available.
fn figures(item: &Value) -> [i64; 3] {
    ["quantity", "allotted", "available"].map(|member| item[member].as_i64().expect("a number"))
}

async fn tea(client: &Client, path: &str) -> Value {
    client.get(path).await.expect(200)
}

async fn buy(central: &Client, key: &str, quantity: i64) -> Answer {
    central.post_with("/v1/purchase/s1/tea", &[("idempotency-key", key)], json!({"quantity": quantity})).await
}

async fn sound(world: &World) {
    for (program, args) in [("store-agent", &["verify", "--store-id", "s1"] as &[&str]), ("central", &["verify"])] {
        let (well, said) = world.tool(program, args).await;
        assert!(well, "{program}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_is_sold_at_once_and_by_nobody_else() {
    let world = stocked(6).await;
    let (central, store) = (world.central(), world.store("s1"));
    let short = store.post("/v1/purchase/tea", json!({"quantity": 5})).await;
    assert_eq!((refused(&short), &short.body["allotted"]), ((409, "insufficient_stock"), &json!(6)));
    for replayed in ["", "true"] {
        let bought = buy(&central, "order-1", 2).await;
        assert_eq!(bought.header("idempotency-replayed"), replayed);
        assert_eq!(bought.expect(200)["purchase"]["status"], "confirmed");
    }
    until("the store has taken them, once", SOON, async || {
        let figures = figures(&tea(&store, "/v1/inventory/tea").await);
        if figures == [8, 4, 4] { Ok(()) } else { Err(figures) }
    })
    .await;
    world.converged(SOON).await;
    // Beyond what is set aside the store has the last word.
    let more = buy(&central, "order-2", 7).await.expect(200);
    assert_eq!((&more["purchase"]["status"], &more["quantity"]), (&json!("confirmed"), &json!(1)));
    assert_eq!(figures(&tea(&store, "/v1/inventory/tea").await), [1, 0, 1]);
    assert_eq!(refused(&buy(&central, "order-3", 2).await), (409, "insufficient_stock"));
    world.converged(SOON).await;
    let list = store.get("/v1/purchases?picked=false").await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_set_aside_is_refused() {
    let world = stocked(2).await;
    let (central, store) = (world.central(), world.store("s1"));
    for (client, path) in [(&store, TEA), (&central, AT_CENTRAL)] {
        let beyond = client.put(path, json!({"quantity": 11})).await;
        assert_eq!((refused(&beyond), &beyond.body["available"]), ((409, "insufficient_stock"), &json!(8)));
        let old = client.put(path, json!({"quantity": 3, "expectedVersion": 1})).await;
        assert_eq!(refused(&old), (409, "version_conflict"));
        let other = client.put_with(path, &[("if-match", "\"1-1\"")], json!({"quantity": 3})).await;
        assert_eq!(refused(&other), (412, "precondition_failed"));
        assert_eq!(refused(&client.put(path, json!({"quantity": -1})).await), (400, "invalid_request"));
        assert_eq!(
            refused(&client.put(&path.replace("tea", "bun"), json!({"quantity": 1})).await),
            (404, "unknown_product")
        );
    }
    // What is no longer carried is not set aside, and what was goes back to the till.
    store.patch("/v1/inventory/tea", json!({"discontinued": true})).await.expect(200);
    assert_eq!(refused(&store.put(TEA, json!({"quantity": 1})).await), (409, "discontinued"));
    until("nothing is set aside", SOON, async || {
        let item = tea(&store, "/v1/inventory/tea").await;
        if figures(&item) == [10, 0, 10] { Ok(()) } else { Err(item) }
    })
    .await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_are_set_aside_once_central_agrees() {
    let mut world = stocked(6).await;
    let (central, store) = (world.central(), world.store("s1"));
    let lowered = store.put_with(TEA, &[("prefer", "wait=15")], json!({"quantity": 4})).await.expect(200);
    assert_eq!((figures(&lowered), &lowered["allotmentWanted"]), ([10, 4, 6], &Value::Null));
    let through = central.put_with(AT_CENTRAL, &[("prefer", "wait=15")], json!({"quantity": 3})).await.expect(200);
    assert_eq!(figures(&through), [10, 3, 7]);
    let more = central.put(AT_CENTRAL, json!({"quantity": 5})).await.expect(200);
    assert_eq!(figures(&more), [10, 5, 5]);

    world.kill(&Daemon::Central);
    let key = [("idempotency-key", "fewer"), ("prefer", "wait=0")];
    let asked = store.put_with(TEA, &key, json!({"quantity": 1})).await;
    assert_eq!(asked.header("location"), "/v1/inventory/tea");
    let asked = asked.expect(202);
    assert_eq!((figures(&asked), &asked["allotmentWanted"]), ([10, 5, 5], &json!(1)));
    let short = store.post("/v1/purchase/tea", json!({"quantity": 6})).await;
    assert_eq!(refused(&short), (409, "insufficient_stock"), "they are central's until it says so");
    world.restart(&Daemon::Central).await;
    until("central has released them", SOON, async || {
        let again = store.put_with(TEA, &key, json!({"quantity": 1})).await;
        if again.status == 200 { Ok(again.body) } else { Err(again.body) }
    })
    .await;
    assert_eq!(figures(&tea(&store, "/v1/inventory/tea").await), [10, 1, 9]);
    world.converged(SOON).await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sold_while_the_store_does_not_answer_is_taken_when_it_does() {
    let mut world = stocked(6).await;
    let (central, store) = (world.central(), world.store("s1"));
    let agent = Daemon::Store("s1".into());
    world.running(&agent).signal(Signal::SIGSTOP);
    let bought = buy(&central, "order-1", 4).await.expect(200);
    assert_eq!((&bought["purchase"]["status"], &bought["purchase"]["position"]), (&json!("confirmed"), &Value::Null));
    assert_eq!((&bought["pending"], &bought["onlineAvailable"]), (&json!(4), &json!(6)));
    let (well, said) = world.tool("central", &["verify"]).await;
    assert!(well, "{said}");
    // Two are left to sell at once; the store would have to be asked for a third.
    let asked = central
        .post_with("/v1/purchase/s1/tea", &[("prefer", "wait=0")], json!({"quantity": 3, "ttlSeconds": 60}))
        .await
        .expect(202);
    let id = asked["purchase"]["purchaseId"].as_str().expect("an id").to_owned();
    world.running(&agent).signal(Signal::SIGCONT);
    until("both are taken", SOON, async || {
        let one = central.get(&format!("/v1/purchases/{id}")).await.expect(200);
        let item = tea(&store, "/v1/inventory/tea").await;
        if one["status"] == "confirmed" && figures(&item) == [3, 0, 3] { Ok(()) } else { Err((one, item)) }
    })
    .await;
    world.converged(SOON).await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_was_sold_and_is_lost_is_a_shortage_that_names_its_purchase() {
    let world = stocked(10).await;
    let (central, store) = (world.central(), world.store("s1"));
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let bought = buy(&central, "order-1", 3).await.expect(200);
    assert_eq!(bought["purchase"]["status"], "confirmed");
    let counted = store.put("/v1/inventory/tea", json!({"quantity": 1})).await.expect(200);
    assert_eq!(figures(&counted), [1, 1, 0]);
    store.post("/v1/connected", json!({})).await.expect(200);
    let told = until("the shortage is told", SOON, async || {
        let told = central.get("/v1/events?type=shortage").await.expect(200);
        if told["items"][0].is_object() { Ok(told["items"][0].clone()) } else { Err(told) }
    })
    .await;
    assert_eq!((&told["purchaseId"], &told["delta"]), (&bought["purchase"]["purchaseId"], &json!(2)));
    world.converged(SOON).await;
    assert_eq!(figures(&tea(&store, "/v1/inventory/tea").await), [0, 0, 0]);
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stores_rule_sets_units_aside_behind_what_comes_in_and_never_behind_a_sale() {
    let (mut world, agent) = (World::with(&[]).await, Daemon::Store("s1".into()));
    world.store_args = vec!["--allot-percent=50".into(), "--allot-minimum=3".into()];
    world.add_store("s1");
    world.up(&agent).await;
    world.online("s1").await;
    let (central, store) = (world.central(), world.store("s1"));
    let now = async |product: &str| figures(&tea(&store, &format!("/v1/inventory/{product}")).await);
    for (product, units, received, after) in [("tea", 10, 10, [20, 10, 10]), ("pot", 1, 3, [4, 3, 1])] {
        store.post("/v1/inventory", json!({"productId": product, "quantity": units})).await.expect(201);
        assert_eq!(now(product).await, [units, 0, units], "a new item has its count, and nothing came in");
        store.post(&format!("/v1/inventory/{product}/receive"), json!({"quantity": received})).await.expect(200);
        assert_eq!(now(product).await, after, "half of {product}, or three if that is more");
    }
    store.post("/v1/purchase/tea", json!({"quantity": 4})).await.expect(200);
    assert_eq!(now("tea").await, [16, 10, 6]);
    store.put("/v1/inventory/tea", json!({"quantity": 30})).await.expect(200);
    assert_eq!(now("tea").await, [30, 15, 15]);
    world.converged(SOON).await;
    assert_eq!(buy(&central, "order-1", 5).await.expect(200)["purchase"]["status"], "confirmed");
    until("of what is left half is set aside", SOON, async || match now("tea").await {
        [25, 12, 13] => Ok(()),
        other => Err(other),
    })
    .await;
    world.converged(SOON).await;
    assert_eq!(figures(&tea(&central, "/v1/inventory/s1/tea").await), [25, 12, 13]);

    // Without a rule nothing more is set aside.
    assert_eq!(world.terminate(&agent), Some(0));
    world.store_args.clear();
    world.restart(&agent).await;
    store.post("/v1/inventory/tea/receive", json!({"quantity": 5})).await.expect(200);
    assert_eq!(now("tea").await, [30, 12, 18]);
    world.converged(SOON).await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_store_that_was_not_heard_of_central_sells_what_is_set_aside_only_if_it_is_told_to() {
    let mut world = Builder { heartbeat_ms: 300, max_age_ms: 1_500, sweep_ms: 300 }.start(&["s1"]).await;
    stock(&world, 6).await;
    let (central, agent) = (world.central(), Daemon::Store("s1".into()));
    world.kill(&agent);
    until("nothing is heard of the store", SOON, async || {
        let seen = central.get("/v1/stores/s1").await.expect(200);
        if seen["status"] == "offline" { Ok(()) } else { Err(seen) }
    })
    .await;
    let away = buy(&central, "order-1", 4).await;
    assert_eq!((refused(&away), &away.body["reason"]), ((503, "store_unavailable"), &json!("offline")));

    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    world.central_args.push("--sell-allotment-offline".into());
    world.restart(&Daemon::Central).await;
    let bought = until("what is set aside is sold", SOON, async || {
        let bought = buy(&central, "order-1", 4).await;
        if bought.status == 200 { Ok(bought.body) } else { Err(bought) }
    })
    .await;
    assert_eq!((&bought["purchase"]["status"], &bought["purchase"]["position"]), (&json!("confirmed"), &Value::Null));
    assert_eq!((&bought["pending"], &bought["onlineAvailable"]), (&json!(4), &json!(0)));
    let beyond = buy(&central, "order-2", 3).await;
    assert_eq!(refused(&beyond), (503, "store_unavailable"), "two are left: {}", beyond.body);

    world.restart(&agent).await;
    let store = world.store("s1");
    until("the store has taken them, once", SOON, async || {
        let figures = figures(&tea(&store, "/v1/inventory/tea").await);
        if figures == [6, 2, 4] { Ok(()) } else { Err(figures) }
    })
    .await;
    world.converged(SOON).await;
    sound(&world).await;
}
