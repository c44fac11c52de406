//! Child processes that end with this one, and free ports.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Builds both daemons, with cargo's own progress, and returns where they are.
pub(crate) fn build_daemons() -> anyhow::Result<PathBuf> {
    build(of_workspace("build").args(["--bin", "central", "--bin", "store-agent"]), "debug")
}

/// The same as packages and images have them: optimised, and with no feature that only the tests want.
pub(crate) fn build_released_daemons() -> anyhow::Result<PathBuf> {
    let mut build_them = Command::new(cargo());
    build_them.args(["build", "--profile", "dist", "--package", "central", "--package", "store-agent"]);
    build(&mut build_them, "dist")
}

fn build(command: &mut Command, folder: &str) -> anyhow::Result<PathBuf> {
    if !command.status()?.success() {
        bail!("the build failed");
    }
    Ok(target().join(folder))
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A command of cargo's on the whole workspace, from wherever this was called. A package that is built alone has dependencies
/// with fewer features, which would be compiled once more.
pub(crate) fn of_workspace(command: &str) -> Command {
    let mut cargo = Command::new(cargo());
    cargo.arg(command).arg("--manifest-path").arg(root().join("Cargo.toml"));
    cargo
}

/// The cargo that runs this.
pub(crate) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The wanted port if it is free, else any.
pub(crate) fn port(wanted: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
    Ok(listener.local_addr()?.port())
}

/// A running child, its output in a file. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a process group of its own: Ctrl-C is for this program, which stops its children itself.
    pub(crate) fn start(program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log if it has ended: nobody needs to wait for what it would have done.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join("\n");
        let name = self.log.file_stem().unwrap_or_default().display();
        bail!("{name} ended by itself with {status}; the end of {}:\n{end}", self.log.display())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        // A child that is gone already needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `look` is true.
pub(crate) fn wait(what: &str, within: Duration, mut look: impl FnMut() -> bool) -> anyhow::Result<()> {
    try_wait(what, within, || Ok(look()))
}

/// Waits until `look` is true; its error ends the wait.
pub(crate) fn try_wait(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !look()? {
        if started.elapsed() > within {
            bail!("{what}: not within {} s", within.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Becomes true at Ctrl-C, which would else end this program alone and leave behind what it has started.
pub(crate) fn asked_to_stop() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

/// Runs a command with all that it starts; ends them when the time is over or somebody asks.
pub(crate) fn within(limit: Duration, stop: &AtomicBool, command: &mut Command) -> anyhow::Result<ExitStatus> {
    // npm and npx start a shell, which starts node: only as a group can they be ended.
    let mut child = command.process_group(0).spawn().with_context(|| format!("{command:?} does not start"))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) {
            end(&mut child);
            bail!("stopped");
        }
        if started.elapsed() > limit {
            end(&mut child);
            bail!("{command:?} was not done within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // A group that is gone already needs no signal.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}
