//! Plays seeds of the simulation and reports; `cargo xtask simulate` runs it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use tests::simulation::{self, ENOUGH_SEEDS, MUST_OCCUR, Outcome, RARE};

#[derive(Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Play one seed and print everything that happened in it.
    #[arg(long)]
    trace: Option<u64>,
    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.trace {
        let outcome = simulation::run(seed, true);
        for line in &outcome.trace {
            println!("{line}");
        }
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let started = Instant::now();
    let rare = if options.seeds >= ENOUGH_SEEDS { RARE } else { &[] };
    let seeds = options.seeds + rare.len() as u64;
    let seed_of = |number: u64| match number.checked_sub(options.seeds) {
        Some(number) => rare[number as usize],
        None => options.from.saturating_add(number),
    };
    let next = AtomicU64::new(0);
    let (counts, failed) = (Mutex::new(BTreeMap::<&str, u64>::new()), Mutex::new(Vec::<(u64, Outcome)>::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds || (!options.keep_going && !failed.lock().expect("no thread panics").is_empty())
                    {
                        return;
                    }
                    let seed = seed_of(number);
                    let outcome = play(seed);
                    let mut counts = counts.lock().expect("no thread panics");
                    for (what, count) in &outcome.counts {
                        *counts.entry(what).or_default() += count;
                    }
                    drop(counts);
                    if !outcome.violations.is_empty() {
                        failed.lock().expect("no thread panics").push((seed, outcome));
                    }
                    if (number + 1).is_multiple_of(1_000) {
                        eprintln!("{} seeds, {:.0} s", number + 1, started.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let played = next.load(Ordering::Relaxed).min(seeds);
    report(
        played,
        started,
        &counts.into_inner().expect("no thread panics"),
        &failed.into_inner().expect("no thread panics"),
    )
}

/// A panic in a seed is that seed's failure.
fn play(seed: u64) -> Outcome {
    std::panic::catch_unwind(|| simulation::run(seed, false)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome { violations: vec![format!("panic: {}", text.unwrap_or_default())], ..Outcome::default() }
    })
}

fn report(played: u64, started: Instant, counts: &BTreeMap<&str, u64>, failed: &[(u64, Outcome)]) -> ExitCode {
    println!("{played} seeds in {:.1} s", started.elapsed().as_secs_f64());
    for what in MUST_OCCUR {
        println!("{:>10}  {what}", counts.get(what).copied().unwrap_or(0));
    }
    for (seed, outcome) in failed.iter().take(20) {
        println!("seed {seed} failed; replay it with: cargo xtask simulate --trace {seed}");
        for violation in outcome.violations.iter().take(5) {
            println!("    {violation}");
        }
    }
    // A few seeds cannot show everything.
    let missing: Vec<&&str> = MUST_OCCUR.iter().filter(|what| !counts.contains_key(**what)).collect();
    if played >= ENOUGH_SEEDS && !missing.is_empty() {
        println!("never occurred: {missing:?}");
        return ExitCode::FAILURE;
    }
    if failed.is_empty() {
        println!("every promise was kept");
        ExitCode::SUCCESS
    } else {
        println!("{} of {played} seeds failed", failed.len());
        ExitCode::FAILURE
    }
}
