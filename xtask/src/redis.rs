//! Finds a Redis server on this machine, or installs one with the system's package manager.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::bail;

const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];

/// Package manager, what refreshes its lists, what installs.
const MANAGERS: [(&str, &[&str], &[&str]); 6] = [
    ("apt-get", &["update", "-q"], &["install", "-yq", "redis-server"]),
    ("dnf", &[], &["install", "-y", "redis"]),
    ("pacman", &[], &["-Sy", "--noconfirm", "redis"]),
    ("apk", &[], &["add", "redis"]),
    ("zypper", &[], &["--non-interactive", "install", "redis"]),
    ("brew", &[], &["install", "redis"]),
];

/// The server's path; installs it if there is none.
pub(crate) fn server() -> anyhow::Result<PathBuf> {
    if let Some(path) = find() {
        return Ok(path);
    }
    println!("  no redis-server on this machine: installing it");
    for (manager, refresh, install) in MANAGERS {
        if which(manager).is_none() {
            continue;
        }
        if !refresh.is_empty() {
            run(manager, refresh);
        }
        run(manager, install);
        if let Some(path) = find() {
            return Ok(path);
        }
        break;
    }
    bail!(
        "Redis could not be installed. Install it by hand (Debian, Ubuntu: sudo apt-get install redis-server; \
         Fedora: sudo dnf install redis; macOS: brew install redis) and run this again."
    )
}

fn find() -> Option<PathBuf> {
    SERVERS.into_iter().find_map(which)
}

/// The first program of this name on the path.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn run(manager: &str, args: &[&str]) {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0"));
    let mut command = if root || manager == "brew" || which("sudo").is_none() {
        Command::new(manager)
    } else {
        let mut command = Command::new("sudo");
        command.arg(manager);
        command
    };
    // Whether it worked shows in whether the server is there afterwards.
    let _ = command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).status();
}
