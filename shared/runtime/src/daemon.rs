//! What both daemons need around their work: descriptors, threads, ports, logs, signals, and tasks that live and die together.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::options::Listen;
use crate::sqlite;

/// How long tasks may take, all in all, to finish what they are at once they are told to stop.
const GRACE: Duration = Duration::from_secs(7);
/// Connections that the system keeps until they are taken, at most: as many as of any listener of tokio.
const BACKLOG: u32 = 128;

/// The exit status of `status` when the daemon answers and somebody has to look after something. 1: no answer.
pub const NEEDS_ATTENTION: u8 = 3;

/// The whole of `main`: runs the program, says why it failed, and waits for nothing that goes on in the background.
pub fn run_main(program: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let result = Runtime::new().context("the system gives no threads").and_then(|runtime| {
        let result = runtime.block_on(program);
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            // A disk that is full takes no log either; the status says it, too.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the number of descriptors that this process may have as far as the system lets it; returns that number.
pub fn raise_descriptors() -> anyhow::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of descriptors")?;
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => Ok(hard),
        Err(error) => {
            tracing::warn!(%error, soft, "the limit of descriptors cannot be raised");
            Ok(soft)
        }
    }
}

/// The port of a daemon that does not serve yet. Whoever connects is refused by the system: a start may take long, and what
/// would wait for its end would be done when its client has given up.
#[derive(Debug)]
pub struct Port {
    socket: TcpSocket,
    named: Listen,
}

impl Port {
    /// Takes the first address that is free. One at which another process serves is not: that is said before a long start.
    pub fn take(listen: &Listen) -> anyhow::Result<Self> {
        let mut refused = None;
        for address in listen.addresses() {
            match bound(*address) {
                Ok(socket) => return Ok(Self { socket, named: listen.clone() }),
                Err(error) => refused = Some(error),
            }
        }
        let refused = refused.map_or_else(|| anyhow!("it stands for no address"), anyhow::Error::from);
        Err(refused.context(format!("cannot listen on {listen}")))
    }

    /// From now on it is served.
    pub fn listen(self) -> anyhow::Result<TcpListener> {
        self.socket.listen(BACKLOG).with_context(|| format!("cannot listen on {}", self.named))
    }
}

fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of a process that has ended may linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A thread for tasks of the link: whatever clients ask for, they go on. Of several threads that share their tasks each one
/// that is woken wakes another to help it, and for a single event there is nothing to help with.
#[derive(Debug)]
pub struct LinkThread {
    /// For what is started from elsewhere.
    pub handle: Handle,
    runtime: Option<Runtime>,
}

impl LinkThread {
    /// Starts it. It ends when this is dropped.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("link").enable_all().build();
        let runtime = runtime.context("the system gives no threads")?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for LinkThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Form of the log lines on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error; `RUST_LOG` filters, `info` by default. For `main` alone.
pub fn start_log(format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(&std::env::var_os("RUST_LOG").unwrap_or_default().to_string_lossy())?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say so where it cannot be said, and panic because of that.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(colours);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Prints a line. Whoever reads may have seen enough and closed the pipe: that is no failure.
#[macro_export]
macro_rules! say {
    ($($said:tt)*) => { $crate::daemon::print(format_args!("{}\n", format_args!($($said)*))) };
}

/// Prints to standard output, if it is still read.
pub fn print(text: std::fmt::Arguments<'_>) {
    if let Err(error) = std::io::stdout().write_fmt(text) {
        assert!(error.kind() == std::io::ErrorKind::BrokenPipe, "standard output cannot be written: {error}");
    }
}

fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let text = if text.trim().is_empty() { "info" } else { text };
    let shape =
        || format!("RUST_LOG={text:?} is no filter: give a level such as info, or target=level, separated by commas");
    // A word alone is a target to the library, so that a level with a slip in it would switch off all the rest.
    let words = text.split(',').map(str::trim).filter(|directive| !directive.contains('='));
    for word in words {
        word.parse::<LevelFilter>().ok().filter(|_| !word.is_empty()).with_context(shape)?;
    }
    // The library's error has itself as its cause.
    EnvFilter::try_new(text).map_err(|error| anyhow::anyhow!("{}: {error}", shape()))
}

/// The command line. What `serve` takes is meant if no command is named, and stands in the help of the program itself.
pub fn parse<T: Parser>() -> T {
    let mut command = T::command();
    if let Some(serve) = command.find_subcommand("serve").cloned() {
        let options = serve.help_template("{options}").render_help();
        command = command.after_help(format!("Without a command: serve, with these options:\n\n{options}"));
    }
    let matches = command.get_matches_from(arguments());
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The process's arguments, with `serve` put in where no subcommand is named: it is what is meant if nothing is said.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let first = arguments.get(1).and_then(|first| first.to_str()).unwrap_or("-");
    if first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first) {
        arguments.insert(1.min(arguments.len()), "serve".into());
    }
    arguments
}

/// Tells whoever started this process where it serves: its address and its process id, separated by a space. The file is
/// there complete or not at all.
pub fn write_address(file: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, format!("{address} {}\n", std::process::id()))
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("cannot write the address file {}", file.display()))
}

/// Resolves at SIGTERM or SIGINT.
pub async fn asked_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, "stopping");
    Ok(())
}

/// Tasks that live and die together: the first that returns, fails or panics stops all.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, anyhow::Result<()>)>,
    stop: CancellationToken,
}

impl Tasks {
    /// No tasks yet; they end when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), stop }
    }

    /// Adds a task. It must end soon after the token is cancelled.
    pub fn add(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Adds a task that runs on a thread of the link.
    pub fn add_on(
        &mut self,
        thread: &LinkThread,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.set.spawn_on(async move { (name, task.await) }, &thread.handle);
    }

    /// Waits for the end of all. An error if any task failed, panicked, or ended without being asked to. Whoever only hears
    /// that the database's writer has stopped ends alone: the writer, a task like the others, says why it has.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        let mut stopped = Ok(());
        let mut deadline = None;
        while let Some(ended) = self.next(&mut deadline).await {
            let asked = self.stop.is_cancelled();
            let failure = match ended {
                Ok((_, Ok(()))) if asked => None,
                Ok((name, Ok(()))) => Some(anyhow!("task {name} ended by itself")),
                Ok((name, Err(error))) => Some(error.context(format!("task {name} failed"))),
                Err(error) => Some(anyhow!("a task panicked: {error}")),
            };
            match failure {
                Some(failure) if is_of_the_writer(&failure) => {
                    stopped = Err(failure);
                    continue;
                }
                Some(failure) if result.is_ok() => result = Err(failure),
                Some(failure) => tracing::error!("{failure:#}"),
                None => {}
            }
            self.stop.cancel();
        }
        result.and(stopped)
    }

    /// The next task to end; past the grace time after a stop the rest is dropped.
    async fn next(
        &mut self,
        deadline: &mut Option<Instant>,
    ) -> Option<Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>> {
        if deadline.is_none() {
            tokio::select! {
                ended = self.set.join_next() => return ended,
                () = self.stop.cancelled() => {}
            }
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + GRACE);
        tokio::time::timeout_at(deadline, self.set.join_next()).await.unwrap_or(None)
    }
}

fn is_of_the_writer(failure: &anyhow::Error) -> bool {
    failure.chain().any(|cause| matches!(cause.downcast_ref(), Some(sqlite::Error::Stopped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failure_stops_all_and_is_reported() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        let waits = stop.clone();
        tasks.add("waits", async move {
            waits.cancelled().await;
            Ok(())
        });
        tasks.add("fails", async { Err(anyhow!("broken")) });
        let error = tasks.run().await.expect_err("fails");
        assert_eq!(format!("{error:#}"), "task fails failed: broken");
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn why_the_writer_has_stopped_is_what_is_reported() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        tasks.add("link", async { Err(sqlite::Error::Stopped.into()) });
        let (told, why) = tokio::sync::oneshot::channel();
        let goes_on = stop.clone();
        tasks.add("http", async move {
            tokio::task::yield_now().await;
            assert!(!goes_on.is_cancelled(), "nothing ends before the writer has said why");
            told.send(()).expect("the writer waits for it");
            goes_on.cancelled().await;
            Ok(())
        });
        tasks.add("writer", async move {
            why.await?;
            Err(anyhow!("the disk is full"))
        });
        assert_eq!(format!("{:#}", tasks.run().await.expect_err("fails")), "task writer failed: the disk is full");
        let mut tasks = Tasks::new(stop);
        tasks.add("link", async { Err(sqlite::Error::Stopped.into()) });
        let unsaid = tasks.run().await.expect_err("also if nobody says why");
        assert_eq!(format!("{unsaid:#}"), "task link failed: the writer has stopped");
    }

    #[tokio::test]
    async fn the_link_goes_on_while_all_other_threads_are_busy() {
        let link = LinkThread::start().expect("starts");
        let mut tasks = Tasks::new(CancellationToken::new());
        let (said, hear) = std::sync::mpsc::channel();
        tasks.add_on(&link, "link", async move {
            said.send(std::thread::current().name().map(str::to_owned))?;
            Ok(())
        });
        // This blocks the only thread of the runtime that waits for the tasks.
        assert_eq!(hear.recv().expect("it runs").as_deref(), Some("link"));
        assert!(tasks.run().await.is_err(), "it ended by itself");
    }

    #[tokio::test]
    async fn a_port_is_taken_before_it_is_served_and_nothing_queues_meanwhile() {
        let port = Port::take(&"127.0.0.1:0".parse().expect("valid")).expect("there is a free one");
        let address = port.socket.local_addr().expect("is bound");
        let refused = tokio::net::TcpStream::connect(address).await.expect_err("nobody serves");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let listener = port.listen().expect("is its own");
        assert!(tokio::net::TcpStream::connect(address).await.is_ok());
        let named = address.to_string().parse().expect("valid");
        let taken = Port::take(&named).expect_err("is served");
        assert!(format!("{taken:#}").starts_with(&format!("cannot listen on {address}: ")), "{taken:#}");
        drop(listener);
        assert!(Port::take(&named).is_ok(), "it is free again, whatever lingers");
    }

    #[test]
    fn descriptors_are_raised_to_the_hard_limit() {
        let limit = raise_descriptors().expect("the limit can be read");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("can be read"), (limit, limit));
    }

    #[test]
    fn a_filter_of_the_log_has_no_slips() {
        for good in ["", " ", "info", "WARN", "off", "store_agent=debug", "info,hyper=off,runtime::http=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,", "debug;warn", "store_agent=loud", "info,central"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_stop_that_was_asked_for_is_no_error() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        let waits = stop.clone();
        tasks.add("waits", async move {
            waits.cancelled().await;
            Ok(())
        });
        stop.cancel();
        assert!(tasks.run().await.is_ok());
    }
}
