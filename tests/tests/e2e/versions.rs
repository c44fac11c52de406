//! Two versions in one chain, as during an upgrade: what both know works, what one does not know is refused as such or waits
//! for the upgrade, and nothing is lost.
//!
//! They need the daemons of an earlier version: `cargo xtask versions` builds those and runs these tests.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Answer, Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);
/// Central asks a store whose state differs for all of it once a minute at most.
const NEXT_RESYNC: Duration = Duration::from_secs(80);
const STORES: [&str; 2] = ["s1", "s2"];
const WAIT: [(&str, &str); 1] = [("prefer", "wait=10")];

fn builder() -> Builder {
    Builder { heartbeat_ms: 300, max_age_ms: 5_000, sweep_ms: 300 }
}

fn store(name: &str) -> Daemon {
    Daemon::Store(name.into())
}

/// A store's agent is lost with its disk, and comes back out of what central knows.
async fn lost_and_restored(world: &mut World, name: &str) {
    world.kill(&store(name));
    world.lose_database(&store(name));
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", name]).await;
    assert!(done, "{said}");
    world.restart(&store(name)).await;
    world.online(name).await;
}

/// Which stores a purchase has asked, and what each has said.
fn attempts(answer: &Answer) -> Vec<(&str, &str)> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let attempts = answer.body["attempts"].as_array().expect("a list").iter();
    attempts.map(|one| (one["storeId"].as_str().expect("a store"), one["code"].as_str().expect("a code"))).collect()
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

async fn join(world: &mut World) {
    for name in STORES {
        world.add_store(name);
        world.up(&store(name)).await;
    }
    for name in STORES {
        world.online(name).await;
    }
}

/// What both versions know: at the tills, online, with Redis lost on the way and an agent killed.
async fn trade(world: &mut World) {
    for name in STORES {
        let till = world.store(name);
        till.post("/v1/inventory", json!({"productId": "tea", "name": "Tea", "quantity": 50})).await.expect(201);
        till.post("/v1/inventory/tea/receive", json!({"quantity": 12})).await.expect(200);
        till.put("/v1/inventory/tea", json!({"quantity": 60})).await.expect(200);
        till.post("/v1/inventory/tea/adjust", json!({"delta": -2, "reason": "damage"})).await.expect(200);
        for replayed in ["", "true"] {
            let key = [("idempotency-key", "receipt-1")];
            let sold = till.post_with("/v1/purchase/tea", &key, json!({"quantity": 3})).await;
            assert_eq!((sold.status, sold.header("idempotency-replayed")), (200, replayed), "{}", sold.body);
        }
    }
    world.converged(SOON).await;
    let central = world.central();
    let mut bought = Vec::new();
    for replayed in ["", "true"] {
        let key = [("idempotency-key", "order-1")];
        let answer = central.post_with("/v1/purchase/s1/tea", &key, json!({"quantity": 5})).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.body);
        bought.push(answer.body["purchase"]["purchaseId"].clone());
    }
    assert_eq!(bought[0], bought[1]);
    let back = central.post("/v1/purchase/s1/tea", json!({"quantity": 7})).await.expect(200);
    let back = format!("/v1/purchases/{}/cancel", back["purchase"]["purchaseId"].as_str().expect("an id"));
    central.post_with(&back, &WAIT, json!({})).await.expect(200);
    let short = central.post("/v1/purchase/s1/tea", json!({"quantity": 51})).await;
    assert_eq!(refused(&short), (409, "insufficient_stock"), "{}", short.body);
    central
        .ask(reqwest::Method::PATCH, "/v1/inventory/s1/tea", &WAIT, Some(&json!({"name": "Green tea"})))
        .await
        .expect("an answer")
        .expect(200);
    world.flush_redis().await;
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.kill(&store("s2"));
    world.restart(&store("s2")).await;
    world.store("s2").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    assert_eq!(
        [tea(world, "s1").await, tea(world, "s2").await],
        [[49, 49], [54, 54]],
        "sold, bought and given back once"
    );
}

/// Units of tea at a store and in central's view of it.
async fn tea(world: &World, name: &str) -> [i64; 2] {
    let own = world.store(name).get("/v1/inventory/tea").await.expect(200);
    let seen = world.central().get(&format!("/v1/inventory/{name}/tea")).await.expect(200);
    [own, seen].map(|item| item["quantity"].as_i64().expect("a number"))
}

async fn verified(world: &mut World) {
    world.converged(NEXT_RESYNC).await;
    for (program, args) in [("store-agent", &["verify", "--store-id", "s1"] as &[&str]), ("central", &["verify"])] {
        let (well, said) = world.tool(program, args).await;
        assert!(well && said.contains("All is well"), "{program}: {said}");
    }
}

/// What came later, asked of central, each with a key of its own.
async fn ask_for_what_is_new(world: &World, turn: &str) -> Vec<(String, Answer)> {
    let one: Value = json!([{"productId": "tea", "quantity": 1}]);
    let asked = [
        ("/v1/reservations", json!({"storeId": "s1", "lines": one})),
        ("/v1/operations", json!({"storeId": "s1", "operations": [{"op": "sell", "productId": "tea", "quantity": 1}]})),
        ("/v1/transfers", json!({"fromStoreId": "s1", "toStoreId": "s2", "lines": one})),
        (
            "/v1/purchase",
            json!({"storeId": "s1", "lines": [{"productId": "tea", "quantity": 1}, {"productId": "pot", "quantity": 1}]}),
        ),
    ];
    let mut answers = Vec::new();
    for (path, body) in asked {
        let key = format!("{turn}{path}");
        let headers = [WAIT[0], ("idempotency-key", &key)];
        answers.push((path.to_owned(), world.central().post_with(path, &headers, body).await));
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an earlier version: cargo xtask versions"]
async fn agents_of_an_earlier_version_work_beside_this_central() {
    let mut world = builder().start(&[]).await;
    world.earlier = STORES.map(store).into();
    join(&mut world).await;
    trade(&mut world).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "pot", "quantity": 9})).await.expect(201);
    world.converged(SOON).await;
    let before = [tea(&world, "s1").await, tea(&world, "s2").await];
    for (path, answer) in ask_for_what_is_new(&world, "before").await {
        assert_eq!(refused(&answer), (409, "unsupported_by_store"), "{path}: {}", answer.body);
    }
    let aside = world.central().put("/v1/inventory/s1/tea/allotment", json!({"quantity": 2})).await;
    assert_eq!(refused(&aside), (409, "unsupported_by_store"), "{}", aside.body);
    world.converged(SOON).await;
    assert_eq!([tea(&world, "s1").await, tea(&world, "s2").await], before, "what was refused has changed nothing");

    // The agents are upgraded, one at a time.
    world.earlier.clear();
    for name in STORES {
        assert_eq!(world.terminate(&store(name)), Some(0));
        world.restart(&store(name)).await;
    }
    world.online("s1").await;
    world.converged(SOON).await;
    assert_eq!([tea(&world, "s1").await, tea(&world, "s2").await], before);
    for (path, answer) in ask_for_what_is_new(&world, "after").await {
        assert!([200, 201].contains(&answer.status), "{path}: {}", answer.body);
    }
    verified(&mut world).await;
    assert_eq!(tea(&world, "s1").await, [before[0][0] - 3; 2], "a batch, a transfer and a purchase took one each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an earlier version: cargo xtask versions"]
async fn an_agent_of_an_earlier_version_works_beside_a_new_one() {
    let mut world = builder().start(&[]).await;
    world.earlier = vec![store("s1")];
    join(&mut world).await;
    trade(&mut world).await;
    lost_and_restored(&mut world, "s1").await;
    for (name, units) in [("s1", 20), ("s2", 9)] {
        let pots = json!({"productId": "pot", "quantity": units});
        world.store(name).post("/v1/inventory", pots).await.expect(201);
    }
    world.converged(SOON).await;
    assert_eq!([tea(&world, "s1").await, tea(&world, "s2").await], [[49, 49], [54, 54]]);

    // Of one product whoever has most sells it; of several whoever knows how.
    let central = world.central();
    let one = json!({"productId": "pot", "quantity": 1});
    let several = json!({"lines": [{"productId": "tea", "quantity": 1}, {"productId": "pot", "quantity": 1}]});
    let sold = central.post_with("/v1/purchase", &WAIT, one.clone()).await;
    assert_eq!(attempts(&sold), [("s1", "confirmed")]);
    let sold = central.post_with("/v1/purchase", &WAIT, several).await;
    assert_eq!(attempts(&sold), [("s1", "unsupported_by_store"), ("s2", "confirmed")]);
    for name in STORES {
        let mut there = one.clone();
        there["storeId"] = json!(name);
        central.post_with("/v1/purchase", &WAIT, there).await.expect(200);
    }

    // What the earlier agent is sent waits for its upgrade.
    let lines = json!([{"productId": "tea", "quantity": 4}]);
    let from = |from: &str, to: &str| json!({"fromStoreId": from, "toStoreId": to, "lines": lines});
    let away = central.post_with("/v1/transfers", &WAIT, from("s1", "s2")).await;
    assert_eq!(refused(&away), (409, "unsupported_by_store"), "{}", away.body);
    let sent = central.post_with("/v1/transfers", &WAIT, from("s2", "s1")).await.expect(201);
    assert_eq!(sent["status"], "shipped", "{sent}");
    let receive = format!("/v1/transfers/{}/receive", sent["transferId"].as_str().expect("an id"));
    let received = central.post_with(&receive, &WAIT, json!({})).await;
    assert_eq!(refused(&received), (409, "unsupported_by_store"), "{}", received.body);
    for (path, asked) in [
        ("/v1/reservations", json!({"lines": lines})),
        ("/v1/operations", json!({"operations": [{"op": "receive", "productId": "tea", "quantity": 2}]})),
    ] {
        for (name, expected) in [("s1", 409), ("s2", 201)] {
            let mut there = asked.clone();
            there["storeId"] = json!(name);
            let answer = central.post_with(path, &WAIT, there).await;
            assert!(answer.status == expected || (expected, answer.status) == (201, 200), "{path}: {}", answer.body);
        }
    }
    world.converged(SOON).await;
    let chain = central.get("/v1/availability/tea").await.expect(200);
    assert_eq!(
        ["quantity", "reserved", "inTransit"].map(|name| chain[name].as_i64()),
        [100, 4, 4].map(Some),
        "{chain}"
    );

    world.earlier.clear();
    assert_eq!(world.terminate(&store("s1")), Some(0));
    world.restart(&store("s1")).await;
    world.online("s1").await;
    world.central().post("/v1/stores/s1/resync", json!({})).await.expect(202);
    until("the transfer is announced again", SOON, async || {
        let here = world.store("s1").get("/v1/transfers?direction=in").await.expect(200);
        if here["items"][0]["status"] == "shipped" { Ok(()) } else { Err(here) }
    })
    .await;
    world.store("s1").post(&receive, json!({})).await.expect(200);
    verified(&mut world).await;
    assert_eq!([tea(&world, "s1").await, tea(&world, "s2").await], [[53, 53], [51, 51]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an earlier version: cargo xtask versions"]
async fn a_central_of_an_earlier_version_works_beside_agents_of_both() {
    let mut world = builder().start(&[]).await;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    // It refuses the database of a later version.
    world.lose_database(&Daemon::Central);
    // One agent of each version.
    world.earlier = vec![Daemon::Central, store("s2")];
    world.restart(&Daemon::Central).await;
    join(&mut world).await;
    trade(&mut world).await;

    // Of what it does not know it keeps what it was told, and goes on.
    let till = world.store("s1");
    let held = json!({"lines": [{"productId": "tea", "quantity": 4}]});
    till.post("/v1/reservations", held).await.expect(201);
    till.put("/v1/inventory/tea/allotment", json!({"quantity": 2})).await.expect(200);
    till.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    until("the sale behind it is visible", SOON, async || match tea(&world, "s1").await {
        [48, 48] => Ok(()),
        other => Err(other),
    })
    .await;
    world.central().post("/v1/purchase/s2/tea", json!({"quantity": 1})).await.expect(200);

    world.earlier.clear();
    for daemon in [Daemon::Central, store("s2")] {
        assert_eq!(world.terminate(&daemon), Some(0));
        world.restart(&daemon).await;
    }
    world.central().post("/v1/dead-letters/replay", json!({})).await.expect(200);
    verified(&mut world).await;
    let item = world.central().get("/v1/inventory/s1/tea").await.expect(200);
    let figures = ["quantity", "reserved", "allotted"].map(|name| item[name].as_i64());
    assert_eq!(figures, [Some(48), Some(4), Some(2)], "{item}");
    assert_eq!(world.central().get("/v1/dead-letters").await.expect(200)["items"], json!([]));
    for (path, answer) in ask_for_what_is_new(&world, "after").await.into_iter().take(3) {
        assert!([200, 201].contains(&answer.status), "{path}: {}", answer.body);
    }
}
