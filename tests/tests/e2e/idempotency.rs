//! Keys and versions at both servers: what came again is told again, once done is done, and what has not changed is not
//! sent.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Client, Daemon, World};

const SOON: Duration = Duration::from_secs(10);

async fn ask(client: &Client, path: &str, key: &str, quantity: i64) -> Answer {
    let headers = [("idempotency-key", key), ("prefer", "wait=20")];
    client.post_with(path, &headers, json!({"quantity": quantity})).await
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

pub(crate) async fn stocked() -> World {
    let world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 20})).await.expect(201);
    world.converged(SOON).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stores_write_is_done_once_and_told_again_also_after_a_crash() {
    let mut world = stocked().await;
    let store = world.store("s1");
    let sell = "/v1/purchase/tea";
    let first = ask(&store, sell, "k1", 2).await;
    assert_eq!((first.status, is_replay(&first), &first.body["quantity"]), (200, false, &json!(18)));
    ask(&store, sell, "k2", 1).await.expect(200);
    world.kill(&Daemon::Store("s1".into()));
    world.restart(&Daemon::Store("s1".into())).await;
    let store = world.store("s1");
    for path in [sell, "/purchase/tea", "/v1/purchase/te%61"] {
        let again = ask(&store, path, "k1", 2).await;
        assert_eq!((again.status, is_replay(&again), &again.body), (200, true, &first.body), "{path}");
        assert_eq!(again.header("shelf-position"), first.header("shelf-position"));
    }
    let other = ask(&store, sell, "k1", 3).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    let elsewhere = ask(&store, "/v1/inventory/tea/receive", "k1", 2).await;
    assert_eq!((elsewhere.status, elsewhere.code()), (422, "idempotency_key_reused"));
    // What was refused binds nothing.
    let refused = ask(&store, sell, "k3", 100).await;
    assert_eq!((refused.status, refused.code()), (409, "insufficient_stock"));
    store.get("/v1/idempotency/k3").await.expect(404);
    store.post("/v1/inventory/tea/receive", json!({"quantity": 100})).await.expect(200);
    let judged_anew = ask(&store, sell, "k3", 100).await;
    assert_eq!((judged_anew.status, is_replay(&judged_anew)), (200, false));
    // Many at once are one sale.
    let at_once = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { ask(&store, sell, "k4", 1).await })
    });
    let mut done = 0;
    for answer in at_once.collect::<Vec<_>>() {
        let answer = answer.await.expect("runs");
        assert_eq!((answer.status, &answer.body["quantity"]), (200, &json!(16)));
        done += u32::from(!is_replay(&answer));
    }
    assert_eq!(done, 1);
    let kept = store.get("/v1/idempotency/k1").await.expect(200);
    assert_eq!((&kept["route"], &kept["status"]), (&json!("POST /purchase/tea"), &json!("done")));
    assert_eq!(kept["effect"], first.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_under_a_key_is_one_purchase_and_is_told_as_it_is_now() {
    let mut world = stocked().await;
    let (store, central) = (world.store("s1"), world.central());
    let buy = "/v1/purchase/s1/tea";
    let key = async |central: &Client, key: &str| central.get(&format!("/v1/idempotency/{key}")).await.expect(200);
    // Asked while the store is cut off: pending, and who asks again waits with the first.
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let now = [("idempotency-key", "k1"), ("prefer", "respond-async")];
    let first = central.post_with(buy, &now, json!({"quantity": 2})).await;
    assert_eq!((first.status, is_replay(&first)), (202, false), "{}", first.body);
    let id = first.body["purchase"]["purchaseId"].clone();
    assert_eq!(first.header("location"), format!("/v1/purchases/{}", id.as_str().unwrap_or_default()));
    let still = central.post_with(buy, &now, json!({"quantity": 2})).await;
    assert_eq!((still.status, is_replay(&still), still.header("retry-after")), (202, true, "1"));
    let kept = key(&central, "k1").await;
    assert_eq!((&kept["status"], &kept["effect"]), (&json!("pending"), &json!({"kind": "purchase", "id": id})));
    let other = ask(&central, buy, "k1", 3).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let central = central.clone();
            let headers = [("idempotency-key", "k1"), ("prefer", "wait=25")];
            tokio::spawn(async move { central.post_with(buy, &headers, json!({"quantity": 2})).await })
        })
        .collect();
    store.post("/v1/connected", json!({})).await.expect(200);
    for answer in waiting {
        let answer = answer.await.expect("runs");
        assert_eq!((answer.status, is_replay(&answer)), (200, true), "{}", answer.body);
        assert_eq!((&answer.body["purchase"]["purchaseId"], &answer.body["quantity"]), (&id, &json!(18)));
    }
    // The present state, after a crash, too: it has been picked since.
    let picked = format!("/v1/purchases/{}/picked", id.as_str().unwrap_or_default());
    store.post(&picked, json!({})).await.expect(200);
    world.converged(SOON).await;
    world.kill(&Daemon::Central);
    world.restart(&Daemon::Central).await;
    let central = world.central();
    let again = ask(&central, buy, "k1", 2).await;
    assert_eq!((again.status, is_replay(&again), &again.body["purchase"]["picked"]), (200, true, &json!(true)));
    let kept = key(&central, "k1").await;
    assert_eq!((&kept["route"], &kept["status"]), (&json!("POST /purchase/s1/tea"), &json!("confirmed")));
    // A command is told again, too.
    let receive = "/v1/inventory/s1/tea/receive";
    world.online("s1").await;
    let first = ask(&central, receive, "k2", 5).await;
    assert_eq!((first.status, &first.body["quantity"]), (200, &json!(23)), "{}", first.body);
    let again = ask(&central, receive, "k2", 5).await;
    assert_eq!((again.status, is_replay(&again), &again.body["quantity"]), (200, true, &json!(23)));
    let kept = key(&central, "k2").await;
    assert_eq!((&kept["status"], &kept["effect"]["kind"]), (&json!("done"), &json!("command")));
    // What was refused before it had an effect binds nothing.
    let refused = ask(&central, buy, "k3", 1_000).await;
    assert_eq!((refused.status, refused.code()), (409, "insufficient_stock"));
    central.get("/v1/idempotency/k3").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_changed_is_not_sent_again() {
    let world = stocked().await;
    for (client, path) in [(world.store("s1"), "/v1/inventory/tea"), (world.central(), "/v1/inventory/s1/tea")] {
        let item = client.get(path).await;
        let tag = item.header("etag").to_owned();
        let read =
            async |tag: &str| client.ask(Method::GET, path, &[("if-none-match", tag)], None).await.expect("an answer");
        for same in [tag.clone(), format!("\"0-0\", {tag}"), "*".to_owned()] {
            let unchanged = read(&same).await;
            assert_eq!((unchanged.status, unchanged.header("etag")), (304, &*tag), "{path} {same}");
        }
        assert_eq!(read("\"0-0\"").await.status, 200);
        world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
        world.converged(SOON).await;
        let changed = read(&tag).await;
        assert_eq!(changed.status, 200, "{path}");
        assert_ne!(changed.header("etag"), tag);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_under_a_key_has_one_effect_at_both_servers() {
    let world = stocked().await;
    let (store, central) = (world.store("s1"), world.central());
    let bought = central.post("/v1/purchase/s1/tea", json!({"quantity": 2})).await.expect(200);
    let picked = format!("/v1/purchases/{}/picked", bought["purchase"]["purchaseId"].as_str().expect("an id"));
    let unwanted = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
    let cancelled = format!("{}/cancel", unwanted.header("location"));
    let mut held = Vec::new();
    for act in ["confirm", "cancel"] {
        let hold = json!({"lines": [{"productId": "tea", "quantity": 1}]});
        held.push(format!("{}/{act}", store.post("/v1/reservations", hold).await.header("location")));
    }
    world.converged(SOON).await;
    let (post, put, patch) = (Method::POST, Method::PUT, Method::PATCH);
    let writes = [
        (&store, &post, "/v1/inventory", json!({"productId": "jam", "quantity": 4}), 201),
        (&store, &post, "/v1/inventory/tea/adjust", json!({"delta": -2, "reason": "damage"}), 200),
        (&store, &post, "/v1/inventory/tea/receive", json!({"quantity": 3}), 200),
        (&store, &patch, "/v1/inventory/tea", json!({"name": "Black tea"}), 200),
        (&store, &put, "/v1/inventory/tea", json!({"quantity": 25}), 200),
        (&store, &put, "/v1/inventory/tea/allotment", json!({"quantity": 2}), 200),
        (&store, &post, &*held[0], json!({}), 200),
        (&store, &post, &*held[1], json!({}), 200),
        (&store, &post, &*picked, json!({"reference": "shelf 4"}), 200),
        (&central, &post, &*cancelled, json!({}), 200),
        (&central, &post, "/v1/inventory/s1", json!({"productId": "rum", "quantity": 6}), 201),
        (&central, &put, "/v1/inventory/s1/tea", json!({"quantity": 30}), 200),
        (&central, &post, "/v1/inventory/s1/tea/adjust", json!({"delta": 3, "reason": "found"}), 200),
        (&central, &put, "/v1/inventory/s1/tea/allotment", json!({"quantity": 5}), 200),
    ];
    for (number, (client, method, path, body, status)) in writes.iter().enumerate() {
        let key = format!("k{number}");
        let write = async |body: &Value| {
            let headers = [("idempotency-key", &*key), ("prefer", "wait=20")];
            client.ask((*method).clone(), path, &headers, Some(body)).await.expect("an answer")
        };
        let first = write(body).await;
        assert_eq!((first.status, is_replay(&first)), (*status, false), "{path}: {}", first.body);
        let head = store.get("/v1/status").await.expect(200)["head"].clone();
        let again = write(body).await;
        assert_eq!((again.status, is_replay(&again)), (*status, true), "{path}: {}", again.body);
        assert_eq!(store.get("/v1/status").await.expect(200)["head"], head, "{path}");
        assert_eq!(again.header("location"), first.header("location"), "{path}");
        for member in [
            "productId",
            "purchaseId",
            "quantity",
            "allotted",
            "version",
            "difference",
            "picked",
            "pickedAt",
            "status",
            "name",
        ] {
            assert_eq!(again.body[member], first.body[member], "{path}: {member}");
        }
        let mut other = body.clone();
        other["reference"] = json!("another");
        let other = write(&other).await;
        assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"), "{path}");
    }
    let tea = store.get("/v1/inventory/tea").await.expect(200);
    assert_eq!((&tea["quantity"], &tea["allotted"]), (&json!(33), &json!(5)));
    for (product, units) in [("jam", 4), ("rum", 6)] {
        assert_eq!(store.get(&format!("/v1/inventory/{product}")).await.expect(200)["quantity"], units);
    }
    assert_eq!((&tea["reserved"], &tea["name"]), (&json!(0), &json!("Black tea")));
    let purchase = store.get(picked.trim_end_matches("/picked")).await.expect(200);
    assert_eq!(purchase["picked"], true);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_an_item_that_has_changed_since_is_refused_at_both_servers() {
    let world = stocked().await;
    let (store, central) = (world.store("s1"), world.central());
    for (client, item, till) in
        [(&store, "/v1/inventory/tea", Some("/v1/purchase/tea")), (&central, "/v1/inventory/s1/tea", None)]
    {
        let (receive, adjust) = (format!("{item}/receive"), format!("{item}/adjust"));
        let writes = [
            (Method::PUT, item, json!({"quantity": 20})),
            (Method::PATCH, item, json!({"name": "Tea"})),
            (Method::POST, &*receive, json!({"quantity": 1})),
            (Method::POST, &*adjust, json!({"delta": -1, "reason": "damage"})),
        ];
        let sale = till.map(|till| (Method::POST, till, json!({"quantity": 1})));
        for (method, path, body) in writes.into_iter().chain(sale) {
            let old = client.get(item).await.header("etag").to_owned();
            store.post("/v1/inventory/tea/receive", json!({"quantity": 1})).await.expect(200);
            world.converged(SOON).await;
            let now = client.get(item).await;
            let (new, version) =
                (now.header("etag").to_owned(), now.expect(200)["version"].as_i64().expect("a number"));
            let write = async |tags: &str| {
                let headers = [("if-match", tags), ("prefer", "wait=20")];
                client.ask(method.clone(), path, &headers, Some(&body)).await.expect("an answer")
            };
            let refused = write(&old).await;
            assert_eq!(
                (refused.status, refused.code()),
                (412, "precondition_failed"),
                "{method} {path}: {}",
                refused.body
            );
            assert_eq!(refused.body["currentVersion"], version, "{method} {path}");
            assert_eq!(write(&format!("{old}, {new}")).await.expect(200)["version"], version + 1, "{method} {path}");
        }

        // The same by what the body says; with both, the header is judged first.
        world.converged(SOON).await;
        let version = client.get(item).await.expect(200)["version"].as_i64().expect("a number");
        let rename = |expected: i64| json!({"name": "Green tea", "expectedVersion": expected});
        let other = client.patch(item, rename(version - 1)).await;
        assert_eq!((other.status, other.code()), (409, "version_conflict"));
        assert_eq!(other.body["currentVersion"], version);
        let old = [("if-match", "\"1-1\"")];
        let both = client.ask(Method::PATCH, item, &old, Some(&rename(version - 1))).await.expect("an answer");
        assert_eq!((both.status, both.code()), (412, "precondition_failed"));
        assert_eq!(client.patch(item, rename(version)).await.expect(200)["name"], "Green tea");
        let nowhere = item.replace("tea", "bun");
        let unknown = client.ask(Method::PATCH, &nowhere, &old, Some(&rename(1))).await.expect("an answer");
        assert_eq!((unknown.status, unknown.code()), (404, "unknown_product"));
    }
    let bought = central.post_with("/v1/purchase/s1/tea", &[("if-match", "*")], json!({"quantity": 1})).await;
    assert_eq!((bought.status, bought.code()), (400, "invalid_request"), "a purchase there depends on no version");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_a_request_that_comes_again_is_another_one() {
    let world = World::with(&["s1", "s2"]).await;
    let (store, central) = (world.store("s1"), world.central());
    for name in ["s1", "s2"] {
        world.store(name).post("/v1/inventory", json!({"productId": "tea", "quantity": 20})).await.expect(201);
    }
    world.converged(SOON).await;
    let tea = |quantity: i64| json!([{"productId": "tea", "quantity": quantity}]);
    let held = async |client: &Client, body: Value| {
        let answer = client.post_with("/v1/reservations", &[("prefer", "wait=20")], body).await;
        let path = answer.header("location").to_owned();
        answer.expect(201);
        path
    };
    let [kept, freed] = [held(&store, json!({"lines": tea(1)})).await, held(&store, json!({"lines": tea(1)})).await];
    let online = json!({"storeId": "s1", "lines": tea(1)});
    let [online_kept, online_freed] = [held(&central, online.clone()).await, held(&central, online).await];
    let bought = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.header("location").to_owned();
    let sent = json!({"fromStoreId": "s2", "toStoreId": "s1", "lines": tea(4)});
    let sent = central.post("/v1/transfers", sent).await.header("location").to_owned();
    world.converged(SOON).await;
    let (post, put, patch) = (Method::POST, Method::PUT, Method::PATCH);
    let of = |path: &str, act: &str| format!("{path}/{act}");
    let damage = json!({"delta": -1, "reason": "damage"});
    let batch = json!({"operations": [{"op": "sell", "productId": "tea", "quantity": 1}]});
    let online_batch = json!({"storeId": "s1", "operations": [{"op": "sell", "productId": "tea", "quantity": 1}]});
    let restore = json!({"epoch": 0, "log": []});
    let writes = [
        (&store, &post, "/v1/inventory".to_owned(), json!({"productId": "ale"}), [201, 409], "already_exists"),
        (&store, &patch, "/v1/inventory/tea".into(), json!({"name": "Black tea"}), [200, 200], ""),
        (&store, &post, "/v1/inventory/tea/adjust".into(), damage.clone(), [200, 200], ""),
        (&store, &put, "/v1/inventory/tea/allotment".into(), json!({"quantity": 2}), [200, 200], ""),
        (&store, &post, "/v1/operations".into(), batch, [200, 200], ""),
        (&store, &post, "/v1/reservations".into(), json!({"lines": tea(1)}), [201, 201], ""),
        (&store, &post, of(&kept, "extend"), json!({"ttlSeconds": 600}), [200, 200], ""),
        (&store, &post, of(&freed, "cancel"), json!({}), [200, 200], ""),
        (&store, &post, "/v1/dead-letters/replay".into(), json!({}), [200, 200], ""),
        (&central, &post, "/v1/inventory/s1".into(), json!({"productId": "rum"}), [201, 409], "already_exists"),
        (
            &central,
            &post,
            "/v1/products".into(),
            json!({"productId": "gin", "name": "Gin"}),
            [201, 409],
            "already_exists",
        ),
        (&central, &patch, "/v1/inventory/s1/tea".into(), json!({"name": "Green tea"}), [200, 200], ""),
        (&central, &post, "/v1/inventory/s1/tea/adjust".into(), damage, [200, 200], ""),
        (&central, &post, "/v1/inventory/s1/tea/receive".into(), json!({"quantity": 2}), [200, 200], ""),
        (&central, &post, "/v1/operations".into(), online_batch, [200, 200], ""),
        (&central, &put, "/v1/inventory/s1/tea/allotment".into(), json!({"quantity": 3}), [200, 200], ""),
        (&central, &post, of(&online_kept, "extend"), json!({"ttlSeconds": 600}), [200, 200], ""),
        (&central, &post, of(&online_freed, "cancel"), json!({}), [200, 200], ""),
        (&central, &post, of(&bought, "cancel"), json!({}), [200, 200], ""),
        (&central, &post, of(&sent, "receive"), json!({}), [200, 409], "transfer_closed"),
        (&central, &put, "/v1/inventory/s1/tea".into(), json!({"quantity": 30}), [200, 200], ""),
        (&central, &post, "/v1/projections/rebuild".into(), Value::Null, [202, 202], ""),
        (&central, &post, "/v1/dead-letters/replay".into(), json!({}), [200, 200], ""),
        // Of a store that nobody else runs.
        (&central, &post, "/v1/stores/s3/restore".into(), restore, [200, 200], ""),
    ];
    for (client, method, path, body, statuses, code) in &writes {
        for status in statuses {
            let body = Some(body).filter(|body| !body.is_null());
            let answer = client.ask((*method).clone(), path, &[("prefer", "wait=20")], body).await.expect("an answer");
            assert_eq!(answer.status, *status, "{method} {path}: {}", answer.body);
            assert!(*status < 400 || answer.code() == *code, "{method} {path}: {}", answer.body);
            assert!(!is_replay(&answer), "{path}");
        }
    }
    world.converged(SOON).await;
    let tea = store.get("/v1/inventory/tea").await.expect(200);
    // The holds are the one that was kept at each server, and two that were asked for in the same words.
    let figures = ["quantity", "reserved", "allotted", "available"].map(|name| tea[name].as_i64());
    assert_eq!(figures, [Some(30), Some(4), Some(3), Some(23)], "{tea}");
    let moved = async |kind: &str| {
        let told = store.get(&format!("/v1/events?type={kind}&productId=tea")).await.expect(200);
        told["items"].as_array().expect("a list").iter().map(|event| event["delta"].as_i64().unwrap_or(0)).sum::<i64>()
    };
    let sums =
        [moved("adjusted").await, moved("received").await, moved("sold").await, moved("transfer_received").await];
    assert_eq!(sums, [-4, 4, -4, 4], "twice at each server, twice, twice by each server's batch, once");
}
