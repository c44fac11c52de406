//! Uses the pages of a store and of central as people do: a real browser, driven by the scripts in `tests/pages`,
//! against a fresh central and a store, and against a second pair that wants tokens.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::demo::Stage;
use crate::process::{self, wait, within};
use crate::redis::which;

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// For fetching the library that drives the browser, which a slow network may need.
const FETCH_LIMIT: Duration = Duration::from_secs(240);
/// For the scripts, which take some seconds.
const RUN_LIMIT: Duration = Duration::from_secs(180);
const STORE: &str = "store-1";
const GUARDED: &str = "store-2";

pub(crate) fn run() -> anyhow::Result<()> {
    println!("the pages, in a browser, against central and a store");
    let browser = BROWSERS.into_iter().find_map(which).context(
        "a browser is needed: install Chromium (Debian, Ubuntu: sudo apt-get install chromium; Fedora: sudo dnf \
         install chromium) and run this again",
    )?;
    if which("npm").is_none() {
        bail!("npm is needed: install Node.js 20 or later with npm and run this again");
    }
    let stop = process::asked_to_stop()?;
    let scripts = process::root().join("tests/pages");
    let mut fetch = Command::new("npm");
    fetch.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&scripts);
    if !within(FETCH_LIMIT, &stop, &mut fetch)?.success() {
        bail!("npm cannot fetch what tests/pages/package.json names: is the npm registry reachable?");
    }
    let mut stage = Stage::start(&[STORE.to_owned()], "pages")?;
    wait(&format!("{STORE} is online"), Duration::from_secs(30), || stage.is_online(STORE))?;
    let guarded = stage.add_guarded(GUARDED, "read,sell")?;
    let mut node = Command::new("node");
    // One script at a time: they share the store.
    node.args(["--test", "--test-concurrency=1", "store.test.mjs", "central.test.mjs"]).current_dir(&scripts);
    node.env("BROWSER", browser).env("SCREENSHOTS", &stage.dir);
    node.env("CENTRAL_URL", format!("http://127.0.0.1:{}", stage.central_port));
    node.env("STORE_URL", format!("http://127.0.0.1:{}", stage.port_of(STORE)));
    node.env("GUARDED_URL", format!("http://127.0.0.1:{}", stage.port_of(GUARDED))).env("TOKEN", guarded.token);
    node.env("GUARDED_CENTRAL_URL", format!("http://127.0.0.1:{}", guarded.central_port));
    let status = within(RUN_LIMIT, &stop, &mut node)?;
    if !status.success() {
        bail!("a page does not do what it should; logs and screenshots are in {}", stage.dir.display());
    }
    Ok(())
}
