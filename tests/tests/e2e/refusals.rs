//! What every route of central says of a store that is unknown, away or retired, or that does not know what it is asked for.

use std::time::Duration;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tests::{Answer, Client, Daemon, World, command_head, rewrite_commands, until};

const SOON: Duration = Duration::from_secs(20);
const TRANSFERS: &str = "/v1/transfers";
const RESERVATIONS: &str = "/v1/reservations";

type Request = (Method, String, Value);

async fn ask(client: &Client, (method, path, body): &Request, headers: &[(&str, &str)]) -> Answer {
    let body = Some(body).filter(|body| !body.is_null());
    client.ask(method.clone(), path, headers, body).await.expect("an answer")
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

fn post(path: impl Into<String>, body: Value) -> Request {
    (Method::POST, path.into(), body)
}

fn one_tea() -> Value {
    json!([{"productId": "tea", "quantity": 1}])
}

/// Two stores with tea.
async fn stocked() -> World {
    let world = World::with(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        world.store(store).post("/v1/inventory", json!({"productId": "tea", "quantity": 10})).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

/// All that central is asked to have a store do.
fn commands(store: &str) -> Vec<Request> {
    let item = format!("/v1/inventory/{store}/tea");
    let count =
        json!({"storeId": store, "source": "count", "dryRun": false, "lines": [{"productId": "tea", "quantity": 3}]});
    let batch = json!([{"op": "receive", "productId": "tea", "quantity": 1}]);
    vec![
        // Before any count or batch: it waits for none.
        post("/v1/reconciliations", count),
        post(format!("/v1/inventory/{store}"), json!({"productId": "ale"})),
        (Method::PUT, item.clone(), json!({"quantity": 9})),
        (Method::PATCH, item.clone(), json!({"name": "Green tea"})),
        post(format!("{item}/receive"), json!({"quantity": 1})),
        post(format!("{item}/adjust"), json!({"delta": -1, "reason": "damage"})),
        (Method::PUT, format!("{item}/allotment"), json!({"quantity": 1})),
        post("/v1/operations", json!({"storeId": store, "operations": batch})),
        post("/v1/products", json!({"productId": "rum", "name": "Rum", "storeId": store})),
        post(format!("/v1/purchase/{store}/tea"), json!({"quantity": 1})),
        post("/v1/purchase", json!({"storeId": store, "lines": one_tea()})),
        post(RESERVATIONS, json!({"storeId": store, "lines": one_tea()})),
        post(TRANSFERS, json!({"fromStoreId": store, "toStoreId": "s2", "lines": one_tea()})),
    ]
}

/// What `s1` holds, and what is on its way to it: all that can be asked about these.
async fn promised(world: &World) -> Vec<Request> {
    let central = world.central();
    let mut asked = Vec::new();
    for (act, body) in [("confirm", json!({})), ("cancel", json!({})), ("extend", json!({"ttlSeconds": 60}))] {
        let held = central.post(RESERVATIONS, json!({"storeId": "s1", "lines": one_tea()})).await.expect(201);
        let id = held["reservationId"].as_str().expect("an id");
        asked.push(post(format!("{RESERVATIONS}/{id}/{act}"), body));
    }
    let sent = json!({"fromStoreId": "s2", "toStoreId": "s1", "lines": one_tea()});
    let sent = central.post(TRANSFERS, sent).await.expect(201);
    let id = sent["transferId"].as_str().expect("an id").to_owned();
    until("the destination has heard of it", SOON, async || {
        let expected = world.store("s1").get("/v1/transfers?direction=in").await.expect(200);
        if expected["items"][0]["transferId"] == id { Ok(()) } else { Err(expected) }
    })
    .await;
    asked.push(post(format!("{TRANSFERS}/{id}/receive"), json!({})));
    world.converged(SOON).await;
    asked
}

/// What is asked about a store itself.
fn about(store: &str) -> Vec<Request> {
    let path = format!("/v1/stores/{store}");
    vec![
        (Method::GET, path.clone(), Value::Null),
        (Method::PATCH, path.clone(), json!({"onlineSale": true})),
        (Method::DELETE, path.clone(), Value::Null),
        post(format!("{path}/adopt"), json!({"epoch": 1})),
        post(format!("{path}/resync"), Value::Null),
        (Method::GET, format!("{path}/snapshot"), Value::Null),
        (Method::GET, format!("/v1/inventory/{store}"), Value::Null),
        (Method::GET, format!("/v1/inventory/{store}/tea"), Value::Null),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_unknown_away_or_retired_gets_nothing() {
    let world = stocked().await;
    let central = world.central();
    for request in commands("s9").iter().chain(&about("s9")) {
        assert_eq!(refused(&ask(&central, request, &[]).await), (404, "unknown_store"), "{request:?}");
    }
    let promised = promised(&world).await;
    let asked: Vec<Request> = commands("s1").into_iter().chain(promised).collect();
    world.store("s1").post("/v1/disconnected", json!({})).await.expect(200);
    until("s1 is away", SOON, async || {
        let store = central.get("/v1/stores/s1").await.expect(200);
        if store["status"] == "offline" { Ok(()) } else { Err(store) }
    })
    .await;
    for request in &asked {
        let away = ask(&central, request, &[]).await;
        assert_eq!(refused(&away), (503, "store_unavailable"), "{request:?}");
        let said = (&away.body["storeId"], &away.body["reason"], away.header("retry-after"));
        assert_eq!(said, (&json!("s1"), &json!("offline"), "5"), "{request:?}");
    }
    let unseen = central.ask(Method::PUT, "/v1/stores/s3", &[], None).await.expect("an answer");
    assert_eq!((unseen.status, &unseen.body["status"]), (201, &json!("new")));
    for request in commands("s3").iter().skip(1) {
        let never = ask(&central, request, &[]).await;
        assert_eq!((refused(&never), &never.body["reason"]), ((503, "store_unavailable"), &json!("never_seen")));
    }

    central.patch("/v1/stores/s1", json!({"retired": true})).await.expect(200);
    for request in &asked {
        assert_eq!(refused(&ask(&central, request, &[]).await), (409, "store_retired"), "{request:?}");
    }
    let to_retired = json!({"fromStoreId": "s2", "toStoreId": "s1", "lines": one_tea()});
    assert_eq!(refused(&central.post(TRANSFERS, to_retired).await), (409, "store_retired"));
    let restore = central.post("/v1/stores/s1/restore", json!({"epoch": 0, "log": []})).await;
    assert_eq!(refused(&restore), (409, "store_retired"), "{}", restore.body);
    let quantity = world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"].clone();
    assert_eq!(quantity, 10, "nothing of all this was done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_does_not_know_it_refuses_whatever_it_is_and_the_key_says_so() {
    let mut world = stocked().await;
    let central = world.central();
    let promised = promised(&world).await;
    let requests: Vec<Request> = commands("s1").into_iter().chain(promised).collect();
    let stock = world.store("s1").get("/v1/inventory?size=100").await.expect(200);
    let database = world.dir().join("central.db");
    // Cut off with a fresh heartbeat: what is asked now waits.
    world.store("s1").post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let before = command_head(&Connection::open(&database).expect("opens"), "s1").expect("reads");
    for (number, request) in requests.iter().enumerate() {
        let key = format!("k{number}");
        let headers = [("idempotency-key", &*key), ("prefer", "respond-async")];
        for replayed in ["", "true"] {
            let asked = ask(&central, request, &headers).await;
            assert_eq!(
                (asked.status, asked.header("idempotency-replayed")),
                (202, replayed),
                "{request:?}: {}",
                asked.body
            );
            assert!(!asked.header("location").is_empty(), "{request:?}");
        }
        let mut other = request.clone();
        let (member, value) = match &*other.1 {
            "/v1/reconciliations" => ("source", json!("another")),
            "/v1/operations" => ("atomic", json!(false)),
            _ => ("reference", json!("another")),
        };
        other.2[member] = value;
        assert_eq!(refused(&ask(&central, &other, &headers).await), (422, "idempotency_key_reused"), "{other:?}");
    }
    world.kill(&Daemon::Central);
    let later = |_, body| ("of-a-later-version".to_owned(), body);
    rewrite_commands(&Connection::open(&database).expect("opens"), "s1", before, later).expect("writes");
    world.flush_redis().await;
    world.restart(&Daemon::Central).await;
    world.store("s1").post("/v1/connected", json!({})).await.expect(200);
    for (number, request) in requests.iter().enumerate() {
        let key = format!("k{number}");
        let answer = ask(&central, request, &[("idempotency-key", &*key), ("prefer", "wait=20")]).await;
        assert_eq!(refused(&answer), (409, "unsupported_by_store"), "{request:?}: {}", answer.body);
        assert_eq!(answer.header("idempotency-replayed"), "true", "{request:?}");
    }
    world.converged(SOON).await;
    assert_eq!(world.store("s1").get("/v1/inventory?size=100").await.expect(200), stock, "nothing of it was done");
    let letters = world.store("s1").get("/v1/dead-letters").await.expect(200);
    assert_eq!(letters["items"].as_array().map(Vec::len), Some(requests.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_has_looked_for_stores_central_knows_of_none_that_there_is_none() {
    let mut world = World::with(&["s1"]).await;
    let central = world.central();
    world.kill_redis();
    world.kill(&Daemon::Central);
    world.lose_database(&Daemon::Central);
    world.start(&Daemon::Central);
    let starting = until("central answers", SOON, async || {
        central.ask(Method::GET, "/ready", &[], None).await.map_err(|error| error.to_string())
    })
    .await;
    let checks = json!({"database": "up", "redis": "down", "storesRead": false});
    assert_eq!((starting.status, &starting.body), (503, &json!({"status": "starting", "checks": checks})));
    let of_no_store = [
        (Method::GET, "/v1/availability/tea".into(), Value::Null),
        (Method::GET, "/v1/availability?productId=tea".into(), Value::Null),
        post("/v1/purchase", json!({"productId": "tea", "quantity": 1})),
    ];
    for request in commands("s1").iter().chain(&about("s1")).chain(&of_no_store) {
        let answer = ask(&central, request, &[]).await;
        assert_eq!(refused(&answer), (503, "store_unavailable"), "{request:?}");
        assert_eq!((&answer.body["reason"], answer.header("retry-after")), (&json!("starting"), "5"), "{request:?}");
    }
    world.start_redis().await;
    world.online("s1").await;
    assert_eq!(central.get("/ready").await.expect(200)["status"], "ready");
    assert_eq!(refused(&central.get("/v1/stores/s9").await), (404, "unknown_store"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_made_known_and_forgotten_unless_it_has_told_of_something() {
    let world = World::with(&["s1"]).await;
    let central = world.central();
    let ask = async |method: Method, store: &str| {
        central.ask(method, &format!("/v1/stores/{store}"), &[], None).await.expect("an answer")
    };
    for (status, place) in [(201, "/v1/stores/s7"), (200, "")] {
        let answer = ask(Method::PUT, "s7").await;
        assert_eq!(answer.header("location"), place);
        let store = answer.expect(status);
        assert_eq!((&store["status"], &store["asOf"]), (&json!("new"), &Value::Null));
    }
    assert_eq!(ask(Method::DELETE, "s7").await.expect(200), json!({"forgotten": "s7"}));
    for method in [Method::DELETE, Method::GET] {
        assert_eq!(refused(&ask(method, "s7").await), (404, "unknown_store"));
    }
    let opened = ask(Method::DELETE, "s1").await;
    assert_eq!((refused(&opened), &opened.body["storeId"]), ((409, "store_opened"), &json!("s1")));
    world.online("s1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_named_and_what_does_not_fit_is_refused() {
    let world = stocked().await;
    let (store, central) = (world.store("s1"), world.central());
    let nobody = "00000000-0000-0000-0000-000000000001";
    let of = |path: &str| path.replace("{id}", nobody);
    let bun = json!([{"productId": "bun", "quantity": 1}]);
    let (gone, unknown) = ((404, "unknown_id"), (404, "unknown_product"));
    let at_store = [
        (post("/v1/inventory/bun/adjust", json!({"delta": 1, "reason": "found"})), unknown),
        (post("/v1/inventory/bun/receive", json!({"quantity": 1})), unknown),
        (post("/v1/purchase/bun", json!({"quantity": 1})), unknown),
        (post("/v1/purchase/tea", json!({"quantity": 1, "expectedVersion": 7})), (409, "version_conflict")),
        (post(of("/v1/purchases/{id}/picked"), json!({})), gone),
        (post(of("/v1/reservations/{id}/confirm"), json!({})), gone),
        (post(of("/v1/reservations/{id}/cancel"), json!({})), gone),
        (post(of("/v1/reservations/{id}/extend"), json!({"ttlSeconds": 1})), gone),
    ];
    let item = |end: &str| format!("/v1/inventory/s1/{end}");
    central.patch(&item("tea"), json!({"discontinued": true})).await.expect(200);
    let at_central = [
        ((Method::GET, "/v1/availability/bun".into(), Value::Null), unknown),
        ((Method::GET, of("/v1/commands/{id}"), Value::Null), gone),
        ((Method::PUT, item("bun"), json!({"quantity": 1})), unknown),
        (post(item("bun/adjust"), json!({"delta": 1, "reason": "found"})), unknown),
        (post(item("bun/receive"), json!({"quantity": 1})), unknown),
        (post(item("tea/adjust"), json!({"delta": -11, "reason": "theft"})), (409, "insufficient_stock")),
        ((Method::PUT, item("tea/allotment"), json!({"quantity": 1})), (409, "discontinued")),
        (post(RESERVATIONS, json!({"storeId": "s1", "lines": bun})), unknown),
        (post(RESERVATIONS, json!({"storeId": "s1", "lines": one_tea()})), (409, "discontinued")),
        (post(of("/v1/purchases/{id}/cancel"), json!({})), gone),
        (post(of("/v1/reservations/{id}/confirm"), json!({})), gone),
        (post(of("/v1/reservations/{id}/cancel"), json!({})), gone),
        (post(of("/v1/reservations/{id}/extend"), json!({"ttlSeconds": 1})), gone),
    ];
    let all = at_store.iter().map(|case| (&store, case)).chain(at_central.iter().map(|case| (&central, case)));
    for (client, (request, wanted)) in all {
        let answer = ask(client, request, &[("prefer", "wait=20")]).await;
        assert_eq!(refused(&answer), *wanted, "{request:?}: {}", answer.body);
    }

    // A hold that its store hears of when its time is over.
    central.patch(&item("tea"), json!({"discontinued": false})).await.expect(200);
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let hold = post(RESERVATIONS, json!({"storeId": "s1", "lines": one_tea(), "ttlSeconds": 1}));
    let held = ask(&central, &hold, &[("idempotency-key", "hold"), ("prefer", "respond-async")]).await;
    let path = held.header("location").to_owned();
    assert_eq!(held.expect(202)["status"], "pending");
    tokio::time::sleep(Duration::from_millis(1_300)).await; // Longer than that.
    store.post("/v1/connected", json!({})).await.expect(200);
    let late = ask(&central, &hold, &[("idempotency-key", "hold"), ("prefer", "wait=20")]).await;
    assert_eq!(refused(&late), (409, "reservation_expired"), "{}", late.body);
    assert_eq!(central.get(&path).await.expect(200)["status"], "rejected");
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["reserved"], 0);
}
