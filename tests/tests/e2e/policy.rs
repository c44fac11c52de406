//! Purchases whose store central chooses: each ends once, at one store, and says who was asked (P4, P5).

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{Answer, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);

/// Stores with so many units of tea each.
pub(super) async fn stocked(units: &[(&str, i64)]) -> World {
    let ids: Vec<&str> = units.iter().map(|(store, _)| *store).collect();
    let world = World::with(&ids).await;
    for (store, quantity) in units {
        world.store(store).post("/v1/inventory", json!({"productId": "tea", "quantity": quantity})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

/// The till sells while the store is cut off and its heartbeat is still fresh: what central believes to be there is gone.
async fn sell_unseen(world: &World, store: &str, quantity: i64) {
    world.store(store).post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    world.store(store).post("/v1/purchase/tea", json!({"quantity": quantity})).await.expect(200);
}

async fn reconnect(world: &World, store: &str) {
    world.store(store).post("/v1/connected", json!({})).await.expect(200);
}

fn path(purchase: &Value) -> String {
    format!("/v1/purchases/{}", purchase["purchaseId"].as_str().expect("an id"))
}

async fn ended(world: &World, path: &str) -> Value {
    until(&format!("{path} ends"), SOON, async || {
        let body = world.central().get(path).await.expect(200);
        if body["status"] == "pending" { Err(body) } else { Ok(body) }
    })
    .await
}

fn attempts(purchase: &Value) -> Vec<(&str, &str)> {
    let attempts = purchase["attempts"].as_array().expect("a list").iter();
    attempts
        .map(|attempt| ["storeId", "code"].map(|member| attempt[member].as_str().unwrap_or_default()).into())
        .collect()
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

async fn quantity(world: &World, store: &str) -> i64 {
    world.store(store).get("/v1/inventory/tea").await.expect(200)["quantity"].as_i64().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_policy_chooses_its_store_and_the_answer_says_so() {
    let world = stocked(&[("s1", 10), ("s2", 20), ("s3", 20)]).await;
    let central = world.central();
    let buy = async |policy: &str| {
        let asked = json!({"productId": "tea", "quantity": 1, "policy": policy, "reference": "order-1"});
        let bought = central.post("/v1/purchase", asked).await;
        assert_eq!(bought.header("location"), path(&bought.body));
        let bought = bought.expect(200);
        assert_eq!((&bought["status"], &bought["policy"]), (&json!("confirmed"), &json!(policy)));
        assert_eq!(bought["lines"], json!([{"productId": "tea", "quantity": 1}]));
        let store = bought["storeId"].as_str().expect("an id").to_owned();
        assert_eq!(attempts(&bought), [(store.as_str(), "confirmed")]);
        store
    };
    let mut stores = Vec::new();
    for policy in ["round-robin", "round-robin", "highest-available", "round-robin", "round-robin"] {
        stores.push(buy(policy).await);
    }
    assert_eq!(stores, ["s1", "s2", "s3", "s3", "s1"], "of twice twenty, less one at s2, s3 has most");
    let measured = central.get("/v1/stores").await.expect(200);
    let measured = measured["items"].as_array().expect("a list").iter();
    let measured = measured.map(|store| (store["roundTripMs"].as_i64().expect("it has answered"), &store["storeId"]));
    let quickest = measured.min_by_key(|(ms, id)| (*ms, id.as_str())).expect("three stores").1;
    assert_eq!(buy("lowest-latency").await, *quickest);
    let by_default = central.post("/v1/purchase", json!({"productId": "tea", "quantity": 1})).await.expect(200);
    assert_eq!(by_default["policy"], "highest-available");
    let named =
        central.post("/purchase", json!({"productId": "tea", "quantity": 2, "storeId": "s1"})).await.expect(200);
    assert_eq!((&named["storeId"], named.get("policy")), (&json!("s1"), None));
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_store_refuses_the_next_one_is_asked_and_the_key_stands_for_the_same_purchase() {
    let world = stocked(&[("s1", 9), ("s2", 5), ("s3", 1)]).await;
    let central = world.central();
    sell_unseen(&world, "s1", 8).await;
    let (asked, key) = (json!({"productId": "tea", "quantity": 2}), ("idempotency-key", "order-1"));
    let first = central.post_with("/v1/purchase", &[key, ("prefer", "respond-async")], asked.clone()).await;
    let first = first.expect(202);
    assert_eq!(attempts(&first), [("s1", "")], "it has most, as far as central knows");
    // The repetition waits for the same purchase while it goes from the one store to the other.
    let again = async { central.post_with("/v1/purchase", &[key, ("prefer", "wait=20")], asked.clone()).await };
    let (again, ()) = tokio::join!(again, reconnect(&world, "s1"));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let again = again.expect(200);
    assert_eq!((&again["purchaseId"], &again["storeId"]), (&first["purchaseId"], &json!("s2")));
    assert_eq!(attempts(&again), [("s1", "insufficient_stock"), ("s2", "confirmed")]);
    world.converged(SOON).await;
    assert_eq!((quantity(&world, "s1").await, quantity(&world, "s2").await), (1, 3));
    let to_pick = world.store("s2").get("/v1/purchases?picked=false").await.expect(200);
    assert_eq!(to_pick["items"][0]["purchaseId"], first["purchaseId"]);

    // Its cancel goes to the store that has it.
    let cancelled = central.post(&format!("{}/cancel", path(&first)), json!({})).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(quantity(&world, "s2").await, 5);
    let listed = central.get("/v1/purchases?storeId=s2").await.expect(200);
    assert_eq!(listed["items"][0]["attempts"][0]["storeId"], "s1");
    let other = json!({"productId": "tea", "quantity": 3});
    assert_eq!(refused(&central.post_with("/v1/purchase", &[key], other).await), (422, "idempotency_key_reused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_store_is_left_it_is_rejected_and_says_who_was_asked() {
    let world = stocked(&[("s1", 4), ("s2", 3), ("s3", 1)]).await;
    let central = world.central();
    for (store, units) in [("s1", 3), ("s2", 2)] {
        sell_unseen(&world, store, units).await;
    }
    let now = [("prefer", "respond-async")];
    let asked = json!({"productId": "tea", "quantity": 2});
    let key = ("idempotency-key", "order-1");
    let begun = central.post_with("/v1/purchase", &[key, now[0]], asked.clone()).await.expect(202);
    reconnect(&world, "s1").await;
    // Nothing is known of the second one's answer, so nobody else is asked meanwhile.
    until("the second is asked", SOON, async || {
        let body = central.get(&path(&begun)).await.expect(200);
        if attempts(&body) == [("s1", "insufficient_stock"), ("s2", "")] { Ok(()) } else { Err(body) }
    })
    .await;
    reconnect(&world, "s2").await;
    let rejected = ended(&world, &path(&begun)).await;
    assert_eq!((&rejected["status"], &rejected["code"]), (&json!("rejected"), &json!("insufficient_stock")));
    let told = [("s1", "insufficient_stock"), ("s2", "insufficient_stock")];
    assert_eq!(attempts(&rejected), told);
    let again = central.post_with("/v1/purchase", &[key], asked).await;
    assert_eq!((refused(&again), again.header("idempotency-replayed")), ((409, "insufficient_stock"), "true"));
    assert_eq!((attempts(&again.body), &again.body["purchaseId"]), (told.to_vec(), &begun["purchaseId"]));
    world.converged(SOON).await;
    for store in ["s1", "s2", "s3"] {
        assert_eq!(quantity(&world, store).await, 1, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_store_can_sell_is_refused_and_says_why() {
    let world = stocked(&[("s1", 2), ("s2", 8)]).await;
    let central = world.central();
    let buy =
        async |quantity: i64| central.post("/v1/purchase", json!({"productId": "tea", "quantity": quantity})).await;
    let too_much = buy(9).await;
    assert_eq!(refused(&too_much), (409, "insufficient_stock"));
    assert_eq!((&too_much.body["quantity"], &too_much.body["available"]), (&json!(10), &json!(8)), "at one store");
    let unknown = central.post("/v1/purchase", json!({"productId": "gold", "quantity": 1})).await;
    assert_eq!(refused(&unknown), (404, "unknown_product"));
    let nowhere = json!({"productId": "tea", "quantity": 1, "storeId": "s9"});
    assert_eq!(refused(&central.post("/v1/purchase", nowhere).await), (404, "unknown_store"));
    for (body, pointer) in [
        (json!({"productId": "tea", "quantity": 1, "storeId": "s1", "policy": "round-robin"}), "/policy"),
        (json!({"productId": "tea", "quantity": 1, "policy": "cheapest"}), "/policy"),
        (json!({"productId": "tea", "quantity": 0}), "/quantity"),
        (json!({"quantity": 1}), "/productId"),
    ] {
        let invalid = central.post("/v1/purchase", body).await;
        assert_eq!(refused(&invalid), (400, "invalid_request"));
        assert_eq!(invalid.body["errors"][0]["pointer"], pointer);
    }

    // Silent, Redis is away: no store is waited for.
    world.signal_redis(Signal::SIGSTOP);
    let silent = buy(1).await;
    world.signal_redis(Signal::SIGCONT);
    assert_eq!((refused(&silent), &silent.body["reason"]), ((503, "store_unavailable"), &json!("redis")));
    world.online("s2").await;

    // The one that would have had enough leaves.
    world.store("s2").post("/v1/disconnected", json!({})).await.expect(200);
    until("the one that has enough is away", SOON, async || {
        let answer = buy(5).await;
        if refused(&answer) == (503, "store_unavailable") { Ok(answer) } else { Err(answer.body) }
    })
    .await;
    let away = buy(5).await;
    assert_eq!((&away.body["storeId"], &away.body["reason"]), (&json!("s2"), &json!("offline")));
    assert_eq!(away.header("retry-after"), "5");
    assert_eq!(buy(1).await.expect(200)["storeId"], "s1");
    reconnect(&world, "s2").await;
    world.online("s2").await;
    for store in ["s1", "s2"] {
        world.store(store).patch("/v1/inventory/tea", json!({"discontinued": true})).await.expect(200);
    }
    world.converged(SOON).await;
    assert_eq!(refused(&buy(1).await), (409, "discontinued"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_refuses_while_central_is_dead_goes_to_the_next_one() {
    let mut world = stocked(&[("s1", 6), ("s2", 4)]).await;
    sell_unseen(&world, "s1", 5).await;
    let now = [("prefer", "respond-async")];
    let asked = json!({"productId": "tea", "quantity": 3, "ttlSeconds": 600});
    let begun = world.central().post_with("/v1/purchase", &now, asked).await.expect(202);
    let id = begun["purchaseId"].as_str().expect("an id");
    until("the store can read it", SOON, async || {
        let sent = format!("{:?}", world.redis(&["XRANGE", "shelf:{s1}:commands", "-", "+"]).await);
        if sent.contains(id) { Ok(()) } else { Err(sent) }
    })
    .await;
    world.kill(&Daemon::Central);
    reconnect(&world, "s1").await;
    until("the store has refused", SOON, async || {
        let events = world.store("s1").get("/v1/events?type=purchase_rejected").await.expect(200);
        if events["items"].as_array().is_some_and(|items| !items.is_empty()) { Ok(()) } else { Err(events) }
    })
    .await;
    world.restart(&Daemon::Central).await;
    let bought = ended(&world, &path(&begun)).await;
    assert_eq!(attempts(&bought), [("s1", "insufficient_stock"), ("s2", "confirmed")]);
    world.converged(SOON).await;
    assert_eq!((quantity(&world, "s1").await, quantity(&world, "s2").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_comes_back_to_an_empty_redis_a_moment_after_another_has_refused_is_asked() {
    let mut world = stocked(&[("s1", 9), ("s2", 5)]).await;
    sell_unseen(&world, "s1", 8).await;
    let asked = json!({"productId": "tea", "quantity": 2, "ttlSeconds": 600});
    let begun = world.central().post_with("/v1/purchase", &[("prefer", "respond-async")], asked).await.expect(202);
    world.store("s2").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    world.kill_redis();
    world.start_redis().await;
    reconnect(&world, "s1").await;
    until("the first has refused", SOON, async || {
        let body = world.central().get(&path(&begun)).await.expect(200);
        if attempts(&body).contains(&("s1", "insufficient_stock")) { Ok(()) } else { Err(body) }
    })
    .await;
    reconnect(&world, "s2").await;
    let bought = ended(&world, &path(&begun)).await;
    assert_eq!(attempts(&bought), [("s1", "insufficient_stock"), ("s2", "confirmed")]);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_asks_from_store_to_store_central_sells_no_unit_twice() {
    const BUYERS: i64 = 40;
    let mut world = stocked(&[("s1", 200), ("s2", 12), ("s3", 9)]).await;
    sell_unseen(&world, "s1", 200).await;
    let mut begun = Vec::new();
    for _ in 0..BUYERS {
        let asked = json!({"productId": "tea", "quantity": 1, "ttlSeconds": 600});
        begun.push(world.central().post_with("/v1/purchase", &[("prefer", "respond-async")], asked).await.expect(202));
    }
    reconnect(&world, "s1").await;
    for sold in [1, 8] {
        until("some are sold elsewhere", SOON, async || {
            let left = quantity(&world, "s2").await + quantity(&world, "s3").await;
            if left <= 21 - sold { Ok(()) } else { Err(left) }
        })
        .await;
        world.kill(&Daemon::Central);
        world.restart(&Daemon::Central).await;
    }
    let mut confirmed = 0;
    for purchase in &begun {
        let ended = ended(&world, &path(purchase)).await;
        let last = attempts(&ended).last().copied().expect("the first store was asked");
        match ended["status"].as_str() {
            Some("confirmed") => {
                confirmed += 1;
                assert!(matches!(last, ("s2" | "s3", "confirmed")), "{ended}");
            }
            Some("rejected") => assert_eq!(last.1, "insufficient_stock"),
            _ => panic!("{ended}"),
        }
    }
    world.converged(SOON).await;
    assert_eq!(quantity(&world, "s2").await + quantity(&world, "s3").await, 21 - confirmed);
    assert!(confirmed >= 9, "{confirmed}");
    let open = world.central().get("/v1/purchases?status=pending").await.expect(200);
    assert_eq!(open["items"], json!([]));
}
