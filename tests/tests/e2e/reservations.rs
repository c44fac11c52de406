//! Units held for a while: all lines or none, one end, and no unit promised twice (P4, P5).

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Client, Daemon, World, until};

const SOON: Duration = Duration::from_secs(15);

async fn stocked(items: &[(&str, i64)]) -> World {
    let world = World::with(&["s1"]).await;
    for (name, units) in items {
        world.store("s1").post("/v1/inventory", json!({"productId": name, "quantity": units})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

fn lines(of: &[(&str, i64)]) -> Value {
    of.iter().map(|(name, quantity)| json!({"productId": name, "quantity": quantity})).collect()
}

fn path(reservation: &Value) -> String {
    format!("/v1/reservations/{}", reservation["reservationId"].as_str().expect("an id"))
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

/// Quantity, reserved, available.
async fn figures(store: &Client, product: &str) -> [i64; 3] {
    let item = store.get(&format!("/v1/inventory/{product}")).await.expect(200);
    ["quantity", "reserved", "available"].map(|name| item[name].as_i64().expect("a number"))
}

/// What central knows of a reservation, once that is its status.
async fn known(world: &World, path: &str, status: &str) -> Value {
    until(&format!("central knows {path} as {status}"), SOON, async || {
        let answer = world.central().get(path).await;
        if answer.body["status"] == status { Ok(answer.body) } else { Err(answer.body) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_holds_all_lines_or_none_and_confirms_a_part() {
    let world = stocked(&[("tea", 5), ("jam", 2)]).await;
    let store = world.store("s1");
    let asked = json!({"lines": lines(&[("tea", 2), ("jam", 2), ("tea", 1)]), "reference": "order-1"});
    let held = store.post_with("/v1/reservations", &[("idempotency-key", "hold-1")], asked.clone()).await;
    assert_eq!(held.header("location"), path(&held.body));
    let held = held.expect(201);
    assert_eq!((&held["status"], &held["lines"]), (&json!("open"), &lines(&[("jam", 2), ("tea", 3)])));
    assert_eq!((figures(&store, "tea").await, figures(&store, "jam").await), ([5, 3, 2], [2, 2, 0]));

    let too_many = store.post("/v1/reservations", json!({"lines": lines(&[("tea", 1), ("jam", 1)])})).await;
    assert_eq!(refused(&too_many), (409, "insufficient_stock"));
    let unknown = store.post("/v1/reservations", json!({"lines": lines(&[("bun", 1)])})).await;
    assert_eq!(refused(&unknown), (404, "unknown_product"));
    assert_eq!(refused(&store.post("/v1/purchase/jam", json!({"quantity": 1})).await), (409, "insufficient_stock"));
    assert_eq!(figures(&store, "tea").await, [5, 3, 2], "nothing of what was refused is held");

    let again = store.post_with("/v1/reservations", &[("idempotency-key", "hold-1")], asked).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    let other = json!({"lines": lines(&[("tea", 1)])});
    let other = store.post_with("/v1/reservations", &[("idempotency-key", "hold-1")], other).await;
    assert_eq!(refused(&other), (422, "idempotency_key_reused"));
    assert_eq!(again.expect(200)["reservationId"], held["reservationId"]);

    let confirm = format!("{}/confirm", path(&held));
    let beyond = store.post(&confirm, json!({"lines": lines(&[("tea", 4)])})).await;
    assert_eq!(refused(&beyond), (400, "invalid_request"));
    for _ in 0..2 {
        let confirmed = store.post(&confirm, json!({"lines": lines(&[("tea", 2)])})).await.expect(200);
        assert_eq!((&confirmed["status"], &confirmed["confirmedLines"]), (&json!("confirmed"), &lines(&[("tea", 2)])));
        assert_eq!((figures(&store, "tea").await, figures(&store, "jam").await), ([3, 0, 3], [2, 0, 2]));
    }
    let closed = store.post(&format!("{}/cancel", path(&held)), json!({})).await;
    assert_eq!((refused(&closed), &closed.body["state"]), ((409, "reservation_closed"), &json!("confirmed")));

    let of_jam = store.get("/v1/reservations?productId=jam&status=confirmed").await.expect(200);
    assert_eq!(of_jam["items"][0]["reservationId"], held["reservationId"]);
    world.converged(SOON).await;
    assert_eq!(known(&world, &path(&held), "confirmed").await["confirmedLines"], lines(&[("tea", 2)]));
    // One entry is found under each product that it is about, with that product's figures.
    for (client, product, figures) in [
        (world.central(), "tea", [-2, 3, 0]),
        (world.central(), "jam", [0, 2, 0]),
        (world.store("s1"), "tea", [-2, 3, 0]),
        (world.store("s1"), "jam", [0, 2, 0]),
    ] {
        let told = client.get(&format!("/v1/events?productId={product}&type=reservation_confirmed")).await.expect(200);
        let event = &told["items"][0];
        assert_eq!(
            (told["items"].as_array().map(Vec::len), &event["reservationId"]),
            (Some(1), &held["reservationId"])
        );
        let shown = ["delta", "quantity", "reserved"].map(|name| event[name].as_i64().expect("a number"));
        assert_eq!((&event["productId"], shown), (&json!(product), figures));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn central_asks_a_store_to_hold_confirm_extend_and_cancel() {
    let world = stocked(&[("tea", 5), ("jam", 2)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let ask = |of: &[(&str, i64)]| json!({"storeId": "s1", "lines": lines(of), "reference": "web-7"});
    let held = central.post("/v1/reservations", ask(&[("tea", 3), ("jam", 1)])).await;
    assert_eq!(held.header("location"), path(&held.body));
    let first = held.expect(201);
    assert_eq!((&first["status"], &first["reference"]), (&json!("open"), &json!("web-7")));
    assert_eq!(figures(&store, "tea").await, [5, 3, 2]);
    assert_eq!(store.get(&path(&first)).await.expect(200)["status"], "open", "one id at both ends");

    let rejected = central.post("/v1/reservations", ask(&[("tea", 3)])).await;
    assert_eq!((refused(&rejected), &rejected.body["storeId"]), ((409, "insufficient_stock"), &json!("s1")));
    let extended = central.post(&format!("{}/extend", path(&first)), json!({"ttlSeconds": 3_600})).await.expect(200);
    assert!(extended["expiresAt"].as_str() > first["expiresAt"].as_str(), "{extended}");
    let confirm = format!("{}/confirm", path(&first));
    let key = [("idempotency-key", "confirm-1")];
    for replayed in ["", "true"] {
        let confirmed = central.post_with(&confirm, &key, json!({})).await;
        assert_eq!(confirmed.header("idempotency-replayed"), replayed);
        assert_eq!(confirmed.expect(200)["status"], "confirmed");
        assert_eq!(figures(&store, "tea").await, [2, 0, 2]);
    }
    // It was done before, so that no store is asked: the key stands for it all the same.
    for replayed in ["", "true"] {
        let again = central.post_with(&confirm, &[("idempotency-key", "confirm-2")], json!({})).await;
        assert_eq!(again.header("idempotency-replayed"), replayed);
        assert_eq!(again.expect(200)["status"], "confirmed");
    }
    let late = central.post(&format!("{}/cancel", path(&first)), json!({})).await;
    assert_eq!(refused(&late), (409, "reservation_closed"));

    let second = central.post("/v1/reservations", ask(&[("tea", 2)])).await.expect(201);
    let cancelled = central.post(&format!("{}/cancel", path(&second)), json!({"reason": "changed mind"})).await;
    assert_eq!(cancelled.expect(200)["status"], "cancelled");
    assert_eq!(figures(&store, "tea").await, [2, 0, 2]);
    let list = central.get("/v1/reservations?storeId=s1&reference=web-7&size=1").await.expect(200);
    assert_eq!(list["items"][0]["reservationId"], second["reservationId"]);
    let next = list["nextCursor"].as_str().expect("there is more");
    let rest =
        central.get(&format!("/v1/reservations?storeId=s1&reference=web-7&size=9&cursor={next}")).await.expect(200);
    assert_eq!(rest["items"][0]["reservationId"], first["reservationId"]);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_by_itself_and_blocks_nobody_from_then_on() {
    let world = stocked(&[("tea", 1)]).await;
    let store = world.store("s1");
    let hold = json!({"lines": lines(&[("tea", 1)]), "ttlSeconds": 1});
    let held = store.post("/v1/reservations", hold).await.expect(201);
    until("the unit can be sold again", SOON, async || {
        let sold = store.post("/v1/purchase/tea", json!({"quantity": 1})).await;
        if sold.status == 200 { Ok(()) } else { Err(sold.body) }
    })
    .await;
    let late = store.post(&format!("{}/confirm", path(&held)), json!({})).await;
    assert_eq!(refused(&late), (409, "reservation_expired"));
    known(&world, &path(&held), "expired").await;
    world.converged(SOON).await;
    let (sound, report) = world.tool("store-agent", &["verify", "--store-id", "s1"]).await;
    assert!(sound, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holds_survive_a_kill_and_come_back_with_a_restore() {
    let mut world = stocked(&[("tea", 5)]).await;
    let agent = Daemon::Store("s1".into());
    let central = world.central();
    let asked = json!({"storeId": "s1", "lines": lines(&[("tea", 3)]), "ttlSeconds": 3_600});
    let held = central.post("/v1/reservations", asked).await.expect(201);
    let own = json!({"lines": lines(&[("tea", 1)]), "ttlSeconds": 3_600});
    let own = world.store("s1").post("/v1/reservations", own).await.expect(201);
    world.kill(&agent);
    world.restart(&agent).await;
    assert_eq!(figures(&world.store("s1"), "tea").await, [5, 4, 1]);
    world.converged(SOON).await;

    assert_eq!(world.terminate(&agent), Some(0));
    let confirm = format!("{}/confirm", path(&held));
    until("the store has left", SOON, async || {
        let answer = central.post(&confirm, json!({})).await;
        if refused(&answer) == (503, "store_unavailable") { Ok(()) } else { Err(answer.body) }
    })
    .await;
    for suffix in ["db", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(world.database("s1").with_extension(suffix));
    }
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s1"]).await;
    assert!(done, "{said}");
    world.restart(&agent).await;
    world.online("s1").await;
    let store = world.store("s1");
    assert_eq!(figures(&store, "tea").await, [5, 4, 1], "central told of both");
    assert_eq!(central.post(&confirm, json!({})).await.expect(200)["status"], "confirmed");
    store.post(&format!("{}/cancel", path(&own)), json!({})).await.expect(200);
    assert_eq!(figures(&store, "tea").await, [2, 0, 2]);
    known(&world, &path(&own), "cancelled").await;
    world.converged(SOON).await;
    for (program, args) in [("store-agent", &["verify", "--store-id", "s1"] as &[&str]), ("central", &["verify"])] {
        let (well, said) = world.tool(program, args).await;
        assert!(well, "{program}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_reservations_are_refused_in_words() {
    let world = stocked(&[("tea", 5)]).await;
    for (client, store) in [(world.store("s1"), None), (world.central(), Some("s1"))] {
        let ask = |body: Value| {
            let mut body = body;
            if let Some(store) = store {
                body["storeId"] = store.into();
            }
            body
        };
        for (bad, pointer) in [
            (json!({"lines": []}), "/lines"),
            (json!({"lines": [{"productId": "tea", "quantity": 0}]}), "/lines/0/quantity"),
            (json!({"lines": lines(&[("tea", 600_000), ("tea", 600_000)])}), "/lines"),
            (json!({"lines": lines(&[("tea", 1)]), "ttlSeconds": 2_678_401}), "/ttlSeconds"),
        ] {
            let answer = client.post("/v1/reservations", ask(bad)).await;
            assert_eq!(refused(&answer), (400, "invalid_request"), "{}", answer.body);
            assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{}", answer.body);
        }
        let unknown = client.get("/v1/reservations/00000000-0000-0000-0000-000000000001").await;
        assert_eq!(refused(&unknown), (404, "unknown_id"));
    }
}

/// The events of a kind that a server lists, oldest first: delta, and the reservation that they name.
async fn events(client: &Client, kind: &str) -> Vec<(i64, Value, Value)> {
    let told = client.get(&format!("/v1/events?type={kind}&after=0")).await.expect(200);
    let told = told["items"].as_array().expect("a list").iter();
    told.map(|event| {
        let delta = event["delta"].as_i64().expect("a number");
        (delta, event["reservationId"].clone(), event["reference"].clone())
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_is_the_truth_and_the_youngest_holds_go_without() {
    let world = stocked(&[("tea", 9), ("jam", 3)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let mut held = Vec::new();
    for (order, of) in [("order-1", [("tea", 3), ("jam", 1)]), ("order-2", [("tea", 4), ("jam", 2)])] {
        let asked = json!({"lines": lines(&of), "reference": order});
        held.push(store.post("/v1/reservations", asked).await.expect(201));
    }
    let count = async || {
        let (headers, five) = ([("idempotency-key", "count-1")], json!({"quantity": 5}));
        store.ask(Method::PUT, "/v1/inventory/tea", &headers, Some(&five)).await.expect("an answer")
    };
    let first = count().await.expect(200);
    assert_eq!((&first["difference"], &first["available"]), (&json!(-4), &json!(2)));
    let ended = json!([{"reservationId": held[1]["reservationId"], "reference": "order-2"}]);
    assert_eq!(first["endedReservations"], ended);
    let again = count().await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(200), first);
    assert_eq!((figures(&store, "tea").await, figures(&store, "jam").await), ([5, 3, 2], [3, 1, 2]));
    let closed = store.post(&format!("{}/confirm", path(&held[1])), json!({})).await;
    assert_eq!((refused(&closed), &closed.body["state"]), ((409, "reservation_closed"), &json!("cancelled")));

    // Central learns who goes without, and asks for counts in the same way.
    known(&world, &path(&held[1]), "cancelled").await;
    let shortage = (0, held[1]["reservationId"].clone(), json!("order-2"));
    for client in [&central, &store] {
        assert_eq!(events(client, "shortage").await, std::slice::from_ref(&shortage));
        assert_eq!(events(client, "counted").await, [(-4, Value::Null, Value::Null)]);
    }
    let stolen = central.post("/v1/inventory/s1/tea/adjust", json!({"delta": -3, "reason": "theft"})).await.expect(200);
    assert_eq!(
        (&stolen["quantity"], &stolen["reserved"], &stolen["onlineAvailable"]),
        (&json!(2), &json!(0), &json!(2))
    );
    known(&world, &path(&held[0]), "cancelled").await;
    assert_eq!(events(&central, "shortage").await.len(), 2);
    assert_eq!(figures(&store, "jam").await, [3, 0, 3]);
    let more = store.post("/v1/inventory/tea/adjust", json!({"delta": -3, "reason": "theft"})).await;
    assert_eq!(refused(&more), (409, "insufficient_stock"), "what is not there cannot go");
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_after_the_shelf_was_counted_is_counted_too() {
    let world = stocked(&[("tea", 20), ("jam", 20)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let shelf = store.get("/v1/inventory/tea").await;
    let counted_at = shelf.header("shelf-position").to_owned();
    let held = store.post("/v1/reservations", json!({"lines": lines(&[("jam", 1), ("tea", 2)])})).await.expect(201);
    store.post(&format!("{}/confirm", path(&held)), json!({})).await.expect(200);
    store.post("/v1/reservations", json!({"lines": lines(&[("tea", 6)])})).await.expect(201);
    store.post("/v1/purchase/tea", json!({"quantity": 3})).await.expect(200);
    world.converged(SOON).await;
    central.post("/v1/purchase/s1/tea", json!({"quantity": 4})).await.expect(200);
    assert_eq!(figures(&store, "tea").await, [11, 6, 5]);
    // Somebody counted 14 before any of that: nine have left since, one of the six that are held is missing.
    let counted = store.put("/v1/inventory/tea", json!({"quantity": 14, "countedAt": counted_at})).await.expect(200);
    assert_eq!((&counted["quantity"], &counted["difference"]), (&json!(5), &json!(-6)));
    assert_eq!(figures(&store, "tea").await, [5, 0, 5]);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn central_tells_again_what_became_of_a_hold_and_says_why_there_is_none() {
    let world = stocked(&[("tea", 5)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let ask =
        |store: &str, units: i64| json!({"storeId": store, "lines": lines(&[("tea", units)]), "ttlSeconds": 3_600});
    let hold =
        async |key: &str, body: Value| central.post_with("/v1/reservations", &[("idempotency-key", key)], body).await;
    let first = hold("hold-1", ask("s1", 3)).await.expect(201);
    let confirm = format!("{}/confirm", path(&first));
    for status in ["open", "confirmed"] {
        let again = hold("hold-1", ask("s1", 3)).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"), "{}", again.body);
        assert_eq!((&again.body["reservationId"], &again.body["status"]), (&first["reservationId"], &json!(status)));
        central.post(&confirm, json!({})).await.expect(200);
    }
    assert_eq!(figures(&store, "tea").await, [2, 0, 2]);
    assert_eq!(refused(&hold("hold-1", ask("s1", 2)).await), (422, "idempotency_key_reused"));

    // What central refuses itself leaves no record and binds no key.
    assert_eq!(refused(&hold("hold-2", ask("s9", 1)).await), (404, "unknown_store"));
    let short = hold("hold-2", ask("s1", 3)).await;
    assert_eq!((refused(&short), &short.body["available"]), ((409, "insufficient_stock"), &json!(2)));
    let list = central.get("/v1/reservations").await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));

    // What the store refuses is kept: the till has sold one that central believes to be there.
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    let now = [("idempotency-key", "hold-2"), ("prefer", "respond-async")];
    let asked = central.post_with("/v1/reservations", &now, ask("s1", 2)).await;
    assert_eq!((asked.status, &asked.body["status"]), (202, &json!("pending")));
    assert_eq!(
        ["location", "preference-applied", "retry-after"].map(|name| asked.header(name)),
        [&*path(&asked.body), "wait=0", "1"]
    );
    store.post("/v1/connected", json!({})).await.expect(200);
    let rejected = known(&world, &path(&asked.body), "rejected").await;
    assert_eq!(rejected["code"], "insufficient_stock");
    assert_ne!(rejected["settledAt"], Value::Null);
    let again = hold("hold-2", ask("s1", 2)).await;
    assert_eq!((refused(&again), again.header("idempotency-replayed")), ((409, "insufficient_stock"), "true"));
    assert_eq!(again.body["reservationId"], rejected["reservationId"]);
    let never = central.post(&format!("{}/confirm", path(&rejected)), json!({})).await;
    assert_eq!((refused(&never), &never.body["state"]), ((409, "reservation_closed"), &json!("rejected")));
    assert_eq!(never.body["reservationId"], rejected["reservationId"]);

    // A store that is away is asked for nothing; what has ended is told all the same.
    world.converged(SOON).await;
    store.post("/v1/disconnected", json!({})).await.expect(200);
    until("the store has left", SOON, async || {
        let seen = central.get("/v1/stores/s1").await.expect(200);
        if seen["status"] == "offline" { Ok(()) } else { Err(seen) }
    })
    .await;
    let away = hold("hold-3", ask("s1", 1)).await;
    assert_eq!((away.code(), &away.body["reason"]), ("store_unavailable", &json!("offline")));
    assert_eq!(away.header("retry-after"), "5");
    assert_eq!(central.post(&confirm, json!({})).await.expect(200)["status"], "confirmed");
    central.patch("/v1/stores/s1", json!({"retired": true})).await.expect(200);
    assert_eq!(refused(&hold("hold-4", ask("s1", 1)).await), (409, "store_retired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_has_not_answered_about_a_hold_is_a_command_until_it_has() {
    let world = stocked(&[("tea", 9)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let acts = [
        ("confirm", json!({"lines": lines(&[("tea", 1)])}), "confirmed"),
        ("cancel", json!({}), "cancelled"),
        ("extend", json!({"ttlSeconds": 3_600}), "open"),
    ];
    let mut held = Vec::new();
    for _ in &acts {
        let ask = json!({"storeId": "s1", "lines": lines(&[("tea", 2)]), "ttlSeconds": 600});
        held.push(central.post("/v1/reservations", ask).await.expect(201));
    }
    world.converged(SOON).await;
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let mut commands = Vec::new();
    for ((act, body, _), held) in acts.iter().zip(&held) {
        for replayed in ["", "true"] {
            let key = [("idempotency-key", *act), ("prefer", "respond-async")];
            let asked = central.post_with(&format!("{}/{act}", path(held)), &key, body.clone()).await;
            assert_eq!((asked.status, asked.header("idempotency-replayed")), (202, replayed), "{act}: {}", asked.body);
            let command = asked.header("location").to_owned();
            let id = asked.body["pendingCommandId"].as_str().expect("an id");
            assert_eq!((&*command, asked.header("retry-after")), (&*format!("/v1/commands/{id}"), "1"));
            assert_eq!(asked.body["status"], "open", "{act}: only the store decides");
            assert_eq!(central.get(&path(held)).await.expect(200)["pendingCommandId"], id);
            commands.push(command);
        }
        let [.., first, again] = &commands[..] else { panic!("two") };
        assert_eq!(first, again, "{act}: one command");
        let command = central.get(first).await.expect(200);
        let operation = format!("{act}_reservation");
        assert_eq!((&command["status"], &command["operation"]), (&json!("pending"), &json!(operation)));
    }
    assert_eq!(figures(&store, "tea").await, [9, 6, 3]);

    store.post("/v1/connected", json!({})).await.expect(200);
    for (at, (act, body, status)) in acts.iter().enumerate() {
        let key = [("idempotency-key", *act), ("prefer", "wait=30")];
        let done = central.post_with(&format!("{}/{act}", path(&held[at])), &key, body.clone()).await;
        assert_eq!(done.header("idempotency-replayed"), "true");
        let done = done.expect(200);
        assert_eq!((&done["status"], done.get("pendingCommandId")), (&json!(status), None), "{act}");
        let command = central.get(&commands[2 * at]).await.expect(200);
        assert_eq!(command["status"], "done");
        let told = &command["reservation"];
        for member in ["reservationId", "storeId", "status", "lines", "createdAt", "expiresAt"] {
            assert_eq!(told[member], done[member], "{act}: {command}");
        }
        let is_later = done["expiresAt"].as_str() > held[at]["expiresAt"].as_str();
        assert_eq!(is_later, *act == "extend", "{act}: {done}");
    }
    world.converged(SOON).await;
    assert_eq!(figures(&store, "tea").await, [8, 2, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_extended_and_given_back_once_under_each_key_until_it_has_ended() {
    let world = stocked(&[("tea", 5)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    for (client, at) in [(&store, Value::Null), (&central, json!("s1"))] {
        let hold = async |ttl: i64| {
            let mut asked = json!({"lines": lines(&[("tea", 2)]), "ttlSeconds": ttl});
            if at.is_string() {
                asked["storeId"] = at.clone();
            }
            client.post("/v1/reservations", asked).await.expect(201)
        };
        let act = async |held: &Value, act: &str, key: &str, body: Value| {
            let headers = [("idempotency-key", key), ("prefer", "wait=20")];
            client.post_with(&format!("{}/{act}", path(held)), &headers, body).await
        };
        let ends = |held: &Value| held["expiresAt"].as_str().expect("a time").to_owned();
        let held = hold(600).await;
        let (hour, day) = (json!({"ttlSeconds": 3_600}), json!({"ttlSeconds": 86_400}));
        let extended = act(&held, "extend", "extend-1", hour.clone()).await.expect(200);
        assert!(ends(&extended) > ends(&held), "{extended}");
        let again = act(&held, "extend", "extend-1", hour.clone()).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"));
        assert_eq!(ends(&again.body), ends(&extended), "its time is not set anew");
        assert_eq!(refused(&act(&held, "extend", "extend-1", day.clone()).await), (422, "idempotency_key_reused"));
        let longer = act(&held, "extend", "extend-2", day).await.expect(200);
        assert!(ends(&longer) > ends(&extended), "{longer}");
        assert_eq!(
            ends(&act(&held, "extend", "extend-1", hour.clone()).await.expect(200)),
            ends(&longer),
            "as it is now"
        );
        assert_eq!(figures(&store, "tea").await, [5, 2, 3]);

        for (key, replayed) in [("cancel-1", ""), ("cancel-1", "true"), ("cancel-2", "")] {
            let cancelled = act(&held, "cancel", key, json!({"reason": "changed mind"})).await;
            assert_eq!(cancelled.header("idempotency-replayed"), replayed, "{key}");
            assert_eq!(cancelled.expect(200)["status"], "cancelled");
            assert_eq!(figures(&store, "tea").await, [5, 0, 5], "{key}");
        }
        for (late, body) in [("extend", hour.clone()), ("confirm", json!({}))] {
            let closed = act(&held, late, "late", body).await;
            assert_eq!((refused(&closed), &closed.body["state"]), ((409, "reservation_closed"), &json!("cancelled")));
        }

        let brief = hold(1).await;
        until("its time is over", SOON, async || {
            let seen = client.get(&path(&brief)).await.expect(200);
            if seen["status"] == "expired" { Ok(()) } else { Err(seen) }
        })
        .await;
        for (late, body) in [("extend", hour), ("cancel", json!({})), ("confirm", json!({}))] {
            assert_eq!(refused(&act(&brief, late, "late", body).await), (409, "reservation_expired"), "{late}");
        }
        assert_eq!(figures(&store, "tea").await, [5, 0, 5]);
    }

    // The store's staff may do so with what came through central.
    let ask = json!({"storeId": "s1", "lines": lines(&[("tea", 2)]), "ttlSeconds": 600});
    let held = central.post("/v1/reservations", ask).await.expect(201);
    let longer = store.post(&format!("{}/extend", path(&held)), json!({"ttlSeconds": 3_600})).await.expect(200);
    assert!(longer["expiresAt"].as_str() > held["expiresAt"].as_str(), "{longer}");
    store.post(&format!("{}/cancel", path(&held)), json!({})).await.expect(200);
    assert_eq!(known(&world, &path(&held), "cancelled").await["expiresAt"], longer["expiresAt"]);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_may_hold_a_product_that_all_of_them_can_end_at_once() {
    let world = stocked(&[("tea", 1_001)]).await;
    let (store, ask) = (world.store("s1"), json!({"lines": lines(&[("tea", 1)])}));
    for _ in 0..1_000 {
        store.post("/v1/reservations", ask.clone()).await.expect(201);
    }
    let beyond = store.post("/v1/reservations", ask).await;
    assert_eq!((refused(&beyond), &beyond.body["productId"]), ((409, "limit_exceeded"), &json!("tea")));
    world.converged(SOON).await;
    let ask = json!({"storeId": "s1", "lines": lines(&[("tea", 1)])});
    let beyond = world.central().post("/v1/reservations", ask).await;
    assert_eq!(refused(&beyond), (409, "limit_exceeded"));
    // To buy what is left is nobody's hold.
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    store.put("/v1/inventory/tea", json!({"quantity": 0})).await.expect(200);
    assert_eq!(figures(&store, "tea").await, [0, 0, 0]);
}
