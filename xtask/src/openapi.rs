//! The descriptions of both servers: written anew beside the code, or held against the servers. A client that is generated
//! from central's does what a shop does; schemathesis makes requests of all kinds out of each, and sees that every answer is
//! one that is described.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use crate::demo::Stage;
use crate::process::{self, wait, within};

/// From PyPI.
const CHECKER: &str = "schemathesis==4.32.5";
const GENERATOR: &str = "openapi-python-client==0.29.1";
/// Newer interpreters first: all of them will do.
const PYTHONS: [&str; 4] = ["python3.13", "python3.12", "python3.11", "python3"];
/// For fetching both, which a slow network may need.
const FETCH_LIMIT: Duration = Duration::from_secs(300);
/// Beyond the seconds that are asked for: it may be in the middle of an operation.
const GRACE: Duration = Duration::from_secs(120);
/// For the generated client, and for generating it.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);
const STORE: &str = "store-1";

/// `cargo xtask openapi`
#[derive(Args)]
pub(crate) struct Options {
    /// Write docs/openapi anew instead, from what the code says now.
    #[arg(long)]
    write: bool,
    /// How long to ask each server.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The checker's dice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.write { write() } else { check(options) }
}

fn write() -> anyhow::Result<()> {
    let mut tests = process::of_workspace("test");
    tests.args(["--workspace", "--lib", "the_description_beside_the_code"]);
    if !tests.current_dir(process::root()).env("SHELFSTREAM_WRITE_OPENAPI", "1").status()?.success() {
        bail!("docs/openapi is as it was");
    }
    Ok(())
}

fn check(options: &Options) -> anyhow::Result<()> {
    println!("both descriptions, with {CHECKER}, {} s each", options.seconds);
    let stop = process::asked_to_stop()?;
    let venv = process::target().join("schemathesis");
    fetch(&venv, &stop)?;
    let stage = Stage::start(&[STORE.to_owned()], "openapi")?;
    wait(&format!("{STORE} is online"), Duration::from_secs(30), || stage.is_online(STORE))?;
    // The examples of both descriptions name these.
    for product in ["coffee", "tea"] {
        stage.store(STORE).post("/v1/inventory", &[], &json!({"productId": product, "quantity": 100_000}))?;
        let item = format!("/v1/inventory/{STORE}/{product}");
        wait(&format!("central has {product}"), Duration::from_secs(30), || {
            stage.central().get(&item).is_ok_and(|answer| answer.status == 200)
        })?;
    }
    let folder = process::root().join("xtask/openapi");
    use_client(&venv, &folder, &stage, &stop)?;
    let mut failed = Vec::new();
    // The store's own API last: it may take the store off the link.
    for (name, port) in [("central", stage.central_port), ("store-agent", stage.port_of(STORE))] {
        println!("\n==== {name}");
        let mut run = Command::new(venv.join("bin/st"));
        // What it remembers of a run stays with that run.
        run.current_dir(&stage.dir).env("SCHEMATHESIS_HOOKS", folder.join("checks.py"));
        run.arg("--config-file").arg(folder.join("schemathesis.toml"));
        run.arg("run").arg(format!("http://127.0.0.1:{port}/openapi.json"));
        run.args(["--url", &format!("http://127.0.0.1:{port}"), "--no-color", "--max-failures", "20"]);
        run.args(["--max-time", &options.seconds.to_string(), "--seed", &options.seed.to_string()]);
        run.args(["--report", "ndjson", "--report-ndjson-path"]).arg(stage.dir.join(format!("{name}.ndjson")));
        run.env("PYTHONDONTWRITEBYTECODE", "1");
        let limit = Duration::from_secs(options.seconds) + GRACE;
        if !within(limit, &stop, &mut run)?.success() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("what {} answers is not what it describes; logs are in {}", failed.join(" and "), stage.dir.display());
    }
    Ok(())
}

/// Python with the checker and the generator, unless they are there.
fn fetch(venv: &Path, stop: &AtomicBool) -> anyhow::Result<()> {
    // Written once all of it is there.
    let done = venv.join("fetched");
    let wanted = [CHECKER, GENERATOR].join(" ");
    if std::fs::read_to_string(&done).is_ok_and(|fetched| fetched == wanted) {
        return Ok(());
    }
    let python = PYTHONS.into_iter().find(|python| serves(python)).context(
        "Python 3.11 or later is needed: install it (Debian, Ubuntu: sudo apt-get install python3-venv; Fedora: sudo dnf \
         install python3) and run this again",
    )?;
    if !within(FETCH_LIMIT, stop, Command::new(python).args(["-m", "venv", "--clear"]).arg(venv))?.success() {
        bail!("{python} makes no environment in {}", venv.display());
    }
    let mut pip = Command::new(venv.join("bin/pip"));
    if !within(FETCH_LIMIT, stop, pip.args(["install", "--quiet", CHECKER, GENERATOR]))?.success() {
        bail!("pip cannot fetch {wanted}: is PyPI reachable?");
    }
    Ok(std::fs::write(done, wanted)?)
}

/// Generates a client from what central says of itself, and does with it what a shop does.
fn use_client(venv: &Path, folder: &Path, stage: &Stage, stop: &AtomicBool) -> anyhow::Result<()> {
    let central = format!("http://127.0.0.1:{}", stage.central_port);
    let client = stage.dir.join("client");
    let mut generate = Command::new(venv.join("bin/openapi-python-client"));
    generate.args(["generate", "--url", &format!("{central}/openapi.json"), "--output-path"]).arg(&client);
    // It warns of what it leaves out: answers that are a line for each object.
    generate.stdout(File::create(stage.dir.join("generator.log"))?);
    if !within(CLIENT_LIMIT, stop, &mut generate)?.success() {
        bail!("no client can be generated: see {}", stage.dir.join("generator.log").display());
    }
    let mut script = Command::new(venv.join("bin/python"));
    script.arg(folder.join("client.py")).arg(central).env("PYTHONPATH", client).env("PYTHONDONTWRITEBYTECODE", "1");
    if !within(CLIENT_LIMIT, stop, &mut script)?.success() {
        bail!("the generated client does not get what it should; logs are in {}", stage.dir.display());
    }
    Ok(())
}

/// Whether a Python is new enough, and has what it takes: the name alone may be a mere pointer to one.
fn serves(python: &str) -> bool {
    let test = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
    Command::new(python).args(["-c", test]).output().is_ok_and(|run| run.status.success())
}
