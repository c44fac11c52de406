//! One valid request of every route of both servers: what mutations begin with. `docs/API.md` lists the routes.

/// Which server it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Agent,
    Central,
}

/// Method, path and query, headers (`\n` between them), body.
pub(super) type Seed = (Server, &'static str, &'static str, &'static str, &'static str);

const JSON: &str = "content-type: application/json";
const KEYED: &str = "content-type: application/json\nidempotency-key: key-1\nshelf-actor: till-2\n\
                     traceparent: 00-6902e4ffbd454f1db66b0334af647724-1bac86accc97471e-01";
const MATCHED: &str = "content-type: application/json\nif-match: \"1795245256506-3\"";
const CSV: &str = "content-type: text/csv";
const WAIT: &str = "content-type: application/json\nprefer: wait=1\nidempotency-key: order-1";

use Server::{Agent, Central};

/// `{purchase}` and `{command}` stand for ids that exist. Writes go to a product of their own, so that the till always has
/// enough; the restore's question goes to a store that has no agent, since it supersedes the one that runs.
pub(super) const SEEDS: &[Seed] = &[
    (Agent, "GET", "/", "accept: text/html", ""),
    (Agent, "GET", "/page.js", "", ""),
    (Agent, "GET", "/page.css", "accept-encoding: gzip, zstd", ""),
    (Agent, "GET", "/health", "", ""),
    (Agent, "GET", "/ready", "", ""),
    (Agent, "GET", "/v1/status", "", ""),
    (Agent, "GET", "/v1/problems/insufficient_stock", "", ""),
    (Agent, "POST", "/v1/connected", "", ""),
    (Agent, "POST", "/v1/disconnected", JSON, r#"{"abrupt":true}"#),
    (Agent, "GET", "/v1/inventory?q=fu&page=0&size=10&low=false&discontinued=true", "", ""),
    (Agent, "GET", "/v1/inventory/fuzz", "if-none-match: \"1-1\"", ""),
    (
        Agent,
        "POST",
        "/v1/inventory",
        KEYED,
        r#"{"productId":"more","name":"More","quantity":7,"lowAt":2,"reference":"r"}"#,
    ),
    (
        Agent,
        "PUT",
        "/v1/inventory/fuzz",
        KEYED,
        r#"{"quantity":900,"expectedVersion":1,"countRef":"c","reference":"r"}"#,
    ),
    (Agent, "PUT", "/v1/inventory/fuzz", JSON, r#"{"quantity":900,"countedAt":"s1:1795245256506-2"}"#),
    (Agent, "PATCH", "/v1/inventory/fuzz", JSON, r#"{"name":"Fuzz","discontinued":false,"lowAt":null}"#),
    (
        Agent,
        "POST",
        "/v1/purchase/fuzz",
        KEYED,
        r#"{"quantity":1,"occurredAt":"2026-11-21T07:16:17.418Z","reference":"r"}"#,
    ),
    (Agent, "POST", "/v1/purchase/fuzz", MATCHED, r#"{"quantity":1,"expectedVersion":3}"#),
    (Agent, "POST", "/v1/inventory/fuzz/receive", KEYED, r#"{"quantity":100,"reference":"note-1"}"#),
    (Agent, "POST", "/v1/inventory/fuzz/adjust", JSON, r#"{"delta":-1,"reason":"damage","note":"n","reference":"r"}"#),
    (Agent, "PUT", "/v1/inventory/fuzz/allotment", MATCHED, r#"{"quantity":2,"expectedVersion":1,"reference":"r"}"#),
    (Agent, "GET", "/v1/purchases?picked=false&status=confirmed&productId=tea&reference=r&page=0&size=5", "", ""),
    (Agent, "GET", "/v1/purchases/{purchase}", "", ""),
    (Agent, "POST", "/v1/purchases/{purchase}/picked", JSON, r#"{"reference":"r"}"#),
    (Agent, "GET", "/v1/events?productId=tea&type=sold&reference=r&actor=a&since=2026-01-01T00:00:00Z&size=5", "", ""),
    (Agent, "GET", "/v1/events?after=s1:1-0&until=2030-01-01T00:00:00Z", "", ""),
    (
        Agent,
        "POST",
        "/v1/import?dryRun=true",
        CSV,
        "productId,name,quantity,version,lowAt\nfuzz,Fuzz,5,,\nx1,\"A, b\",3,,1\n",
    ),
    (Agent, "POST", "/v1/import", CSV, "productId;quantity\r\nx2;5\r\nx3;7\r\n"),
    (Agent, "GET", "/v1/export", "accept-encoding: gzip", ""),
    (Agent, "GET", "/v1/dead-letters", "", ""),
    (Agent, "POST", "/v1/dead-letters/replay", JSON, r#"{"ids":[1,2]}"#),
    (Agent, "POST", "/v1/dead-letters/1/discard", "", ""),
    (Agent, "GET", "/v1/idempotency/key-1", "", ""),
    (Agent, "HEAD", "/inventory/fuzz", "", ""),
    (Agent, "OPTIONS", "/v1/purchase/fuzz", "origin: http://localhost\naccess-control-request-method: POST", ""),
    (Agent, "GET", "/openapi.json", "", ""),
    (Agent, "GET", "/metrics", "", ""),
    (
        Agent,
        "POST",
        "/v1/operations",
        KEYED,
        r#"{"atomic":false,"operations":[{"op":"receive","productId":"fuzz","quantity":1},{"op":"adjust","productId":"fuzz","delta":-1,"reason":"damage"}]}"#,
    ),
    (Agent, "GET", "/v1/reservations?status=open&productId=fuzz&reference=r&page=0&size=5", "", ""),
    (
        Agent,
        "POST",
        "/v1/reservations",
        KEYED,
        r#"{"lines":[{"productId":"fuzz","quantity":1}],"ttlSeconds":60,"reference":"r"}"#,
    ),
    (Agent, "GET", "/v1/reservations/018f3c8e-0000-7000-8000-000000000001", "", ""),
    (
        Agent,
        "POST",
        "/v1/reservations/018f3c8e-0000-7000-8000-000000000001/confirm",
        JSON,
        r#"{"lines":[{"productId":"fuzz","quantity":1}]}"#,
    ),
    (Agent, "POST", "/v1/reservations/018f3c8e-0000-7000-8000-000000000001/cancel", JSON, r#"{"reference":"r"}"#),
    (Agent, "POST", "/v1/reservations/018f3c8e-0000-7000-8000-000000000001/extend", JSON, r#"{"ttlSeconds":60}"#),
    (Agent, "GET", "/v1/transfers?direction=in&status=shipped&page=0&size=5", "", ""),
    (Agent, "GET", "/v1/transfers/018f3c8e-0000-7000-8000-000000000002", "", ""),
    (
        Agent,
        "POST",
        "/v1/transfers/018f3c8e-0000-7000-8000-000000000002/receive",
        JSON,
        r#"{"lines":[{"productId":"fuzz","quantity":1}],"reference":"r"}"#,
    ),
    (Central, "GET", "/", "accept: text/plain", ""),
    (Central, "GET", "/page.js", "", ""),
    (Central, "GET", "/page.css", "", ""),
    (Central, "GET", "/health", "", ""),
    (Central, "GET", "/ready", "", ""),
    (Central, "GET", "/v1/problems/store_unavailable", "", ""),
    (
        Central,
        "GET",
        "/v1/inventory?storeId=s1&productId=fuzz&q=fu&page=0&size=10&discontinued=true&retired=false",
        "",
        "",
    ),
    (Central, "GET", "/v1/inventory/s1?size=10&minPosition=s1:1-1", "", ""),
    (Central, "GET", "/v1/inventory/s1/fuzz", "if-none-match: W/\"1-1-0-5\"", ""),
    (Central, "POST", "/v1/inventory/s1", WAIT, r#"{"productId":"more","name":"More","quantity":7,"lowAt":2}"#),
    (Central, "PUT", "/v1/inventory/s1/fuzz", WAIT, r#"{"quantity":900,"expectedVersion":1}"#),
    (Central, "PATCH", "/v1/inventory/s1/fuzz", WAIT, r#"{"name":"Fuzz","discontinued":false}"#),
    (Central, "POST", "/v1/inventory/s1/fuzz/receive", WAIT, r#"{"quantity":100,"reference":"note-1"}"#),
    (Central, "POST", "/v1/inventory/s1/fuzz/adjust", MATCHED, r#"{"delta":-1,"reason":"theft"}"#),
    (Central, "PUT", "/v1/inventory/s1/fuzz/allotment", WAIT, r#"{"quantity":2,"expectedVersion":1}"#),
    (Central, "GET", "/v1/availability/tea?storeId=s1&maxStalenessMs=60000&minPosition=s1:1-1", "", ""),
    (Central, "GET", "/v1/availability?productId=tea&productId=fuzz", "", ""),
    (Central, "GET", "/v1/products?q=te&page=0&size=10", "", ""),
    (
        Central,
        "POST",
        "/v1/purchase/s1/fuzz",
        WAIT,
        r#"{"quantity":1,"customerId":"c","ttlSeconds":60,"reference":"r"}"#,
    ),
    (
        Central,
        "POST",
        "/v1/purchase/s2/fuzz",
        "content-type: application/json\nprefer: respond-async",
        r#"{"quantity":2}"#,
    ),
    (
        Central,
        "POST",
        "/v1/purchase",
        WAIT,
        r#"{"lines":[{"productId":"fuzz","quantity":1},{"productId":"tea","quantity":1}],"policy":"round-robin","customerId":"c","ttlSeconds":60,"reference":"r"}"#,
    ),
    (Central, "GET", "/v1/purchases?storeId=s1&status=confirmed&customerId=c&reference=r&productId=tea&size=5", "", ""),
    (Central, "GET", "/v1/purchases/{purchase}", "prefer: wait=1", ""),
    (Central, "POST", "/v1/purchases/{purchase}/cancel", JSON, r#"{"reason":"changed my mind","reference":"r"}"#),
    (Central, "GET", "/v1/commands?storeId=s1&status=done&page=0&size=5", "", ""),
    (Central, "GET", "/v1/commands/{command}", "prefer: wait=1", ""),
    (Central, "GET", "/v1/stores?status=online", "", ""),
    (Central, "GET", "/v1/stores/s1", "", ""),
    (Central, "PATCH", "/v1/stores/s1", JSON, r#"{"onlineSale":true}"#),
    (Central, "GET", "/v1/stores/s1/snapshot", "", ""),
    (Central, "POST", "/v1/stores/s1/adopt", JSON, r#"{"epoch":1795245667837}"#),
    (Central, "POST", "/v1/stores/s1/resync", "", ""),
    (Central, "POST", "/v1/stores/s9/restore", JSON, r#"{"epoch":1795245667837}"#),
    (Central, "GET", "/v1/events?after=0&storeId=s1&productId=tea&type=sold&since=2026-01-01T00:00:00Z&size=5", "", ""),
    (Central, "GET", "/v1/dead-letters?storeId=s1", "", ""),
    (Central, "POST", "/v1/dead-letters/replay", JSON, r#"{"ids":[1]}"#),
    (Central, "POST", "/v1/dead-letters/1/discard", "", ""),
    (Central, "GET", "/v1/projections", "", ""),
    (Central, "POST", "/v1/projections/rebuild", "", ""),
    (Central, "GET", "/v1/idempotency/order-1", "", ""),
    (Central, "OPTIONS", "/v1/purchase/s1/fuzz", "", ""),
    (Central, "GET", "/docs", "", ""),
    (Central, "GET", "/openapi.json", "", ""),
    (Central, "GET", "/metrics", "", ""),
    (
        Central,
        "POST",
        "/v1/operations",
        WAIT,
        r#"{"storeId":"s1","atomic":false,"operations":[{"op":"receive","productId":"fuzz","quantity":1},{"op":"count","productId":"fuzz","quantity":900}]}"#,
    ),
    (
        Central,
        "POST",
        "/v1/reconciliations",
        WAIT,
        r#"{"storeId":"s1","source":"stocktaking","dryRun":false,"lines":[{"productId":"fuzz","quantity":900},{"productId":"none","quantity":1}]}"#,
    ),
    (Central, "POST", "/v1/products", WAIT, r#"{"productId":"new","name":"New","quantity":3,"storeId":"s1"}"#),
    (Central, "POST", "/v1/purchase", WAIT, r#"{"productId":"fuzz","quantity":1,"policy":"round-robin"}"#),
    (Central, "GET", "/v1/reservations?storeId=s1&status=open&productId=fuzz&page=0&size=5", "", ""),
    (
        Central,
        "POST",
        "/v1/reservations",
        WAIT,
        r#"{"storeId":"s1","lines":[{"productId":"fuzz","quantity":1}],"ttlSeconds":60,"reference":"r"}"#,
    ),
    (Central, "GET", "/v1/reservations/018f3c8e-0000-7000-8000-000000000001", "", ""),
    (
        Central,
        "POST",
        "/v1/reservations/018f3c8e-0000-7000-8000-000000000001/confirm",
        WAIT,
        r#"{"lines":[{"productId":"fuzz","quantity":1}]}"#,
    ),
    (Central, "POST", "/v1/reservations/018f3c8e-0000-7000-8000-000000000001/cancel", WAIT, r#"{"reference":"r"}"#),
    (Central, "POST", "/v1/reservations/018f3c8e-0000-7000-8000-000000000001/extend", WAIT, r#"{"ttlSeconds":60}"#),
    (Central, "GET", "/v1/transfers?storeId=s1&status=shipped&page=0&size=5", "", ""),
    (
        Central,
        "POST",
        "/v1/transfers",
        WAIT,
        r#"{"fromStoreId":"s1","toStoreId":"s9","lines":[{"productId":"fuzz","quantity":1}],"autoReceive":true,"reference":"r"}"#,
    ),
    (Central, "GET", "/v1/transfers/018f3c8e-0000-7000-8000-000000000002", "", ""),
    (
        Central,
        "POST",
        "/v1/transfers/018f3c8e-0000-7000-8000-000000000002/receive",
        WAIT,
        r#"{"lines":[{"productId":"fuzz","quantity":1}],"reference":"r"}"#,
    ),
    (Central, "PUT", "/v1/stores/s9", "", ""),
    (Central, "DELETE", "/v1/stores/s9", "", ""),
    (Central, "GET", "/v1/webhooks", "", ""),
    (Central, "POST", "/v1/webhooks", JSON, r#"{"url":"https://hooks.example.com/stock","types":["sold"]}"#),
    (Central, "GET", "/v1/webhooks/none", "", ""),
    (Central, "DELETE", "/v1/webhooks/none", "", ""),
    (Central, "GET", "/v1/webhooks/none/deliveries?size=5", "", ""),
    (Central, "POST", "/v1/webhooks/none/replay", JSON, r#"{"after":0}"#),
    (Central, "POST", "/v1/webhooks/none/secret", JSON, ""),
    (Central, "POST", "/v1/webhooks/none/test", "", ""),
];

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Whether this is the path of a seed, up to what stands in its places.
    fn is_of(seed: &str, path: &str) -> bool {
        let seed: Vec<&str> = seed.split('?').next().unwrap_or_default().split('/').collect();
        let path: Vec<&str> = path.split('/').collect();
        seed.len() == path.len() && seed.iter().zip(&path).all(|(seed, path)| seed == path || path.starts_with('{'))
    }

    #[test]
    fn every_route_that_is_described_has_a_seed() {
        let mut missing = Vec::new();
        for (server, described) in [
            (Agent, include_str!("../../../docs/openapi/store-agent.json")),
            (Central, include_str!("../../../docs/openapi/central.json")),
        ] {
            let described: Value = serde_json::from_str(described).expect("JSON");
            for (path, methods) in described["paths"].as_object().expect("paths") {
                for method in methods.as_object().expect("methods").keys().filter(|key| *key != "parameters") {
                    let has =
                        |seed: &&Seed| seed.0 == server && seed.1.eq_ignore_ascii_case(method) && is_of(seed.2, path);
                    if !SEEDS.iter().any(|seed| has(&seed)) {
                        missing.push(format!("{server:?} {method} {path}"));
                    }
                }
            }
        }
        // It ends when the client does.
        assert_eq!(missing, ["Central get /v1/events/stream"]);
    }
}
