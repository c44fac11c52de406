//! What an earlier version has stored and sent: its databases open and keep everything, its entries are understood.
//!
//! `tests/fixtures/<version>` has the databases of central and of two stores, Redis's keys, and what clients saw, all as that
//! version left them. In them: every operation of a till, purchases in every state that a client can bring about, central's
//! item commands, keys, an entry that nobody understands; a purchase that its store has not heard of, and sales that
//! central has not. A test writes one of the present version each time, into a folder that goes again unless `FIXTURES` names one:
//! `FIXTURES=$PWD/tests/fixtures cargo xtask test a_fixture` keeps it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use protocol::time::Millis;
use redis::Value as Reply;
use serde_json::{Value, json};
use tests::{Builder, Client, Daemon, World, record_unknown, until};

const SOON: Duration = Duration::from_secs(20);
const STORES: [&str; 2] = ["s1", "s2"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn store(name: &str) -> Daemon {
    Daemon::Store(name.into())
}

fn builder() -> Builder {
    Builder { heartbeat_ms: 300, max_age_ms: 5_000, sweep_ms: 300 }
}

/// What clients see of a list, without what a clock decides.
async fn list(client: &Client, path: &str, members: &[&str]) -> Value {
    let found = client.get(path).await.expect(200);
    assert!(found["nextCursor"].is_null(), "{path} has more than a page");
    let items = found["items"].as_array().expect("a list").iter();
    let chosen = |item: &Value| -> Value {
        members.iter().map(|member| ((*member).to_owned(), item[*member].clone())).collect()
    };
    items.map(chosen).collect()
}

const ITEM: &[&str] = &["productId", "name", "quantity", "reserved", "allotted", "lowAt", "discontinued", "version"];

async fn items(world: &World, store: &str) -> Value {
    list(&world.store(store), "/v1/inventory?size=200", ITEM).await
}

async fn items_at_central(world: &World, store: &str) -> Value {
    list(&world.central(), &format!("/v1/inventory/{store}?size=200"), ITEM).await
}

async fn purchases(world: &World) -> Value {
    let members = ["purchaseId", "storeId", "productId", "quantity", "status", "reference", "customerId", "createdAt"];
    list(&world.central(), "/v1/purchases?size=200", &members).await
}

async fn events(world: &World) -> Value {
    let members = ["type", "position", "operationId", "productId", "delta", "reference"];
    list(&world.central(), "/v1/events?size=1000", &members).await
}

fn text(bytes: &Reply) -> String {
    redis::from_redis_value(bytes.clone()).expect("text")
}

/// All streams and acks.
async fn contents(world: &World) -> Value {
    let Ok(Reply::Array(keys)) = world.redis(&["KEYS", "*"]).await else { panic!("KEYS answers a list") };
    let mut found = Vec::new();
    for key in keys.iter().map(text) {
        if key.ends_with(":ack") {
            let ack = world.redis(&["GET", &key]).await.expect("an ack");
            found.push(json!({"key": key, "ack": text(&ack)}));
        } else if key.ends_with(":events") || key.ends_with(":commands") {
            let entries = world.redis(&["XRANGE", &key, "-", "+"]).await.expect("a stream");
            let entries: Vec<(String, Vec<String>)> = redis::from_redis_value(entries).expect("entries");
            found.push(json!({"key": key, "entries": entries}));
        }
    }
    found.sort_by_key(|one| one["key"].to_string());
    found.into()
}

async fn put_back(world: &World, contents: &Value) {
    for one in contents.as_array().expect("a list") {
        let key = one["key"].as_str().expect("a key");
        if let Some(ack) = one["ack"].as_str() {
            world.redis(&["SET", key, ack]).await.expect("Redis answers");
        }
        for entry in one["entries"].as_array().into_iter().flatten() {
            let words = entry[1].as_array().expect("fields").iter().map(|word| word.as_str().expect("text"));
            let command: Vec<&str> =
                ["XADD", key, entry[0].as_str().expect("an id")].into_iter().chain(words).collect();
            world.redis(&command).await.expect("Redis answers");
        }
    }
    for name in STORES {
        world.redis(&["SADD", "shelf:stores", name]).await.expect("Redis answers");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_earlier_versions_stored_and_sent_is_kept() {
    let mut versions = 0;
    for entry in std::fs::read_dir(fixtures()).expect("fixtures") {
        let fixture = entry.expect("an entry").path();
        eprintln!("{}", fixture.display());
        opens_and_keeps_all(&fixture).await;
        versions += 1;
    }
    assert!(versions > 0, "no fixture was tried");
}

async fn opens_and_keeps_all(fixture: &Path) {
    let unpacked = |name: &str| {
        let file = std::fs::File::open(fixture.join(name)).expect(name);
        let mut bytes = Vec::new();
        GzDecoder::new(file).read_to_end(&mut bytes).expect(name);
        bytes
    };
    let json = |name: &str| -> Value { serde_json::from_slice(&unpacked(name)).expect(name) };
    let (before, contents) = (json("seen.json.gz"), json("redis.json.gz"));

    let mut world = builder().start(&[]).await;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    world.lose_database(&Daemon::Central);
    put_back(&world, &contents).await;
    std::fs::write(world.dir().join("central.db"), unpacked("central.db.gz")).expect("written");
    world.restart(&Daemon::Central).await;
    for name in STORES {
        std::fs::write(world.database(name), unpacked(&format!("{name}.db.gz"))).expect("written");
        world.add_store(name);
        world.up(&store(name)).await;
    }
    for name in STORES {
        world.online(name).await;
    }
    world.converged(SOON).await;

    for daemon in [Daemon::Central, store("s1")] {
        let log = world.log(&daemon);
        let (migrated, served) = (log.rfind("migrated the database, step "), log.rfind("listening on"));
        assert!(migrated.is_some() && migrated < served, "{log}");
    }
    for name in STORES {
        assert_eq!(items(&world, name).await, before[name], "what {name} had");
        assert_eq!(items_at_central(&world, name).await, before[name], "central has heard of all at {name}");
    }
    let old = |list: &str| before[list].as_array().expect("a list").clone();
    let (purchases, events) = (purchases(&world).await, events(&world).await);
    for event in old("events") {
        assert!(events.as_array().expect("a list").contains(&event), "{event} is gone");
    }
    for mut purchase in old("purchases") {
        if purchase["status"] == "pending" {
            // The store hears of it long after its deadline.
            purchase["status"] = "expired".into();
        }
        assert!(purchases.as_array().expect("a list").contains(&purchase), "{purchase} is gone or changed");
    }
    // It goes on from there.
    let sold = world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.central().post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    assert!(sold["version"].as_i64() > Some(1), "{sold}");
    world.converged(SOON).await;
    for (program, args) in [("store-agent", &["verify", "--store-id", "s1"] as &[&str]), ("central", &["verify"])] {
        let (well, said) = world.tool(program, args).await;
        assert!(well && said.contains("All is well"), "{program}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fixture_of_the_present_version_can_be_written() {
    let mut world = builder().start(&STORES).await;
    let central = world.central();
    for name in STORES {
        let client = world.store(name);
        let key = [("idempotency-key", "delivery-1")];
        let tea = json!({"productId": "tea", "name": "Tea", "quantity": 50, "lowAt": 5});
        client.post_with("/v1/inventory", &key, tea).await.expect(201);
        client.post("/v1/inventory", json!({"productId": "pot", "quantity": 3})).await.expect(201);
        client.post("/v1/inventory/tea/receive", json!({"quantity": 12, "reference": "delivery"})).await.expect(200);
        client.post("/v1/inventory/tea/adjust", json!({"delta": -2, "reason": "damage"})).await.expect(200);
        client.put("/v1/inventory/tea", json!({"quantity": 58, "countRef": "evening"})).await.expect(200);
        client.patch("/v1/inventory/pot", json!({"name": "Pot", "discontinued": true})).await.expect(200);
        client.post("/v1/purchase/tea", json!({"quantity": 4, "reference": "receipt"})).await.expect(200);
    }
    world.converged(SOON).await;
    let buy = json!({"quantity": 2, "customerId": "c-1", "reference": "order"});
    let mut bought = Vec::new();
    for _ in 0..3 {
        let answer = central.post("/v1/purchase/s1/tea", buy.clone()).await.expect(200);
        bought.push(answer["purchase"]["purchaseId"].as_str().expect("an id").to_owned());
    }
    world.store("s1").post(&format!("/v1/purchases/{}/picked", bought[0]), json!({})).await.expect(200);
    let wait = [("prefer", "wait=10")];
    central.post_with(&format!("/v1/purchases/{}/cancel", bought[1]), &wait, json!({})).await.expect(200);
    let named = json!({"name": "Green tea"});
    central
        .ask(reqwest::Method::PATCH, "/v1/inventory/s1/tea", &wait, Some(&named))
        .await
        .expect("an answer")
        .expect(200);
    assert_eq!(world.terminate(&store("s1")), Some(0));
    let file = rusqlite::Connection::open(world.database("s1")).expect("opens");
    record_unknown(&file, "teleported", "{}", "news", Millis(0)).expect("writes");
    drop(file);
    world.restart(&store("s1")).await;
    // Its digest shows that the entry has changed no stock.
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    world.online("s1").await;
    // The store is gone, and central does not know yet.
    world.kill(&store("s1"));
    let open = central.post_with("/v1/purchase/s1/tea", &[("prefer", "respond-async")], buy).await;
    assert_eq!(open.status, 202, "{}", open.body);
    until("the command is in Redis", SOON, async || match world.redis(&["XLEN", "shelf:{s1}:commands"]).await {
        Ok(Reply::Int(1..)) => Ok(()),
        other => Err(other),
    })
    .await;
    let (bought, told, first) = (purchases(&world).await, events(&world).await, items_at_central(&world, "s1").await);
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    // Central is gone, and the store sells on.
    for units in 1..4 {
        world.store("s2").post("/v1/purchase/tea", json!({"quantity": units})).await.expect(200);
    }
    until("the sales are in Redis", SOON, async || match world.redis(&["XLEN", "shelf:{s2}:events"]).await {
        Ok(Reply::Int(3..)) => Ok(()),
        other => Err(other),
    })
    .await;
    let contents = contents(&world).await;
    let second = items(&world, "s2").await;
    assert_eq!(world.terminate(&store("s2")), Some(0));

    let kept_in = std::env::var_os("FIXTURES").map(PathBuf::from);
    let folder = kept_in.unwrap_or_else(|| world.dir().join("fixtures")).join(env!("CARGO_PKG_VERSION"));
    assert!(!folder.exists(), "there is one of this version: raise it first");
    std::fs::create_dir_all(&folder).expect("a folder");
    let pack = |name: &str, bytes: &[u8]| {
        let file = std::fs::File::create(folder.join(format!("{name}.gz"))).expect(name);
        let mut encoder = GzEncoder::new(file, Compression::best());
        encoder.write_all(bytes).expect(name);
        encoder.finish().expect(name);
    };
    for name in ["central", "s1", "s2"] {
        // A process that was killed leaves its log behind.
        let file = rusqlite::Connection::open(world.database(name)).expect("opens");
        file.pragma_update(None, "wal_checkpoint", "TRUNCATE").expect("the log is taken in");
        drop(file);
        pack(&format!("{name}.db"), &std::fs::read(world.database(name)).expect("a database"));
    }
    let seen = json!({"s1": first, "s2": second, "purchases": bought, "events": told});
    pack("seen.json", &serde_json::to_vec_pretty(&seen).expect("JSON"));
    pack("redis.json", &serde_json::to_vec_pretty(&contents).expect("JSON"));
}
