//! TLS between Redis and both servers: it works, names and signers are checked, and what is wrong is said.

use std::time::Duration;

use serde_json::json;
use tests::{Builder, Daemon, Process, World, binary};

const SOON: Duration = Duration::from_secs(20);

async fn world() -> World {
    let world = Builder { beat_ms: 300, max_age_ms: 2_000, sweep_ms: 300 }.start_over_tls(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 50})).await.expect(201);
    world.converged(SOON).await;
    world
}

async fn sells(world: &World) {
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.online("s1").await;
    world.central().post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_speak_tls() {
    let mut world = world().await;
    sells(&world).await;
    world.kill_redis();
    world.start_redis().await;
    sells(&world).await;
    let backup = world.dir().join("backup.db").display().to_string();
    assert!(world.tool("central", &["backup", "--to", &backup]).await.0);
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    let agent = Daemon::Store("s1".into());
    let (done, said) = world.tool("central", &["restore", "--from", &backup]).await;
    assert!(done && !said.contains("Redis does not answer"), "{said}");
    world.restart(&Daemon::Central).await;
    assert_eq!(world.terminate(&agent), Some(0));
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s1"]).await;
    assert!(done && !said.contains("Redis does not answer"), "{said}");
    world.restart(&agent).await;
    sells(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_right_one_is_not_talked_to_and_the_log_says_why() {
    let world = world().await;
    let certificates = world.certificates();
    let (ca, other_ca) = (certificates.ca.display(), certificates.other_ca.display());
    let own = format!(
        "--redis-cert-file={} --redis-key-file={}",
        certificates.client.display(),
        certificates.client_key.display()
    );
    let right = world.redis_url_of("s1");
    let plain = world.plain_redis_url_of("s1");
    let cases = [
        (right.clone(), format!("--redis-ca-file={other_ca} {own}"), "signed by"),
        (right.clone(), own.clone(), "signed by"),
        (right.replace("127.0.0.1", "localhost"), format!("--redis-ca-file={ca} {own}"), "name"),
        (right.clone(), format!("--redis-ca-file={ca}"), "certificate"),
        (right.replace("rediss", "redis"), String::new(), "rediss"),
        (plain.replace("redis:", "rediss:"), format!("--redis-ca-file={ca} {own}"), "rediss"),
        (right.replace("secret", "wrong"), format!("--redis-ca-file={ca} {own}"), "WRONGPASS"),
        (right, format!("--redis-ca-file={ca} {own}"), "listening"),
    ];
    for (number, (url, options, reason)) in cases.into_iter().enumerate() {
        for program in ["store-agent", "central"] {
            let name = format!("{program}-{number}");
            let mut args = vec!["serve".to_owned(), format!("--redis-url={url}"), "--listen=127.0.0.1:0".to_owned()];
            args.push(format!("--database-path={}", world.dir().join(format!("{name}.db")).display()));
            if program == "store-agent" {
                args.push("--store-id=s1".to_owned());
            }
            args.extend(options.split_whitespace().map(str::to_owned));
            let process = Process::start(&binary(program), &args, &world.dir().join(format!("{name}.log")));
            tokio::time::sleep(Duration::from_secs(3)).await;
            println!("{number} {reason} {}", process.tail());
        }
    }
}
