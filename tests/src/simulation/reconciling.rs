//! Stocktakers send lists of what they have counted. That happens in a part of the seeds and by dice of its own, so that the
//! others play as if there were no such thing.

use std::collections::BTreeMap;

use central::promises::reconciliations::{Compared, NotComparable, compare};
use central::storage::commands as asked;
use central::storage::reconciliations::is_counting;
use central::storage::stores;
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::wire::{About, Command, Position};
use runtime::sqlite::Abort;
use store_agent::ledger;

use super::DENSE;
use super::traffic::wish;
use super::virtual_world::{Commit, VirtualWorld, commit};
use crate::Dice;
use crate::judge::{self, Batch, Different, Name, Place, Report, Wish};

/// Lists that wait to be sent, at most: the oldest is thrown away.
const LISTS_MAX: usize = 6;

/// Stocktakers of one seed.
pub(super) struct Reconciling {
    dice: Dice,
    /// Whether there are any.
    happens: bool,
    lists: Vec<List>,
    /// The last number that was given.
    last: u64,
}

/// What was counted on a store's shelves.
#[derive(Clone)]
struct List {
    store: StoreId,
    lines: BTreeMap<ProductId, i64>,
    counted_at: Option<Position>,
}

/// Central has compared a list, and is about to ask the store to count what differs.
pub(super) struct Correction {
    compared: Compared,
    /// What the judge has worked out of it: where it was compared, and what the store is to count.
    place: Place,
    wishes: Vec<(Name, Wish)>,
}

impl Reconciling {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x7265_636f_6e63_696c);
        let happens = dice.chance(300);
        let happens = if seed < DENSE { happens } else { seed % 9 == 6 };
        Self { dice, happens, lists: Vec::new(), last: 0 }
    }
}

impl VirtualWorld {
    /// Now and then somebody counts a store's shelves, or sends a list of them.
    pub(super) fn take_stock(&mut self) {
        let chance = if self.calm { 4 } else { 80 };
        if !self.reconciling.happens || !self.reconciling.dice.chance(chance) {
            return;
        }
        match self.reconciling.dice.below(9) {
            0..=1 => self.count_shelves(),
            2..=6 => self.compare_list(),
            _ => self.correct(),
        }
    }

    /// The books may be wrong, and a product may be overlooked, or be one that the store does not have.
    fn count_shelves(&mut self) {
        let dice = &mut self.reconciling.dice;
        let agent = &self.agents[dice.below(self.agents.len() as u64) as usize];
        let at = ledger::head(&agent.file).expect("a ledger has a head").cursor.id();
        let mut lines = BTreeMap::new();
        for product in &self.products {
            let item = ledger::find_item(&agent.file, product).expect("stock can be read");
            let units = match item {
                _ if dice.chance(200) => continue,
                None if dice.chance(700) => continue,
                Some(item) if dice.chance(550) => item.quantity,
                item => dice.between(0, item.map_or(3, |item| item.quantity + 3)),
            };
            lines.insert(product.clone(), units);
        }
        if lines.is_empty() {
            return;
        }
        let counted_at = dice.chance(800).then(|| Position { store: agent.store.clone(), at });
        if self.reconciling.lists.len() >= LISTS_MAX {
            self.reconciling.lists.remove(0);
        }
        self.reconciling.lists.push(List { store: agent.store.clone(), lines, counted_at });
        self.count("stores' shelves counted");
    }

    /// Central compares a list, in a read of its own; now and then the same list is sent again.
    fn compare_list(&mut self) {
        let lists = &mut self.reconciling.lists;
        if lists.is_empty() || !self.central.runs {
            return;
        }
        let dice = &mut self.reconciling.dice;
        let place = dice.below(lists.len() as u64) as usize;
        let is_kept = dice.chance(400);
        let is_dry = dice.chance(250);
        let list = if is_kept { lists[place].clone() } else { lists.swap_remove(place) };
        let written = judge::List {
            store: list.store.as_str().into(),
            lines: list.lines.iter().map(|(product, units)| (product.as_str().into(), *units)).collect(),
            at: list.counted_at.as_ref().map(|position| (position.at.epoch.get(), position.at.seq.get())),
        };
        let expected = self.oracle.compare(&self.central.file, &written).expect("the view can be read");
        let changes = || -> i64 {
            self.central.file.query_row("select total_changes()", [], |row| row.get(0)).expect("SQLite counts")
        };
        let before = changes();
        let found = compare(&self.central.file, &list.store, &list.lines, list.counted_at.as_ref());
        if changes() != before {
            self.oracle.break_(format!("P4: {written:?} was compared, and something has changed"));
        }
        let found = match found {
            Ok(compared) => Ok(compared),
            Err(Abort::Refused(why)) => Err(why),
            Err(Abort::Database(error)) => panic!("the view cannot be read: {error}"),
        };
        let (compared, report, place) = match (found, expected) {
            (Ok(compared), Ok((report, place))) if reported(&compared) == report => (compared, report, place),
            (Err(why), Err(expected)) if code(why) == expected => {
                if why == NotComparable::NotAPosition {
                    self.count("lists of another epoch, or of a later place");
                    // Who sent it waits until central has come so far.
                    if !is_kept && self.reconciling.dice.chance(800) {
                        self.reconciling.lists.push(list);
                    }
                }
                return;
            }
            (found, expected) => {
                let found = found.map(|compared| (reported(&compared), compared.position()));
                return self
                    .oracle
                    .break_(format!("P4: {written:?} is compared as {found:?}, and must be {expected:?}"));
            }
        };
        let at = compared.position().at;
        if (at.epoch.get(), at.seq.get()) != (place.epoch, place.seq) {
            return self.oracle.break_(format!("P6: {written:?} is compared at {at}, and central has {place:?}"));
        }
        self.say(|| format!("{written:?} is compared at {at}: {report:?}"));
        self.count("lists compared");
        for (what, is_so) in [
            ("lists without a difference", report.different.is_empty()),
            ("lists that leave out what the store has", !report.missing.is_empty()),
            ("lists that name what the store does not have", !report.unknown.is_empty()),
            ("lists compared for information only", is_dry),
            ("lists of an earlier shelf", written.at.is_some_and(|(_, seq)| seq < place.seq)),
        ] {
            if is_so {
                self.count(what);
            }
        }
        if is_dry || report.different.is_empty() {
            return;
        }
        self.central.corrections.push(Correction { compared, place, wishes: report.wishes(&written, place) });
        if self.reconciling.dice.chance(700) {
            self.correct();
        }
    }

    /// The transaction that asks the store to count what differs.
    fn correct(&mut self) {
        if !self.central.runs || self.central.corrections.is_empty() {
            return;
        }
        let dice = &mut self.reconciling.dice;
        let number = dice.below(self.central.corrections.len() as u64) as usize;
        let Correction { compared, place, wishes } = self.central.corrections.swap_remove(number);
        self.reconciling.last += 1;
        let id = format!("reconciliation-{}", self.reconciling.last);
        let name = OperationId::parse(&id).expect("a valid id");
        let command = compared.command(About::default()).expect("few products differ");
        let store = compared.store.id.clone();
        if let Some(broken) = differs(&command, &store, &wishes) {
            return self.oracle.break_(format!("P4: {id} asks {store} for {broken}"));
        }
        let lines = wishes.len();
        let batch = Batch { store: store.as_str().into(), lines, atomic: true };
        self.oracle.book.ask_batch(&id, batch, wishes);
        let overtaken = self.oracle.is_overtaken(&self.central.file, store.as_str(), place);
        let overtaken = overtaken.expect("the view can be read");
        let may_lack = self.oracle.may_lack_answers(&self.central.file, store.as_str());
        let may_lack = may_lack.expect("the view can be read");
        let (clock, risk, at) = (self.central.clock(self.now), self.risk(), compared.position().at);
        let (mut is_asked, mut is_refused) = (false, false);
        let end = commit(&self.central.file, &mut self.reconciling.dice, risk, &mut |connection| {
            let Some(mut known) = stores::find(connection, &store)? else { return Ok(()) };
            if known.is_settling() || known.retired || asked::is_full(connection, &store)? {
                return Ok(());
            }
            is_refused = is_counting(connection, &store, at)?;
            is_asked = !is_refused;
            if is_refused { Ok(()) } else { asked::append(connection, &mut known, &name, &command, clock) }
        });
        match overtaken {
            Some(why) if is_asked => self.oracle.break_(format!("P4: {id} is asked of {store}, and {why}")),
            None if is_refused && !may_lack => {
                self.oracle.break_(format!("P4: {id} is not asked of {store}, and nothing is counted there"));
            }
            Some(_) | None => {}
        }
        if is_refused {
            self.count("lists overtaken by a count");
        }
        if is_asked && end != Commit::Before {
            self.count("reconciliations");
            self.say(|| format!("{id}: {command:?} at {store}"));
        }
        self.after_central_commit(end);
    }
}

/// What central has found, as the judge says it.
fn reported(compared: &Compared) -> Report {
    let comparison = &compared.comparison;
    let lines = |lines: &[(ProductId, i64)]| {
        lines.iter().map(|(product, units)| (product.as_str().into(), *units)).collect::<Vec<(Name, i64)>>()
    };
    let different = comparison.different.iter().map(|one| Different {
        product: one.product.as_str().into(),
        counted: one.counted,
        difference: one.difference,
        now: one.now,
    });
    Report {
        equal: comparison.equal,
        different: different.collect(),
        missing: lines(&comparison.missing),
        unknown: lines(&comparison.unknown),
    }
}

fn code(why: NotComparable) -> &'static str {
    match why {
        NotComparable::UnknownStore => "unknown_store",
        NotComparable::NotCaughtUp => "not_caught_up",
        NotComparable::NotAPosition => "not_a_position",
        NotComparable::TooLongAgo => "too_long_ago",
    }
}

/// What a command asks for, if it is not this of this store.
fn differs(command: &Command, store: &StoreId, wishes: &[(Name, Wish)]) -> Option<String> {
    let Command::Batch { lines, atomic: true, .. } = command else {
        return Some(format!("{command:?}, which is not to be done as a whole"));
    };
    let is_of_other = |position: &Position| position.store != *store;
    let asked: Vec<(Name, Wish)> =
        lines.iter().map(|line| (line.product_id.as_str().into(), wish(&line.operation))).collect();
    let elsewhere = lines.iter().any(|line| match &line.operation {
        protocol::domain::Operation::Count { counted_at, .. } => counted_at.as_ref().is_some_and(is_of_other),
        _ => true,
    });
    (asked != wishes || elsewhere).then(|| format!("{asked:?}, and must for {wishes:?}"))
}
