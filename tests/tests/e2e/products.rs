//! A new product of the chain: created in one store, once.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{Answer, World, until};

use super::policy::stocked;

const SOON: Duration = Duration::from_secs(20);

async fn create(world: &World, body: Value) -> Answer {
    world.central().post_with("/v1/products", &[("prefer", "wait=20")], body).await
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_is_created_where_fewest_units_are_or_where_it_is_said() {
    let world = stocked(&[("s1", 9), ("s3", 5), ("s2", 5)]).await;
    let ale = json!({"productId": "ale", "name": "Ale", "quantity": 3, "reference": "order 7"});
    let created = create(&world, ale).await;
    assert_eq!(created.header("location"), "/v1/inventory/s2/ale", "of equals the smallest id");
    assert!(created.header("shelf-position").starts_with("s2:") && !created.header("etag").is_empty());
    let item = created.expect(201);
    assert_eq!((&item["storeId"], &item["quantity"], &item["name"]), (&json!("s2"), &json!(3), &json!("Ale")));
    assert_eq!(world.store("s2").get("/v1/inventory/ale").await.expect(200)["quantity"], 3);
    let event = world.store("s2").get("/v1/events?productId=ale").await.expect(200)["items"][0].take();
    assert_eq!((&event["type"], &event["reference"]), (&json!("item_created"), &json!("order 7")));

    // Units count, not products, and what was sold is no longer there.
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 5})).await.expect(200);
    world.converged(SOON).await;
    let rum = create(&world, json!({"productId": "rum", "name": "Rum"})).await.expect(201);
    assert_eq!((&rum["storeId"], &rum["quantity"]), (&json!("s1"), &json!(0)));
    let named = create(&world, json!({"productId": "gin", "name": "Gin", "storeId": "s3"})).await;
    assert_eq!(named.header("location"), "/v1/inventory/s3/gin");
    named.expect(201);
    let port = json!({"productId": "port", "name": "Port", "storeId": "s3"});
    let later = world.central().post_with("/v1/products", &[("prefer", "respond-async")], port).await;
    assert_eq!((later.status, later.header("retry-after")), (202, "1"));
    let command = later.header("location");
    let done = world.central().ask(reqwest::Method::GET, command, &[("prefer", "wait=20")], None).await;
    assert_eq!(done.expect("an answer").expect(200)["status"], "done");
    world.converged(SOON).await;

    // Who is away is not chosen, however little it has.
    world.store("s1").post("/v1/disconnected", json!({})).await.expect(200);
    until("s1 is away", SOON, async || {
        let store = world.central().get("/v1/stores/s1").await.expect(200);
        if store["status"] == "offline" { Ok(()) } else { Err(store) }
    })
    .await;
    assert_eq!(create(&world, json!({"productId": "oil", "name": "Oil"})).await.expect(201)["storeId"], "s3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_says_why_and_has_no_effect() {
    let world = stocked(&[("s1", 2), ("s2", 8)]).await;
    let central = world.central();
    let tea = json!({"productId": "tea", "name": "Tea"});
    let exists = create(&world, tea.clone()).await;
    assert_eq!((refused(&exists), &exists.body["storeId"]), ((409, "already_exists"), &json!("s1")));
    world.store("s2").post("/v1/inventory", json!({"productId": "oil"})).await.expect(201);
    world.converged(SOON).await;
    let elsewhere = create(&world, json!({"productId": "oil", "name": "Oil", "storeId": "s1"})).await;
    assert_eq!((refused(&elsewhere), &elsewhere.body["storeId"]), ((409, "already_exists"), &json!("s2")));
    let nowhere = create(&world, json!({"productId": "rum", "name": "Rum", "storeId": "s9"})).await;
    assert_eq!(refused(&nowhere), (404, "unknown_store"));
    for (body, pointer) in [
        (json!({"productId": "rum"}), "/name"),
        (json!({"name": "Rum"}), "/productId"),
        (json!({"productId": "rum", "name": ""}), "/name"),
        (json!({"productId": "rum", "name": "Rum", "quantity": -1}), "/quantity"),
        (json!({"productId": "rum", "name": "Rum", "storeId": "a b"}), "/storeId"),
        (json!({"productId": "rum", "name": "Rum", "units": 1}), "/units"),
    ] {
        let invalid = create(&world, body.clone()).await;
        assert_eq!(
            (refused(&invalid), &invalid.body["errors"][0]["pointer"]),
            ((400, "invalid_request"), &pointer.into())
        );
    }

    // The store knows better than the view: cut off, it has created the product itself.
    world.store("s1").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    world.store("s1").post("/v1/inventory", json!({"productId": "gin"})).await.expect(201);
    let gin = json!({"productId": "gin", "name": "Gin"});
    let (answer, _) = tokio::join!(create(&world, gin), async {
        until("it was asked", SOON, async || {
            let asked = central.get("/v1/commands?storeId=s1&status=pending").await.expect(200);
            if asked["items"][0]["operation"] == "create" { Ok(()) } else { Err(asked) }
        })
        .await;
        // While that is open nobody else is asked.
        let open = create(&world, json!({"productId": "gin", "name": "Gin", "storeId": "s2"})).await;
        assert_eq!((refused(&open), &open.body["storeId"]), ((409, "already_exists"), &json!("s1")));
        assert!(open.body["commandId"].is_string(), "{}", open.body);
        world.store("s1").post("/v1/connected", json!({})).await.expect(200);
    });
    assert_eq!((refused(&answer), &answer.body["storeId"]), ((409, "already_exists"), &json!("s1")));
    world.converged(SOON).await;

    // Silent, Redis is away.
    world.signal_redis(Signal::SIGSTOP);
    let silent = create(&world, json!({"productId": "rum", "name": "Rum"})).await;
    world.signal_redis(Signal::SIGCONT);
    assert_eq!((refused(&silent), &silent.body["reason"]), ((503, "store_unavailable"), &json!("redis")));
    for store in ["s1", "s2"] {
        world.online(store).await;
        world.store(store).post("/v1/disconnected", json!({})).await.expect(200);
    }
    let rum = json!({"productId": "rum", "name": "Rum"});
    let nobody = until("nobody is there", SOON, async || {
        let answer = create(&world, rum.clone()).await;
        let is_it = answer.body["detail"] == "no store is online";
        if is_it { Ok(answer) } else { Err(answer.body) }
    })
    .await;
    assert_eq!((refused(&nobody), &nobody.body["reason"]), ((503, "store_unavailable"), &json!("offline")));
    assert_eq!(nobody.header("retry-after"), "5");
    let away = create(&world, json!({"productId": "rum", "name": "Rum", "storeId": "s2"})).await;
    assert_eq!((refused(&away), &away.body["storeId"]), ((503, "store_unavailable"), &json!("s2")));
    // What was refused was asked of nobody.
    let asked = central.get("/v1/commands?size=100").await.expect(200);
    assert_eq!(asked["items"].as_array().map(Vec::len), Some(1), "{asked}");
    world.store("s2").post("/v1/connected", json!({})).await.expect(200);
    world.online("s2").await;
    assert_eq!(create(&world, rum).await.expect(201)["storeId"], "s2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_twice_it_is_created_once_and_two_at_once_make_one() {
    let world = stocked(&[("s1", 2), ("s2", 8)]).await;
    let central = world.central();
    let ale = json!({"productId": "ale", "name": "Ale", "quantity": 30});
    let keyed = [("idempotency-key", "new-ale"), ("prefer", "wait=20")];
    let first = central.post_with("/v1/products", &keyed, ale.clone()).await.expect(201);
    assert_eq!(first["storeId"], "s1");
    world.converged(SOON).await;
    // It would go elsewhere by now.
    let again = central.post_with("/products", &keyed, ale.clone()).await;
    assert_eq!((again.header("idempotency-replayed"), again.header("location")), ("true", "/v1/inventory/s1/ale"));
    let again = again.expect(201);
    assert_eq!((&again["version"], &again["quantity"]), (&first["version"], &json!(30)));
    let other = json!({"productId": "ale", "name": "Ale", "quantity": 31});
    assert_eq!(refused(&central.post_with("/v1/products", &keyed, other).await), (422, "idempotency_key_reused"));
    assert_eq!(refused(&create(&world, ale).await), (409, "already_exists"), "without the key it is another request");

    let at_once = (0..8).map(|number| {
        let central = central.clone();
        // The same, and under names of their own.
        let body = json!({"productId": "rum", "name": format!("Rum {number}")});
        tokio::spawn(async move { central.post_with("/v1/products", &[("prefer", "wait=20")], body).await })
    });
    let mut created = 0;
    for answer in at_once.collect::<Vec<_>>() {
        let answer = answer.await.expect("runs");
        match answer.status {
            201 => created += 1,
            _ => assert_eq!(refused(&answer), (409, "already_exists")),
        }
    }
    assert_eq!(created, 1);
    world.converged(SOON).await;
    assert_eq!(central.get("/v1/products?q=rum").await.expect(200)["items"][0]["stores"], 1);
}
