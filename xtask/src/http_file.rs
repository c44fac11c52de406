//! Runs `demo.http` with a real client against a fresh central and two stores, on the ports that the file names when
//! they are free.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use crate::demo::Stage;
use crate::process::{self, wait, within};
use crate::redis::which;

/// The client, from the npm registry.
const CLIENT: &str = "httpyac@6";
/// For fetching the client, which a slow network may need.
const FETCH_LIMIT: Duration = Duration::from_secs(240);
/// For the file itself, which takes a few seconds.
const RUN_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run() -> anyhow::Result<()> {
    println!("demo.http, with {CLIENT}, against central and two stores");
    if which("npx").is_none() {
        bail!(
            "npx is needed to run demo.http: install Node.js 18 or later with npm (Debian, Ubuntu: sudo apt-get \
             install nodejs npm; Fedora: sudo dnf install nodejs; macOS: brew install node) and run this again"
        );
    }
    let stop = process::asked_to_stop()?;
    print!("  client   httpyac ");
    std::io::stdout().flush()?;
    let fetched = within(FETCH_LIMIT, &stop, npx().arg("--version"))?;
    if !fetched.success() {
        bail!("npx cannot fetch {CLIENT}: is the npm registry reachable?");
    }
    let stage = Stage::start(&["store-1".to_owned(), "store-2".to_owned()], "http-file")?;
    for store in ["store-1", "store-2"] {
        wait(&format!("{store} is online"), Duration::from_secs(30), || stage.is_online(store))?;
    }
    let mut client = npx();
    client.args(["send", "demo.http", "--all", "--bail", "--no-color", "--env", "local"]);
    client.args(["-o", "none", "--output-failed", "exchange"]);
    // The addresses of http-client.env.json are the usual ports; here they may be taken.
    let ports =
        [("central", stage.central_port), ("store1", stage.port_of("store-1")), ("store2", stage.port_of("store-2"))];
    for (name, port) in ports {
        client.arg("--var").arg(format!("{name}=http://127.0.0.1:{port}"));
    }
    let status = within(RUN_LIMIT, &stop, &mut client)?;
    let logs = stage.dir.display();
    // The client's own exit codes.
    match status.code() {
        Some(0) => Ok(()),
        Some(10) => bail!("demo.http: a request or a script failed; the servers' logs are in {logs}"),
        Some(20) => bail!("demo.http: an assertion failed; the servers' logs are in {logs}"),
        _ => bail!("demo.http: the client ended with {status}; the servers' logs are in {logs}"),
    }
}

fn npx() -> Command {
    let mut command = Command::new("npx");
    command.args(["--yes", CLIENT]).current_dir(process::root());
    command
}
