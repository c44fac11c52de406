//! Backups and restores that something comes between.
//!
//! **What is checked.** A backup that was said to be written is there and whole after a loss of power. Of one that was not,
//! nothing is there under its name, or all of it; and the next one is written. Whenever a restore is cut short, the path
//! holds the old database whole or the new one, or the daemon refuses to serve; the restore is done again to its end, and
//! the old database is still there, whole, under another name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::time::Millis;
use runtime::sqlite::{
    Files, OpenError, check, copy, in_transaction, open_on, open_to_restore, prepare, put_in_service, replace,
};
use rusqlite::{Connection, OpenFlags};

use crate::machine::{Daemon, apply, tables};
use crate::{Dice, Disk, Fault, Mount, Syncs};

const PATH: &str = "/data/shelfstream.db";
const BACKUP: &str = "/data/backup.db";
const LATER: &str = "/data/later.db";
/// Steps at the end of a backup or a restore, where names change: something happens there in two of five runs.
const LAST: u64 = 32;
/// More than what closes the files takes.
const STEPS_BEHIND: u64 = 1_000;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What came between, and what it left.
    pub ends: BTreeMap<&'static str, u64>,
    /// Of the faults, those that landed, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What should not be.
    pub wrong: Vec<String>,
}

impl Report {
    fn end(&mut self, end: &'static str) {
        *self.ends.entry(end).or_default() += 1;
    }

    fn expect(&mut self, seed: u64, is_so: bool, what: &str) {
        if !is_so {
            self.wrong.push(format!("seed {seed}: {what}"));
        }
    }
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.wrong.extend(other.wrong);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}; faults {:?}; {} wrong", self.ends, self.faults, self.wrong.len())?;
        self.wrong.first().map_or(Ok(()), |first| write!(f, ", first {first}"))
    }
}

type Tables = BTreeMap<String, u64>;

/// A machine with a database, whose process was killed, and a backup of an earlier state.
struct Machine<'a> {
    mount: &'a Mount,
    disk: Arc<Disk>,
    seed: u64,
    dice: Dice,
    now: Tables,
    earlier: Tables,
}

impl<'a> Machine<'a> {
    fn new<D: Daemon>(mount: &'a Mount, mut daemon: D, seed: u64, syncs: Syncs) -> Self {
        let (disk, mut dice) = (Disk::new(Syncs::Honest), Dice::new(seed));
        mount.insert(disk.clone());
        let connection = open_on(mount, Path::new(PATH), D::SCHEMA).expect("nothing is wrong yet");
        daemon.start(&connection).expect("nothing is wrong yet");
        let mut work = |dice: &mut Dice| {
            for _ in 0..1 + dice.below(4) {
                let group = daemon.plan(&connection, 1 + dice.below(8), dice);
                apply::<D>(&connection, &group);
            }
            tables(&connection)
        };
        let earlier = work(&mut dice);
        copy(mount, &connection, Path::new(BACKUP)).expect("nothing is wrong yet");
        if dice.chance(500) {
            connection.query_row("pragma wal_checkpoint", [], |_| Ok(())).expect("nothing is wrong yet");
        }
        let now = work(&mut dice);
        let (disk, _) = disk.restart(&mut dice);
        disk.set(syncs);
        mount.insert(disk.clone());
        Self { mount, disk, seed, dice, now, earlier }
    }

    /// Something will happen in what takes so many steps, or behind it.
    fn arm(&mut self, steps: u64) {
        let sync = Fault::Sync { of_database: false };
        let faults = [Fault::Off, Fault::Full { everywhere: true }, Fault::Full { everywhere: false }, sync];
        let fault = *self.dice.pick(&faults).expect("there is one");
        let at = match self.dice.below(5) {
            0 => steps + STEPS_BEHIND,
            1 => self.dice.below(steps),
            // The very last ones: what is there already is not said to be.
            2 => steps.saturating_sub(self.dice.below(3)),
            _ => steps.saturating_sub(self.dice.below(LAST)),
        };
        self.disk.arm(Some((at, fault)));
    }

    /// The power goes, or the process ends at least. Says what has happened before, if it has.
    fn end(&mut self, is_done: bool, report: &mut Report) {
        let fault = match self.disk.landed() {
            _ if !self.disk.is_on() => Some("power off, or killed"),
            Some((Fault::Full { .. }, _)) => Some("disk full"),
            Some(_) => Some("sync failed"),
            None => None,
        };
        if let Some(fault) = fault {
            *report.faults.entry(fault).or_default() += 1;
        }
        report.expect(self.seed, is_done || fault.is_some(), "it fails without a reason");
        let is_cut = is_done || self.dice.chance(700);
        let after = if is_cut { self.disk.cut(&mut self.dice) } else { self.disk.restart(&mut self.dice) };
        self.disk = after.0;
        self.mount.insert(self.disk.clone());
    }

    fn is_there(&self, path: &str) -> bool {
        self.mount.length(Path::new(path)).expect("the power is on").is_some()
    }

    fn read(&self, path: &str) -> rusqlite::Result<Connection> {
        Connection::open_with_flags_and_vfs(path, OpenFlags::SQLITE_OPEN_READ_ONLY, self.mount.name())
    }

    /// Whether a copy is whole, and of this state.
    fn is_copy_of<D: Daemon>(&self, path: &str, state: &Tables) -> bool {
        let is_whole = self
            .read(path)
            .is_ok_and(|copy| check(&copy, Path::new(path), D::SCHEMA).is_ok() && tables(&copy) == *state);
        let is_marked = matches!(open_on(self.mount, Path::new(path), D::SCHEMA), Err(OpenError::Copy(_)));
        is_whole && is_marked
    }
}

/// A backup while the daemon runs, and something that comes between.
pub fn back_up<D: Daemon>(mount: &Mount, daemon: impl Fn() -> D, seed: u64, syncs: Syncs) -> Report {
    let mut report = Report::default();
    let begin = || {
        let machine = Machine::new(mount, daemon(), seed, syncs);
        let serving = open_on(mount, Path::new(PATH), D::SCHEMA).expect("nothing is wrong yet");
        let reading = machine.read(PATH).expect("nothing is wrong yet");
        (machine, serving, reading)
    };
    let steps = {
        let (machine, _serving, reading) = begin();
        let before = machine.disk.steps();
        copy(mount, &reading, Path::new(LATER)).expect("nothing is wrong");
        machine.disk.steps() - before
    };
    let (mut machine, serving, reading) = begin();
    machine.arm(steps);
    let done = copy(mount, &reading, Path::new(LATER));
    drop(reading);
    machine.end(done.is_ok(), &mut report);
    drop(serving);
    let is_there = machine.is_there(LATER);
    report.end(match (&done, is_there) {
        (Ok(()), _) => "written",
        (Err(_), true) => "there, not said to be",
        (Err(_), false) => "not there",
    });
    report.expect(seed, is_there || done.is_err(), "it is gone");
    if is_there {
        report.expect(seed, machine.is_copy_of::<D>(LATER, &machine.now), "it is not whole");
    } else {
        let again = copy(mount, &machine.read(PATH).expect("opens"), Path::new(LATER));
        report.expect(seed, again.is_ok() && machine.is_copy_of::<D>(LATER, &machine.now), "it is not written again");
    }
    let database = open_on(mount, Path::new(PATH), D::SCHEMA);
    let is_as_it_was = database.is_ok_and(|database| tables(&database) == machine.now);
    report.expect(seed, is_as_it_was, "the database is not as it was");
    report
}

/// A restore of a backup, and something that comes between.
pub fn restore<D: Daemon>(mount: &Mount, daemon: impl Fn() -> D, seed: u64, syncs: Syncs) -> Report {
    let mut report = Report::default();
    let steps = {
        let machine = Machine::new(mount, daemon(), seed, syncs);
        let before = machine.disk.steps();
        restore_once::<D>(&machine, Millis(1)).expect("nothing is wrong");
        machine.disk.steps() - before
    };
    let mut machine = Machine::new(mount, daemon(), seed, syncs);
    machine.arm(steps);
    let done = restore_once::<D>(&machine, Millis(1));
    let landed = machine.disk.landed();
    machine.end(done.is_ok(), &mut report);
    let end = match open_on(mount, Path::new(PATH), D::SCHEMA) {
        Ok(database) if tables(&database) == machine.now && done.is_err() => "the old one",
        Ok(database) if tables(&database) == machine.earlier => "the new one",
        Err(OpenError::Unfinished { .. }) if done.is_err() => "refused: unfinished",
        Err(OpenError::Copy(_)) if done.is_err() => "refused: a copy",
        other => {
            report.expect(seed, false, &format!("{done:?}, then {other:?} {landed:?}"));
            return report;
        }
    };
    report.end(end);
    let again = restore_once::<D>(&machine, Millis(2)).map_err(|error| error.to_string());
    report.expect(seed, again.is_ok(), &format!("{end}: not done again: {again:?}"));
    let is_new = open_on(mount, Path::new(PATH), D::SCHEMA).is_ok_and(|now| tables(&now) == machine.earlier);
    report.expect(seed, is_new, &format!("{end}: it is another one"));
    let kept = mount.list(Path::new("/data")).expect("the power is on").into_iter().filter(|path| is_kept(path));
    let kept: Vec<Tables> = kept.map(|path| machine.kept(&path)).collect();
    let is_kept =
        kept.contains(&machine.now) && kept.iter().all(|kept| [&machine.now, &machine.earlier].contains(&kept));
    report.expect(seed, is_kept, &format!("{end}: the old one is not kept"));
    report
}

/// As both daemons' `restore --from` do it.
fn restore_once<D: Daemon>(machine: &Machine<'_>, now: Millis) -> Result<(), Box<dyn std::error::Error>> {
    let (mount, path) = (machine.mount, Path::new(PATH));
    let backup = machine.read(BACKUP)?;
    check(&backup, Path::new(BACKUP), D::SCHEMA)?;
    prepare(mount, &backup, path)?;
    replace(mount, path, now)?;
    let restored = open_to_restore(mount, path, D::SCHEMA)?;
    Ok(in_transaction(&restored, |restored| put_in_service(restored, D::SCHEMA))?)
}

fn is_kept(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.contains(".before-restore-") && !name.ends_with("-wal") && !name.ends_with("-shm")
}

impl Machine<'_> {
    fn kept(&self, path: &PathBuf) -> Tables {
        let opened = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), self.mount.name());
        opened.map(|kept| tables(&kept)).unwrap_or_default()
    }
}
