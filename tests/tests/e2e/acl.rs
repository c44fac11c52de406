//! Users of Redis with no more rights than they need. Every world gives each daemon one; here it is looked at closely.

use std::time::Duration;

use redis::Value;
use serde_json::json;
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);
const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");

async fn world(stores: &[&str]) -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 20_000, sweep_ms: 300 }.start(stores).await;
    for store in stores {
        let stock = json!({"productId": "tea", "name": "Tea", "quantity": 50});
        world.store(store).post("/v1/inventory", stock).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

/// What Redis has refused so far.
async fn refused(world: &World) -> Vec<String> {
    let log = world.redis(&["ACL", "LOG"]).await.expect("Redis answers");
    let Value::Array(entries) = log else { panic!("a list: {log:?}") };
    entries.iter().map(|entry| format!("{entry:?}")).collect()
}

/// That a store left and came back reaches central later than it happened: being online may be of the time before.
async fn sells_online(world: &World, store: &str) {
    until(&format!("{store} sells online"), SOON, async || {
        let answer = world.central().post(&format!("/v1/purchase/{store}/tea"), json!({"quantity": 1})).await;
        if answer.status == 503 { Err(answer.body) } else { Ok(answer.expect(200)) }
    })
    .await;
}

async fn restored(world: &World, program: &str, args: &[&str]) {
    let (done, said) = world.tool(program, &[&["restore"], args].concat()).await;
    assert!(done && !said.contains("Redis does not answer"), "{said}");
}

fn remove(world: &World, store: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = world.database(store).into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_two_do_is_refused() {
    let mut world = world(&["s1"]).await;
    let (central, store) = (world.central(), world.store("s1"));
    store.post("/v1/purchase/tea", json!({"quantity": 2})).await.expect(200);
    let bought = central.post("/v1/purchase/s1/tea", json!({"quantity": 3})).await.expect(200);
    let cancel = format!("/v1/purchases/{}/cancel", bought["purchase"]["purchaseId"].as_str().expect("an id"));
    central.post(&cancel, json!({})).await.expect(200);
    central.post("/v1/inventory/s1", json!({"productId": "salt", "quantity": 5})).await.expect(201);
    central.post("/v1/inventory/s1/salt/receive", json!({"quantity": 2})).await.expect(200);
    central.put("/v1/inventory/s1/salt", json!({"quantity": 4})).await.expect(200);
    central.post("/v1/stores/s1/resync", json!({})).await.expect(202);
    world.converged(SOON).await;

    world.flush_redis().await;
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    world.add_store("s2");
    world.up(&Daemon::Store("s2".into())).await;
    world.online("s2").await;
    store.post("/v1/disconnected", json!({})).await.expect(200);
    store.post("/v1/connected", json!({})).await.expect(200);
    sells_online(&world, "s1").await;

    let backup = world.dir().join("backup.db").display().to_string();
    let (done, said) = world.tool("central", &["backup", "--to", &backup]).await;
    assert!(done, "{said}");
    sells_online(&world, "s1").await;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    restored(&world, "central", &["--from", &backup]).await;
    world.restart(&Daemon::Central).await;
    sells_online(&world, "s1").await;
    let agent = Daemon::Store("s1".into());
    assert_eq!(world.terminate(&agent), Some(0));
    remove(&world, "s1");
    restored(&world, "store-agent", &["--store-id", "s1"]).await;
    world.restart(&agent).await;
    sells_online(&world, "s1").await;
    world.converged(SOON).await;
    assert_eq!(refused(&world).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operators_are_told_is_refused_is_refused() {
    let (_, list) = OPERATIONS.split_once("is refused each of these:\n").expect("the list");
    let commands: Vec<&str> = list.lines().skip(1).map_while(|line| line.strip_prefix("    ")).collect();
    assert!(commands.len() > 30, "{commands:?}");
    let world = world(&["store-1", "store-2"]).await;
    let client = redis::Client::open(world.redis_url_of("store-2")).expect("an address");
    let mut intruder = client.get_multiplexed_async_connection().await.expect("Redis answers");
    for command in commands {
        let mut words = command.split_whitespace();
        let answer: redis::RedisResult<Value> = redis::cmd(words.next().expect("a command"))
            .arg(words.collect::<Vec<_>>())
            .query_async(&mut intruder)
            .await;
        assert_eq!(answer.as_ref().expect_err(command).code(), Some("NOPERM"), "{command}: {answer:?}");
    }
    sells_online(&world, "store-1").await;
    sells_online(&world, "store-2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_central_knows_needs_no_right_to_the_set_of_stores() {
    let mut world = world(&["s1"]).await;
    let password = world.password_file("s1");
    let args = ["stores", "acl", "s1", "--stores-known-only", "--password-file", &password.display().to_string()];
    let (done, line) = world.tool("central", &args).await;
    assert!(done && !line.contains("shelf:stores"), "{line}");
    world.redis(&line.split_whitespace().collect::<Vec<_>>()).await.expect("a line that Redis takes");
    world.redis(&["DEL", "shelf:stores"]).await.expect("Redis answers");
    let agent = Daemon::Store("s1".into());
    assert_eq!(world.terminate(&agent), Some(0));
    world.restart(&agent).await;
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    sells_online(&world, "s1").await;
    world.flush_redis().await;
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    let log = world.running(&agent).tail();
    assert_eq!(log.matches("cannot find this store").count(), 1, "{log}");
    let refused = refused(&world).await;
    assert!(!refused.is_empty() && refused.iter().all(|entry| entry.contains("sadd")), "{refused:?}");
}

/// How often Redis has refused to add an entry.
async fn refused_entries(world: &World) -> u64 {
    let told = format!("{:?}", world.redis(&["INFO", "commandstats"]).await.expect("Redis answers"));
    let xadd = told.split_once("cmdstat_xadd:").and_then(|(_, xadd)| xadd.split_once("rejected_calls="));
    let digits = xadd.map(|(_, count)| count.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.map_or(0, |digits| digits.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_publish_says_so_once_and_asks_less_often() {
    let world = world(&["s1"]).await;
    let agent = Daemon::Store("s1".into());
    let count = |text: &str| world.log(&agent).matches(text).count();
    let before = (count("Redis cannot be reached"), count("Redis answers"));
    world.redis(&["ACL", "SETUSER", "s1", "-xadd"]).await.expect("Redis answers");
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    let began = std::time::Instant::now();
    until("it tries again", SOON, async || {
        let refused = refused_entries(&world).await;
        if refused < 8 { Err(refused) } else { Ok(()) }
    })
    .await;
    let took = began.elapsed();
    assert_eq!((count("Redis cannot be reached"), count("Redis answers")), (before.0 + 1, before.1));
    // At least a tenth of 100, 200, 400, 800, 1,600, 2,000 and 2,000 ms.
    assert!(took > Duration::from_millis(700), "{took:?}");
    world.redis(&["ACL", "SETUSER", "s1", "+xadd"]).await.expect("Redis answers");
    world.converged(SOON).await;
    assert_eq!((count("Redis cannot be reached"), count("Redis answers")), (before.0 + 1, before.1 + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_work_when_pasted() {
    let world = world(&["s1", "s2"]).await;
    let users = world.redis(&["ACL", "LIST"]).await.expect("Redis answers");
    let mut file = "user default on nopass ~* &* +@all\n".to_owned();
    for (user, args) in
        [("central", &["acl"] as &[&str]), ("s1", &["stores", "acl", "s1"]), ("s2", &["stores", "acl", "s2"])]
    {
        let password = world.password_file(user).display().to_string();
        let args = [args, &["--password-file", &password]].concat();
        let (done, line) = world.tool("central", &args).await;
        assert!(done && !line.contains("secret"), "{line}");
        world.redis(&line.split_whitespace().collect::<Vec<_>>()).await.expect("a line that Redis takes");
        let (done, line) = world.tool("central", &[&args as &[&str], &["--for-acl-file"]].concat()).await;
        assert!(done, "{line}");
        file.push_str(&line);
    }
    assert_eq!(world.redis(&["ACL", "LIST"]).await.expect("Redis answers"), users, "as commands");
    std::fs::write(world.dir().join("users.acl"), file).expect("the file of users is written");
    world.redis(&["ACL", "LOAD"]).await.expect("a file that Redis takes");
    assert_eq!(world.redis(&["ACL", "LIST"]).await.expect("Redis answers"), users, "as a file");
    for args in [&["acl"] as &[&str], &["stores", "acl", "store-1"]] {
        let (done, line) = world.tool("central", args).await;
        assert!(
            done && OPERATIONS.contains(&format!("\n    {line}")),
            "the operators are told another line than {line}"
        );
    }
    let (done, said) = world.tool("central", &["stores", "acl", "default"]).await;
    assert!(!done && said.contains("--user"), "{said}");
}
