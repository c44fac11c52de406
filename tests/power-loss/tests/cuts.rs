//! `cargo test -p power-loss`: cuts the power and prints what it found, also when all is well.
//!
//! `POWER_LOSS_SEEDS=from..to` plays other seeds on the honest disk: one that failed again, or more of them.

use std::io::Write;
use std::ops::Range;

use power_loss::agent::Agent;
use power_loss::central::Central;
use power_loss::machine::{Daemon, Report, Setup, play};
use power_loss::{Disk, Mount, Syncs};

/// As in production: an honest disk, and the pragmas of `runtime::sqlite`.
const PRODUCTION: Setup = Setup { cuts: 8, syncs: Syncs::Honest, synchronous: None };

/// The seeds to play on the honest disk, eight cuts each.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("POWER_LOSS_SEEDS") else { return 0..150 };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("POWER_LOSS_SEEDS is <from>..<to>")
}

/// Plays some seeds. The name is the disk's, which no two tests may share.
fn all<D: Daemon>(name: &'static str, seeds: Range<u64>, setup: Setup, daemon: impl Fn() -> D) -> Report {
    let mount = Mount::register(name, Disk::new(setup.syncs));
    let mut report = Report::default();
    for seed in seeds {
        report += play(&mount, daemon(), seed, setup);
    }
    // Not `println!`, which a test that passes keeps to itself.
    let _ = writeln!(std::io::stdout(), "{name}: {report}");
    report
}

fn is_survived(report: &Report, kinds: &[&str]) {
    assert_eq!((report.losses, report.lost), (0, 0), "{report}");
    if report.cuts < 1_000 {
        assert!(std::env::var_os("POWER_LOSS_SEEDS").is_some(), "too few cuts: {report}");
        return;
    }
    // What is not hit is not shown.
    assert!(report.in_commit >= 200 && report.in_checkpoint >= 50 && report.in_opening >= 10, "{report}");
    assert!(report.stops > 0 && report.in_stopping > 0 && report.groups >= 500, "{report}");
    assert!(report.found > 0 && report.gone > 0, "{report}");
    assert!(kinds.iter().all(|kind| report.kinds.get(*kind).is_some_and(|count| *count >= 100)), "{report}");
}

#[test]
fn what_an_agent_answered_outlives_a_power_cut() {
    is_survived(&all("agent", seeds(), PRODUCTION, Agent::new), &["ledger", "key", "outcome", "picked"]);
}

#[test]
fn what_central_answered_outlives_a_power_cut() {
    is_survived(&all("central", seeds(), PRODUCTION, Central::new), &["event", "purchase", "request", "key"]);
}

#[test]
fn a_seed_is_the_same_run_again() {
    let mount = Mount::register("again", Disk::new(Syncs::Honest));
    for seed in 1_000..1_003 {
        let run = || play(&mount, Agent::new(), seed, PRODUCTION);
        assert_eq!(run(), run());
        let run = || play(&mount, Central::new(), seed, PRODUCTION);
        assert_eq!(run(), run());
    }
}

/// The same runs where they must fail: a disk that lies, and commits that do not sync.
#[test]
fn without_syncs_the_loss_is_seen() {
    let lying = Setup { syncs: Syncs::Lying, ..PRODUCTION };
    let off = Setup { synchronous: Some("off"), ..PRODUCTION };
    let normal = Setup { synchronous: Some("normal"), ..PRODUCTION };
    for report in [
        all("agent, syncs lie", 0..25, lying, Agent::new),
        all("central, syncs lie", 0..25, lying, Central::new),
        all("agent, synchronous=off", 0..25, off, Agent::new),
        all("central, synchronous=off", 0..25, off, Central::new),
        all("agent, synchronous=normal", 0..25, normal, Agent::new),
        all("central, synchronous=normal", 0..25, normal, Central::new),
    ] {
        // A machine is given up at its first loss, so that this is nearly all of them.
        assert!(report.losses >= 15 && report.lost > 0, "{report}");
    }
}
