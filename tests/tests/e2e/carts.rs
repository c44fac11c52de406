//! Purchases of several products: one store takes all of them, or none does (P4, P5).

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Answer, World, until};

const SOON: Duration = Duration::from_secs(20);

/// Stores with so many units of jam and of tea.
async fn stocked(units: &[(&str, i64, i64)]) -> World {
    let ids: Vec<&str> = units.iter().map(|(store, ..)| *store).collect();
    let world = World::with(&ids).await;
    for (store, jam, tea) in units {
        for (product, quantity) in [("jam", jam), ("tea", tea)] {
            let item = json!({"productId": product, "quantity": quantity});
            world.store(store).post("/v1/inventory", item).await.expect(201);
        }
    }
    world.converged(SOON).await;
    world
}

/// What a store has of jam and of tea.
async fn units(world: &World, store: &str) -> [i64; 2] {
    let mut found = [0; 2];
    for (at, product) in ["jam", "tea"].into_iter().enumerate() {
        let item = world.store(store).get(&format!("/v1/inventory/{product}")).await.expect(200);
        found[at] = item["quantity"].as_i64().expect("a number");
    }
    found
}

fn lines(jam: i64, tea: i64) -> Value {
    json!([{"productId": "jam", "quantity": jam}, {"productId": "tea", "quantity": tea}])
}

fn path(purchase: &Value) -> String {
    format!("/v1/purchases/{}", purchase["purchaseId"].as_str().expect("an id"))
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

fn short(answer: &Answer) -> Vec<&str> {
    let lines = answer.body["lines"].as_array().into_iter().flatten();
    lines.filter_map(|line| line["productId"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cart_is_taken_as_a_whole_repeated_by_key_and_given_back_as_a_whole() {
    let world = stocked(&[("s1", 9, 5)]).await;
    let central = world.central();
    // What is wanted of the same product is added up.
    let wanted = json!([
        {"productId": "tea", "quantity": 1}, {"productId": "jam", "quantity": 3}, {"productId": "tea", "quantity": 1},
    ]);
    let asked = json!({"lines": wanted, "storeId": "s1", "reference": "order-1"});
    let bought = central.post_with("/v1/purchase", &[("idempotency-key", "order-1")], asked.clone()).await.expect(200);
    assert_eq!((&bought["status"], &bought["lines"]), (&json!("confirmed"), &lines(3, 2)));
    let again = central.post_with("/v1/purchase", &[("idempotency-key", "order-1")], asked).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(200)["purchaseId"], bought["purchaseId"]);
    assert_eq!(units(&world, "s1").await, [6, 3]);
    for product in ["jam", "tea"] {
        for list in [world.store("s1"), world.central()] {
            let found = list.get(&format!("/v1/purchases?productId={product}")).await.expect(200);
            assert_eq!(
                (&found["items"][0]["purchaseId"], &found["items"][0]["lines"]),
                (&bought["purchaseId"], &lines(3, 2))
            );
        }
        let events = central.get(&format!("/v1/events?productId={product}&type=purchase_confirmed")).await.expect(200);
        let delta = if product == "jam" { -3 } else { -2 };
        assert_eq!((&events["items"][0]["delta"], &events["items"][0]["lines"]), (&json!(delta), &lines(3, 2)));
    }
    let cancelled = central.post(&format!("{}/cancel", path(&bought)), json!({})).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(units(&world, "s1").await, [9, 5]);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cart_is_picked_as_a_whole() {
    let world = stocked(&[("s1", 9, 5)]).await;
    let bought = world.central().post("/v1/purchase", json!({"lines": lines(2, 2)})).await.expect(200);
    let to_pick = world.store("s1").get("/v1/purchases?picked=false").await.expect(200);
    assert_eq!(to_pick["items"][0]["lines"], lines(2, 2));
    world.store("s1").post(&format!("{}/picked", path(&bought)), json!({})).await.expect(200);
    until("central knows that it is picked", SOON, async || {
        let seen = world.central().get(&path(&bought)).await.body;
        if seen["picked"] == true { Ok(()) } else { Err(seen) }
    })
    .await;
    let late = world.central().post(&format!("{}/cancel", path(&bought)), json!({})).await;
    assert_eq!(refused(&late), (409, "already_picked"));
    assert_eq!(units(&world, "s1").await, [7, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_together_is_refused_and_named() {
    let world = stocked(&[("s1", 9, 2), ("s2", 1, 9), ("s3", 4, 4)]).await;
    let central = world.central();
    let buy = async |jam, tea| central.post("/v1/purchase", json!({"lines": lines(jam, tea), "storeId": "s1"})).await;
    let tea = buy(3, 3).await;
    assert_eq!((refused(&tea), short(&tea)), ((409, "insufficient_stock"), vec!["tea"]));
    assert_eq!((&tea.body["requested"], &tea.body["available"]), (&json!(3), &json!(2)));
    assert_eq!(tea.body["alternatives"], json!([{"storeId": "s3", "onlineAvailable": 4}]), "s2 has too few of jam");
    let both = buy(10, 3).await;
    assert_eq!((refused(&both), short(&both)), ((409, "insufficient_stock"), vec!["jam", "tea"]));
    let nowhere = central.post("/v1/purchase", json!({"lines": lines(9, 9)})).await;
    assert_eq!(refused(&nowhere), (409, "insufficient_stock"), "each is somewhere, both are nowhere");
    assert_eq!((&nowhere.body["storeId"], short(&nowhere)), (&json!("s3"), vec!["jam", "tea"]));
    let in_the_chain = central.post("/v1/purchase", json!({"lines": lines(1, 10)})).await;
    assert_eq!((refused(&in_the_chain), short(&in_the_chain)), ((409, "insufficient_stock"), vec!["tea"]));
    for (store, product) in [("s1", "gin"), ("s2", "rum")] {
        let new = json!({"productId": product, "quantity": 5});
        world.store(store).post("/v1/inventory", new).await.expect(201);
    }
    world.converged(SOON).await;
    let lines = json!([{"productId": "gin", "quantity": 1}, {"productId": "rum", "quantity": 2}]);
    let apart = central.post("/v1/purchase", json!({"lines": lines})).await;
    assert_eq!((refused(&apart), &apart.body["storeId"]), ((409, "insufficient_stock"), &json!("s1")));
    let rum = json!({"productId": "rum", "requested": 2, "quantity": 0, "reserved": 0, "allotted": 0, "available": 0});
    assert_eq!(apart.body["lines"], json!([rum]), "s1 has none, but all else");

    let ale = json!([{"productId": "ale", "quantity": 1}, {"productId": "tea", "quantity": 1}]);
    for asked in [json!({"lines": ale, "storeId": "s1"}), json!({"lines": ale})] {
        let unknown = central.post("/v1/purchase", asked).await;
        assert_eq!((refused(&unknown), &unknown.body["productId"]), ((404, "unknown_product"), &json!("ale")));
    }
    central.patch("/v1/inventory/s1/jam", json!({"discontinued": true})).await.expect(200);
    assert_eq!(refused(&buy(1, 1).await), (409, "discontinued"));
    world.converged(SOON).await;
    assert_eq!((units(&world, "s1").await, units(&world, "s2").await), ([9, 2], [1, 9]), "nothing was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_says_what_is_wanted_in_one_form() {
    let world = stocked(&[("s1", 9, 9)]).await;
    let many: Vec<Value> = (0..201).map(|n| json!({"productId": format!("p{n}"), "quantity": 1})).collect();
    for (asked, pointer) in [
        (json!({"lines": lines(1, 1), "productId": "tea", "quantity": 1}), "/lines"),
        (json!({"lines": lines(1, 1), "quantity": 1}), "/lines"),
        (json!({}), "/lines"),
        (json!({"productId": "tea"}), "/quantity"),
        (json!({"quantity": 1}), "/productId"),
        (json!({"lines": []}), "/lines"),
        (json!({"lines": many}), "/lines"),
        (json!({"lines": lines(1, 0)}), "/lines/1/quantity"),
        (json!({"lines": [{"productId": "tea"}]}), "/lines/0/quantity"),
        (json!({"lines": [{"productId": "tea", "quantity": 1, "price": 2}]}), "/lines/0/price"),
        (json!({"lines": lines(1, 1), "storeId": "s1", "policy": "round-robin"}), "/policy"),
    ] {
        let answer = world.central().post("/v1/purchase", asked.clone()).await;
        assert_eq!(refused(&answer), (400, "invalid_request"), "{asked}");
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{asked}");
    }
    assert_eq!(units(&world, "s1").await, [9, 9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_store_is_short_of_one_line_the_next_store_takes_the_cart() {
    let world = stocked(&[("s1", 9, 9), ("s2", 5, 5), ("s3", 9, 1)]).await;
    let central = world.central();
    // A till sells what central believes to be there.
    world.store("s1").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 8})).await.expect(200);
    let asked = json!({"lines": lines(2, 2), "policy": "highest-available"});
    let first = central.post_with("/v1/purchase", &[("prefer", "respond-async")], asked).await.expect(202);
    assert_eq!(first["attempts"][0]["storeId"], "s1", "it has most of its scarcest line");
    let seen = central.get("/v1/inventory/s1/tea").await.expect(200);
    assert_eq!((&seen["pending"], &seen["onlineAvailable"]), (&json!(2), &json!(7)));
    world.store("s1").post("/v1/connected", json!({})).await.expect(200);
    let ended = until("the purchase ends", SOON, async || {
        let body = central.get(&path(&first)).await.expect(200);
        if body["status"] == "pending" { Err(body) } else { Ok(body) }
    })
    .await;
    assert_eq!((&ended["status"], &ended["storeId"]), (&json!("confirmed"), &json!("s2")), "s3 has too few of tea");
    assert_eq!(ended["attempts"][0]["code"], "insufficient_stock");
    world.converged(SOON).await;
    assert_eq!((units(&world, "s1").await, units(&world, "s2").await), ([9, 1], [3, 3]));
    let seen = central.get("/v1/inventory/s1/tea").await.expect(200);
    assert_eq!(seen["pending"], 0);
}
