//! Redis, central and stores of one test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use protocol::ids::StoreId;
use runtime::redis::Keys;
use runtime::redis::acl::{self, Joining};
use serde_json::json;
use tempfile::TempDir;

use crate::port::Port;
use crate::{Certificates, Client, Process, until};

const LONG: Duration = Duration::from_secs(30);

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Builder {
    /// Between two heartbeats, ms.
    pub heartbeat_ms: u64,
    /// Age at which a heartbeat is stale, ms.
    pub max_age_ms: u64,
    /// Between two sweeps of central, ms.
    pub sweep_ms: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Self { heartbeat_ms: 30_000, max_age_ms: 50_000, sweep_ms: 1_000 }
    }
}

impl Builder {
    /// Starts Redis, central and these stores, and waits until central would sell for each of them.
    pub async fn start(self, stores: &[&str]) -> World {
        self.start_with(stores, false).await
    }

    /// The same, with TLS between Redis and the daemons.
    pub async fn start_over_tls(self, stores: &[&str]) -> World {
        self.start_with(stores, true).await
    }

    async fn start_with(self, stores: &[&str], tls: bool) -> World {
        let dir = tempfile::Builder::new().prefix("shelfstream-").tempdir().expect("a directory");
        let tls = tls.then(|| (Port::reserve(), Certificates::make(dir.path())));
        let mut world = World {
            options: self,
            redis_port: Port::reserve(),
            tls,
            central_port: Port::reserve(),
            redis: None,
            central: None,
            stores: BTreeMap::new(),
            limit: None,
            central_args: Vec::new(),
            store_args: Vec::new(),
            earlier: Vec::new(),
            dir,
        };
        world.start_redis().await;
        world.start_central();
        for store in stores {
            world.add_store(store);
        }
        world.up(&Daemon::Central).await;
        for store in stores {
            world.up(&Daemon::Store((*store).to_owned())).await;
            world.online(store).await;
        }
        world
    }
}

/// One of the daemons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    Central,
    /// A store's agent.
    Store(String),
}

impl Daemon {
    /// What its files are called by.
    fn name(&self) -> &str {
        match self {
            Self::Central => "central",
            Self::Store(store) => store,
        }
    }
}

/// Redis, central and stores. All of it stops when it is dropped.
pub struct World {
    options: Builder,
    redis_port: Port,
    /// Where Redis speaks TLS, and by which certificates.
    tls: Option<(Port, Certificates)>,
    central_port: Port,
    redis: Option<Process>,
    central: Option<Process>,
    stores: BTreeMap<String, (Port, Option<Process>)>,
    /// What a shell says before it becomes a daemon.
    limit: Option<String>,
    /// More options of central, from its next start on.
    pub central_args: Vec<String>,
    /// More options of agents, from their next start on.
    pub store_args: Vec<String>,
    /// Daemons that are of an earlier version, from their next start on, with their tools.
    pub earlier: Vec<Daemon>,
    dir: TempDir,
}

fn keys() -> Keys {
    Keys::new("shelf")
}

/// The password of a user of Redis.
fn secret_of(user: &str) -> String {
    format!("secret-of-{user}")
}

/// Who runs a tool: central's, or the agent of the store that it is told.
fn user_of<'a>(program: &str, args: &[&'a str]) -> &'a str {
    let store = args.iter().skip_while(|arg| **arg != "--store-id").nth(1);
    if program == "central" { "central" } else { store.copied().unwrap_or("default") }
}

/// Adds options of the test's, each of which stands for the one of the same name.
fn replace(args: &mut Vec<String>, own: &[String]) {
    let name = |arg: &str| arg.split('=').next().unwrap_or_default().to_owned();
    args.retain(|arg| !own.iter().any(|own| name(own) == name(arg)));
    args.extend_from_slice(own);
}

/// A daemon's binary of the version that `cargo xtask versions` has built.
fn earlier_binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("SHELFSTREAM_EARLIER_BIN_DIR").expect("started by `cargo xtask versions`");
    Path::new(&dir).join(name)
}

/// A daemon's binary: where `cargo xtask test` says, else beside this test's own.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("SHELFSTREAM_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().expect("this test has a path");
        let dir = own.parent().expect("target/<profile>, or deps in it");
        if dir.ends_with("deps") { dir.parent().expect("target/<profile>").to_owned() } else { dir.to_owned() }
    });
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask test`, which builds it", path.display());
    path
}

pub(crate) fn redis_server() -> PathBuf {
    if let Some(path) = std::env::var_os("SHELFSTREAM_REDIS_SERVER") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| ["redis-server", "valkey-server"].map(|name| dir.join(name)))
        .find(|path| path.exists());
    found.expect("redis-server is missing: run `cargo xtask test`, which installs it")
}

impl World {
    /// A world with the usual limits.
    pub async fn with(stores: &[&str]) -> Self {
        Builder::default().start(stores).await
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of central.
    pub fn central(&self) -> Client {
        Client::new(self.central_port.number()).recorded("central", self.dir.path())
    }

    /// What a daemon has logged since it was started last.
    pub fn log(&self, daemon: &Daemon) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{}.log", daemon.name()))).expect("it has a log")
    }

    /// A client of a store.
    pub fn store(&self, store: &str) -> Client {
        Client::new(self.port_of(store)).recorded("store-agent", &self.dir.path().join(store))
    }

    /// A store's database file.
    pub fn database(&self, store: &str) -> PathBuf {
        self.dir.path().join(format!("{store}.db"))
    }

    /// Removes a daemon's database with all that is beside it. It must not run.
    pub fn lose_database(&self, daemon: &Daemon) {
        let database = format!("{}.db", daemon.name());
        for file in std::fs::read_dir(self.dir.path()).expect("the world's files") {
            let path = file.expect("a file").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&database)) {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }

    /// Runs one of the daemons' tools to its end: whether it succeeded, and what it said.
    pub async fn tool(&self, program: &str, args: &[&str]) -> (bool, String) {
        let (code, said) = self.tool_with(program, args, &[]).await;
        (code == Some(0), said)
    }

    /// The same with more variables; the exit status.
    pub async fn tool_with(&self, program: &str, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let daemon =
            if program == "central" { Daemon::Central } else { Daemon::Store(user_of(program, args).to_owned()) };
        let output = tokio::process::Command::new(self.binary_of(&daemon))
            .args(args)
            .env("REDIS_URL", self.redis_url_of(user_of(program, args)))
            .envs(self.tls.iter().flat_map(|(_, certificates)| certificates.variables()))
            .env("CENTRAL_URL", format!("http://127.0.0.1:{}", self.central_port.number()))
            .envs(variables.iter().copied())
            .current_dir(self.dir.path())
            .output()
            .await
            .expect("the program runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// The port on which a store listens.
    pub fn port_of(&self, store: &str) -> u16 {
        self.stores.get(store).expect("a store of this world").0.number()
    }

    /// Where Redis is, for the test itself.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis_port.number())
    }

    /// The port on which Redis listens.
    pub fn redis_port(&self) -> u16 {
        self.redis_port.number()
    }

    /// The port on which central listens.
    pub fn central_port(&self) -> u16 {
        self.central_port.number()
    }

    /// Starts Redis, empty, on this world's port.
    pub async fn start_redis(&mut self) {
        let users = self.dir.path().join("users.acl");
        let stores = self.stores.keys().map(|store| self.user_of_store(store));
        let lines = std::iter::once(self.user_of_central()).chain(stores).map(|user| format!("user {user}\n"));
        // Who gives no name is the test itself, and may do everything.
        let lines: String = std::iter::once("user default on nopass ~* &* +@all\n".to_owned()).chain(lines).collect();
        std::fs::write(&users, lines).expect("the file of users is written");
        let mut args: Vec<String> =
            ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"].map(str::to_owned).into();
        args.extend(["--port".to_owned(), self.redis_port.number().to_string()]);
        args.extend(["--dir".to_owned(), self.dir.path().display().to_string()]);
        args.extend(["--aclfile".to_owned(), users.display().to_string()]);
        if let Some((port, certificates)) = &self.tls {
            args.extend(["--tls-port".to_owned(), port.number().to_string()]);
            args.extend(certificates.server_options());
        }
        let mut process = Process::start(&redis_server(), &args, &self.dir.path().join("redis.log"));
        until("Redis answers", LONG, async || {
            process.must_run();
            self.redis_command("PING").await.map_err(|error| error.to_string())
        })
        .await;
        self.redis = Some(process);
    }

    /// A connection to Redis. What a busy machine does slowly is no error of it.
    pub async fn redis_connection(&self) -> redis::aio::MultiplexedConnection {
        self.connect_to_redis().await.expect("Redis answers")
    }

    async fn connect_to_redis(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let config =
            redis::AsyncConnectionConfig::new().set_connection_timeout(Some(LONG)).set_response_timeout(Some(LONG));
        redis::Client::open(self.redis_url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Runs a Redis command without arguments.
    pub async fn redis_command(&self, command: &str) -> redis::RedisResult<redis::Value> {
        self.redis(&[command]).await
    }

    /// Runs a Redis command.
    pub async fn redis(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = self.connect_to_redis().await?;
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name).arg(arguments).query_async(&mut connection).await
    }

    /// Sends a signal to Redis.
    pub fn signal_redis(&self, signal: Signal) {
        self.redis.as_ref().expect("Redis runs").signal(signal);
    }

    /// SIGKILL for Redis: everything in it is gone.
    pub fn kill_redis(&mut self) {
        self.redis.take().expect("Redis runs").kill();
    }

    /// Loses everything in Redis while it runs.
    pub async fn flush_redis(&self) {
        self.redis_command("FLUSHALL").await.expect("Redis answers");
    }

    /// Where a daemon finds Redis. Each has a user of its own with the rights that it is said to need, and no more.
    pub fn redis_url_of(&self, user: &str) -> String {
        match &self.tls {
            Some((port, _)) => format!("rediss://{user}:{}@127.0.0.1:{}", secret_of(user), port.number()),
            None => self.plain_redis_url_of(user),
        }
    }

    /// The same without TLS.
    pub fn plain_redis_url_of(&self, user: &str) -> String {
        format!("redis://{user}:{}@127.0.0.1:{}", secret_of(user), self.redis_port.number())
    }

    /// A file with the password of one of them.
    pub fn password_file(&self, user: &str) -> PathBuf {
        let file = self.dir.path().join(format!("{user}.password"));
        std::fs::write(&file, secret_of(user) + "\n").expect("a file is written");
        file
    }

    /// The certificates of a world with TLS.
    pub fn certificates(&self) -> &Certificates {
        &self.tls.as_ref().expect("a world with TLS").1
    }

    fn user_of_central(&self) -> String {
        format!(
            "central reset on {} {}",
            acl::password(&secret_of("central")),
            acl::of_central(&keys(), Joining::Discovered)
        )
    }

    fn user_of_store(&self, store: &str) -> String {
        let id = StoreId::parse(store).expect("a store's id");
        format!(
            "{store} reset on {} {}",
            acl::password(&secret_of(store)),
            acl::of_store(&keys(), &id, Joining::Discovered)
        )
    }

    /// By the certificates that a daemon needs, its options.
    fn tls_options(&self) -> Vec<String> {
        self.tls.iter().flat_map(|(_, certificates)| certificates.client_options()).collect()
    }

    fn start_central(&mut self) {
        let mut args = vec![
            "serve".to_owned(),
            format!("--redis-url={}", self.redis_url_of("central")),
            format!("--database-path={}", self.dir.path().join("central.db").display()),
            format!("--listen=127.0.0.1:{}", self.central_port.number()),
            format!("--address-file={}", self.address_file(&Daemon::Central).display()),
            format!("--heartbeat-max-age-ms={}", self.options.max_age_ms),
            format!("--sweep-interval-ms={}", self.options.sweep_ms),
        ];
        args.extend(self.tls_options());
        replace(&mut args, &self.central_args);
        self.central = Some(self.start_daemon(&Daemon::Central, &args));
    }

    /// Daemons that start from now on may have so many descriptors.
    pub fn limit_descriptors(&mut self, limit: u64) {
        self.limit = Some(format!("ulimit -n {limit}"));
    }

    /// Daemons that start from now on can write no file beyond so many bytes, as if the disk was full. `None`: they can.
    pub fn limit_files(&mut self, bytes: Option<u64>) {
        self.limit = bytes.map(|bytes| format!("trap '' XFSZ && ulimit -f {}", bytes / 512));
    }

    /// Daemons that start from now on can write no log.
    pub fn fill_logs(&mut self) {
        self.limit = Some("exec 2> /dev/full".to_owned());
    }

    /// The program of the version that a daemon is to have.
    fn binary_of(&self, daemon: &Daemon) -> PathBuf {
        let find = if self.earlier.contains(daemon) { earlier_binary } else { binary };
        find(if *daemon == Daemon::Central { "central" } else { "store-agent" })
    }

    fn start_daemon(&self, daemon: &Daemon, args: &[String]) -> Process {
        let (program, log) = (self.binary_of(daemon), self.dir.path().join(format!("{}.log", daemon.name())));
        let Some(limit) = &self.limit else { return Process::start(&program, args, &log) };
        let script = format!("{limit} && exec \"$0\" \"$@\"");
        let mut all = vec!["-c".to_owned(), script, program.display().to_string()];
        all.extend_from_slice(args);
        Process::start(Path::new("/bin/sh"), &all, &log)
    }

    fn start_store(&mut self, store: &str) {
        let mut args = vec![
            "serve".to_owned(),
            format!("--store-id={store}"),
            format!("--redis-url={}", self.redis_url_of(store)),
            format!("--database-path={}", self.dir.path().join(format!("{store}.db")).display()),
            format!("--listen=127.0.0.1:{}", self.port_of(store)),
            format!("--address-file={}", self.address_file(&Daemon::Store(store.to_owned())).display()),
            format!("--heartbeat-interval-ms={}", self.options.heartbeat_ms),
        ];
        args.extend(self.tls_options());
        replace(&mut args, &self.store_args);
        let process = self.start_daemon(&Daemon::Store(store.to_owned()), &args);
        self.stores.get_mut(store).expect("a store of this world").1 = Some(process);
    }

    /// Adds a store and starts its agent.
    pub fn add_store(&mut self, store: &str) {
        self.stores.insert(store.to_owned(), (Port::reserve(), None));
        if self.redis.is_some() {
            let user = self.user_of_store(store);
            let words: Vec<&str> = user.split_whitespace().collect();
            redis::Client::open(self.redis_url())
                .and_then(|client| client.get_connection())
                .and_then(|mut redis| redis::cmd("ACL").arg("SETUSER").arg(words).exec(&mut redis))
                .expect("Redis takes a user");
        }
        self.start_store(store);
    }

    fn process(&mut self, daemon: &Daemon) -> &mut Option<Process> {
        match daemon {
            Daemon::Central => &mut self.central,
            Daemon::Store(store) => &mut self.stores.get_mut(store).expect("a store of this world").1,
        }
    }

    /// The daemon's process.
    pub fn running(&mut self, daemon: &Daemon) -> &mut Process {
        self.process(daemon).as_mut().expect("the daemon runs")
    }

    pub fn kill(&mut self, daemon: &Daemon) {
        self.process(daemon).take().expect("the daemon runs").kill();
    }

    /// SIGTERM; the exit code.
    pub fn terminate(&mut self, daemon: &Daemon) -> Option<i32> {
        self.process(daemon).take().expect("the daemon runs").terminate()
    }

    /// Starts a daemon again and waits until it answers.
    pub async fn restart(&mut self, daemon: &Daemon) {
        self.start(daemon);
        self.up(daemon).await;
    }

    /// Starts a daemon again, whatever comes of it.
    pub fn start(&mut self, daemon: &Daemon) {
        match daemon {
            Daemon::Central => self.start_central(),
            Daemon::Store(store) => self.start_store(store),
        }
    }

    /// Where a daemon says on which address it serves.
    fn address_file(&self, daemon: &Daemon) -> PathBuf {
        self.dir.path().join(format!("{}.address", daemon.name()))
    }

    /// Waits until a daemon answers: the one that was started, and nobody else on its port.
    pub async fn up(&mut self, daemon: &Daemon) {
        let (client, file) = match daemon {
            Daemon::Central => (self.central(), self.address_file(daemon)),
            Daemon::Store(store) => (self.store(store), self.address_file(daemon)),
        };
        let process = self.running(daemon);
        until(&format!("{daemon:?} answers"), LONG, async || {
            process.must_run();
            let told = std::fs::read_to_string(&file).unwrap_or_default();
            if told.split_whitespace().nth(1) != Some(&process.id().to_string()) {
                return Err("it has not said that it serves".to_owned());
            }
            match client.ask(reqwest::Method::GET, "/ready", &[], None).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until central would sell for a store.
    pub async fn online(&self, store: &str) {
        let central = self.central();
        until(&format!("{store} is online"), LONG, async || {
            let answer = central.get(&format!("/v1/stores/{store}")).await;
            if answer.body["status"] == "online" { Ok(()) } else { Err(answer.body) }
        })
        .await;
    }

    /// Waits until central's view is each store's stock: everything applied, digests equal, nothing pending.
    pub async fn converged(&self, within: Duration) {
        let central = self.central();
        for store in self.stores.keys() {
            let agent = self.store(store);
            until(&format!("central equals {store}"), within, async || {
                let own = agent.get("/v1/status").await.body;
                let seen = central.get(&format!("/v1/stores/{store}")).await.body;
                let equal = own["digest"] == seen["digestValue"]
                    && own["head"] == seen["applied"]
                    && own["epoch"] == seen["epoch"]
                    && seen["digest"] == "equal"
                    && seen["openPurchases"] == 0;
                if equal { Ok(()) } else { Err(json!({"store": own, "central": seen})) }
            })
            .await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let stores = self.stores.iter().filter_map(|(name, (_, process))| Some((name.as_str(), process.as_ref()?)));
        let rest = [("central", self.central.as_ref()), ("redis", self.redis.as_ref())];
        let rest = rest.into_iter().filter_map(|(name, process)| Some((name, process?)));
        for (name, process) in stores.take(4).chain(rest) {
            eprintln!("--- end of {name}'s log\n{}", process.tail());
        }
    }
}
