//! What is under test: Redis, central and stores as real processes, each daemon behind a proxy of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use protocol::ids::StoreId;
use redis::{RedisResult, Value};
use runtime::redis::Keys;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use super::proxy::Proxy;
use super::report::Log;
use super::traffic::Records;
use crate::port::Port;
use crate::world::{binary, redis_server};
use crate::{Client, Process};

/// How long a daemon may take to stop when asked to: its own grace time and some air.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Size of the disk that can be filled, bytes.
const SMALL_DISK: u64 = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Central,
    /// The agent of the store with this number.
    Store(usize),
}

/// What a daemon is at the moment. Whoever holds the lock may stop it; otherwise it is started again when it ends.
pub(super) struct Slot {
    pub(super) process: Option<Process>,
    pub(super) environment: Vec<(String, String)>,
}

/// Central or an agent.
pub(super) struct Daemon {
    pub(super) who: Who,
    pub(super) name: String,
    pub(super) port: Port,
    pub(super) database: PathBuf,
    pub(super) proxy: Proxy,
    /// Held while the network of this daemon is not clear.
    pub(super) network: Mutex<()>,
    slot: Mutex<Slot>,
    /// How often somebody has held it, or it was started again.
    held: AtomicU64,
}

impl Daemon {
    /// Whoever has this may stop the daemon; nobody expects it to answer meanwhile.
    pub(super) async fn hold(&self) -> MutexGuard<'_, Slot> {
        let slot = self.slot.lock().await;
        self.held.fetch_add(1, Ordering::Relaxed);
        slot
    }

    /// As [`Self::hold`], unless somebody has it.
    pub(super) fn try_hold(&self) -> Option<MutexGuard<'_, Slot>> {
        let slot = self.slot.try_lock().ok()?;
        self.held.fetch_add(1, Ordering::Relaxed);
        Some(slot)
    }

    /// Something that is another time whenever somebody has held it in between; none: somebody does, or it does not run.
    pub(super) fn undisturbed(&self) -> Option<u64> {
        let mut slot = self.slot.try_lock().ok()?;
        let runs = slot.process.as_mut().is_some_and(|process| process.ended().is_none());
        runs.then(|| self.held.load(Ordering::Relaxed))
    }
}

pub(super) struct Redis {
    pub(super) port: Port,
    pub(super) slot: Mutex<Slot>,
}

/// An earlier copy of a database.
pub(super) struct Copy {
    pub(super) of: Who,
    pub(super) path: PathBuf,
}

/// A directory of limited size; given back when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&path).ok()?;
        let size = format!("size={SMALL_DISK},mode=1777");
        let mounted = as_root("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &path.display().to_string()]);
        mounted.then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is mounted is in memory and goes with the machine at the latest.
        let _ = as_root("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// Runs a command as root, if this is root or may become it without being asked; whether it succeeded.
fn as_root(command: &str, args: &[&str]) -> bool {
    [&[command][..], &["sudo", "-n", command]].iter().any(|words| {
        let status = std::process::Command::new(words[0])
            .args(&words[1..])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    })
}

/// All of it.
pub(super) struct Rig {
    pub(super) redis: Redis,
    pub(super) central: Daemon,
    pub(super) stores: Vec<Daemon>,
    pub(super) ids: Vec<StoreId>,
    /// The store that has all the bad luck with its files, so that the others can be judged without allowances.
    pub(super) victim: usize,
    pub(super) keys: Keys,
    pub(super) records: std::sync::Mutex<Records>,
    pub(super) copies: std::sync::Mutex<Vec<Copy>>,
    pub(super) log: Log,
    /// How often people ran `store-agent restore`, by store.
    pub(super) restored: std::sync::Mutex<Vec<u64>>,
    /// How often central was set back.
    pub(super) central_set_back: AtomicU64,
    disk: Option<SmallDisk>,
    dir: TempDir,
}

impl Rig {
    /// Starts everything and waits until central would sell for each store.
    pub(super) async fn start(stores: usize, victim: usize, log: Log) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("shelfstream-chaos-").tempdir()?;
        let disk = SmallDisk::mount(dir.path().join("small"));
        let redis = Redis { port: Port::reserve(), slot: Mutex::new(Slot { process: None, environment: Vec::new() }) };
        let ids: Vec<StoreId> =
            (1..=stores).map(|number| StoreId::parse(&format!("store-{number}"))).collect::<Result<_, _>>()?;
        let daemon = async |who: Who, name: &str, database: PathBuf| {
            Ok::<_, anyhow::Error>(Daemon {
                who,
                name: name.to_owned(),
                port: Port::reserve(),
                database,
                proxy: Proxy::start(redis.port.number()).await?,
                network: Mutex::new(()),
                slot: Mutex::new(Slot { process: None, environment: Vec::new() }),
                held: 0.into(),
            })
        };
        let central = daemon(Who::Central, "central", dir.path().join("central.db")).await?;
        let mut agents = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            // The first store but the victim has the disk that can be filled.
            let small = number == Self::with_small_disk(stores, victim);
            let folder = disk.as_ref().filter(|_| small).map_or(dir.path(), |disk| disk.0.as_path());
            agents.push(daemon(Who::Store(number), id.as_str(), folder.join(format!("{id}.db"))).await?);
        }
        let rig = Self {
            redis,
            central,
            stores: agents,
            ids,
            victim,
            keys: Keys::new("shelf"),
            records: std::sync::Mutex::default(),
            copies: std::sync::Mutex::default(),
            log,
            restored: std::sync::Mutex::new(vec![0; stores]),
            central_set_back: 0.into(),
            disk,
            dir,
        };
        rig.start_redis(&mut *rig.redis.slot.lock().await);
        for daemon in rig.daemons() {
            rig.start_daemon(daemon, &mut *daemon.hold().await);
        }
        rig.wait("everything is online", Duration::from_secs(30), async || rig.are_online().await).await?;
        Ok(rig)
    }

    fn with_small_disk(stores: usize, victim: usize) -> usize {
        (0..stores).find(|number| *number != victim).unwrap_or(victim)
    }

    /// The store whose disk can be filled, and where.
    pub(super) fn small_disk(&self) -> Option<(usize, &Path)> {
        let disk = self.disk.as_ref()?;
        Some((Self::with_small_disk(self.stores.len(), self.victim), &disk.0))
    }

    /// Where files go.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the files for whoever looks into a failure.
    pub(super) fn keep(self) -> PathBuf {
        let Self { dir, disk, .. } = self;
        let kept = dir.keep();
        if let Some(disk) = &disk {
            for entry in std::fs::read_dir(&disk.0).into_iter().flatten().flatten() {
                // A copy that fails is a file less to look at.
                let _ = std::fs::copy(entry.path(), kept.join(entry.file_name()));
            }
        }
        kept
    }

    pub(super) fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        std::iter::once(&self.central).chain(&self.stores)
    }

    pub(super) fn daemon(&self, who: Who) -> &Daemon {
        match who {
            Who::Central => &self.central,
            Who::Store(number) => &self.stores[number],
        }
    }

    /// A client that knows nothing of a store's or central's trouble.
    pub(super) fn client(&self, who: Who) -> Client {
        Client::new(self.daemon(who).port.number())
    }

    pub(super) fn log_of(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    // --- Redis ---

    pub(super) fn redis_dir(&self) -> PathBuf {
        self.dir().join("redis")
    }

    pub(super) fn start_redis(&self, slot: &mut Slot) {
        let dir = self.redis_dir();
        std::fs::create_dir_all(&dir).expect("a directory for Redis");
        let args = [
            "--port",
            &self.redis.port.number().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--dir",
            &dir.display().to_string(),
        ]
        .map(str::to_owned);
        slot.process = Some(started(&redis_server(), &args, &slot.environment, &self.log_of("redis")));
    }

    /// A command straight to Redis, past all proxies.
    pub(super) async fn redis(&self, command: &redis::Cmd) -> RedisResult<Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.redis.port.number()))?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        command.query_async(&mut connection).await
    }

    /// As [`Self::redis`], until Redis answers.
    pub(super) async fn redis_surely(&self, command: &redis::Cmd) -> anyhow::Result<Value> {
        let mut answer = None;
        self.wait("Redis answers", Duration::from_secs(20), async || match self.redis(command).await {
            Ok(value) => {
                answer = Some(value);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        })
        .await?;
        answer.context("Redis answers")
    }

    // --- daemons ---

    pub(super) fn redis_url(daemon: &Daemon) -> String {
        format!("redis://127.0.0.1:{}", daemon.proxy.port())
    }

    pub(super) fn arguments(&self, daemon: &Daemon, database: &Path, port: u16) -> Vec<String> {
        let mut args = vec![
            "serve".to_owned(),
            format!("--redis-url={}", Self::redis_url(daemon)),
            format!("--database-path={}", database.display()),
            format!("--listen=127.0.0.1:{port}"),
        ];
        match daemon.who {
            Who::Central => args.extend(["--heartbeat-max-age-ms=4000".into(), "--sweep-interval-ms=1000".into()]),
            Who::Store(_) => {
                args.extend([format!("--store-id={}", daemon.name), "--heartbeat-interval-ms=1000".into()]);
            }
        }
        args
    }

    pub(super) fn program(who: Who) -> PathBuf {
        binary(if who == Who::Central { "central" } else { "store-agent" })
    }

    pub(super) fn start_daemon(&self, daemon: &Daemon, slot: &mut Slot) {
        let args = self.arguments(daemon, &daemon.database, daemon.port.number());
        slot.process = Some(started(&Self::program(daemon.who), &args, &slot.environment, &self.log_of(&daemon.name)));
    }

    /// An agent beside the one in service, with the same id and through the same proxy.
    pub(super) fn start_twin(&self, number: usize, database: &Path, port: u16) -> Process {
        let daemon = &self.stores[number];
        let args = self.arguments(daemon, database, port);
        started(&Self::program(daemon.who), &args, &[], &self.log_of(&format!("{}-twin", daemon.name)))
    }

    /// SIGTERM, which must end a daemon in time and in good order.
    pub(super) async fn terminate(&self, daemon: &Daemon, slot: &mut Slot) {
        let Some(mut process) = slot.process.take() else { return };
        let name = &daemon.name;
        // One that has not got as far as serving does not listen for signals either.
        let serves = look(daemon.port.number(), "/health").await.is_ok();
        process.signal(Signal::SIGTERM);
        let started = Instant::now();
        let status = loop {
            if let Some(status) = process.ended() {
                break status;
            }
            if started.elapsed() > STOP_WITHIN {
                return self.violation(format!("{name} does not stop within {STOP_WITHIN:?} of SIGTERM"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        // One whose disk was full may have been about to end over it.
        if !status.success() && serves && slot.environment.is_empty() && !self.has_small_disk(name) {
            self.violation(format!("{name} stopped with {status} on SIGTERM"));
        }
    }

    /// What a supervisor does: what ended by itself is started again. Runs until dropped.
    pub(super) async fn supervise(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            for daemon in self.daemons() {
                let Ok(mut slot) = daemon.slot.try_lock() else { continue };
                if let Some(status) = slot.process.as_mut().and_then(Process::ended) {
                    self.log.say(&format!("{} ended by itself ({status}) and is started again", daemon.name));
                    self.note_exit(&daemon.name);
                    daemon.held.fetch_add(1, Ordering::Relaxed);
                    self.start_daemon(daemon, &mut slot);
                }
            }
        }
    }

    fn has_small_disk(&self, name: &str) -> bool {
        self.small_disk().is_some_and(|(number, _)| self.stores[number].name == name)
    }

    /// A daemon that ends by itself needs a reason: a full disk is the only one there is.
    pub(super) fn note_exit(&self, name: &str) {
        let full = self.has_small_disk(name);
        let mut records = self.records.lock().expect("no thread panics");
        records.exits += 1;
        if !full {
            records.violate(format!("{name} ended by itself"));
        }
    }

    pub(super) fn violation(&self, text: String) {
        self.log.say(&format!("VIOLATION: {text}"));
        self.records.lock().expect("no thread panics").violate(text);
    }

    // --- looking ---

    /// Waits until `look` says `Ok`; an error with what it saw last after `within`.
    pub(super) async fn wait<S: std::fmt::Display>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl AsyncFnMut() -> Result<(), S>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            match look().await {
                Ok(()) => return Ok(()),
                Err(seen) if started.elapsed() > within => bail!("{what}: not within {within:?}; last seen: {seen}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// `GET`, as JSON; an error says why there is none.
    pub(super) async fn look(&self, who: Who, path: &str) -> Result<Json, String> {
        look(self.daemon(who).port.number(), path).await
    }

    async fn are_online(&self) -> Result<(), String> {
        for id in &self.ids {
            let store = self.look(Who::Central, &format!("/v1/stores/{id}")).await?;
            if store["status"] != "online" {
                return Err(store.to_string());
            }
        }
        Ok(())
    }

    /// How far each store's ledger goes: epoch and number of its last entry.
    pub(super) async fn heads(&self) -> Result<Vec<(u64, u64)>, String> {
        let mut heads = Vec::new();
        for number in 0..self.ids.len() {
            let own = self.look(Who::Store(number), "/v1/status").await?;
            heads.push((own["epoch"].as_u64().unwrap_or_default(), own["head"].as_u64().unwrap_or_default()));
        }
        Ok(heads)
    }

    /// Whether central has all up to these heads, sells for each store and finds its digest equal: traffic may go on
    /// meanwhile. A restore opens a later epoch, which has what was before.
    pub(super) async fn has_reached(&self, heads: &[(u64, u64)]) -> Result<(), String> {
        for (id, head) in self.ids.iter().zip(heads) {
            let seen = self.look(Who::Central, &format!("/v1/stores/{id}")).await?;
            let applied = (seen["epoch"].as_u64().unwrap_or_default(), seen["applied"].as_u64().unwrap_or_default());
            if applied < *head || seen["digest"] != "equal" || seen["status"] != "online" {
                return Err(format!("{id} was at {head:?} when the faults ended; central {seen}"));
            }
        }
        Ok(())
    }

    /// Whether central's view is each store's stock, and nothing is open.
    pub(super) async fn has_converged(&self) -> Result<(), String> {
        for (number, id) in self.ids.iter().enumerate() {
            let own = self.look(Who::Store(number), "/v1/status").await?;
            let seen = self.look(Who::Central, &format!("/v1/stores/{id}")).await?;
            let equal = own["digest"] == seen["digestValue"]
                && own["head"] == seen["applied"]
                && own["epoch"] == seen["epoch"]
                && own["link"] == "up"
                && seen["digest"] == "equal"
                && seen["openPurchases"] == 0
                && seen["status"] == "online";
            if !equal {
                return Err(format!("store {own}; central {seen}"));
            }
        }
        Ok(())
    }
}

/// `GET`, as JSON; an error says why there is none.
pub(super) async fn look(port: u16, path: &str) -> Result<Json, String> {
    let client = Client::new(port);
    let answer = client.ask(reqwest::Method::GET, path, &[], None);
    match tokio::time::timeout(Duration::from_secs(2), answer).await {
        Ok(Ok(answer)) if answer.status == 200 => Ok(answer.body),
        Ok(Ok(answer)) => Err(format!("{path}: {} {}", answer.status, answer.body)),
        Ok(Err(error)) => Err(format!("{path}: {error}")),
        Err(_) => Err(format!("{path}: no answer")),
    }
}

/// Starts a program with an environment of its own: `env` sets it and becomes the program.
fn started(program: &Path, args: &[String], environment: &[(String, String)], log: &Path) -> Process {
    if environment.is_empty() {
        return Process::start(program, args, log);
    }
    let mut all: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    all.push(program.display().to_string());
    all.extend_from_slice(args);
    Process::start(Path::new("/usr/bin/env"), &all, log)
}
