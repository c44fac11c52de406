//! `cargo test -p power-loss`: cuts the power and prints what it found, also when all is well.
//!
//! `POWER_LOSS_SEEDS=from..to` plays other seeds on the honest disk: one that failed again, or more of them.

use std::io::Write;
use std::ops::Range;

use power_loss::agent::Agent;
use power_loss::central::Central;
use power_loss::machine::{Daemon, End, Report, Setup, play};
use power_loss::{Disk, Mount, Syncs};

/// As in production: an honest disk, and the pragmas of `runtime::sqlite`.
const PRODUCTION: Setup = Setup { cuts: 8, ends: &[End::Cut], syncs: Syncs::Honest, synchronous: None, beside: false };

/// The log is copied all the while, by somebody else.
const COPIED: Setup = Setup { ends: &[End::Kill, End::Cut, End::Cut], beside: true, ..PRODUCTION };
/// Processes that are killed; the power goes now and then, too.
const KILLED: Setup = Setup { ends: &[End::Kill, End::Kill, End::Cut], ..PRODUCTION };
/// A disk that is full now and then.
const FULL: Setup = Setup { ends: &[End::Full, End::Full, End::Cut], ..PRODUCTION };
/// A disk that fails to sync now and then.
const FAILING: Setup = Setup { ends: &[End::Sync, End::SyncOfDatabase, End::Cut], ..PRODUCTION };

/// The seeds to play on the honest disk, eight cuts each: so many, unless others are asked for.
fn seeds(count: u64) -> Range<u64> {
    let Ok(text) = std::env::var("POWER_LOSS_SEEDS") else { return 0..count };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("POWER_LOSS_SEEDS is <from>..<to>")
}

/// Plays some seeds. The name is the disk's, which no two tests may share.
fn all<D: Daemon>(name: &'static str, seeds: Range<u64>, setup: Setup, daemon: impl Fn() -> D) -> Report {
    all_on(Mount::register(name, Disk::new(setup.syncs)), seeds, setup, daemon)
}

fn all_on<D: Daemon>(mount: Mount, seeds: Range<u64>, setup: Setup, daemon: impl Fn() -> D) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        report += play(&mount, daemon(), seed, setup);
    }
    let name = mount.name();
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
    assert!(report.gone > 0, "{report}");
    assert!(kinds.iter().all(|kind| report.kinds.get(*kind).is_some_and(|count| *count >= 100)), "{report}");
}

#[test]
fn what_an_agent_answered_outlives_a_power_cut() {
    // A commit has so many pages that a cut hardly ever leaves all of them unsynced and there: a kill and a sync that fails do.
    is_survived(&all("agent", seeds(150), PRODUCTION, Agent::new), &["ledger", "key", "outcome", "picked"]);
}

#[test]
fn what_central_answered_outlives_a_power_cut() {
    is_survived(&all("central", seeds(150), PRODUCTION, Central::new), &["event", "purchase", "request", "key"]);
}

#[test]
fn what_was_answered_outlives_a_cut_beside_a_copying_of_the_log() {
    let agent = all("agent, copied beside", seeds(50), COPIED, Agent::new);
    let central = all("central, copied beside", seeds(50), COPIED, Central::new);
    for report in [agent, central] {
        assert_eq!((report.losses, report.lost), (0, 0), "{report}");
        assert!(
            report.cuts >= 100 && report.groups >= 100 || std::env::var_os("POWER_LOSS_SEEDS").is_some(),
            "{report}"
        );
    }
    let lying = Setup { syncs: Syncs::Lying, ..COPIED };
    let lost = all("agent, copied beside, syncs lie", 0..25, lying, Agent::new);
    assert!(lost.losses >= 15 && lost.lost > 0, "{lost}");
}

/// Whether each of these ends was hit so often at least.
fn is_hit(report: &Report, ends: &[(&str, u64)]) {
    assert_eq!((report.losses, report.lost), (0, 0), "{report}");
    if std::env::var_os("POWER_LOSS_SEEDS").is_none() {
        let times = |end: &str| report.ends.get(end).copied().unwrap_or(0);
        assert!(ends.iter().all(|(end, least)| times(end) >= *least), "{ends:?}: {report}");
        assert!(report.cuts >= 100 && report.gone > 0, "{report}");
    }
}

#[test]
fn what_was_answered_outlives_a_killed_process_and_then_a_power_cut() {
    for report in
        [all("agent, killed", seeds(100), KILLED, Agent::new), all("central, killed", seeds(100), KILLED, Central::new)]
    {
        is_hit(&report, &[("Kill Commit", 100), ("Kill Checkpoint", 20), ("Kill Between", 1)]);
        assert!(report.found > 0, "{report}");
    }
}

#[test]
fn a_full_disk_loses_nothing_and_leaves_nothing_by_halves() {
    for report in
        [all("agent, full", seeds(100), FULL, Agent::new), all("central, full", seeds(100), FULL, Central::new)]
    {
        is_hit(&report, &[("Full Commit", 100), ("Full Checkpoint", 20)]);
        assert!(report.answered_full > 100 || report.answered < 5_000, "{report}");
    }
}

#[test]
fn nobody_is_answered_on_a_sync_that_failed() {
    let agent = all("agent, failed syncs", seeds(100), FAILING, Agent::new);
    let central = all("central, failed syncs", seeds(100), FAILING, Central::new);
    for report in [agent, central] {
        is_hit(&report, &[("Sync Commit", 100), ("Sync Checkpoint", 20), ("SyncOfDatabase Checkpoint", 20)]);
        assert!(report.found > 0, "{report}");
    }
}

/// The same runs where they must fail: a log that is taken as it is found, though not all of it may be on disk.
#[test]
fn with_a_log_as_it_is_found_the_loss_is_seen() {
    let as_found = |name| Mount::register(name, Disk::new(Syncs::Honest)).leaving_logs();
    let failing = Setup { ends: &[End::Sync, End::Sync, End::Cut], ..PRODUCTION };
    for report in [
        all_on(as_found("agent, failed syncs, log as found"), 0..50, failing, Agent::new),
        all_on(as_found("central, failed syncs, log as found"), 0..50, failing, Central::new),
    ] {
        assert!(report.losses >= 5 && report.lost > 0, "{report}");
    }
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
