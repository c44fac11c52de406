//! The link under load, in a Redis that holds something else, and what it says of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);

/// Sells until told to stop, on several connections: there is always something to publish.
fn sell(world: &World, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
    let till = || {
        let (store, stop) = (world.store("s1"), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
            }
        })
    };
    (0..64).map(|_| till()).collect()
}

async fn link_is(world: &World, link: &str) {
    until(&format!("the link is {link}"), SOON, async || {
        let seen = world.store("s1").get("/").await.body;
        if seen["link"] == link { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn status_of_store(world: &World, wanted: &str) {
    until(&format!("s1 is {wanted}"), SOON, async || {
        let seen = world.central().get("/v1/stores/s1").await.body;
        if seen["status"] == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_switch_works_while_sales_keep_coming() {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 20_000, sweep_ms: 300 }.start(&["s1"]).await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 1_000_000})).await.expect(201);
    world.converged(SOON).await;
    let stop = Arc::new(AtomicBool::new(false));
    let tills = sell(&world, &stop);
    // A slow Redis: whenever a round is through, there is more to publish.
    let busy = "local n = 0 for i = 1, 20000000 do n = n + i end";
    let slow = async {
        loop {
            world.redis(&["EVAL", busy, "0"]).await.expect("Redis answers");
        }
    };
    let switched = async {
        for _ in 0..3 {
            store.post("/v1/disconnected", json!({})).await.expect(200);
            // The heartbeat is still fresh: only the farewell can have said so.
            status_of_store(&world, "offline").await;
            store.post("/v1/connected", json!({})).await.expect(200);
            link_is(&world, "up").await;
            status_of_store(&world, "online").await;
        }
    };
    tokio::select! {
        () = slow => {}
        () = switched => {}
    }
    stop.store(true, Ordering::Relaxed);
    for till in tills {
        till.await.expect("every sale is answered 200");
    }
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_does_not_stop_the_agents() {
    let mut world = Builder { heartbeat_ms: 300, max_age_ms: 1_500, sweep_ms: 300 }.start(&["s1"]).await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 9})).await.expect(201);
    world.converged(SOON).await;
    world.redis(&["DEL", "shelf:stores"]).await.expect("Redis answers");
    world.redis(&["SET", "shelf:stores", "x"]).await.expect("Redis answers");
    world.kill(&Daemon::Store("s1".into()));
    world.restart(&Daemon::Store("s1".into())).await;
    link_is(&world, "up").await;
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_central_that_begins_anew_with_an_empty_redis_finds_the_store() {
    let mut world = Builder { heartbeat_ms: 300, max_age_ms: 1_500, sweep_ms: 300 }.start(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 1_000_000})).await.expect(201);
    world.converged(SOON).await;
    let stop = Arc::new(AtomicBool::new(false));
    let tills = sell(&world, &stop);
    world.kill(&Daemon::Central);
    world.flush_redis().await;
    for file in ["central.db", "central.db-wal", "central.db-shm"] {
        let _ = std::fs::remove_file(world.dir().join(file));
    }
    world.restart(&Daemon::Central).await;
    world.online("s1").await;
    stop.store(true, Ordering::Relaxed);
    for till in tills {
        till.await.expect("every sale is answered 200");
    }
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_store_has_no_backlog() {
    let world = World::with(&["s1"]).await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 9})).await.expect(201);
    for _ in 0..2 {
        store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
        until("nothing is unsent", Duration::from_secs(5), async || {
            let seen = store.get("/v1/status").await.body;
            let sent = seen["backlog"] == 0 && seen["oldestUnsentMs"] == 0 && seen["acked"] == seen["head"];
            if sent { Ok(()) } else { Err(seen) }
        })
        .await;
    }
    // What was acknowledged is also on disk soon, without anything else being written.
    let file = runtime::sqlite::read_only(&world.dir().join("s1.db")).expect("the store's database");
    until("the ack is on disk", Duration::from_secs(5), async || {
        let (acked, head): (i64, i64) =
            file.query_row("select acked, seq from meta", [], |row| Ok((row.get(0)?, row.get(1)?))).expect("one row");
        if acked == head { Ok(()) } else { Err((acked, head)) }
    })
    .await;
}
