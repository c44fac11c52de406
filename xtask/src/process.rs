//! Child processes that end with this one, and free ports.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Builds both daemons, with cargo's own progress, and returns where they are.
pub(crate) fn build_daemons() -> anyhow::Result<PathBuf> {
    let status = Command::new(cargo()).args(["build", "-p", "central", "-p", "store-agent"]).status()?;
    if !status.success() {
        bail!("the build failed");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("debug"))
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
        Ok(Self { child })
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
pub(crate) fn wait(what: &str, within: Duration, mut look: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while !look() {
        if started.elapsed() > within {
            bail!("{what}: not within {} s", within.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(started.elapsed())
}
