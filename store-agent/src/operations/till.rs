//! What tills and staff do: decide, apply and record one operation, in one transaction.

use protocol::domain::{Change, Facts, Guard, Item, Operation, Rejection, apply, decide};
use protocol::ids::{OperationId, ProductId};
use protocol::link::EntryId;
use protocol::time::Millis;
use protocol::wire::{About, Event, Fact, Kind, Position, PurchaseRef};
use runtime::sqlite::Abort;
use rusqlite::{Connection, OptionalExtension, params};

use crate::ledger::{self, Head};

/// One operation on one item.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its name for ever.
    pub operation_id: OperationId,
    /// Of which product.
    pub product: ProductId,
    /// What.
    pub operation: Operation,
    /// What the caller believes the version to be.
    pub guard: Guard,
    /// Who asked, and what for.
    pub about: About,
    /// The command that asked; none: a till or staff did.
    pub command: Option<OperationId>,
    /// The purchase it is about.
    pub purchase: Option<PurchaseRef>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Performed {
    /// The item after it.
    pub item: Item,
    /// Change of the quantity.
    pub delta: i64,
    /// Where it is recorded.
    pub position: EntryId,
    /// Under which name.
    pub kind: Kind,
}

/// Decides, applies and records. Everything happens or, if it is refused, nothing.
pub fn perform(connection: &Connection, request: &Request, now: Millis) -> Result<Performed, Abort<Rejection>> {
    let mut head = ledger::head(connection)?;
    let performed = perform_at(connection, &mut head, request, now)?;
    ledger::save_head(connection, &head)?;
    Ok(performed)
}

/// As [`perform`], for a caller that has the head and saves it.
pub fn perform_at(
    connection: &Connection,
    head: &mut Head,
    request: &Request,
    now: Millis,
) -> Result<Performed, Abort<Rejection>> {
    let before = ledger::find_item(connection, &request.product)?;
    let moved_since_count = match &request.operation {
        Operation::Count { counted_at: Some(at), .. } if before.is_some() => {
            moved_since(connection, head, &request.product, at)?
        }
        _ => 0,
    };
    let facts = Facts { epoch: head.cursor.epoch, moved_since_count };
    let changes = decide(before.as_ref(), &request.operation, &request.guard, facts).map_err(Abort::Refused)?;
    let mut current = before;
    let mut first = None;
    for change in &changes {
        let performed = record(connection, head, request, current.as_ref(), change, now)?;
        current = Some(performed.item.clone());
        first.get_or_insert(performed);
    }
    first.ok_or(Abort::Database(rusqlite::Error::QueryReturnedNoRows))
}

/// Records one change of an item and the event that tells of it.
pub fn record(
    connection: &Connection,
    head: &mut Head,
    request: &Request,
    before: Option<&Item>,
    change: &Change,
    now: Millis,
) -> rusqlite::Result<Performed> {
    let item = apply(before, change, now);
    let delta = item.quantity - before.map_or(0, |before| before.quantity);
    if before != Some(&item) {
        ledger::put_item(connection, head, &request.product, before, &item)?;
    }
    let kind = Kind::of(change);
    let mut fact = Fact::new(request.product.clone(), now);
    fact.delta = delta;
    fact.item = Some(item.clone());
    fact.about = request.about.clone();
    fact.command.clone_from(&request.command);
    if *change != Change::FellLow {
        fact.purchase.clone_from(&request.purchase);
    }
    match &request.operation {
        Operation::Adjust { reason, note, .. } if *change != Change::FellLow => {
            fact.reason = Some(*reason);
            fact.note.clone_from(note);
        }
        Operation::Count { count_ref, .. } => fact.count_ref.clone_from(count_ref),
        _ => {}
    }
    let entry = ledger::append(connection, head, &request.operation_id, &Event::Fact(kind, fact), now)?;
    Ok(Performed { item, delta, position: entry.id, kind })
}

/// Sum of an item's changes after the position at which a count was true.
fn moved_since(
    connection: &Connection,
    head: &Head,
    product: &ProductId,
    at: &Position,
) -> Result<i64, Abort<Rejection>> {
    let unknown = || Abort::Refused(Rejection::UnknownPosition);
    if at.store != ledger::store_id(connection)? || at.at > head.cursor.id() {
        return Err(unknown());
    }
    let known: Option<i64> = connection
        .prepare_cached("select 1 from ledger where epoch = ?1 and seq = ?2")?
        .query_row(params![at.at.epoch, at.at.seq], |row| row.get(0))
        .optional()?;
    known.ok_or_else(unknown)?;
    Ok(connection
        .prepare_cached("select coalesce(sum(delta), 0) from ledger where product_id = ?1 and (epoch, seq) > (?2, ?3)")?
        .query_row(params![product.as_str(), at.at.epoch, at.at.seq], |row| row.get(0))?)
}
