//! Wiring: what an agent is made of, and how its parts hold on to each other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use protocol::domain::allotment::Rule;
use runtime::clock::Source;
use runtime::daemon::{LinkThread, Port, Tasks};
use runtime::http::{Edge, Requests, Room, Tally, Tokens};
use runtime::redis::Keys;
use runtime::sqlite::{Db, Guard, Reader, Writer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Serve;
use crate::http::{App, Imports, router, routes};
use crate::ledger;
use crate::links::connectivity::Connectivity;
use crate::links::publisher::Publisher;
use crate::links::receiver::Receiver;
use crate::operators::{expiry, indexing, maintenance, telling};

/// Serves until `stop`, or until a part fails: then an error says which.
pub async fn run(config: Serve, port: Port, stop: CancellationToken) -> anyhow::Result<()> {
    let client = runtime::redis::client(&config.redis)?;
    let path = config.database();
    let (connection, _lock) = runtime::sqlite::open(&path, ledger::SCHEMA)?;
    let is_new = ledger::initialise(&connection, &config.store_id, runtime::clock::now())?;
    let rule = Rule { percent: config.allot_percent, minimum: config.allot_minimum };
    ledger::allotment::set_rule(&connection, &rule)?;
    let head = ledger::head(&connection)?;
    let committed = Arc::new(Notify::new());
    let bell = committed.clone();
    let guard = Guard::of(&path).context("the database's files cannot be looked at")?;
    let rescue = guard.watch();
    let (writer, writer_ended) = Writer::start_guarded(connection, guard, move || bell.notify_one());
    // Of those that serve, at most half read lists: sales need the others.
    let threads = std::thread::available_parallelism()?.get();
    let reader = Reader::open(&path, threads, (threads / 2).max(2)).context("the database cannot be read")?;
    let db = Db::new(reader, writer.clone());
    // What clients ask for keeps the link from nothing: it has threads and connections of its own. What takes long waits aside.
    let (link, aside) = (LinkThread::start()?, LinkThread::start()?);
    let link_reader = Reader::open(&path, 2, 1).context("the database cannot be read")?;
    let link_db = Db::new(link_reader, writer);
    let keys = Keys::new(&config.key_prefix);
    let connectivity = Connectivity::new(runtime::clock::now());
    let (reserved, executed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let requests = Requests::default();
    let app = App {
        store: config.store_id.clone(),
        db: db.clone(),
        source: Source::system(),
        connectivity: connectivity.clone(),
        started_at: runtime::clock::now(),
        expiry: reserved.clone(),
        executed: executed.clone(),
        imports: Imports::default(),
        recorded: Tally::behind(head.cursor.id()),
        requests: requests.clone(),
    };
    let publisher = Publisher {
        client: client.clone(),
        keys: keys.clone(),
        store: config.store_id.clone(),
        db: link_db.clone(),
        connectivity: connectivity.clone(),
        committed,
        heartbeat_every: Duration::from_millis(config.heartbeat_interval_ms),
        process: uuid::Uuid::new_v4().as_u64_pair().0,
    };
    let asked = Arc::new(Notify::new());
    let (store, expiry, telling) = (config.store_id.clone(), reserved.clone(), asked.clone());
    let receiver = Receiver { client, keys, store, db: link_db, connectivity, expiry, telling, executed };
    let (cors_origins, allowed_hosts) = (config.cors_origins, config.allowed_hosts);
    let tokens = config.tokens_file.as_deref().map(Tokens::open).transpose()?;
    let is_open = tokens.is_none();
    let rate_limit = config.rate_limit;
    let edge =
        Edge { cors_origins, allowed_hosts, tokens, rate_limit, requests, stop: stop.clone(), ..Edge::default() };

    let listener = port.listen()?;
    let address = listener.local_addr()?;
    if is_open && !address.ip().is_loopback() {
        tracing::warn!("anyone who reaches {address} may write here: there are no tokens, see TOKENS_FILE");
    }
    if is_new {
        tracing::warn!(
            store = %config.store_id,
            database = %path.display(),
            "this database is new and empty: right for a new store; else stop this agent and check DATABASE_PATH"
        );
    }
    tracing::info!(
        store = %config.store_id,
        database = %path.display(),
        items = head.items,
        epoch = %head.cursor.epoch,
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
    tasks.add_on(&link, "publisher", publisher.run(stop.clone()));
    tasks.add_on(&link, "receiver", receiver.run(stop.clone()));
    tasks.add_on(&aside, "maintenance", maintenance::run(db.clone(), stop.clone()));
    tasks.add_on(&aside, "expiry", expiry::run(db.clone(), reserved, stop.clone()));
    tasks.add_on(&aside, "telling", telling::run(db.clone(), asked, stop.clone()));
    tasks.add_on(&aside, "indexing", indexing::run(db, stop.clone()));
    let inspection = runtime::sqlite::inspect_daily(path.clone());
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
        runtime::sqlite::note_damage(&path, error.chain());
    }
    ended
}
