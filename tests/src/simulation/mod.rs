//! A seeded simulation of whole chains: production code for link, ledger, view, purchases and restore, single-threaded,
//! over SQLite in memory and a simulated Redis, in virtual time.
//!
//! One step is one Redis command or one database transaction; a value that was read and its use are steps apart. A
//! process may die before or after any commit and between any two commands. [`run`] plays one seed: a storm of traffic
//! and faults, then a calm in which traffic goes on for a while and everything must heal without a human, but for the
//! restores that a stopped agent asks for and for stores that were retired. The same judge as after chaos with real
//! processes has the last word.

mod agent;
mod allotments;
mod carts;
mod central;
mod clients;
mod faults;
mod holds;
mod humans;
mod orders;
mod readers;
mod rebuilding;
mod reconciling;
mod redis;
mod refusals;
mod sending;
mod servers;
mod traffic;
mod transfers;
mod virtual_world;

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::link::Pace;

/// W in the simulation: small, so that it is full now and then.
const WINDOW: u64 = 6;
/// As in production, but for bounds that are reached now and then.
const PACE: Pace = Pace {
    window: WINDOW,
    tick_ms: protocol::link::TICK_MS,
    acked_every_ms: 200,
    bytes_most: 2_000,
    bytes_least: 300,
    retry_first: Duration::from_millis(100),
    retry_most: Duration::from_secs(2),
};
/// Entries that central reads at once.
const EVENT_BATCH: usize = 5;
/// Rows that central writes in one transaction, a seed each: one entry at a time, and outcomes that came with a state one
/// by one; a few; whole batches.
const BUDGETS: [u64; 3] = [2, 8, ::central::projection::view::Budget::FULL];
/// Commands that an agent reads at once.
const COMMAND_BATCH: usize = 3;

/// What one seed did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Promises broken. Empty: all was well.
    pub violations: Vec<String>,
    /// How often each fault and each rare path occurred.
    pub counts: BTreeMap<&'static str, u64>,
    /// What happened, a line a step, if it was asked for.
    pub trace: Vec<String>,
}

/// Everything that must have occurred somewhere in a run of many seeds: a simulation whose faults never happen proves
/// nothing.
pub const MUST_OCCUR: &[&str] = &[
    "sales",
    "purchases confirmed",
    "purchases rejected",
    "purchases expired",
    "purchases cancelled",
    "purchases of several products confirmed",
    "purchases of several products rejected",
    "purchases of several products cancelled",
    "purchases passed on to another store",
    "purchases confirmed by a later store",
    "purchases for which no store was left",
    "purchases that waited for word of a store",
    "purchases that waited for stores to come back",
    "cancels of purchases that sought a store",
    "purchases refused: store offline",
    "purchases refused: store catching up",
    "cancels of pending purchases",
    "cancels refused: picked",
    "counts",
    "counts of an earlier shelf",
    "shelves entered again",
    "holds ended for want of units",
    "units held",
    "holds confirmed",
    "holds expired",
    "reservations asked through central",
    "central's item commands",
    "central's batches",
    "stores' shelves counted",
    "lists compared",
    "lists compared for information only",
    "lists of an earlier shelf",
    "lists without a difference",
    "lists that leave out what the store has",
    "lists that name what the store does not have",
    "lists of another epoch, or of a later place",
    "lists overtaken by a count",
    "reconciliations",
    "reconciliations done",
    "reconciliations refused",
    "agent killed",
    "agent killed before a commit",
    "agent killed after a commit",
    "central killed",
    "central killed before a commit",
    "central killed after a commit",
    "connection broken in a pipeline",
    "late command of a dead connection",
    "entries delivered twice",
    "file set back while all was idle",
    "restore chose its own state",
    "purchases taken again out of a chosen state",
    "Redis wiped",
    "stream's tail lost",
    "stream's middle lost",
    "foreign entry in a stream",
    "entry changed in place",
    "foreign key in a stream's place",
    "ack set back",
    "agent cut off",
    "central cut off",
    "clock moved",
    "log pruned up to the ack",
    "view corrupted",
    "view and its digest corrupted",
    "store retired",
    "store adopted",
    "restore of a retired store refused",
    "units asked back",
    "unknown event",
    "store's file set back",
    "store cloned",
    "store's disk lost",
    "empty agent with a known id",
    "restore not carried out",
    "restore carried out",
    "restore twice",
    "restore recorded entries again",
    "restore kept its own state",
    "restore asked a human",
    "restore told of operations by their names alone",
    "central set back",
    "window full",
    "stream started over",
    "round cut short by its bytes",
    "stream read apart",
    "events of several stores in one transaction",
    "central's writer busy",
    "entry refused by central's database",
    "command refused by a store's database",
    "commands of several stores in one batch",
    "agent stopped: fenced",
    "agent stopped: superseded",
    "agent stopped: diverged",
    "epoch opened because the log was pruned",
    "epoch opened with a proof",
    "resync",
    "parts of a state told",
    "states told",
    "entries waited for a state's outcomes",
    "central killed between steps",
    "totals summed anew",
    "shortage",
    "units set aside",
    "fewer units wanted aside",
    "units lost that were set aside",
    "units released",
    "purchases sold out of the allotment",
    "purchases sold while the store was away",
    "transfers asked for",
    "transfers shipped",
    "transfers received",
    "transfers received in part",
    "transfers received as they were announced",
    "transfers received through central",
    "transfers rejected",
    "rebuild begun",
    "rebuild asked for while one runs",
    "view rebuilt",
    "central killed in a rebuild",
    "store left out of a rebuild: it is restored",
    "store left out of a rebuild: its digest differs",
    "store's rebuild overtaken by its state",
    "requests sent",
    "requests written in one transaction",
    "requests that died with their process",
    "requests repeated under their key",
    "requests repeated after a restore",
    "requests that came twice before they were written",
    "requests refused for their version",
    "keys used for something else",
    "other requests refused under a used key",
    "answers repeated",
    "answers lost",
    "clients that hung up",
    "purchases begun under a key",
    "purchases waited for",
    "purchases answered while pending",
    "purchases refused after a wait",
    "cancels asked for under a key",
    "cancels answered",
    "cancels answered before the store has",
    "cancels refused",
    "reservations made under a key",
    "reservations confirmed under a key",
    "reservations confirmed in part under a key",
    "reservations extended under a key",
    "reservations cancelled under a key",
    "reservations found as they were to be",
    "batches done under a key",
    "batches done in part under a key",
    "batches refused as a whole",
    "orders repeated",
    "orders repeated after a restore",
    "batches repeated after a restore",
    "orders refused by a store",
    "reservations asked through central under a key",
    "commands to reservations under a key",
    "reservations found by central as they were to be",
    "batches asked through central under a key",
    "transfers asked for under a key",
    "orders waited for",
    "orders answered before the store has",
    "orders refused by central",
    "pages of events read",
    "readers that went back",
    "readers whose central was set back",
];

/// From this seed on all rare faults happen in every seed, and every other one is about copies: to hunt for what is rarer still.
pub const DENSE: u64 = 1_000_000;

/// Seeds after which everything in [`MUST_OCCUR`] must have.
pub const ENOUGH_SEEDS: u64 = 5_000;

/// Played besides so many, because what happens there is too rare to happen in any so many: an epoch is opened with a proof,
/// and what a buyer was promised is taken out of a chosen state. When the dice change others are to be looked for, from
/// [`DENSE`] on.
pub const RARE: &[u64] = &[1_000_283, 1_000_296];

/// Plays one seed.
pub fn run(seed: u64, trace: bool) -> Outcome {
    virtual_world::VirtualWorld::new(seed, trace).play()
}
