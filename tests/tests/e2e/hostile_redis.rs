//! Whatever stands in Redis under one store's keys, and however many ids are entered there, hurts no other store.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::link::{Cursor, Entry, Events};
use serde_json::{Value, json};
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);
const MB: usize = 1 << 20;

/// Two stores with tea.
async fn world() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 2_000, sweep_ms: 300 }.start(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        world.store(store).post("/v1/inventory", json!({"productId": "tea", "quantity": 5_000})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

/// A purchase at the store that has nothing to do with it all is confirmed, and soon.
async fn s1_sells(world: &World) {
    let began = Instant::now();
    let wait = [("prefer", "wait=5")];
    world.central().post_with("/v1/purchase/s1/tea", &wait, json!({"quantity": 1})).await.expect(200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Memory of central now, MB.
/// Central's memory in MB: "VmRSS:" now, "VmHWM:" the most that it ever had.
fn memory_of_central(world: &mut World, which: &str) -> usize {
    let process = world.running(&Daemon::Central).id();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") / 1_024
}

async fn store(world: &World, id: &str) -> Value {
    world.central().get(&format!("/v1/stores/{id}")).await.expect(200)
}

async fn store_is(world: &World, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{id} {what}"), SOON, async || {
        let answer = world.central().get(&format!("/v1/stores/{id}")).await;
        if answer.status == 200 && wanted(&answer.body) { Ok(answer.body) } else { Err(answer.body) }
    })
    .await
}

fn warns_of(store: &Value, what: &str) -> bool {
    store["warnings"].as_array().is_some_and(|list| list.iter().any(|line| line.as_str().unwrap_or("").contains(what)))
}

fn claim(epoch: u64) -> String {
    json!({"process": 1, "epoch": epoch, "why": "waiting", "items": 0, "backlog": 1, "forMs": 1, "version": "1"})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_ids_makes_no_stores_and_is_forgotten() {
    let mut world = world().await;
    let before = memory_of_central(&mut world, "VmHWM:");
    let mut redis = world.redis_connection().await;
    for block in 0..20 {
        let ids: Vec<String> = (0..1_000).map(|number| format!("flood-{}", block * 1_000 + number)).collect();
        redis::cmd("SADD").arg("shelf:stores").arg(ids).query_async::<()>(&mut redis).await.expect("Redis answers");
    }
    let newcomers = async || world.central().get("/v1/stores").await.expect(200)["newcomers"].clone();
    until("they are counted", SOON, async || {
        s1_sells(&world).await;
        let seen = newcomers().await;
        if seen["count"].as_u64() >= Some(20_000) { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(newcomers().await["names"].as_array().map(Vec::len), Some(10));
    let list = world.central().get("/v1/stores").await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    // A real one is found in the flood.
    world.add_store("s3");
    world.online("s3").await;
    s1_sells(&world).await;
    assert!(memory_of_central(&mut world, "VmHWM:") < before + 60, "{before} MB before");
    world.redis(&["DEL", "shelf:stores"]).await.expect("Redis answers");
    until("they are forgotten", SOON, async || {
        let seen = world.central().get("/v1/stores").await.expect(200)["newcomers"].clone();
        if seen["count"] == 0 { Ok(()) } else { Err(seen) }
    })
    .await;
    // Pages, as everywhere.
    let first = world.central().get("/v1/stores?size=2").await.expect(200);
    let rest = format!("/v1/stores?size=2&cursor={}", first["nextCursor"].as_str().expect("a next page"));
    let second = world.central().get(&rest).await.expect(200);
    assert_eq!((&second["items"][0]["storeId"], &second["nextCursor"]), (&json!("s3"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_becomes_a_store_once_an_agent_is_behind_it() {
    let world = Builder { sweep_ms: 300, ..Builder::default() }.start(&["s1"]).await;
    let heartbeat = |epoch: u64| {
        json!({"process": 1, "epoch": epoch, "head": 1, "backlog": 0, "oldestUnsentMs": 0, "version": "1", "lifeMs": 9_000})
            .to_string()
    };
    let opened = Entry::follow(
        &Cursor::<Events> { epoch: 7.into(), ..Cursor::default() },
        "opened",
        "op",
        "{\"lineage\":[]}".into(),
        None,
    );
    let hash = opened.hash.to_string();
    let add = |key: &'static str, id: &'static str, kind: &'static str| {
        vec!["XADD", key, id, "v", "1", "t", kind, "i", "op", "b", "{\"lineage\":[]}", "c"]
    };
    let mut redis = world.redis_connection().await;
    let mut run = async |words: Vec<&str>, last: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).arg(last);
        command.query_async::<redis::Value>(&mut redis).await.expect("Redis takes it");
    };
    run(vec!["SET", "shelf:{none-1}:heartbeat"], &["garbage"]).await;
    run(vec!["SET", "shelf:{none-2}:heartbeat"], &[&heartbeat(0), "PX", "9000"]).await;
    run(add("shelf:{none-3}:events", "7-5", "sold"), &[&hash]).await;
    run(add("shelf:{none-4}:events", "7-1", "opened"), &["00000000000000000000000000000000"]).await;
    run(vec!["SET", "shelf:{none-5}:claim"], &[&claim(0)]).await;
    run(vec!["RPUSH", "shelf:{none-6}:events"], &["x"]).await;
    let many = "x".repeat(2 * MB);
    run(vec!["SET", "shelf:{none-7}:heartbeat"], &[&many]).await;
    run(vec!["SET", "shelf:{beats}:heartbeat"], &[&heartbeat(7), "PX", "9000"]).await;
    run(add("shelf:{opens}:events", "7-1", "opened"), &[&hash]).await;
    run(vec!["SET", "shelf:{claims}:claim"], &[&claim(7)]).await;
    let ids = ["none-1", "none-2", "none-3", "none-4", "none-5", "none-6", "none-7", "beats", "opens", "claims", "a b"];
    run(vec!["SADD", "shelf:stores"], &ids).await;
    let central = world.central();
    until("three of them are stores", SOON, async || {
        let list = central.get("/v1/stores").await.expect(200);
        let found: Vec<&str> =
            list["items"].as_array().expect("a list").iter().filter_map(|store| store["storeId"].as_str()).collect();
        let done = found == ["beats", "claims", "opens", "s1"] && list["newcomers"]["count"] == 7;
        if done { Ok(()) } else { Err(list) }
    })
    .await;
    // Each gets central's word, which is what its agent waits for.
    for id in ["beats", "claims", "opens"] {
        until("it is told", SOON, async || {
            let ack = world.redis(&["GET", &format!("shelf:{{{id}}}:events:ack")]).await.expect("Redis answers");
            if ack == redis::Value::Nil { Err(ack) } else { Ok(()) }
        })
        .await;
    }
    // Of many that come at once the log names ten.
    let crowd: Vec<String> = (0..12).map(|number| format!("crowd-{number}")).collect();
    for id in &crowd {
        run(vec!["SET", &format!("shelf:{{{id}}}:heartbeat")], &[&heartbeat(7), "PX", "9000"]).await;
    }
    run(vec!["SADD", "shelf:stores"], &crowd.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let log = world.dir().join("central.log");
    let line = until("the log tells of them", SOON, async || {
        let log = std::fs::read_to_string(&log).expect("the log of central");
        let told = log.lines().find(|line| line.contains("discovered") && line.contains("count=12"));
        told.map(str::to_owned).ok_or_else(|| log.clone())
    })
    .await;
    assert_eq!(line.matches("crowd-").count(), 10, "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_say_which_stores_there_are() {
    let mut world = Builder { sweep_ms: 300, ..Builder::default() }.start(&["s1"]).await;
    world.terminate(&Daemon::Central);
    world.central_args = vec!["--stores-known-only".into()];
    world.restart(&Daemon::Central).await;
    world.add_store("s2");
    world.up(&Daemon::Store("s2".into())).await;
    until("s2 waits for central's word", SOON, async || {
        let said = world.redis(&["EXISTS", "shelf:{s2}:claim"]).await.expect("Redis answers");
        if said == redis::Value::Int(1) { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(world.central().get("/v1/stores/s2").await.code(), "unknown_store");
    let stores = async |words: &[&str]| world.tool("central", &[&["stores"], words].concat()).await;
    let (ok, said) = stores(&["add", "s2"]).await;
    assert!(ok && said.contains("known now"), "{said}");
    world.online("s2").await;
    let (ok, said) = stores(&["add", "typo"]).await;
    assert!(ok, "{said}");
    let (ok, said) = stores(&["list"]).await;
    assert!(ok && ["s1", "s2", "typo"].iter().all(|id| said.contains(id)), "{said}");
    let (ok, said) = stores(&["forget", "typo"]).await;
    assert!(ok && said.contains("forgotten"), "{said}");
    assert_eq!(world.central().get("/v1/stores/typo").await.status, 404);
    for (id, why) in [("typo", "Unknown Store"), ("s1", "Store Opened"), ("a b", "invalid value")] {
        let (ok, said) = stores(&["forget", id]).await;
        assert!(!ok && said.contains(why), "{said}");
    }
    let (ok, said) = stores(&["add", "s1"]).await;
    assert!(ok && said.contains("known before"), "{said}");
    world.online("s1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_values_are_not_read() {
    let mut world = world().await;
    let before = memory_of_central(&mut world, "VmHWM:");
    world.kill(&Daemon::Store("s2".into()));
    let huge = "x".repeat(50 * MB);
    let mut redis = world.redis_connection().await;
    redis.set_response_timeout(SOON);
    for key in ["heartbeat", "commands:ack", "claim"] {
        let mut set = redis::cmd("SET");
        set.arg(format!("shelf:{{s2}}:{key}")).arg(&huge);
        set.query_async::<()>(&mut redis).await.expect("Redis takes it");
        s1_sells(&world).await;
    }
    let most = memory_of_central(&mut world, "VmHWM:");
    assert!(most < before + 40, "{before} MB before, {most} since");
    let epoch = store(&world, "s2").await["epoch"].as_u64().expect("a number");
    let mut add = redis::cmd("XADD");
    add.arg("shelf:{s2}:events").arg(format!("{epoch}-4000000000")).arg("b").arg(&huge);
    add.query_async::<()>(&mut redis).await.expect("Redis takes it");
    redis::cmd("PUBLISH").arg("shelf:bell:0").arg("s2").query_async::<()>(&mut redis).await.expect("Redis takes it");
    store_is(&world, "s2", "is quarantined", |store| warns_of(store, "too large to be read")).await;
    for _ in 0..20 {
        s1_sells(&world).await;
    }
    // An entry that comes between the question for the stream's size and the read is read, once; every other one is not.
    until("central's memory is what it was", SOON, async || {
        let now = memory_of_central(&mut world, "VmRSS:");
        if now < before + 40 { Ok(()) } else { Err(format!("{before} MB before, {now} now")) }
    })
    .await;
    // Its agent comes back and clears what is not its own.
    world.restart(&Daemon::Store("s2".into())).await;
    world.online("s2").await;
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_streams_are_read_beside_all_others() {
    let world = world().await;
    // No agent writes this, so that it stays: a stream larger than the main lane reads, whose entries do not fit.
    let mut redis = world.redis_connection().await;
    let body = "x".repeat(100_000);
    let mut pipe = redis::pipe();
    for seq in 1..=200 {
        pipe.cmd("XADD").arg("shelf:{large}:events").arg(format!("7-{seq}")).arg("b").arg(&body).ignore();
    }
    pipe.cmd("SET").arg("shelf:{large}:claim").arg(claim(7)).ignore();
    pipe.cmd("SADD").arg("shelf:stores").arg("large").ignore();
    pipe.query_async::<()>(&mut redis).await.expect("Redis takes it");
    let seen = store_is(&world, "large", "is looked at", |store| store["lagMs"].as_i64() > Some(0)).await;
    assert_eq!(seen["applied"], 0, "{seen}");
    for _ in 0..20 {
        s1_sells(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_refuses_for_one_store_is_that_stores_affair() {
    let world = world().await;
    let keys = ["events", "events:ack", "commands", "commands:ack", "heartbeat", "claim"];
    for denied in ["events:ack", "events", "commands", "heartbeat"] {
        let mut acl = vec!["ACL", "SETUSER", "central", "resetkeys", "~shelf:{s1}:*", "~shelf:stores"];
        let allowed: Vec<String> =
            keys.iter().filter(|key| **key != denied).map(|key| format!("~shelf:{{s2}}:{key}")).collect();
        acl.extend(allowed.iter().map(String::as_str));
        world.redis(&acl).await.expect("Redis takes it");
        if denied == "commands" {
            // It has to be sent to be refused.
            let none = [("prefer", "respond-async")];
            world.central().post_with("/v1/purchase/s2/tea", &none, json!({"quantity": 1})).await;
        }
        let what = format!("cannot do without {denied}");
        store_is(&world, "s2", &what, |store| store["status"] != "online" && warns_of(store, "permissions")).await;
        for _ in 0..5 {
            let sold = world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
            s1_sells(&world).await;
            until("its sales are seen", Duration::from_secs(5), async || {
                let seen = world.central().get("/v1/inventory/s1/tea").await.expect(200);
                if seen["version"].as_i64() > sold["version"].as_i64() { Ok(()) } else { Err(seen) }
            })
            .await;
        }
        world.redis(&["ACL", "SETUSER", "central", "allkeys"]).await.expect("Redis takes it");
        world.online("s2").await;
    }
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_are_their_own_stores_affair() {
    let mut world = world().await;
    world.kill(&Daemon::Store("s2".into()));
    for key in ["events", "events:ack", "commands", "commands:ack", "heartbeat", "claim"] {
        let key = format!("shelf:{{s2}}:{key}");
        world.redis(&["DEL", &key]).await.expect("Redis answers");
        world.redis(&["LPUSH", &key, "x"]).await.expect("Redis takes it");
    }
    store_is(&world, "s2", "is quarantined", |store| warns_of(store, "WRONGTYPE")).await;
    for _ in 0..10 {
        s1_sells(&world).await;
    }
    world.restart(&Daemon::Store("s2".into())).await;
    world.online("s2").await;
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bells_may_ring_as_they_like() {
    let mut world = world().await;
    let before = memory_of_central(&mut world, "VmHWM:");
    let mut redis = world.redis_connection().await;
    let long = "x".repeat(MB);
    let ringing = tokio::spawn(async move {
        for tick in 0..40 {
            let began = Instant::now();
            let mut pipe = redis::pipe();
            for number in 0..500 {
                pipe.cmd("PUBLISH").arg("shelf:bell:0").arg(format!("nobody-{tick}-{number}")).ignore();
                pipe.cmd("PUBLISH").arg("shelf:bell:0").arg("s2").ignore();
            }
            pipe.cmd("PUBLISH").arg("shelf:bell:0").arg(&long).ignore();
            pipe.query_async::<()>(&mut redis).await.expect("Redis answers");
            // Time passes here on purpose: a rate is what is tried.
            tokio::time::sleep(Duration::from_millis(50).saturating_sub(began.elapsed())).await;
        }
    });
    while !ringing.is_finished() {
        s1_sells(&world).await;
    }
    ringing.await.expect("it rang");
    assert!(memory_of_central(&mut world, "VmHWM:") < before + 40, "{before} MB before");
    assert_eq!(world.central().get("/v1/stores").await.expect(200)["items"].as_array().map(Vec::len), Some(2));
    world.store("s2").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_has_stopped_itself_is_seen() {
    let mut world = world().await;
    let agent = Daemon::Store("s1".into());
    // Another one asks for a restore: the running agent is superseded.
    let epoch = store(&world, "s1").await["epoch"].clone();
    let question = json!({"epoch": epoch, "log": []});
    world.central().post("/v1/stores/s1/restore", question).await.expect(200);
    let seen = store_is(&world, "s1", "is superseded", |store| store["stoppedAgent"]["why"] == "superseded").await;
    assert_eq!((&seen["stoppedAgent"]["epoch"], &seen["stoppedAgent"]["items"]), (&epoch, &json!(1)), "{seen}");
    let seen = store_is(&world, "s1", "shows it", |store| store["status"] == "fenced").await;
    let unknown = (&seen["head"], &seen["lagMs"], &seen["backlog"], &seen["digest"]);
    assert_eq!(unknown, (&Value::Null, &Value::Null, &Value::Null, &json!("unknown")), "{seen}");
    let refused = world.central().post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
    assert_eq!(refused.code(), "store_unavailable");
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    store_is(&world, "s1", "tells its backlog", |store| store["stoppedAgent"]["backlog"].as_i64() > Some(0)).await;
    // It is stopped for good, and somebody starts an empty one in its place.
    world.terminate(&agent);
    for file in ["s1.db", "s1.db-wal", "s1.db-shm"] {
        let _ = std::fs::remove_file(world.dir().join(file));
    }
    world.restart(&agent).await;
    let seen = store_is(&world, "s1", "is claimed", |store| store["claims"][0]["items"] == 0).await;
    let epoch = seen["claims"][0]["epoch"].clone();
    assert_eq!(seen["stoppedAgent"]["epoch"], epoch, "{seen}");
    let adopt = async |body: BTreeMap<&str, Value>| world.central().post("/v1/stores/s1/adopt", json!(body)).await;
    let answer = adopt([("epoch", epoch.clone())].into()).await;
    assert_eq!((answer.status, answer.code()), (409, "empty_claim"), "it would empty the store");
    adopt([("epoch", epoch), ("items", json!(0))].into()).await.expect(202);
    let seen = store_is(&world, "s1", "is followed", |store| store["status"] == "online").await;
    assert_eq!((&seen["stoppedAgent"], &seen["claims"]), (&Value::Null, &json!([])), "{seen}");
    assert_eq!(world.central().get("/v1/inventory/s1").await.expect(200)["items"], json!([]));
}
