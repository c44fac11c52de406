//! A store that never returns is retired: what was open with it ends, and it comes back by an operator's word alone.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Builder, World, until};

const SOON: Duration = Duration::from_secs(15);

/// A store with ten units of tea.
async fn stocked() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 1_500, sweep_ms: 300 }.start(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 10})).await.expect(201);
    world.converged(SOON).await;
    world
}

async fn retire(world: &World) {
    let central = world.central();
    until("the store is retired", SOON, async || {
        let answer = central.patch("/v1/stores/s1", json!({"retired": true})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_voided_is_never_executed() {
    let world = stocked().await;
    let (central, store) = (world.central(), world.store("s1"));
    // Cut off with a fresh heartbeat: what is asked now waits in the stream.
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let now = [("prefer", "respond-async")];
    let asked = central.post_with("/v1/inventory/s1/tea/receive", &now, json!({"quantity": 5})).await.expect(202);
    let waits = tokio::spawn({
        let central = central.clone();
        async move { central.post_with("/v1/purchase/s1/tea", &[("prefer", "wait=30")], json!({"quantity": 1})).await }
    });
    retire(&world).await;
    let bought = waits.await.expect("answers");
    assert_eq!((bought.status, bought.code()), (409, "store_retired"), "{}", bought.body);
    let path = format!("/v1/commands/{}", asked["commandId"].as_str().expect("an id"));
    let voided = central.get(&path).await.expect(200);
    assert_eq!((&voided["status"], &voided["problem"]["code"]), (&json!("refused"), &json!("store_retired")));
    for refused in [
        central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await,
        central.post("/v1/stores/s1/resync", json!({})).await,
    ] {
        assert_eq!((refused.status, refused.code()), (409, "store_retired"));
    }

    store.post("/v1/connected", json!({})).await.expect(200);
    until("the agent knows", SOON, async || {
        let link = store.get("/").await.expect(200)["link"].clone();
        if link == "fenced" { Ok(()) } else { Err(link) }
    })
    .await;
    let epoch = central.get("/v1/stores/s1").await.expect(200)["claims"][0]["epoch"].clone();
    for (epoch, refused) in [(json!(1), (409, "unknown_claim")), (epoch.clone(), (202, "")), (epoch, (202, ""))] {
        let adopted =
            central.post_with("/v1/stores/s1/adopt", &[("idempotency-key", "back")], json!({"epoch": epoch})).await;
        assert_eq!((adopted.status, adopted.code()), refused, "{}", adopted.body);
    }
    let other = central.post_with("/v1/stores/s1/adopt", &[("idempotency-key", "back")], json!({"epoch": 1})).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    world.online("s1").await;
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 10);
    central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_of_a_retired_store_cannot_be_cancelled() {
    let world = stocked().await;
    let central = world.central();
    let bought = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    world.store("s1").post("/v1/disconnected", json!({})).await.expect(200);
    retire(&world).await;
    let path = format!("/v1/purchases/{}/cancel", bought["purchase"]["purchaseId"].as_str().expect("an id"));
    let refused = central.post(&path, json!({})).await;
    assert_eq!((refused.status, refused.code()), (409, "store_retired"));
    // What it had leaves the totals in steps.
    until("its units are in no total", SOON, async || {
        let products = central.get("/v1/products").await.expect(200)["items"].clone();
        if products == Value::Array(Vec::new()) { Ok(()) } else { Err(products) }
    })
    .await;
    let epoch = central.get("/v1/stores/s1").await.expect(200)["claims"][0]["epoch"].clone();
    central.post("/v1/stores/s1/adopt", json!({"epoch": epoch})).await.expect(202);
    let again = central.post("/v1/stores/s1/adopt", json!({"epoch": epoch})).await;
    assert_eq!((again.status, again.code()), (409, "unknown_claim"), "it is granted");
    world.store("s1").post("/v1/connected", json!({})).await.expect(200);
    world.online("s1").await;
    let cancelled = central.post_with(&path, &[("prefer", "wait=15")], json!({})).await;
    assert_eq!(cancelled.expect(200)["status"], "cancelled");
    world.converged(SOON).await;
    assert_eq!(world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"], 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_store_is_still_looked_after() {
    let world = stocked().await;
    let central = world.central();
    central.patch("/v1/stores/s1", json!({"onlineSale": false})).await.expect(200);
    let refused = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
    assert_eq!((refused.status, &refused.body["reason"]), (503, &json!("paused")));
    let received = central.post("/v1/inventory/s1/tea/receive", json!({"quantity": 5})).await.expect(200);
    assert_eq!(received["quantity"], 15);
    central.put("/v1/inventory/s1/tea", json!({"quantity": 9})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_asks_twice_under_a_key_is_done_once() {
    let world = stocked().await;
    let central = world.central();
    let ask = async |method: Method, path: &str, key: &str, body: Value| {
        let key = [("idempotency-key", key)];
        let headers = if key[0].1.is_empty() { &key[..0] } else { &key[..] };
        let body = Some(&body).filter(|body| !body.is_null());
        let answer = central.ask(method, path, headers, body).await.expect("an answer");
        (answer.status, answer.header("idempotency-replayed").to_owned(), answer)
    };
    let store = "/v1/stores/s1";
    let (pause, resume) = (json!({"onlineSale": false}), json!({"onlineSale": true}));
    let (status, replayed, paused) = ask(Method::PATCH, store, "pause", pause.clone()).await;
    assert_eq!((status, &*replayed, &paused.body["status"]), (200, "", &json!("paused")));
    for _ in 0..2 {
        assert_eq!(ask(Method::PATCH, store, "", resume.clone()).await.2.expect(200)["onlineSale"], true);
    }
    let (status, replayed, again) = ask(Method::PATCH, store, "pause", pause).await;
    assert_eq!((status, &*replayed, &again.body["onlineSale"]), (200, "true", &json!(true)), "as it is now");
    let (status, _, other) = ask(Method::PATCH, store, "pause", resume).await;
    assert_eq!((status, other.code()), (422, "idempotency_key_reused"));
    let (status, _, online) = ask(Method::PATCH, store, "", json!({"retired": true})).await;
    assert_eq!((status, online.code()), (409, "store_online"));

    let resync = "/v1/stores/s1/resync";
    let asked = async || {
        let list = central.get("/v1/commands?storeId=s1&size=100").await.expect(200);
        list["items"].as_array().expect("a list").iter().filter(|one| one["operation"] == "resync").count()
    };
    let before = asked().await;
    for replayed in ["", "true"] {
        let (status, told, answer) = ask(Method::POST, resync, "resync", Value::Null).await;
        assert_eq!((status, &*told), (202, replayed));
        assert_eq!((answer.header("location"), answer.header("retry-after")), ("/v1/stores/s1", "1"));
        world.converged(SOON).await;
        assert_eq!(asked().await, before + 1);
    }
    for _ in 0..2 {
        assert_eq!(ask(Method::POST, resync, "", Value::Null).await.0, 202);
    }
    for path in [resync, "/v1/projections/rebuild"] {
        let (status, _, other) = ask(Method::POST, path, "pause", Value::Null).await;
        assert_eq!((status, other.code()), (422, "idempotency_key_reused"));
    }
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_a_retired_store_leave_its_list_too() {
    let world = stocked().await;
    let central = world.central();
    world.store("s1").post("/v1/disconnected", json!({})).await.expect(200);
    retire(&world).await;
    for (filter, found) in [("", 0), ("?retired=false", 0), ("?retired=true", 1)] {
        let list = central.get(&format!("/v1/inventory/s1{filter}")).await.expect(200);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(found), "{filter}");
    }
    let there = central.get("/v1/availability/tea?storeId=s1").await;
    assert_eq!((there.status, there.code(), &there.body["storeId"]), (409, "store_retired", &json!("s1")));
    let anywhere = central.get("/v1/availability/tea").await;
    assert_eq!((anywhere.status, anywhere.code()), (404, "unknown_product"));
    assert_eq!(central.get("/v1/inventory/s1/tea").await.expect(200)["storeOnline"], false);
}
