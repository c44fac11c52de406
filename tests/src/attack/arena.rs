//! The world of one attack: two stores and central, who they must go on serving, and what was found wrong.

use std::fmt::Display;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use super::Options;
use super::probes::{Figures, Phase, Probes, Size, Targets, seconds};
use super::report::Log;
use crate::{Builder, Client, Daemon, World};

/// The store whose till sells, and whose agent is attacked.
pub(super) const TILL: &str = "s1";
/// The store at which the online buyer buys; nobody attacks it.
pub(super) const ONLINE: &str = "s2";
/// A store in the attacker's hands.
pub(super) const HOSTILE: &str = "s3";

const SOON: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Findings of one case that are kept; one cause often shows often.
const FINDINGS_MAX: usize = 12;
/// Sales and purchases in a row that tell that service is back.
const BACK_AFTER: u64 = 5;

/// How hard it is tried, and how exactly it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Release build, a few minutes, times in milliseconds.
    Full,
    /// Any build, about a minute. Continuous integration has noisy neighbours: conditions, hardly any milliseconds.
    Quick,
}

impl Form {
    /// So many in the full form, so many in the quick one.
    pub(super) fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }

    /// How long an attack goes on.
    pub(super) fn seconds(self, full: u64, quick: u64) -> Duration {
        Duration::from_secs(self.of(full, quick))
    }
}

/// What must hold during and after an attack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// 99 of 100 sales take at most so long.
    pub(super) sale_p99_ms: f64,
    /// 99 of 100 purchases at another store take at most so long; none: they cannot go on under this attack.
    pub(super) purchase_p99_ms: Option<f64>,
    /// Memory of each process above that of the calm, at most, MiB.
    pub(super) growth_mib: u64,
    /// Memory comes back to so many times that of the calm ...
    pub(super) memory_factor: f64,
    /// ... or to so much above it, MiB; the greater one counts.
    pub(super) memory_slack_mib: u64,
    /// ... within this time.
    pub(super) memory_within: Duration,
    /// Sales and purchases are well again within this time.
    pub(super) service_within: Duration,
    /// Central equals the stores within this time once nobody sells any more.
    pub(super) equal_within: Duration,
}

impl Bounds {
    pub(super) fn of(form: Form) -> Self {
        Self {
            sale_p99_ms: form.of(50.0, 2_000.0),
            purchase_p99_ms: Some(form.of(250.0, 4_000.0)),
            growth_mib: form.of(96, 192),
            memory_factor: form.of(1.5, 2.0),
            memory_slack_mib: form.of(24, 64),
            memory_within: Duration::from_secs(60),
            service_within: form.seconds(5, 20),
            equal_within: form.seconds(10, 30),
        }
    }

    fn memory_kib(&self, base_kib: u64) -> u64 {
        let by_factor = (base_kib as f64 * self.memory_factor) as u64;
        by_factor.max(base_kib + (self.memory_slack_mib << 10))
    }
}

/// One attack's world.
pub(super) struct Arena {
    pub(super) world: World,
    pub(super) form: Form,
    pub(super) seed: u64,
    /// Only this one of the mutated requests.
    pub(super) request: Option<u64>,
    name: &'static str,
    log: Log,
    pub(super) bounds: Bounds,
    /// What there is to say when times and sizes do not say it.
    pub(super) note: String,
    pub(super) findings: Vec<String>,
    /// How long service and memory took to be well again, s.
    pub(super) recovered: Option<f64>,
    /// What the probes saw.
    pub(super) figures: Option<Figures>,
    probes: Option<Probes>,
}

impl Arena {
    /// Redis, central and two stores with something to sell.
    pub(super) async fn start(name: &'static str, form: Form, options: &Options, log: Log) -> anyhow::Result<Self> {
        let world = Builder { heartbeat_ms: 2_000, max_age_ms: 10_000, sweep_ms: 1_000 }.start(&[TILL, ONLINE]).await;
        let arena = Self {
            world,
            form,
            seed: options.seed,
            request: options.request,
            name,
            log,
            bounds: Bounds::of(form),
            note: String::new(),
            findings: Vec::new(),
            recovered: None,
            figures: None,
            probes: None,
        };
        for store in [TILL, ONLINE] {
            let tea = json!({"productId": "tea", "name": "Tea", "quantity": 900_000_000});
            arena.world.store(store).post("/v1/inventory", tea).await.expect(201);
        }
        arena.wait("central knows the stock", SOON, async || arena.are_equal().await).await?;
        Ok(arena)
    }

    /// The agent that is attacked.
    pub(super) fn agent(&self) -> Daemon {
        Daemon::Store(TILL.into())
    }

    /// Ports of both servers: agent, central.
    pub(super) fn ports(&self) -> [u16; 2] {
        [self.world.port_of(TILL), self.world.central_port()]
    }

    /// A third store that was well known, and whose agent is dead now: whatever its keys hold is the attacker's.
    pub(super) async fn hostile_store(&mut self) -> anyhow::Result<()> {
        self.world.add_store(HOSTILE);
        let daemon = Daemon::Store(HOSTILE.into());
        self.world.up(&daemon).await;
        self.world.online(HOSTILE).await;
        let tea = json!({"productId": "tea", "quantity": 1_000});
        self.world.store(HOSTILE).post("/v1/inventory", tea).await.expect(201);
        let central = self.world.central();
        self.wait("central knows the hostile store's stock", SOON, async || {
            let item = answer(&central, &format!("/v1/inventory/{HOSTILE}/tea")).await?;
            if item["quantity"] == 1_000 { Ok(()) } else { Err(item.to_string()) }
        })
        .await?;
        self.world.kill(&daemon);
        Ok(())
    }

    /// The attacker's connection to Redis. Making and freeing hundreds of megabytes takes Redis its time.
    pub(super) async fn redis(&self) -> anyhow::Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        let client = redis::Client::open(self.world.redis_url())?;
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// A till and a buyer begin, and everything is measured from now on: first in the calm, then under attack.
    pub(super) async fn watch(&mut self) -> anyhow::Result<()> {
        let targets = Targets {
            agent: (self.world.port_of(TILL), self.world.running(&Daemon::Store(TILL.into())).id()),
            central: (self.world.central_port(), self.world.running(&Daemon::Central).id()),
        };
        let probes = Probes::start(targets)?;
        tokio::time::sleep(Duration::from_millis(self.form.of(2_500, 800))).await;
        let calm = probes.figures();
        anyhow::ensure!(calm.sales[0].done > 0 && calm.purchases[0].done > 0, "nothing is sold in the calm: {calm:?}");
        probes.enter(Phase::Attack);
        self.probes = Some(probes);
        self.log.say(self.name, "the attack begins");
        Ok(())
    }

    /// Something that is not as it should be.
    pub(super) fn find(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.findings.len() < FINDINGS_MAX && !self.findings.contains(&what) {
            self.findings.push(what);
        }
    }

    /// A finding unless it holds.
    pub(super) fn expect(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.find(otherwise);
        }
    }

    /// The attack is over: everything must be well again within the bounds, which are then judged.
    pub(super) async fn recover(&mut self) {
        let over = Instant::now();
        let Some(probes) = self.probes.take() else { return };
        probes.enter(Phase::After);
        self.log.say(self.name, "the attack is over");
        let bounds = self.bounds;
        let service = wait_until(bounds.service_within, async || {
            let figures = probes.figures();
            let [sales, purchases] = [&figures.sales[2], &figures.purchases[2]];
            if sales.done >= BACK_AFTER && purchases.done >= BACK_AFTER { Ok(()) } else { Err(refusals(&figures)) }
        });
        if let Err(seen) = service.await {
            self.find(format!("sales and purchases are not back within {:?}: {seen}", bounds.service_within));
        }
        for (name, daemon) in [("the agent", self.agent()), ("central", Daemon::Central)] {
            if let Some(status) = self.world.running(&daemon).ended() {
                self.find(format!("{name} ended: {status}"));
            }
        }
        let memory = wait_until(bounds.memory_within.saturating_sub(over.elapsed()), async || {
            let figures = probes.figures();
            let large = |size: &Size| size.now_kib > bounds.memory_kib(size.base_kib);
            if large(&figures.agent) || large(&figures.central) { Err("") } else { Ok(()) }
        });
        let back = memory.await.is_ok();
        self.recovered = Some(seconds(over));
        let figures = probes.figures();
        self.judge(&figures, back);
        // Who sells all the time is never quite equal.
        let last = tokio::task::spawn_blocking(move || drop(probes)).await;
        self.expect(last.is_ok(), "the probes panicked");
        if let Err(seen) = wait_until(bounds.equal_within, async || self.are_equal().await).await {
            self.find(format!("central is not equal to the stores within {:?}: {seen}", bounds.equal_within));
        }
        self.figures = Some(figures);
    }

    fn judge(&mut self, figures: &Figures, memory_is_back: bool) {
        let bounds = self.bounds;
        let mut slow = Vec::new();
        for (what, times, bound) in [
            ("sale", &figures.sales, Some(bounds.sale_p99_ms)),
            ("purchase", &figures.purchases, bounds.purchase_p99_ms),
        ] {
            let Some(bound) = bound else { continue };
            // A machine that is slow in the calm is no fault of the attacked.
            let bound = bound.max(times[0].p99_ms().unwrap_or_default() * 4.0);
            match times[1].p99_ms() {
                Some(p99) if p99 <= bound => {}
                Some(p99) => slow.push(format!(
                    "{what}: p99 {p99:.0} ms > {bound:.0} ms ({} refused: {})",
                    times[1].refused, times[1].last_refusal
                )),
                None => slow.push(format!("no {what} went through: {}", times[1].last_refusal)),
            }
        }
        for (name, size) in [("the agent", figures.agent), ("central", figures.central)] {
            let growth = size.peak_kib.saturating_sub(size.base_kib) >> 10;
            if growth > bounds.growth_mib {
                slow.push(format!("{name} grew by {growth} MiB > {} MiB", bounds.growth_mib));
            }
            if !memory_is_back && size.now_kib > bounds.memory_kib(size.base_kib) {
                let (now, base) = (size.now_kib >> 10, size.base_kib >> 10);
                slow.push(format!("{name} still has {now} MiB (before: {base}) after {:?}", bounds.memory_within));
            }
        }
        slow.into_iter().for_each(|finding| self.find(finding));
    }

    /// Waits; an error says what was seen last.
    pub(super) async fn wait<T, S: Display>(
        &self,
        what: &str,
        within: Duration,
        look: impl AsyncFnMut() -> Result<T, S>,
    ) -> anyhow::Result<T> {
        wait_until(within, look).await.map_err(|seen| anyhow::anyhow!("{what}: not within {within:?}: {seen}"))
    }

    /// Central's view of both stores is their stock.
    async fn are_equal(&self) -> Result<(), String> {
        for store in [TILL, ONLINE] {
            let own = answer(&self.world.store(store), "/v1/status").await?;
            let seen = answer(&self.world.central(), &format!("/v1/stores/{store}")).await?;
            let equal = own["digest"] == seen["digestValue"]
                && own["head"] == seen["applied"]
                && own["epoch"] == seen["epoch"]
                && seen["digest"] == "equal"
                && seen["openPurchases"] == 0;
            if !equal {
                let told = |from: &Value, names: &[&str]| {
                    names.iter().map(|name| format!("{name} {}", from[*name])).collect::<Vec<_>>().join(", ")
                };
                return Err(format!(
                    "{store} has {}; central has {}",
                    told(&own, &["head", "acked", "link", "stopped"]),
                    told(&seen, &["status", "applied", "digest", "openPurchases", "lagMs"])
                ));
            }
        }
        Ok(())
    }

    /// No part of a daemon may panic, whatever is done to it.
    pub(super) fn find_panics(&mut self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.world.dir())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
                for line in text.lines().filter(|line| line.contains("panicked")).take(2) {
                    self.find(format!("{}: {line}", path.file_name().unwrap_or_default().display()));
                }
            }
        }
        Ok(())
    }

    /// The status of a daemon that was told to end, or that must; none: it goes on.
    pub(super) async fn ends(&mut self, daemon: &Daemon, within: Duration) -> Option<ExitStatus> {
        let process = self.world.running(daemon);
        wait_until(within, async || process.ended().ok_or(())).await.ok()
    }

    /// Sends a signal to a daemon.
    pub(super) fn signal(&mut self, daemon: &Daemon, signal: Signal) {
        self.world.running(daemon).signal(signal);
    }
}

fn refusals(figures: &Figures) -> String {
    let told = |what: &str, times: &super::probes::Times| {
        format!("{what}: {} done, {} refused ({})", times.done, times.refused, times.last_refusal)
    };
    format!("{}; {}", told("sales", &figures.sales[2]), told("purchases", &figures.purchases[2]))
}

/// Waits until `look` gives a value; an error is what it saw last.
pub(super) async fn wait_until<T, S>(within: Duration, mut look: impl AsyncFnMut() -> Result<T, S>) -> Result<T, S> {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            last => return last,
        }
    }
}

/// The JSON of a 200.
pub(super) async fn answer(client: &Client, path: &str) -> Result<Value, String> {
    match client.ask(reqwest::Method::GET, path, &[], None).await {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(format!("{path}: {} {}", answer.status, answer.body)),
        Err(error) => Err(format!("{path}: {error}")),
    }
}
