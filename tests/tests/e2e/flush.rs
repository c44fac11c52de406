//! Redis may lose everything at any moment: that costs latency and nothing else (P2, P6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use tests::{Daemon, World, until};
use tokio::task::JoinSet;

const STOCK: i64 = 100_000;

/// Sells at the tills and online until told to stop; counts units by what the answers say.
#[derive(Default)]
struct Traffic {
    stop: Arc<AtomicBool>,
    sold: Arc<AtomicI64>,
    bought: Arc<AtomicI64>,
    load: JoinSet<Vec<String>>,
}

impl Traffic {
    fn begin(world: &World) -> Self {
        let mut traffic = Self::default();
        let Self { stop, sold, bought, load } = &mut traffic;
        for store in ["s1", "s2"] {
            for _ in 0..3 {
                let (client, stop, sold) = (world.store(store), stop.clone(), sold.clone());
                load.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        client.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
                        sold.fetch_add(1, Ordering::Relaxed);
                    }
                    Vec::new()
                });
            }
            let (central, stop, bought) = (world.central(), stop.clone(), bought.clone());
            load.spawn(async move {
                let mut purchases = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let path = format!("/v1/purchase/{store}/tea");
                    let one = json!({"quantity": 1});
                    let asked = central.ask(reqwest::Method::POST, &path, &[("prefer", "wait=1")], Some(&one));
                    // No answer: central was killed. What it had recorded is found by its list below.
                    let Ok(answer) = asked.await else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    assert!(matches!(answer.status, 200 | 202 | 503), "{answer:?}");
                    bought.fetch_add(i64::from(answer.status == 200), Ordering::Relaxed);
                    if let Some(id) = answer.body["purchase"]["purchaseId"].as_str() {
                        purchases.push(id.to_owned());
                    } else {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                purchases
            });
        }
        traffic
    }

    /// Lets it go on until enough of both was sold since the last fault. Returns the units sold at tills, and the purchases.
    async fn end(self) -> (i64, Vec<String>) {
        let count = || (self.sold.load(Ordering::Relaxed), self.bought.load(Ordering::Relaxed));
        let before = count();
        until("traffic flows again", Duration::from_secs(30), async || {
            let (sold, bought) = count();
            if sold > before.0 + 100 && bought > before.1 + 10 { Ok(()) } else { Err((before, sold, bought)) }
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.load.join_all().await.concat();
        (self.sold.load(Ordering::Relaxed), asked)
    }
}

/// Every purchase has one outcome, and the units that left are those that were sold and confirmed.
async fn settled(world: &World, sold: i64, asked: &[String]) {
    world.converged(Duration::from_secs(30)).await;
    let central = world.central();
    let (mut confirmed, mut cursor, mut known) = (0, String::new(), Vec::new());
    loop {
        let page = central.get(&format!("/v1/purchases?size=1000{cursor}")).await.expect(200);
        for purchase in page["items"].as_array().expect("a list") {
            assert_ne!(purchase["status"], "pending", "{purchase}");
            confirmed += i64::from(purchase["status"] == "confirmed");
            known.push(purchase["purchaseId"].as_str().expect("an id").to_owned());
        }
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    for id in asked {
        assert!(known.contains(id), "purchase {id} was answered and is lost");
    }
    let mut left = 0;
    for store in ["s1", "s2"] {
        left += world.store(store).get("/v1/inventory/tea").await.expect(200)["quantity"].as_i64().expect("a number");
    }
    assert_eq!(2 * STOCK - left, sold + confirmed, "units taken = sold at tills {sold} + confirmed online {confirmed}");
}

async fn stocked() -> World {
    let world = World::with(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        let tea = json!({"productId": "tea", "quantity": STOCK});
        world.store(store).post("/v1/inventory", tea).await.expect(201);
    }
    world.converged(Duration::from_secs(10)).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_converges_after_redis_was_flushed_in_full_traffic() {
    let world = stocked().await;
    let traffic = Traffic::begin(&world);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.flush_redis().await;
    }
    let (sold, asked) = traffic.end().await;
    settled(&world, sold, &asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_converges_after_redis_and_central_were_killed_in_full_traffic() {
    let mut world = stocked().await;
    let traffic = Traffic::begin(&world);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        world.kill_redis();
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.start_redis().await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        world.kill(&Daemon::Central);
        world.restart(&Daemon::Central).await;
    }
    let (sold, asked) = traffic.end().await;
    settled(&world, sold, &asked).await;
}
