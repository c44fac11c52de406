//! TLS between Redis and both servers: it works, names and signers are checked, and what is wrong is said.

use std::time::Duration;

use serde_json::json;
use tests::{Builder, Daemon, Process, World, binary, until};

const SOON: Duration = Duration::from_secs(20);

async fn world() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 2_000, sweep_ms: 300 }.start_over_tls(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 50})).await.expect(201);
    world.converged(SOON).await;
    world
}

async fn sells(world: &World) {
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    until("central sells", SOON, async || {
        let answer = world.central().post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
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
    let (right, plain) = (world.redis_url_of("s1"), world.plain_redis_url_of("s1"));
    let files = world.certificates();
    let ca = format!("--redis-ca-file={}", files.ca.display());
    let other_ca = format!("--redis-ca-file={}", files.other_ca.display());
    let own = [
        format!("--redis-cert-file={}", files.client.display()),
        format!("--redis-key-file={}", files.client_key.display()),
    ];
    let all = [std::slice::from_ref(&ca), own.as_slice()].concat();
    let cases = [
        (right.clone(), [&[other_ca], own.as_slice()].concat(), "UnknownIssuer: no CA in REDIS_CA_FILE"),
        (right.clone(), own.to_vec(), "UnknownIssuer: no CA in REDIS_CA_FILE"),
        (right.replace("127.0.0.1", "localhost"), all.clone(), "not valid for name \"localhost\""),
        (right.clone(), vec![ca], "REDIS_CERT_FILE"),
        (right.replace("rediss", "redis"), Vec::new(), "must begin with rediss://"),
        (plain.replace("redis:", "rediss:"), all.clone(), "does Redis speak TLS there?"),
        (right.replace("secret", "wrong"), all, "authentication failed"),
    ];
    for program in ["store-agent", "central"] {
        let mut started = Vec::new();
        for (number, (url, options, reason)) in cases.iter().enumerate() {
            let path = |end: &str| world.dir().join(format!("{program}-{number}.{end}"));
            let mut args = vec!["serve".to_owned(), format!("--redis-url={url}"), "--listen=127.0.0.1:0".to_owned()];
            args.push(format!("--database-path={}", path("db").display()));
            if program == "store-agent" {
                args.push("--store-id=s1".to_owned());
            }
            args.extend_from_slice(options);
            started.push((Process::start(&binary(program), &args, &path("log")), reason));
        }
        for (process, reason) in started {
            let log = until(reason, SOON, async || {
                let log = process.tail();
                if log.contains("Redis cannot be reached") && log.contains(*reason) { Ok(log) } else { Err(log) }
            })
            .await;
            assert!(!log.contains("secret-of") && !log.contains("wrong-of"), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_right_is_said_at_the_start() {
    let world = world().await;
    let path = |name: &str| world.dir().join(name).display().to_string();
    std::fs::write(path("empty"), "\n").expect("a file is written");
    let files = world.certificates();
    let client = format!("--redis-cert-file={}", files.client.display());
    let (none, empty) = (path("none"), path("empty"));
    let named = world.redis_url_of("s1").replace(":secret-of-s1", "");
    let cases = [
        (named.clone(), vec![], "the user s1, but there is no password"),
        (named.clone(), vec![format!("--redis-password-file={none}")], "cannot be read"),
        (named.clone(), vec![format!("--redis-password-file={empty}")], "is empty"),
        (world.redis_url_of("s1"), vec![format!("--redis-password-file={}", path("ca.pem"))], "give one"),
        (world.redis_url_of("s1"), vec![format!("--redis-ca-file={none}")], "cannot be read"),
        (world.redis_url_of("s1"), vec![format!("--redis-ca-file={empty}")], "holds no certificate"),
        (world.redis_url_of("s1"), vec![client.clone(), format!("--redis-key-file={empty}")], "holds no key"),
        (world.redis_url_of("s1"), vec![client, format!("--redis-key-file={}", path("server-key.pem"))], "do not fit"),
        (world.plain_redis_url_of("s1"), vec![], "must begin with rediss://"),
        (world.redis_url_of("s1") + "#insecure", vec![], "certificates are always checked"),
        ("what:secret-of-s1".to_owned(), vec![], "REDIS_URL must be an address of Redis"),
    ];
    for (number, (url, options, reason)) in cases.iter().enumerate() {
        for program in ["store-agent", "central"] {
            let database = format!("--database-path={}", path(&format!("{number}.db")));
            let mut args = vec!["serve", "--redis-url", url, "--listen=127.0.0.1:0", &database];
            if program == "store-agent" {
                args.extend(["--store-id", "s1"]);
            }
            args.extend(options.iter().map(String::as_str));
            let (done, said) = world.tool(program, &args).await;
            assert!(!done && said.contains(reason) && !said.contains("secret"), "{program} {reason}: {said}");
            assert!(!world.dir().join(format!("{number}.db")).exists(), "nothing was begun");
        }
    }
    for program in ["store-agent", "central"] {
        let (done, help) = world.tool(program, &["serve", "--help"]).await;
        assert!(done && help.contains("--redis-ca-file") && !help.contains("secret"), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_comes_from_a_file() {
    let world = world().await;
    let (url, file) = (world.redis_url_of("central").replace(":secret-of-central", ""), world.password_file("central"));
    let files = world.certificates();
    let path = |end: &str| world.dir().join(format!("second.{end}"));
    let args = [
        "serve".to_owned(),
        format!("--redis-url={url}"),
        format!("--redis-password-file={}", file.display()),
        format!("--redis-ca-file={}", files.ca.display()),
        format!("--redis-cert-file={}", files.client.display()),
        format!("--redis-key-file={}", files.client_key.display()),
        "--key-prefix=shelf".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--database-path={}", path("db").display()),
    ];
    let process = Process::start(&binary("central"), &args, &path("log"));
    until("Redis answers", SOON, async || {
        let log = process.tail();
        if log.contains("Redis answers") { Ok(()) } else { Err(log) }
    })
    .await;
}
