//! The view is built anew from the ledger: beside everything else, and shown only once it is what the stores say (P6).

use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tests::{Answer, Builder, Client, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);
/// More than a step or ten of a rebuild: there is time to look while one runs.
const PRODUCTS: usize = 20_000;

/// A store with much, and one with little.
async fn world() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 5_000, sweep_ms: 300 }.start(&["s1", "s2"]).await;
    let mut text = String::from("productId,quantity\n");
    (0..PRODUCTS).for_each(|number| text.push_str(&format!("p{number},7\n")));
    let csv = [("content-type", "text/csv")];
    world.store("s1").send(Method::POST, "/v1/import", &csv, text.into_bytes()).await.expect(200);
    for store in ["s1", "s2"] {
        world.store(store).post("/v1/inventory", json!({"productId": "tea", "quantity": 500})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

async fn projection(central: &Client) -> Value {
    central.get("/v1/projections").await.expect(200)["items"][0].take()
}

async fn rebuild(world: &World, key: &str) -> Answer {
    world.central().post_with("/v1/projections/rebuild", &[("idempotency-key", key)], Value::Null).await
}

async fn rebuilt(world: &World) -> Value {
    let central = world.central();
    until("the view is rebuilt", SOON, async || {
        let now = projection(&central).await;
        if now["status"] == "live" { Ok(now) } else { Err(now) }
    })
    .await
}

async fn units(central: &Client, item: &str) -> i64 {
    central.get(&format!("/v1/inventory/{item}")).await.expect(200)["quantity"].as_i64().expect("units")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_rebuilt_while_tills_sell_and_reads_go_on() {
    let world = world().await;
    let central = world.central();
    let before = projection(&central).await;
    assert_eq!(
        (&before["name"], &before["status"], &before["startedAt"], &before["leftOut"]["count"]),
        (&json!("inventory"), &json!("live"), &Value::Null, &json!(0))
    );

    let first = rebuild(&world, "one").await;
    assert_eq!((first.header("location"), first.header("retry-after")), ("/v1/projections", "1"));
    let first = first.expect(202)["items"][0].take();
    assert_eq!(first["status"], "rebuilding");
    let again = rebuild(&world, "two").await.expect(202)["items"][0].take();
    assert_eq!((&again["status"], &again["startedAt"]), (&json!("rebuilding"), &first["startedAt"]), "it goes on");
    let replayed = rebuild(&world, "one").await;
    assert_eq!((replayed.status, replayed.header("idempotency-replayed")), (202, "true"));
    let effect = central.get("/v1/idempotency/one").await.expect(200)["effect"].take();
    assert_eq!(effect, json!({"kind": "projection", "id": "inventory"}));

    let mut sold = 0;
    while projection(&central).await["status"] == "rebuilding" {
        for store in ["s1", "s2"] {
            world.store(store).post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
        }
        sold += 1;
        assert_eq!(units(&central, "s1/p12345").await, 7, "whole at each moment");
        central.post("/v1/purchase/s1/p1", json!({"quantity": 1})).await;
    }
    assert!(sold >= 3, "{sold} sales while it ran");
    world.converged(SOON).await;
    let after = rebuilt(&world).await;
    assert_eq!((&after["startedAt"], &after["leftOut"]["count"]), (&first["startedAt"], &json!(0)));
    assert!(after["finishedAt"].is_string() && after["applied"].as_u64() >= after["total"].as_u64(), "{after}");
    for store in ["s1", "s2"] {
        assert_eq!(units(&central, &format!("{store}/tea")).await, 500 - sold);
    }

    // Nothing happens: a rebuild changes nothing of what is seen.
    let quiet = projection(&central).await["digest"].take();
    rebuild(&world, "three").await.expect(202);
    assert_eq!(rebuilt(&world).await["digest"], quiet);
    let (sound, said) = world.tool("central", &["verify"]).await;
    assert!(sound, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_it_goes_on_where_it_was() {
    let mut world = world().await;
    let quiet = projection(&world.central()).await["digest"].take();
    let started = rebuild(&world, "one").await.expect(202)["items"][0]["startedAt"].take();
    for _ in 0..2 {
        let central = world.central();
        until("it is under way", SOON, async || {
            let now = projection(&central).await;
            if now["applied"].as_u64() > Some(0) { Ok(()) } else { Err(now) }
        })
        .await;
        world.kill(&Daemon::Central);
        world.restart(&Daemon::Central).await;
    }
    let after = rebuilt(&world).await;
    assert_eq!((&after["startedAt"], &after["digest"], &after["leftOut"]["count"]), (&started, &quiet, &json!(0)));
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_seen_until_all_of_it_is_built_though_its_store_is_away() {
    let mut world = world().await;
    world.terminate(&Daemon::Store("s1".into()));
    world.terminate(&Daemon::Central);
    let file = Connection::open(world.dir().join("central.db")).expect("opens");
    let damage = "update item set quantity = quantity + 100 where store_id = 's1' and product_id in ('p5', 'p19999')";
    assert_eq!(file.execute(damage, []).expect("writes"), 2);
    drop(file);
    world.restart(&Daemon::Central).await;
    let central = world.central();
    assert_eq!(units(&central, "s1/p5").await, 107);
    rebuild(&world, "one").await.expect(202);
    let mut looks = 0;
    loop {
        let (first, last) = (units(&central, "s1/p5").await, units(&central, "s1/p19999").await);
        if first == 7 && units(&central, "s1/p19999").await == 7 {
            break;
        }
        // The second look is the later one: it may see what the first could not yet, and never the reverse.
        assert!(first == 107 && [107, 7].contains(&last), "{first} and {last}");
        looks += 1;
    }
    assert!(looks > 0, "what was there before is shown meanwhile");
    assert_eq!(rebuilt(&world).await["leftOut"]["count"], 0);
    until("totals are right", SOON, async || {
        let total = central.get("/v1/products?q=p19999").await.body;
        if total["items"][0]["quantity"] == 7 { Ok(()) } else { Err(total) }
    })
    .await;
    world.restart(&Daemon::Store("s1".into())).await;
    world.converged(SOON).await;
}
