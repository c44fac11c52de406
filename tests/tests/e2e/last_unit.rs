//! A unit is sold once (P4): fifty units, a hundred buyers, wherever they ask.

use std::time::Duration;

use serde_json::json;
use tests::World;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug)]
enum Where {
    Till,
    Online,
    Both,
}

/// A hundred buyers of one unit each; how many got one.
async fn rush(world: &World, product: &str, place: Where) -> usize {
    let mut buyers = JoinSet::new();
    for number in 0..100 {
        let till = match place {
            Where::Till => true,
            Where::Online => false,
            Where::Both => number % 2 == 0,
        };
        let (client, path) = if till {
            (world.store("s1"), format!("/v1/purchase/{product}"))
        } else {
            (world.central(), format!("/v1/purchase/s1/{product}"))
        };
        buyers.spawn(async move {
            let answer = client.post_with(&path, &[("prefer", "wait=30")], json!({"quantity": 1})).await;
            match answer.status {
                200 => 1,
                409 => {
                    assert_eq!(answer.code(), "insufficient_stock", "{}", answer.body);
                    0
                }
                _ => panic!("{}: {}", answer.status, answer.body),
            }
        });
    }
    buyers.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_units_and_a_hundred_buyers() {
    let world = World::with(&["s1"]).await;
    for (place, name) in [(Where::Till, "till"), (Where::Online, "online"), (Where::Both, "both")] {
        for round in 0..3 {
            let product = format!("{name}-{round}");
            let item = json!({"productId": product, "quantity": 50});
            world.store("s1").post("/v1/inventory", item).await.expect(201);
            world.converged(Duration::from_secs(10)).await;
            assert_eq!(rush(&world, &product, place).await, 50, "{place:?}, round {round}");
            world.converged(Duration::from_secs(10)).await;
            let left = world.store("s1").get(&format!("/v1/inventory/{product}")).await.expect(200);
            assert_eq!(left["quantity"], 0);
            let seen = world.central().get(&format!("/v1/inventory/s1/{product}")).await.expect(200);
            assert_eq!((&seen["quantity"], &seen["pending"]), (&json!(0), &json!(0)));
        }
    }
}
