//! What is on stage: Redis, central and the stores, on free ports, in a directory of their own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::http::Client;
use crate::process::{self, Process, try_wait};
use crate::redis;

const PATIENCE: Duration = Duration::from_secs(30);

/// Redis, central and stores. All of it stops when it is dropped.
pub(crate) struct Stage {
    /// Databases and logs.
    pub(crate) dir: PathBuf,
    /// Where central listens.
    pub(crate) central_port: u16,
    stores: Vec<(String, u16, Process)>,
    redis_port: u16,
    binaries: PathBuf,
    central: Process,
    guarded: Option<Process>,
    redis: Process,
}

/// A chain of its own that answers nobody without a token.
pub(crate) struct Guarded {
    /// Where its central listens.
    pub(crate) central_port: u16,
    /// A token for both.
    pub(crate) token: String,
}

impl Stage {
    /// Gets Redis, builds, starts everything afresh, and waits until it answers.
    pub(crate) fn start(stores: &[String], name: &str) -> anyhow::Result<Self> {
        let server = redis::server()?;
        println!("  redis    {}", server.display());
        println!("  building (the first time takes a few minutes)");
        let binaries = process::build_daemons()?;
        let dir = process::root().join("target").join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let redis_port = process::port(6379)?;
        let args = ["--port", &redis_port.to_string(), "--save", "", "--bind", "127.0.0.1", "--dir"];
        let mut args = args.map(str::to_owned).to_vec();
        args.push(dir.display().to_string());
        let redis = Process::start(&server, &args, &dir.join("redis.log"))?;
        let central_port = process::port(8081)?;
        let central = start_central(&binaries, &dir, redis_port, ("central", central_port), &[])?;
        let (stores_started, guarded) = (Vec::new(), None);
        let mut stage =
            Self { dir, central_port, stores: stores_started, redis_port, binaries, central, guarded, redis };
        for (store, wanted) in stores.iter().zip(8082..) {
            stage.start_store(store, process::port(wanted)?, &[])?;
        }
        let address = |name: &str| stage.dir.join(format!("{name}.address"));
        try_wait("central answers", PATIENCE, || {
            is_ready(&mut stage.central, &address("central"), stage.central_port)
        })?;
        for (store, port, process) in &mut stage.stores {
            try_wait(&format!("{store} answers"), PATIENCE, || is_ready(process, &address(store), *port))?;
        }
        println!("  central  http://127.0.0.1:{central_port}");
        for (store, port, _) in &stage.stores {
            println!("  store    http://127.0.0.1:{port}  {store}");
        }
        Ok(stage)
    }

    /// Adds a store, and a central of its own, that answer nobody without a token; makes one with these scopes.
    pub(crate) fn add_guarded(&mut self, store: &str, scopes: &str) -> anyhow::Result<Guarded> {
        let file = format!("--tokens-file={}", self.dir.join(format!("{store}.tokens")).display());
        let made = Command::new(self.binaries.join("store-agent"))
            .args(["tokens", "add", "till", "--scopes", scopes, &file])
            .output()?;
        ensure!(made.status.success(), "no token is made: {}", String::from_utf8_lossy(&made.stderr));
        let (name, central_port) = ("guarded-central", process::port(0)?);
        let options = [file, "--key-prefix=guarded".to_owned()];
        let mut central = start_central(&self.binaries, &self.dir, self.redis_port, (name, central_port), &options)?;
        self.start_store(store, process::port(0)?, &options)?;
        let address = |name: &str| self.dir.join(format!("{name}.address"));
        try_wait("central answers", PATIENCE, || is_ready(&mut central, &address(name), central_port))?;
        let (_, port, process) = self.stores.last_mut().context("it was added")?;
        try_wait(&format!("{store} answers"), PATIENCE, || is_ready(process, &address(store), *port))?;
        self.guarded = Some(central);
        Ok(Guarded { central_port, token: String::from_utf8(made.stdout)?.trim().to_owned() })
    }

    fn start_store(&mut self, store: &str, port: u16, more: &[String]) -> anyhow::Result<()> {
        let args = [
            "serve".to_owned(),
            format!("--store-id={store}"),
            format!("--redis-url=redis://127.0.0.1:{}", self.redis_port),
            format!("--database-path={}", self.dir.join(format!("{store}.db")).display()),
            format!("--listen=127.0.0.1:{port}"),
            format!("--address-file={}", self.dir.join(format!("{store}.address")).display()),
        ];
        let log = self.dir.join(format!("{store}.log"));
        let process = Process::start(&self.binaries.join("store-agent"), &[&args, more].concat(), &log)?;
        self.stores.push((store.to_owned(), port, process));
        Ok(())
    }

    /// Names of the stores.
    pub(crate) fn stores(&self) -> Vec<String> {
        self.stores.iter().map(|(store, _, _)| store.clone()).collect()
    }

    /// Where a store listens.
    pub(crate) fn port_of(&self, store: &str) -> u16 {
        self.stores.iter().find(|(name, _, _)| name == store).map_or(0, |(_, port, _)| *port)
    }

    /// A client of central.
    pub(crate) fn central(&self) -> Client {
        Client::new(self.central_port)
    }

    /// A client of a store.
    pub(crate) fn store(&self, store: &str) -> Client {
        Client::new(self.port_of(store))
    }

    /// `kill -9` for central, and a new one on its database.
    pub(crate) fn kill_central(&mut self) -> anyhow::Result<()> {
        self.central.kill();
        self.central = start_central(&self.binaries, &self.dir, self.redis_port, ("central", self.central_port), &[])?;
        Ok(())
    }

    /// Everything in Redis is lost.
    pub(crate) fn flush_redis(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.redis_port))?;
        stream.write_all(b"FLUSHALL\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)
    }

    /// Whether central would sell for the store.
    pub(crate) fn is_online(&self, store: &str) -> bool {
        self.central().get(&format!("/v1/stores/{store}")).is_ok_and(|answer| answer.body["status"] == "online")
    }

    /// An error if anything on stage has ended by itself.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        let stores = self.stores.iter_mut().map(|(_, _, process)| process);
        let servers = [&mut self.redis, &mut self.central].into_iter().chain(&mut self.guarded);
        servers.chain(stores).try_for_each(Process::must_run)
    }

    /// Sells a unit at a store's till; the item's version after it.
    pub(crate) fn sell(&self, store: &str, product: &str) -> anyhow::Result<i64> {
        let answer = self.store(store).post(&format!("/v1/purchase/{product}"), &[], &json!({"quantity": 1}))?;
        if answer.status != 200 {
            bail!("{store} does not sell: {} {}", answer.status, answer.body);
        }
        answer.body["version"].as_i64().context("a sale's answer has the item's version")
    }

    /// Whether central's view of an item is of this version or a later one.
    pub(crate) fn shows(&self, store: &str, product: &str, version: i64) -> bool {
        let item = self.central().get(&format!("/v1/inventory/{store}/{product}"));
        item.is_ok_and(|item| item.body["version"].as_i64().is_some_and(|seen| seen >= version))
    }

    /// Whether central's view of the store is the store's stock, by digest, with everything applied.
    pub(crate) fn is_equal(&self, store: &str) -> bool {
        let own = self.store(store).get("/v1/status").map(|answer| answer.body).unwrap_or(Value::Null);
        let seen = self.central().get(&format!("/v1/stores/{store}")).map(|answer| answer.body);
        let seen = seen.unwrap_or(Value::Null);
        !own.is_null() && own["digest"] == seen["digestValue"] && own["head"] == seen["applied"]
    }
}

/// Whether the process that was started answers, and not somebody else on its port.
fn is_ready(process: &mut Process, address: &Path, port: u16) -> anyhow::Result<bool> {
    process.must_run()?;
    let told = std::fs::read_to_string(address).unwrap_or_default();
    let is_own = told.split_whitespace().nth(1) == Some(&process.id().to_string());
    Ok(is_own && Client::new(port).get("/ready").is_ok_and(|answer| answer.status == 200))
}

fn start_central(
    binaries: &Path,
    dir: &Path,
    redis: u16,
    (name, port): (&str, u16),
    more: &[String],
) -> anyhow::Result<Process> {
    let args = [
        "serve".to_owned(),
        format!("--redis-url=redis://127.0.0.1:{redis}"),
        format!("--database-path={}", dir.join(format!("{name}.db")).display()),
        format!("--listen=127.0.0.1:{port}"),
        format!("--address-file={}", dir.join(format!("{name}.address")).display()),
    ];
    Process::start(&binaries.join("central"), &[&args, more].concat(), &dir.join(format!("{name}.log")))
}
