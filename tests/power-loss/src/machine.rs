//! A machine whose power fails again and again, whose processes are killed, whose disk is full, and whose syncs fail.
//!
//! **What is checked** after each, over the database opened in the production way: each operation that was answered
//! while the power was on is there exactly once; the auditor finds no difference; and every table is, row for row, what
//! a database in memory says that did the answered operations and no others, but that the group under way
//! may be there as a whole. Callers then ask again for what they were not answered. A disk that is full or fails to sync is
//! told to nobody as success, and is no reason why the next process does not serve.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use futures_util::future::{join, join_all};
use runtime::sqlite::{Abort, Error, Schema, Writer, memory, open_beside, open_on};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Runtime;

use crate::disk::Moment;
use crate::{Dice, Disk, Fault, Mount, Syncs};

const PATH: &str = "/data/shelfstream.db";
/// Steps of the disk until the power goes, at most: some tens of commits.
const STEPS: u64 = 400;
/// Steps of about one commit.
const SOON: u64 = 20;
/// Steps that a first opening takes, with its migrations, roughly.
const STEPS_OF_FIRST_OPENING: u64 = 120;
/// Operations in one commit, at most.
const GROUP: u64 = 12;

/// What runs on the machine.
pub trait Daemon {
    /// Something that a caller asks and is answered.
    type Operation: Clone + Send + 'static;
    const SCHEMA: Schema;

    /// What `run` does with the database before it serves.
    fn start(&self, connection: &Connection) -> Result<(), String>;

    /// Operations that are asked at the same time, `size` or fewer; `known` is what has been answered so far.
    fn plan(&mut self, known: &Connection, size: u64, dice: &mut Dice) -> Vec<Self::Operation>;

    /// Does one, with the production code. Names what is in the database because of it.
    fn perform(operation: &Self::Operation, connection: &Connection) -> Result<Vec<String>, Abort<String>>;

    /// What is there, by such names, and how often.
    fn present(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>>;

    /// The auditor's differences.
    fn audit(connection: &Connection) -> rusqlite::Result<Vec<String>>;
}

/// How a life of a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The power goes.
    Cut,
    /// The process is killed. The system stays, and what it had not yet written.
    Kill,
    /// The disk is full.
    Full,
    /// A sync fails.
    Sync,
    /// A sync of the database fails, in a checkpoint.
    SyncOfDatabase,
}

/// How a machine is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// How often its power fails.
    pub cuts: u64,
    /// How the lives of its processes end, one of these each.
    pub ends: &'static [End],
    /// Whether its disk's syncs do what they say.
    pub syncs: Syncs,
    /// Another `synchronous` than production's.
    pub synchronous: Option<&'static str>,
    /// The log is copied again and again while others commit. Then a seed is not the same run again.
    pub beside: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Cuts of the power.
    pub cuts: u64,
    /// Of these, with a transaction partly in the log, a migration's included.
    pub in_commit: u64,
    /// Of these, with a checkpoint under way.
    pub in_checkpoint: u64,
    /// Of these, while the database was being opened.
    pub in_opening: u64,
    /// Of these, while the daemon was stopping of its own accord.
    pub in_stopping: u64,
    /// Stops without a cut.
    pub stops: u64,
    /// Other ends of processes, by what ended them and where SQLite was then.
    pub ends: BTreeMap<String, u64>,
    /// Operations answered although the disk was full, since there was room for them.
    pub answered_full: u64,
    /// Operations answered, not counting refusals.
    pub answered: u64,
    /// What they left, by the first word of its name.
    pub kinds: BTreeMap<String, u64>,
    pub refused: u64,
    /// Commits of more than one operation that were answered.
    pub groups: u64,
    /// Operations that were not answered and are there.
    pub found: u64,
    /// Operations that were not answered and are not there.
    pub gone: u64,
    /// Cuts after which the database was not as had been answered. Then a machine is given up.
    pub losses: u64,
    /// Answered operations that were missing.
    pub lost: u64,
    /// Of the losses, databases that could not be opened or audited any more.
    pub damaged: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.in_commit += other.in_commit;
        self.in_checkpoint += other.in_checkpoint;
        self.in_opening += other.in_opening;
        self.in_stopping += other.in_stopping;
        self.stops += other.stops;
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        self.answered_full += other.answered_full;
        self.answered += other.answered;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.refused += other.refused;
        self.groups += other.groups;
        self.found += other.found;
        self.gone += other.gone;
        self.losses += other.losses;
        self.lost += other.lost;
        self.damaged += other.damaged;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cuts ({} inside a commit, {} inside a checkpoint, {} while opening, {} while stopping), {} clean stops, \
             other ends {:?}; \
             {} operations answered ({} refused, {} commits of several, {} with a full disk), which left {:?}; \
             not answered: {} found, {} gone; \
             lost: {} answered operations in {} cuts, {} databases damaged",
            self.cuts,
            self.in_commit,
            self.in_checkpoint,
            self.in_opening,
            self.in_stopping,
            self.stops,
            self.ends,
            self.answered,
            self.refused,
            self.groups,
            self.answered_full,
            self.kinds,
            self.found,
            self.gone,
            self.lost,
            self.losses,
            self.damaged,
        )
    }
}

/// Plays one seed: a new machine and its cuts. On an honest disk with production's pragmas anything wrong panics;
/// otherwise it is reported, and the machine is given up.
pub fn play<D: Daemon>(mount: &Mount, daemon: D, seed: u64, setup: Setup) -> Report {
    let known = memory(D::SCHEMA).expect("a database in memory");
    daemon.start(&known).expect("it starts in memory");
    let disk = Disk::new(setup.syncs);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut machine = Machine {
        mount,
        daemon,
        setup,
        seed,
        dice: Dice::new(seed),
        disk,
        runtime,
        known,
        answered: Vec::new(),
        under_way: Vec::new(),
        has_opened: false,
        report: Report::default(),
    };
    while machine.report.cuts + machine.report.ends.values().sum::<u64>() < setup.cuts && machine.report.losses == 0 {
        machine.live();
    }
    machine.report
}

struct Machine<'a, D: Daemon> {
    mount: &'a Mount,
    daemon: D,
    setup: Setup,
    seed: u64,
    dice: Dice,
    disk: Arc<Disk>,
    runtime: Runtime,
    /// What the database has to be.
    known: Connection,
    /// The names of what each answered operation left.
    answered: Vec<Vec<String>>,
    /// What was asked and not answered when the power went.
    under_way: Vec<D::Operation>,
    has_opened: bool,
    report: Report,
}

/// Copies the log as often as it can, until it is dropped or the power goes.
struct Copying {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Copying {
    fn start(mount: &Mount) -> Self {
        let connection = open_beside(mount, Path::new(PATH)).expect("the power is on");
        let ends = Arc::new(AtomicBool::new(false));
        let asked = ends.clone();
        let copy = move || {
            let copied = || connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(())).is_ok();
            while !asked.load(Ordering::Relaxed) && copied() {}
        };
        Self { ends, thread: Some(std::thread::spawn(copy)) }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join).transpose().expect("it does not panic");
    }
}

/// What a writer said to a group.
type Answers = Vec<Result<Result<Vec<String>, String>, Error>>;

impl<D: Daemon> Machine<'_, D> {
    /// From an opening to the next cut, other end or clean stop.
    fn live(&mut self) {
        self.mount.insert(self.disk.clone());
        let end = *self.dice.pick(self.setup.ends).expect("there is an end");
        let (chance, steps) = if self.has_opened { (10, 20) } else { (60, STEPS_OF_FIRST_OPENING) };
        let armed = self.dice.chance(chance * 10).then(|| (self.dice.below(steps), end));
        let armed = armed.map(|(steps, end)| (steps, self.fault(end)));
        self.disk.arm(armed);
        let opened = open_on(self.mount, Path::new(PATH), D::SCHEMA)
            .map_err(|error| error.to_string())
            .and_then(|connection| self.daemon.start(&connection).map(|()| connection));
        self.disk.arm(None);
        if !self.disk.is_on() {
            drop(opened);
            self.report.in_opening += 1;
            return self.after(end);
        }
        let connection = match opened {
            Ok(connection) => connection,
            // It says so and does not serve; the next one does.
            Err(why) if self.disk.landed().is_some() && !why.contains("damaged") => {
                self.report.in_opening += 1;
                return self.after(end);
            }
            Err(why) => return self.damaged(&why),
        };
        self.disk.free();
        self.has_opened = true;
        let again = std::mem::take(&mut self.under_way);
        if !self.is_as_answered(&connection, &again) {
            return;
        }
        if let Some(mode) = self.setup.synchronous {
            connection.pragma_update(None, "synchronous", mode).expect("a mode of SQLite's");
        }
        self.work(connection, again, end);
    }

    fn fault(&mut self, end: End) -> Fault {
        match end {
            End::Cut | End::Kill => Fault::Off,
            End::Full => Fault::Full { everywhere: self.dice.chance(500) },
            End::Sync => Fault::Sync { of_database: false },
            End::SyncOfDatabase => Fault::Sync { of_database: true },
        }
    }

    /// Serves until the process ends or is stopped.
    fn work(&mut self, connection: Connection, again: Vec<D::Operation>, end: End) {
        // So little room that pages of a transaction go to the log before it is committed.
        if self.dice.chance(200) {
            connection.pragma_update(None, "cache_size", 8).expect("a number of pages");
        }
        // Production's is 4,000 pages, which hardly any of these short lives would fill.
        let pages = self.dice.pick(&[None, Some(1), Some(4), Some(16), Some(64)]).copied().flatten();
        let (writer, ended) = match pages {
            Some(pages) => {
                let beside = open_beside(self.mount, Path::new(PATH)).expect("the power is on");
                Writer::start_checkpointing(connection, beside, pages, || {})
            }
            None => Writer::start(connection, || {}),
        };
        let copying = self.setup.beside.then(|| Copying::start(self.mount));
        // Someone who reads keeps checkpoints from finishing and the log from starting over.
        let mut reader = self.dice.chance(300).then(|| self.reader());
        // What a repeated request is answered out of a log that is not on disk goes with the next few writes, or never.
        let ends_soon = !again.is_empty() && self.dice.chance(500);
        let steps = self.dice.below(if ends_soon { SOON } else { STEPS });
        let fault = self.fault(end);
        self.disk.arm(Some((steps, fault)));
        let mut next = (!again.is_empty() && self.dice.chance(800)).then_some(again);
        let stops = loop {
            let size = if self.dice.chance(400) { 1 } else { 1 + self.dice.below(GROUP) };
            let group = next.take().unwrap_or_else(|| self.daemon.plan(&self.known, size, &mut self.dice));
            let answers = self.runtime.block_on(ask::<D>(&writer, &group));
            // A checkpoint comes behind the answers, and is over before anything else happens.
            let goes_on = self.runtime.block_on(writer.write(|_: &Connection| Ok::<_, Abort<()>>(()), |()| {})).is_ok();
            if self.is_refused_by_disk(&answers) {
                self.under_way = group;
                break false;
            }
            self.note(&group, answers);
            if !goes_on {
                break false;
            }
            if let Some(reader) = &mut reader
                && self.dice.chance(250)
            {
                let turn = if reader.is_autocommit() { "begin; select count(*) from sqlite_schema" } else { "commit" };
                if let Err(error) = reader.execute_batch(turn) {
                    assert!(!self.disk.is_on(), "{error}");
                    // Who copies beside has met the cut.
                    break false;
                }
            }
            if self.dice.chance(30) {
                break true;
            }
            if self.disk.is_full() && self.dice.chance(50) {
                self.disk.free();
            }
        };
        drop(copying);
        // One that ends because of its disk ends in its own way, whoever reads.
        let result = if stops || !self.disk.is_on() {
            drop((reader, writer));
            self.runtime.block_on(ended)
        } else {
            let result = self.runtime.block_on(ended);
            drop((reader, writer));
            result
        };
        let result = result.expect("the writer does not panic");
        self.disk.wait_closed();
        match (stops, self.disk.is_on()) {
            (true, true) if result.is_ok() => {
                self.disk.arm(None);
                self.disk.free();
                self.report.stops += 1;
            }
            (true, true) => {
                assert!(self.disk.landed().is_some(), "seed {}: {result:?}", self.seed);
                self.after(end);
            }
            (true, false) => {
                self.report.in_stopping += 1;
                self.after(end);
            }
            (false, is_on) => {
                assert!(!is_on || result.is_err(), "seed {}: it goes on", self.seed);
                self.after(end);
            }
        }
    }

    /// Whether the disk has failed, and nobody was told that anything was done.
    fn is_refused_by_disk(&self, answers: &Answers) -> bool {
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        if refused == 0 {
            return false;
        }
        let is_all = refused == answers.len();
        let is_disk = !self.disk.is_on() || self.disk.landed().is_some();
        assert!(is_all && is_disk, "seed {}: {answers:?} {:?}", self.seed, self.disk.landed());
        true
    }

    /// What comes after a process that has ended.
    fn after(&mut self, end: End) {
        if end == End::Cut {
            return self.cut();
        }
        let landed = self.disk.landed();
        // Sometimes the power goes at once.
        let moment = if end != End::Kill && self.dice.chance(300) {
            let (disk, moment) = self.disk.cut(&mut self.dice);
            self.disk = disk;
            self.report.cuts += 1;
            moment
        } else {
            let (disk, moment) = self.disk.restart(&mut self.dice);
            self.disk = disk;
            moment
        };
        let moment = landed.map_or(moment, |(_, moment)| moment);
        *self.report.ends.entry(format!("{end:?} {moment:?}")).or_default() += 1;
    }

    fn reader(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags_and_vfs(PATH, flags, self.mount.name()).expect("the power is on")
    }

    /// The power was on: everybody has an answer, and the same as in memory.
    fn note(&mut self, group: &[D::Operation], answers: Answers) {
        let expected = apply::<D>(&self.known, group);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("the power is on")).collect();
        assert_eq!(answers, expected, "seed {}: another answer than in memory", self.seed);
        let answered = answers.into_iter().filter_map(Result::ok);
        let before = self.answered.len();
        self.answered.extend(answered);
        for name in self.answered[before..].iter().flatten() {
            let kind = name.split(' ').next().unwrap_or_default();
            *self.report.kinds.entry(kind.into()).or_default() += 1;
        }
        let new = self.answered.len() - before;
        self.report.answered += new as u64;
        self.report.answered_full += if self.disk.is_full() { new as u64 } else { 0 };
        self.report.refused += (group.len() - new) as u64;
        self.report.groups += u64::from(new > 1);
    }

    fn cut(&mut self) {
        let (disk, moment) = self.disk.cut(&mut self.dice);
        self.disk = disk;
        self.report.cuts += 1;
        match moment {
            Moment::Commit => self.report.in_commit += 1,
            Moment::Checkpoint => self.report.in_checkpoint += 1,
            Moment::Between => {}
        }
    }

    /// Compares the database with what was answered. `under_way` may be there as a whole.
    fn is_as_answered(&mut self, connection: &Connection, under_way: &[D::Operation]) -> bool {
        let (there, differences) = match (D::present(connection), D::audit(connection)) {
            (Ok(there), Ok(differences)) => (there, differences),
            (there, differences) => {
                self.damaged(&format!("{:?} {:?}", there.err(), differences.err()));
                return false;
            }
        };
        let times = |name: &String| there.get(name).copied().unwrap_or(0);
        let lost = self.answered.iter().filter(|names| names.iter().any(|name| times(name) == 0)).count();
        let twice: Vec<&String> = self.answered.iter().flatten().filter(|name| times(name) > 1).collect();
        let found = tables(connection);
        let mut is_there = false;
        let mut other = unlike(&found, &tables(&self.known));
        if !other.is_empty() && !under_way.is_empty() && lost == 0 {
            apply::<D>(&self.known, under_way);
            is_there = true;
            other = unlike(&found, &tables(&self.known));
        }
        if lost == 0 && twice.is_empty() && differences.is_empty() && other.is_empty() {
            *(if is_there { &mut self.report.found } else { &mut self.report.gone }) += under_way.len() as u64;
            return true;
        }
        self.wrong(&format!(
            "{lost} of {} answered operations are missing, twice there: {twice:?}, the auditor says {differences:?}, \
             tables that are not as they were: {other:?}",
            self.answered.len()
        ));
        self.report.lost += lost as u64;
        false
    }

    fn damaged(&mut self, why: &str) {
        self.wrong(why);
        self.report.damaged += 1;
        self.report.lost += self.answered.len() as u64;
    }

    fn wrong(&mut self, what: &str) {
        let Setup { syncs, synchronous, .. } = self.setup;
        let is_honest = syncs == Syncs::Honest && synchronous.is_none();
        let is_production = is_honest && !self.mount.leaves_logs();
        assert!(!is_production, "seed {}, after cut {}: {what}", self.seed, self.report.cuts);
        self.report.losses += 1;
    }
}

/// Asks for a group at the same time, so that it is one commit: the first job waits until the others have queued.
async fn ask<D: Daemon>(writer: &Writer, group: &[D::Operation]) -> Answers {
    let (open, gate) = mpsc::channel::<()>();
    let mut gate = Some(gate);
    let writes = group.iter().map(|operation| {
        let (gate, operation) = (gate.take(), operation.clone());
        let job = move |connection: &Connection| {
            if let Some(gate) = &gate {
                // Ends with an error, when the other end is dropped.
                let _ = gate.recv();
            }
            D::perform(&operation, connection)
        };
        writer.write(job, |_| {})
    });
    join(join_all(writes), async move { drop(open) }).await.0
}

/// Does a group in memory, as the writer does.
pub(crate) fn apply<D: Daemon>(known: &Connection, group: &[D::Operation]) -> Vec<Result<Vec<String>, String>> {
    let one = |operation| {
        known.execute_batch("savepoint job")?;
        let result = match D::perform(operation, known) {
            Ok(names) => Ok(names),
            Err(Abort::Refused(why)) => {
                known.execute_batch("rollback to job")?;
                Err(why)
            }
            Err(Abort::Database(error)) => return Err(error),
        };
        known.execute_batch("release job")?;
        Ok(result)
    };
    known.execute_batch("begin").expect("a database in memory");
    let results = group.iter().map(one).collect::<rusqlite::Result<_>>().expect("a database in memory");
    known.execute_batch("commit").expect("a database in memory");
    results
}

/// A fingerprint of each table.
pub(crate) fn tables(connection: &Connection) -> BTreeMap<String, u64> {
    let read = || -> rusqlite::Result<BTreeMap<String, u64>> {
        let names: Vec<String> = connection
            .prepare("select name from sqlite_schema where type = 'table' order by name")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        names.into_iter().map(|name| Ok((name.clone(), fingerprint(connection, &name)?))).collect()
    };
    read().unwrap_or_else(|error| BTreeMap::from([(format!("cannot be read: {error}"), 0)]))
}

fn fingerprint(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut statement = connection.prepare(&format!("select * from \"{table}\""))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            let value = row.get_ref(column)?;
            hasher.write_u8(value.data_type() as u8);
            match value {
                ValueRef::Null => {}
                ValueRef::Integer(number) => hasher.write_i64(number),
                ValueRef::Real(number) => hasher.write_u64(number.to_bits()),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                    hasher.write_usize(bytes.len());
                    hasher.write(bytes);
                }
            }
        }
    }
    Ok(hasher.finish())
}

/// Names of the tables in which two databases differ.
fn unlike(a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}
