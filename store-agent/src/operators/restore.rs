//! The answer of a restore (L10): a new machine, an old copy, a fork or a stopped agent takes in what central knows.
//!
//! **Guarantees.** One transaction. Central's state becomes the store's, and whatever only this database knows is
//! recorded again on top, once, by its difference and under its old name: both really happened. If it can only be one
//! or the other, nothing is changed and a human is asked.

mod again;
pub mod ask;

use std::collections::{BTreeSet, HashMap, HashSet};

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::link::{EntryId, Epoch};
use protocol::planted::{Bug, planted};
pub use protocol::restore::{Choice, Refusal};
use protocol::restore::{Own, plan};
use protocol::time::Millis;
use protocol::wire::restore::{Answer, Question};
use protocol::wire::{Became, Outcome};
use runtime::sqlite::{Abort, Connection, JobResult};

use self::again::fact;
use crate::ledger::history::{self, Kept};
use crate::ledger::idempotency;
use crate::ledger::{self, Head};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The epoch opened.
    pub epoch: Epoch,
    /// Whose state it opened with.
    pub state: Choice,
    /// The newest own entry that central has.
    pub shared: Option<EntryId>,
    /// Own entries recorded again.
    pub recorded_again: u64,
    /// Own entries that were left out, because central knows them or they answer what it has settled.
    pub left_out: u64,
    /// Items that both sides have not alike, and that either has touched after the newest shared entry: to be counted.
    pub recount: BTreeSet<ProductId>,
}

/// What to ask central.
pub fn question(connection: &Connection) -> JobResult<Question> {
    Ok(Question { epoch: ledger::head(connection)?.cursor.epoch, log: history::spans(connection)? })
}

/// Carries out central's answer, in the caller's transaction.
pub fn carry_out(
    connection: &Connection,
    answer: &Answer,
    choice: Option<Choice>,
    now: Millis,
) -> Result<Report, Abort<Refusal>> {
    let mut head = ledger::head(connection)?;
    let log = Own { head: head.cursor, lineage: ledger::lineage(connection)?, entries: history::hashes(connection)? };
    let plan = plan(&log, answer, choice).map_err(Abort::Refused)?;
    let (state, shared) = (plan.state, plan.shared);
    let mut report =
        Report { epoch: answer.epoch, state, shared, recorded_again: 0, left_out: 0, recount: BTreeSet::new() };
    // The log may be long: of what is shared nothing but the hashes is read.
    let behind = shared.unwrap_or_default();
    // A database that central is merely behind has seen all that there is.
    if !log.entries.is_empty() && (state == Choice::Central || choice.is_some()) {
        let theirs = answer.entries.iter().filter(|entry| plan.is_unshared(entry.id()));
        let mut touched = BTreeSet::new();
        history::walk(connection, behind, |own| touched.extend(products(&own)))?;
        touched.extend(theirs.flat_map(|entry| entry.product_id.iter().chain(&entry.also).cloned()));
        let said: HashMap<&ProductId, &Item> =
            answer.items.iter().map(|named| (&named.product_id, &named.item)).collect();
        for product in touched {
            if ledger::find_item(connection, &product)?.as_ref() != said.get(&product).copied() {
                report.recount.insert(product);
            }
        }
    }
    if state == Choice::Own {
        idempotency::remember_ended(connection, head.cursor.epoch, now)?;
        ledger::begin_epoch(connection, &mut head, answer.epoch, &plan.lineage, now)?;
        ledger::save_head(connection, &head)?;
        return Ok(report);
    }
    let mut unshared = Vec::new();
    history::walk(connection, behind, |own| unshared.push(own))?;
    for own in &unshared {
        history::drop_entry(connection, own.entry.id)?;
        // It is not in the state, be it known because an earlier restore had recorded it again.
        idempotency::forget_known(connection, [own.entry.operation.as_str()])?;
    }
    take_state(connection, &mut head, answer, now)?;
    if !plan.repeats || choice == Some(Choice::Central) {
        // What is left out has not happened: who asks for it again must not be told that it has. What is recorded again, and
        // what central has, is known by its name.
        if !planted(Bug::LeftOutAnswered) {
            idempotency::forget_behind(connection, behind)?;
        }
        // Nor has what came with a state that an earlier restore had taken over.
        idempotency::clear_known(connection)?;
    }
    let operations: HashSet<&str> = answer.done().collect();
    let repeated = unshared.iter().filter(|_| planted(Bug::RepeatedNamed)).map(|own| own.entry.operation.as_str());
    let named = operations.iter().copied().chain(repeated);
    idempotency::take_over(connection, named, answer.named_since, now)?;
    ledger::begin_epoch(connection, &mut head, answer.epoch, &plan.lineage, now)?;
    let repeated = unshared.iter().filter(|own| plan.repeats && !plan.uncertain.contains(&own.entry.id));
    for own in repeated {
        let is_known = operations.contains(own.entry.operation.as_str())
            && !planted(Bug::RestoreRepeatsKnown)
            && !(planted(Bug::NamedRecordedAgain)
                && answer.operations.iter().any(|named| *named.as_str() == *own.entry.operation));
        if !is_known && again::record(connection, &mut head, &own.entry, now)? {
            report.recorded_again += 1;
            // A command's batch whose answer central does not have comes again.
            let named = Some(own.entry.operation.as_str()).filter(|_| !planted(Bug::BatchLineForgotten));
            idempotency::remember_known(connection, named, now)?;
        }
    }
    let of_items = unshared.iter().filter(|own| fact(&own.entry).is_some()).count() as u64;
    report.left_out = of_items - report.recorded_again;
    ledger::save_head(connection, &head)?;
    Ok(report)
}

/// The products that an own entry is about.
fn products(own: &Kept) -> Vec<ProductId> {
    let fact = fact(&own.entry);
    let items = fact.iter().flat_map(|fact| fact.what.items()).map(|after| after.product_id.clone());
    own.product.iter().cloned().chain(items).collect()
}

/// The state becomes central's.
fn take_state(connection: &Connection, head: &mut Head, answer: &Answer, now: Millis) -> JobResult<()> {
    history::drop_state(connection, head)?;
    for named in &answer.items {
        ledger::put_item(connection, head, &named.product_id, None, &named.item)?;
    }
    let outcomes = if planted(Bug::RestoreWithoutOutcomes) { &[] } else { answer.outcomes.as_slice() };
    for outcome in outcomes {
        ledger::outcomes::keep(connection, outcome)?;
    }
    for reservation in answer.reservations.iter().filter(|_| !planted(Bug::RestoreWithoutHolds)) {
        ledger::reservations::save(connection, reservation, now)?;
    }
    for transfer in answer.transfers.iter().filter(|_| !planted(Bug::RestoreWithoutTransfers)) {
        ledger::transfers::save(connection, transfer, now)?;
    }
    // In the order in which their units left the shelf.
    let mut outcomes: Vec<&Outcome> = outcomes.iter().collect();
    outcomes.sort_by_key(|outcome| outcome.at);
    for Outcome { command, at, became } in outcomes {
        match became {
            // The outcome of its cancel tells of the same.
            Became::Confirmed { purchase, .. } | Became::Cancelled { purchase, .. } if purchase.attempt != *command => {
            }
            Became::Confirmed { purchase, picked, .. } => {
                ledger::purchases::confirm(connection, purchase, *at)?;
                if *picked && !planted(Bug::RestoreForgetsPicks) {
                    ledger::purchases::pick(connection, purchase.purchase_id, *at)?;
                }
            }
            Became::Cancelled { purchase, .. } => {
                ledger::purchases::confirm(connection, purchase, *at)?;
                if !planted(Bug::RestoreRevivesCancelled) {
                    ledger::purchases::cancel(connection, purchase.purchase_id, *at)?;
                }
            }
            Became::Done { .. }
            | Became::Rejected { .. }
            | Became::Expired { .. }
            | Became::Refused { .. }
            | Became::Reservation(_)
            | Became::Transfer(_)
            | Became::Batch(_)
            | Became::Resynced => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::domain::reservation::{Act, State};
    use protocol::domain::transfer::{self, Transfer};
    use protocol::domain::{Line, Lines, Operation, Rejection};
    use protocol::ids::{OperationId, ReservationId, TransferId};
    use protocol::link::{Cursor, Entry};
    use protocol::stock::Stock;
    use protocol::wire::restore::KnownEntry;
    use protocol::wire::{About, BatchLine, Command, Event, Named, PurchaseRef, Results};

    use super::*;
    use crate::ledger::testing::copy;
    use crate::operations::commands;
    use crate::operations::reservations::{self, Asking, reserve};
    use crate::operations::resync;
    use crate::operations::transfers;
    use crate::testing::{self, NOW, operation, quantity};

    fn ale() -> ProductId {
        testing::product("ale")
    }

    fn act(connection: &Connection, id: &str, does: Operation) {
        testing::act(connection, id, "ale", does, NOW);
    }

    fn store() -> Connection {
        testing::store(&[("ale", 5), ("bun", 5)])
    }

    fn units(connection: &Connection) -> i64 {
        ledger::find_item(connection, &ale()).expect("reads").expect("an ale").quantity
    }

    fn recorded(connection: &Connection) -> Vec<(String, i64)> {
        ledger::testing::recorded(connection, "ale")
    }

    /// What central answers when it has this store's ledger but for its last entries.
    fn answer(known: &Connection, but: u64) -> Answer {
        let mut own = Vec::new();
        history::walk(known, EntryId::default(), |kept| own.push(kept.entry)).expect("reads");
        let head = ledger::head(known).expect("a head").cursor;
        let state = EntryId { seq: head.seq - but, ..head.id() };
        let own: Vec<Entry> = own.into_iter().filter(|entry| entry.id <= state).collect();
        let state = own.last().expect("an entry").cursor();
        let (mut stock, mut operations) = (Stock::default(), Vec::new());
        for entry in own.iter().filter(|entry| entry.id.epoch == head.epoch) {
            let event = Event::decode(&entry.kind, &entry.body).expect("is understood");
            assert!(stock.apply(&event).is_empty());
            if let Event::SnapshotPage(page) = event {
                operations.extend(page.operations);
            }
        }
        let filed = |entry: &Entry| fact(entry).map(|fact| fact.filed_under());
        let entries = own.iter().map(|entry| KnownEntry {
            epoch: entry.id.epoch,
            seq: entry.id.seq,
            hash: entry.hash,
            operation: entry.operation.clone(),
            product_id: filed(entry),
            also: Vec::new(),
            given_up: false,
        });
        let named = |(product, item): (&ProductId, &Item)| Named { product_id: product.clone(), item: item.clone() };
        let past = ledger::lineage(known).expect("reads").into_iter().map(|past| past.end).collect::<Vec<_>>();
        Answer {
            store_id: "s1".into(),
            epoch: head.epoch.next(NOW.plus(1_000)),
            lineage: past.iter().copied().chain([state]).collect(),
            complete: true,
            state,
            covers: past,
            named_since: None,
            items: stock.items().map(named).collect(),
            outcomes: ledger::outcomes::all(known).expect("reads"),
            reservations: ledger::reservations::all(known).expect("reads"),
            transfers: ledger::transfers::all(known).expect("reads"),
            operations,
            entries: entries.collect(),
        }
    }

    fn restore(connection: &Connection, answer: &Answer) -> Report {
        let report = carry_out(connection, answer, None, NOW.plus(10)).expect("is carried out");
        let audit = crate::operators::verify::verify(connection).expect("reads");
        assert!(audit.differences.is_empty(), "{:?}", audit.differences);
        report
    }

    /// An old copy that sold 4, and the store as central has it, which sold 3.
    fn forked() -> (Connection, Connection) {
        let old = store();
        let live = copy(&old);
        act(&old, "sale", Operation::Sell { quantity: quantity(4) });
        act(&live, "other", Operation::Sell { quantity: quantity(3) });
        (old, live)
    }

    #[test]
    fn of_what_central_has_only_the_hashes_are_read() {
        let (old, live) = forked();
        // No text that can be read; the entries keep their hashes.
        ledger::testing::tamper(&old, "update ledger set body = cast(x'ff' as text) where operation_id <> 'sale'");
        let report = carry_out(&old, &answer(&live, 0), None, NOW.plus(10)).expect("is carried out");
        assert_eq!((report.recorded_again, units(&old)), (1, 0));
    }

    #[test]
    fn a_shortage_and_the_sale_behind_it_are_told_apart() {
        let (old, live) = forked();
        let first = copy(&old);
        restore(&first, &answer(&live, 0));
        assert_eq!(recorded(&first), [("shortage".into(), 2), ("sold".into(), -4)]);
        // Central has heard of the shortage, and not yet of the sale, when the same old copy is restored again.
        restore(&old, &answer(&first, 1));
        assert_eq!((units(&old), recorded(&old)), (0, vec![("sold".into(), -4)]));
    }

    #[test]
    fn what_was_recorded_again_and_not_sent_is_recorded_again_by_the_next_restore() {
        let (old, live) = forked();
        act(&live, "delivery", Operation::Receive { quantity: quantity(9) });
        let first = answer(&live, 0);
        assert_eq!(restore(&old, &first).recorded_again, 1);
        let next = Answer { epoch: first.epoch.next(NOW.plus(2_000)), ..first };
        let report = restore(&old, &next);
        // As an entry that central hears of: another copy of the old file would sell it once more.
        assert_eq!((report.state, report.recorded_again, units(&old)), (Choice::Central, 1, 7));
        assert_eq!(recorded(&old), [("sold".into(), -4)]);
        // Nor is it in the state, which central may have without it.
        let named = answer(&old, 0).operations;
        assert_eq!(["other", "sale"].map(|id| named.contains(&operation(id))), [true, false]);
    }

    #[test]
    fn a_shortage_is_found_anew_by_each_restore() {
        let (old, live) = forked();
        let first = copy(&old);
        restore(&first, &answer(&live, 0));
        // Meanwhile another copy was restored where there were units enough.
        act(&live, "delivery", Operation::Receive { quantity: quantity(10) });
        let heard = answer(&live, 0);
        restore(&old, &heard);
        assert_eq!(recorded(&old), [("sold".into(), -4)]);
        // Central has the entries of both.
        let mut said = answer(&old, 0);
        said.entries.extend(heard.entries);
        let report = restore(&first, &said);
        assert_eq!((units(&first), report.recorded_again), (8, 0));
    }

    fn attempt() -> PurchaseRef {
        PurchaseRef {
            from_allotment: None,
            purchase_id: "00000000-0000-0000-0000-000000000001".parse().expect("an id"),
            attempt: operation("attempt"),
            lines: Lines::one(ale(), quantity(2)),
            reference: None,
            created_at: NOW,
            expires_at: NOW.plus(60_000),
        }
    }

    /// Executes commands of a new command epoch.
    fn execute(connection: &Connection, commands: &[(&str, Command)]) {
        let for_epoch = ledger::head(connection).expect("a head").cursor.epoch;
        let (known, _) = ledger::command_cursor(connection).expect("reads");
        let mut sent = Cursor { epoch: known.epoch.next(NOW), ..Cursor::default() };
        for (id, command) in [("opened", Command::Opened { for_epoch })].iter().chain(commands) {
            let entry = Entry::follow(&sent, command.kind(), id, command.encode(), None);
            sent = entry.cursor();
            commands::receive(connection, &[Ok(entry)], &Default::default(), NOW, NOW).expect("executes");
        }
    }

    #[test]
    fn a_cancel_that_found_nothing_gives_back_what_central_knows_to_be_taken() {
        let old = store();
        let live = copy(&old);
        let purchase =
            Command::Purchase { purchase: attempt(), deadline: Some(NOW.plus(60_000)), about: About::default() };
        execute(&live, &[("attempt", purchase)]);
        assert_eq!(units(&live), 3);
        let cancel = Command::Cancel { purchase: attempt(), forced: true, about: About::default() };
        execute(&old, &[("cancel", cancel)]);
        assert_eq!(recorded(&old).last(), Some(&("purchase_cancelled".into(), 0)));
        restore(&old, &answer(&live, 0));
        assert_eq!((units(&old), recorded(&old)), (5, vec![("purchase_cancelled".into(), 2)]));
        let row = ledger::purchases::find(&old, attempt().purchase_id).expect("reads").expect("is known");
        assert!(row.is_cancelled);
    }

    /// So many ales are sold, line by line.
    fn sales(of: &[i64]) -> Command {
        let sale = |units: &i64| BatchLine {
            product_id: ale(),
            operation: Operation::Sell { quantity: quantity(*units) },
            expected_version: None,
            reference: None,
            occurred_at: None,
        };
        Command::Batch { lines: of.iter().map(sale).collect(), atomic: true, about: About::default() }
    }

    #[test]
    fn a_batch_of_which_central_has_a_part_is_done_to_its_end_and_once() {
        let old = store();
        let live = copy(&old);
        execute(&live, &[("b", sales(&[2, 1]))]);
        assert_eq!(units(&live), 2);
        // Central has the first line, neither the second nor the answer.
        let answer = Answer { outcomes: Vec::new(), ..answer(&live, 2) };
        for (copy, again, units_then) in [(&old, 0, 3), (&live, 1, 2)] {
            assert_eq!((restore(copy, &answer).recorded_again, units(copy)), (again, units_then));
            execute(copy, &[("b", sales(&[2, 1]))]);
            let operation = OperationId::parse("b").expect("valid");
            let outcome = ledger::outcomes::find(copy, &operation).expect("reads").expect("is answered");
            assert_eq!((units(copy), outcome.became.results().map(Results::applied)), (2, Some(2)));
        }
    }

    #[test]
    fn no_line_of_a_batch_is_recorded_again_if_central_has_its_answer() {
        let old = store();
        let live = copy(&old);
        act(&live, "sale", Operation::Sell { quantity: quantity(4) });
        for (copy, left) in [(&old, 2), (&live, 1)] {
            execute(copy, &[("b", sales(&[2, 1]))]);
            assert_eq!(units(copy), left);
        }
        let report = restore(&old, &answer(&live, 0));
        assert_eq!((report.recorded_again, units(&old)), (0, 1));
    }

    fn hold(connection: &Connection, number: u128, units: i64) -> Result<(), Abort<Rejection>> {
        let lines = Lines::one(ale(), quantity(units));
        reserve(connection, held_id(number), &lines, 60_000, &asking(&format!("hold-{number}")), NOW).map(drop)
    }

    fn held_id(number: u128) -> ReservationId {
        ReservationId::new(uuid::Uuid::from_u128(number))
    }

    fn asking(name: &str) -> Asking {
        Asking { operation: operation(name), about: About::default(), command: None }
    }

    fn confirm(connection: &Connection, number: u128) {
        let asked = asking(&format!("confirm-{number}"));
        let done = reservations::act(connection, held_id(number), &Act::Confirm { lines: None }, &asked, NOW);
        assert!(done.expect("is open").is_some());
    }

    /// Units on hand and held, and what has become of a reservation.
    fn held(connection: &Connection, number: u128) -> (i64, i64, State) {
        let item = ledger::find_item(connection, &ale()).expect("reads").expect("an ale");
        let found = ledger::reservations::find(connection, held_id(number)).expect("reads").expect("is known");
        (item.quantity, item.reserved, found.state)
    }

    #[test]
    fn a_reply_that_central_has_is_not_recorded_again() {
        let old = store();
        let live = copy(&old);
        act(&old, "sale", Operation::Sell { quantity: quantity(1) });
        for copy in [&old, &live] {
            let purchase =
                Command::Purchase { purchase: attempt(), deadline: Some(NOW.plus(60_000)), about: About::default() };
            execute(copy, &[("attempt", purchase)]);
        }
        let report = restore(&old, &answer(&live, 0));
        assert_eq!((report.recorded_again, recorded(&old), units(&old)), (1, vec![("sold".into(), -1)], 2));
    }

    #[test]
    fn the_end_of_a_hold_that_came_with_the_state_is_not_recorded_again() {
        let old = store();
        hold(&old, 1, 2).expect("there are enough");
        let live = copy(&old);
        for (copy, sale, later) in [(&old, "sale", 61_000), (&live, "other", 62_000)] {
            testing::act(copy, sale, "ale", Operation::Sell { quantity: quantity(1) }, NOW.plus(later));
            assert_eq!(held(copy, 1), (4, 0, State::Expired));
        }
        // Central has no entry of it: the live store opened an epoch behind it.
        let mut answer = answer(&live, 0);
        answer.entries.retain(|entry| !entry.operation.ends_with(":expired"));
        let report = restore(&old, &answer);
        assert_eq!((report.recorded_again, held(&old, 1)), (1, (3, 0, State::Expired)), "but for the sale");
    }

    #[test]
    fn a_hold_that_only_the_old_copy_knew_is_held_again_or_ends() {
        for (sold, (units, reserved, state)) in [(2, (3, 3, State::Open)), (3, (2, 0, State::Cancelled))] {
            let old = store();
            let live = copy(&old);
            hold(&old, 1, 3).expect("there are enough");
            act(&live, "sale", Operation::Sell { quantity: quantity(sold) });
            restore(&old, &answer(&live, 0));
            assert_eq!(held(&old, 1), (units, reserved, state));
        }
    }

    #[test]
    fn units_of_a_confirmed_hold_have_left_whatever_became_of_it_elsewhere() {
        let live = store();
        hold(&live, 1, 3).expect("there are enough");
        let old = copy(&live);
        confirm(&old, 1);
        let lines = Lines::one(ale(), quantity(3));
        let confirmed = State::Confirmed { confirmed_lines: lines };
        let open = copy(&old);
        restore(&open, &answer(&live, 0));
        assert_eq!(held(&open, 1), (2, 0, confirmed.clone()));
        // Central has it as cancelled, and the units as sold since: they are missing.
        let ended = reservations::act(&live, held_id(1), &Act::Cancel, &asking("cancel"), NOW);
        ended.expect("is open");
        act(&live, "sale", Operation::Sell { quantity: quantity(4) });
        restore(&old, &answer(&live, 0));
        assert_eq!(held(&old, 1), (0, 0, confirmed));
        assert_eq!(recorded(&old), [("shortage".into(), 2), ("reservation_confirmed".into(), -3)]);
    }

    #[test]
    fn central_gives_back_the_holds_that_a_lost_disk_knew() {
        let live = store();
        hold(&live, 1, 2).expect("there are enough");
        hold(&live, 2, 1).expect("there are enough");
        confirm(&live, 2);
        let empty = runtime::sqlite::memory(ledger::SCHEMA).expect("opens");
        ledger::claim(&empty, &"s1".parse().expect("an id")).expect("is new");
        restore(&empty, &answer(&live, 0));
        assert_eq!(held(&empty, 1), (4, 2, State::Open));
        assert!(matches!(held(&empty, 2).2, State::Confirmed { .. }));
        assert!(hold(&empty, 3, 3).is_err(), "what is held is not free");
    }

    fn sent(from: &str, to: &str) -> Transfer {
        Transfer {
            id: TransferId::new(uuid::Uuid::from_u128(1)),
            from: from.parse().expect("an id"),
            to: to.parse().expect("an id"),
            lines: Lines::one(ale(), quantity(2)),
            names: Default::default(),
            auto_receive: false,
            reference: None,
            created_at: NOW,
            state: transfer::State::Shipped,
        }
    }

    fn ship() -> Command {
        Command::Ship { transfer: sent("s1", "s2"), deadline: NOW.plus(60_000), about: About::default() }
    }

    fn announce() -> Command {
        Command::Announce { transfer: sent("s2", "s1") }
    }

    fn receive(connection: &Connection, name: &str) -> Result<(), Abort<Rejection>> {
        transfers::receive(connection, sent("s1", "s2").id, None, &asking(name), NOW).map(drop)
    }

    #[test]
    fn units_that_only_the_old_copy_shipped_have_left() {
        let old = store();
        let live = copy(&old);
        execute(&old, &[("ship", ship())]);
        act(&live, "sale", Operation::Sell { quantity: quantity(4) });
        restore(&old, &answer(&live, 0));
        assert_eq!((units(&old), recorded(&old)), (0, vec![("shortage".into(), 1), ("transfer_shipped".into(), -2)]));
        execute(&old, &[("ship", ship())]);
        assert_eq!((units(&old), ledger::transfers::all(&old).expect("reads").len()), (0, 1), "once");
    }

    #[test]
    fn what_central_knows_to_be_received_is_not_received_again() {
        let old = store();
        execute(&old, &[("announce", announce())]);
        let live = copy(&old);
        receive(&live, "live").expect("is on its way");
        // Staff has booked it in on both, or has not yet on the old one.
        for booked in [false, true] {
            let old = copy(&old);
            if booked {
                receive(&old, "old").expect("is on its way");
            }
            restore(&old, &answer(&live, 0));
            assert_eq!(units(&old), 7);
            execute(&old, &[("announce-again", announce())]);
            assert!(matches!(receive(&old, "again"), Err(Abort::Refused(Rejection::TransferClosed { .. }))));
            assert_eq!(units(&old), 7);
        }
        // And the other way round: only the old one knows of the receipt.
        let unaware = copy(&old);
        receive(&old, "old").expect("is on its way");
        restore(&old, &answer(&unaware, 0));
        assert_eq!((units(&old), recorded(&old)), (7, vec![("transfer_received".into(), 2)]));
    }

    #[test]
    fn central_gives_back_the_transfers_that_a_lost_disk_knew() {
        let live = store();
        execute(&live, &[("announce", announce())]);
        let empty = runtime::sqlite::memory(ledger::SCHEMA).expect("opens");
        ledger::claim(&empty, &"s1".parse().expect("an id")).expect("is new");
        restore(&empty, &answer(&live, 0));
        receive(&empty, "r").expect("is on its way");
        assert_eq!(units(&empty), 7);
    }

    /// What central answers once this database has opened an epoch with its own state, and central has none of the entries
    /// before: it knows where their epoch ended.
    fn answer_from_behind(live: &Connection) -> Answer {
        let head = ledger::head(live).expect("a head").cursor;
        let unheard = Answer { complete: false, epoch: head.epoch.next(NOW.plus(500)), ..answer(live, 0) };
        assert_eq!(restore(live, &unheard).state, Choice::Own);
        let mut said = answer(live, 0);
        said.entries.retain(|entry| entry.epoch == unheard.epoch);
        Answer { epoch: unheard.epoch.next(NOW.plus(1_000)), ..said }
    }

    #[test]
    fn what_a_state_has_named_is_known_to_whoever_takes_it_over_and_is_named_by_it_again() {
        let key = |name: &str| idempotency::Key { key: name.into(), fingerprint: [1; 16], route: String::new() };
        let sale = key("till").operation(NOW);
        let sell = |connection: &Connection, id: &str| act(connection, id, Operation::Sell { quantity: quantity(1) });
        let live = store();
        sell(&live, "both");
        let clone = copy(&live);
        sell(&live, sale.as_str());
        let said = answer_from_behind(&live);
        assert!(!said.entries.iter().any(|entry| entry.operation == sale.as_str()), "no entry tells of it");
        let is_known =
            |connection: &Connection| idempotency::known(connection, &key("till"), NOW).expect("reads").is_some();
        // The clone was asked for the same, behind the place of which nobody can tell.
        ["b-1", sale.as_str(), "b-3"].into_iter().for_each(|id| sell(&clone, id));
        let report = carry_out(&clone, &said, Some(Choice::Central), NOW.plus(10)).expect("is carried out");
        assert_eq!((report.recorded_again, units(&clone), is_known(&clone)), (2, 1, true), "b-1 and b-3");
        let mut told = said;
        for epoch in 3_000..3_003 {
            let new = runtime::sqlite::memory(ledger::SCHEMA).expect("opens");
            ledger::claim(&new, &"s1".parse().expect("an id")).expect("is new");
            told.epoch = told.epoch.next(NOW.plus(epoch));
            restore(&new, &told);
            assert!(is_known(&new) && told.operations.contains(&sale));
            // With the whole state it is named, too.
            execute(&new, &[(&format!("resync-{epoch}"), Command::Resync)]);
            while resync::step(&new, 1, NOW).expect("tells") {}
            told = answer(&new, 0);
            told.entries.clear();
            assert_eq!(told.operations.iter().filter(|named| **named == sale).count(), 2);
        }
    }

    #[test]
    fn what_a_human_has_given_up_is_not_known_and_is_recorded_again_if_it_was_done_anew() {
        let key = idempotency::Key { key: "till".into(), fingerprint: [1; 16], route: String::new() };
        let sale = key.operation(NOW);
        let sell = |connection: &Connection| act(connection, sale.as_str(), Operation::Sell { quantity: quantity(1) });
        let is_known = |connection: &Connection| idempotency::known(connection, &key, NOW).expect("reads").is_some();
        let live = store();
        let other = copy(&live);
        sell(&live);
        let heard = answer(&live, 0);
        assert_eq!(
            restore(&other, &Answer { complete: false, ..heard.clone() }).state,
            Choice::Own,
            "as if it were chosen"
        );
        let mut said = Answer { named_since: Some(Millis(0)), ..answer(&other, 0) };
        let given_up = heard.entries.into_iter().filter(|entry| entry.operation == sale.as_str());
        said.entries.extend(given_up.map(|entry| KnownEntry { given_up: true, ..entry }));
        // It was done anew in the chosen state, and central has not heard of it.
        sell(&other);
        let report = restore(&other, &said);
        assert_eq!((report.state, report.recorded_again, units(&other)), (Choice::Central, 1, 4));
        assert!(is_known(&other));
        // The one that was given up takes the chosen state over.
        let report = restore(&live, &said);
        assert_eq!((report.state, report.recorded_again, units(&live)), (Choice::Central, 0, 5));
        assert!(!is_known(&live) && !answer(&live, 0).operations.contains(&sale));
        ledger::open_epoch(&live, None, NOW.plus(20)).expect("opens");
        assert!(!is_known(&live), "the log has it");
    }

    #[test]
    fn what_nobody_can_place_is_asked_about_and_never_guessed() {
        let choose = |connection: &Connection, answer: &Answer, choice| {
            carry_out(connection, answer, choice, NOW.plus(10)).map(|report| (report.state, report.recorded_again))
        };
        let sell = |connection: &Connection, id: &str| act(connection, id, Operation::Sell { quantity: quantity(1) });
        // An older copy, a clone that has not come as far as the end that central knows, and one that went beyond it.
        for (own, certain) in [(vec![], 0), (vec!["b-1"], 0), (vec!["b-1", "b-2", "b-3", "b-4"], 3)] {
            let live = store();
            sell(&live, "both");
            let old = copy(&live);
            ["a-1", "a-2"].into_iter().for_each(|id| sell(&live, id));
            own.iter().for_each(|id| sell(&old, id));
            let said = answer_from_behind(&live);
            let all = ledger::head(&old).expect("a head").cursor.seq.get();
            let refused = choose(&old, &said, None);
            let Err(Abort::Refused(Refusal::CannotTell { entries })) = refused else { panic!("{refused:?}") };
            // What stands in the place of the end is something else, and so is all behind it.
            assert_eq!(entries, all - certain, "{own:?}");
            let other = copy(&old);
            assert_eq!(choose(&old, &said, Some(Choice::Central)).expect("is carried out"), (Choice::Central, certain));
            assert_eq!(choose(&other, &said, Some(Choice::Own)).expect("is carried out"), (Choice::Own, 0));
        }
    }

    #[test]
    fn a_cancel_gives_back_nothing_if_what_took_the_units_is_left_out() {
        let live = store();
        let old = copy(&live);
        for id in ["a-1", "a-2", "a-3"] {
            act(&live, id, Operation::Sell { quantity: quantity(1) });
        }
        // A `ready`, the purchase, and in the place of the end that central knows its cancel.
        let purchase =
            Command::Purchase { purchase: attempt(), deadline: Some(NOW.plus(60_000)), about: About::default() };
        let cancel = Command::Cancel { purchase: attempt(), forced: true, about: About::default() };
        execute(&old, &[("attempt", purchase), ("cancel", cancel)]);
        let said = Answer { outcomes: Vec::new(), ..answer_from_behind(&live) };
        let report = carry_out(&old, &said, Some(Choice::Central), NOW.plus(10)).expect("is carried out");
        // The purchase, and what created ale and bun.
        assert_eq!((report.recorded_again, report.left_out), (1, 3));
        assert_eq!((units(&old), recorded(&old)), (2, vec![("purchase_cancelled".into(), 0)]));
    }

    #[test]
    fn keys_of_a_database_that_is_left_out_are_free_again() {
        let key = |name: &str| idempotency::Key { key: name.into(), fingerprint: [1; 16], route: String::new() };
        let (live, stranger) = (store(), runtime::sqlite::memory(ledger::SCHEMA).expect("opens"));
        ledger::initialise(&stranger, &"s1".parse().expect("valid"), NOW.plus(7)).expect("is new");
        act(&stranger, "create", Operation::Create { name: "Ale".into(), quantity: 7, low_at: None });
        idempotency::bind(&stranger, &key("k"), 200, "{}", "s1:1-3", NOW).expect("binds");
        let operation = key("known").operation(NOW);
        idempotency::remember_known(&stranger, [operation.as_str()], NOW).expect("writes");
        let own = copy(&stranger);
        for (database, choice, left) in [(stranger, Choice::Central, false), (own, Choice::Own, true)] {
            let report = carry_out(&database, &answer(&live, 0), Some(choice), NOW.plus(10)).expect("is carried out");
            assert!(report.recount.contains(&ale()), "{choice:?}");
            let is_bound = idempotency::find(&database, "k").expect("reads").is_some();
            let is_known = idempotency::known(&database, &key("known"), NOW).expect("reads").is_some();
            assert_eq!((is_bound, is_known), (left, left), "{choice:?}");
        }
    }

    #[test]
    fn of_what_a_human_leaves_out_no_key_says_that_it_was_done() {
        let key = |name: &str| idempotency::Key { key: name.into(), fingerprint: [1; 16], route: String::new() };
        let live = store();
        let sell = |connection: &Connection, name: &str| {
            act(connection, key(name).operation(NOW).as_str(), Operation::Sell { quantity: quantity(1) });
            let place = ledger::head(connection).expect("a head").cursor.id();
            idempotency::bind(connection, &key(name), 200, "{}", &format!("s1:{place}"), NOW).expect("binds");
        };
        sell(&live, "shared");
        let old = copy(&live);
        ["a-1", "a-2"].into_iter().for_each(|name| sell(&live, name));
        // The first one stands before the end that central knows, the other ones in its place and behind it.
        ["uncertain", "b-2", "b-3"].into_iter().for_each(|name| sell(&old, name));
        let mut said = answer_from_behind(&live);
        let before = answer(&old, 3).entries;
        said.entries.splice(..0, before);
        let report = carry_out(&old, &said, Some(Choice::Central), NOW.plus(10)).expect("is carried out");
        assert_eq!(report.recorded_again, 2);
        let answered = |name| idempotency::find(&old, name).expect("reads").is_some();
        let known = |name| idempotency::known(&old, &key(name), NOW).expect("reads").is_some();
        let said = ["shared", "uncertain", "b-2", "b-3"].map(|name| (answered(name), known(name)));
        assert_eq!(said, [(true, true), (false, false), (false, true), (false, true)]);
    }

    #[test]
    fn a_log_that_has_the_end_of_an_epoch_has_all_before_it() {
        let live = store();
        act(&live, "both", Operation::Sell { quantity: quantity(1) });
        let old = copy(&live);
        let said = answer_from_behind(&live);
        act(&old, "sale", Operation::Sell { quantity: quantity(2) });
        let report = restore(&old, &said);
        assert_eq!((report.state, report.recorded_again, units(&old)), (Choice::Central, 1, 2));
        assert_eq!(recorded(&old), [("sold".into(), -2)]);
    }

    #[test]
    fn only_what_the_two_sides_have_not_alike_is_to_be_counted() {
        let (old, live) = forked();
        testing::act(&old, "bun-1", "bun", Operation::Sell { quantity: quantity(1) }, NOW);
        let first = copy(&old);
        let report = restore(&first, &answer(&live, 0));
        assert_eq!(report.recount.iter().map(ProductId::as_str).collect::<Vec<_>>(), ["ale", "bun"]);
        // Now central has all of that; a purchase that was refused on one side has touched ale, and changed nothing.
        let again = copy(&first);
        let too_many = PurchaseRef { lines: Lines::one(ale(), quantity(100)), ..attempt() };
        let command =
            Command::Purchase { purchase: too_many, deadline: Some(NOW.plus(60_000)), about: About::default() };
        execute(&again, &[("attempt", command)]);
        assert_eq!(recorded(&again).last(), Some(&("purchase_rejected".into(), 0)));
        let report = restore(&again, &answer(&first, 0));
        assert!(report.recount.is_empty(), "{:?}", report.recount);
    }

    #[test]
    fn each_product_of_an_entry_is_to_be_counted() {
        let old = store();
        let live = copy(&old);
        let two = |name: &str| Line { product_id: testing::product(name), quantity: quantity(2) };
        let cart = PurchaseRef { lines: Lines::new(["ale", "bun"].map(two)).expect("are lines"), ..attempt() };
        let cart = Command::Purchase { purchase: cart, deadline: Some(NOW.plus(60_000)), about: About::default() };
        execute(&old, &[("attempt", cart)]);
        testing::act(&live, "bun-1", "bun", Operation::Sell { quantity: quantity(1) }, NOW);
        let report = restore(&old, &answer(&live, 0));
        assert_eq!(report.recount.iter().map(ProductId::as_str).collect::<Vec<_>>(), ["ale", "bun"]);
    }

    #[test]
    fn a_purchase_of_two_products_is_taken_and_given_back_by_line() {
        let two = |name: &str| Line { product_id: testing::product(name), quantity: quantity(2) };
        let cart = PurchaseRef { lines: Lines::new(["ale", "bun"].map(two)).expect("are lines"), ..attempt() };
        let units = |connection: &Connection| {
            ["ale", "bun"].map(|name| {
                let item = ledger::find_item(connection, &testing::product(name)).expect("reads");
                item.expect("an item").quantity
            })
        };
        let buy =
            Command::Purchase { purchase: cart.clone(), deadline: Some(NOW.plus(60_000)), about: About::default() };
        let cancel = Command::Cancel { purchase: cart, forced: true, about: About::default() };
        // Central knows neither: both are recorded again, on top of other sales, and what is missing is entered by line.
        let old = store();
        let live = copy(&old);
        execute(&old, &[("attempt", buy.clone())]);
        testing::act(&live, "ales", "ale", Operation::Sell { quantity: quantity(4) }, NOW);
        let bought = copy(&old);
        let report = restore(&bought, &answer(&live, 0));
        assert_eq!((report.recorded_again, units(&bought)), (1, [0, 3]));
        execute(&old, &[("cancel", cancel.clone())]);
        let report = restore(&old, &answer(&live, 0));
        assert_eq!((report.recorded_again, units(&old)), (2, [2, 5]));
        // Central knows that the units were taken; the copy was told to cancel what it had not taken.
        let taken = store();
        let unaware = copy(&taken);
        execute(&taken, &[("attempt", buy)]);
        execute(&unaware, &[("cancel", cancel)]);
        let report = restore(&unaware, &answer(&taken, 0));
        assert_eq!((report.recorded_again, units(&unaware)), (1, [5, 5]));
    }
}
