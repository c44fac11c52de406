//! Plants each bug in turn and plays seeds until the simulation finds it; `cargo xtask mutants` runs it.
//!
//! `tests/mutants.txt` names the seed that found each bug last time: it is played first, so that a run mostly replays. A bug
//! that it does not find any more is hunted anew.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use protocol::planted::{BUGS, Bug, plant};
use tests::simulation::{self, DENSE};

/// Where the seeds are noted.
const NOTES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mutants.txt");
/// So many seeds are played first; then those in which rare faults are frequent.
const PLAIN: u64 = 40;
/// So many seeds more are played to see whether a promise is found broken, too, where a bug has run into an assertion.
const BEYOND_ASSERTION: u64 = 20;

#[derive(Parser)]
struct Options {
    /// Seeds for each bug, at most.
    #[arg(long, default_value_t = 5_000)]
    seeds: u64,
    /// Note which seed finds each bug first.
    #[arg(long)]
    note: bool,
    /// Only bugs whose name contains this.
    only: Option<String>,
}

/// What a seed has shown.
enum Shown {
    Nothing,
    /// An assertion or a constraint stopped the program.
    Assertion(String),
    /// A promise was found broken.
    Broken(String),
}

/// How a bug was found.
struct Caught {
    bug: Bug,
    /// The seed that showed it.
    seed: Option<u64>,
    by: Shown,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Seeds panic by the dozen here, and each is caught.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let notes = if options.note { BTreeMap::new() } else { read_notes() };
    let wanted = |bug: &&Bug| options.only.as_ref().is_none_or(|only| format!("{bug:?}").contains(only.as_str()));
    let bugs: Vec<Bug> = BUGS.iter().filter(wanted).copied().collect();
    let (next, caught) = (AtomicUsize::new(0), Mutex::new(Vec::<Caught>::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let known = notes.get(&format!("{bug:?}")).copied();
                    let found = hunt(*bug, known, options.seeds);
                    let seed = found.seed.map_or("NOT FOUND".into(), |seed| format!("seed {seed}"));
                    let by = match &found.by {
                        Shown::Nothing => "every seed was clean",
                        Shown::Assertion(text) | Shown::Broken(text) => text,
                    };
                    println!("{:<30} {seed:>10}  {}", format!("{bug:?}"), by.chars().take(110).collect::<String>());
                    caught.lock().expect("no thread panics").push(found);
                }
            });
        }
    });
    let caught = caught.into_inner().expect("no thread panics");
    let count = |is: fn(&Shown) -> bool| caught.iter().filter(|caught| is(&caught.by)).count();
    let missed = count(|by| matches!(by, Shown::Nothing));
    println!(
        "{} bugs planted: {} found by the judge, {} by an assertion or a constraint alone, {missed} not found; {:.0} s",
        caught.len(),
        count(|by| matches!(by, Shown::Broken(_))),
        count(|by| matches!(by, Shown::Assertion(_))),
        started.elapsed().as_secs_f64()
    );
    if options.note {
        note(&caught);
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn hunt(bug: Bug, known: Option<u64>, most: u64) -> Caught {
    if let Some(known) = known {
        match play(bug, known) {
            Shown::Nothing => {}
            // If it is an assertion, what lies beyond it was looked at when the seed was noted.
            by => return Caught { bug, seed: Some(known), by },
        }
    }
    let (mut seed, mut by, mut left) = (None, Shown::Nothing, most);
    for next in (0..most).map(|number| if number < PLAIN { number } else { DENSE + number }) {
        if left == 0 {
            break;
        }
        left -= 1;
        match play(bug, next) {
            Shown::Nothing => {}
            Shown::Assertion(text) if seed.is_none() => {
                (seed, by, left) = (Some(next), Shown::Assertion(text), left.min(BEYOND_ASSERTION));
            }
            Shown::Assertion(_) => {}
            by @ Shown::Broken(_) => return Caught { bug, seed: Some(next), by },
        }
    }
    Caught { bug, seed, by }
}

/// What a seed shows of a bug: nothing if it shows as much without one.
fn play(bug: Bug, seed: u64) -> Shown {
    match play_with(Some(bug), seed) {
        Shown::Nothing => Shown::Nothing,
        by => match play_with(None, seed) {
            Shown::Nothing => by,
            Shown::Assertion(_) | Shown::Broken(_) => Shown::Nothing,
        },
    }
}

fn play_with(bug: Option<Bug>, seed: u64) -> Shown {
    let played = std::panic::catch_unwind(|| {
        plant(bug);
        let outcome = simulation::run(seed, false);
        plant(None);
        outcome
    });
    match played {
        Ok(outcome) => outcome.violations.into_iter().next().map_or(Shown::Nothing, Shown::Broken),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Shown::Assertion(format!("assertion: {}", text.unwrap_or_default().lines().next().unwrap_or_default()))
        }
    }
}

/// A line a bug: its name, and a seed.
fn read_notes() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(NOTES).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(bug, seed)| Some((bug.to_owned(), seed.parse().ok()?))).collect()
}

fn note(caught: &[Caught]) {
    let line = |caught: &Caught| Some(format!("{:?} {}\n", caught.bug, caught.seed?));
    let mut lines: Vec<String> = caught.iter().filter_map(line).collect();
    lines.sort();
    std::fs::write(NOTES, lines.concat()).expect("the notes can be written");
}
