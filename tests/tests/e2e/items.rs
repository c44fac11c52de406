//! Finding items, watching for low stock, and taking stock in and out as CSV.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Builder, Client, World, until};

const SOON: Duration = Duration::from_secs(20);
const CSV: &[(&str, &str)] = &[("content-type", "text/csv")];

async fn world(stores: &[&str]) -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 5_000, sweep_ms: 300 }.start(stores).await;
    for store in stores {
        world.online(store).await;
    }
    world
}

async fn import(store: &Client, path: &str, text: &str) -> Answer {
    store.send(Method::POST, path, CSV, text.as_bytes().to_vec()).await
}

/// Ids in a list, and how many it says there are.
async fn found(client: &Client, path: &str) -> (Vec<String>, u64) {
    let list = client.get(path).await.expect(200);
    let items = list["items"].as_array().expect("a list").iter();
    let ids = items.map(|item| item["productId"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(list["foundAll"], true, "{list}");
    (ids, list["found"].as_u64().expect("a number"))
}

fn some(ids: &[&str]) -> (Vec<String>, u64) {
    (ids.iter().map(|id| (*id).to_owned()).collect(), ids.len() as u64)
}

const STOCK: &str = "productId,name,quantity\nspud-5,POTATOES RUSSET 5 LB,9\nspud-10,Potatoes russet 10 lb,4\n\
                     creme,Crème Brûlée,3\ntea,Grüner Tee,8\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_are_found_at_the_store_and_over_the_chain() {
    let world = world(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        import(&world.store(store), "/v1/import", STOCK).await.expect(200);
    }
    world.converged(SOON).await;
    let (store, central) = (world.store("s1"), world.central());
    for (q, ids) in [
        ("potatoes%205%20lb", &["spud-5"] as &[&str]),
        ("LB%20russet", &["spud-10", "spud-5"]),
        ("tatoe", &["spud-10", "spud-5"]),
        ("creme%20BRULEE", &["creme"]),
        ("gr%C3%9Cner", &["tea"]),
        ("lb%20tea", &[]),
        ("ot", &[]),
    ] {
        assert_eq!(found(&store, &format!("/v1/inventory?q={q}")).await, some(ids), "{q}");
        assert_eq!(found(&central, &format!("/v1/inventory/s2?q={q}")).await, some(ids), "{q}");
        assert_eq!(found(&central, &format!("/v1/products?q={q}")).await, some(ids), "{q}");
        let twice = [ids, ids].concat();
        assert_eq!(found(&central, &format!("/v1/inventory?q={q}")).await, some(&twice), "{q}");
    }
    // A page at a time it is the same list, and each page knows how long that is.
    let first = central.get("/v1/inventory?q=russet&size=3").await.expect(200);
    let cursor = first["nextCursor"].as_str().expect("there is one more");
    let last = central.get(&format!("/v1/inventory?q=russet&size=3&cursor={cursor}")).await.expect(200);
    assert_eq!((&first["found"], &last["found"], &last["nextCursor"]), (&json!(4), &json!(4), &Value::Null));
    assert_eq!((&last["items"][0]["storeId"], &last["items"][0]["productId"]), (&json!("s2"), &json!("spud-5")));

    // The name is what it is now, at both.
    store.patch("/v1/inventory/tea", json!({"name": "Sencha"})).await.expect(200);
    world.converged(SOON).await;
    assert_eq!(found(&store, "/v1/inventory?q=sench").await, some(&["tea"]));
    assert_eq!(found(&store, "/v1/inventory?q=gruner").await, some(&[]));
    assert_eq!(found(&central, "/v1/inventory/s1?q=sench").await, some(&["tea"]));
    assert_eq!(found(&central, "/v1/inventory?q=gruner%20tee").await, some(&["tea"]), "that of the other store");
    for client in [&store, &central] {
        for q in ["x", "%20%20", &"x".repeat(101)] {
            assert_eq!(client.get(&format!("/v1/inventory?q={q}")).await.code(), "invalid_request", "{q}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_stock_is_told_once_listed_at_both_and_no_longer_watched_when_that_is_taken_off() {
    let world = world(&["s1"]).await;
    let (store, central) = (world.store("s1"), world.central());
    store.post("/v1/inventory", json!({"productId": "tea", "quantity": 12, "lowAt": 10})).await.expect(201);
    store.post("/v1/inventory", json!({"productId": "ale", "quantity": 12})).await.expect(201);
    let lows = async || {
        let events = store.get("/v1/events?type=low_stock&size=100").await.expect(200);
        events["items"].as_array().expect("a list").len()
    };
    let listed = async || {
        world.converged(SOON).await;
        let at_store = found(&store, "/v1/inventory?low=true").await;
        assert_eq!(found(&central, "/v1/inventory?low=true").await, at_store);
        assert_eq!(found(&central, "/v1/inventory/s1?low=true&q=tea").await, at_store);
        at_store.0
    };
    let sell = async |units: i64| store.post("/v1/purchase/tea", json!({"quantity": units})).await.expect(200);
    let receive =
        async |units: i64| store.post("/v1/inventory/tea/receive", json!({"quantity": units})).await.expect(200);
    sell(1).await;
    assert_eq!((listed().await.len(), lows().await), (0, 0));
    sell(1).await;
    assert_eq!((listed().await, lows().await), (vec!["tea".to_owned()], 1));
    // A tenth above the threshold it is still low, and nothing new.
    receive(1).await;
    sell(1).await;
    assert_eq!((listed().await.len(), lows().await), (1, 1));
    receive(2).await;
    assert_eq!((listed().await.len(), lows().await), (0, 1));
    assert_eq!(found(&store, "/v1/inventory?low=false").await, some(&["ale", "tea"]));
    sell(2).await;
    assert_eq!((listed().await.len(), lows().await), (1, 2));

    // Central's command takes the threshold off; under the same key once.
    let off = json!({"lowAt": null});
    for is_again in [false, true] {
        let headers = [("idempotency-key", "off"), ("content-type", "application/json"), ("prefer", "wait=10")];
        let body = off.to_string().into_bytes();
        let answer = central.send(Method::PATCH, "/v1/inventory/s1/tea", &headers, body).await;
        assert_eq!(answer.header("idempotency-replayed") == "true", is_again);
        let item = answer.expect(200);
        assert_eq!((&item["lowAt"], &item["version"]), (&Value::Null, &json!(8)));
    }
    assert_eq!((listed().await.len(), lows().await), (0, 2));
    store.patch("/v1/inventory/tea", json!({"lowAt": 40})).await.expect(200);
    assert_eq!((listed().await.len(), lows().await), (1, 3), "the stock is below the new threshold");
    let item = store.patch("/v1/inventory/tea", off).await.expect(200);
    assert_eq!((&item["lowAt"], listed().await.len()), (&Value::Null, 0));
    for (client, path) in [(&store, "/v1/inventory/tea"), (&central, "/v1/inventory/s1/tea")] {
        for refused in [json!({"name": null}), json!({"discontinued": null}), json!({"lowAt": -1}), json!({})] {
            assert_eq!(client.patch(path, refused.clone()).await.code(), "invalid_request", "{refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_goes_out_and_in_as_csv_by_the_command_line() {
    let world = world(&["s1"]).await;
    let store = world.store("s1");
    import(&store, "/v1/import", STOCK).await.expect(200);
    let url = format!("http://127.0.0.1:{}", world.port_of("s1"));
    let file = world.dir().join("stock.csv");
    let file = file.to_str().expect("a path");
    let (done, said) = world.tool("store-agent", &["export", "--to", file, "--url", &url]).await;
    assert!(done, "{said}");
    let (done, said) = world.tool("store-agent", &["export", "--to", file, "--url", &url]).await;
    assert!(!done && said.contains("cannot write"), "{said}");
    let text = std::fs::read_to_string(file).expect("was written");
    let exported = store.open("/v1/export", &[]).await;
    assert_eq!(exported.headers()["content-type"], "text/csv; charset=utf-8");
    assert_eq!(exported.text().await.expect("text"), text, "the tool writes what the route answers");
    assert_eq!(
        text.lines().collect::<Vec<_>>()[..2],
        ["productId,name,quantity,version,lowAt", "creme,Crème Brûlée,3,1,"]
    );
    let (done, said) = world.tool("store-agent", &["import", file, "--url", &url]).await;
    assert!(done && said.contains("0 created, 0 updated, 4 unchanged, 0 refused"), "{said}");
    std::fs::write(file, format!("{text}tea,Tee,1,,\r\nrum,Rum,2,,\r\n")).expect("writes");
    for round in 0..3 {
        let options: &[&str] = if round == 0 { &["--dry-run"] } else { &[] };
        let (done, said) = world.tool("store-agent", &[&["import", file, "--url", &url], options].concat()).await;
        assert!(!done && said.contains("line 6: ") && said.contains("on line 5 already"), "{said}");
        let totals = if round == 2 { "0 created, 0 updated, 5 unchanged" } else { "1 created, 0 updated, 4 unchanged" };
        assert!(said.contains(&format!("{totals}, 1 refused")), "{said}");
    }
    std::fs::write(file, "sku,quantity\n").expect("writes");
    let (done, said) = world.tool("store-agent", &["import", file, "--url", &url]).await;
    assert!(!done && said.contains("must not have the column"), "{said}");

    // Sent again as it says when it begins, a file leaves sold what was sold in between.
    std::fs::write(file, "productId,quantity\ntea,9\n").expect("writes");
    let (done, said) = world.tool("store-agent", &["import", file, "--url", &url]).await;
    assert!(done && said.contains("1 updated"), "{said}");
    let at = said.split("--counted-at ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("it says where");
    store.post("/v1/purchase/tea", json!({"quantity": 3})).await.expect(200);
    let again = &["import", file, "--url", &url, "--counted-at", at];
    let (done, said) = world.tool("store-agent", again).await;
    assert!(done && said.contains("0 updated, 1 unchanged"), "{said}");
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_says_how_far_it_has_come() {
    let world = world(&["s1"]).await;
    let store = world.store("s1");
    let mut text = String::from("productId,quantity\n");
    (0..30_000).for_each(|number| text.push_str(&format!("p{number},1\n")));
    let importing = tokio::spawn({
        let store = store.clone();
        async move { import(&store, "/v1/import", &text).await.expect(200) }
    });
    until("an import says how far it is", SOON, async || {
        let imports = store.get("/v1/status").await.expect(200)["imports"].take();
        let created = imports[0]["totals"]["created"].as_u64();
        created.filter(|created| (1..30_000).contains(created)).ok_or(imports)
    })
    .await;
    let report = importing.await.expect("ends");
    assert_eq!(report["totals"], json!({"created": 30_000, "updated": 0, "unchanged": 0, "refused": 0}));
    assert_eq!((report["lines"].as_array().expect("lines").len(), &report["linesLeftOut"]), (10_000, &json!(20_000)));
    assert_eq!(store.get("/v1/status").await.expect(200)["imports"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_file_is_taken_in_and_one_that_breaks_off_says_how_far_it_came() {
    let world = world(&["s1"]).await;
    let store = world.store("s1");
    let packed = |text: &str| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text.as_bytes()).expect("is memory");
        packed.finish().expect("is memory")
    };
    let import = async |coding: &str, body: Vec<u8>| {
        store.send(Method::POST, "/v1/import", &[CSV[0], ("content-encoding", coding)], body).await
    };
    let report = import("gzip", packed(STOCK)).await.expect(200);
    assert_eq!(report["totals"], json!({"created": 4, "updated": 0, "unchanged": 0, "refused": 0}));

    let mut text = String::from("productId,quantity\n");
    (0..6_000).for_each(|number| text.push_str(&format!("p{number},{}\n", number * 7_919 % 1_000)));
    let mut half = packed(&text);
    half.truncate(half.len() / 2);
    let broken = import("gzip", half).await;
    assert_eq!((broken.status, broken.code()), (400, "invalid_request"), "{}", broken.body);
    let detail = broken.body["detail"].as_str().expect("a text");
    assert!(detail.starts_with("The file cannot be read: the gzip ends before its end, near line "), "{detail}");
    let created = broken.body["totals"]["created"].as_u64().expect("a number");
    assert!((1..6_000).contains(&created), "{}", broken.body);
    assert_eq!(found(&store, "/v1/inventory?size=1").await.1, 4 + created, "what was taken in stays");
    let whole = import("gzip", packed(&text)).await.expect(200);
    let totals = json!({"created": 6_000 - created, "updated": 0, "unchanged": created, "refused": 0});
    assert_eq!(whole["totals"], totals, "and is not taken in again");

    let mut damaged = packed(&text);
    let middle = damaged.len() / 2;
    damaged[middle..middle + 8].fill(0xff);
    for bad in [damaged, STOCK.into()] {
        let refused = import("gzip", bad).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"));
        let detail = refused.body["detail"].as_str().expect("a text");
        assert!(detail.starts_with("The file cannot be read: it is no gzip, or damaged"), "{detail}");
    }
    assert_eq!(import("br", packed(STOCK)).await.code(), "unsupported_media_type");
    world.converged(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_have_a_bound_and_of_what_is_no_longer_carried_nothing_comes_in() {
    const MOST: i64 = 1_000_000_000;
    let world = world(&["s1"]).await;
    let (store, central) = (world.store("s1"), world.central());
    for (client, items, product) in [(&store, "/v1/inventory", "tea"), (&central, "/v1/inventory/s1", "jam")] {
        let item = format!("{items}/{product}");
        let (receive, adjust) = (format!("{item}/receive"), format!("{item}/adjust"));
        let beyond = client.post(items, json!({"productId": product, "quantity": MOST + 1})).await;
        assert_eq!((beyond.status, &beyond.body["errors"][0]["pointer"]), (400, &json!("/quantity")));
        client.post(items, json!({"productId": product, "quantity": MOST - 5})).await.expect(201);
        let shelf = store.get(&format!("/v1/inventory/{product}")).await;
        let counted_at = shelf.header("shelf-position").to_owned();
        client.post(&receive, json!({"quantity": 5})).await.expect(200);
        for (method, path, body) in [
            (Method::POST, &receive, json!({"quantity": 1})),
            (Method::POST, &adjust, json!({"delta": 1, "reason": "found"})),
            // What was counted may be as much; what has come in since may not go on top.
            (Method::PUT, &item, json!({"quantity": MOST - 4, "countedAt": counted_at})),
        ] {
            let beyond = client.ask(method, path, &[], Some(&body)).await.expect("an answer");
            assert_eq!((beyond.status, beyond.code()), (409, "limit_exceeded"), "{path}: {}", beyond.body);
        }
        let beyond = client.put(&item, json!({"quantity": MOST + 1})).await;
        assert_eq!((beyond.status, &beyond.body["errors"][0]["pointer"]), (400, &json!("/quantity")));
        assert_eq!(client.get(&item).await.expect(200)["quantity"], MOST);

        client.patch(&item, json!({"discontinued": true})).await.expect(200);
        store.post(&format!("/v1/purchase/{product}"), json!({"quantity": 9})).await.expect(200);
        world.converged(SOON).await;
        let gone = client.post(&receive, json!({"quantity": 1})).await;
        assert_eq!((gone.status, gone.code()), (409, "discontinued"), "{}", gone.body);
        client.patch(&item, json!({"discontinued": false})).await.expect(200);
        assert_eq!(client.post(&receive, json!({"quantity": 1})).await.expect(200)["quantity"], MOST - 8);
    }
    world.converged(SOON).await;
}
