//! The auditor: recomputes the view from the ledgers that it was made from.
//!
//! For each store: the chain of hashes, gaplessness, the cursor, every entry's difference, and the items and digest that
//! the entries add up to. Then the chain's totals, and that each purchase has the outcome that some entry gave it.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::hash::{Hash, chain};
use protocol::ids::ProductId;
use protocol::link::{Cursor, EntryId, Epoch, Seq};
use protocol::number::CommandEpoch;
use protocol::stock::{Difference, Stock};
use protocol::wire::{Command, Event};

use crate::projection::view;
use crate::storage::queries::audit::{self, Kept, Unproven};
use crate::storage::stores::{self, DigestState, Store};
use crate::storage::{Connection, JobResult, items, totals};

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub stores: u64,
    /// Entries of their ledgers.
    pub entries: u64,
    /// Items of the view.
    pub items: u64,
    pub purchases: u64,
    /// Pages of states that a later one has replaced: their hashes are taken as given.
    pub forgotten_pages: u64,
    /// Differences, for people. Empty: all is well.
    pub differences: Vec<String>,
}

/// Audits a database in one read transaction of the caller's.
pub fn verify(connection: &Connection) -> JobResult<Report> {
    let mut report = Report::default();
    if let Some(damage) = audit::damage(connection)? {
        report.differences.push(format!("the file is damaged: {damage}"));
    }
    for store in stores::all(connection)? {
        report.stores += 1;
        verify_store(connection, &store, &mut report)?;
        verify_commands(connection, &store, &mut report)?;
    }
    verify_intervals(connection, &mut report)?;
    for totals::Difference { product, what, total, sum } in totals::differences(connection)? {
        report.differences.push(format!("product {product}: {sum} {what}, the total says {total}"));
    }
    verify_purchases(connection, &mut report)?;
    Ok(report)
}

fn verify_store(connection: &Connection, store: &Store, report: &mut Report) -> JobResult<()> {
    let mut note = |text: String| report.differences.push(format!("store {}: {text}", store.id));
    let mut before: Option<Cursor> = None;
    let mut stock = Stock::default();
    let (mut entries, mut forgotten_pages) = (0, 0);
    audit::each_entry(connection, &store.id, |Kept { at, kind, operation, body, digest, hash }| {
        entries += 1;
        let same_epoch = before.filter(|before| before.epoch == at.epoch);
        let expected = same_epoch.map_or(EntryId { epoch: at.epoch, seq: Seq::FIRST }, |before| EntryId {
            epoch: at.epoch,
            seq: before.seq.next(),
        });
        if at != expected {
            note(format!("entry {at} stands where {expected} should"));
        }
        let hash_before = same_epoch.map_or(Hash::ZERO, |before| before.hash);
        let is_forgotten = kind == "snapshot_page" && body.is_empty() && at < store.base;
        if is_forgotten {
            forgotten_pages += 1;
        } else if chain(hash_before, at, &kind, &operation, &body, digest) != hash {
            note(format!("entry {at}: its hash does not fit its content"));
        }
        before = Some(Cursor { epoch: at.epoch, seq: at.seq, hash });
        if same_epoch.is_none() {
            stock.open();
        }
        // What lies behind the state is an opening that has not arrived in full.
        if at > store.state.id() {
            return Ok(());
        }
        match Event::decode(&kind, &body) {
            Ok(event) => {
                if let Event::Ready { command_epoch } = &event
                    && opened_for(connection, store, *command_epoch)?.is_some_and(|epoch| epoch != at.epoch)
                {
                    note(format!("entry {at}: command epoch {command_epoch} was opened for another epoch"));
                }
                for difference in stock.apply(&event) {
                    // A state says otherwise where it was asked for because the two differed.
                    if let Difference::Units { .. } = difference {
                        note(format!("entry {at}: {difference}"));
                    }
                }
            }
            Err(_) if is_forgotten => stock.skip_page(),
            Err(_) => stock.skip(),
        }
        Ok(())
    })?;
    let last = audit::end_of(connection, &store.id, store.cursor.epoch)?;
    if store.cursor.seq > Seq::ZERO && last != Some(store.cursor) {
        note(format!("the cursor is at {}, its epoch's last entry is {last:?}", store.cursor.id()));
    }
    let view: BTreeMap<ProductId, Item> = items::of_store(connection, &store.id)?.into_iter().collect();
    let digest = items::digest(connection, store.stock)?;
    if digest != store.digest {
        note(format!("the view's digest is {digest}, the running one says {}", store.digest));
    } else {
        let units: i64 = view.values().map(|item| item.quantity).sum();
        if units != store.units {
            note(format!("the view has {units} units, the running sum says {}", store.units));
        }
    }
    if !store.suspect {
        for product in
            view.keys().chain(stock.items().map(|(product, _)| product)).collect::<std::collections::BTreeSet<_>>()
        {
            let (seen, proven) = (view.get(product), stock.item(product));
            if seen != proven {
                let units = |item: Option<&Item>| item.map_or("no such item".into(), |item| item.quantity.to_string());
                note(format!("{product}: the ledger adds up to {}, the view says {}", units(proven), units(seen)));
            }
        }
        let said = view::reported_digest(connection, store)?;
        if store.digest_state == DigestState::Equal && said.is_some_and(|said| said != digest) {
            note("the store's own digest at the cursor is another".into());
        }
    }
    report.entries += entries;
    report.forgotten_pages += forgotten_pages;
    report.items += view.len() as u64;
    Ok(())
}

/// The event epoch that a command epoch was opened for (L8), while the log still tells.
fn opened_for(connection: &Connection, store: &Store, command_epoch: CommandEpoch) -> JobResult<Option<Epoch>> {
    let Some((kind, body)) = audit::first_command(connection, &store.id, command_epoch)? else { return Ok(None) };
    Ok(match Command::decode(&kind, &body) {
        Ok(Command::Opened { for_epoch }) => Some(for_epoch),
        _ => None,
    })
}

fn verify_commands(connection: &Connection, store: &Store, report: &mut Report) -> JobResult<()> {
    let head = store.command_head;
    let mut before: Option<(Seq, Hash)> = None;
    audit::each_command(connection, &store.id, head.epoch, |Kept { at, kind, operation, body, hash, .. }| {
        let known = if at.seq == Seq::FIRST { Some((Seq::ZERO, Hash::ZERO)) } else { before };
        let fits = known.is_none_or(|(last, known)| {
            last.next() == at.seq && chain(known, at, &kind, &operation, &body, None) == hash
        });
        if !fits {
            report.differences.push(format!("store {}: command {} does not fit its log", store.id, at.seq));
        }
        before = Some((at.seq, hash));
    })?;
    if head.seq > Seq::ZERO && before != Some((head.seq, head.hash)) {
        report.differences.push(format!("store {}: the command log does not end at its head", store.id));
    }
    Ok(())
}

/// No product of a store is counted twice.
fn verify_intervals(connection: &Connection, report: &mut Report) -> JobResult<()> {
    for (store, after, to) in audit::counted_twice(connection)? {
        report.differences.push(format!("store {store}: products in ({after:?}, {to:?}] are counted twice"));
    }
    Ok(())
}

/// A purchase that has ended did so by an entry of its store's ledger, or because the store was retired.
fn verify_purchases(connection: &Connection, report: &mut Report) -> JobResult<()> {
    report.purchases = audit::count_purchases(connection)?;
    for Unproven { purchase, status, position } in audit::unproven_purchases(connection)? {
        report.differences.push(format!("purchase {purchase}: {status}, but no entry at {position:?} says so"));
    }
    Ok(())
}
