//! Plants each bug in turn and plays seeds until the simulation finds it; `cargo xtask mutants` runs it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use protocol::planted::{BUGS, Bug, plant};
use tests::simulation;

#[derive(Parser)]
struct Options {
    /// Seeds for each bug, at most.
    #[arg(long, default_value_t = 5_000)]
    seeds: u64,
    /// Only bugs whose name contains this.
    only: Option<String>,
}

/// How a bug was found.
struct Caught {
    bug: Bug,
    seed: Option<u64>,
    by: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Seeds panic by the dozen here, and each is caught.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let wanted = |bug: &&Bug| options.only.as_ref().is_none_or(|only| format!("{bug:?}").contains(only.as_str()));
    let bugs: Vec<Bug> = BUGS.iter().filter(wanted).copied().collect();
    let (next, caught) = (AtomicUsize::new(0), Mutex::new(Vec::<Caught>::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = hunt(*bug, options.seeds);
                    let seed = found.seed.map_or("NOT FOUND".into(), |seed| format!("seed {seed}"));
                    println!("{:<26} {seed:>10}  {}", format!("{bug:?}"), found.by);
                    caught.lock().expect("no thread panics").push(found);
                }
            });
        }
    });
    let caught = caught.into_inner().expect("no thread panics");
    let missed: Vec<Bug> = caught.iter().filter(|caught| caught.seed.is_none()).map(|caught| caught.bug).collect();
    println!(
        "{} bugs planted, {} found, {:.0} s",
        caught.len(),
        caught.len() - missed.len(),
        started.elapsed().as_secs_f64()
    );
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn hunt(bug: Bug, seeds: u64) -> Caught {
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(|| {
            plant(Some(bug));
            let outcome = simulation::run(seed, false);
            plant(None);
            outcome
        });
        let found = match played {
            Ok(outcome) => outcome.violations.first().cloned(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map_or("", String::as_str);
                Some(format!("panic: {}", text.lines().next().unwrap_or_default()))
            }
        };
        if let Some(by) = found {
            let by = by.chars().take(110).collect();
            return Caught { bug, seed: Some(seed), by };
        }
    }
    Caught { bug, seed: None, by: "every seed was clean".into() }
}
