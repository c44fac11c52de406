//! Wiring: what central is made of, and how its parts hold on to each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::clock::{Source, Ticks};
use runtime::daemon::{LinkThread, Port, Tasks};
use runtime::http::{Edge, Requests, Room, Tally, Tokens};
use runtime::redis::Keys;
use tokio_util::sync::CancellationToken;

use crate::config::Serve;
use crate::http::{App, router, routes};
use crate::links::consumer::{Consumer, Newcomers};
use crate::links::presence::Presence;
use crate::links::publisher::{Publisher, Wakes};
use crate::links::redis_link::{Heartbeats, RedisLink};
use crate::links::seeking::Seeking;
use crate::links::waiting::Waiting;
use crate::operators::maintenance;
use crate::operators::steps::Steps;
use crate::outbound::addresses::Reach;
use crate::outbound::feed::Feed;
use crate::outbound::sender::Sender;
use crate::outbound::webhooks::Webhooks;
use crate::storage::files::{self, Opened};
use crate::storage::items::COUNTED;

/// Serves until `stop`, or until a part fails: then an error says which.
pub async fn run(config: Serve, port: Port, stop: CancellationToken) -> anyhow::Result<()> {
    let client = runtime::redis::client(&config.redis)?;
    let path = config.database_path;
    let Opened { clients, choosing, feed, followers, links, writer_ended, rescue, known, items, events, lock: _lock } =
        files::open(&path)?;
    // What clients ask for keeps the link from nothing: it has threads and connections of its own. What takes long waits aside.
    let (receives, sends, aside) = (LinkThread::start()?, LinkThread::start()?, LinkThread::start()?);
    let wakes = Wakes::default();
    let keys = Keys::new(&config.key_prefix);
    let presence = Presence::new(Duration::from_millis(config.heartbeat_max_age_ms));
    let presence = presence.selling_offline(config.sell_allotment_offline);
    let waiting = Waiting::default();
    let newcomers = (!config.stores_known_only).then(Newcomers::default);
    let feed = Feed::new(feed, followers.clone(), stop.clone());
    let webhooks = Webhooks {
        db: followers.clone(),
        feed: feed.clone(),
        sender: Sender::new(Reach { private: config.webhook_allow_private }),
        changed: Arc::default(),
    };
    let requests = Requests::default();
    let redis = RedisLink::new(client.clone());
    let app = App {
        db: clients,
        choosing,
        restoring: followers,
        source: Source::system(),
        heartbeats: Heartbeats::of(redis.clone(), keys.clone()),
        redis,
        keys: keys.clone(),
        presence: presence.clone(),
        waiting: waiting.clone(),
        wakes: wakes.clone(),
        feed: feed.clone(),
        webhooks: webhooks.clone(),
        newcomers: newcomers.clone(),
        applied: Tally::behind(events),
        requests: requests.clone(),
        started_at: Instant::now(),
        had_view: known > 0,
    };
    let (cors_origins, allowed_hosts) = (config.cors_origins, config.allowed_hosts);
    let tokens = config.tokens_file.as_deref().map(Tokens::open).transpose()?;
    let is_open = tokens.is_none();
    let rate_limit = config.rate_limit;
    let edge =
        Edge { cors_origins, allowed_hosts, tokens, rate_limit, requests, stop: stop.clone(), ..Edge::default() };
    let steps = Steps { db: links.clone(), waiting: waiting.clone(), wakes: wakes.clone() };
    let (moved_on, applied) = (waiting.watch_applied(), waiting.watch_applied());
    let seeking = Seeking {
        db: links.clone(),
        heartbeats: Heartbeats::of(RedisLink::new(client.clone()), keys.clone()),
        presence: presence.clone(),
        wakes: wakes.clone(),
        waiting: waiting.clone(),
        clock: Ticks::start(),
    };
    let consumer = Consumer {
        client: client.clone(),
        keys: keys.clone(),
        db: links.clone(),
        presence: presence.clone(),
        waiting,
        wakes: wakes.clone(),
        sweep_every: Duration::from_millis(config.sweep_interval_ms),
        newcomers,
    };
    let publisher = Publisher { client, keys, db: links.clone(), presence, wakes, clock: Ticks::start() };

    let listener = port.listen()?;
    let address = listener.local_addr()?;
    if is_open && !address.ip().is_loopback() {
        tracing::warn!("anyone who reaches {address} may write here: there are no tokens, see TOKENS_FILE");
    }
    if known == 0 {
        tracing::warn!(
            database = %path.display(),
            "this database knows no store: right for a new chain; else stop central and check DATABASE_PATH"
        );
    }
    let items = if items > COUNTED { format!("more than {COUNTED}") } else { items.to_string() };
    tracing::info!(
        database = %path.display(),
        stores = known,
        %items,
        events,
        version = env!("CARGO_PKG_VERSION"),
        "listening on http://{address}"
    );
    if let Some(file) = &config.address_file {
        runtime::daemon::write_address(file, address)?;
    }
    let mut tasks = Tasks::new(stop.clone());
    let served = stop.clone();
    let room = Room::within(runtime::daemon::raise_descriptors()?);
    tasks.add("http", async move {
        Ok(runtime::http::serve(listener, router(routes(), Arc::new(app), edge), room, served).await?)
    });
    tasks.add("feed", feed.run(moved_on));
    tasks.add("webhooks", webhooks.run(stop.clone()));
    tasks.add_on(&receives, "consumer", consumer.run(aside.handle.clone(), stop.clone()));
    tasks.add_on(&sends, "publisher", publisher.run(stop.clone()));
    tasks.add_on(&sends, "steps", steps.run(stop.clone()));
    tasks.add_on(&sends, "seeking", seeking.run(applied, stop.clone()));
    tasks.add_on(&aside, "maintenance", maintenance::run(links, stop.clone()));
    let inspection = files::inspect_daily(path.clone());
    tasks.add("inspection", async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            damage = inspection => Err(damage.into()),
        }
    });
    tasks.add("writer", async move {
        // It ends when the last handle to it is gone, which is after every other task; or before them, and says why.
        writer_ended.await.context("the writer panicked")?.context("the database failed")
    });
    let ended = tasks.run().await;
    rescue.wait();
    if let Err(error) = &ended {
        files::note_damage(&path, error.chain());
    }
    ended
}
