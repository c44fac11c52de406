//! The acts. Each does one thing to the running stores and then checks what was promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use super::tills::{ESPRESSO, Tally, WATER, shopper, till};
use super::{Screen, Stage};
use crate::data::{Set, checksum};
use crate::http::Client;
use crate::process::{try_wait, wait};

/// Espresso, and water, on each store's shelf at the start.
const ESPRESSO_STOCK: i64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A play under way.
pub(crate) struct Show {
    pub(crate) stage: Stage,
    pub(crate) stop: Arc<AtomicBool>,
    set: Set,
    tally: Arc<Tally>,
    play: Duration,
    tills: Vec<JoinHandle<()>>,
    shoppers: Vec<JoinHandle<()>>,
    shopping: Arc<AtomicBool>,
    rushes: usize,
}

impl Show {
    pub(crate) fn new(stage: Stage, set: Set, stop: Arc<AtomicBool>, play: Duration) -> Self {
        Self {
            stage,
            stop,
            set,
            tally: Arc::default(),
            play,
            tills: Vec::new(),
            shoppers: Vec::new(),
            shopping: Arc::default(),
            rushes: 0,
        }
    }

    /// All acts, in order.
    pub(crate) fn play(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        self.open(screen)?;
        let acts: [fn(&mut Self, &mut Screen) -> anyhow::Result<()>; 6] =
            [Self::sell, Self::rush, Self::cut_off, Self::flush, Self::kill_central, Self::balance];
        for act in acts {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            // A connection that is refused says less than the log of the one that ended.
            act(self, screen).or_else(|error| self.stage.must_run().and(Err(error)))?;
        }
        Ok(())
    }

    /// Opening stock by import, then the doors open.
    fn open(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        for store in self.stage.stores() {
            let mut csv = format!("productId,name,quantity\n{ESPRESSO},Espresso (demo),{ESPRESSO_STOCK}\n");
            csv.push_str(&format!("{WATER},Water (demo),{ESPRESSO_STOCK}\n"));
            for ((_, product), quantity) in self.set.opening.iter().filter(|((of, _), _)| *of == store) {
                let name = self.set.names.get(product).map_or("", String::as_str).replace('"', "\"\"");
                csv.push_str(&format!("{product},\"{name}\",{quantity}\n"));
            }
            let answer = self.stage.store(&store).ask("POST", "/v1/import", &[], "text/csv", &csv)?;
            if answer.status != 200 || answer.body["totals"]["refused"] != 0 {
                bail!("the opening stock of {store} was refused: {}", answer.body["totals"]);
            }
        }
        self.equal(&self.stage.stores())?;
        screen.say(&format!(
            "{} items on the shelves, {} receipt lines to sell, shoppers online",
            self.set.opening.len(),
            self.set.lines.len()
        ));
        let over = self.play * 2 / 3;
        for store in self.stage.stores() {
            let lines = self.set.lines.iter().filter(|line| line.store == store).cloned().collect();
            self.tills.push(till(self.stage.port_of(&store), lines, over, self.tally.clone(), self.stop.clone()));
        }
        let (port, stores) = (self.stage.central_port, self.stage.stores());
        self.shoppers.push(shopper(port, stores, self.tally.clone(), self.shopping.clone()));
        Ok(())
    }

    /// Lets the play go on for its share of the time, showing what happens.
    fn watch(&self, screen: &mut Screen, share: u32) {
        let end = Instant::now() + self.play * share / 100;
        while Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            screen.status(&self.summary());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Figures of the moment.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} of {} receipt lines, {} online purchases confirmed",
            self.tally.lines.load(Ordering::Relaxed),
            self.set.lines.len(),
            self.tally.confirmed.load(Ordering::Relaxed)
        )
    }

    /// Sells at the till of each store, then waits until central shows that sale and its view of the store was the
    /// store's stock at some moment of the running traffic.
    fn equal(&mut self, stores: &[String]) -> anyhow::Result<()> {
        let sold = stores.iter().map(|store| Ok((store, self.stage.sell(store, WATER)?)));
        for (store, version) in sold.collect::<anyhow::Result<Vec<_>>>()? {
            try_wait(&format!("central shows a new sale of {store} and equals it"), PATIENCE, || {
                self.stage.must_run()?;
                if self.stop.load(Ordering::Relaxed) {
                    bail!("stopped");
                }
                Ok(self.stage.shows(store, WATER, version) && self.stage.is_equal(store))
            })?;
        }
        Ok(())
    }

    /// Checks all stores but one that was cut off by hand; the time is from the end of what was done to them.
    fn check_equal(&mut self, screen: &mut Screen, what: &str, since: Instant) {
        let mut stores = self.stage.stores();
        stores.retain(|store| self.is_connected(store));
        match self.equal(&stores) {
            Ok(()) => screen.check(true, &format!("{what} {}", brief(since.elapsed()))),
            Err(error) => screen.check(false, &format!("{error:#}")),
        }
    }

    fn is_connected(&self, store: &str) -> bool {
        self.stage.store(store).get("/").is_ok_and(|answer| answer.body["connected"] == true)
    }

    fn sell(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        screen.act("1", "Four stores sell at their tills, a shop sells the same units online.");
        self.watch(screen, 12);
        let since = Instant::now();
        self.check_equal(
            screen,
            "central shows a new sale of each store, and equals all four by digest, within",
            since,
        );
        Ok(())
    }

    /// Fifty units, a hundred buyers, half of them at the till.
    pub(crate) fn rush(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        let store = self.stage.stores().first().context("a store")?.clone();
        screen.act("2", &format!("50 units, 100 buyers at once, half at {store}'s till and half online."));
        self.rushes += 1;
        let product = format!("demo-last-{}", self.rushes);
        let item = json!({"productId": product, "name": "The last fifty (demo)", "quantity": 50});
        self.stage.store(&store).post("/v1/inventory", &[], &item)?;
        let path = format!("/v1/inventory/{store}/{product}");
        let mut central = self.stage.central();
        wait("central knows the product", PATIENCE, || central.get(&path).is_ok_and(|found| found.status == 200))?;
        let buyers: Vec<JoinHandle<anyhow::Result<bool>>> = (0..100)
            .map(|number| {
                let (port, path) = if number % 2 == 0 {
                    (self.stage.port_of(&store), format!("/v1/purchase/{product}"))
                } else {
                    (self.stage.central_port, format!("/v1/purchase/{store}/{product}"))
                };
                std::thread::spawn(move || {
                    let answer = Client::new(port).post(&path, &[("prefer", "wait=30")], &json!({"quantity": 1}))?;
                    match answer.status {
                        200 => Ok(true),
                        409 => Ok(false),
                        status => bail!("{status}: {}", answer.body),
                    }
                })
            })
            .collect();
        let mut got = 0;
        for buyer in buyers {
            got += usize::from(buyer.join().map_err(|_| anyhow::anyhow!("a buyer panicked"))??);
        }
        let left = self.stage.store(&store).get(&format!("/v1/inventory/{product}"))?.body["quantity"].clone();
        screen.check(got == 50 && left == 0, &format!("exactly {got} of 100 got one, {left} left on the shelf"));
        Ok(())
    }

    fn cut_off(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        let store = self.stage.stores().last().context("a store")?.clone();
        screen.act("3", &format!("{store} is cut off from the network."));
        let mut agent = self.stage.store(&store);
        let head = |agent: &mut Client| agent.get("/v1/status").map(|answer| answer.body["head"].as_i64().unwrap_or(0));
        agent.post("/v1/disconnected", &[], &json!({}))?;
        let before = head(&mut agent)?;
        let path = format!("/v1/purchase/{store}/{ESPRESSO}");
        let mut central = self.stage.central();
        let asked = Instant::now();
        let refused = wait("central refuses", PATIENCE, || {
            let Ok(answer) = central.post(&path, &[], &json!({"quantity": 1})) else { return false };
            self.tally.bought(&answer);
            answer.status == 503
        });
        let after = asked.elapsed().as_millis();
        screen.check(
            refused.is_ok(),
            &format!("central says 503 store_unavailable after {after} ms, no unit sold blind"),
        );
        self.watch(screen, 8);
        let sale = Instant::now();
        self.stage.sell(&store, WATER)?;
        let took = sale.elapsed();
        let status = agent.get("/v1/status")?.body;
        let (sold, backlog) = (head(&mut agent)? - before, status["backlog"].as_i64().unwrap_or(0));
        screen.check(
            sold > 0 && backlog > 0,
            &format!("it sold on: {sold} events, backlog {backlog}, the last sale in {}", brief(took)),
        );
        agent.post("/v1/connected", &[], &json!({}))?;
        let since = Instant::now();
        self.check_equal(
            screen,
            "back: central shows what each store sold after it, and equals them again, after",
            since,
        );
        Ok(())
    }

    /// Everything in Redis is lost while everybody sells.
    pub(crate) fn flush(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        screen.act("4", "FLUSHALL: Redis loses everything, in full traffic.");
        self.stage.flush_redis()?;
        let since = Instant::now();
        self.check_equal(screen, "central shows what each store sold after it, and equals them again, after", since);
        self.watch(screen, 5);
        Ok(())
    }

    /// `kill -9` of central while everybody sells.
    pub(crate) fn kill_central(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        screen.act("5", "kill -9 of central, in full traffic.");
        self.stage.kill_central()?;
        let since = Instant::now();
        self.check_equal(
            screen,
            "restarted on its database; shows what each store sold after it, and equals them again, after",
            since,
        );
        self.watch(screen, 5);
        Ok(())
    }

    fn balance(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        screen.act("6", "The balance.");
        while self.tills.iter().any(|till| !till.is_finished()) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            screen.status(&self.summary());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.shopping.store(true, Ordering::Relaxed);
        for load in self.tills.drain(..).chain(self.shoppers.drain(..)) {
            load.join().map_err(|_| anyhow::anyhow!("a part of the load panicked"))?;
        }
        self.equal(&self.stage.stores())?;
        let stock = self.stock()?;
        let data = stock.iter().filter(|((_, product), _)| !product.starts_with("demo-"));
        let sum = checksum(data.map(|((store, product), quantity)| format!("{store},{product},{quantity}")));
        let source = if self.set.is_expected { "expected.json" } else { "a replay of these stores' lines" };
        let (lines, refused) = (self.tally.lines.load(Ordering::Relaxed), self.tally.refused.load(Ordering::Relaxed));
        screen.check(refused == 0, &format!("{lines} receipt lines answered, {refused} refused"));
        let met = if sum == self.set.closing { "met" } else { "NOT met" };
        screen.check(
            sum == self.set.closing,
            &format!(
                "closing stock at central: expected figures {met} (SHA-256 {}…, from {source}): lost 0, twice 0",
                &sum[..12]
            ),
        );
        let (confirmed, open) = self.confirmed()?;
        let espresso: i64 =
            stock.iter().filter(|((_, product), _)| product == ESPRESSO).map(|(_, quantity)| quantity).sum();
        let taken = ESPRESSO_STOCK * i64::try_from(self.stage.stores().len()).unwrap_or(0) - espresso;
        screen.check(
            taken == confirmed && open == 0,
            &format!("online: {confirmed} confirmed = {taken} units taken, {open} still open: oversold 0"),
        );
        let negative = stock.values().filter(|quantity| **quantity < 0).count();
        let stores = self.stage.stores().len();
        screen.check(negative == 0, &format!("no negative stock; digests of {stores} stores equal"));
        Ok(())
    }

    /// Units confirmed to shoppers: those told at once, and those whose outcome came later.
    fn confirmed(&self) -> anyhow::Result<(i64, usize)> {
        let mut central = self.stage.central();
        let (mut confirmed, mut open) = (self.tally.confirmed.load(Ordering::Relaxed), 0);
        for id in self.tally.open.lock().expect("no shopper panics with it").iter() {
            match central.get(&format!("/v1/purchases/{id}"))?.body["status"].as_str() {
                Some("confirmed") => confirmed += 1,
                Some("pending") | None => open += 1,
                Some(_) => {}
            }
        }
        Ok((confirmed, open))
    }

    /// Central's whole view.
    fn stock(&self) -> anyhow::Result<BTreeMap<(String, String), i64>> {
        let (mut central, mut cursor, mut stock) = (self.stage.central(), String::new(), BTreeMap::new());
        loop {
            let page = central.get(&format!("/v1/inventory?size=1000&discontinued=true{cursor}"))?.body;
            for item in page["items"].as_array().into_iter().flatten() {
                let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
                stock.insert((text("storeId"), text("productId")), item["quantity"].as_i64().unwrap_or(0));
            }
            let Some(next) = page["nextCursor"].as_str() else { return Ok(stock) };
            cursor = format!("&cursor={next}");
        }
    }

    /// Where to look, and what to type.
    pub(crate) fn addresses(&self, screen: &mut Screen) {
        let stores = self.stage.stores();
        let Some(store) = stores.first() else { return };
        let (central, port) = (self.stage.central_port, self.stage.port_of(store));
        screen.act("", "It stays live.");
        screen.say(&format!("central    http://127.0.0.1:{central}/"));
        for store in &stores {
            screen.say(&format!("store {store:<4} http://127.0.0.1:{}/", self.stage.port_of(store)));
        }
        let json = "-H 'Content-Type: application/json'";
        screen.say("");
        screen.say(&format!("curl -s http://127.0.0.1:{central}/v1/availability/{ESPRESSO}"));
        screen.say(&format!("curl -s {json} -d '{{\"quantity\":1}}' http://127.0.0.1:{port}/v1/purchase/{ESPRESSO}"));
        screen.say(&format!(
            "curl -s {json} -d '{{\"quantity\":1}}' http://127.0.0.1:{central}/v1/purchase/{store}/{ESPRESSO}"
        ));
    }

    /// Cuts the last store off, or lets it back.
    pub(crate) fn toggle(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        let store = self.stage.stores().last().context("a store")?.clone();
        let mut agent = self.stage.store(&store);
        let connected = self.is_connected(&store);
        let path = if connected { "/v1/disconnected" } else { "/v1/connected" };
        agent.post(path, &[], &json!({}))?;
        screen.say(&format!("{store} is {}", if connected { "cut off" } else { "connected again" }));
        Ok(())
    }

    /// Stops the load; everything else stops with the stage.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shopping.store(true, Ordering::Relaxed);
        for load in self.tills.into_iter().chain(self.shoppers) {
            // A part of the load that panicked has said so.
            let _ = load.join();
        }
    }
}

/// A time as people say it.
fn brief(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
