//! A disk that keeps only what was synced.
//!
//! **Guarantees.** After [`Disk::cut`] a file holds what it held at its last sync and any part of what was written since:
//! each write or truncation there, not there, or there in some of its 512-byte sectors, with noise where a sector was
//! just being written. Names behave likewise: a file made, deleted or renamed since its directory was synced may
//! be so or not. From the cut on every call fails, so that nothing done afterwards counts. A sector that is written with
//! what it holds holds that afterwards, whatever happens.
//!
//! After [`Disk::restart`] all is as it was: the system has kept what was not synced. A sync that fails has kept any part
//! of what was written, and **the rest is never written any more**, whatever later syncs say, although whoever reads still
//! finds it (as on Linux), until the system forgets it.
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

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The power is off, or a sync failed.
    Broken,
    /// There is no room.
    Full,
    /// There is no such file.
    Missing,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing works any more: the power is off, or this process has ended.
    Off,
    /// Until [`Disk::free`] nothing can be written that needs room: what makes a file longer, or, with `everywhere`,
    /// anything, as on a file system that never writes in place.
    Full {
        /// Whether writing over something needs room.
        everywhere: bool,
    },
    /// The next sync fails, or the next one of a database.
    Sync {
        /// Whether only that of a database counts.
        of_database: bool,
    },
}

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

/// Where SQLite was when something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

impl Inode {
    fn of(content: Vec<u8>) -> Self {
        Self { durable: content.clone(), current: content, ..Self::default() }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.unsynced.drain(..).for_each(|change| change.apply(&mut self.durable));
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => write(content, *at, data),
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }
}

type Names = BTreeMap<String, usize>;

struct State {
    syncs: Syncs,
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    /// Names' new meanings; none: it was deleted. What is in one list happens at once.
    unsynced_names: Vec<Vec<(String, Option<usize>)>>,
    /// Open files and the level of SQLite's lock that each holds on its inode.
    open: BTreeMap<u64, (usize, i32)>,
    opened: u64,
    is_on: bool,
    steps: u64,
    armed: Option<(u64, Fault)>,
    /// Whether it is full, and writing over something needs room, too.
    full: Option<bool>,
    /// Whether the next sync fails, and only one of a database does.
    fails_sync: Option<bool>,
    moment: Moment,
    landed: Option<(Fault, Moment)>,
    /// Decides what a sync that fails has kept.
    dice: Dice,
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
            steps: 0,
            armed: None,
            full: None,
            fails_sync: None,
            moment: Moment::Between,
            landed: None,
            dice: Dice::new(0),
        };
        Arc::new(Self { state: Mutex::new(state), closed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics")
    }

    /// The fault comes just before the step after so many: writes, truncations, syncs, and files made, deleted or renamed
    /// are steps. None: it does not come.
    pub fn arm(&self, fault: Option<(u64, Fault)>) {
        let mut state = self.state();
        state.armed = fault;
        state.dice = Dice::new(fault.map_or(0, |(steps, _)| steps));
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The fault that made a call fail first, but for one that stops everything, and where SQLite was.
    pub fn landed(&self) -> Option<(Fault, Moment)> {
        self.state().landed
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        self.state().full.is_some()
    }

    /// There is room again.
    pub fn free(&self) {
        self.state().full = None;
    }

    /// Syncs are like this from now on.
    pub fn set(&self, syncs: Syncs) {
        self.state().syncs = syncs;
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
        for together in &state.unsynced_names {
            if matches!(survives(dice), Fate::Lost) {
                continue;
            }
            for (name, meaning) in together {
                match meaning {
                    Some(inode) => drop(names.insert(name.clone(), *inode)),
                    None => drop(names.remove(name)),
                }
            }
        }
        let (mut inodes, mut moved) = (Vec::new(), BTreeMap::new());
        for inode in names.values_mut() {
            let from = *inode;
            *inode = *moved.entry(from).or_insert_with(|| {
                let file = &state.inodes[from];
                let mut content = file.durable.clone();
                for change in &file.unsynced {
                    match (survives(dice), change) {
                        (Fate::Lost, _) => {}
                        (Fate::Torn, Change::Write(at, data)) => tear(&mut content, *at, data, dice),
                        (_, change) => change.apply(&mut content),
                    }
                }
                inodes.push(Inode::of(content));
                inodes.len() - 1
            });
        }
        (Self::with(state.syncs, inodes, names), state.moment)
    }

    /// The process ends now, if it has not yet, and another one begins: the disk as that finds it, with room, and where
    /// SQLite was. Of some files the system has forgotten meanwhile what it will never write.
    pub fn restart(&self, dice: &mut Dice) -> (Arc<Self>, Moment) {
        let mut state = self.state();
        state.is_on = false;
        let mut inodes = state.inodes.split_off(0);
        for inode in &mut inodes {
            inode.shm = Weak::new();
            if dice.chance(500) {
                inode.current = inode.durable.clone();
                inode.unsynced.iter().for_each(|change| change.apply(&mut inode.current));
            }
            // Whoever still has it open finds the disk off.
            state.inodes.push(Inode::default());
        }
        let next = Self::with(state.syncs, inodes, state.names.clone());
        {
            let mut next = next.state();
            next.durable_names = std::mem::take(&mut state.durable_names);
            next.unsynced_names = std::mem::take(&mut state.unsynced_names);
        }
        (next, state.moment)
    }

    #[cfg(test)]
    fn names(&self) -> std::collections::BTreeSet<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Opens a file; `None` for a name: a temporary one.
    pub(crate) fn open(
        self: &Arc<Self>,
        name: Option<&str>,
        role: Role,
        create: bool,
        is_read_only: bool,
    ) -> Result<OpenFile, Failed> {
        let mut state = self.state();
        let found = name.and_then(|name| state.names.get(name).copied());
        let inode = match (found, name) {
            (Some(inode), _) => {
                state.check()?;
                inode
            }
            (None, Some(_)) if !create => return Err(Failed::Missing),
            (None, name) => {
                if let Some(name) = name {
                    state.step()?;
                    state.need_room(true)?;
                    let inode = state.inodes.len();
                    state.rename(vec![(name.into(), Some(inode))]);
                }
                state.inodes.push(Inode::default());
                state.inodes.len() - 1
            }
        };
        state.opened += 1;
        let id = state.opened;
        state.open.insert(id, (inode, 0));
        let keeps_directory = create && matches!(role, Role::Log | Role::Journal);
        Ok(OpenFile { disk: self.clone(), id, inode, role, is_read_only, keeps_directory, shm: None })
    }

    /// Deletes a name; false: there was none.
    pub(crate) fn delete(&self, name: &str, sync_directory: bool) -> Result<bool, Failed> {
        let mut state = self.state();
        state.check()?;
        if !state.names.contains_key(name) {
            return Ok(false);
        }
        state.step()?;
        state.rename(vec![(name.into(), None)]);
        if sync_directory {
            state.sync_names();
        }
        Ok(true)
    }

    /// Gives a file a second name.
    pub(crate) fn link(&self, from: &str, to: &str) -> Result<(), Failed> {
        let mut state = self.state();
        let inode = state.find(from)?;
        state.step()?;
        state.need_room(true)?;
        state.rename(vec![(to.into(), Some(inode))]);
        Ok(())
    }

    /// Gives a file another name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Failed> {
        let mut state = self.state();
        let inode = state.find(from)?;
        state.step()?;
        state.need_room(true)?;
        state.rename(vec![(to.into(), Some(inode)), (from.into(), None)]);
        Ok(())
    }

    /// All that a file holds.
    pub(crate) fn content(&self, name: &str) -> Result<Vec<u8>, Failed> {
        let state = self.state();
        Ok(state.inodes[state.find(name)?].current.clone())
    }

    /// Writes over a file what it holds, and syncs it.
    pub(crate) fn rewrite(&self, name: &str) -> Result<(), Failed> {
        let mut state = self.state();
        let inode = state.find(name)?;
        state.step()?;
        state.need_room(false)?;
        let content = state.inodes[inode].current.clone();
        state.inodes[inode].change(Change::Write(0, content));
        state.sync(inode, false)
    }

    /// Syncs a file.
    pub(crate) fn sync(&self, name: &str) -> Result<(), Failed> {
        let mut state = self.state();
        let inode = state.find(name)?;
        state.sync(inode, false)
    }

    /// Syncs the directory, of which there is one.
    pub(crate) fn sync_directory(&self) -> Result<(), Failed> {
        let mut state = self.state();
        state.step()?;
        state.fail_sync(false)?;
        state.sync_names();
        Ok(())
    }

    /// The names of all files.
    pub(crate) fn list(&self) -> Result<Vec<String>, Failed> {
        let state = self.state();
        state.check()?;
        Ok(state.names.keys().cloned().collect())
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
        if self.is_on { Ok(()) } else { Err(Failed::Broken) }
    }

    /// Something that a loss of power may undo is about to happen.
    fn step(&mut self) -> Result<(), Failed> {
        self.check()?;
        self.steps += 1;
        match &mut self.armed {
            Some((0, fault)) => {
                match *fault {
                    Fault::Off => self.is_on = false,
                    Fault::Full { everywhere } => self.full = Some(everywhere),
                    Fault::Sync { of_database } => self.fails_sync = Some(of_database),
                }
                self.armed = None;
                self.check()
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether something can be written; `more`: the file becomes longer.
    fn need_room(&mut self, more: bool) -> Result<(), Failed> {
        match self.full {
            Some(everywhere) if more || everywhere => {
                self.land(Fault::Full { everywhere });
                Err(Failed::Full)
            }
            _ => Ok(()),
        }
    }

    fn land(&mut self, fault: Fault) {
        self.landed = self.landed.or(Some((fault, self.moment)));
    }

    fn find(&self, name: &str) -> Result<usize, Failed> {
        self.check()?;
        self.names.get(name).copied().ok_or(Failed::Missing)
    }

    /// Gives names other meanings, all at once.
    fn rename(&mut self, together: Vec<(String, Option<usize>)>) {
        for (name, meaning) in &together {
            match meaning {
                Some(inode) => drop(self.names.insert(name.clone(), *inode)),
                None => drop(self.names.remove(name)),
            }
        }
        self.unsynced_names.push(together);
    }

    fn fail_sync(&mut self, is_database: bool) -> Result<(), Failed> {
        match self.fails_sync {
            Some(of_database) if is_database || !of_database => {
                self.fails_sync = None;
                self.land(Fault::Sync { of_database });
                Err(Failed::Broken)
            }
            _ => Ok(()),
        }
    }

    fn sync(&mut self, inode: usize, is_database: bool) -> Result<(), Failed> {
        self.step()?;
        if let Err(failed) = self.fail_sync(is_database) {
            let file = &mut self.inodes[inode];
            for change in file.unsynced.drain(..) {
                if self.dice.chance(500) {
                    change.apply(&mut file.durable);
                }
            }
            return Err(failed);
        }
        if self.syncs == Syncs::Honest {
            self.inodes[inode].sync();
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
        if content.get(at + done..at + done + next) == Some(sector) {
            // It is as it was.
        } else if dice.chance(30) {
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
    is_read_only: bool,
    /// Its next sync keeps the directory, too.
    keeps_directory: bool,
    shm: Option<(Arc<Shm>, Held)>,
}

impl OpenFile {
    fn change(&self, change: Change) -> Result<(), Failed> {
        let mut state = self.disk.state();
        if self.is_read_only {
            return Err(Failed::Broken);
        }
        if self.role == Role::Temporary {
            state.check()?;
            change.apply(&mut state.inodes[self.inode].current);
            return Ok(());
        }
        state.step()?;
        if self.role == Role::Log {
            // The first write to the log begins a commit, and shows that a checkpoint is over.
            state.moment = Moment::Commit;
        }
        let length = state.inodes[self.inode].current.len();
        let (more, needs_room) = match &change {
            Change::Write(at, data) => (at + data.len() > length, true),
            Change::Truncate(to) => (*to > length, *to > length),
        };
        if needs_room && let Err(failed) = state.need_room(more) {
            if let Change::Write(at, data) = change {
                // Some of it found room.
                let some = data.len() / SECTOR / 2 * SECTOR;
                state.inodes[self.inode].change(Change::Write(at, data[..some].to_vec()));
            }
            return Err(failed);
        }
        state.inodes[self.inode].change(change);
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
        self.change(Change::Write(at, data.to_vec()))
    }

    pub(crate) fn truncate(&self, length: usize) -> Result<(), Failed> {
        self.change(Change::Truncate(length))
    }

    pub(crate) fn sync(&mut self) -> Result<(), Failed> {
        let mut state = self.disk.state();
        state.sync(self.inode, self.role == Role::Database)?;
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
        let file = disk.open(Some(name), Role::Database, false, false).ok()?;
        let mut content = vec![0; file.size().expect("the power is on")];
        file.read(0, &mut content).expect("the power is on");
        Some(content)
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = Disk::new(Syncs::Honest);
            let mut log = disk.open(Some("log"), Role::Log, true, false).expect("the power is on");
            log.write(0, &[1; 1_024]).expect("the power is on");
            log.sync().expect("the power is on");
            log.write(512, &[2; 1_024]).expect("the power is on");
            drop(disk.open(Some("new"), Role::Database, true, false).expect("the power is on"));
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
        disk.arm(Some((2, Fault::Off)));
        let mut file = disk.open(Some("file"), Role::Database, true, false).expect("the first step");
        file.write(0, &[1]).expect("the second step");
        assert!(disk.is_on());
        assert!(file.sync().is_err() && !disk.is_on());
        assert!(file.size().is_err(), "nothing can be read without power");
    }

    #[test]
    fn what_a_failed_sync_lost_is_read_and_never_written_unless_it_is_written_again() {
        let mut seen = std::collections::BTreeSet::new();
        for steps in 0..40 {
            for (rewrites, evicts) in [(false, 0), (false, 1), (true, 0)] {
                let disk = Disk::new(Syncs::Honest);
                let mut log = disk.open(Some("log"), Role::Log, true, false).expect("the power is on");
                log.write(0, &[1; 512]).and_then(|()| log.sync()).expect("the power is on");
                let other = disk.open(Some("other"), Role::Log, true, false).expect("the power is on");
                // The number of steps is what the disk's dice begin with.
                disk.arm(Some((steps, Fault::Sync { of_database: false })));
                (0..steps).for_each(|_| other.write(0, &[0]).expect("the power is on"));
                log.write(0, &[2; 512]).expect("the power is on");
                assert_eq!(log.sync(), Err(Failed::Broken));
                assert_eq!(disk.landed(), Some((Fault::Sync { of_database: false }, Moment::Commit)));
                log.sync().expect("the next one says that all is well");
                assert_eq!(content(&disk, "log"), Some(vec![2; 512]));
                if rewrites {
                    disk.rewrite("log").expect("the power is on");
                }
                drop(log);
                let (disk, _) = disk.restart(&mut Dice::new(evicts + steps));
                let read = content(&disk, "log").expect("is there")[0];
                let (disk, _) = disk.cut(&mut Dice::new(steps));
                seen.insert((rewrites, read, content(&disk, "log").expect("its name was synced")[0]));
            }
        }
        assert!(seen.contains(&(false, 2, 1)) && seen.contains(&(false, 1, 1)), "{seen:?}");
        assert!(seen.iter().all(|(rewrites, _, after)| !rewrites || *after == 2), "{seen:?}");
    }

    #[test]
    fn a_full_disk_refuses_what_needs_room_until_there_is_some() {
        for everywhere in [false, true] {
            let disk = Disk::new(Syncs::Honest);
            let file = disk.open(Some("file"), Role::Database, true, false).expect("there is room");
            file.write(0, &[1; 512]).expect("there is room");
            disk.arm(Some((0, Fault::Full { everywhere })));
            assert_eq!(file.write(0, &[2; 512]).is_ok(), !everywhere);
            assert_eq!(file.write(512, &[2; 512]), Err(Failed::Full));
            assert!(disk.open(Some("other"), Role::Database, true, false).is_err());
            assert!(file.truncate(100).is_ok());
            disk.free();
            file.write(512, &[2; 512]).expect("there is room");
        }
    }

    #[test]
    fn a_rename_happens_or_not() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let disk = Disk::new(Syncs::Honest);
            for name in ["old", "new"] {
                let file = disk.open(Some(name), Role::Database, true, false).expect("the power is on");
                file.write(0, name.as_bytes()).expect("the power is on");
                disk.sync(name).expect("the power is on");
            }
            disk.sync_directory().expect("the power is on");
            disk.rename("new", "old").expect("the power is on");
            let (disk, _) = disk.cut(&mut Dice::new(seed));
            seen.insert((content(&disk, "old"), content(&disk, "new")));
        }
        let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
        assert_eq!(seen, [(new.clone(), None), (old, new)].into());
    }
}
