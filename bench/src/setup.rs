//! What is measured: real daemons and Redis, with stock, and whether that stock is right at the end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use ::tests::{Daemon, World};
use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::http;
use crate::load::Load;

/// Units of each item at the start: nothing is ever sold out.
const UNITS: i64 = 1_000_000;
/// For central to have all that a store has said, however slow the machine.
const CONVERGED: Duration = Duration::from_secs(600);

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

/// The product that the request of this number is about: all of them in an order without pattern.
pub(crate) fn product(number: u64, items: u64) -> String {
    format!("product-{:06}", (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % items)
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

impl Setup {
    /// One store with so many items, which central knows.
    pub(crate) fn one_store(items: u64) -> anyhow::Result<Self> {
        let mut setup = Self::start(&[STORE])?;
        setup.items = items;
        let stock = (0..items).map(|number| (format!("product-{number:06}"), UNITS)).collect();
        setup.import(STORE, &stock)?;
        setup.converge();
        Ok(setup)
    }

    /// Stores without items.
    pub(crate) fn start(stores: &[&str]) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let world = runtime.block_on(World::with(stores));
        Ok(Self { world, runtime, items: 0, sold: 0, loads: 0 })
    }

    /// Where files of a limit go: on the same disk.
    pub(crate) fn dir(&self) -> &Path {
        self.world.dir()
    }

    /// The same Redis for a limit, with other keys.
    pub(crate) fn redis_url(&self) -> String {
        self.world.redis_url()
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
        let (load, items) = (self.next_load(), self.items);
        Load::new(port, move |number, request| sale(request, &product(number, items), load, number))
    }

    /// Notes what was sold, for the check at the end.
    pub(crate) fn sold(&mut self, units: u64) -> anyhow::Result<()> {
        self.sold += i64::try_from(units)?;
        Ok(())
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

    /// Cuts the one store off from Redis, or connects it again.
    pub(crate) fn connect(&self, connected: bool) -> anyhow::Result<()> {
        let path = if connected { "/v1/connected" } else { "/v1/disconnected" };
        let answer = self.runtime.block_on(self.world.store(STORE).post(path, json!({})));
        ensure!(answer.status == 200 && answer.body["connected"] == connected, "{path}: {}", answer.body);
        Ok(())
    }

    /// The last entry of the one store's ledger.
    pub(crate) fn head(&self) -> anyhow::Result<u64> {
        let status = self.runtime.block_on(self.world.store(STORE).get("/v1/status"));
        status.body["head"].as_u64().context("a store's head")
    }

    /// Waits until central has applied this entry of the one store.
    pub(crate) fn applied(&self, head: u64) -> anyhow::Result<()> {
        let mut caller = http::Caller::connect(self.central())?;
        let mut request = Vec::new();
        http::get(&mut request, format_args!("/v1/stores/{STORE}"));
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
        let mut csv = "productId,quantity\n".to_owned();
        for (product, quantity) in stock {
            writeln!(csv, "{product},{quantity}")?;
        }
        let headers = [("content-type", "text/csv")];
        let agent = self.world.store(store);
        let answer = self.runtime.block_on(agent.send(Method::POST, "/v1/import", &headers, csv.into_bytes()));
        ensure!(answer.status == 200, "import at {store}: {}", answer.body);
        let created = answer.body["totals"]["created"].as_u64();
        ensure!(created == Some(stock.len() as u64), "import at {store}: {}", answer.body["totals"]);
        Ok(())
    }

    /// A store's whole stock, as it says.
    pub(crate) fn stock(&self, store: &str) -> anyhow::Result<Stock> {
        let url = format!("http://127.0.0.1:{}/v1/export", self.agent(store));
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
        let units: i64 = self.stock(STORE)?.values().sum();
        let expected = i64::try_from(self.items)? * UNITS - self.sold;
        ensure!(units == expected, "{units} units on the shelves, but the answers add up to {expected}");
        Ok(())
    }
}
