//! Requests that cost much or must not be served.

use std::time::{Duration, Instant};

use super::arena::Arena;
use super::wire::{ask_within, request};

/// Clients that ask like this at once, on each server.
const CLIENTS: usize = 4;
const PARAMETERS: usize = 9_500;
/// What a request of 60 KB may cost, told by the best of some: what comes on top is the machine's.
const BEST_WITHIN: Duration = Duration::from_millis(60);
const WITHIN: Duration = Duration::from_secs(20);

/// Query strings with very many names.
pub(super) async fn parameters(arena: &mut Arena) -> anyhow::Result<()> {
    let names: Vec<String> = (0..PARAMETERS).map(|number| format!("{number:x}=")).collect();
    let text = request("GET", &format!("/v1/inventory?{}", names.join("&")), &[], "").into_bytes();
    let ports = arena.ports();
    arena.watch().await?;
    for (name, port) in ["agent", "central"].into_iter().zip(ports) {
        let mut best = WITHIN;
        for _ in 0..5 {
            let asked = Instant::now();
            match ask_within(WITHIN, 0, port, &text).await {
                Ok(reply) if [400, 414, 431].contains(&reply.status) => best = best.min(asked.elapsed()),
                Ok(reply) => arena.find(format!("{name}: {PARAMETERS} parameters: {}", reply.status)),
                Err(error) => arena.find(format!("{name}: {PARAMETERS} parameters: {error}")),
            }
        }
        arena.note = format!("{}{name} {:.1} ms ", arena.note, best.as_secs_f64() * 1e3);
        arena.expect(best <= BEST_WITHIN, format!("{name}: {PARAMETERS} parameters cost {best:.1?} > {BEST_WITHIN:?}"));
    }
    let end = Instant::now() + arena.form.seconds(8, 3);
    let clients = (0..CLIENTS * 2).map(async |number| {
        while Instant::now() < end {
            // The answer was looked at above; this is about everybody else's.
            let _ = ask_within(WITHIN, number, ports[number % 2], &text).await;
        }
    });
    futures_util::future::join_all(clients).await;
    Ok(())
}

/// Name, method, path, headers (`\n` between them), body, statuses.
type Rule = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static [u16]);

const LOCAL: &str = "host: localhost";

/// `BUY` and `ITEM` stand for the server's own path of a sale or purchase, and of all items of a store.
const RULES: &[Rule] = &[
    ("no Host", "GET", "/v1/inventory", "", "", &[400]),
    ("two Hosts", "GET", "/v1/inventory", "host: localhost\nhost: localhost", "", &[400]),
    ("two Hosts, one foreign", "GET", "/v1/inventory", "host: localhost\nhost: evil.example", "", &[400]),
    ("a foreign Host", "GET", "/v1/inventory", "host: evil.example", "", &[403]),
    ("a foreign authority", "GET", "http://evil.example/v1/inventory", LOCAL, "", &[400, 403]),
    ("a foreign authority, writing", "POST", "http://evil.exampleBUY", LOCAL, r#"{"quantity":1}"#, &[400, 403]),
    ("a foreign Origin", "POST", "BUY", "host: localhost\norigin: http://evil.example", r#"{"quantity":1}"#, &[403]),
    (
        "two Origins",
        "POST",
        "BUY",
        "host: localhost\norigin: http://localhost\norigin: http://evil.example",
        r#"{"quantity":1}"#,
        &[400],
    ),
    ("a cross-site write", "POST", "BUY", "host: localhost\nsec-fetch-site: cross-site", r#"{"quantity":1}"#, &[403]),
    (
        "If-Match of another version",
        "POST",
        "BUY",
        "host: localhost\nif-match: \"1-1\"",
        r#"{"quantity":1}"#,
        &[400, 412],
    ),
    ("a zero-width space", "POST", "BUY", LOCAL, "{\"quantity\":1,\"reference\":\"a\u{200b}b\"}", &[400]),
    ("a zero-width joiner, escaped", "POST", "BUY", LOCAL, r#"{"quantity":1,"reference":"a\u200db"}"#, &[400]),
    ("a byte order mark", "POST", "BUY", LOCAL, "{\"quantity\":1,\"reference\":\"\u{feff}ab\"}", &[400]),
    ("a bidirectional override", "POST", "BUY", LOCAL, "{\"quantity\":1,\"reference\":\"a\u{202e}b\"}", &[400]),
    ("a bidirectional isolate", "POST", "ITEM", LOCAL, r#"{"productId":"new","name":"a\u2066b"}"#, &[400]),
    ("a zero-width space in a name", "POST", "ITEM", LOCAL, "{\"productId\":\"new\",\"name\":\"\u{200b}\"}", &[400]),
    ("a zero-width space in an id", "POST", "ITEM", LOCAL, "{\"productId\":\"n\u{200b}w\",\"name\":\"n\"}", &[400]),
    ("a zero-width space in a path", "GET", "ITEM/te%E2%80%8Ba", LOCAL, "", &[400]),
    ("a page", "GET", "/", "host: localhost\naccept: text/html", "", &[200]),
    ("a script", "GET", "/page.js", LOCAL, "", &[200]),
    ("a list", "GET", "/v1/inventory", LOCAL, "", &[200]),
    ("health", "GET", "/health", LOCAL, "", &[200]),
    ("nothing there", "GET", "/v1/<script>", LOCAL, "", &[400, 404]),
];

/// Headers of every answer of the application, and what they say at least.
const GUARDS: [(&str, &str); 2] = [("x-content-type-options", "nosniff"), ("content-security-policy", "default-src")];

/// What must be refused is, and every answer tells browsers to take it for nothing but what it is.
pub(super) async fn rules(arena: &mut Arena) -> anyhow::Result<()> {
    let [agent, central] = arena.ports();
    let servers = [
        ("agent", agent, "/v1/purchase/tea", "/v1/inventory"),
        ("central", central, "/v1/purchase/s2/tea", "/v1/inventory/s2"),
    ];
    let (mut broken, mut unguarded) = (Vec::new(), Vec::new());
    for (server, port, buy, item) in servers {
        for (name, method, path, headers, body, wanted) in RULES {
            let path = path.replace("BUY", buy).replace("ITEM", item);
            let mut text = format!("{method} {path} HTTP/1.1\r\n");
            for header in headers.split_terminator('\n') {
                text.push_str(&format!("{header}\r\n"));
            }
            if !body.is_empty() {
                text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
            }
            text.push_str(&format!("\r\n{body}"));
            let reply = match ask_within(WITHIN, 0, port, text.as_bytes()).await {
                Ok(reply) => reply,
                Err(error) => {
                    broken.push(format!("{server}, {name}: {error}"));
                    continue;
                }
            };
            if !wanted.contains(&reply.status) {
                broken.push(format!("{server}, {name}: {} instead of {wanted:?}", reply.status));
            }
            // What is refused before a request exists never reaches the application.
            if reply.header("x-trace-id").is_empty() {
                continue;
            }
            for (header, wanted) in GUARDS {
                if !reply.header(header).contains(wanted) {
                    unguarded.push(format!("{name} ({server}, {header})"));
                }
            }
        }
    }
    if !unguarded.is_empty() {
        broken.push(format!("{} answers without {GUARDS:?}, such as: {}", unguarded.len(), unguarded[0]));
    }
    arena.note = format!("{} requests, {} findings", RULES.len() * 2, broken.len());
    broken.into_iter().for_each(|finding| arena.find(finding));
    Ok(())
}
