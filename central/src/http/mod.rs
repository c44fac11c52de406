//! Central's REST API; `docs/API.md` is its specification. One file a resource.

mod availability;
mod commands;
mod dead_letters;
mod docs;
mod events;
mod idempotency;
mod inventory;
mod item_commands;
mod meta;
mod metrics;
mod operations;
mod products;
mod projections;
mod purchases;
mod reconciliations;
mod reservations;
mod stores;
mod stream;
mod transfers;
mod views;
mod webhooks;
mod write;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::Method;
use protocol::ids::StoreId;
use runtime::clock::Source;
use runtime::http::openapi::{Api, Description, Queryless};
use runtime::http::{Access, Code, Edge, Problem, Requests, Scopes, Served, Tally};
use runtime::redis::Keys;
use utoipa_axum::router::OpenApiRouter;

use crate::links::consumer::Newcomers;
use crate::links::presence::{Presence, Reading, Unavailable};
use crate::links::publisher::Wakes;
use crate::links::redis_link::{Heartbeats, LOOK_TIMEOUT, RedisLink};
use crate::links::waiting::Waiting;
use crate::outbound::feed::Feed;
use crate::outbound::webhooks::Webhooks;
use crate::storage::Db;
use crate::storage::stores::Store;

/// What handlers use.
pub struct App {
    /// The view, and what was promised.
    pub db: Db,
    /// The same, to look for a store that sells: many may ask for what is sold out.
    pub choosing: Db,
    /// The same, for stores that are restored: they wait for no list of clients'.
    pub restoring: Db,
    /// The time, and names for what is begun.
    pub source: Source,
    /// What is told to stores that are restored.
    pub redis: RedisLink,
    /// How keys are named.
    pub keys: Keys,
    /// Asks for heartbeats.
    pub heartbeats: Heartbeats,
    /// Who is there.
    pub presence: Presence,
    /// Says when something is settled.
    pub waiting: Waiting,
    /// Wakes command senders.
    pub wakes: Wakes,
    /// What happens, to follow.
    pub feed: Feed,
    /// Where it is sent.
    pub webhooks: Webhooks,
    /// Ids that are no stores; `None`: nobody looks for new stores.
    pub newcomers: Option<Newcomers>,
    /// Events that were applied since the start.
    pub applied: Tally<i64>,
    /// Requests that were answered.
    pub requests: Requests,
    /// When this process started.
    pub started_at: Instant,
    /// Whether the database knew a store when this process started.
    pub had_view: bool,
}

type Shared = axum::extract::State<Arc<App>>;

const API: Api = Api {
    title: "Shelfstream: central",
    description: include_str!("openapi.md"),
    tags: &[
        ("Stock", "What the stores have, and commands that change it."),
        ("Purchases", "Online purchases: a store confirms each, or refuses it."),
        ("Reservations", "Units held at a store for a while."),
        ("Transfers", "Units that go from one store to another."),
        ("Commands", "What stores were asked, and what they answered."),
        ("Events", "What happened in the chain."),
        ("Webhooks", "Where events are sent."),
        ("Stores", "What is known of each store, and what operators decide."),
        ("Operators", "For whoever looks after central."),
        ("Server", "Whether it is there, and how it is."),
    ],
    headers: &[],
    access,
};

/// The scopes that a route wants, if tokens are on.
fn access(method: &Method, route: &str) -> Access {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let first = route.split('/').nth(1).unwrap_or_default();
    match first {
        "" | "page.css" | "page.js" | "health" | "ready" | "openapi.json" | "docs" | "problems" if reads => {
            Access::Open
        }
        "dead-letters" | "idempotency" | "webhooks" => Access::Needs(Scopes::OPERATE),
        _ if reads => Access::Needs(Scopes::READ),
        "purchase" | "purchases" | "reservations" => Access::Needs(Scopes::SELL),
        "inventory" | "operations" | "products" | "transfers" | "reconciliations" => Access::Needs(Scopes::STOCK),
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
    runtime::http::finish(router.with_state(app), Edge { access, queryless, ..edge })
}

/// All routes, and their description.
fn described() -> (Routes, Description) {
    let (pages, of_pages) = meta::pages().merge(metrics::router()).merge(docs::router()).split_for_parts();
    let (routes, of_routes) = OpenApiRouter::new()
        .merge(inventory::router())
        .merge(item_commands::router())
        .merge(operations::router())
        .merge(reconciliations::router())
        .merge(availability::router())
        .merge(products::router())
        .merge(purchases::router())
        .merge(reservations::router())
        .merge(transfers::router())
        .merge(commands::router())
        .merge(events::router())
        .merge(stream::router())
        .merge(webhooks::router())
        .merge(stores::router())
        .merge(idempotency::router())
        .merge(dead_letters::router())
        .merge(projections::router())
        .merge(meta::router())
        .split_for_parts();
    let queryless = Queryless::of(&of_routes);
    let description = Description::new(API, of_pages, of_routes);
    (Routes { router: pages.layer(axum::Extension(description.clone())).merge(routes), queryless }, description)
}

impl App {
    /// A store that may get a purchase, or the reason why not.
    async fn sellable(&self, id: &StoreId) -> Result<(Store, Reading), Problem> {
        let (store, reading) = self.reachable(id).await?;
        self.still_sellable(&store, &reading)?;
        Ok((store, reading))
    }

    /// Between the look at the heartbeat and the transaction the store may have opened an epoch, or an operator may have
    /// decided something: judged again inside.
    fn still_sellable(&self, store: &Store, reading: &Reading) -> Result<(), Problem> {
        self.still_reachable(store, reading)?;
        if store.online_sale {
            Ok(())
        } else {
            Err(self.unavailable(&store.id, Unavailable::Paused, Some(reading.age_ms)))
        }
    }

    /// The same for a purchase. `true`: it may get none but what it has set aside covers all of it.
    fn may_sell(&self, store: &Store, reading: &Reading) -> Result<bool, Problem> {
        if store.retired {
            return Err(Problem::new(Code::StoreRetired).with("storeId", store.id.as_str()));
        }
        let why = |why| self.unavailable(&store.id, why, reading.heartbeat.is_some().then_some(reading.age_ms));
        self.presence.judge_sale(store, reading).map_err(why)
    }

    fn still_reachable(&self, store: &Store, reading: &Reading) -> Result<(), Problem> {
        if store.retired {
            return Err(Problem::new(Code::StoreRetired).with("storeId", store.id.as_str()));
        }
        match self.presence.judge(store, reading) {
            // Its stock is looked after as ever.
            Ok(()) | Err(Unavailable::Paused) => Ok(()),
            Err(why) => Err(self.unavailable(&store.id, why, reading.heartbeat.is_some().then_some(reading.age_ms))),
        }
    }

    /// A store that may be asked for something, or the reason why not, in the order of API rule 9.
    async fn reachable(&self, id: &StoreId) -> Result<(Store, Reading), Problem> {
        let (store, reading) = self.look_at(id).await?;
        self.still_reachable(&store, &reading)?;
        Ok((store, reading))
    }

    /// A store that may get a purchase, as far as can be told before the transaction.
    async fn for_sale(&self, id: &StoreId) -> Result<Reading, Problem> {
        let (store, reading) = self.look_at(id).await?;
        self.may_sell(&store, &reading)?;
        Ok(reading)
    }

    /// Reads a store's heartbeat.
    async fn look_at(&self, id: &StoreId) -> Result<(Store, Reading), Problem> {
        let store = self.known(id).await?;
        if store.retired {
            return Err(Problem::new(Code::StoreRetired).with("storeId", id.as_str()));
        }
        // Known to be away: the consumer hears when it is back.
        if self.presence.redis_lost_for().is_some() || self.presence.is_silent() {
            return Err(self.unavailable(id, Unavailable::Redis, None));
        }
        let asked_at = Instant::now();
        let Some(reading) = self.heartbeats.read(id).await else {
            if asked_at.elapsed() >= LOOK_TIMEOUT {
                self.presence.note_silent();
            }
            return Err(self.unavailable(id, Unavailable::Redis, None));
        };
        self.presence.note(id, &reading);
        Ok((store, reading))
    }

    /// Central began with an empty database and has not heard yet which stores there are.
    fn is_starting(&self) -> bool {
        !self.presence.has_swept() && !self.had_view
    }

    /// A store that central has heard of.
    async fn known(&self, id: &StoreId) -> Result<Store, Problem> {
        if let Some(store) = self.db.read(|connection| crate::storage::stores::find(connection, id)).await? {
            return Ok(store);
        }
        if self.is_starting() {
            return Err(self.unavailable(id, Unavailable::Starting, None));
        }
        let mut problem = Problem::new(Code::UnknownStore).with("storeId", id.as_str());
        if let Some(other) = self.db.read(|connection| crate::storage::stores::other_case(connection, id)).await? {
            problem = problem.with("didYouMean", other.as_str());
        }
        Err(problem)
    }

    fn unavailable(&self, id: &StoreId, why: Unavailable, age_ms: Option<i64>) -> Problem {
        let age = age_ms.or_else(|| self.presence.report(id).heartbeat_age_ms);
        Problem::new(Code::StoreUnavailable)
            .detail(why.words())
            .with("storeId", id.as_str())
            .with("reason", why.as_str())
            .with("lastBeatAgeMs", age)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::time::Millis;
    use runtime::redis::Heartbeat;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::outbound::addresses::Reach;
    use crate::outbound::sender::Sender;
    use crate::storage::files::Opened;
    use crate::testing::{Agent, database};

    pub(super) fn app() -> (tempfile::TempDir, App) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("central.db");
        let Opened { clients: db, choosing, followers: restoring, .. } =
            crate::storage::files::open(&path).expect("opens");
        let feed = Feed::new(db.clone(), db.clone(), CancellationToken::new());
        let redis = RedisLink::new(
            runtime::redis::client(&runtime::redis::Options::at("redis://127.0.0.1:1")).expect("an address"),
        );
        let app = App {
            source: Source::system(),
            heartbeats: Heartbeats::of(redis.clone(), Keys::new("shelf")),
            webhooks: Webhooks {
                db: db.clone(),
                feed: feed.clone(),
                sender: Sender::new(Reach { private: false }),
                changed: Arc::default(),
            },
            feed,
            db,
            choosing,
            restoring,
            redis,
            keys: Keys::new("shelf"),
            presence: Presence::new(Duration::from_secs(50)),
            waiting: Waiting::default(),
            wakes: Wakes::default(),
            newcomers: None,
            applied: Tally::behind(0),
            requests: Requests::default(),
            started_at: Instant::now(),
            had_view: true,
        };
        (dir, app)
    }

    /// `cargo xtask openapi --write` writes it anew.
    #[test]
    fn the_description_beside_the_code_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi/central.json");
        let text = described().1.pretty();
        if std::env::var_os("SHELFSTREAM_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &text).expect("writes");
        }
        assert!(
            std::fs::read_to_string(path).expect("reads") == text,
            "cargo xtask openapi --write, and look at the diff"
        );
    }

    #[test]
    fn what_was_decided_after_the_look_counts() {
        let (_dir, app) = app();
        let connection = database();
        let store = Agent::settled("s1", &connection).store(&connection);
        let heartbeat = Heartbeat {
            process: 1,
            epoch: 7.into(),
            head: 0.into(),
            backlog: 0,
            oldest_unsent_ms: 0,
            version: String::new(),
            life_ms: 60_000,
        };
        let reading = Reading { heartbeat: Some(heartbeat), age_ms: 0, redis_now: Millis(0) };
        let said = |result: Result<(), Problem>| match result {
            Ok(()) => "yes".to_owned(),
            Err(problem) => {
                let json = problem.to_json();
                json.get("reason").unwrap_or(&json["code"]).as_str().unwrap_or_default().to_owned()
            }
        };
        type Decide = fn(&mut Store);
        let cases: [(Decide, &str, &str); 5] = [
            (|_| {}, "yes", "yes"),
            (|store| store.retired = true, "store_retired", "store_retired"),
            (|store| store.online_sale = false, "paused", "yes"),
            (|store| store.fenced = 7.into(), "fenced", "fenced"),
            (|store| store.opening = true, "catching_up", "catching_up"),
        ];
        for (decide, purchase, command) in cases {
            let mut store = store.clone();
            decide(&mut store);
            assert_eq!(said(app.still_sellable(&store, &reading)), purchase);
            assert_eq!(said(app.still_reachable(&store, &reading)), command);
        }
    }
}
