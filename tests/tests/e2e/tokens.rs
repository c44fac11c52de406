//! Tokens: who may do what, at both servers and in the tools; and how often.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tests::{Client, Daemon, World, until};

const SOON: Duration = Duration::from_secs(10);

/// A world whose daemons answer only who has a token.
struct Guarded {
    world: World,
    file: PathBuf,
}

impl Guarded {
    async fn start() -> Self {
        let world = World::with(&["s1"]).await;
        let stock = json!({"productId": "tea", "name": "Tea", "quantity": 50});
        world.store("s1").post("/v1/inventory", stock).await.expect(201);
        world.converged(SOON).await;
        let file = world.dir().join("tokens");
        std::fs::write(&file, "# None yet.\n").expect("writes");
        let mut guarded = Self { world, file };
        let option = format!("--tokens-file={}", guarded.file.display());
        guarded.world.store_args = vec![option.clone()];
        guarded.world.central_args = vec![option];
        for daemon in [Daemon::Store("s1".into()), Daemon::Central] {
            guarded.world.terminate(&daemon);
            guarded.world.restart(&daemon).await;
        }
        guarded
    }

    /// A new token. Servers know it within a second.
    async fn token(&self, name: &str, scopes: &str) -> String {
        let file = self.file.display().to_string();
        let args = ["tokens", "add", name, "--scopes", scopes, "--tokens-file", &file];
        let (made, said) = self.world.tool("store-agent", &args).await;
        assert!(made, "{said}");
        let token = said.lines().find(|line| line.starts_with("shelf_")).expect("a token").to_owned();
        for client in [self.store(&token), self.central(&token)] {
            until("the token is known", SOON, async || match client.get("/v1/nowhere").await {
                answer if answer.status == 404 => Ok(()),
                answer => Err(answer.body),
            })
            .await;
        }
        token
    }

    fn store(&self, token: &str) -> Client {
        self.world.store("s1").bearing(token)
    }

    fn central(&self, token: &str) -> Client {
        self.world.central().bearing(token)
    }

    /// A file with a token, for the tools.
    fn kept(&self, name: &str, token: &str) -> String {
        let file = self.world.dir().join(name);
        std::fs::write(&file, format!("{token}\n")).expect("writes");
        file.display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_token_sees_only_that_a_server_is_there() {
    let guarded = Guarded::start().await;
    for client in [guarded.world.store("s1"), guarded.world.central()] {
        for open in ["/", "/health", "/ready", "/openapi.json", "/v1/problems/unauthorized", "/page.js"] {
            assert_eq!(client.get(open).await.status, 200, "{open}");
        }
        for path in ["/v1/inventory", "/v1/status", "/metrics", "/v1/nowhere", "/v1/idempotency/k"] {
            let refused = client.get(path).await;
            assert_eq!((refused.status, refused.code()), (401, "unauthorized"), "{path}");
            assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"shelfstream\"");
        }
        let options = client.ask(Method::OPTIONS, "/v1/inventory", &[], None).await.expect("an answer");
        assert_eq!(options.status, 204, "browsers ask without saying who asks");
        let unknown = [("authorization", "Bearer shelf_0")];
        let refused = client.ask(Method::GET, "/v1/inventory", &unknown, None).await.expect("an answer");
        assert_eq!((refused.status, refused.body["detail"].as_str()), (401, Some("this token is not known here")));
    }
    let sale = guarded.world.store("s1").post("/v1/purchase/tea", json!({"quantity": 1})).await;
    assert_eq!(sale.status, 401);
    let purchase = guarded.world.central().post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
    assert_eq!(purchase.status, 401);
    let reads = guarded.token("reads", "read").await;
    assert_eq!(guarded.store(&reads).get("/v1/inventory/tea").await.expect(200)["quantity"], 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_its_scopes_and_its_name_stands_in_events() {
    let guarded = Guarded::start().await;
    let (till, clerk) = (guarded.token("till-2", "read,sell").await, guarded.token("clerk", "stock").await);
    let (till, clerk) = (guarded.store(&till), guarded.store(&clerk));
    let one = json!({"quantity": 1});
    let actor = [("shelf-actor", "somebody else")];
    till.post_with("/v1/purchase/tea", &actor, one.clone()).await.expect(200);
    let event = &till.get("/v1/events?size=1").await.expect(200)["items"][0];
    assert_eq!((&event["type"], &event["actor"]), (&json!("sold"), &json!("till-2")));

    let refused = till.post("/v1/inventory/tea/receive", one.clone()).await;
    assert_eq!((refused.status, refused.code()), (403, "forbidden"));
    assert_eq!(refused.body["detail"], "this needs a token with the scope stock");
    let challenge = "Bearer realm=\"shelfstream\", error=\"insufficient_scope\", scope=\"stock\"";
    assert_eq!(refused.header("www-authenticate"), challenge);
    for (client, path) in [(&till, "/v1/disconnected"), (&clerk, "/v1/purchase/tea"), (&clerk, "/v1/disconnected")] {
        assert_eq!(client.post(path, one.clone()).await.status, 403, "{path}");
    }
    assert_eq!(clerk.get("/v1/inventory").await.status, 403);
    clerk.post("/v1/inventory/tea/receive", one).await.expect(200);

    // A batch is as good as each of its lines.
    let (sell, receive) = (
        json!({"op": "sell", "productId": "tea", "quantity": 1}),
        json!({"op": "receive", "productId": "tea", "quantity": 1}),
    );
    till.post("/v1/operations", json!({"operations": [sell, sell]})).await.expect(200);
    clerk.post("/v1/operations", json!({"operations": [receive]})).await.expect(200);
    for client in [&till, &clerk] {
        let both = json!({"operations": [sell, receive], "atomic": false});
        assert_eq!(client.post("/v1/operations", both).await.status, 403);
    }
    assert_eq!(till.get("/v1/inventory/tea").await.expect(200)["quantity"], 49, "50 - 1 + 1 - 2 + 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_have_keys_of_their_own() {
    let guarded = Guarded::start().await;
    let (first, second) = (guarded.token("first", "sell,stock").await, guarded.token("second", "sell,stock").await);
    let operator = guarded.token("operator", "operate").await;
    let key = [("idempotency-key", "the-same")];
    for (server, path) in [("store", "/v1/purchase/tea"), ("central", "/v1/purchase/s1/tea")] {
        let at = |token: &str| if server == "store" { guarded.store(token) } else { guarded.central(token) };
        let buy =
            async |token: &str, quantity: u32| at(token).post_with(path, &key, json!({"quantity": quantity})).await;
        buy(&first, 1).await.expect(200);
        buy(&second, 2).await.expect(200);
        for (token, quantity) in [(&first, 1), (&second, 2)] {
            let again = buy(token, quantity).await;
            assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"), "{server}");
        }
        assert_eq!(buy(&first, 2).await.code(), "idempotency_key_reused", "{server}");
        for (query, status) in [("", 404), ("?caller=first", 200), ("?caller=nobody", 404)] {
            let found = at(&operator).get(&format!("/v1/idempotency/the-same{query}")).await;
            assert_eq!(found.status, status, "{server} {query}");
        }
    }
    let clerk = guarded.store(&guarded.token("clerk", "read").await);
    assert_eq!(clerk.get("/v1/inventory/tea").await.expect(200)["quantity"], 44, "50, twice less 1 and 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_taken_back_is_unknown_and_one_that_is_misspelt_changes_nothing() {
    let guarded = Guarded::start().await;
    let (kept, lost) = (guarded.token("kept", "read").await, guarded.token("lost", "read").await);
    let follows = guarded.central(&lost).open("/v1/events/stream", &[]).await;
    assert_eq!(follows.status(), 200);
    let text = std::fs::read_to_string(&guarded.file).expect("reads");
    let without: String =
        text.lines().filter(|line| !line.starts_with("lost ")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&guarded.file, &without).expect("writes");
    until("it is unknown", SOON, async || {
        let answer = guarded.store(&lost).get("/v1/inventory").await;
        if answer.status == 401 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    tokio::time::timeout(SOON, follows.bytes()).await.expect("its stream ends").expect("in good order");
    guarded.store(&kept).get("/v1/inventory").await.expect(200);
    std::fs::write(&guarded.file, format!("{without}new everything sha256:00\n")).expect("writes");
    let agent = Daemon::Store("s1".into());
    until("it is said", SOON, async || {
        guarded.store(&kept).get("/v1/inventory").await.expect(200);
        let log = guarded.world.log(&agent);
        if log.contains("those from before hold") && log.contains("line 3") { Ok(()) } else { Err(log) }
    })
    .await;
    for program in ["store-agent", "central"] {
        let file = format!("--tokens-file={}", guarded.file.display());
        let database = format!("--database-path={}", guarded.world.dir().join(format!("new-{program}.db")).display());
        let args = ["--store-id=s9", "--listen=127.0.0.1:0", &database, &file];
        let (code, said) = guarded.world.tool_with(program, &args[usize::from(program == "central")..], &[]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("line 3: \"everything\" is no scope"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tools_say_who_asks() {
    let mut guarded = Guarded::start().await;
    let operator = guarded.token("operator", "read,stock,operate").await;
    let operator = guarded.kept("operator.token", &operator);
    let (agent, central) = (
        format!("http://127.0.0.1:{}", guarded.world.port_of("s1")),
        format!("http://127.0.0.1:{}", guarded.world.central_port()),
    );
    let stock = guarded.world.dir().join("stock.csv").display().to_string();
    let calls: [(&str, Vec<&str>); 5] = [
        ("store-agent", vec!["status", "--url", &agent]),
        ("store-agent", vec!["export", "--url", &agent, "--to", &stock]),
        ("store-agent", vec!["import", &stock, "--url", &agent]),
        ("central", vec!["stores", "list", "--url", &central]),
        ("central", vec!["stores", "add", "s2", "--url", &central]),
    ];
    for (program, args) in calls {
        let (code, said) = guarded.world.tool_with(program, &args, &[]).await;
        assert_eq!(code, Some(1), "{args:?}: {said}");
        let (code, said) = guarded.world.tool_with(program, &args, &[("TOKEN_FILE", &operator)]).await;
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    guarded.world.terminate(&Daemon::Store("s1".into()));
    let database = guarded.world.database("s1").display().to_string();
    let redis = guarded.world.redis_url_of("s1");
    let restore =
        ["restore", "--store-id", "s1", "--database-path", &database, "--redis-url", &redis, "--central", &central];
    let (code, said) = guarded.world.tool_with("store-agent", &restore, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = guarded.world.tool_with("store-agent", &restore, &[("TOKEN_FILE", &operator)]).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_asks_too_often_hears_so_and_nobody_else_does() {
    let mut guarded = Guarded::start().await;
    let (eager, calm) = (guarded.token("eager", "read,sell").await, guarded.token("calm", "read,sell").await);
    guarded.world.store_args.push("--rate-limit=3".to_owned());
    guarded.world.central_args.push("--rate-limit=3".to_owned());
    for daemon in [Daemon::Store("s1".into()), Daemon::Central] {
        guarded.world.terminate(&daemon);
        guarded.world.restart(&daemon).await;
    }
    for (client, other) in
        [(guarded.store(&eager), guarded.store(&calm)), (guarded.central(&eager), guarded.central(&calm))]
    {
        // However slow this machine is, sometime they come close together.
        let refused = until("one is too many", SOON, async || {
            let asked = (0..10).map(|_| client.get("/v1/inventory"));
            let answers = futures_util::future::join_all(asked).await;
            answers.into_iter().find(|answer| answer.status != 200).ok_or("all were answered")
        })
        .await;
        assert_eq!((refused.status, refused.code(), refused.header("retry-after")), (429, "rate_limited", "1"));
        let told = ["limit", "remaining", "reset"].map(|name| refused.header(&format!("ratelimit-{name}")).to_owned());
        assert_eq!(told, ["3", "0", "1"]);
        let answer = other.get("/v1/inventory").await;
        assert_eq!(
            (answer.status, answer.header("ratelimit-limit"), answer.header("ratelimit-remaining")),
            (200, "3", "2")
        );
        for _ in 0..20 {
            assert_eq!(client.get("/ready").await.status, 200, "whoever looks after it may always look");
        }
    }
}
