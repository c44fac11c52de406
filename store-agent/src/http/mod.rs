//! The agent's REST API; `docs/API.md` is its specification. One file a resource. Nothing here depends on Redis.

mod answer;
mod csv;
mod dead_letters;
mod events;
mod import;
mod imports;
mod inventory;
mod meta;
mod metrics;
mod operations;
mod purchases;
mod reservations;
mod transfers;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use protocol::ids::StoreId;
use protocol::link::EntryId;
use protocol::time::Millis;
use runtime::clock::Source;
use runtime::http::openapi::{Api, Description, Queryless};
use runtime::http::{Access, Edge, Requests, Says, Scopes, Served, Tally, header_value};
use runtime::sqlite::Db;
use tokio::sync::Notify;
use utoipa_axum::router::OpenApiRouter;

pub use imports::Imports;

use crate::ledger;
use crate::links::connectivity::Connectivity;

/// What handlers use.
pub struct App {
    /// Which store this is.
    pub store: StoreId,
    pub db: Db,
    /// The time, and names for what nobody has named.
    pub source: Source,
    pub connectivity: Connectivity,
    /// When this process started.
    pub started_at: Millis,
    /// Rings when a reservation was made or is to end otherwise.
    pub expiry: Arc<Notify>,
    /// Rings for all who wait for a command of central when some were executed.
    pub executed: Arc<Notify>,
    /// What is being imported.
    pub imports: Imports,
    /// What was recorded since the start.
    pub recorded: Tally<EntryId>,
    /// Requests that were answered.
    pub requests: Requests,
}

type Shared = axum::extract::State<Arc<App>>;

const POSITION: HeaderName = HeaderName::from_static("shelf-position");
const WARNING: HeaderName = HeaderName::from_static("shelf-warning");

const API: Api = Api {
    title: "Shelfstream: a store's agent",
    description: include_str!("openapi.md"),
    tags: &[
        ("Items", "The stock: what is there, and what changes it."),
        ("Reservations", "Units held for a while."),
        ("Transfers", "Units that go to another store, or come from one."),
        ("Purchases", "Online purchases, which staff has to pick."),
        ("Events", "What happened in this store."),
        ("Import and export", "The stock as CSV."),
        ("Link", "Whether the agent is connected to the chain."),
        ("Operators", "For whoever looks after the agent."),
        ("Server", "Whether it is there, and how it is."),
    ],
    headers: &["Shelf-Position", "Shelf-Warning"],
    access,
};

/// The scopes that a route wants, if tokens are on.
fn access(method: &Method, route: &str) -> Access {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let first = route.split('/').nth(1).unwrap_or_default();
    match (first, route) {
        ("" | "page.css" | "page.js" | "health" | "ready" | "openapi.json" | "problems", _) if reads => Access::Open,
        ("dead-letters" | "idempotency", _) => Access::Needs(Scopes::OPERATE),
        _ if reads => Access::Needs(Scopes::READ),
        ("purchase" | "purchases" | "reservations", _) => Access::Needs(Scopes::SELL),
        // Each line is judged by itself.
        (_, "/operations") => Access::Needs(Scopes::SELL.and(Scopes::STOCK)),
        ("inventory" | "transfers" | "import", _) => Access::Needs(Scopes::STOCK),
        _ => Access::Needs(Scopes::OPERATE),
    }
}

/// All routes, which know no process yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Routes {
    router: Router<Arc<App>>,
    queryless: Queryless,
}

/// All routes.
pub fn routes() -> Routes {
    described().0
}

/// The routes of a process, with the edge around them.
pub fn router(Routes { router, queryless }: Routes, app: Arc<App>, edge: Edge) -> Served {
    let says = Says::new({
        let app = app.clone();
        move |answer| say_where(app.clone(), answer)
    });
    runtime::http::finish(router.with_state(app), Edge { access, queryless, says: Some(says), ..edge })
}

/// All routes, and their description.
fn described() -> (Routes, Description) {
    let (pages, of_pages) = meta::pages().merge(metrics::router()).split_for_parts();
    let (routes, of_routes) = OpenApiRouter::new()
        .merge(inventory::router())
        .merge(operations::router())
        .merge(reservations::router())
        .merge(transfers::router())
        .merge(purchases::router())
        .merge(events::router())
        .merge(import::router())
        .merge(dead_letters::router())
        .merge(meta::router())
        .split_for_parts();
    let queryless = Queryless::of(&of_routes);
    let description = Description::new(API, of_pages, of_routes);
    (Routes { router: pages.layer(axum::Extension(description.clone())).merge(routes), queryless }, description)
}

/// Every answer says where the ledger stands, and that the agent is fenced if it is.
async fn say_where(app: Arc<App>, mut response: Response) -> Response {
    if !response.headers().contains_key(POSITION)
        && let Ok(head) = app.db.read(ledger::head).await
    {
        let position = header_value(format_args!("{}:{}", app.store, head.cursor.id()));
        response.headers_mut().insert(POSITION, position);
    }
    if app.connectivity.link().stopped.is_some() {
        response.headers_mut().insert(WARNING, HeaderValue::from_static("fenced"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::HeaderMap;
    use runtime::http::Code;
    use runtime::sqlite::{Abort, Connection, JobResult, Reader, Writer};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::ledger::idempotency;

    /// A store with a file of its own.
    struct Shop {
        routes: Served,
        db: Db,
        expiry: Arc<Notify>,
        _kept: (runtime::sqlite::FileLock, tempfile::TempDir),
    }

    struct Answer {
        status: u16,
        headers: HeaderMap,
        body: Value,
    }

    impl Shop {
        fn open() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("s1.db");
            let store = StoreId::parse("s1").expect("valid");
            let (connection, lock) = runtime::sqlite::open(&path, ledger::SCHEMA).expect("opens");
            ledger::initialise(&connection, &store, runtime::clock::now()).expect("is new");
            let (writer, _) = Writer::start(connection, || {});
            let db = Db::new(Reader::open(&path, 2, 2).expect("opens"), writer);
            let expiry = Arc::default();
            Self { routes: Self::serve(&db, Source::system(), &expiry), db, expiry, _kept: (lock, dir) }
        }

        fn serve(db: &Db, source: Source, expiry: &Arc<Notify>) -> Served {
            let app = App {
                store: StoreId::parse("s1").expect("valid"),
                db: db.clone(),
                source,
                connectivity: Connectivity::new(runtime::clock::now()),
                started_at: runtime::clock::now(),
                expiry: expiry.clone(),
                executed: Arc::default(),
                imports: Imports::default(),
                recorded: Tally::behind(EntryId::default()),
                requests: Requests::default(),
            };
            router(routes(), Arc::new(app), Edge::default())
        }

        async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
            let mut request = axum::http::Request::builder().method(method).uri(path).header("host", "localhost");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(body.into()).expect("a request");
            let response = self.routes.clone().oneshot(request).await.expect("routes do not fail");
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
            Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or_default() }
        }

        async fn post(&self, path: &str, key: &str, body: Value) -> Answer {
            let headers = [("content-type", "application/json"), ("idempotency-key", key), ("shelf-actor", key)];
            self.ask(Method::POST, path, &headers, body.to_string()).await
        }

        async fn get(&self, path: &str) -> Value {
            self.ask(Method::GET, path, &[], "").await.body
        }

        async fn import(&self, text: impl Into<Body>) -> Answer {
            self.ask(Method::POST, "/import", &[("content-type", "text/csv")], text).await
        }

        async fn change(&self, change: impl Fn(&Connection) -> JobResult<()> + Send + 'static) {
            let changed = self.db.write(move |connection| Ok::<_, Abort<()>>(change(connection)?)).await;
            changed.expect("the writer runs").expect("not refused");
        }
    }

    fn replayed(answer: &Answer) -> bool {
        answer.headers.contains_key("idempotency-replayed")
    }

    /// `cargo xtask openapi --write` writes it anew.
    #[test]
    fn the_description_beside_the_code_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi/store-agent.json");
        let text = described().1.pretty();
        if std::env::var_os("SHELFSTREAM_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &text).expect("writes");
        }
        assert!(
            std::fs::read_to_string(path).expect("reads") == text,
            "cargo xtask openapi --write, and look at the diff"
        );
    }

    #[tokio::test]
    async fn every_problem_is_explained_at_its_address() {
        let shop = Shop::open();
        for code in Code::ALL {
            let page = shop.get(&format!("/problems/{}", code.as_str())).await;
            assert_eq!((&page["code"], &page["status"]), (&code.as_str().into(), &code.status().as_u16().into()));
        }
        let own = shop.get("/openapi.json").await;
        assert_eq!(own["paths"]["/v1/inventory"]["get"]["operationId"], "listItems");
    }

    #[tokio::test]
    async fn a_query_that_an_operation_does_not_take_is_refused_before_it_has_its_effect() {
        let shop = Shop::open();
        shop.post("/inventory", "k", json!({"productId": "tea", "quantity": 9})).await;
        for (path, pointer) in
            [("/purchase/tea?dryRun=true", "?dryRun"), ("/v1/purchase/tea?x", "?x"), ("/inventory?y=1", "?y")]
        {
            let refused = shop.post(path, "refused", json!({"quantity": 1, "productId": "milk"})).await;
            assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (400, &json!(pointer)), "{path}");
        }
        assert_eq!(shop.get("/inventory").await["items"][0]["quantity"], 9);
        let status = async |method, path: &str| shop.ask(method, path, &[], "").await.status;
        assert_eq!(status(Method::HEAD, "/inventory/tea?x=1").await, 400);
        assert_eq!(status(Method::GET, "/inventory/tea?").await, 200);
        assert_eq!(status(Method::GET, "/inventory?size=1").await, 200);
        assert_eq!(status(Method::GET, "/health?at=now").await, 200, "a page, not a part of the API");
        assert_eq!(status(Method::PATCH, "/purchases?x=1").await, 405);
        assert_eq!(status(Method::GET, "/nowhere?x=1").await, 404);
    }

    #[tokio::test]
    async fn a_write_that_a_restore_brought_back_is_not_done_again() {
        let lost = Shop::open();
        lost.post("/inventory", "k1", json!({"productId": "tea", "quantity": 9})).await;
        assert_eq!(lost.post("/purchase/tea", "k2", json!({"quantity": 2})).await.body["quantity"], 7);
        let events = lost.get("/events?size=2").await;
        let ids: Vec<String> =
            (0..2).map(|at| events["items"][at]["operationId"].as_str().expect("an id").to_owned()).collect();

        let restored = Shop::open();
        restored.post("/inventory", "other", json!({"productId": "tea", "quantity": 7})).await;
        restored
            .change(move |connection| {
                idempotency::remember_known(connection, ids.iter().map(String::as_str), runtime::clock::now())
            })
            .await;
        for _ in 0..2 {
            let again = restored.post("/purchase/tea", "k2", json!({"quantity": 2})).await;
            assert_eq!((again.status, &again.body["quantity"], replayed(&again)), (200, &json!(7), true));
            let again = restored.post("/v1/inventory", "k1", json!({"productId": "tea", "quantity": 9})).await;
            assert_eq!((again.status, &again.body["quantity"], replayed(&again)), (201, &json!(7), true));
        }
        let new = restored.post("/purchase/tea", "k3", json!({"quantity": 2})).await;
        assert_eq!((new.status, &new.body["quantity"], replayed(&new)), (200, &json!(5), false));
        let other = restored.post("/purchase/tea", "k2", json!({"quantity": 1})).await;
        assert_eq!((other.status, &other.body["quantity"], replayed(&other)), (200, &json!(4), false));
    }

    #[tokio::test]
    async fn a_hold_that_a_restore_brought_back_is_the_same_on_the_day_after() {
        const DAY: i64 = 24 * 60 * 60 * 1_000;
        let mut shop = Shop::open();
        shop.post("/inventory", "k1", json!({"productId": "tea", "quantity": 9})).await;
        let wanted = json!({"lines": [{"productId": "tea", "quantity": 2}], "ttlSeconds": 2_000_000});
        let held = shop.post("/reservations", "k2", wanted.clone()).await;
        assert_eq!(held.status, 201, "{}", held.body);
        let operation = shop.get("/events?size=1").await["items"][0]["operationId"].as_str().expect("an id").to_owned();
        shop.change(move |connection| {
            idempotency::forget_behind(connection, EntryId::default())?;
            idempotency::remember_known(connection, [operation.as_str()], runtime::clock::now())
        })
        .await;
        for now in [(|| runtime::clock::now().plus(-DAY)) as fn() -> Millis, || runtime::clock::now().plus(DAY)] {
            shop.routes = Shop::serve(&shop.db, Source::new(now, uuid::Uuid::now_v7), &shop.expiry);
            let again = shop.post("/reservations", "k2", wanted.clone()).await;
            assert_eq!((again.status, replayed(&again)), (200, true), "{}", again.body);
            assert_eq!(again.body["reservationId"], held.body["reservationId"]);
            assert_eq!(shop.get("/inventory/tea").await["reserved"], 2);
        }
    }

    #[tokio::test]
    async fn who_looks_for_the_next_end_hears_of_a_hold_whose_client_has_gone() {
        let shop = Shop::open();
        shop.post("/inventory", "k1", json!({"productId": "tea", "quantity": 9})).await;
        let wanted = json!({"lines": [{"productId": "tea", "quantity": 2}], "ttlSeconds": 60});
        let mut asked = Box::pin(shop.post("/reservations", "k2", wanted));
        // It has queued, and waits for the writer, unless that was quicker.
        let _ = futures_util::poll!(asked.as_mut());
        drop(asked);
        tokio::time::timeout(std::time::Duration::from_secs(10), shop.expiry.notified()).await.expect("is told");
        assert_eq!(shop.get("/inventory/tea").await["reserved"], 2);
    }

    #[tokio::test]
    async fn what_a_count_has_to_add_up_is_added_up_beside_the_writer() {
        let shop = Shop::open();
        shop.post("/inventory", "k", json!({"productId": "tea", "quantity": 900})).await;
        let position = |answer: &Answer| answer.headers["shelf-position"].to_str().expect("is text").to_owned();
        let sale = json!({"op": "sell", "productId": "tea", "quantity": 1});
        let first = position(&shop.post("/purchase/tea", "s", json!({"quantity": 1})).await);
        let sold = shop.post("/operations", "many", json!({"operations": vec![sale; 800]})).await;
        assert_eq!((sold.status, &sold.body["applied"]), (200, &json!(800)));
        let last = position(&sold);
        let put = json!({"quantity": 899, "countedAt": first}).to_string();
        let headers = [("content-type", "application/json")];
        let counted = shop.ask(Method::PUT, "/inventory/tea", &headers, put).await;
        assert_eq!((&counted.body["quantity"], &counted.body["difference"]), (&json!(99), &json!(0)));
        for (key, at, units, left) in [("a", &first, 900, 100), ("b", &last, 98, 98)] {
            let count = json!({"op": "count", "productId": "tea", "quantity": units, "countedAt": at});
            let done = shop.post("/operations", key, json!({"operations": [count]})).await;
            assert_eq!(done.body["results"][0]["item"]["quantity"], left, "{}", done.body);
        }
        let steps = async || {
            let steps = |connection: &Connection| Ok::<_, Abort<()>>(ledger::testing::steps_for_counts(connection));
            shop.db.write(steps).await.expect("the writer runs").expect("not refused")
        };
        let made = steps().await;
        assert!((1..400).contains(&made), "{made} steps for three counts");
        let line = json!({"op": "count", "productId": "tea", "quantity": 98, "countedAt": last});
        let done = shop.post("/operations", "c", json!({"operations": vec![line; 800]})).await;
        assert_eq!(done.body["results"][799]["item"]["quantity"], 98, "{}", done.body);
        // No line looks at what those before it have written.
        let made = steps().await;
        assert!((800..200_000).contains(&made), "{made} steps for 800 counts");
    }

    #[tokio::test]
    async fn dead_letters_are_replayed_to_the_last_however_many_there_are() {
        let shop = Shop::open();
        // Every third is understood now.
        let insert = "with recursive number (n) as (select 1 union all select n + 1 from number where n < 250) \
             insert into dead_letter (entry_id, type, operation_id, body, reason, received_at) \
             select '1-' || n, iif(n % 3 = 0, ?1, 'teleport'), 'op', ?2, 'why', 0 from number";
        let resync = protocol::wire::Command::Resync;
        let (kind, body) = (resync.kind().to_owned(), resync.encode());
        shop.change(move |connection| connection.execute(insert, [&kind, &body]).map(drop)).await;
        let numbers = |list: &Value| {
            let list = list.as_array().expect("a list").iter();
            list.map(|id| id.as_str().expect("an id").parse::<u32>().expect("a number")).collect::<Vec<_>>()
        };
        let some = json!({"ids": ["3", "4", "249", "9000"]});
        let some = shop.post("/dead-letters/replay", "some", some).await.body;
        assert_eq!((numbers(&some["replayed"]), numbers(&some["notUnderstood"])), (vec![3, 249], vec![4]), "{some}");
        let all = shop.post("/dead-letters/replay", "all", json!({})).await.body;
        let expected: Vec<u32> = (1..=250).filter(|n| n % 3 == 0 && ![3, 249].contains(n)).collect();
        assert_eq!(numbers(&all["replayed"]), expected);
        assert_eq!(numbers(&all["notUnderstood"]), (1..=250).filter(|n| n % 3 != 0).collect::<Vec<_>>());
        assert_eq!(shop.get("/dead-letters").await["items"].as_array().expect("a list").len(), 167);
    }

    fn three_sales() -> Value {
        let sale = |product: &str, units: u32| json!({"op": "sell", "productId": product, "quantity": units});
        json!({"atomic": false, "operations": [sale("bun", 1), sale("tea", 2), sale("tea", 3)]})
    }

    #[tokio::test]
    async fn of_a_batch_that_a_restore_brought_back_in_part_only_the_rest_is_done() {
        let lost = Shop::open();
        lost.post("/inventory", "k1", json!({"productId": "tea", "quantity": 9})).await;
        let sold = lost.post("/operations", "k2", three_sales()).await;
        assert_eq!((&sold.body["applied"], &sold.body["refused"]), (&json!(2), &json!(1)));
        let events = lost.get("/events?size=2").await;
        let newest = |at: usize| (events["items"][at]["delta"].clone(), events["items"][at]["operationId"].clone());
        let ((first, id), (second, _)) = (newest(1), newest(0));
        assert_eq!((first, second), (json!(-2), json!(-3)));

        let restored = Shop::open();
        restored.post("/inventory", "other", json!({"productId": "tea", "quantity": 7})).await;
        let id = id.as_str().expect("an id").to_owned();
        restored
            .change(move |connection| idempotency::remember_known(connection, [id.as_str()], runtime::clock::now()))
            .await;
        for is_again in [false, true] {
            let again = restored.post("/operations", "k2", three_sales()).await;
            assert_eq!((again.status, replayed(&again)), (200, is_again));
            assert_eq!((&again.body["applied"], &again.body["refused"]), (&json!(2), &json!(1)));
            assert_eq!(restored.get("/inventory/tea").await["quantity"], 4);
        }
    }

    #[tokio::test]
    async fn a_line_of_a_batch_that_cannot_be_read_is_named() {
        let shop = Shop::open();
        let line = |members: Value| json!({"operations": [{"op": "sell", "productId": "tea", "quantity": 1}, members]});
        let many = vec![json!({"op": "sell", "productId": "tea", "quantity": 1}); 1_001];
        for (body, pointer, words) in [
            (line(json!({"productId": "tea", "quantity": 1})), "/operations/1/op", "operations/1/op is missing"),
            (
                line(json!({"op": "steal", "productId": "tea"})),
                "/operations/1/op",
                "operations/1/op must be one of sell, receive, adjust, count, create",
            ),
            (
                line(json!({"op": "sell", "quantity": 1})),
                "/operations/1/productId",
                "operations/1/productId is missing",
            ),
            (
                line(json!({"op": "receive", "productId": "tea", "quantity": 0})),
                "/operations/1/quantity",
                "operations/1/quantity must be a whole number from 1 to 1,000,000",
            ),
            (
                line(json!({"op": "count", "productId": "tea", "quantity": 1, "delta": 1})),
                "/operations/1/delta",
                "operations/1/delta is not known: there are quantity, countedAt, expectedVersion, countRef, reference",
            ),
            (json!({"operations": []}), "/operations", "operations must have 1 to 1,000 lines"),
            (json!({"operations": many}), "/operations", "operations must have 1 to 1,000 lines"),
        ] {
            let refused = shop.post("/operations", "k", body).await;
            let error = &refused.body["errors"][0];
            let told = (refused.status, &error["pointer"], &error["detail"]);
            assert_eq!(told, (400, &json!(pointer), &json!(words)), "{}", refused.body);
        }
    }

    #[tokio::test]
    async fn events_are_found_by_who_asked() {
        let shop = Shop::open();
        shop.post("/inventory", "anna", json!({"productId": "tea", "quantity": 9})).await;
        shop.post("/purchase/tea", "ben", json!({"quantity": 2})).await;
        let found = shop.get("/events?actor=ben").await;
        assert_eq!((&found["items"][0]["type"], &found["items"][1]), (&json!("sold"), &Value::Null));
    }

    /// Time of the processor that this thread has used, ns.
    #[cfg(target_os = "linux")]
    fn used() -> u64 {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
        told.split(' ').next().and_then(|first| first.parse().ok()).expect("a number")
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_thread_that_serves_has_less_work_with_a_list_than_to_write_it() {
        const TIMES: usize = 20;
        let shop = Shop::open();
        let lines: String = (0..1_000).map(|number| format!("p-{number},{}\n", "long name ".repeat(18))).collect();
        assert_eq!(shop.import(format!("productId,name\n{lines}")).await.status, 200);
        let list = shop.get("/events?size=1000").await;
        let began = used();
        for _ in 0..TIMES {
            assert!(serde_json::to_vec(&list).expect("is JSON").len() > 200 << 10);
        }
        let writing = used() - began;
        let began = used();
        for _ in 0..TIMES {
            let request = axum::http::Request::get("/events?size=1000").header("host", "localhost").body(Body::empty());
            let answer = shop.routes.clone().oneshot(request.expect("a request")).await.expect("routes do not fail");
            assert!(to_bytes(answer.into_body(), usize::MAX).await.expect("a body").len() > 200 << 10);
        }
        let serving = used() - began;
        assert!(serving < writing, "{serving} ns, and {writing} ns for no more than its text");
    }

    #[tokio::test]
    async fn the_root_says_what_its_answer_depends_on() {
        let shop = Shop::open();
        for kind in ["text/html", "application/json", "text/plain"] {
            let answer = shop.ask(Method::GET, "/", &[("accept", kind)], "").await;
            assert!(answer.headers.get_all("vary").iter().any(|vary| vary == "Accept"), "{kind}");
        }
    }

    /// Created, updated, unchanged, refused.
    fn totals(answer: &Answer) -> [u64; 4] {
        assert_eq!(answer.status, 200, "{}", answer.body);
        let totals = &answer.body["totals"];
        ["created", "updated", "unchanged", "refused"].map(|result| totals[result].as_u64().expect("is counted"))
    }

    /// What the record on a line was refused for.
    fn refusal(answer: &Answer, line: u64) -> &str {
        let lines = answer.body["lines"].as_array().expect("lines");
        let found = lines.iter().find(|told| told["line"] == line).expect("is told");
        found["problem"]["errors"][0]["detail"].as_str().or(found["problem"]["detail"].as_str()).unwrap_or_default()
    }

    #[tokio::test]
    async fn an_import_reads_records_of_64_kib_and_no_longer_ones() {
        let shop = Shop::open();
        let record = |length: usize| format!("productId,name\na,b\nc,{}\nd,e\n", "x".repeat(length - 3));
        let answer = shop.import(record(200 << 10)).await;
        assert_eq!(totals(&answer), [2, 0, 0, 1]);
        assert!(refusal(&answer, 3).contains("at most 65536 bytes"), "{}", answer.body);
        let blank = shop.import(format!("productId\n{}", "\n".repeat(1 << 20))).await;
        assert_eq!((totals(&blank), &blank.body["blankLines"]), ([0; 4], &json!(1 << 20)));
    }

    #[tokio::test]
    async fn a_bad_line_of_an_import_is_refused_in_few_words() {
        let shop = Shop::open();
        let digits = "9".repeat(60_000);
        let mut text = format!("productId,quantity\na,{digits}\nb,1\nc,").into_bytes();
        text.extend([0xff, b'\n', b'd', b',', b'1', b'\n']);
        let answer = shop.import(text).await;
        assert_eq!(totals(&answer), [2, 0, 0, 2]);
        assert!(answer.body.to_string().len() < 3_000, "{}", answer.body);
    }

    #[tokio::test]
    async fn each_refused_record_of_an_import_is_told_by_its_line() {
        let shop = Shop::open();
        let text = "productId,name,quantity\r\n\r\ntea,Tea,5\r\nale,Ale\r\ntea,Assam,6\r\nx y,X,1\r\njam,Jam,-1\r\n\
                    rum,\"Rum,1\r\ngin,Gin,1\r\n";
        for round in 0..2 {
            let answer = shop.import(text).await;
            assert_eq!(totals(&answer), if round == 0 { [1, 0, 0, 5] } else { [0, 0, 1, 5] });
            assert_eq!(answer.body["blankLines"], 1);
            for (line, why) in [
                (4, "has 2 cells, the header has 3"),
                (5, "on line 3 already"),
                (6, ""),
                (7, "must be a whole number from 0"),
                (8, "opens in line 8 is not closed; it reaches to line 10"),
            ] {
                assert!(refusal(&answer, line).contains(why), "{line}: {}", answer.body);
            }
        }
        assert_eq!(shop.get("/inventory/tea").await["name"], "Tea");
    }

    #[tokio::test]
    async fn a_trial_says_what_would_change_and_a_version_keeps_what_was_changed_since() {
        let shop = Shop::open();
        shop.import("productId,name,quantity,lowAt\ntea,Tea,5,2\nale,Ale,7,\n").await;
        let text = "productId;name;quantity;version\ntea;Assam;6;1\nale;;;1\nrum;;3;\ngin;;1;9\n";
        let trial = shop.ask(Method::POST, "/import?dryRun=true", &[("content-type", "text/csv")], text).await;
        assert_eq!(totals(&trial), [1, 1, 1, 1]);
        let expected = json!({"name": {"from": "Tea", "to": "Assam"}, "quantity": {"from": 5, "to": 6}});
        assert_eq!(trial.body["lines"][0]["changes"], expected);
        assert_eq!(shop.get("/inventory/tea").await["quantity"], 5);
        assert_eq!(totals(&shop.import(text).await), [1, 1, 1, 1]);
        assert_eq!(totals(&shop.import(text).await), [0, 0, 3, 1]);
        shop.post("/purchase/tea", "k", json!({"quantity": 1})).await;
        let late = shop.import(text).await;
        assert_eq!(
            (totals(&late), &late.body["lines"][0]["problem"]["code"]),
            ([0, 0, 2, 2], &json!("version_conflict"))
        );
    }

    #[tokio::test]
    async fn an_import_tells_of_a_quote_that_swallows_more_than_a_record() {
        let shop = Shop::open();
        let swallowed: String = (3..3_003).map(|number| format!("p{number},Product number {number},1\n")).collect();
        let text = format!("productId,name,quantity\nale,\"Ale,1\n{swallowed}pipe,12\"pipe,1\ntea,Tea,1\n");
        let answer = shop.import(text).await;
        assert_eq!(totals(&answer), [1, 0, 0, 1]);
        let expected = "The quote that opens in line 2 closes inside a cell; it reaches to line 3003, and none of that was \
                        taken in";
        assert_eq!(refusal(&answer, 2), expected);
        // Where it closes the record makes sense, but is not what was meant.
        let answer = shop.import("productId,name,quantity\nale,\"Ale,1\nrum,Rum,1\npipe,pipe 12\",1\n").await;
        assert_eq!(totals(&answer), [0, 0, 0, 1]);
        assert!(
            refusal(&answer, 2).ends_with("it reaches to line 4, and none of that was taken in"),
            "{}",
            answer.body
        );
    }

    /// As `stock.csv`, whose counts are of this position.
    async fn import_counted(shop: &Shop, at: &str, text: &str) -> Answer {
        let path = format!("/import?countedAt={at}");
        shop.ask(Method::POST, &path, &[("content-type", "text/csv")], text.to_owned()).await
    }

    #[tokio::test]
    async fn a_file_that_is_sent_again_with_its_position_leaves_sold_what_was_sold() {
        let shop = Shop::open();
        shop.import("productId,quantity\ntea,5\n").await;
        let text = "productId,name,quantity\ntea,Tea,9\nale,Ale,4\nrum,Rum,2\n";
        let begun = shop.ask(Method::GET, "/inventory", &[], "").await;
        let at = begun.headers["shelf-position"].to_str().expect("is text").to_owned();
        assert_eq!(totals(&import_counted(&shop, &at, text).await), [2, 1, 0, 0]);
        for (product, units) in [("tea", 3), ("ale", 1)] {
            let path = format!("/purchase/{product}");
            assert_eq!(shop.post(&path, product, json!({"quantity": units})).await.status, 200);
        }
        assert_eq!(totals(&import_counted(&shop, &format!("{at}&dryRun=true"), text).await), [0, 0, 3, 0]);
        let again = import_counted(&shop, &at, text).await;
        assert_eq!(totals(&again), [0, 0, 3, 0], "{}", again.body);
        for (product, left) in [("tea", 6), ("ale", 3), ("rum", 2)] {
            assert_eq!(shop.get(&format!("/inventory/{product}")).await["quantity"], left, "{product}");
        }
        // It is told what becomes of it, not what was counted; more was sold since than this.
        let counted = import_counted(&shop, &at, "productId,quantity\ntea,10\nale,0\n").await;
        assert_eq!(counted.body["lines"][0]["changes"], json!({"quantity": {"from": 6, "to": 7}}));
        assert_eq!(counted.body["lines"][1]["changes"], json!({"quantity": {"from": 3, "to": 0}}));
        let stored = shop.get("/inventory/tea").await;
        assert_eq!(stored["quantity"], 7);
        // Without it the file would be what is on the shelf.
        assert_eq!(totals(&shop.import(text).await), [0, 2, 1, 0]);
    }

    #[tokio::test]
    async fn an_import_is_refused_as_a_whole_if_its_counts_are_of_no_position_of_this_ledger() {
        let shop = Shop::open();
        for at in ["s2:1-1", "s1:1-1", "now"] {
            let refused = import_counted(&shop, at, "productId,quantity\ntea,5\n").await;
            assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (400, &json!("?countedAt")), "{at}");
        }
        assert_eq!(shop.get("/inventory").await["found"], 0);
    }

    #[tokio::test]
    async fn what_an_imports_counts_have_to_add_up_is_added_up_beside_the_writer() {
        let shop = Shop::open();
        shop.post("/inventory", "k", json!({"productId": "tea", "quantity": 900})).await;
        let begun = shop.ask(Method::GET, "/inventory", &[], "").await;
        let at = begun.headers["shelf-position"].to_str().expect("is text").to_owned();
        let sale = json!({"op": "sell", "productId": "tea", "quantity": 1});
        shop.post("/operations", "many", json!({"operations": vec![sale; 800]})).await;
        assert_eq!(totals(&import_counted(&shop, &at, "productId,quantity\ntea,901\n").await), [0, 1, 0, 0]);
        assert_eq!(shop.get("/inventory/tea").await["quantity"], 101);
        let steps = |connection: &Connection| Ok::<_, Abort<()>>(ledger::testing::steps_for_counts(connection));
        let made = shop.db.write(steps).await.expect("the writer runs").expect("not refused");
        assert!((1..400).contains(&made), "{made} steps for one count");
    }

    #[tokio::test]
    async fn an_import_names_the_reservations_that_it_ends() {
        let shop = Shop::open();
        shop.import("productId,quantity\ntea,5\nale,5\n").await;
        let asked = json!({"lines": [{"productId": "tea", "quantity": 3}], "reference": "order 7"});
        assert_eq!(shop.post("/reservations", "k", asked).await.status, 201);
        let text = "productId,name,quantity\ntea,Assam,2\nale,Ale,4\n";
        for query in ["?dryRun=true", ""] {
            let path = format!("/import{query}");
            let told = shop.ask(Method::POST, &path, &[("content-type", "text/csv")], text).await;
            let ended = told.body["lines"][0]["endedReservations"].as_array().expect("a list");
            assert_eq!((ended.len(), &ended[0]["reference"]), (1, &json!("order 7")), "{}", told.body);
            assert!(ended[0]["reservationId"].is_string());
            assert_eq!(told.body["lines"][1].get("endedReservations"), None);
        }
        assert_eq!(shop.get("/inventory/tea").await["reserved"], 0);
    }

    #[tokio::test]
    async fn what_is_exported_is_no_change_when_it_is_imported() {
        let shop = Shop::open();
        for (number, name) in ["=cmd()", "'@x", "-5", "a \"b\", c;d", " spaced ", "Tea"].iter().enumerate() {
            let made = json!({"productId": format!("p{number}"), "name": name, "quantity": number, "lowAt": 3});
            assert_eq!(shop.post("/inventory", &format!("k{number}"), made).await.status, 201, "{name}");
        }
        let many: String = (0..2_500).map(|number| format!("q{number},\n")).collect();
        shop.import(format!("productId,name\n{many}")).await;
        let request = axum::http::Request::builder().uri("/export").header("host", "localhost").body(Body::empty());
        let response = shop.routes.clone().oneshot(request.expect("a request")).await.expect("routes do not fail");
        let text = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let text = String::from_utf8(text.to_vec()).expect("text");
        assert!(text.lines().all(|line| !line.contains(",=") && !line.contains(",-")), "{text}");
        assert_eq!(totals(&shop.import(text).await), [0, 0, 2_506, 0]);
    }
}
