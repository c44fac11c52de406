//! Webhooks with a real endpoint: signatures, order, retries, a crash in between, and who is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Client, Daemon, Endpoint, World, until};

const SOON: Duration = Duration::from_secs(30);

/// A world whose central sends to this machine, too, with plenty of tea in each store.
async fn world(stores: &[&str]) -> World {
    let mut world = World::with(stores).await;
    world.central_args.push("--webhook-allow-private".to_owned());
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    world.restart(&Daemon::Central).await;
    for store in stores {
        let tea = json!({"productId": "tea", "quantity": 10_000});
        world.store(store).post("/v1/inventory", tea).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

async fn register(central: &Client, body: Value) -> Value {
    central.post("/v1/webhooks", body).await.expect(201)
}

async fn sell(world: &World, store: &str, times: usize) {
    for _ in 0..times {
        world.store(store).post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

async fn heard(endpoint: &Endpoint, many: usize) {
    until(&format!("{many} events are taken"), SOON, async || {
        let taken = endpoint.taken().len();
        if taken >= many { Ok(()) } else { Err(taken) }
    })
    .await;
}

/// The first time that each event of a store was taken comes after those before it.
fn assert_in_order(endpoint: &Endpoint, store: &str) {
    let (mut seen, mut last) = (BTreeSet::new(), 0);
    for taken in endpoint.taken().iter().filter(|taken| taken.store() == store) {
        if seen.insert(taken.chain_seq()) {
            assert!(taken.chain_seq() > last, "{store}: {} after {last}", taken.chain_seq());
            last = taken.chain_seq();
        }
    }
}

/// Waits until everything that happened is taken, and says what it was.
async fn all_taken(world: &World, endpoint: &Endpoint, kind: &str) -> BTreeSet<i64> {
    let path = format!("/v1/events?type={kind}&after=0&size=1000");
    let events = world.central().get(&path).await.expect(200);
    let places = |items: &Value| -> BTreeSet<i64> {
        items.as_array().expect("a list").iter().map(|event| event["chainSeq"].as_i64().expect("a place")).collect()
    };
    let all = places(&events["items"]);
    until("all is taken", Duration::from_secs(90), async || {
        let taken: BTreeSet<i64> = endpoint.taken().iter().map(|heard| heard.chain_seq()).collect();
        if taken == all { Ok(()) } else { Err(all.difference(&taken).copied().collect::<Vec<_>>()) }
    })
    .await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_delivered_signed_and_in_order() {
    let world = world(&["s1", "s2"]).await;
    let (central, endpoint) = (world.central(), Endpoint::start().await);
    let key = [("idempotency-key", "hook-1")];
    let body = json!({"url": endpoint.url, "types": ["sold"]});
    let webhook = central.post_with("/v1/webhooks", &key, body.clone()).await;
    let path = webhook.header("location").to_owned();
    let webhook = webhook.expect(201);
    let secret = text(&webhook, "secret").to_owned();
    assert_eq!(path, format!("/v1/webhooks/{}", text(&webhook, "webhookId")));
    assert_eq!((text(&webhook, "status"), &webhook["storeIds"]), ("active", &json!([])));

    // Said again: the same one, without its secret.
    let again = central.post_with("/v1/webhooks", &key, body.clone()).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    let again = again.expect(201);
    assert_eq!((&again["webhookId"], again.get("secret")), (&webhook["webhookId"], None));
    let other = central.post_with("/v1/webhooks", &key, json!({"url": endpoint.url})).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    let known = central.get("/v1/idempotency/hook-1").await.expect(200);
    assert_eq!((text(&known["effect"], "kind"), text(&known, "status")), ("webhook", "done"));
    let list = central.get("/v1/webhooks").await.expect(200);
    assert_eq!((list["items"].as_array().map(Vec::len), list["items"][0].get("secret")), (Some(1), None));

    tokio::join!(sell(&world, "s1", 10), sell(&world, "s2", 10));
    heard(&endpoint, 20).await;
    for taken in endpoint.heard() {
        assert!(taken.is_signed_with(&secret), "{taken:?}");
        assert!(!taken.id.contains('.') && taken.body["data"]["eventId"] == taken.id.as_str());
        assert_eq!((text(&taken.body, "type"), &taken.body["data"]["type"]), ("sold", &json!("sold")));
        assert_eq!(taken.body["timestamp"], taken.body["data"]["recordedAt"]);
    }
    ["s1", "s2"].iter().for_each(|store| assert_in_order(&endpoint, store));
    let deliveries = format!("{path}/deliveries");
    let log = until("all are in the log", SOON, async || {
        let log = central.get(&deliveries).await.expect(200);
        if log["items"].as_array().map(Vec::len) == Some(20) { Ok(log) } else { Err(log) }
    })
    .await;
    assert!(log["items"].as_array().expect("a list").iter().all(|one| one["statusCode"] == 200 && one["attempt"] == 1));
    let first = central.get(&format!("{deliveries}?size=15")).await.expect(200);
    let second = format!("{deliveries}?size=15&cursor={}", text(&first, "nextCursor"));
    let second = central.get(&second).await.expect(200);
    assert_eq!((second["items"].as_array().map(Vec::len), &second["nextCursor"]), (Some(5), &Value::Null));

    // A test is told from an event, and is in the log.
    let test = central.post(&format!("{path}/test"), json!({})).await.expect(200);
    assert_eq!((&test["statusCode"], &test["eventId"]), (&json!(200), &Value::Null));
    assert_eq!(endpoint.heard().last().map(|heard| heard.body["type"].clone()), Some(json!("test")));

    // After a rotation both secrets sign.
    let rotated = central.post(&format!("{path}/secret"), json!({})).await.expect(200);
    assert_ne!(text(&rotated, "secret"), secret);
    sell(&world, "s1", 1).await;
    heard(&endpoint, 22).await;
    let last = endpoint.heard().pop().expect("one");
    assert!(last.is_signed_with(&secret) && last.is_signed_with(text(&rotated, "secret")));

    // Replayed under the same ids; a place that is not there yet is refused.
    let ids = |heard: &[tests::Heard]| heard.iter().map(|heard| heard.id.clone()).collect::<BTreeSet<_>>();
    let before = endpoint.heard().into_iter().filter(|heard| heard.body["type"] == "sold").collect::<Vec<_>>();
    assert_eq!(central.post(&format!("{path}/replay"), json!({"after": 1_000_000})).await.status, 400);
    // The answer tells how far the deliveries have come by now, which is no place that a test can know.
    let replayed = central.post(&format!("{path}/replay"), json!({"after": "0"})).await.expect(200);
    assert_eq!(text(&replayed, "status"), "active");
    heard(&endpoint, 22 + 21).await;
    assert_eq!(ids(&before), ids(&endpoint.heard()[22..]));

    assert_eq!(delete(&central, &path).await.status, 204);
    assert_eq!(delete(&central, &path).await.code(), "unknown_id");
    for (method, path) in [("GET", ""), ("POST", "/test"), ("POST", "/secret"), ("GET", "/deliveries")] {
        let asked =
            central.ask(method.parse().expect("a method"), &format!("/v1/webhooks/none{path}"), &[], None).await;
        assert_eq!(asked.expect("an answer").code(), "unknown_id", "{method} {path}");
    }
    assert_eq!(central.post("/v1/webhooks/none/replay", json!({"after": 0})).await.code(), "unknown_id");
}

async fn delete(central: &Client, path: &str) -> Answer {
    central.ask("DELETE".parse().expect("a method"), path, &[], None).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_holds_back_its_own_store_and_outlives_a_crash() {
    let mut world = world(&["s1", "s2"]).await;
    let (central, endpoint) = (world.central(), Endpoint::start().await);
    endpoint.says(|event| if event["data"]["storeId"] == "s1" { 500 } else { 200 });
    let webhook = register(&central, json!({"url": endpoint.url, "types": ["sold"]})).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "webhookId"));
    tokio::join!(sell(&world, "s1", 5), sell(&world, "s2", 5));
    heard(&endpoint, 5).await;
    let held = until("s1 is held back", SOON, async || {
        let webhook = central.get(&path).await.expect(200);
        if webhook["heldStores"] == 1 { Ok(webhook) } else { Err(webhook) }
    })
    .await;
    assert_eq!((text(&held["held"][0], "storeId"), text(&held, "status")), ("s1", "active"));
    let failed = central.get(&format!("{path}/deliveries?size=1000")).await.expect(200);
    let failed = failed["items"].as_array().expect("a list").iter().filter(|one| one["statusCode"] == 500);
    assert!(failed.count() >= 1);

    world.kill(&Daemon::Central);
    tokio::join!(sell(&world, "s1", 5), sell(&world, "s2", 5));
    world.restart(&Daemon::Central).await;
    heard(&endpoint, 10).await;
    assert!(endpoint.taken().iter().all(|taken| taken.store() == "s2"));
    endpoint.says(|_| 200);
    world.converged(SOON).await;
    let all = all_taken(&world, &endpoint, "sold").await;
    assert_eq!(all.len(), 20);
    ["s1", "s2"].iter().for_each(|store| assert_in_order(&endpoint, store));
    until("nothing is held back", SOON, async || {
        let webhook = central.get(&path).await.expect(200);
        if webhook["heldStores"] == 0 && webhook["failingSince"].is_null() { Ok(()) } else { Err(webhook) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_much_to_tell_delays_no_other() {
    let mut world = world(&["s1", "s2"]).await;
    let (central, endpoint) = (world.central(), Endpoint::start().await);
    // An attempt takes 15 s, so that nothing has failed while this looks.
    endpoint.says(|event| if event["data"]["storeId"] == "s1" { 0 } else { 200 });
    let webhook = register(&central, json!({"url": endpoint.url, "types": ["sold"]})).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "webhookId"));
    sell(&world, "s1", 100).await;
    sell(&world, "s2", 5).await;
    until("those of the other are taken", Duration::from_secs(10), async || {
        if endpoint.taken().len() == 5 { Ok(()) } else { Err(endpoint.heard().len()) }
    })
    .await;
    assert_eq!(endpoint.heard().len(), 6, "one of the first is under way");
    until("their answers are kept", Duration::from_secs(5), async || {
        let log = central.get(&format!("{path}/deliveries")).await.expect(200);
        if log["items"].as_array().map(Vec::len) == Some(5) { Ok(()) } else { Err(log) }
    })
    .await;
    let webhook = central.get(&path).await.expect(200);
    assert_eq!((&webhook["heldStores"], &webhook["failingSince"]), (&json!(0), &Value::Null), "nothing has failed");

    // Each goes on where it was.
    world.kill(&Daemon::Central);
    endpoint.says(|_| 200);
    world.restart(&Daemon::Central).await;
    let all = all_taken(&world, &endpoint, "sold").await;
    assert_eq!((all.len(), endpoint.taken().len()), (105, 105), "nothing is sent twice that was answered");
    ["s1", "s2"].iter().for_each(|store| assert_in_order(&endpoint, store));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_at_any_moment_lose_nothing() {
    let mut world = world(&["s1", "s2"]).await;
    let endpoint = Endpoint::start().await;
    register(&world.central(), json!({"url": endpoint.url})).await;
    for round in 1..=3 {
        tokio::join!(sell(&world, "s1", 40), sell(&world, "s2", 40));
        heard(&endpoint, round * 10).await;
        world.kill(&Daemon::Central);
        world.restart(&Daemon::Central).await;
    }
    world.converged(SOON).await;
    until("all sales are taken", Duration::from_secs(90), async || {
        let taken: BTreeSet<String> =
            endpoint.taken().into_iter().filter(|heard| heard.body["type"] == "sold").map(|heard| heard.id).collect();
        if taken.len() == 240 { Ok(()) } else { Err(taken.len()) }
    })
    .await;
    ["s1", "s2"].iter().for_each(|store| assert_in_order(&endpoint, store));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_hangs_costs_no_other_one_anything() {
    let world = world(&["s1"]).await;
    let (central, hangs, well) = (world.central(), Endpoint::start().await, Endpoint::start().await);
    hangs.says(|_| 0);
    register(&central, json!({"url": hangs.url, "types": ["sold"], "storeId": "s1"})).await;
    register(&central, json!({"url": well.url, "types": ["sold"], "storeId": "s1"})).await;
    register(&central, json!({"url": well.url, "types": ["sold"], "storeId": "s2"})).await;
    sell(&world, "s1", 30).await;
    heard(&well, 30).await;
    assert_eq!((hangs.heard().len(), well.heard().len()), (1, 30));
    // It also stops with requests under way.
    let mut world = world;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_gone_gets_nothing_until_it_is_replayed() {
    let world = world(&["s1"]).await;
    let (central, endpoint) = (world.central(), Endpoint::start().await);
    endpoint.says(|_| 410);
    let webhook = register(&central, json!({"url": endpoint.url, "types": ["sold"]})).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "webhookId"));
    sell(&world, "s1", 3).await;
    let disabled = until("it is disabled", SOON, async || {
        let webhook = central.get(&path).await.expect(200);
        if webhook["status"] == "disabled" { Ok(webhook) } else { Err(webhook) }
    })
    .await;
    assert_eq!((&disabled["heldStores"], &disabled["held"][0]["nextAttemptAt"]), (&json!(1), &Value::Null));
    endpoint.says(|_| 204);
    let cursor = text(&disabled, "cursor");
    let replayed = central.post(&format!("{path}/replay"), json!({"after": cursor})).await.expect(200);
    assert_eq!(text(&replayed, "status"), "active");
    heard(&endpoint, 3).await;
    assert_in_order(&endpoint, "s1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_sent_into_the_network_inside() {
    let world = World::with(&[]).await;
    let central = world.central();
    let refused = [
        (json!({"url": "http://shop.example/hook"}), "/url"),
        (json!({"url": "https://127.0.0.1/hook"}), "/url"),
        (json!({"url": "https://169.254.169.254/latest/meta-data"}), "/url"),
        (json!({"url": "https://[::ffff:10.0.0.1]/"}), "/url"),
        (json!({"url": "https://localhost:8443/"}), "/url"),
        (json!({"url": "https://user:secret@1.1.1.1/"}), "/url"),
        (json!({"url": "https://shop.example/hook#here"}), "/url"),
        (json!({"url": "nonsense"}), "/url"),
        (json!({"url": "https://1.1.1.1/", "types": ["sold", "sould"]}), "/types/1"),
        (json!({"url": "https://1.1.1.1/", "storeId": "a/b"}), "/storeId"),
        (json!({"url": "https://1.1.1.1/", "colour": 1}), "/colour"),
    ];
    for (body, pointer) in refused {
        let answer = central.post("/v1/webhooks", body.clone()).await;
        assert_eq!((answer.status, answer.body["errors"][0]["pointer"].as_str()), (400, Some(pointer)), "{body}");
    }
    assert_eq!(central.post("/v1/webhooks", json!({})).await.status, 400);
    // What is public may be registered, whether or not somebody is there.
    let webhook = register(&central, json!({"url": "https://1.1.1.1/hook"})).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "webhookId"));
    for after in [json!(-1), json!("x"), json!(1.5), Value::Null] {
        assert_eq!(central.post(&format!("{path}/replay"), json!({"after": after})).await.status, 400, "{after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_a_hundred_at_most() {
    let world = World::with(&[]).await;
    let central = world.central();
    let (key, hook) = ([("idempotency-key", "hook-1")], json!({"url": "https://1.1.1.1/hook"}));
    let first = central.post_with("/v1/webhooks", &key, hook.clone()).await.expect(201);
    for _ in 1..100 {
        register(&central, hook.clone()).await;
    }
    let beyond = central.post("/v1/webhooks", hook.clone()).await;
    assert_eq!((beyond.status, beyond.code()), (409, "limit_exceeded"), "{}", beyond.body);
    let again = central.post_with("/v1/webhooks", &key, hook.clone()).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, "true"), "it is one of them");
    let path = format!("/v1/webhooks/{}", text(&first, "webhookId"));
    for status in [204, 404] {
        let deleted = central.ask(Method::DELETE, &path, &[], None).await.expect("an answer");
        assert_eq!(deleted.status, status);
    }
    register(&central, hook.clone()).await;
    assert_eq!(central.post("/v1/webhooks", hook).await.code(), "limit_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_webhook_is_done_once_under_a_key() {
    let world = world(&["s1"]).await;
    let (central, endpoint) = (world.central(), Endpoint::start().await);
    let ask = async |method: Method, path: &str, key: &str, body: Option<Value>| {
        let key = [("idempotency-key", key)];
        let headers = if key[0].1.is_empty() { &key[..0] } else { &key[..] };
        central.ask(method, path, headers, body.as_ref()).await.expect("an answer")
    };
    let hook = json!({"url": endpoint.url, "types": ["sold"]});
    let mut made = Vec::new();
    for (key, replayed, secret) in [("made", "", true), ("made", "true", false), ("", "", true), ("", "", true)] {
        let answer = ask(Method::POST, "/v1/webhooks", key, Some(hook.clone())).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (201, replayed));
        assert_eq!(answer.body["secret"].is_string(), secret, "it is told once");
        assert_eq!(answer.header("location"), format!("/v1/webhooks/{}", text(&answer.body, "webhookId")));
        made.push(text(&answer.body, "webhookId").to_owned());
    }
    assert!(made[0] == made[1] && made[1] != made[2] && made[2] != made[3], "{made:?}");
    let other = ask(Method::POST, "/v1/webhooks", "made", Some(json!({"url": endpoint.url}))).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));

    let path = format!("/v1/webhooks/{}", made[0]);
    let rotate = format!("{path}/secret");
    let mut secrets = BTreeSet::new();
    for (key, replayed, told) in [("rotated", "", true), ("rotated", "true", false), ("", "", true), ("", "", true)] {
        let answer = ask(Method::POST, &rotate, key, None).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.body);
        assert_eq!(answer.body["secret"].is_string(), told);
        secrets.extend(answer.body["secret"].as_str().map(str::to_owned));
    }
    assert_eq!(secrets.len(), 3, "each was another one");

    sell(&world, "s1", 2).await;
    heard(&endpoint, 2 * 3).await;
    let of_it = async || {
        let list = central.get(&format!("{path}/deliveries?size=1000")).await.expect(200);
        list["items"].as_array().expect("a list").len()
    };
    let replay = format!("{path}/replay");
    // Under its key it is replayed once: two sales are delivered twice.
    for (key, replayed, deliveries) in [("again", "", 4), ("again", "true", 4), ("", "", 6), ("", "", 8)] {
        let answer = ask(Method::POST, &replay, key, Some(json!({"after": "0"}))).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.body);
        until("it is delivered", SOON, async || match of_it().await {
            many if many == deliveries => Ok(()),
            other => Err(other),
        })
        .await;
    }
    let test = format!("{path}/test");
    for _ in 0..2 {
        let tested = ask(Method::POST, &test, "tested", None).await;
        assert_eq!(tested.header("idempotency-replayed"), "", "a key means nothing");
        assert_eq!(tested.expect(200)["statusCode"], 200);
    }
    ask(Method::POST, &test, "", None).await.expect(200);
    ask(Method::POST, &test, "", None).await.expect(200);

    for (path, used) in [(&rotate, "again"), (&replay, "rotated"), (&path, "made")] {
        let (method, body) =
            if *path == *replay { (Method::POST, Some(json!({"after": 0}))) } else { (Method::POST, None) };
        let method = if path.ends_with(&made[0]) { Method::DELETE } else { method };
        let other = ask(method, path, used, body).await;
        assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"), "{path}");
    }
    for replayed in ["", "true"] {
        let deleted = ask(Method::DELETE, &path, "deleted", None).await;
        assert_eq!((deleted.status, deleted.header("idempotency-replayed")), (204, replayed), "{}", deleted.body);
    }
    assert_eq!(ask(Method::DELETE, &path, "", None).await.code(), "unknown_id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_for_low_stock_hears_of_nothing_else() {
    let world = world(&["s1"]).await;
    let (central, endpoint) = (world.central(), Endpoint::start().await);
    register(&central, json!({"url": endpoint.url, "types": ["low_stock"]})).await;
    let till = world.store("s1");
    till.post("/v1/inventory", json!({"productId": "jam", "quantity": 3, "lowAt": 2})).await.expect(201);
    sell(&world, "s1", 2).await;
    till.post("/v1/purchase/jam", json!({"quantity": 1})).await.expect(200);
    till.post("/v1/purchase/jam", json!({"quantity": 1})).await.expect(200);
    heard(&endpoint, 1).await;
    let told = endpoint.heard();
    let event = &told[0].body;
    assert_eq!((told.len(), text(event, "type"), text(&event["data"], "productId")), (1, "low_stock", "jam"));
    assert_eq!((&event["data"]["storeId"], &event["data"]["quantity"]), (&json!("s1"), &json!(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_nothing_for_three_days_is_parked_until_it_is_replayed() {
    let mut world = world(&["s1"]).await;
    let endpoint = Endpoint::start().await;
    endpoint.says(|_| 500);
    let webhook = register(&world.central(), json!({"url": endpoint.url, "types": ["sold"]})).await;
    let path = format!("/v1/webhooks/{}", text(&webhook, "webhookId"));
    sell(&world, "s1", 2).await;
    let seen = async |world: &World, what: &str, is_it: fn(&Value) -> bool| {
        until(what, SOON, async || {
            let webhook = world.central().get(&path).await.expect(200);
            if is_it(&webhook) { Ok(webhook) } else { Err(webhook) }
        })
        .await
    };
    seen(&world, "it fails", |webhook| webhook["heldStores"] == 1).await;
    // Three days go by, and the next attempt is due.
    world.kill(&Daemon::Central);
    let file = rusqlite::Connection::open(world.dir().join("central.db")).expect("opens");
    file.execute("update webhook set failing_since = failing_since - 3 * 86400000", []).expect("writes");
    file.execute("update webhook_held set next_at = 0, failures = 17", []).expect("writes");
    drop(file);
    world.restart(&Daemon::Central).await;
    seen(&world, "it is parked", |webhook| webhook["status"] == "parked").await;
    let tried = endpoint.heard().len();
    sell(&world, "s1", 1).await;
    world.converged(SOON).await;
    endpoint.says(|_| 200);
    assert_eq!(endpoint.heard().len(), tried, "nothing is sent to who is parked");
    let cursor = seen(&world, "it is parked", |webhook| webhook["status"] == "parked").await["cursor"].clone();
    let replayed = world.central().post(&format!("{path}/replay"), json!({"after": cursor})).await.expect(200);
    assert_eq!((text(&replayed, "status"), &replayed["failingSince"]), ("active", &Value::Null));
    heard(&endpoint, 3).await;
    assert_in_order(&endpoint, "s1");
}
