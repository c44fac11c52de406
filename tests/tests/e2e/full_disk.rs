//! A disk that takes no more: nobody is told that something was done unless it was, and the key finds out.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tests::{Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_disk_leaves_unsaid_the_key_finds_out() {
    let mut world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 10_000})).await.expect(201);
    world.converged(SOON).await;
    let mut sold = 0;
    for (daemon, path) in [(Daemon::Store("s1".into()), "/v1/purchase/tea"), (Daemon::Central, "/v1/purchase/s1/tea")] {
        let client = if daemon == Daemon::Central { world.central() } else { world.store("s1") };
        assert_eq!(world.terminate(&daemon), Some(0));
        world.limit_files(Some(1 << 20));
        world.restart(&daemon).await;
        world.online("s1").await;
        let before = sold;
        let unsaid = loop {
            let key = format!("{path}-{sold}");
            let headers = [("idempotency-key", &*key), ("prefer", "wait=20")];
            let answer = client.ask(Method::POST, path, &headers, Some(&json!({"quantity": 1}))).await;
            sold += 1;
            match answer {
                Ok(answer) if answer.status == 200 => assert!(sold < before + 5_000, "the disk is not full"),
                other => break other.expect("an answer"),
            }
        };
        assert_eq!((unsaid.status, unsaid.code(), unsaid.header("retry-after")), (503, "restarting", "1"));
        let ended = until("it ends", SOON, async || world.running(&daemon).ended().ok_or("it runs")).await;
        assert!(!ended.success(), "{ended}");
        let log = world.log(&daemon);
        assert!(log.contains("error: task writer failed: the database failed"), "it says why: {log}");
        world.limit_files(None);
        world.restart(&daemon).await;
        world.online("s1").await;
        let key = format!("{path}-{}", sold - 1);
        let headers = [("idempotency-key", &*key), ("prefer", "wait=20")];
        client.post_with(path, &headers, json!({"quantity": 1})).await.expect(200);
        world.converged(SOON).await;
        assert_eq!(world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"], 10_000 - sold);
    }
}
