//! A disk that keeps only what was synced.
//!
//! **Guarantees.** After [`Disk::cut`] a file holds what it held at its last sync and any part of what was written since:
//! each write or truncation there, not there, or there in some of its 512-byte sectors, with noise where a sector was
//! just being written. Names behave likewise: a file made or deleted since its directory was synced may be there or not.
//! From the cut on every call fails, so that nothing done afterwards counts.
//!
//! It syncs as SQLite's own VFS does on Linux: a file's sync keeps its content; the directory is kept with the first sync
//! of a journal or log that may just have been made, and with a deletion that asks for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};

use crate::Dice;
use crate::shm::{Busy, Held, Shm};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Whether a sync does what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    Honest,
    /// It does nothing and reports success: for showing that the test would notice.
    Lying,
}

/// The power is off, or the file is not there.
#[derive(Debug)]
pub(crate) struct Failed;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Database,
    /// Its write-ahead log.
    Log,
    /// A rollback journal.
    Journal,
    /// Nothing that has to survive.
    Temporary,
}

/// Where SQLite was when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Some of a transaction was written to the log, and its end not reported.
    Commit,
    /// A checkpoint had begun, and the database was not synced.
    Checkpoint,
    Between,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// A file by what it holds; names are apart.
#[derive(Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
    shm: Weak<Shm>,
}

type Names = BTreeMap<String, usize>;

struct State {
    syncs: Syncs,
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    /// A name's new meaning; none: it was deleted.
    unsynced_names: Vec<(String, Option<usize>)>,
    /// Open files and the level of SQLite's lock that each holds on its inode.
    open: BTreeMap<u64, (usize, i32)>,
    opened: u64,
    is_on: bool,
    steps_left: Option<u64>,
    moment: Moment,
}

/// A disk, in memory.
pub struct Disk {
    state: Mutex<State>,
    closed: Condvar,
}

impl Disk {
    /// An empty one.
    pub fn new(syncs: Syncs) -> Arc<Self> {
        Self::with(syncs, Vec::new(), Names::new())
    }

    fn with(syncs: Syncs, inodes: Vec<Inode>, names: Names) -> Arc<Self> {
        let state = State {
            syncs,
            inodes,
            durable_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
            open: BTreeMap::new(),
            opened: 0,
            is_on: true,
            steps_left: None,
            moment: Moment::Between,
        };
        Arc::new(Self { state: Mutex::new(state), closed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics")
    }

    /// The power goes just before the step after so many: writes, truncations, syncs, and files made or deleted are
    /// steps. None: it stays.
    pub fn arm(&self, steps: Option<u64>) {
        self.state().steps_left = steps;
    }

    /// Whether the power is on.
    pub fn is_on(&self) -> bool {
        self.state().is_on
    }

    /// Waits until every file is closed.
    pub fn wait_closed(&self) {
        let state = self.state();
        drop(self.closed.wait_while(state, |state| !state.open.is_empty()).expect("no thread panics"));
    }

    /// The power goes now, if it has not yet: what is on the disk when it is back, and where SQLite was.
    pub fn cut(&self, dice: &mut Dice) -> (Arc<Self>, Moment) {
        let mut state = self.state();
        state.is_on = false;
        // How much of what was not synced is there: nothing, all of it, or some.
        let fate = dice.below(10);
        let survives = |dice: &mut Dice| match fate {
            0 | 1 => Fate::Lost,
            2 => Fate::There,
            _ => [Fate::Lost, Fate::There, Fate::Torn][dice.below(3) as usize],
        };
        let mut names = state.durable_names.clone();
        for (name, meaning) in &state.unsynced_names {
            match (survives(dice), meaning) {
                (Fate::Lost, _) => {}
                (_, Some(inode)) => drop(names.insert(name.clone(), *inode)),
                (_, None) => drop(names.remove(name)),
            }
        }
        let mut inodes = Vec::new();
        for inode in names.values_mut() {
            let file = &state.inodes[*inode];
            let mut content = file.durable.clone();
            for change in &file.unsynced {
                match (survives(dice), change) {
                    (Fate::Lost, _) => {}
                    (Fate::There, Change::Write(at, data)) => write(&mut content, *at, data),
                    (Fate::Torn, Change::Write(at, data)) => tear(&mut content, *at, data, dice),
                    (_, Change::Truncate(length)) => content.resize(*length, 0),
                }
            }
            *inode = inodes.len();
            inodes.push(Inode { durable: content.clone(), current: content, ..Inode::default() });
        }
        (Self::with(state.syncs, inodes, names), state.moment)
    }

    #[cfg(test)]
    fn names(&self) -> std::collections::BTreeSet<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Opens a file; `None` for a name: a temporary one.
    pub(crate) fn open(self: &Arc<Self>, name: Option<&str>, role: Role, create: bool) -> Result<OpenFile, Failed> {
        let mut state = self.state();
        let found = name.and_then(|name| state.names.get(name).copied());
        let inode = match (found, name) {
            (Some(inode), _) => {
                state.check()?;
                inode
            }
            (None, Some(_)) if !create => return Err(Failed),
            (None, name) => {
                if let Some(name) = name {
                    state.step()?;
                    let inode = state.inodes.len();
                    state.names.insert(name.into(), inode);
                    state.unsynced_names.push((name.into(), Some(inode)));
                }
                state.inodes.push(Inode::default());
                state.inodes.len() - 1
            }
        };
        state.opened += 1;
        let id = state.opened;
        state.open.insert(id, (inode, 0));
        let keeps_directory = create && matches!(role, Role::Log | Role::Journal);
        Ok(OpenFile { disk: self.clone(), id, inode, role, keeps_directory, shm: None })
    }

    /// Deletes a name; false: there was none.
    pub(crate) fn delete(&self, name: &str, sync_directory: bool) -> Result<bool, Failed> {
        let mut state = self.state();
        state.check()?;
        if !state.names.contains_key(name) {
            return Ok(false);
        }
        state.step()?;
        state.names.remove(name);
        state.unsynced_names.push((name.into(), None));
        if sync_directory {
            state.sync_names();
        }
        Ok(true)
    }

    /// Whether there is such a file with something in it, which is what SQLite's own VFS asks.
    pub(crate) fn exists(&self, name: &str) -> Result<bool, Failed> {
        let state = self.state();
        state.check()?;
        Ok(state.names.get(name).is_some_and(|inode| !state.inodes[*inode].current.is_empty()))
    }
}

impl State {
    fn check(&self) -> Result<(), Failed> {
        if self.is_on { Ok(()) } else { Err(Failed) }
    }

    /// Something that a loss of power may undo is about to happen.
    fn step(&mut self) -> Result<(), Failed> {
        self.check()?;
        match &mut self.steps_left {
            Some(0) => {
                self.is_on = false;
                return Err(Failed);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn sync_names(&mut self) {
        if self.syncs == Syncs::Honest {
            self.durable_names = self.names.clone();
            self.unsynced_names.clear();
        }
    }
}

/// What becomes of a change that was not synced.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    There,
    Torn,
}

fn write(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

/// Writes some sectors of `data`; now and then one of them is noise.
fn tear(content: &mut Vec<u8>, at: usize, data: &[u8], dice: &mut Dice) {
    let mut done = 0;
    while done < data.len() {
        let next = (SECTOR - (at + done) % SECTOR).min(data.len() - done);
        let sector = &data[done..done + next];
        if dice.chance(30) {
            let noise: Vec<u8> = sector.iter().map(|_| dice.roll() as u8).collect();
            write(content, at + done, &noise);
        } else if dice.chance(500) {
            write(content, at + done, sector);
        }
        done += next;
    }
}

/// An open file of a disk.
pub(crate) struct OpenFile {
    disk: Arc<Disk>,
    id: u64,
    inode: usize,
    role: Role,
    /// Its next sync keeps the directory, too.
    keeps_directory: bool,
    shm: Option<(Arc<Shm>, Held)>,
}

impl OpenFile {
    fn change(&self, change: impl FnOnce(&mut Vec<u8>) -> Change) -> Result<(), Failed> {
        let mut state = self.disk.state();
        if self.role == Role::Temporary {
            state.check()?;
            change(&mut state.inodes[self.inode].current);
            return Ok(());
        }
        state.step()?;
        if self.role == Role::Log {
            // The first write to the log begins a commit, and shows that a checkpoint is over.
            state.moment = Moment::Commit;
        }
        let inode = &mut state.inodes[self.inode];
        let change = change(&mut inode.current);
        inode.unsynced.push(change);
        Ok(())
    }

    /// Fills as much of `into` as there is; says how much that was.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> Result<usize, Failed> {
        let state = self.disk.state();
        state.check()?;
        let content = &state.inodes[self.inode].current;
        let from = content.get(at..).unwrap_or_default();
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }

    pub(crate) fn write(&self, at: usize, data: &[u8]) -> Result<(), Failed> {
        self.change(|content| {
            write(content, at, data);
            Change::Write(at, data.to_vec())
        })
    }

    pub(crate) fn truncate(&self, length: usize) -> Result<(), Failed> {
        self.change(|content| {
            content.resize(length, 0);
            Change::Truncate(length)
        })
    }

    pub(crate) fn sync(&mut self) -> Result<(), Failed> {
        let mut state = self.disk.state();
        state.step()?;
        if state.syncs == Syncs::Honest {
            let inode = &mut state.inodes[self.inode];
            inode.durable = inode.current.clone();
            inode.unsynced.clear();
        }
        if std::mem::take(&mut self.keeps_directory) {
            state.sync_names();
        }
        if self.role == Role::Database && state.moment == Moment::Checkpoint {
            state.moment = Moment::Between;
        }
        Ok(())
    }

    pub(crate) fn size(&self) -> Result<usize, Failed> {
        let state = self.disk.state();
        state.check()?;
        Ok(state.inodes[self.inode].current.len())
    }

    /// SQLite says that a transaction has ended.
    pub(crate) fn committed(&self) {
        let mut state = self.disk.state();
        if state.is_on {
            state.moment = Moment::Between;
        }
    }

    /// SQLite says that a checkpoint begins.
    pub(crate) fn checkpoint_begins(&self) {
        let mut state = self.disk.state();
        if state.is_on {
            state.moment = Moment::Checkpoint;
        }
    }

    /// Raises the lock on the database: 1 shared, 2 reserved, 3 pending, 4 exclusive.
    pub(crate) fn lock(&self, wanted: i32) -> Result<(), Busy> {
        let mut state = self.disk.state();
        let others = state.open.iter().filter(|(id, (inode, _))| **id != self.id && *inode == self.inode);
        let highest = others.map(|(_, (_, level))| *level).max().unwrap_or(0);
        let mine = &mut state.open.get_mut(&self.id).expect("it is open").1;
        if wanted <= *mine {
            return Ok(());
        }
        let limit = match wanted {
            1 => 2,
            2 | 3 => 1,
            _ => 0,
        };
        if highest > limit {
            if wanted == 4 && highest == 1 && *mine >= 2 {
                // Nobody new comes in until those who read have gone.
                *mine = 3;
            }
            return Err(Busy);
        }
        *mine = wanted;
        Ok(())
    }

    pub(crate) fn unlock(&self, level: i32) {
        self.disk.state().open.get_mut(&self.id).expect("it is open").1 = level;
    }

    /// Whether someone is about to write.
    pub(crate) fn is_reserved(&self) -> bool {
        self.disk.state().open.values().any(|(inode, level)| *inode == self.inode && *level >= 2)
    }

    /// The index shared by the connections to this database, and what this one holds of its locks.
    pub(crate) fn shm(&mut self) -> &mut (Arc<Shm>, Held) {
        self.shm.get_or_insert_with(|| {
            let mut state = self.disk.state();
            let shared = &mut state.inodes[self.inode].shm;
            let shm = shared.upgrade().unwrap_or_default();
            *shared = Arc::downgrade(&shm);
            (shm, Held::default())
        })
    }

    /// Lets go of the shared index.
    pub(crate) fn leave_shm(&mut self) {
        if let Some((shm, mut held)) = self.shm.take() {
            let all = shm.lock(&mut held, 0, 8, crate::shm::Wanted::Nothing);
            debug_assert!(all.is_ok(), "letting go never waits");
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.leave_shm();
        self.disk.state().open.remove(&self.id);
        self.disk.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &Arc<Disk>, name: &str) -> Option<Vec<u8>> {
        let file = disk.open(Some(name), Role::Database, false).ok()?;
        let mut content = vec![0; file.size().expect("the power is on")];
        file.read(0, &mut content).expect("the power is on");
        Some(content)
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = Disk::new(Syncs::Honest);
            let mut log = disk.open(Some("log"), Role::Log, true).expect("the power is on");
            log.write(0, &[1; 1_024]).expect("the power is on");
            log.sync().expect("the power is on");
            log.write(512, &[2; 1_024]).expect("the power is on");
            drop(disk.open(Some("new"), Role::Database, true).expect("the power is on"));
            let (after, _) = disk.cut(&mut Dice::new(seed));
            assert!(log.write(0, &[3]).is_err(), "the power is off");
            let content = content(&after, "log").expect("its name was synced with it");
            assert_eq!(content[..512], [1; 512]);
            seen.insert((content.len(), content[512], content.get(1_024).copied(), after.names().contains("new")));
        }
        for sectors in [(1_024, 1, None), (1_536, 2, Some(2)), (1_024, 2, None), (1_536, 1, Some(2))] {
            for is_new in [false, true] {
                assert!(seen.contains(&(sectors.0, sectors.1, sectors.2, is_new)), "{sectors:?} {is_new} in {seen:?}");
            }
        }
    }

    #[test]
    fn the_power_goes_before_the_step_that_was_said() {
        let disk = Disk::new(Syncs::Honest);
        disk.arm(Some(2));
        let mut file = disk.open(Some("file"), Role::Database, true).expect("the first step");
        file.write(0, &[1]).expect("the second step");
        assert!(disk.is_on());
        assert!(file.sync().is_err() && !disk.is_on());
        assert!(file.size().is_err(), "nothing can be read without power");
    }
}
