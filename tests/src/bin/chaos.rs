//! Chaos with real processes; `cargo xtask chaos` builds what it needs and runs it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tests::chaos::{self, Outcome};

/// A world of its own for each round, so that each can be played again by its seed alone.
const ROUND: Duration = Duration::from_secs(60);
/// Broken promises of one world that are printed; one cause often breaks many.
const SHOWN: usize = 20;

#[derive(Parser)]
struct Options {
    /// How long faults go on: a world for each minute, the next with the next seed.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// The first world's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stores in each world.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=20))]
    stores: u64,
    /// Keep the files of a world that failed.
    #[arg(long)]
    keep: bool,
    /// Only kinds of fault whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let (mut all, mut failed) = (Outcome::default(), Vec::new());
    for seed in options.seed..options.seed + options.minutes {
        let world = chaos::Options {
            seed,
            stores: usize::try_from(options.stores)?,
            faults_for: ROUND,
            keep: options.keep,
            only: options.only.clone(),
        };
        let outcome = tokio::select! {
            outcome = chaos::play(&world) => outcome?,
            // What was started ends with the runtime, which drops everybody who holds it.
            signal = tokio::signal::ctrl_c() => {
                signal?;
                println!("stopped in the middle: no verdict");
                return Ok(ExitCode::FAILURE);
            }
        };
        for violation in outcome.violations.iter().take(SHOWN) {
            println!("seed {seed}: {violation}");
        }
        if outcome.violations.len() > SHOWN {
            println!("seed {seed}: and {} more", outcome.violations.len() - SHOWN);
        }
        if !outcome.violations.is_empty() {
            failed.push(seed);
        }
        all.add(outcome);
    }
    all.print();
    let missing = all.missing();
    if !missing.is_empty() {
        println!("never happened: {missing:?}");
    }
    if !failed.is_empty() {
        println!("a promise was broken; play it again with: cargo xtask chaos --seed {}", failed[0]);
    } else if !missing.is_empty() {
        println!("a fault that has never happened shows nothing");
    } else {
        println!("every promise was kept");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
