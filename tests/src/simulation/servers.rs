//! Both servers' HTTP interfaces in process: the production routers over the simulated processes' files. Their requests wait
//! in virtual time, and what they write waits until the simulation commits it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::to_bytes;
use axum::extract::Request;
use central::links::presence::{Presence, Reading};
use central::links::redis_link::{Heartbeats, RedisLink};
use central::links::waiting::Waiting;
use central::outbound::addresses::Reach;
use central::outbound::feed::Feed;
use central::outbound::sender::Sender;
use central::outbound::webhooks::Webhooks;
use protocol::ids::StoreId;
use protocol::link::EntryId;
use protocol::time::Millis;
use runtime::clock::Source;
use runtime::http::{Edge, Requests, Served, Tally};
use runtime::redis::Keys;
use runtime::sqlite::{Db, Group, Queue, Reader, Writer};
use rusqlite::Connection;
use store_agent::links::connectivity::Connectivity;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::virtual_world::Commit;
use crate::Dice;
use crate::judge::Answer;

/// A request that is being answered.
pub(super) type Answering = Pin<Box<dyn Future<Output = Answer>>>;

/// The HTTP server of one process.
pub(super) struct Server {
    /// No other has it.
    pub(super) number: u64,
    routes: Served,
    reader: Reader,
    queue: Queue,
}

/// What of central's process its HTTP server shares with its loops.
pub(super) struct OfCentral {
    pub(super) server: Server,
    pub(super) presence: Presence,
    pub(super) waiting: Waiting,
    pub(super) redis: Arc<Mutex<Seen>>,
}

/// What requests see of Redis.
#[derive(Default)]
pub(super) struct Seen {
    /// None: it does not answer.
    pub(super) heartbeats: Option<BTreeMap<StoreId, Reading>>,
    /// The heartbeat that was read last.
    pub(super) looked: Option<(StoreId, Reading)>,
}

thread_local! {
    static NOW: Cell<Millis> = const { Cell::new(Millis(0)) };
    static NEXT: Cell<u128> = const { Cell::new(0) };
    /// To describe all routes takes longer than to serve many requests.
    static ROUTES: (store_agent::http::Routes, central::http::Routes, Sender) =
        (store_agent::http::routes(), central::http::routes(), Sender::new(Reach { private: false }));
}

/// The first id that a request with this number gives to something.
pub(super) fn id_of(request: u64) -> Uuid {
    Uuid::from_u128((1 << 100) | (u128::from(request) << 8))
}

fn source() -> Source {
    Source::new(|| NOW.get(), || Uuid::from_u128(NEXT.replace(NEXT.get() + 1)))
}

fn database() -> (Db, Reader, Queue) {
    let reader = Reader::alone(Connection::open_in_memory().expect("a database in memory"));
    let (writer, queue) = Writer::queue();
    (Db::new(reader.clone(), writer), reader, queue)
}

impl Server {
    /// A store's agent's.
    pub(super) fn of_agent(number: u64, store: &StoreId) -> Self {
        let (db, reader, queue) = database();
        let app = store_agent::http::App {
            store: store.clone(),
            db,
            source: source(),
            connectivity: Connectivity::new(NOW.get()),
            started_at: NOW.get(),
            expiry: Arc::default(),
            executed: Arc::default(),
            imports: store_agent::http::Imports::default(),
            recorded: Tally::behind(EntryId::default()),
            requests: Requests::default(),
        };
        let routes = ROUTES.with(|(routes, ..)| routes.clone());
        Self { number, routes: store_agent::http::router(routes, Arc::new(app), Edge::default()), reader, queue }
    }

    /// Sends a request.
    pub(super) fn ask(&self, request: Request) -> Answering {
        let answer = self.routes.clone().oneshot(request);
        Box::pin(async move {
            let Ok(answer) = answer.await;
            let (parts, body) = answer.into_parts();
            let body = to_bytes(body, usize::MAX).await.expect("a body");
            let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            Answer {
                status: parts.status.as_u16(),
                is_replay: parts.headers.contains_key("idempotency-replayed"),
                position: text("shelf-position"),
                etag: text("etag"),
                body: serde_json::from_slice(&body).unwrap_or_default(),
            }
        })
    }

    /// Goes on with a request until it is answered or has to wait. `clock`: the process's; `ids`: what comes after them is free.
    pub(super) fn go_on(
        &self,
        time: &mut Time,
        file: &mut Connection,
        (clock, next): (Millis, &mut u128),
        answering: &mut Answering,
    ) -> Option<Answer> {
        NOW.set(clock);
        NEXT.set(*next);
        self.reader.exchange(file);
        let polled = time.poll(answering);
        self.reader.exchange(file);
        *next = NEXT.get();
        polled
    }

    /// Commits what waits to be written, unless the process dies. `None`: there was nothing.
    pub(super) fn write(&mut self, file: &Connection, dice: &mut Dice, risk: u64) -> Option<(Commit, Group)> {
        let group = self.queue.run(file).expect("SQLite in memory does not fail")?;
        let end = |sql: &str| file.execute_batch(sql).expect("a transaction ends");
        if dice.chance(risk) {
            end("rollback");
            return Some((Commit::Before, group));
        }
        end("commit");
        Some((if dice.chance(risk) { Commit::After } else { Commit::Done }, group))
    }
}

impl OfCentral {
    /// Central's.
    pub(super) fn new(number: u64, keys: &Keys, sells_offline: bool) -> Self {
        let (db, reader, queue) = database();
        let presence = Presence::new(Duration::from_secs(50)).selling_offline(sells_offline);
        presence.note_redis(true);
        presence.note_swept();
        let (waiting, redis) = (Waiting::default(), Arc::new(Mutex::new(Seen::default())));
        let seen = redis.clone();
        let heartbeats = Heartbeats::new(move |id| {
            let mut seen = seen.lock().expect("nobody panics with it");
            let reading = seen.heartbeats.as_ref().map(|all| all.get(&id).cloned().unwrap_or_default());
            if let Some(reading) = &reading {
                seen.looked = Some((id, reading.clone()));
            }
            std::future::ready(reading)
        });
        let nowhere = runtime::redis::client(&runtime::redis::Options::at("redis://127.0.0.1:1"));
        let (routes, sender) = ROUTES.with(|(_, routes, sender)| (routes.clone(), sender.clone()));
        let feed = Feed::new(db.clone(), db.clone(), CancellationToken::new());
        let webhooks = Webhooks { db: db.clone(), feed: feed.clone(), sender, changed: Arc::default() };
        let app = central::http::App {
            db: db.clone(),
            choosing: db.clone(),
            restoring: db,
            source: source(),
            redis: RedisLink::new(nowhere.expect("an address")),
            keys: keys.clone(),
            heartbeats,
            presence: presence.clone(),
            waiting: waiting.clone(),
            wakes: Default::default(),
            feed,
            webhooks,
            newcomers: None,
            applied: Tally::behind(0),
            requests: Requests::default(),
            started_at: Instant::now(),
            had_view: true,
        };
        let routes = central::http::router(routes, Arc::new(app), Edge::default());
        Self { server: Server { number, routes, reader, queue }, presence, waiting, redis }
    }
}

/// The clock that waits are measured by: it stands still but for what the simulation says.
pub(super) struct Time {
    runtime: tokio::runtime::Runtime,
    now: i64,
}

impl Time {
    /// Begins now.
    pub(super) fn start(now: i64) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Self { runtime: builder.enable_time().start_paused(true).build().expect("a runtime"), now }
    }

    /// It is later.
    pub(super) fn advance(&mut self, now: i64) {
        if now > self.now {
            let later = Duration::from_millis((now - self.now).unsigned_abs());
            self.runtime.block_on(tokio::time::advance(later));
            self.now = now;
        }
    }

    fn poll(&mut self, answering: &mut Answering) -> Option<Answer> {
        self.runtime.block_on(poll_fn(|context| {
            Poll::Ready(match answering.as_mut().poll(context) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            })
        }))
    }
}
