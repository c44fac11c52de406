//! `cargo test -p power-loss`: lets something come between backups and restores, and prints what it found.

use std::io::Write;

use power_loss::agent::Agent;
use power_loss::central::Central;
use power_loss::copies::{Report, back_up, restore};
use power_loss::{Disk, Mount, Syncs};

const SEEDS: u64 = 200;

fn all(name: &'static str, seeds: u64, play: impl Fn(&Mount, u64) -> Report) -> Report {
    let mount = Mount::register(name, Disk::new(Syncs::Honest));
    let mut report = Report::default();
    (0..seeds).for_each(|seed| report += play(&mount, seed));
    // Not `println!`, which a test that passes keeps to itself.
    let _ = writeln!(std::io::stdout(), "{name}: {report}");
    report
}

/// Whether nothing was wrong, and each of these was seen.
fn is_kept(report: &Report, ends: &[&str]) {
    assert!(report.wrong.is_empty(), "{:#?}", report.wrong);
    assert!(ends.iter().all(|end| report.ends.get(end).is_some_and(|count| *count > 0)), "{report}");
    let faults = ["power off, or killed", "disk full", "sync failed"];
    assert!(faults.iter().all(|fault| report.faults.get(fault).is_some_and(|count| *count >= 10)), "{report}");
}

#[test]
fn a_backup_that_was_cut_short_never_passes_for_one() {
    let ends = ["written", "there, not said to be", "not there"];
    is_kept(&all("agent, backup", SEEDS, |mount, seed| back_up(mount, Agent::new, seed, Syncs::Honest)), &ends);
    is_kept(&all("central, backup", SEEDS, |mount, seed| back_up(mount, Central::new, seed, Syncs::Honest)), &ends);
}

#[test]
fn a_restore_that_was_cut_short_leaves_the_old_one_or_the_new_one_or_says_so() {
    let ends = ["the old one", "the new one", "refused: unfinished", "refused: a copy"];
    is_kept(&all("agent, restore", SEEDS, |mount, seed| restore(mount, Agent::new, seed, Syncs::Honest)), &ends);
    is_kept(&all("central, restore", SEEDS, |mount, seed| restore(mount, Central::new, seed, Syncs::Honest)), &ends);
}

/// The same runs where they must fail: a disk that lies.
#[test]
fn without_syncs_bad_copies_are_seen() {
    for report in [
        all("agent, backup, syncs lie", 40, |mount, seed| back_up(mount, Agent::new, seed, Syncs::Lying)),
        all("central, backup, syncs lie", 40, |mount, seed| back_up(mount, Central::new, seed, Syncs::Lying)),
        all("agent, restore, syncs lie", 40, |mount, seed| restore(mount, Agent::new, seed, Syncs::Lying)),
        all("central, restore, syncs lie", 40, |mount, seed| restore(mount, Central::new, seed, Syncs::Lying)),
    ] {
        assert!(report.wrong.len() >= 5, "{report}");
    }
}
