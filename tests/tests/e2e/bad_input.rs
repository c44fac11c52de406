//! A client's mistake is a 4xx problem with a reason, never a 500, on both servers (P9), and changes nothing.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tests::{Client, World};

/// Method, path, Content-Type, body, status, code, pointer.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str, &'a str);

const JSON: &str = "application/json";

async fn check(client: &Client, cases: &[Case<'_>]) {
    for (method, path, kind, body, status, code, pointer) in cases {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let headers = [("content-type", *kind)];
        let headers = if kind.is_empty() { &headers[..0] } else { &headers[..] };
        let answer = client.send(method.clone(), path, headers, body.as_bytes().to_vec()).await;
        let seen = (answer.status, answer.code());
        assert_eq!(seen, (*status, *code), "{method} {path} {body:.80}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        assert_eq!(answer.header("x-trace-id"), answer.body["traceId"].as_str().unwrap_or("none"));
        if !pointer.is_empty() {
            assert_eq!(answer.body["errors"][0]["pointer"], *pointer, "{method} {path} {body:.80}: {}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_problems_on_both_servers() {
    let world = World::with(&["s1"]).await;
    let (store, central) = (world.store("s1"), world.central());
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 5})).await.expect(201);
    world.converged(std::time::Duration::from_secs(10)).await;

    let huge = format!(r#"{{"quantity":1,"reference":"{}"}}"#, "x".repeat(2 << 20));
    for (client, sell) in [(&store, "/v1/purchase/tea"), (&central, "/v1/purchase/s1/tea")] {
        let numbers = [
            "0",
            "-1",
            "1.5",
            "1.0",
            "1e3",
            "10000000000000000000",
            "99999999999999999999",
            "\"3\"",
            "null",
            "1000001",
        ];
        for number in numbers {
            let body = format!(r#"{{"quantity":{number}}}"#);
            check(client, &[("POST", sell, JSON, &body, 400, "invalid_request", "/quantity")]).await;
        }
        check(
            client,
            &[
                ("POST", sell, JSON, r#"{"quantity":1,"quantity":1}"#, 400, "invalid_request", "/quantity"),
                ("POST", sell, JSON, r#"{"quantity":1,"colour":"red"}"#, 400, "invalid_request", "/colour"),
                ("POST", sell, JSON, r#"{"quantity":1"#, 400, "invalid_request", ""),
                ("POST", sell, JSON, "", 400, "invalid_request", ""),
                ("POST", sell, JSON, "[]", 400, "invalid_request", ""),
                (
                    "POST",
                    sell,
                    JSON,
                    "{\"quantity\":1,\"reference\":\"a\u{202e}b\"}",
                    400,
                    "invalid_request",
                    "/reference",
                ),
                ("POST", sell, JSON, "{}", 400, "invalid_request", "/quantity"),
                ("POST", sell, JSON, "\u{0}", 400, "invalid_request", ""),
                ("POST", sell, JSON, &huge, 413, "body_too_large", ""),
                ("POST", sell, "text/plain", r#"{"quantity":1}"#, 415, "unsupported_media_type", ""),
                ("POST", sell, "", r#"{"quantity":1}"#, 415, "unsupported_media_type", ""),
                ("POST", sell, "application/x-www-form-urlencoded", "quantity=1", 415, "unsupported_media_type", ""),
                ("POST", sell, JSON, r#"{"quantity":1,"reference":"a\u0007b"}"#, 400, "invalid_request", "/reference"),
                ("DELETE", sell, "", "", 405, "method_not_allowed", ""),
                ("GET", "/v1/nowhere", "", "", 404, "unknown_route", ""),
                ("GET", "/v1/inventory/", "", "", 404, "unknown_route", ""),
                ("GET", "/v1/inventory?size=0", "", "", 400, "invalid_request", "?size"),
                ("GET", "/v1/inventory?size=1001", "", "", 400, "invalid_request", "?size"),
                ("GET", "/v1/inventory?page=-1", "", "", 400, "invalid_request", "?page"),
                ("GET", "/v1/inventory?page=x", "", "", 400, "invalid_request", "?page"),
                ("GET", "/v1/inventory?page=9223372036854775807&size=1000", "", "", 400, "invalid_request", "?page"),
                ("GET", "/v1/inventory?size=5&size=5", "", "", 400, "invalid_request", "?size"),
                ("GET", "/v1/inventory?sise=5", "", "", 400, "invalid_request", "?sise"),
                ("GET", "/v1/inventory?cursor=zz", "", "", 400, "invalid_request", "?cursor"),
                ("GET", "/v1/inventory?q=x", "", "", 400, "invalid_request", "?q"),
                ("GET", "/v1/events?size=0", "", "", 400, "invalid_request", "?size"),
                ("GET", "/v1/events?since=yesterday", "", "", 400, "invalid_request", "?since"),
                ("GET", "/v1/events?until=1", "", "", 400, "invalid_request", "?until"),
                ("GET", "/v1/events?after=x", "", "", 400, "invalid_request", "?after"),
                ("GET", "/v1/events?after=other:1-1", "", "", 400, "invalid_request", "?after"),
                ("GET", "/v1/events?after=0&cursor=1", "", "", 400, "invalid_request", "?cursor"),
                ("GET", "/v1/events?cursor=x", "", "", 400, "invalid_request", "?cursor"),
                ("GET", "/v1/events?page=1", "", "", 400, "invalid_request", "?page"),
                ("GET", "/v1/problems/nonsense", "", "", 404, "unknown_id", ""),
                ("GET", "/v1/purchases/none", "", "", 404, "unknown_id", ""),
                ("GET", "/v1/idempotency/none", "", "", 404, "unknown_id", ""),
                ("POST", "/v1/dead-letters/7/discard", "", "", 404, "unknown_id", ""),
            ],
        )
        .await;
        for id in ["a%20b", "%7Bx%7D", "a%2Fb", "-a", "%C3%A4", "a%00", &"x".repeat(51)] {
            let path = sell.replace("tea", id);
            check(client, &[("POST", &path, JSON, r#"{"quantity":1}"#, 400, "invalid_request", "{productId}")]).await;
        }
        let key = "k".repeat(256);
        let refused = client.post_with(sell, &[("idempotency-key", &key)], json!({"quantity": 1})).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"));
        let unless = client.post_with(sell, &[("if-none-match", "*")], json!({"quantity": 1})).await;
        assert_eq!((unless.status, &unless.body["errors"][0]["pointer"]), (400, &json!("If-None-Match")));
        let foreign = client.post_with(sell, &[("origin", "http://evil.example")], json!({"quantity": 1})).await;
        assert_eq!((foreign.status, foreign.code()), (403, "forbidden"));
        let rebound = client.ask(Method::GET, "/v1/inventory", &[("host", "evil.example")], None).await;
        assert_eq!(rebound.expect("an answer").status, 403);
        let options = client.send(Method::OPTIONS, sell, &[], Vec::new()).await;
        assert_eq!((options.status, options.header("allow")), (204, "POST"));
    }
    for (method, path) in [(Method::PUT, "/v1/stores/s1"), (Method::DELETE, "/v1/stores/s1")] {
        let unless = central.ask(method, path, &[("if-none-match", "*")], None).await.expect("an answer");
        assert_eq!((unless.status, &unless.body["errors"][0]["pointer"]), (400, &json!("If-None-Match")));
    }
    let matched = central.post_with("/v1/purchase/s1/tea", &[("if-match", "\"1-1\"")], json!({"quantity": 1})).await;
    assert_eq!((matched.status, &matched.body["errors"][0]["pointer"]), (400, &json!("If-Match")));
    let beyond = r#"{"quantity":1,"occurredAt":"9999-12-31T23:59:59-01:00"}"#;
    check(
        &store,
        &[
            ("POST", "/v1/purchase/tea", JSON, beyond, 400, "invalid_request", "/occurredAt"),
            ("GET", "/v1/events?after=s1:5-18446744073709551615", "", "", 400, "invalid_request", "?after"),
            ("GET", "/v1/events?after=9223372036854775808-1", "", "", 400, "invalid_request", "?after"),
            (
                "GET",
                "/v1/events?after=s1:4611686018427387904-4611686018427387904",
                "",
                "",
                400,
                "invalid_request",
                "?after",
            ),
        ],
    )
    .await;
    let cursor = store.get("/v1/events?cursor=s1:4611686018427387904-4611686018427387904").await.expect(200);
    assert_eq!(cursor["nextCursor"], json!(null), "older ones are behind it");
    for (client, create) in [(&store, "/v1/inventory"), (&central, "/v1/inventory/s1"), (&central, "/v1/products")] {
        let body = json!({"productId": "new", "quantity": 1});
        let tagged = client.post_with(create, &[("if-match", "*")], body).await;
        assert_eq!((tagged.status, &tagged.body["errors"][0]["pointer"]), (400, &json!("If-Match")), "{create}");
    }
    check(
        &central,
        &[
            (
                "POST",
                "/v1/purchase/s1/tea",
                JSON,
                r#"{"quantity":1,"ttlSeconds":0}"#,
                400,
                "invalid_request",
                "/ttlSeconds",
            ),
            ("POST", "/v1/purchase/nowhere/tea", JSON, r#"{"quantity":1}"#, 404, "unknown_store", ""),
            ("POST", "/v1/purchase/S1/tea", JSON, r#"{"quantity":1}"#, 404, "unknown_store", ""),
            ("POST", "/v1/purchase/s1/milk", JSON, r#"{"quantity":1}"#, 404, "unknown_product", ""),
            ("GET", "/v1/inventory/a%20b", "", "", 400, "invalid_request", "{storeId}"),
            ("GET", "/v1/availability", "", "", 400, "invalid_request", "?productId"),
            ("GET", "/v1/inventory/s1/tea?minPosition=x", "", "", 400, "invalid_request", "?minPosition"),
            ("POST", "/v1/stores/s1/adopt", JSON, r#"{"epoch":7}"#, 409, "unknown_claim", ""),
            ("PATCH", "/v1/stores/s1", JSON, r#"{"retired":true}"#, 409, "store_online", ""),
            (
                "POST",
                "/v1/stores/s1/restore",
                JSON,
                r#"{"epoch":4611686018427387905,"log":[]}"#,
                400,
                "invalid_request",
                "/epoch",
            ),
            (
                "POST",
                "/v1/stores/s1/restore",
                JSON,
                r#"{"epoch":1,"log":[{"epoch":1,"first":4611686018427387905,"last":2}]}"#,
                400,
                "invalid_request",
                "/log/0/first",
            ),
        ],
    )
    .await;
    check(
        &store,
        &[
            (
                "PUT",
                "/v1/inventory/tea",
                JSON,
                r#"{"quantity":1,"countedAt":"s1:1-1"}"#,
                400,
                "invalid_request",
                "/countedAt",
            ),
            ("PUT", "/v1/inventory/milk", JSON, r#"{"quantity":1}"#, 404, "unknown_product", ""),
            (
                "POST",
                "/v1/inventory/tea/adjust",
                JSON,
                r#"{"delta":0,"reason":"other"}"#,
                400,
                "invalid_request",
                "/delta",
            ),
            (
                "POST",
                "/v1/inventory/tea/adjust",
                JSON,
                r#"{"delta":1,"reason":"whim"}"#,
                400,
                "invalid_request",
                "/reason",
            ),
            (
                "POST",
                "/v1/inventory/tea/adjust",
                JSON,
                r#"{"delta":-6,"reason":"theft"}"#,
                409,
                "insufficient_stock",
                "",
            ),
            ("POST", "/v1/import", "text/csv", "sku,quantity\nx,1\n", 400, "invalid_request", ""),
            ("POST", "/v1/import", JSON, "{}", 415, "unsupported_media_type", ""),
            (
                "POST",
                "/v1/import?countedAt=s2:1-1",
                "text/csv",
                "productId,quantity\ntea,1\n",
                400,
                "invalid_request",
                "?countedAt",
            ),
            ("PATCH", "/v1/inventory/tea", JSON, "{}", 400, "invalid_request", ""),
        ],
    )
    .await;
    let tea = store.get("/v1/inventory/tea").await.expect(200);
    assert_eq!((&tea["quantity"], &tea["version"]), (&json!(5), &json!(1)), "nothing has changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_servers_say_in_the_same_plain_words_what_is_wrong() {
    let world = World::with(&["s1"]).await;
    world.store("s1").post("/v1/inventory", json!({"productId": "tea", "quantity": 5})).await.expect(201);
    world.converged(std::time::Duration::from_secs(10)).await;
    let quantity = "quantity must be a whole number from 1 to 1,000,000";
    let id = "productId must be 1 to 50 letters, digits, '.', '_' or '-', the first a letter or digit";
    for (client, item, sell) in [
        (world.store("s1"), "/v1/inventory/tea", "/v1/purchase/tea"),
        (world.central(), "/v1/inventory/s1/tea", "/v1/purchase/s1/tea"),
    ] {
        let adjust = format!("{item}/adjust");
        let create = item.trim_end_matches("/tea");
        for (method, path, body, words) in [
            ("POST", sell, r#"{"quantity":"3"}"#, quantity),
            ("POST", sell, r#"{"quantity":2.5}"#, quantity),
            ("POST", sell, r#"{"quantity":2000000}"#, quantity),
            ("POST", sell, "{}", "quantity is missing"),
            ("POST", sell, r#"{"quantity":1,"quantity":2}"#, "quantity must stand only once"),
            ("POST", sell, r#"{"quantity":1"#, "The body ends before its JSON does"),
            ("POST", sell, "quantity=1", "The body is no JSON from line 1, column 1 on"),
            ("POST", sell, "", "A JSON body is needed"),
            (
                "POST",
                &adjust,
                r#"{"delta":1,"reason":"whim"}"#,
                "reason must be one of return, void, damage, theft, expiry, found, correction, other",
            ),
            ("PUT", item, r#"{"quantity":1,"expectedVersion":true}"#, "expectedVersion must be a whole number"),
            ("PATCH", item, r#"{"discontinued":"yes"}"#, "discontinued must be true or false"),
            (
                "PATCH",
                item,
                r#"{"name":""}"#,
                "name must be a text of 1 to 200 characters without control or invisible ones",
            ),
            ("POST", create, r#"{"productId":"a b"}"#, id),
            ("GET", "/v1/inventory?size=0", "", "size must be a whole number from 1 to 1,000"),
            ("GET", "/v1/inventory?size=ten", "", "size must be a whole number from 1 to 1,000"),
            ("GET", "/v1/inventory?size=1&size=2", "", "size must be sent only once"),
            (
                "GET",
                "/v1/events?since=yesterday",
                "",
                "since must be a time as in RFC 3339, such as 2026-01-31T12:00:00.000Z",
            ),
        ] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let headers = [("content-type", JSON)];
            let answer = client.send(method, path, &headers, body.as_bytes().to_vec()).await;
            assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{path} {body}: {}", answer.body);
            assert_eq!(answer.body["detail"], words, "{path} {body}");
            assert_eq!(answer.body["errors"][0]["detail"], words, "{path} {body}");
        }
    }
}

/// Headers that every page may read, or that are the transport's own.
const OF_HTTP: [&str; 10] = [
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_reads_every_header() {
    let mut world = World::with(&["s1"]).await;
    world.central_args = vec!["--cors-origins=HTTP://Shop.example:80".to_owned()];
    world.kill(&tests::Daemon::Central);
    world.restart(&tests::Daemon::Central).await;
    world.online("s1").await;
    let central = world.central();
    let origin = ("origin", "http://shop.example");
    let create = json!({"productId": "tea", "quantity": 5});
    let mut answers = vec![central.post_with("/v1/inventory/s1", &[origin, ("prefer", "wait=10")], create).await];
    for key in ["k1", "k1"] {
        let headers = [origin, ("idempotency-key", key), ("prefer", "wait=10")];
        answers.push(central.post_with("/v1/purchase/s1/tea", &headers, json!({"quantity": 1})).await);
    }
    for (method, path) in [
        (Method::GET, "/v1/inventory/s1/tea"),
        (Method::DELETE, "/v1/inventory/s1/tea"),
        (Method::GET, "/v1/inventory/s1/tea?minPosition=s1:4611686018427387904-1"),
    ] {
        answers.push(central.ask(method, path, &[origin, ("prefer", "wait=0")], None).await.expect("an answer"));
    }
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [201, 200, 200, 200, 405, 503]);
    let mut seen = std::collections::BTreeSet::new();
    for answer in &answers {
        assert_eq!(answer.header("access-control-allow-origin"), origin.1);
        let exposed = answer.header("access-control-expose-headers").to_lowercase();
        let exposed: Vec<&str> = exposed.split(", ").collect();
        for name in answer.headers.keys().map(|name| name.as_str()).filter(|name| !OF_HTTP.contains(name)) {
            assert!(exposed.contains(&name), "{name} is hidden from pages");
            seen.insert(name.to_owned());
        }
    }
    let ours = [
        "allow",
        "etag",
        "idempotency-replayed",
        "location",
        "preference-applied",
        "retry-after",
        "shelf-position",
        "x-projection-lag-ms",
        "x-trace-id",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ours);
    let foreign = central.ask(Method::GET, "/v1/inventory/s1/tea", &[("origin", "http://evil.example")], None).await;
    assert_eq!(foreign.expect("an answer").header("access-control-allow-origin"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_products_the_one_that_is_unknown_is_named() {
    let world = World::with(&["s1", "s2"]).await;
    let (store, central) = (world.store("s1"), world.central());
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 10})).await.expect(201);
    world.converged(Duration::from_secs(30)).await;
    let lines = json!([{"productId": "tea", "quantity": 1}, {"productId": "TEA", "quantity": 1}]);
    let transfer = json!({"fromStoreId": "s1", "toStoreId": "s2", "lines": lines});
    for unknown in [
        store.post("/v1/reservations", json!({"lines": lines})).await,
        central.post("/v1/reservations", json!({"storeId": "s1", "lines": lines})).await,
        central.post("/v1/purchase", json!({"storeId": "s1", "lines": lines})).await,
        central.post("/v1/purchase", json!({"lines": lines})).await,
        central.post("/v1/transfers", transfer).await,
        central.get("/v1/availability/TEA").await,
        central.get("/v1/availability/TEA?storeId=s1").await,
    ] {
        assert_eq!((unknown.status, unknown.code()), (404, "unknown_product"), "{}", unknown.body);
        let named = (&unknown.body["productId"], &unknown.body["didYouMean"]);
        assert_eq!(named, (&json!("TEA"), &json!("tea")), "{}", unknown.body);
    }
    let nowhere = central.get("/v1/availability/tea?storeId=nope").await;
    assert_eq!((nowhere.status, nowhere.code()), (404, "unknown_store"));
    let sales = json!([{"op": "receive", "productId": "tea", "quantity": 1}, {"op": "receive", "productId": "zzz", "quantity": 1}]);
    for refused in [
        store.post("/v1/operations", json!({"operations": sales})).await,
        central.post("/v1/operations", json!({"storeId": "s1", "operations": sales})).await,
    ] {
        assert_eq!((refused.status, refused.code()), (409, "batch_refused"), "{}", refused.body);
        assert_eq!(refused.body["results"][1]["problem"]["productId"], "zzz", "{}", refused.body);
    }
    let batch = json!({"storeId": "s1", "operations": [{"op": "receive", "productId": "tea", "quantity": 1}]});
    central.post("/v1/operations", batch).await.expect(200);
    for client in [&store, &central] {
        let received = client.get("/v1/events?type=received").await.expect(200)["items"][0].clone();
        assert_eq!(received["cause"], "command", "{received}");
    }
}
