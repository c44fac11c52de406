//! The store sells with or without a network (P1); a stale store gets no remote purchase (P8).

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);

fn quick() -> Builder {
    Builder { heartbeat_ms: 300, max_age_ms: 1_500, sweep_ms: 300 }
}

async fn refused(world: &World, reason: &str) {
    let central = world.central();
    until(&format!("a purchase is refused: {reason}"), SOON, async || {
        let answer = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
        if answer.status == 503 && answer.body["reason"] == reason { Ok(()) } else { Err(answer) }
    })
    .await;
}

async fn accepted(world: &World) {
    let central = world.central();
    until("a purchase is confirmed", SOON, async || {
        let answer = central.post_with("/v1/purchase/s1/tea", &[("prefer", "wait=5")], json!({"quantity": 1})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_sells_with_redis_and_central_gone() {
    let mut world = quick().start(&["s1"]).await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 100})).await.expect(201);
    world.converged(SOON).await;
    world.kill_redis();
    refused(&world, "redis").await;
    let seen = world.central().get("/v1/inventory/s1/tea").await.expect(200);
    assert_eq!(seen["quantity"], 100, "central still reads its view");
    world.kill(&Daemon::Central);
    for left in (90..100).rev() {
        let sold = store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
        assert_eq!(sold["quantity"], left);
    }
    assert_eq!(store.get("/ready").await.status, 200);
    // The agent is killed as well: what was answered is on its disk.
    world.kill(&Daemon::Store("s1".into()));
    world.restart(&Daemon::Store("s1".into())).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 90);
    world.start_redis().await;
    world.restart(&Daemon::Central).await;
    world.converged(SOON).await;
    assert_eq!(world.central().get("/v1/inventory/s1/tea").await.expect(200)["quantity"], 90);
    accepted(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_died_is_refused_once_its_heartbeat_is_stale_and_accepted_when_it_is_back() {
    let mut world = quick().start(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 100})).await.expect(201);
    world.converged(SOON).await;
    accepted(&world).await;
    world.kill(&Daemon::Store("s1".into()));
    let died = Instant::now();
    refused(&world, "offline").await;
    // 1.5 s is the limit; the last heartbeat may be as young as the death. 51 s for 50 s, in proportion.
    assert!(died.elapsed() < Duration::from_millis(2_500), "refused only after {:?}", died.elapsed());
    world.restart(&Daemon::Store("s1".into())).await;
    accepted(&world).await;
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_cuts_the_store_off_and_lets_it_back() {
    let world = quick().start(&["s1"]).await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 100})).await.expect(201);
    world.converged(SOON).await;
    assert_eq!(store.post("/v1/disconnected", json!({})).await.expect(200)["connected"], false);
    refused(&world, "offline").await;
    assert_eq!(store.get("/").await.expect(200)["link"], "off");
    store.post("/v1/purchase/tea", json!({"quantity": 40})).await.expect(200);
    assert_eq!(world.central().get("/v1/inventory/s1/tea").await.expect(200)["quantity"], 100);
    store.post("/v1/connected", json!({})).await.expect(200);
    world.converged(SOON).await;
    assert_eq!(world.central().get("/v1/inventory/s1/tea").await.expect(200)["quantity"], 60);
    accepted(&world).await;
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    refused(&world, "offline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_told_to_stop_says_good_bye() {
    let mut world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 5})).await.expect(201);
    world.converged(SOON).await;
    assert_eq!(world.terminate(&Daemon::Store("s1".into())), Some(0));
    // With the usual limit of 50 s a heartbeat left behind would still be fresh.
    refused(&world, "offline").await;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
}
