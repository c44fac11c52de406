//! The stream of events: from where it begins, what it leaves out, and how it ends.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(30);

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
struct Streamed {
    id: i64,
    event: String,
    data: Value,
}

/// Somebody who follows.
struct Follower {
    response: reqwest::Response,
    text: String,
    /// Signs of life.
    comments: usize,
}

impl Follower {
    async fn open(world: &World, query: &str, last: Option<&str>) -> Self {
        let mut headers = vec![("accept-encoding", "gzip")];
        headers.extend(last.map(|id| ("last-event-id", id)));
        let response = world.central().open(&format!("/v1/events/stream{query}"), &headers).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), comments: 0 }
    }

    /// The next event; `None`: the stream has ended.
    async fn next(&mut self) -> Option<Streamed> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                let streamed = (!block.starts_with(':')).then(|| Streamed {
                    id: field("id: ").parse().expect("a place in the chain"),
                    event: field("event: ").to_owned(),
                    data: serde_json::from_str(field("data: ")).expect("JSON"),
                });
                self.text = rest.to_owned();
                match streamed {
                    Some(streamed) => return Some(streamed),
                    None => self.comments += 1,
                }
                continue;
            }
            let chunk = tokio::time::timeout(SOON, self.response.chunk()).await.expect("something comes in time");
            self.text += std::str::from_utf8(&chunk.ok()??).expect("text");
        }
    }

    async fn take(&mut self, many: usize) -> Vec<Streamed> {
        let mut taken = Vec::new();
        while taken.len() < many {
            taken.push(self.next().await.expect("it goes on"));
        }
        taken
    }
}

async fn world() -> World {
    let world = World::with(&["s1", "s2"]).await;
    for store in ["s1", "s2"] {
        let tea = json!({"productId": "tea", "quantity": 10_000});
        world.store(store).post("/v1/inventory", tea).await.expect(201);
    }
    world.converged(SOON).await;
    world
}

async fn sell(world: &World, store: &str, times: usize) {
    for _ in 0..times {
        let sale = json!({"quantity": 1, "reference": format!("of {store}")});
        world.store(store).post("/v1/purchase/tea", sale).await.expect(200);
    }
}

async fn all(world: &World) -> Vec<Value> {
    let events = world.central().get("/v1/events?after=0&size=1000").await.expect(200);
    events["items"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_gets_what_the_list_has_once_and_in_order() {
    let world = world().await;
    let before = all(&world).await;
    let mut from_now = Follower::open(&world, "", None).await;
    let mut from_start = Follower::open(&world, "?after=0", None).await;
    let third = before[2]["chainSeq"].to_string();
    // What was seen last counts more than where the address says to begin.
    let mut from_third = Follower::open(&world, "?after=0", Some(&third)).await;
    let mut of_one =
        Follower::open(&world, "?after=0&storeId=s2&type=sold&productId=tea&reference=of%20s2", None).await;
    tokio::join!(sell(&world, "s1", 20), sell(&world, "s2", 20));
    world.converged(SOON).await;
    let all = all(&world).await;
    let new = from_now.take(40).await;
    assert!(new.iter().all(|one| one.event == "sold"));
    let same = |streamed: &[Streamed], listed: &[Value]| {
        assert_eq!(streamed.iter().map(|one| one.data.clone()).collect::<Vec<_>>(), listed);
        for one in streamed {
            assert_eq!((&one.data["chainSeq"], &one.data["type"]), (&json!(one.id), &json!(one.event)));
        }
    };
    same(&new, &all[before.len()..]);
    same(&from_start.take(all.len()).await, &all);
    same(&from_third.take(all.len() - 3).await, &all[3..]);
    let sold: Vec<Value> = all.iter().filter(|one| one["type"] == "sold" && one["storeId"] == "s2").cloned().collect();
    same(&of_one.take(20).await, &sold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_product_hears_of_each_event_that_it_is_part_of() {
    let world = world().await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "jam", "quantity": 5})).await.expect(201);
    let mut of_tea = Follower::open(&world, "?productId=tea&type=reserved", None).await;
    let lines = |products: &[&str]| -> Value {
        products.iter().map(|product| json!({"productId": product, "quantity": 1})).collect()
    };
    let mut held = Vec::new();
    for products in [&["jam"][..], &["jam", "tea"], &["tea"]] {
        let reservation = store.post("/v1/reservations", json!({"lines": lines(products)})).await.expect(201);
        held.push(reservation["reservationId"].clone());
    }
    let heard: Vec<Value> = of_tea.take(2).await.iter().map(|one| one.data["reservationId"].clone()).collect();
    assert_eq!(heard, held[1..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_costs_others_nothing_and_all_end_with_central() {
    let mut world = world().await;
    let _sleeps: Vec<Follower> = {
        let mut sleeps = Vec::new();
        for _ in 0..20 {
            sleeps.push(Follower::open(&world, "?after=0", None).await);
        }
        sleeps
    };
    let mut follower = Follower::open(&world, "", None).await;
    let mut last = 0;
    for _ in 0..10 {
        tokio::join!(sell(&world, "s1", 30), sell(&world, "s2", 30));
        for one in follower.take(60).await {
            assert!(one.id > last, "{} after {last}", one.id);
            last = one.id;
        }
    }
    let mut ends = Follower::open(&world, "", None).await;
    assert_eq!(world.terminate(&Daemon::Central), Some(0));
    assert_eq!((follower.next().await, ends.next().await), (None, None));
    // Whoever comes again goes on where he was.
    world.restart(&Daemon::Central).await;
    sell(&world, "s1", 5).await;
    let mut again = Follower::open(&world, "", Some(&last.to_string())).await;
    let next: Vec<i64> = again.take(5).await.iter().map(|one| one.id).collect();
    assert_eq!(next, (last + 1..=last + 5).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_shows_that_it_lives_and_refuses_what_is_no_place() {
    let world = Builder::default().start(&[]).await;
    let mut quiet = Follower::open(&world, "", None).await;
    let central = world.central();
    for query in ["?after=x", "?after=-1", "?after=1000", "?since=yesterday", "?size=5", "?colour=red"] {
        let answer = central.get(&format!("/v1/events/stream{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{query}");
    }
    let get = reqwest::Method::GET;
    for id in ["x", "1000"] {
        let headers = [("last-event-id", id)];
        let bad = central.ask(get.clone(), "/v1/events/stream", &headers, None).await.expect("an answer");
        assert_eq!((bad.status, &bad.body["errors"][0]["pointer"]), (400, &json!("Last-Event-ID")), "{id}");
    }
    until("there is a sign of life", SOON, async || {
        let next = tokio::time::timeout(Duration::from_millis(200), quiet.next()).await;
        assert!(!matches!(next, Ok(Some(_))), "nothing has happened");
        if quiet.comments > 0 { Ok(()) } else { Err(quiet.text.clone()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_several_products_tells_of_each_in_lists_and_streams_alike() {
    let world = World::with(&["s1"]).await;
    let (store, central) = (world.store("s1"), world.central());
    for product in ["ma", "mb"] {
        store.post("/v1/inventory", json!({"productId": product, "quantity": 10})).await.expect(201);
    }
    let lines = json!([{"productId": "ma", "quantity": 2}, {"productId": "mb", "quantity": 3}]);
    let held = json!({"lines": lines, "reference": "order-1"});
    store.post("/v1/reservations", held).await.expect(201);
    world.converged(SOON).await;
    let each = json!([
        {"productId": "ma", "delta": 0, "quantity": 10, "reserved": 2, "allotted": 0, "version": 2},
        {"productId": "mb", "delta": 0, "quantity": 10, "reserved": 3, "allotted": 0, "version": 2},
    ]);
    for client in [&store, &central] {
        for (filter, product, reserved) in [
            ("type=reserved", "ma", 2),
            ("type=reserved&productId=mb", "mb", 3),
            ("type=reserved&productId=mb&reference=order-1", "mb", 3),
        ] {
            let list = client.get(&format!("/v1/events?{filter}")).await.expect(200);
            let event = &list["items"][0];
            assert_eq!((&event["productId"], &event["reserved"]), (&json!(product), &json!(reserved)), "{filter}");
            assert_eq!(event["items"], each, "{filter}");
        }
    }
    for filter in ["type=reserved", "type=reserved&productId=mb"] {
        let list = central.get(&format!("/v1/events?{filter}")).await.expect(200);
        let mut follower = Follower::open(&world, &format!("?after=0&{filter}"), None).await;
        assert_eq!(follower.take(1).await[0].data, list["items"][0], "{filter}");
    }
}
