//! Units that go from one store to another: they leave once, all lines or none, and arrive once, never more of them (P2, P3).

use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tests::{Answer, Client, Daemon, World, command_head, rewrite_commands, until};

const SOON: Duration = Duration::from_secs(15);
const PATH: &str = "/v1/transfers";

/// Two stores, the first with tea and jam.
async fn stocked() -> World {
    let world = World::with(&["s1", "s2"]).await;
    for (name, units) in [("tea", 9), ("jam", 2)] {
        let create = json!({"productId": name, "name": name.to_uppercase(), "quantity": units});
        world.store("s1").post("/v1/inventory", create).await.expect(201);
    }
    world.store("s2").post("/v1/inventory", json!({"productId": "tea", "quantity": 1})).await.expect(201);
    world.converged(SOON).await;
    world
}

fn lines(of: &[(&str, i64)]) -> Value {
    of.iter().map(|(name, quantity)| json!({"productId": name, "quantity": quantity})).collect()
}

fn from_s1(of: &[(&str, i64)]) -> Value {
    json!({"fromStoreId": "s1", "toStoreId": "s2", "lines": lines(of), "reference": "refill-1"})
}

fn path(transfer: &Value) -> String {
    format!("{PATH}/{}", transfer["transferId"].as_str().expect("an id"))
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

async fn units(store: &Client, product: &str) -> Option<i64> {
    let answer = store.get(&format!("/v1/inventory/{product}")).await;
    (answer.status == 200).then(|| answer.body["quantity"].as_i64().expect("a number"))
}

/// What central knows of a transfer, once that is its status.
async fn known(world: &World, path: &str, status: &str) -> Value {
    until(&format!("central knows {path} as {status}"), SOON, async || {
        let answer = world.central().get(path).await;
        if answer.body["status"] == status { Ok(answer.body) } else { Err(answer.body) }
    })
    .await
}

/// Waits until a store has heard that a transfer is on its way.
async fn expected(store: &Client, transfer: &Value) {
    until("the destination has heard of it", SOON, async || {
        let list = store.get("/v1/transfers?direction=in&status=shipped").await.expect(200);
        let ids = list["items"].as_array().expect("a list").iter().map(|item| &item["transferId"]);
        if ids.into_iter().any(|id| *id == transfer["transferId"]) { Ok(()) } else { Err(list) }
    })
    .await;
}

async fn in_transit(world: &World, product: &str) -> i64 {
    let shown = world.central().get(&format!("/v1/availability/{product}")).await.expect(200);
    let total = world.central().get("/v1/products?size=100").await.expect(200);
    let of_product = total["items"].as_array().expect("a list").iter().find(|total| total["productId"] == product);
    assert_eq!(of_product.expect("is carried")["inTransit"], shown["inTransit"]);
    shown["inTransit"].as_i64().expect("a number")
}

async fn sound(world: &World) {
    for (program, args) in [
        ("store-agent", &["verify", "--store-id", "s1"] as &[&str]),
        ("store-agent", &["verify", "--store-id", "s2"]),
        ("central", &["verify"]),
    ] {
        let (well, said) = world.tool(program, args).await;
        assert!(well, "{program}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_leave_one_store_and_arrive_at_the_other() {
    let world = stocked().await;
    let (central, source, destination) = (world.central(), world.store("s1"), world.store("s2"));
    let key = [("idempotency-key", "refill-1")];
    let made = central.post_with(PATH, &key, from_s1(&[("tea", 2), ("jam", 2), ("tea", 2)])).await;
    assert_eq!(made.header("location"), path(&made.body));
    let made = made.expect(201);
    assert_eq!((&made["status"], &made["discrepancy"]), (&json!("shipped"), &json!(false)));
    assert_eq!(made["lines"][1], json!({"productId": "tea", "name": "TEA", "quantity": 4, "received": null}));
    assert_eq!((units(&source, "tea").await, units(&source, "jam").await), (Some(5), Some(0)));
    assert_eq!((in_transit(&world, "tea").await, in_transit(&world, "jam").await), (4, 2));
    let again = central.post_with(PATH, &key, from_s1(&[("tea", 2), ("jam", 2), ("tea", 2)])).await;
    assert_eq!((again.header("idempotency-replayed"), again.status), ("true", 200));
    assert_eq!(again.body["transferId"], made["transferId"]);
    assert_eq!(units(&source, "tea").await, Some(5), "it was asked for once");
    let out = source.get("/v1/transfers?direction=out").await.expect(200);
    assert_eq!(out["items"][0]["transferId"], made["transferId"]);
    assert_eq!(source.get(&path(&made)).await.expect(200), out["items"][0]);

    // The destination books it in without a connection, and tells of it afterwards.
    expected(&destination, &made).await;
    destination.post("/v1/disconnected", json!({})).await.expect(200);
    let receive = format!("{}/receive", path(&made));
    let more = destination.post(&receive, json!({"lines": lines(&[("tea", 5)])})).await;
    assert_eq!((refused(&more), &more.body["shipped"]), ((409, "limit_exceeded"), &json!(4)));
    let note = [("idempotency-key", "note-1")];
    for replayed in ["", "true"] {
        let booked = destination.post_with(&receive, &note, json!({"reference": "note 1"})).await;
        assert_eq!(booked.header("idempotency-replayed"), replayed);
        assert_eq!(booked.expect(200)["status"], "received");
        assert_eq!((units(&destination, "tea").await, units(&destination, "jam").await), (Some(5), Some(2)));
    }
    let other = destination.post_with(&receive, &note, json!({"reference": "note 2"})).await;
    assert_eq!(refused(&other), (422, "idempotency_key_reused"));
    let closed = destination.post(&receive, json!({})).await;
    assert_eq!((refused(&closed), &closed.body["state"]), ((409, "transfer_closed"), &json!("received")));
    let jam = destination.get("/v1/inventory/jam").await.expect(200);
    assert_eq!(jam["name"], "JAM", "a new product has the name that the source gave it");
    assert_eq!(central.get(&path(&made)).await.expect(200)["status"], "shipped");
    destination.post("/v1/connected", json!({})).await.expect(200);
    let received = known(&world, &path(&made), "received").await;
    assert_eq!((&received["discrepancy"], &received["lines"][1]["received"]), (&json!(false), &json!(4)));
    assert_eq!(in_transit(&world, "tea").await, 0);
    let late = central.post(&receive, json!({})).await;
    assert_eq!((refused(&late), &late.body["transferId"]), ((409, "transfer_closed"), &made["transferId"]));
    for client in [&central, &source, &destination] {
        for (reference, found) in [("refill-1", 1), ("refill-2", 0)] {
            let list = client.get(&format!("/v1/transfers?reference={reference}")).await.expect(200);
            assert_eq!(list["items"].as_array().map(Vec::len), Some(found), "{reference}");
        }
    }

    world.converged(SOON).await;
    for (kind, delta) in [("transfer_shipped", -4), ("transfer_received", 4)] {
        let told = central.get(&format!("/v1/events?type={kind}&productId=tea")).await.expect(200);
        let event = &told["items"][0];
        assert_eq!((&event["transferId"], &event["delta"]), (&made["transferId"], &json!(delta)));
    }
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_may_arrive_through_central_and_all_of_it_by_itself() {
    let world = stocked().await;
    let (central, destination) = (world.central(), world.store("s2"));
    let part = central.post(PATH, from_s1(&[("tea", 3), ("jam", 1)])).await.expect(201);
    let receive = format!("{}/receive", path(&part));
    let beyond = central.post(&receive, json!({"lines": lines(&[("jam", 2)])})).await;
    assert_eq!(refused(&beyond), (409, "limit_exceeded"));
    let key = [("idempotency-key", "part-1")];
    for replayed in ["", "true"] {
        let booked = central.post_with(&receive, &key, json!({"lines": lines(&[("tea", 2)])})).await;
        assert_eq!(booked.header("idempotency-replayed"), replayed);
        let booked = booked.expect(200);
        let arrived = [0, 1].map(|line| booked["lines"][line]["received"].clone());
        assert_eq!((&booked["discrepancy"], arrived), (&json!(true), [json!(0), json!(2)]));
    }
    assert_eq!((units(&destination, "tea").await, units(&destination, "jam").await), (Some(3), None));
    let mut all = from_s1(&[("tea", 1)]);
    all["autoReceive"] = true.into();
    let all = central.post(PATH, all).await.expect(201);
    let received = known(&world, &path(&all), "received").await;
    assert_eq!((&received["autoReceive"], &received["discrepancy"]), (&json!(true), &json!(false)));
    assert_eq!(units(&destination, "tea").await, Some(4));
    let list = central.get("/v1/transfers?storeId=s2&status=received").await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    world.converged(SOON).await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_leave_is_refused() {
    let world = stocked().await;
    let (central, source) = (world.central(), world.store("s1"));
    let ask =
        |from: &str, to: &str, of: &[(&str, i64)]| json!({"fromStoreId": from, "toStoreId": to, "lines": lines(of)});
    for (asked, status, code) in [
        (ask("s1", "s1", &[("tea", 1)]), 400, "invalid_request"),
        (ask("s1", "s2", &[]), 400, "invalid_request"),
        (ask("s9", "s2", &[("tea", 1)]), 404, "unknown_store"),
        (ask("s1", "s9", &[("tea", 1)]), 404, "unknown_store"),
        (ask("s1", "s2", &[("tea", 1), ("bun", 1)]), 404, "unknown_product"),
        (ask("s1", "s2", &[("tea", 1), ("jam", 3)]), 409, "insufficient_stock"),
    ] {
        let answer = central.post(PATH, asked.clone()).await;
        assert_eq!(refused(&answer), (status, code), "{asked}");
        if !["invalid_request", "unknown_store"].contains(&code) {
            assert_eq!(answer.body["storeId"], "s1", "{asked}");
        }
    }
    assert_eq!(units(&source, "tea").await, Some(9));
    for client in [&central, &source] {
        let none = client.post(&format!("{PATH}/00000000-0000-0000-0000-000000000001/receive"), json!({})).await;
        assert_eq!(refused(&none), (404, "unknown_id"));
    }
    for client in [&central, &source] {
        assert_eq!(refused(&client.get(&format!("{PATH}/nothing")).await), (404, "unknown_id"));
    }
    source.post("/v1/disconnected", json!({})).await.expect(200);
    until("the source is away", SOON, async || {
        let answer = central.post(PATH, from_s1(&[("tea", 1)])).await;
        if refused(&answer) == (503, "store_unavailable") { Ok(()) } else { Err(answer.body) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_kills_and_a_restored_disk_does_not_receive_it_twice() {
    let mut world = stocked().await;
    let agent = Daemon::Store("s2".into());
    // The destination is away: its units wait for it.
    assert_eq!(world.terminate(&agent), Some(0));
    let made = world.central().post(PATH, from_s1(&[("tea", 3)])).await.expect(201);
    world.kill(&Daemon::Central);
    world.restart(&Daemon::Central).await;
    world.restart(&agent).await;
    world.online("s2").await;
    expected(&world.store("s2"), &made).await;
    let receive = format!("{}/receive", path(&made));
    world.store("s2").post(&receive, json!({})).await.expect(200);
    known(&world, &path(&made), "received").await;
    let next = world.central().post(PATH, from_s1(&[("tea", 1)])).await.expect(201);
    expected(&world.store("s2"), &next).await;
    world.converged(SOON).await;

    assert_eq!(world.terminate(&agent), Some(0));
    for suffix in ["db", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(world.database("s2").with_extension(suffix));
    }
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s2"]).await;
    assert!(done, "{said}");
    world.restart(&agent).await;
    world.online("s2").await;
    let store = world.store("s2");
    assert_eq!(refused(&store.post(&receive, json!({})).await), (409, "transfer_closed"));
    assert_eq!(units(&store, "tea").await, Some(4));
    store.post(&format!("{}/receive", path(&next)), json!({})).await.expect(200);
    assert_eq!(units(&store, "tea").await, Some(5));
    known(&world, &path(&next), "received").await;
    world.converged(SOON).await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_has_not_answered_is_requested_until_it_ships_or_rejects_it() {
    let mut world = stocked().await;
    let (central, source) = (world.central(), world.store("s1"));
    let file = world.dir().join("central.db");
    let head = || command_head(&Connection::open(&file).expect("opens"), "s1").expect("reads");
    // Cut off with a fresh heartbeat; the till sells on.
    source.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    source.post("/v1/purchase/jam", json!({"quantity": 1})).await.expect(200);
    let ask = async |key: &str, of: &[(&str, i64)], wait: &str| {
        central.post_with(PATH, &[("idempotency-key", key), ("prefer", wait)], from_s1(of)).await
    };
    let wanted: [(&str, &[(&str, i64)]); 3] =
        [("ships", &[("tea", 2)]), ("short", &[("jam", 2)]), ("late", &[("tea", 3)])];
    let (mut paths, mut before) = (Vec::new(), head());
    for (key, of) in wanted {
        before = head();
        let asked = ask(key, of, "respond-async").await;
        assert_eq!((asked.header("location"), asked.header("retry-after")), (&*path(&asked.body), "1"));
        assert_eq!(asked.clone().expect(202)["status"], "requested");
        let receive = central.post(&format!("{}/receive", path(&asked.body)), json!({})).await;
        assert_eq!((refused(&receive), &receive.body["state"]), ((409, "transfer_closed"), &json!("requested")));
        paths.push(path(&asked.body));
    }
    // The last one is heard of when its time is over.
    world.kill(&Daemon::Central);
    rewrite_commands(&Connection::open(&file).expect("opens"), "s1", before, |kind, body| {
        let mut body: Value = serde_json::from_str(&body).expect("JSON");
        assert!(body["deadline"].is_string(), "{body}");
        body["deadline"] = json!("1970-01-01T00:00:00.000Z");
        (kind, body.to_string())
    })
    .expect("writes");
    world.flush_redis().await;
    world.restart(&Daemon::Central).await;
    source.post("/v1/connected", json!({})).await.expect(200);
    let ended = [("", "shipped"), ("insufficient_stock", "rejected"), ("transfer_closed", "rejected")];
    for (((key, of), path), (code, status)) in wanted.iter().zip(&paths).zip(ended) {
        let record = until(&format!("{key} ends"), SOON, async || {
            let record = central.get(path).await.expect(200);
            if record["status"] == "requested" { Err(record) } else { Ok(record) }
        })
        .await;
        let said = (record["status"].as_str(), record["code"].as_str().unwrap_or_default());
        assert_eq!(said, (Some(status), code), "{record}");
        let again = ask(key, of, "wait=15").await;
        assert_eq!((again.header("idempotency-replayed"), again.code()), ("true", code), "{}", again.body);
        let id = path.rsplit('/').next();
        assert_eq!((again.status == 200, again.body["transferId"].as_str()), (code.is_empty(), id));
    }
    let shipped = central.get("/v1/transfers?status=shipped").await.expect(200);
    assert_eq!(shipped["items"].as_array().map(Vec::len), Some(1));
    assert_eq!((units(&source, "tea").await, units(&source, "jam").await), (Some(7), Some(1)));
    world.converged(SOON).await;
    sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_received_by_itself_waits_for_a_destination_that_is_away() {
    let mut world = stocked().await;
    let (central, agent) = (world.central(), Daemon::Store("s2".into()));
    assert_eq!(world.terminate(&agent), Some(0));
    let mut asked = from_s1(&[("tea", 2)]);
    asked["autoReceive"] = true.into();
    let first = central.post(PATH, asked.clone()).await.expect(201);
    // Without a key it is another one.
    let second = central.post(PATH, asked).await.expect(201);
    assert_ne!(first["transferId"], second["transferId"]);
    until("the destination is away", SOON, async || {
        let away = central.post(&format!("{}/receive", path(&first)), json!({})).await;
        if refused(&away) == (503, "store_unavailable") { Ok(()) } else { Err(away.body) }
    })
    .await;
    for transfer in [&first, &second] {
        assert_eq!(central.get(&path(transfer)).await.expect(200)["status"], "shipped");
    }
    assert_eq!(in_transit(&world, "tea").await, 4);
    world.restart(&agent).await;
    for transfer in [&first, &second] {
        known(&world, &path(transfer), "received").await;
    }
    assert_eq!(units(&world.store("s2"), "tea").await, Some(5));
    world.converged(SOON).await;
    assert_eq!(in_transit(&world, "tea").await, 0);
    sound(&world).await;
}
