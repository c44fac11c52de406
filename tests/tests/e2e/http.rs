//! What HTTP says of any route, shown on a few of each server.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Builder, World};

use crate::idempotency::stocked;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_what_get_is_without_a_body() {
    let world = stocked().await;
    for (client, item) in [(world.store("s1"), "/v1/inventory/tea"), (world.central(), "/v1/inventory/s1/tea")] {
        let ask = async |method: Method, path: &str, headers: &[(&str, &str)]| {
            client.ask(method, path, headers, None).await.expect("an answer")
        };
        for (path, headers) in [
            (item, &[] as &[(&str, &str)]),
            (item, &[("if-none-match", "*")]),
            ("/", &[]),
            ("/openapi.json", &[]),
            // Compressed: how long it would be is not known.
            ("/openapi.json", &[("accept-encoding", "gzip")]),
            ("/v1/problems/overloaded", &[]),
            ("/v1/problems/nothing", &[]),
            ("/v1/inventory?size=0", &[]),
        ] {
            let (whole, head) = (ask(Method::GET, path, headers).await, ask(Method::HEAD, path, headers).await);
            assert_eq!((head.status, &head.body), (whole.status, &Value::Null), "{path}");
            for name in ["content-type", "etag", "cache-control"] {
                assert_eq!(head.header(name), whole.header(name), "{path} {headers:?}: {name}");
            }
            // How long it would be is left out if it could be compressed, and if the client has it already.
            let length = whole.header("content-length");
            let is_short = length.parse().is_ok_and(|bytes: usize| bytes < 1_024);
            assert_eq!(head.header("content-length"), if is_short { length } else { "" }, "{path} {headers:?}");
        }
    }
}

/// The names of those members of an object that are among these, in the object's order.
fn order<'a>(object: &'a Value, among: &[&str]) -> Vec<&'a str> {
    let names = object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str);
    names.filter(|name| among.contains(name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_has_its_members_in_the_same_order_everywhere() {
    let world = Builder { heartbeat_ms: 300, ..Builder::default() }.start(&["s1", "s2"]).await;
    let (store, central) = (world.store("s1"), world.central());
    let wait = [("prefer", "wait=20")];
    let keyed = [wait[0], ("idempotency-key", "k1")];
    store.post("/v1/inventory", json!({"productId": "tea", "name": "Tea", "quantity": 90})).await.expect(201);
    world.store("s2").post("/v1/inventory", json!({"productId": "tea", "quantity": 1})).await.expect(201);
    world.converged(SOON).await;

    let batch = |op: Value| json!({"atomic": false, "operations": [op]});
    let receive = batch(json!({"op": "receive", "productId": "tea", "quantity": 1}));
    let first = store.post_with("/v1/operations", &keyed, receive.clone()).await.expect(200);
    let again = store.post_with("/v1/operations", &keyed, receive).await.expect(200);
    let bought = central.post_with("/v1/purchase/s1/tea", &wait, json!({"quantity": 1})).await.expect(200);
    let item = [
        "storeId",
        "productId",
        "name",
        "quantity",
        "reserved",
        "allotted",
        "available",
        "discontinued",
        "lowAt",
        "version",
        "updatedAt",
    ];
    let (own, seen) = (store.get("/v1/inventory").await.body, central.get("/v1/inventory/s1/tea").await.body);
    for shown in [&first["results"][0]["item"], &again["results"][0]["item"], &own["items"][0], &seen, &bought] {
        assert_eq!(order(shown, &item), item);
    }

    let line = json!([{"productId": "tea", "quantity": 2}]);
    let held = central.post_with("/v1/reservations", &wait, json!({"storeId": "s1", "lines": line})).await.expect(201);
    let move_it = json!({"fromStoreId": "s1", "toStoreId": "s2", "lines": line});
    let moved = central.post_with("/v1/transfers", &wait, move_it).await.expect(201);
    for (path, first, members) in [
        (
            "/v1/purchases",
            &bought["purchase"],
            &["purchaseId", "status", "storeId", "lines", "reference", "createdAt", "expiresAt", "settledAt", "picked"]
                as &[&str],
        ),
        (
            "/v1/reservations",
            &held,
            &["reservationId", "storeId", "status", "lines", "createdAt", "expiresAt", "reference"],
        ),
        (
            "/v1/transfers",
            &moved,
            &["transferId", "fromStoreId", "toStoreId", "status", "lines", "discrepancy", "autoReceive", "createdAt"],
        ),
    ] {
        for list in [store.get(path).await.expect(200), central.get(path).await.expect(200)] {
            assert_eq!(order(&list["items"][0], members), members, "{path}");
            assert_eq!(order(&list["items"][0]["lines"][0], &["productId", "quantity"]), ["productId", "quantity"]);
        }
        assert_eq!(order(first, members), members, "{path}");
    }

    let event = [
        "eventId",
        "storeId",
        "position",
        "type",
        "productId",
        "delta",
        "operationId",
        "recordedAt",
        "quantity",
        "reserved",
        "allotted",
        "version",
        "cause",
        "reason",
        "reference",
        "actor",
        "occurredAt",
        "traceparent",
    ];
    world.converged(SOON).await;
    for client in [&store, &central] {
        let told = client.get("/v1/events?type=received").await.expect(200);
        assert_eq!(order(&told["items"][0], &event), event);
    }

    let figures = ["title", "status", "detail", "requested", "quantity", "reserved", "allotted", "available"];
    let sell = json!({"quantity": 1_000});
    let (till, shop) = ("/v1/purchase/tea", "/v1/purchase/s1/tea");
    let (till, shop) = (store.post(till, sell.clone()).await.expect(409), central.post(shop, sell).await.expect(409));
    let sell = batch(json!({"op": "sell", "productId": "tea", "quantity": 1_000}));
    let lines = store.post("/v1/operations", sell).await.expect(200);
    for problem in [&till, &shop, &lines["results"][0]["problem"]] {
        assert_eq!(order(problem, &figures), figures);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_can_be_read_as_a_page() {
    let world = World::with(&[]).await;
    let central = world.central();
    let docs = central.get("/docs").await;
    assert_eq!((docs.status, docs.header("location")), (303, "docs/"));
    let page = central.open("/docs/", &[]).await;
    assert_eq!((page.status().as_u16(), page.headers()["content-type"].to_str().ok()), (200, Some("text/html")));
    for (asked, coding) in [(&[][..], None), (&[("accept-encoding", "gzip")], Some("gzip"))] {
        let script = central.open("/docs/swagger-ui-bundle.js", asked).await;
        let told = script.headers().get("content-encoding").map(|coding| coding.to_str().expect("a text"));
        assert_eq!((script.status().as_u16(), told), (200, coding));
        assert_eq!(script.headers()["vary"], "accept-encoding");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_forbids_plain_answers_is_served_all_the_same() {
    let world = stocked().await;
    let sales = [(world.store("s1"), "/v1/purchase/tea"), (world.central(), "/v1/purchase/s1/tea")];
    for (number, (client, path)) in sales.into_iter().enumerate() {
        for accepted in ["br, identity;q=0", "*;q=0", "gzip, identity;q=0"] {
            let headers = [("accept-encoding", accepted), ("prefer", "wait=20")];
            let sold = client.post_with(path, &headers, json!({"quantity": 1})).await;
            assert_eq!((sold.status, sold.header("content-encoding")), (200, ""), "{accepted}");
            let long = client.ask(Method::GET, "/openapi.json", &headers[..1], None).await.expect("an answer");
            assert_eq!((long.status, long.header("content-encoding")), (200, ""), "{accepted}");
        }
        let left = world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"].clone();
        assert_eq!(left, 20 - 3 * (number + 1));
        let packed = client.open("/openapi.json", &[("accept-encoding", "identity;q=0.5, gzip")]).await;
        assert_eq!(packed.headers()["content-encoding"], "gzip", "who only prefers another gets that");
    }
}
