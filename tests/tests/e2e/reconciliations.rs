//! A list of what was counted in a store, sent to central by the head office.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Builder, Client, World, until};

const SOON: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/reconciliations";

/// A store with units of some products, all of which central knows.
async fn stocked(products: &[(&str, i64)]) -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 20_000, sweep_ms: 300 }.start(&["s1"]).await;
    for (name, units) in products {
        let create = json!({"productId": name, "quantity": units});
        world.store("s1").post("/v1/inventory", create).await.expect(201);
    }
    world.converged(SOON).await;
    world.online("s1").await;
    world
}

fn list(counted: &[(&str, i64)]) -> Value {
    let line = |(name, units): &(&str, i64)| json!({"productId": name, "quantity": units});
    json!({"storeId": "s1", "lines": counted.iter().map(line).collect::<Vec<_>>(), "source": "stocktaking 7"})
}

/// The list, to be counted at the store.
fn in_earnest(mut list: Value) -> Value {
    list["dryRun"] = json!(false);
    list
}

fn counted_at(mut list: Value, position: &str) -> Value {
    list["countedAt"] = json!(position);
    list
}

/// Has what differs counted, and waits for it.
async fn ask(central: &Client, key: &str, list: Value) -> Answer {
    central.post_with(PATH, &[("prefer", "wait=20"), ("idempotency-key", key)], in_earnest(list)).await
}

async fn units(store: &Client, product: &str) -> i64 {
    store.get(&format!("/v1/inventory/{product}")).await.expect(200)["quantity"].as_i64().expect("a number")
}

/// What a comparison found.
fn found(body: &Value) -> Value {
    let names = ["equal", "different", "missing", "missingLeftOut", "unknown"];
    names.map(|name| (name.to_owned(), body[name].clone())).into_iter().collect::<serde_json::Map<_, _>>().into()
}

fn nothing_but(equal: usize) -> Value {
    json!({"equal": equal, "different": [], "missing": [], "missingLeftOut": 0, "unknown": []})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_compared_and_what_differs_is_counted_at_the_store() {
    let world = stocked(&[("ale", 3), ("bun", 4), ("cod", 5), ("jam", 2), ("tea", 10)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let counted = list(&[("tea", 9), ("fig", 1), ("ale", 3), ("jam", 4), ("bun", 4)]);
    let expected = json!({
        "equal": 2,
        "different": [
            {"productId": "jam", "expected": 2, "quantity": 4, "difference": 2},
            {"productId": "tea", "expected": 10, "quantity": 9, "difference": -1},
        ],
        "missing": [{"productId": "cod", "expected": 5}],
        "missingLeftOut": 0,
        "unknown": [{"productId": "fig", "quantity": 1}],
    });
    let compared = central.post_with(PATH, &[("idempotency-key", "k")], counted.clone()).await.expect(200);
    assert_eq!(found(&compared), expected);
    assert_eq!((&compared["storeId"], &compared["commandId"]), (&json!("s1"), &Value::Null));
    assert!(compared["asOf"].is_string(), "{compared}");
    assert_eq!((units(&store, "jam").await, units(&store, "tea").await), (2, 10), "it was only compared");
    let commands = central.get("/v1/commands?storeId=s1").await.expect(200);
    assert_eq!(commands["items"], json!([]));

    // The key of a comparison is free: a comparison changes nothing.
    let done = ask(&central, "k", counted.clone()).await;
    assert_eq!(done.header("idempotency-replayed"), "");
    let position = done.header("shelf-position").to_owned();
    let done = done.expect(200);
    assert_eq!(found(&done), expected);
    let id = done["commandId"].as_str().expect("an id");
    let stock = [("ale", 3), ("bun", 4), ("cod", 5), ("jam", 4), ("tea", 9)];
    for (name, left) in stock {
        assert_eq!(units(&store, name).await, left, "{name}");
    }
    assert_eq!(store.get("/v1/inventory/fig").await.status, 404, "it is not created");
    world.converged(SOON).await;

    let command = central.get(&format!("/v1/commands/{id}")).await.expect(200);
    let said = (&command["operation"], &command["status"], &command["position"]);
    assert_eq!(said, (&json!("batch"), &json!("done"), &json!(position)));
    let events = central.get("/v1/events?storeId=s1&reference=stocktaking%207&after=0").await.expect(200);
    let events: Vec<Value> = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| json!([event["type"], event["productId"], event["delta"], event["operationId"]]))
        .collect();
    let line = |index: usize, name: &str, delta: i64| json!(["counted", name, delta, format!("{id}/{index}")]);
    assert_eq!(events, [line(0, "jam", 2), line(1, "tea", -1)]);

    // Again under its key: the command, whatever the store has by now.
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    let again = ask(&central, "k", counted.clone()).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.expect(200), command);
    assert_eq!(units(&store, "tea").await, 8, "it is not counted again");
    let other = ask(&central, "k", list(&[("tea", 9)])).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"));

    // Nothing differs: nothing is asked of the store, and the key stays free.
    world.converged(SOON).await;
    for _ in 0..2 {
        let equal = ask(&central, "l", list(&[("ale", 3), ("bun", 4), ("cod", 5), ("jam", 4), ("tea", 8)])).await;
        assert_eq!(equal.header("idempotency-replayed"), "");
        let equal = equal.expect(200);
        assert_eq!((found(&equal), &equal["commandId"]), (nothing_but(5), &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sold_after_the_count_is_no_difference() {
    let world = stocked(&[("bun", 6), ("jam", 5), ("tea", 10)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let position = store.get("/v1/inventory/tea").await.header("shelf-position").to_owned();
    // On the shelves are now: 6 bun, 5 jam, 8 tea. Then the shop goes on.
    store.post("/v1/purchase/tea", json!({"quantity": 3})).await.expect(200);
    let hold = json!({"lines": [{"productId": "bun", "quantity": 2}, {"productId": "jam", "quantity": 1}]});
    let hold = store.post("/v1/reservations", hold).await.expect(201);
    let confirm = format!("/v1/reservations/{}/confirm", hold["reservationId"].as_str().expect("an id"));
    store.post(&confirm, json!({})).await.expect(200);
    world.converged(SOON).await;
    let shelves = [("bun", 6), ("jam", 5), ("tea", 8)];
    let counted = counted_at(list(&shelves), &position);
    let different = json!([{"productId": "tea", "expected": 10, "quantity": 8, "difference": -2}]);
    let compared = central.post(PATH, counted.clone()).await.expect(200);
    assert_eq!((&compared["equal"], &compared["different"]), (&json!(2), &different), "{compared}");

    // Between the comparison and the count one more is sold.
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    let done = ask(&central, "k", counted.clone()).await.expect(200);
    assert_eq!((&done["equal"], &done["different"]), (&json!(2), &different), "{done}");
    assert_eq!(units(&store, "tea").await, 8 - 3 - 1);
    assert_eq!((units(&store, "bun").await, units(&store, "jam").await), (4, 4));
    world.converged(SOON).await;

    // The same list once more, under another key and after another sale: nothing is taken off twice.
    store.post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    let again = ask(&central, "l", counted.clone()).await.expect(200);
    assert_eq!((found(&again), &again["commandId"]), (nothing_but(3), &Value::Null));
    assert_eq!(units(&store, "tea").await, 3);

    // A place that central has not heard of yet is waited for, one that is none of this ledger's is refused.
    let (before, seq) = position.rsplit_once('-').expect("a number");
    let later = format!("{before}-{}", seq.parse::<u64>().expect("a number") + 1_000_000);
    let behind = central.post_with(PATH, &[("prefer", "wait=0")], counted_at(list(&shelves), &later)).await;
    assert_eq!((behind.status, behind.code()), (503, "not_caught_up"));
    for other in ["s1:1-1", "s2:1-1"] {
        let refused = central.post(PATH, counted_at(list(&shelves), other)).await;
        assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (400, &json!("/countedAt")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_cannot_be_read_is_refused_with_its_place() {
    let world = stocked(&[("tea", 10)]).await;
    let central = world.central();
    let with = |name: &str, value: Value| {
        let mut list = list(&[("tea", 1)]);
        list[name] = value;
        list
    };
    let without = |name: &str| {
        let mut list = list(&[("tea", 1)]);
        list.as_object_mut().expect("an object").remove(name);
        list
    };
    let tea = |units: Value| json!([{"productId": "tea", "quantity": units}]);
    for (body, pointer) in [
        (without("storeId"), "/storeId"),
        (without("lines"), "/lines"),
        (without("source"), "/source"),
        (with("storeId", json!("no store")), "/storeId"),
        (with("lines", json!([])), "/lines"),
        (with("lines", json!({})), "/lines"),
        (with("lines", tea(json!(-1))), "/lines/0/quantity"),
        (with("lines", tea(json!(1_000_000_001))), "/lines/0/quantity"),
        (with("lines", tea(json!(1.0))), "/lines/0/quantity"),
        (with("lines", tea(json!("1"))), "/lines/0/quantity"),
        (with("lines", json!([{"quantity": 1}])), "/lines/0/productId"),
        (with("lines", json!([{"productId": "no tea", "quantity": 1}])), "/lines/0/productId"),
        (with("lines", json!([{"productId": "tea", "quantity": 1, "expectedVersion": 1}])), "/lines/0/expectedVersion"),
        (list(&[("tea", 1), ("jam", 1), ("tea", 1)]), "/lines/2"),
        (with("source", json!("x".repeat(101))), "/source"),
        (with("countedAt", json!("yesterday")), "/countedAt"),
        (with("dryRun", json!("no")), "/dryRun"),
        (with("colour", json!("red")), "/colour"),
    ] {
        let refused = central.post(PATH, body).await;
        let said = (refused.status, refused.code(), &refused.body["errors"][0]["pointer"]);
        assert_eq!(said, (400, "invalid_request", &json!(pointer)), "{}", refused.body);
    }
    let tagged = central.post_with(PATH, &[("if-match", "*")], list(&[("tea", 1)])).await;
    assert_eq!((tagged.status, &tagged.body["errors"][0]["pointer"]), (400, &json!("If-Match")));
    let form = central.send(Method::POST, PATH, &[("content-type", "text/plain")], b"{}".to_vec()).await;
    assert_eq!((form.status, form.code()), (415, "unsupported_media_type"));
    let padded = |bytes: usize| {
        let mut body = list(&[("tea", 10)]).to_string().into_bytes();
        body.resize(bytes, b' ');
        body
    };
    let json_of = [("content-type", "application/json")];
    let large = central.send(Method::POST, PATH, &json_of, padded(16 << 20)).await.expect(200);
    assert_eq!(large["equal"], 1);
    let too_large = central.send(Method::POST, PATH, &json_of, padded((16 << 20) + 1)).await;
    let said = (too_large.status, too_large.code(), &too_large.body["limitBytes"]);
    assert_eq!(said, (413, "body_too_large", &json!(16 << 20)));
    assert_eq!(units(&world.store("s1"), "tea").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_is_compared_and_refused_if_too_much_of_it_differs() {
    let names: Vec<String> = (0..1_001).map(|number| format!("p{number:05}")).collect();
    let world = stocked(&[]).await;
    let (central, store) = (world.central(), world.store("s1"));
    for names in [&names[..1_000], &names[1_000..]] {
        let create = |name| json!({"op": "create", "productId": name, "quantity": 2});
        let create = json!({"operations": names.iter().map(create).collect::<Vec<_>>()});
        store.post("/v1/operations", create).await.expect(200);
    }
    world.converged(SOON).await;

    // As many lines as there may be, of which few are known.
    let others: Vec<String> = (0..98_999).map(|number| format!("q{number:05}")).collect();
    let counted: Vec<(&str, i64)> = names.iter().chain(&others).map(|name| (name.as_str(), 3)).collect();
    let compared = central.post(PATH, list(&counted)).await.expect(200);
    let many = |name: &str| compared[name].as_array().expect("a list").len();
    assert_eq!(
        (many("different"), many("unknown"), many("missing"), &compared["equal"]),
        (1_001, 98_999, 0, &json!(0))
    );
    let one_more: Vec<(&str, i64)> = counted.iter().copied().chain([("zest", 1)]).collect();
    let too_long = central.post(PATH, list(&one_more)).await;
    assert_eq!((too_long.status, &too_long.body["errors"][0]["pointer"]), (400, &json!("/lines")), "{}", too_long.body);

    let too_many = ask(&central, "k", list(&counted)).await;
    let said = (too_many.status, too_many.code(), &too_many.body["differing"], &too_many.body["limit"]);
    assert_eq!(said, (409, "limit_exceeded", &json!(1_001), &json!(1_000)));
    assert_eq!(units(&store, "p00000").await, 2, "nothing was done");
    // In parts: the refusal bound no key, and what a part leaves out stays as it is.
    let part = ask(&central, "k", list(&counted[1..])).await.expect(200);
    assert_eq!(part["different"].as_array().expect("a list").len(), 1_000);
    assert_eq!(part["missing"], json!([{"productId": "p00000", "expected": 2}]));
    assert_eq!((units(&store, "p00000").await, units(&store, "p01000").await), (2, 3));
    world.converged(SOON).await;
    let rest = ask(&central, "l", list(&counted)).await.expect(200);
    assert_eq!((&rest["equal"], rest["different"].as_array().expect("a list").len()), (&json!(1_000), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_compared_with_and_counts_nothing() {
    let world = stocked(&[("tea", 10)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let counted = list(&[("tea", 7)]);
    let nowhere = json!({"storeId": "s9", "lines": counted["lines"], "source": "x"});
    for list in [nowhere.clone(), in_earnest(nowhere)] {
        let unknown = central.post(PATH, list).await;
        assert_eq!((unknown.status, unknown.code()), (404, "unknown_store"));
    }
    // Known, and nothing has been heard of it: what it has cannot be told.
    central.ask(Method::PUT, "/v1/stores/s8", &[], None).await.expect("an answer").expect(201);
    let never = json!({"storeId": "s8", "lines": counted["lines"], "source": "x"});
    let never_seen = central.post(PATH, never).await;
    assert_eq!((never_seen.status, never_seen.code()), (503, "not_caught_up"));

    let done = ask(&central, "k", counted.clone()).await.expect(200);
    world.converged(SOON).await;
    store.post("/v1/disconnected", json!({})).await.expect(200);
    let counted = list(&[("tea", 6)]);
    // Until then it would count what it is sent.
    until("the store is away", SOON, async || {
        let seen = central.get("/v1/stores/s1").await.expect(200);
        if seen["status"] == "offline" { Ok(()) } else { Err(seen) }
    })
    .await;
    let away = central.post(PATH, in_earnest(counted.clone())).await;
    assert_eq!((away.status, away.code(), &away.body["reason"]), (503, "store_unavailable", &json!("offline")));
    let compared = central.post(PATH, counted.clone()).await.expect(200);
    let different =
        json!([{"productId": "tea", "expected": units(&store, "tea").await, "quantity": 6, "difference": -1}]);
    assert_eq!(compared["different"], different, "{compared}");
    let again = ask(&central, "k", list(&[("tea", 7)])).await.expect(200);
    assert_eq!(
        (&again["commandId"], &again["status"]),
        (&done["commandId"], &json!("done")),
        "what was done stays told"
    );

    until("the store is retired", SOON, async || {
        let answer = central.patch("/v1/stores/s1", json!({"retired": true})).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    for list in [counted.clone(), in_earnest(counted)] {
        let retired = central.post(PATH, list).await;
        assert_eq!((retired.status, retired.code()), (409, "store_retired"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_asked_for_twice_is_counted_once_and_one_at_a_time() {
    let world = stocked(&[("jam", 5), ("tea", 10)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let position = store.get("/v1/inventory/tea").await.header("shelf-position").to_owned();
    // Cut off with a fresh heartbeat: what is asked now waits in the stream.
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    let counted = counted_at(list(&[("jam", 5), ("tea", 7)]), &position);
    let at_once = [("prefer", "respond-async"), ("idempotency-key", "k")];
    let asked = central.post_with(PATH, &at_once, in_earnest(counted.clone())).await;
    let place = asked.header("location").to_owned();
    let asked = asked.expect(202);
    assert_eq!((&asked["operation"], &asked["status"]), (&json!("batch"), &json!("pending")));
    let again = central.post_with(PATH, &at_once, in_earnest(counted.clone())).await;
    assert_eq!((again.header("location"), again.header("idempotency-replayed")), (place.as_str(), "true"));
    assert_eq!(again.expect(202), asked);
    // Another one would take off again what this one is about to.
    let another = ask(&central, "l", counted.clone()).await;
    assert_eq!((another.status, another.code(), another.header("retry-after")), (503, "overloaded", "1"));

    store.post("/v1/purchase/tea", json!({"quantity": 2})).await.expect(200);
    store.post("/v1/connected", json!({})).await.expect(200);
    let done = ask(&central, "k", counted.clone()).await.expect(200);
    assert_eq!((&done["commandId"], &done["status"]), (&asked["commandId"], &json!("done")));
    assert_eq!(units(&store, "tea").await, 5, "what was sold since the count is taken off");
    world.converged(SOON).await;
    let other = world.central();
    let (one, two) = tokio::join!(
        ask(&central, "m", list(&[("jam", 4), ("tea", 5)])),
        ask(&other, "m", list(&[("jam", 4), ("tea", 5)]))
    );
    assert_eq!(one.expect(200)["commandId"], two.expect(200)["commandId"]);
    assert_eq!(units(&store, "jam").await, 4);
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_that_the_store_refuses_is_not_done_at_all() {
    let world = stocked(&[("jam", 5), ("tea", 10)]).await;
    let (central, store) = (world.central(), world.store("s1"));
    let position = store.get("/v1/inventory/tea").await.header("shelf-position").to_owned();
    // Cut off with a fresh heartbeat, the store takes in more than there may be together with what was counted.
    store.post("/v1/disconnected", json!({"abrupt": true})).await.expect(200);
    store.post("/v1/inventory/tea/receive", json!({"quantity": 1})).await.expect(200);
    let counted = counted_at(list(&[("jam", 4), ("tea", 1_000_000_000)]), &position);
    let asked =
        central.post_with(PATH, &[("prefer", "respond-async"), ("idempotency-key", "k")], in_earnest(counted.clone()));
    asked.await.expect(202);
    store.post("/v1/connected", json!({})).await.expect(200);
    let refused = ask(&central, "k", counted.clone()).await;
    assert_eq!((refused.status, refused.code()), (409, "batch_refused"), "{}", refused.body);
    let line =
        |index: usize| (&refused.body["results"][index]["status"], &refused.body["results"][index]["problem"]["code"]);
    assert_eq!(line(0), (&json!("not_executed"), &Value::Null));
    assert_eq!(line(1), (&json!("refused"), &json!("limit_exceeded")));
    assert!(refused.body["commandId"].is_string() && refused.body["storeId"] == "s1");
    assert_eq!((units(&store, "jam").await, units(&store, "tea").await), (5, 11));
    world.converged(SOON).await;
    // Central knows of the delivery now, and says so by itself.
    let again = ask(&central, "l", counted).await;
    assert_eq!((again.status, again.code(), &again.body["productId"]), (409, "limit_exceeded", &json!("tea")));
}
