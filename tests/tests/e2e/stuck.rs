//! One store whose stream is broken keeps up no other (P7), and one that hangs keeps out no reader.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_batch_that_does_not_fit_stops_no_sweep() {
    let world = Builder { sweep_ms: 300, ..Builder::default() }.start(&["s1"]).await;
    let mut redis = world.redis_connection().await;
    let claim = r#"{"process":1,"epoch":7,"why":"waiting","items":0,"backlog":0,"forMs":0,"version":"1"}"#;
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg("shelf:{ghost}:claim").arg(claim).ignore();
    pipe.cmd("SET").arg("shelf:{late}:claim").arg(claim).ignore();
    pipe.cmd("SADD").arg("shelf:stores").arg("ghost").ignore();
    for seq in 5..3_000 {
        let add = pipe.cmd("XADD").arg("shelf:{ghost}:events").arg(format!("7-{seq}"));
        add.arg("v").arg(1).arg("t").arg("sold").arg("i").arg("op").arg("b").arg("{}");
        add.arg("c").arg("00000000000000000000000000000000").ignore();
    }
    pipe.query_async::<()>(&mut redis).await.expect("Redis answers");
    let central = world.central();
    let known = async |id: &str| {
        until(&format!("{id} is known"), SOON, async || {
            let answer = central.get(&format!("/v1/stores/{id}")).await;
            if answer.status == 200 { Ok(answer.body) } else { Err(answer) }
        })
        .await
    };
    known("ghost").await;
    tokio::time::sleep(Duration::from_millis(500)).await; // Its stream has been looked at.
    // Nobody rings for this one: only a sweep finds it.
    redis::cmd("SADD").arg("shelf:stores").arg("late").query_async::<()>(&mut redis).await.expect("Redis answers");
    known("late").await;
    assert!(known("ghost").await["lagMs"].as_i64() > Some(0));
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 3})).await.expect(201);
    until("others are followed", SOON, async || {
        let answer = central.get("/v1/inventory/s1/tea").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purchases_that_wait_for_a_store_that_hangs_keep_out_no_reader() {
    let mut world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 9_000})).await.expect(201);
    world.converged(SOON).await;
    let agent = Daemon::Store("s1".into());
    world.running(&agent).signal(Signal::SIGSTOP);
    let central = world.central();
    // Above the 1,024 requests that may be at work at once; never so many that have yet to begin their wait.
    let mut waits = Vec::new();
    for waiting in [275, 550, 825, 1_100] {
        waits.extend((0..275).map(|_| {
            let central = central.clone();
            tokio::spawn(async move {
                let wait = [("prefer", "wait=20")];
                central.post_with("/v1/purchase/s1/tea", &wait, json!({"quantity": 1})).await
            })
        }));
        until("all of them wait", SOON, async || {
            let open = central.get("/v1/stores/s1").await.expect(200)["openPurchases"].clone();
            if open == waiting { Ok(()) } else { Err(open) }
        })
        .await;
    }
    assert_eq!(central.get("/v1/inventory/s1/tea").await.expect(200)["pending"], 1_100);
    world.running(&agent).signal(Signal::SIGCONT);
    for wait in waits {
        wait.await.expect("answers").expect(200);
    }
}
