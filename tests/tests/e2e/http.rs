//! What HTTP says of any route, shown on a few of each server.

use reqwest::Method;
use serde_json::{Value, json};
use tests::World;

use crate::idempotency::stocked;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_can_be_read_as_a_page() {
    let world = World::with(&[]).await;
    let central = world.central();
    let docs = central.get("/docs").await;
    assert_eq!((docs.status, docs.header("location")), (303, "docs/"));
    let page = central.open("/docs/", &[]).await;
    assert_eq!((page.status().as_u16(), page.headers()["content-type"].to_str().ok()), (200, Some("text/html")));
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
