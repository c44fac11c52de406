//! The question of a restore (L10): a store's agent asks for a new epoch, and for what central knows of its store.
//!
//! **Guarantees.** After the question nothing of an older epoch is applied any more, whatever is still on the way;
//! whoever else runs under the store's id is superseded; of several who ask only the last gets in. The answer is one
//! consistent state with the cursor at which it stands. Giving out the epoch is a short transaction; the state is told
//! afterwards, in bounded reads beside the writer, and stands still meanwhile: nothing of the store is applied until its
//! new epoch opens.

use protocol::planted::{Bug, planted};
use std::collections::VecDeque;
use std::sync::Arc;

use protocol::domain::reservation::Reservation;
use protocol::domain::transfer::Transfer;
use protocol::hash::Digest;
use protocol::ids::StoreId;
use protocol::link::{Cursor, Epoch, Seq};
use protocol::number::CommandEpoch;
use protocol::time::Millis;
use protocol::wire::restore::{Counts, Header, Line, Question, Span};
use protocol::wire::{Event, Named, Outcome};

use crate::projection::replay;
use crate::projection::view;
use crate::promises::commands;
use crate::storage::queries::events;
use crate::storage::stores::{self, Store};
use crate::storage::{
    Abort, Connection, JobResult, items, operations, outcomes, purchases, reservations, stocks, totals, transfers,
};

/// How far back entries are told even if the asker has nothing there, ms: the store's own retention.
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// Items, outcomes or entries of one line.
const PART: usize = 500;
/// Spans of the asker's log that are looked at.
const SPANS_MAX: usize = 1_000;

/// Why a question is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The outcomes of its last state are being settled: ask again in a moment.
    #[error("the store's state has just arrived and is being taken in")]
    Installing,
    /// Someone asked after this one, or an epoch has opened: what was told so far is worth nothing.
    #[error("another restore of this store has begun")]
    Overtaken,
}

/// Gives out an epoch, in the caller's transaction. A store that is not known yet gets a row.
pub fn question(connection: &Connection, id: &StoreId, asked: &Question, now: Millis) -> Result<Epoch, Abort<Refusal>> {
    stores::discover(connection, id, now)?;
    let mut store = stores::find(connection, id)?.expect("a store that was just discovered is known");
    if store.installing {
        return Err(Abort::Refused(Refusal::Installing));
    }
    if store.opening {
        // Nothing of it was taken in, so that whoever has its entries must not take them for covered.
        stores::cut_lineage(connection, id, &store.state)?;
        if store.cursor.epoch > store.state.epoch {
            stores::add_to_lineage(connection, id, &nothing_of(store.cursor.epoch))?;
        }
    } else if store.cursor.epoch != Epoch::NONE {
        stores::add_to_lineage(connection, id, &store.cursor)?;
    }
    let epoch = store.cursor.epoch.max(asked.epoch).next(now);
    store.cursor = nothing_of(epoch);
    store.fenced = Epoch::NONE;
    stores::set_adopt(connection, &mut store, None)?;
    store.opening = false;
    stocks::give_up(connection, &mut store)?;
    store.save_events(connection)?;
    Ok(epoch)
}

/// Where the answer to a question has come to: each step reads a little and writes a line. Cheap to clone, however large
/// the store.
#[derive(Debug, Clone)]
pub struct AnswerWriter {
    id: StoreId,
    epoch: Epoch,
    asked: Arc<[Span]>,
    now: Millis,
    step: Step,
    written: Counts,
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// Adds up the view's rows, to compare them with what the store said.
    Check(Box<Store>, String, Digest),
    /// Writes the view's rows behind a product.
    Rows(Box<Store>, String),
    /// Writes what the ledger says instead, from this line on, because what is shown is not what the store has said.
    Replayed(Box<Store>, Arc<[Line]>, usize),
    /// Writes outcomes behind a command.
    Outcomes(Box<Store>, String),
    /// Writes operations that came with the state, behind one.
    Operations(Box<Store>, String),
    /// Writes entries of these spans.
    Entries(Box<Store>, VecDeque<Span>),
    /// Writes reservations behind a number.
    Reservations(Box<Store>, i64),
    /// Writes transfers behind a number, then those of which the ledger says otherwise.
    Transfers(Box<Store>, i64, Arc<[Line]>),
    Ended,
}

impl AnswerWriter {
    /// The answer to a question for which this epoch was given out.
    pub fn new(id: StoreId, epoch: Epoch, asked: Question, now: Millis) -> Self {
        Self { id, epoch, asked: asked.log.into(), now, step: Step::Begin, written: Counts::default() }
    }

    /// Whether the last line has been written.
    pub fn is_over(&self) -> bool {
        matches!(self.step, Step::Ended)
    }

    /// Reads on. `None`: this step had nothing to write.
    pub fn next(&mut self, connection: &Connection) -> Result<Option<Line>, Abort<Refusal>> {
        let (step, line) = match std::mem::replace(&mut self.step, Step::Ended) {
            Step::Begin => {
                let store = self.still(connection)?;
                let header = Header {
                    store_id: self.id.to_string(),
                    epoch: self.epoch,
                    lineage: stores::lineage(connection, &self.id)?,
                    complete: store.complete,
                    state: store.state,
                    covers: covers(connection, &store)?,
                    named_since: store.named_since,
                };
                (Step::Check(store.into(), String::new(), Digest::default()), Some(Line::Header(header)))
            }
            Step::Check(store, after, digest) => {
                let next = items::between(connection, store.stock, &after, totals::END, PART)?;
                let digest = next.iter().fold(digest, |sum, (product, item)| sum.replace(product, None, Some(item)));
                match next.last().filter(|_| next.len() == PART) {
                    Some((last, _)) => (Step::Check(store, last.to_string(), digest), None),
                    None => (Self::state(connection, store, digest)?, None),
                }
            }
            Step::Rows(store, after) => {
                let next = items::between(connection, store.stock, &after, totals::END, PART)?;
                let next: Vec<Named> = next.into_iter().map(|(product_id, item)| Named { product_id, item }).collect();
                match next.last().map(|last| last.product_id.to_string()) {
                    Some(last) => (Step::Rows(store, last), Some(self.count(Line::Items(next)))),
                    None => (Step::Outcomes(store, String::new()), None),
                }
            }
            Step::Replayed(store, lines, told) => match lines.get(told).cloned() {
                Some(line) => (Step::Replayed(store, lines, told + 1), Some(self.count(line))),
                None => (Step::Operations(store, String::new()), None),
            },
            Step::Operations(store, after) => {
                let next = operations::behind(connection, store.generation, &after, PART)?;
                match next.last().map(ToString::to_string) {
                    Some(last) => (Step::Operations(store, last), Some(self.count(Line::Operations(next)))),
                    None => (self.entries(connection, store)?, None),
                }
            }
            Step::Transfers(store, behind, said) => {
                let next = transfers::behind(connection, &self.id, behind, PART)?;
                match next.last().map(|(number, _)| *number) {
                    Some(last) => {
                        let next = next.into_iter().map(|(_, transfer)| transfer).collect();
                        (Step::Transfers(store, last, said), Some(self.count(Line::Transfers(next))))
                    }
                    None => (Step::Replayed(store, said, 0), None),
                }
            }
            Step::Outcomes(store, after) => {
                let next = outcomes::behind(connection, &self.id, &after, PART)?;
                match next.last().map(|last| last.command.to_string()) {
                    Some(last) => (Step::Outcomes(store, last), Some(self.count(Line::Outcomes(next)))),
                    None => (Step::Reservations(store, 0), None),
                }
            }
            Step::Reservations(store, behind) => {
                let next = reservations::behind(connection, &self.id, store.generation, behind, PART)?;
                match next.last().map(|(number, _)| *number) {
                    Some(last) => {
                        let next: Vec<Reservation> = next.into_iter().filter_map(|(_, said)| said).collect();
                        let line = (!next.is_empty()).then(|| self.count(Line::Reservations(next)));
                        (Step::Reservations(store, last), line)
                    }
                    None => (Step::Transfers(store, 0, [].into()), None),
                }
            }
            Step::Entries(store, mut spans) => match spans.pop_front() {
                Some(span) => {
                    let next = events::known(connection, &store, &span, PART)?;
                    if let Some(last) = next.last().filter(|last| last.seq < span.last) {
                        spans.push_front(Span { first: last.seq.next(), ..span });
                    }
                    (Step::Entries(store, spans), Some(self.count(Line::Entries(next))))
                }
                // Whatever was read until now is one state only if it still stands.
                None => self.still(connection).map(|_| (Step::Ended, Some(Line::End(self.written))))?,
            },
            Step::Ended => (Step::Ended, None),
        };
        self.step = step;
        Ok(line)
    }

    /// The store, as long as it waits for the epoch that was given out.
    fn still(&self, connection: &Connection) -> Result<Store, Abort<Refusal>> {
        stores::find(connection, &self.id)?
            .filter(|store| store.cursor == nothing_of(self.epoch))
            .ok_or(Abort::Refused(Refusal::Overtaken))
    }

    /// How the state is told. A view that is not what the store said there was damaged, and of a suspect store an entry
    /// may have been refused by the database with all that it says (L11): then the ledger tells.
    fn state(connection: &Connection, store: Box<Store>, rows: Digest) -> JobResult<Step> {
        let agrees = rows == view::reported_digest(connection, &store)?.unwrap_or(store.digest);
        let suspect = store.suspect && !planted(Bug::SuspectViewHandedOut);
        if agrees && !suspect || planted(Bug::DamagedViewHandedOut) {
            return Ok(Step::Rows(store, String::new()));
        }
        tracing::warn!(store = %store.id, "the view may not be what the store said: its state comes from the ledger");
        let replay::State { stock, outcomes, reservations, transfers } = replay::state(connection, &store)?;
        let items: Vec<Named> = stock.into_iter().map(|(product_id, item)| Named { product_id, item }).collect();
        let outcomes: Vec<Outcome> = outcomes.into_values().collect();
        let reservations: Vec<Reservation> = reservations.into_values().collect();
        let items = items.chunks(PART).map(|part| Line::Items(part.to_vec()));
        let outcomes = outcomes.chunks(PART).map(|part| Line::Outcomes(part.to_vec()));
        let reservations = reservations.chunks(PART).map(|part| Line::Reservations(part.to_vec()));
        let transfers: Vec<Transfer> = transfers.into_values().collect();
        let transfers = transfers.chunks(PART).map(|part| Line::Transfers(part.to_vec()));
        // Behind those that central has, of which the store may have said something that its database refused.
        Ok(Step::Transfers(store, 0, items.chain(outcomes).chain(reservations).chain(transfers).collect()))
    }

    fn entries(&self, connection: &Connection, store: Box<Store>) -> JobResult<Step> {
        let spans = wanted(connection, &store, &self.asked, self.now)?;
        Ok(Step::Entries(store, spans))
    }

    /// A line that is told counts.
    fn count(&mut self, line: Line) -> Line {
        match &line {
            Line::Items(part) => self.written.items += part.len() as u64,
            Line::Outcomes(part) => self.written.outcomes += part.len() as u64,
            Line::Reservations(part) => self.written.reservations += part.len() as u64,
            Line::Transfers(part) => self.written.transfers += part.len() as u64,
            Line::Operations(part) => self.written.operations += part.len() as u64,
            Line::Entries(part) => self.written.entries += part.len() as u64,
            Line::Header(_) | Line::End(_) => {}
        }
        line
    }
}

/// `central restore` (L8): this database is an older copy. Every store gets a new command epoch, so that whatever the lost
/// one had sent and this one does not know is never taken for this one's. `acked`: the command epoch that a store has last
/// acknowledged, 0 if that is not known. Other stores may have been asked since for purchases that are pending here: nobody
/// else is (B6).
pub fn reopen(
    connection: &Connection,
    mut acked: impl FnMut(&StoreId) -> CommandEpoch,
    now: Millis,
) -> JobResult<Vec<StoreId>> {
    let mut reopened = Vec::new();
    for store in stores::all(connection)?.into_iter().filter(|store| store.cursor.epoch != Epoch::NONE) {
        commands::reopen(connection, &store.id, acked(&store.id), now)?;
        reopened.push(store.id);
    }
    purchases::ask_nobody_else(connection)?;
    Ok(reopened)
}

/// Where an epoch ends of which nothing was taken in.
fn nothing_of(epoch: Epoch) -> Cursor {
    Cursor { epoch, ..Cursor::default() }
}

/// Lineage of the opening that the view grew from.
fn covers(connection: &Connection, store: &Store) -> JobResult<Vec<Cursor>> {
    if !store.complete {
        return Ok(Vec::new());
    }
    let body = events::opening(connection, &store.id, store.state.epoch)?;
    Ok(match Event::decode(protocol::link::OPENED, &body) {
        Ok(Event::Opened { lineage }) => lineage.into_iter().map(|past| past.end).collect(),
        _ => Vec::new(),
    })
}

/// The spans of entries up to the state's cursor that are told: all within the retention, and older ones that the asker
/// has itself.
fn wanted(connection: &Connection, store: &Store, asked: &[Span], now: Millis) -> JobResult<VecDeque<Span>> {
    let mut wanted = VecDeque::new();
    if !store.complete {
        return Ok(wanted);
    }
    let mut epochs = stores::known(connection, store)?.epochs;
    epochs.sort_unstable();
    epochs.dedup();
    let covers = covers(connection, store)?;
    for epoch in epochs.into_iter().filter(|epoch| *epoch <= store.state.epoch) {
        // An opening that never took effect has given nothing: who has its entries has them alone.
        if !events::is_whole(connection, &store.id, epoch)? || covers.contains(&nothing_of(epoch)) {
            continue;
        }
        let last = events::last(connection, &store.id, epoch)?;
        let last = if epoch == store.state.epoch { last.map(|last| last.min(store.state.seq)) } else { last };
        let Some(last) = last else { continue };
        let first = events::first_since(connection, &store.id, epoch, last, Millis(now.0 - RETENTION_MS))?;
        let of_epoch = asked.iter().take(SPANS_MAX).filter(|span| span.epoch == epoch);
        let mut spans: Vec<Span> = of_epoch.copied().chain([Span { epoch, first, last }]).collect();
        spans.sort_by_key(|span| span.first);
        let mut next = Seq::FIRST;
        for span in spans {
            let (first, last) = (span.first.max(next), span.last.min(last));
            if first <= last {
                wanted.push_back(Span { epoch, first, last });
                next = last.next();
            }
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::rebuild;
    use crate::promises::reservations as promised;
    use crate::promises::stores::retire;
    use crate::testing::{Agent, NOW, database, held, product, purchase_id};
    use protocol::domain::{Lines, Quantity};
    use protocol::ids::{OperationId, ReservationId};
    use protocol::wire::restore::{Answer, AnswerReader, KnownEntry};
    use protocol::wire::{About, Fact, Happened};

    #[test]
    fn a_store_that_is_ready_for_more_than_this_database_knows_gets_a_greater_epoch() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let beyond = agent.store(&connection).command_head.epoch.next(NOW.plus(3_600_000));
        let ready = agent.entry(&Event::Ready { command_epoch: beyond });
        agent.tell(&connection, &[ready]);
        let store = agent.store(&connection);
        assert!(store.command_head.epoch > beyond && store.is_settling());
        agent.get_ready(&connection);
        assert!(!agent.store(&connection).is_settling());
    }

    #[test]
    fn what_is_counted_on_from_the_greatest_number_can_be_read_again() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let greatest = "4611686018427387904";
        let command_epoch = greatest.parse().expect("in range");
        let ready = agent.entry(&Event::Ready { command_epoch });
        agent.tell(&connection, &[ready]);
        assert!(agent.store(&connection).command_head.epoch > command_epoch);
        let asked = Question { epoch: greatest.parse().expect("in range"), log: Vec::new() };
        let epoch = question(&connection, &agent.id, &asked, NOW).expect("answers");
        assert_eq!((agent.store(&connection).cursor.epoch, epoch > asked.epoch), (epoch, true));
    }

    fn ask(connection: &Connection, agent: &Agent, asked: &Question) -> Answer {
        let epoch = question(connection, &agent.id, asked, NOW).expect("answers");
        let mut writer = AnswerWriter::new(agent.id.clone(), epoch, asked.clone(), NOW);
        let mut reader = AnswerReader::default();
        while !writer.is_over() {
            if let Some(line) = writer.next(connection).expect("reads") {
                reader.read_line(&serde_json::to_vec(&line).expect("serialises")).expect("is understood");
            }
        }
        reader.finish().expect("is complete")
    }

    #[test]
    fn each_line_of_the_answer_is_short_however_large_the_store() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        agent.stock_up(2_100);
        let lineage = [agent.head];
        let opening = agent.open(8, &lineage);
        agent.tell(&connection, &opening);
        agent.settle_in(&connection);
        let asked = Question { epoch: 8.into(), log: Vec::new() };
        let epoch = question(&connection, &agent.id, &asked, NOW).expect("answers");
        let mut writer = AnswerWriter::new(agent.id.clone(), epoch, asked, NOW);
        let mut parts = Vec::new();
        while !writer.is_over() {
            if let Some(Line::Items(items)) = writer.next(&connection).expect("reads") {
                parts.push(items.len());
            }
        }
        // The stocked ones, and tea.
        assert_eq!(parts.iter().sum::<usize>(), 2_101);
        assert!(parts.iter().all(|part| *part <= 1_000), "{parts:?}");
    }

    #[test]
    fn after_the_question_nothing_of_an_older_epoch_is_applied() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let at = agent.store(&connection).cursor;
        let asked = Question { epoch: at.epoch, log: Vec::new() };
        let first = ask(&connection, &agent, &asked);
        assert_eq!((first.state, first.lineage.last()), (at, Some(&at)));
        let on_its_way = agent.entry(&Event::Ready { command_epoch: 1.into() });
        agent.tell(&connection, &[on_its_way]);
        let given = Cursor { epoch: first.epoch, ..Cursor::default() };
        assert_eq!(agent.store(&connection).cursor, given);
        // Of two that ask only the last gets in.
        let second = ask(&connection, &agent, &asked);
        let late = agent.open(first.epoch, &first.lineage);
        agent.tell(&connection, &late);
        assert_eq!(agent.store(&connection).cursor, Cursor { epoch: second.epoch, ..Cursor::default() });
        let opening = agent.open(second.epoch, &second.lineage);
        agent.tell(&connection, &opening);
        assert_eq!(agent.store(&connection).cursor, agent.head);
    }

    #[test]
    fn an_opening_that_never_arrived_in_full_counts_as_nothing() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let at = agent.store(&connection).cursor;
        let (mut opening, unsent) =
            (agent.open(8, &[at, Cursor { epoch: 7.into(), seq: 99.into(), ..at }]), agent.head);
        opening.pop();
        agent.tell(&connection, &opening);
        let asked =
            Question { epoch: 8.into(), log: vec![Span { epoch: 8.into(), first: 1.into(), last: unsent.seq }] };
        let answer = ask(&connection, &agent, &asked);
        assert_eq!((answer.state, answer.lineage), (at, vec![at, nothing_of(8.into())]));
        assert!(answer.entries.iter().all(|entry| entry.epoch == at.epoch), "{:?}", answer.entries);
    }

    #[test]
    fn an_opening_whose_state_was_refused_counts_as_nothing_after_a_later_one_too() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let at = agent.store(&connection).cursor;
        let opening = agent.open(8, &[at]);
        let sale = agent.sale();
        let refusal =
            "create temp trigger refusal before insert on main.item begin select raise(abort, 'refused'); end";
        connection.execute_batch(refusal).expect("a trigger");
        agent.tell(&connection, &opening);
        connection.execute_batch("drop trigger temp.refusal").expect("no trigger");
        agent.tell(&connection, &[sale]);
        assert!(agent.store(&connection).opening);
        let log = vec![Span { epoch: 8.into(), first: 1.into(), last: agent.head.seq }];
        // Somebody else's copy, with nothing of the epoch in it, gets in first.
        let first = ask(&connection, &agent, &Question { epoch: 7.into(), log: Vec::new() });
        assert_eq!(first.lineage, [at, nothing_of(8.into())]);
        let opening = agent.open(first.epoch, &first.lineage);
        agent.tell(&connection, &opening);
        agent.settle_in(&connection);
        let answer = ask(&connection, &agent, &Question { epoch: first.epoch, log });
        assert_eq!((answer.state.epoch, answer.complete), (first.epoch, true));
        assert!(answer.entries.iter().all(|entry| entry.epoch != 8.into()), "{:?}", answer.entries);
    }

    #[test]
    fn what_is_told_after_another_question_is_worth_nothing() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let asked = Question { epoch: 7.into(), log: Vec::new() };
        let epoch = question(&connection, &agent.id, &asked, NOW).expect("answers");
        let mut writer = AnswerWriter::new(agent.id.clone(), epoch, asked.clone(), NOW);
        assert!(matches!(writer.next(&connection), Ok(Some(Line::Header(_)))));
        question(&connection, &agent.id, &asked, NOW).expect("answers");
        let mut lines = 0;
        let end = loop {
            match writer.next(&connection) {
                Ok(_) => lines += 1,
                Err(Abort::Refused(refusal)) => break refusal,
                Err(Abort::Database(error)) => panic!("{error}"),
            }
            assert!(lines < 20, "it ends");
        };
        assert_eq!(end, Refusal::Overtaken);
    }

    #[test]
    fn a_store_of_any_size_is_told_in_parts() {
        let connection = database();
        let mut agent = Agent::new("s1");
        agent.stock_up(2_345);
        let opening = agent.open(7, &[]);
        agent.tell(&connection, &opening);
        agent.settle_in(&connection);
        let opened = agent.head;
        agent.get_ready(&connection);
        agent.was_heard(&connection, opened, Millis(NOW.0 - RETENTION_MS - 1));
        let asked = Question { epoch: 7.into(), log: vec![Span { epoch: 7.into(), first: 2.into(), last: 4.into() }] };
        let answer = ask(&connection, &agent, &asked);
        assert_eq!(answer.items.len(), 2_345);
        let told: Vec<u64> = answer.entries.iter().map(|entry| entry.seq.get()).collect();
        assert_eq!(told, [2, 3, 4, agent.head.seq.get()], "those asked about, and the young");
        // A damaged view is not handed out.
        agent.damage(&connection, "p-01000");
        let again = ask(&connection, &agent, &asked);
        assert_eq!(again.items, answer.items);
    }

    #[test]
    fn what_the_database_refused_is_told_all_the_same() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let purchase = purchases::find(&connection, purchase_id(1)).expect("reads").expect("is there").attempt_ref();
        let (held, reserved) = held();
        let after = agent.take_one();
        let confirmed = Happened::PurchaseConfirmed { purchase, items: vec![after.clone()] };
        let confirmed = Event::Fact(Fact { command: Some(attempt.clone()), ..Fact::new(confirmed, NOW) });
        let said = [&confirmed, &reserved].map(|event| agent.entry(event));
        for (table, what) in [("purchase", "update"), ("reservation", "insert")] {
            let refusal = format!(
                "create temp trigger refuse_{table} before {what} on main.{table} \
                 begin select raise(abort, 'refused'); end"
            );
            connection.execute_batch(&refusal).expect("a trigger is created");
        }
        assert_eq!(agent.tell(&connection, &said).entries, 2);
        let answer = ask(&connection, &agent, &Question { epoch: agent.head.epoch, log: Vec::new() });
        let tea = answer.items.iter().find(|named| named.product_id == product("tea")).expect("is there");
        assert_eq!(tea.item, after.item);
        assert_eq!(answer.outcomes.iter().map(|outcome| &outcome.command).collect::<Vec<_>>(), [&attempt]);
        assert_eq!(answer.reservations, [held]);
    }

    /// As after a human's choice: the units of such a purchase are in the books of the state that was chosen.
    #[test]
    fn an_outcome_that_a_later_state_does_not_name_is_not_told() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let purchase = purchases::find(&connection, purchase_id(1)).expect("reads").expect("is there").attempt_ref();
        let confirmed = Happened::PurchaseConfirmed { purchase, items: vec![agent.take_one()] };
        let confirmed = Event::Fact(Fact { command: Some(attempt.clone()), ..Fact::new(confirmed, NOW) });
        let confirmed = agent.entry(&confirmed);
        agent.tell(&connection, &[confirmed]);
        let asked = Question { epoch: agent.head.epoch, log: Vec::new() };
        let answer = ask(&connection, &agent, &asked);
        let told: Vec<_> = answer.outcomes.iter().map(|outcome| outcome.command.clone()).collect();
        assert_eq!(told, [attempt]);
        for (named, told) in [(answer.outcomes, 1), (Vec::new(), 0)] {
            let Answer { epoch, lineage, .. } = ask(&connection, &agent, &asked);
            let opened = agent.open(epoch, &lineage).remove(0);
            agent.head = opened.as_ref().expect("an entry").cursor();
            let state: Vec<_> = [opened].into_iter().chain(agent.state(named)).collect();
            agent.tell(&connection, &state);
            agent.settle_in(&connection);
            assert_eq!(ask(&connection, &agent, &asked).outcomes.len(), told);
        }
    }

    #[test]
    fn operations_are_told_that_the_state_has_named_until_another_one_has_come_in_full() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let asked = |epoch| Question { epoch, log: Vec::new() };
        let told = |agent: &Agent| -> Vec<String> {
            let answer = ask(&connection, agent, &asked(agent.head.epoch));
            answer.operations.iter().map(ToString::to_string).collect()
        };
        let mut open = |names: std::ops::Range<usize>, is_whole: bool| {
            agent.operations = names.map(|number| format!("o-{number:04}").parse().expect("valid")).collect();
            let Answer { epoch, lineage, .. } = ask(&connection, &agent, &asked(agent.head.epoch));
            let mut opening = agent.open(epoch, &lineage);
            if !is_whole {
                opening.pop();
            }
            agent.tell(&connection, &opening);
            agent.settle_in(&connection);
            told(&agent)
        };
        let named = open(0..1_200, true);
        assert_eq!((named.len(), &*named[0], &*named[1_199]), (1_200, "o-0000", "o-1199"));
        assert_eq!(open(7..9, false), named, "that state never came");
        assert_eq!(open(7..9, true), ["o-0007", "o-0008"]);
        let left: i64 =
            connection.query_row("select count(*) from named_operation", [], |row| row.get(0)).expect("reads");
        assert_eq!(left, 2, "the others are removed in steps");
        let later = NOW.plus(8 * 24 * 60 * 60 * 1_000 + 1);
        crate::storage::retention::prune(&connection, later).expect("prunes");
        assert_eq!(told(&agent), [""; 0]);
    }

    #[test]
    fn what_a_state_would_name_and_does_not_a_human_has_given_up() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sales = [agent.sale(), agent.sale()];
        agent.tell(&connection, &sales);
        let asked = Question { epoch: agent.head.epoch, log: Vec::new() };
        let sales: Vec<KnownEntry> =
            ask(&connection, &agent, &asked).entries.split_off(agent.head.seq.get() as usize - 2);
        let given_up = |agent: &Agent| -> Vec<bool> {
            let answer = ask(&connection, agent, &asked);
            let is = |sale: &KnownEntry| {
                answer.entries.iter().find(|told| told.id() == sale.id()).expect("is told").given_up
            };
            sales.iter().map(is).collect()
        };
        agent.operations = vec![OperationId::parse(&sales[0].operation).expect("valid")];
        let mut open = |named_since| {
            agent.named_since = named_since;
            let Answer { epoch, lineage, .. } = ask(&connection, &agent, &asked);
            let opening = agent.open(epoch, &lineage);
            agent.tell(&connection, &opening);
            agent.settle_in(&connection);
            given_up(&agent)
        };
        assert_eq!(open(None), [false, false], "nobody knows");
        assert_eq!(open(Some(NOW.plus(1))), [false, false], "that was before");
        assert_eq!(open(Some(NOW)), [false, true]);
        crate::storage::retention::prune(&connection, NOW.plus(8 * 24 * 60 * 60 * 1_000 + 1)).expect("prunes");
        assert_eq!(given_up(&agent), [false, false], "the names are forgotten");
    }

    #[test]
    fn a_view_that_is_built_anew_is_of_the_same_state() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        agent.operations = vec!["o-1".parse().expect("valid")];
        let state = agent.state(Vec::new());
        agent.tell(&connection, &state);
        agent.settle_in(&connection);
        let before = agent.store(&connection).stock;
        rebuild::begin(&connection, NOW).expect("begins");
        while !rebuild::step(&connection, 100, NOW).expect("can be done").is_over {}
        agent.settle_in(&connection);
        assert_ne!(agent.store(&connection).stock, before);
        let answer = ask(&connection, &agent, &Question { epoch: agent.head.epoch, log: Vec::new() });
        assert_eq!(answer.operations, agent.operations);
    }

    #[test]
    fn a_reservation_is_told_only_as_its_store_said_it() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let asked = promised::ReservationRequest {
            id: ReservationId::new(uuid::Uuid::from_u128(1)),
            lines: Lines::one(product("tea"), Quantity::ONE),
            ttl_ms: 60_000,
            about: About::default(),
            redis_now: NOW,
        };
        promised::begin(&connection, &mut agent.store(&connection), &asked, NOW).expect("begins");
        retire(&connection, &mut agent.store(&connection), NOW).expect("retires");
        let ended = reservations::find(&connection, asked.id).expect("reads").expect("is there");
        assert_eq!(ended.status, reservations::Status::Cancelled);
        let answer = ask(&connection, &agent, &Question { epoch: agent.head.epoch, log: Vec::new() });
        assert_eq!(answer.reservations, []);
    }
}
