//! `cargo xtask demo`: a play on real sales. Each act says what is done and then checks it; the exit status is the
//! checks'.

mod acts;
mod keys;
mod stage;
mod tills;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;

pub(crate) use stage::Stage;

use crate::{data, process};

/// Stores on stage.
const STORES: usize = 4;
/// How long the play takes when nothing is said.
const PLAY: Duration = Duration::from_secs(90);

#[derive(Args)]
pub(crate) struct Options {
    /// A folder of sales data: see demo/data/README.md for its format.
    #[arg(long)]
    data: Option<PathBuf>,
    /// End after so many seconds, play included; without it the demo stays live on a terminal.
    #[arg(long)]
    seconds: Option<u64>,
}

/// Where lines go: redrawn in place on a terminal, plain otherwise.
pub(crate) struct Screen {
    terminal: bool,
    started: Instant,
    failures: usize,
}

impl Screen {
    /// A heading.
    pub(crate) fn act(&mut self, number: &str, what: &str) {
        self.clear();
        let (bold, plain) = self.style("1");
        println!("\n{bold}{number}  {what}{plain}");
    }

    /// A remark.
    pub(crate) fn say(&mut self, what: &str) {
        self.clear();
        println!("     {what}");
    }

    /// A check's outcome.
    pub(crate) fn check(&mut self, passed: bool, what: &str) {
        self.clear();
        let (colour, plain) = self.style(if passed { "32" } else { "31" });
        println!("   {colour}{} {what}{plain}", if passed { '✓' } else { '✗' });
        self.failures += usize::from(!passed);
    }

    /// What goes on, on a terminal.
    pub(crate) fn status(&mut self, what: &str) {
        if self.terminal {
            print!("\r\x1b[2K\x1b[2m     {:>3} s  {what}\x1b[0m", self.started.elapsed().as_secs());
            // A terminal that is gone cannot be told.
            let _ = std::io::stdout().flush();
        }
    }

    fn clear(&self) {
        if self.terminal {
            print!("\r\x1b[2K");
        }
    }

    fn style(&self, code: &str) -> (String, &'static str) {
        if self.terminal { (format!("\x1b[{code}m"), "\x1b[0m") } else { (String::new(), "") }
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("Shelfstream: four stores, a shop, and everything that can go wrong.");
    let stop = process::asked_to_stop()?;
    let folder = options.data.clone().unwrap_or_else(|| process::root().join("demo/data"));
    let set = data::read(&folder, STORES)?;
    let stores: Vec<String> = {
        let mut names: Vec<String> = set.opening.keys().map(|(store, _)| store.clone()).collect();
        names.dedup();
        names
    };
    let stage = Stage::start(&stores, "demo")?;
    let started = Instant::now();
    let mut screen = Screen { terminal: std::io::stdout().is_terminal(), started, failures: 0 };
    let end = options.seconds.map(|seconds| started + Duration::from_secs(seconds));
    let play = options.seconds.map_or(PLAY, |seconds| PLAY.min(Duration::from_secs(seconds * 3 / 4)));
    let mut show = acts::Show::new(stage, set, stop.clone(), play);
    let mut result = show.play(&mut screen);
    let logs = show.stage.dir.display().to_string();
    if result.is_ok() && !stop.load(Ordering::Relaxed) {
        show.addresses(&mut screen);
        let interactive = std::io::stdin().is_terminal() && screen.terminal;
        if interactive || end.is_some() {
            result = keys::stay(&mut show, &mut screen, end, interactive);
        }
    }
    // What was under way when somebody stopped the demo has not failed.
    if let (Err(error), false) = (result, stop.load(Ordering::Relaxed)) {
        screen.check(false, &format!("{error:#}"));
    }
    show.end();
    if screen.failures > 0 {
        let checks = if screen.failures == 1 { "check" } else { "checks" };
        anyhow::bail!("{} {checks} failed; the logs are in {logs}", screen.failures);
    }
    Ok(())
}
