//! Runs `demo.http` with a real client against a fresh central and two stores on the ports that the file names.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::demo::Stage;
use crate::process::{self, wait};

pub(crate) fn run() -> anyhow::Result<()> {
    println!("demo.http against central and two stores");
    let stage = Stage::start(&["store-1".to_owned(), "store-2".to_owned()], "http-file")?;
    for store in ["store-1", "store-2"] {
        wait(&format!("{store} is online"), Duration::from_secs(30), || stage.is_online(store))?;
    }
    // The file's own addresses are the usual ports; here they may be taken.
    let ports =
        [("central", stage.central_port), ("store1", stage.port_of("store-1")), ("store2", stage.port_of("store-2"))];
    let mut command = Command::new("npx");
    command.args(["--yes", "httpyac@6", "send", "demo.http", "--all", "--bail", "--no-color", "--env", "local"]);
    command.args(["-o", "none", "--output-failed", "exchange"]);
    for (name, port) in ports {
        command.arg("--var").arg(format!("{name}=http://127.0.0.1:{port}"));
    }
    let status = command.current_dir(process::root()).status().context("npx is needed: install Node.js")?;
    if !status.success() {
        bail!("demo.http failed");
    }
    Ok(())
}
