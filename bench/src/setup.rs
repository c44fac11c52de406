//! What is measured: real daemons and Redis, with stock, and whether that stock is right at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::tests::{Daemon, World};
use anyhow::{Context, ensure};
use axum::http::HeaderMap;
use protocol::link::Epoch;
use protocol::wire::restore::Question;
use reqwest::Method;
use serde_json::{Value, json};
use store_agent::operators::restore::ask::ask;
use tokio::runtime::{Builder, Runtime};

use crate::http;
use crate::load::Load;
use crate::meter::Meter;

/// Units of each item at the start: nothing is ever sold out.
pub(crate) const UNITS: i64 = 1_000_000;
/// For central to have all that a store has said, however slow the machine.
const CONVERGED: Duration = Duration::from_secs(600);

/// Items of an import: so many that it takes some seconds, since the client waits 40 s for an answer.
const IMPORTED_AT_ONCE: usize = 100_000;
/// Between two looks at what takes long.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stock of a store by product.
pub(crate) type Stock = BTreeMap<String, i64>;

/// Redis, central and stores.
pub(crate) struct Setup {
    world: World,
    /// Of the world's own tasks; load and limits have threads of their own.
    runtime: Runtime,
    items: u64,
    sold: i64,
    /// Loads so far: the first part of each idempotency key.
    loads: u64,
}

/// The store of whoever measures one.
pub(crate) const STORE: &str = "s1";

/// The product of this number.
pub(crate) fn product_id(number: u64) -> String {
    format!("product-{number:06}")
}

/// The product that the request of this number is about: all of them in an order without pattern.
pub(crate) fn product(number: u64, items: u64) -> String {
    product_id((number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % items)
}

/// The request of a till that sells a unit; the same for a limit's server.
pub(crate) fn sale(request: &mut Vec<u8>, product: &str, load: u64, number: u64) {
    http::post(
        request,
        format_args!("/v1/purchase/{product}"),
        format_args!("sale-{load}-{number}"),
        r#"{"quantity":1}"#,
    );
}

/// Stock as a file to import.
pub(crate) fn csv<'a>(stock: impl IntoIterator<Item = (&'a String, &'a i64)>) -> String {
    let lines = stock.into_iter().map(|(product, quantity)| format!("{product},{quantity}\n"));
    std::iter::once("productId,quantity\n".to_owned()).chain(lines).collect()
}

/// The files of databases in a folder.
fn databases(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(".db")) {
            files.push(path);
        }
    }
    Ok(files)
}

impl Setup {
    /// One store with so many items, which central knows.
    pub(crate) fn one_store(items: u64) -> anyhow::Result<Self> {
        let mut setup = Self::start(&[STORE])?;
        setup.items = items;
        let stock = (0..items).map(|number| (product_id(number), UNITS)).collect();
        setup.import(STORE, &stock)?;
        setup.converge();
        Ok(setup)
    }

    /// The same from databases that were made before, in this folder.
    pub(crate) fn from_copy(folder: &Path, items: u64) -> anyhow::Result<Self> {
        let mut setup = Self::start(&[])?;
        setup.items = items;
        setup.stop_central();
        for file in databases(setup.dir())? {
            std::fs::remove_file(file)?;
        }
        for file in databases(folder)? {
            std::fs::copy(&file, setup.dir().join(file.file_name().context("a file has a name")?))?;
        }
        setup.start_central();
        setup.world.add_store(STORE);
        setup.runtime.block_on(async {
            setup.world.up(&Daemon::Store(STORE.to_owned())).await;
            setup.world.online(STORE).await;
        });
        setup.converge();
        Ok(setup)
    }

    /// Stops central and the one store in order, and moves their databases into this folder.
    pub(crate) fn into_files(mut self, folder: &Path) -> anyhow::Result<()> {
        for daemon in [Daemon::Store(STORE.to_owned()), Daemon::Central] {
            let code = self.world.terminate(&daemon);
            ensure!(code == Some(0), "{daemon:?} ended with {code:?}");
        }
        for file in databases(self.dir())? {
            std::fs::rename(&file, folder.join(file.file_name().context("a file has a name")?))?;
        }
        Ok(())
    }

    /// Stores without items.
    pub(crate) fn start(stores: &[&str]) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let world = runtime.block_on(World::with(stores));
        Ok(Self { world, runtime, items: 0, sold: 0, loads: 0 })
    }

    /// Runs what waits, on the thread that asks.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Where files of a limit go: on the same disk.
    pub(crate) fn dir(&self) -> &Path {
        self.world.dir()
    }

    /// The same Redis for a limit, with other keys.
    pub(crate) fn redis_url(&self) -> String {
        self.world.redis_url()
    }

    /// Where Redis listens.
    pub(crate) fn redis_port(&self) -> u16 {
        self.world.redis_port()
    }

    /// Memory that Redis needs for all that it keeps of a store, bytes.
    pub(crate) fn redis_bytes_of(&self, store: &str) -> anyhow::Result<u64> {
        let mut redis = redis::Client::open(self.redis_url())?.get_connection()?;
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("shelf:{{{store}}}:*")).query(&mut redis)?;
        ensure!(!keys.is_empty(), "Redis keeps nothing of {store}");
        let mut all = 0;
        for key in keys {
            // One that has lived its life meanwhile has none.
            let bytes: Option<u64> =
                redis::cmd("MEMORY").arg("USAGE").arg(&key).arg("SAMPLES").arg(0).query(&mut redis)?;
            all += bytes.unwrap_or_default();
        }
        Ok(all)
    }

    /// How many items the store has.
    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// Where central listens.
    pub(crate) fn central(&self) -> u16 {
        self.world.central_port()
    }

    /// Where the agent of a store listens.
    pub(crate) fn agent(&self, store: &str) -> u16 {
        self.world.port_of(store)
    }

    /// A number that no other load of this setup has.
    pub(crate) fn next_load(&mut self) -> u64 {
        self.loads += 1;
        self.loads
    }

    /// The one store's tills, for a server that knows the same route.
    pub(crate) fn sales(&mut self, port: u16) -> Load {
        self.sales_of(port, self.items)
    }

    /// The tills of a store with so many items.
    pub(crate) fn sales_of(&mut self, port: u16, items: u64) -> Load {
        let load = self.next_load();
        Load::new(port, move |number, request| sale(request, &product(number, items), load, number))
    }

    /// Notes what was sold, for the check at the end.
    pub(crate) fn sold(&mut self, units: u64) -> anyhow::Result<()> {
        self.sold += i64::try_from(units)?;
        Ok(())
    }

    /// What a daemon costs.
    pub(crate) fn meter(&mut self, daemon: &Daemon) -> Meter {
        Meter::of(self.world.running(daemon).id())
    }

    /// Both daemons, from the one store's side to central's.
    pub(crate) fn meters(&mut self) -> [Meter; 2] {
        [self.meter(&Daemon::Store(STORE.to_owned())), self.meter(&Daemon::Central)]
    }

    /// Waits until central has all that the stores have said, with equal digests.
    pub(crate) fn converge(&self) {
        self.runtime.block_on(self.world.converged(CONVERGED));
    }

    /// SIGKILL for central.
    pub(crate) fn stop_central(&mut self) {
        self.world.kill(&Daemon::Central);
    }

    /// Starts it again.
    pub(crate) fn start_central(&mut self) {
        self.runtime.block_on(self.world.restart(&Daemon::Central));
    }

    /// SIGKILL for a daemon; how long it takes from its start until it is ready.
    pub(crate) fn restart(&mut self, daemon: &Daemon) -> Duration {
        self.world.kill(daemon);
        let begin = Instant::now();
        self.runtime.block_on(self.world.restart(daemon));
        begin.elapsed()
    }

    /// SIGKILL for the one store's agent.
    pub(crate) fn stop_agent(&mut self) {
        self.world.kill(&Daemon::Store(STORE.to_owned()));
    }

    /// Starts it again.
    pub(crate) fn start_agent(&mut self) {
        self.runtime.block_on(self.world.restart(&Daemon::Store(STORE.to_owned())));
    }

    /// Asks central for all that it knows of the one store, whose agent does not run, and reads it to its end.
    pub(crate) fn ask_restore(&self) -> anyhow::Result<()> {
        let central = format!("http://127.0.0.1:{}", self.central());
        let question = Question { epoch: Epoch::NONE, log: Vec::new() };
        let store = STORE.parse()?;
        self.runtime.block_on(ask(&central, HeaderMap::new(), &store, &question)).map(drop)
    }

    /// Writes a backup of the one store's database, then one of central's. Both run.
    pub(crate) fn back_up(&self) -> anyhow::Result<()> {
        let of_store = self.world.database(STORE).display().to_string();
        let of_central = self.world.database("central").display().to_string();
        let (store, central) = (["--store-id", STORE, "--database-path", &of_store], ["--database-path", &of_central]);
        for (program, database) in [("store-agent", &store[..]), ("central", &central[..])] {
            let to = self.world.dir().join(format!("{program}-backup.db")).display().to_string();
            let words = [&["backup", "--to", &to], database].concat();
            let (done, said) = self.runtime.block_on(self.world.tool(program, &words));
            ensure!(done, "{program} backup: {said}");
        }
        Ok(())
    }

    /// Has the one store's database, whose agent does not run, take over what central knows.
    pub(crate) fn restore_agent(&self) -> anyhow::Result<()> {
        let database = self.world.database(STORE).display().to_string();
        let words = ["restore", "--store-id", STORE, "--database-path", &database];
        let (done, said) = self.runtime.block_on(self.world.tool("store-agent", &words));
        ensure!(done, "store-agent restore: {said}");
        Ok(())
    }

    /// One more store with so many items, which central knows.
    pub(crate) fn add_store(&mut self, store: &str, items: u64) -> anyhow::Result<()> {
        self.world.add_store(store);
        self.runtime.block_on(async {
            self.world.up(&Daemon::Store(store.to_owned())).await;
            self.world.online(store).await;
        });
        self.import(store, &(0..items).map(|number| (format!("product-{number:06}"), UNITS)).collect())?;
        self.converge();
        Ok(())
    }

    /// The same, with a way of its own to Redis, which begins at this port.
    pub(crate) fn add_store_through(&mut self, store: &str, items: u64, redis_port: u16) -> anyhow::Result<()> {
        let url = self.world.redis_url_of(store).replace(&self.redis_port().to_string(), &redis_port.to_string());
        self.world.store_args = vec![format!("--redis-url={url}")];
        let added = self.add_store(store, items);
        self.world.store_args.clear();
        added
    }

    /// Asks central for something that needs no body.
    pub(crate) fn post_to_central(&self, path: &str, status: u16) -> anyhow::Result<()> {
        let answer = self.runtime.block_on(self.world.central().post(path, json!({})));
        ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// Waits until something is so, and looks seldom enough to cost nothing.
    pub(crate) fn wait(&self, what: &str, mut look: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !look()? {
            ensure!(begin.elapsed() < CONVERGED, "{what}: not within {CONVERGED:?}");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// SIGKILL for Redis.
    pub(crate) fn stop_redis(&mut self) {
        self.world.kill_redis();
    }

    /// Starts it again, empty.
    pub(crate) fn start_redis(&mut self) {
        self.runtime.block_on(self.world.start_redis());
    }

    /// Cuts a store off from Redis, or connects it again.
    pub(crate) fn connect(&self, store: &str, connected: bool) -> anyhow::Result<()> {
        let path = if connected { "/v1/connected" } else { "/v1/disconnected" };
        let answer = self.runtime.block_on(self.world.store(store).post(path, json!({})));
        ensure!(answer.status == 200 && answer.body["connected"] == connected, "{path}: {}", answer.body);
        Ok(())
    }

    /// The last entry of a store's ledger.
    pub(crate) fn head(&self, store: &str) -> anyhow::Result<u64> {
        let status = self.runtime.block_on(self.world.store(store).get("/v1/status"));
        status.body["head"].as_u64().context("a store's head")
    }

    /// Waits until central has applied this entry of a store.
    pub(crate) fn applied(&self, store: &str, head: u64) -> anyhow::Result<()> {
        let mut caller = http::Caller::connect(self.central())?;
        let mut request = Vec::new();
        http::get(&mut request, format_args!("/v1/stores/{store}"));
        let begin = Instant::now();
        loop {
            let body: Value = serde_json::from_slice(caller.call(&request, 200)?.body)?;
            if body["applied"].as_u64().is_some_and(|applied| applied >= head) {
                return Ok(());
            }
            ensure!(begin.elapsed() < CONVERGED, "central has not applied {head}: {body}");
            // Often enough for the figures, seldom enough to cost nothing.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Opening stock of a store.
    pub(crate) fn import(&self, store: &str, stock: &Stock) -> anyhow::Result<()> {
        let headers = [("content-type", "text/csv")];
        let agent = self.world.store(store);
        let lines: Vec<(&String, &i64)> = stock.iter().collect();
        for part in lines.chunks(IMPORTED_AT_ONCE) {
            let csv = csv(part.iter().copied());
            let answer = self.block_on(agent.send(Method::POST, "/v1/import", &headers, csv.into_bytes()));
            ensure!(answer.status == 200, "import at {store}: {}", answer.body);
            let created = answer.body["totals"]["created"].as_u64();
            ensure!(created == Some(part.len() as u64), "import at {store}: {}", answer.body["totals"]);
        }
        Ok(())
    }

    /// A store's whole stock, as it says.
    pub(crate) fn stock(&self, store: &str) -> anyhow::Result<Stock> {
        self.stock_at(self.agent(store))
    }

    /// The whole stock of the store whose agent listens on this port.
    pub(crate) fn stock_at(&self, agent: u16) -> anyhow::Result<Stock> {
        let url = format!("http://127.0.0.1:{agent}/v1/export");
        let text = self.runtime.block_on(async {
            reqwest::Client::builder().no_proxy().build()?.get(url).send().await?.error_for_status()?.text().await
        })?;
        let mut lines = text.lines();
        let titles: Vec<&str> = lines.next().context("an export has titles")?.split(',').collect();
        let column = |name| titles.iter().position(|title| *title == name).context("a column is missing");
        let (product, quantity) = (column("productId")?, column("quantity")?);
        let mut stock = Stock::new();
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let (Some(product), Some(quantity)) = (cells.get(product), cells.get(quantity)) else {
                anyhow::bail!("a line of an export: {line}");
            };
            stock.insert((*product).to_owned(), quantity.parse()?);
        }
        Ok(stock)
    }

    /// The one store has what the answers add up to, and central has the same.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.converge();
        self.check_stock(STORE, self.items, self.sold)
    }

    /// So many units of each item, but for those that were sold, are in a store.
    pub(crate) fn check_stock(&self, store: &str, items: u64, sold: i64) -> anyhow::Result<()> {
        let units: i64 = self.stock(store)?.values().sum();
        let expected = i64::try_from(items)? * UNITS - sold;
        ensure!(units == expected, "{units} units on the shelves of {store}, but the answers add up to {expected}");
        Ok(())
    }
}
