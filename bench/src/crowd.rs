//! Many stores: real agents, several hundred in a process, since as many processes would be more than one machine has
//! memory for. Each has its own database, threads and connections, as it would alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::tests::Process;
use anyhow::{Context, bail, ensure};
use clap::Parser;
use reqwest::header::CONTENT_TYPE;
use runtime::daemon::Port;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store_agent::config::{Cli, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Caller};
use crate::load::{self, Script};
use crate::setup::{Setup, Stock, UNITS, csv, sale};

/// Agents of a process: each has some 40 descriptors, of which a process may have 20,000 on a usual system.
const OF_A_PROCESS: usize = 250;
/// Stores that are filled at a time.
const FILLED_AT_ONCE: usize = 16;
/// For all agents to serve, and for central to have all that they have said, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at a store that is not yet as it should be.
const PAUSE: Duration = Duration::from_millis(10);

/// What a process of agents is told.
#[derive(Debug, Deserialize, Serialize)]
struct Hosted {
    redis_url: String,
    folder: PathBuf,
    stores: Vec<String>,
}

impl Hosted {
    fn address_file(&self, store: &str) -> PathBuf {
        self.folder.join(format!("{store}.address"))
    }
}

/// Runs the agents that a file names, until one of them ends or the process is killed.
///
/// # Errors
/// What ended the agent that ended first.
pub fn host(list: &Path) -> anyhow::Result<()> {
    let hosted: Hosted = serde_json::from_slice(&fs::read(list)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut agents = JoinSet::new();
        for store in &hosted.stores {
            let arguments = [
                "store-agent".to_owned(),
                "serve".to_owned(),
                format!("--store-id={store}"),
                "--listen=127.0.0.1:0".to_owned(),
                format!("--redis-url={}", hosted.redis_url),
                format!("--database-path={}", hosted.folder.join(format!("{store}.db")).display()),
                format!("--address-file={}", hosted.address_file(store).display()),
            ];
            let Command::Serve(config) = Cli::try_parse_from(arguments)?.command else { bail!("it is told to serve") };
            let port = Port::take(&config.listen)?;
            agents.spawn(store_agent::run::run(config, port, stop.clone()));
        }
        match agents.join_next().await {
            Some(ended) => ended?.context("an agent ended"),
            None => bail!("no agent to run"),
        }
    })
}

/// A store and where its agent listens.
#[derive(Debug)]
pub(crate) struct Store {
    /// Its id.
    pub(crate) id: String,
    /// The agent's port.
    pub(crate) port: u16,
    sold: u64,
}

/// Stores that share processes. They end when it is dropped.
pub(crate) struct Crowd {
    /// All of them, in order.
    pub(crate) stores: Vec<Store>,
    items: u64,
    loads: u64,
    processes: Vec<Process>,
}

impl Crowd {
    /// So many stores with so many items each, which central knows.
    pub(crate) fn start(setup: &Setup, stores: usize, items: u64) -> anyhow::Result<Self> {
        Self::start_through(setup, stores, items, setup.redis_port())
    }

    /// The same, whose way to Redis begins at this port.
    pub(crate) fn start_through(setup: &Setup, stores: usize, items: u64, redis_port: u16) -> anyhow::Result<Self> {
        let ids = (1..=stores).map(|number| format!("c{number:04}")).collect();
        let mut crowd = Self::start_empty(setup, ids, redis_port)?;
        crowd.items = items;
        let stock: Stock = (0..items).map(|number| (format!("product-{number:06}"), UNITS)).collect();
        crowd.import(setup, |_| csv(&stock))?;
        crowd.converge(setup)?;
        Ok(crowd)
    }

    /// Stores without items, whose way to Redis begins at this port.
    pub(crate) fn start_empty(setup: &Setup, ids: Vec<String>, redis_port: u16) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let (mut processes, mut stores) = (Vec::new(), Vec::new());
        for (number, part) in ids.chunks(OF_A_PROCESS).enumerate() {
            let hosted = Hosted {
                redis_url: format!("redis://127.0.0.1:{redis_port}"),
                folder: setup.dir().to_owned(),
                stores: part.to_owned(),
            };
            let list = setup.dir().join(format!("crowd-{number}.json"));
            fs::write(&list, serde_json::to_vec(&hosted)?)?;
            let arguments = ["--host".to_owned(), list.display().to_string()];
            let mut process = Process::start(&program, &arguments, &list.with_extension("log"));
            for id in part {
                let port = address(&hosted.address_file(id), &mut process)?;
                stores.push(Store { id: id.clone(), port, sold: 0 });
            }
            processes.push(process);
        }
        Ok(Self { stores, items: 0, loads: 0, processes })
    }

    /// Gives each store its opening stock, a CSV file.
    pub(crate) fn import(&self, setup: &Setup, csv: impl Fn(&str) -> String) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        setup.block_on(async {
            for part in self.stores.chunks(FILLED_AT_ONCE) {
                let mut asking = JoinSet::new();
                for Store { id, port, .. } in part {
                    let url = format!("http://127.0.0.1:{port}/v1/import");
                    let csv = csv(id);
                    let lines = csv.lines().count() as u64 - 1;
                    let request = client.post(url).header(CONTENT_TYPE, "text/csv").body(csv);
                    asking.spawn(async move {
                        let answer: Value = request.send().await?.error_for_status()?.json().await?;
                        ensure!(answer["totals"]["created"] == lines, "{lines} items to import: {}", answer["totals"]);
                        anyhow::Ok(())
                    });
                }
                while let Some(asked) = asking.join_next().await {
                    asked??;
                }
            }
            Ok(())
        })
    }

    /// Each store sells so many units, one after the other, all stores at the same time.
    pub(crate) fn sell(&mut self, each: u64) -> anyhow::Result<()> {
        load::play(self.sales(each))
    }

    /// A till at each store, which sells so many units: somebody has to play it.
    pub(crate) fn sales(&mut self, each: u64) -> Vec<Script> {
        self.loads += 1;
        let (load, items) = (self.loads, self.items);
        let script = |store: &mut Store| {
            store.sold += each;
            let request = |number| {
                let mut request = Vec::new();
                sale(&mut request, &format!("product-{:06}", number % items), load, number);
                request
            };
            Script { port: store.port, requests: (0..each).map(request).collect() }
        };
        self.stores.iter_mut().map(script).collect()
    }

    /// Where each store's ledger ends: epoch and number.
    pub(crate) fn heads(&self) -> anyhow::Result<Vec<(u64, u64)>> {
        let mut request = Vec::new();
        let mut head = |store: &Store| {
            http::get(&mut request, format_args!("/v1/status"));
            let own: Value = serde_json::from_slice(Caller::connect(store.port)?.call(&request, 200)?.body)?;
            own["epoch"].as_u64().zip(own["head"].as_u64()).context("where the ledger ends")
        };
        self.stores.iter().map(&mut head).collect()
    }

    /// Waits until central has acknowledged all up to these, and perhaps what a store has said since. That stands in Redis: whoever
    /// asks central makes it work.
    pub(crate) fn acknowledged(&self, setup: &Setup, heads: &[(u64, u64)]) -> anyhow::Result<()> {
        let mut redis = redis::Client::open(setup.redis_url())?.get_connection()?;
        let keys: Vec<String> = self.stores.iter().map(|store| format!("shelf:{{{}}}:events:ack", store.id)).collect();
        let begin = Instant::now();
        loop {
            let acks: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query(&mut redis)?;
            let place = |ack: &str| {
                let mut words = ack.split(' ').map_while(|word| word.parse::<u64>().ok());
                words.next().zip(words.next())
            };
            let is_there = |(ack, head): (&Option<String>, &(u64, u64))| ack.as_deref().and_then(place) >= Some(*head);
            if acks.iter().zip(heads).all(is_there) {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "central does not acknowledge all: {acks:?}, and not {heads:?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until central has applied all that the stores have said so far.
    pub(crate) fn applied(&self, setup: &Setup) -> anyhow::Result<()> {
        self.watch(setup, |own, seen| own["head"] == seen["applied"] && own["epoch"] == seen["epoch"])
    }

    /// The same, with equal digests.
    pub(crate) fn converge(&self, setup: &Setup) -> anyhow::Result<()> {
        self.watch(setup, |own, seen| {
            own["head"] == seen["applied"] && own["digest"] == seen["digestValue"] && seen["digest"] == "equal"
        })
    }

    fn watch(&self, setup: &Setup, good: impl Fn(&Value, &Value) -> bool) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut request = Vec::new();
        for Store { id, port, .. } in &self.stores {
            let (mut store, mut central) = (Caller::connect(*port)?, Caller::connect(setup.central())?);
            loop {
                // It changes by itself as well: an epoch that opens is an entry.
                http::get(&mut request, format_args!("/v1/status"));
                let own: Value = serde_json::from_slice(store.call(&request, 200)?.body)?;
                http::get(&mut request, format_args!("/v1/stores/{id}"));
                // A store that central has not heard of yet is none of its own.
                let seen: Value = match central.call(&request, 200) {
                    Ok(answer) => serde_json::from_slice(answer.body)?,
                    Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                    Err(_) => Value::Null,
                };
                if good(&own, &seen) {
                    break;
                }
                ensure!(
                    begin.elapsed() < PATIENCE,
                    "central does not come to equal {id}: {own} there, {seen} at central"
                );
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Each store has what its answers add up to, and central has the same.
    pub(crate) fn check(&mut self, setup: &Setup) -> anyhow::Result<()> {
        self.processes.iter_mut().for_each(Process::must_run);
        self.converge(setup)?;
        for Store { id, port, sold } in &self.stores {
            let units: i64 = setup.stock_at(*port)?.values().sum();
            let expected = i64::try_from(self.items)? * UNITS - i64::try_from(*sold)?;
            ensure!(units == expected, "{units} units in {id}, but the answers add up to {expected}");
        }
        Ok(())
    }
}

/// Where an agent says that it listens, once it does.
fn address(file: &Path, process: &mut Process) -> anyhow::Result<u16> {
    let begin = Instant::now();
    loop {
        process.must_run();
        let told = fs::read_to_string(file).unwrap_or_default();
        let port = told.split_whitespace().next().and_then(|address| address.rsplit(':').next()?.parse().ok());
        if let Some(port) = port {
            return Ok(port);
        }
        ensure!(begin.elapsed() < PATIENCE, "{} is not written", file.display());
        std::thread::sleep(PAUSE);
    }
}
