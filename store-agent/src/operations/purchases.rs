//! Online purchases whose units left the shelf: staff picks them.

use protocol::domain::Rejection;
use protocol::ids::{OperationId, ProductId, PurchaseId};
use protocol::link::EntryId;
use protocol::time::Millis;
use protocol::wire::{About, Event, Fact, Kind, PurchaseRef};
use runtime::sqlite::{Abort, parsed};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::ledger;
use crate::operations::commands;

/// A row of `purchase`.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// Order in which the units left the shelf.
    pub number: i64,
    /// The attempt, as central knows it.
    pub reference: PurchaseRef,
    /// `confirmed` or `cancelled`.
    pub is_cancelled: bool,
    /// When the store decided.
    pub settled_at: Millis,
    /// When staff picked it.
    pub picked_at: Option<Millis>,
}

/// Columns of a purchase, in the order that [`Purchase::read`] expects.
pub const COLUMNS: &str = "number, purchase_id, attempt, product_id, quantity, status, reference, created_at, \
     expires_at, settled_at, picked_at";

impl Purchase {
    /// Reads [`COLUMNS`].
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let reference = PurchaseRef {
            purchase_id: parsed(row, 1)?,
            attempt: parsed(row, 2)?,
            product_id: parsed(row, 3)?,
            quantity: row.get(4)?,
            reference: row.get(6)?,
            created_at: Millis(row.get(7)?),
            expires_at: Millis(row.get(8)?),
        };
        Ok(Self {
            number: row.get(0)?,
            reference,
            is_cancelled: row.get_ref(5)?.as_str()? == "cancelled",
            settled_at: Millis(row.get(9)?),
            picked_at: row.get::<_, Option<i64>>(10)?.map(Millis),
        })
    }
}

/// One purchase.
pub fn find(connection: &Connection, id: PurchaseId) -> rusqlite::Result<Option<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from purchase where purchase_id = ?1"))?
        .query_row([id.to_string()], Purchase::read)
        .optional()
}

/// Its units have left the shelf.
pub(crate) fn confirm(connection: &Connection, purchase: &PurchaseRef, now: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert or replace into purchase (purchase_id, attempt, product_id, quantity, status, reference, \
             created_at, expires_at, settled_at) values (?1, ?2, ?3, ?4, 'confirmed', ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            purchase.purchase_id.to_string(),
            purchase.attempt.as_str(),
            purchase.product_id.as_str(),
            purchase.quantity,
            purchase.reference,
            purchase.created_at.0,
            purchase.expires_at.0,
            now.0,
        ])?;
    Ok(())
}

/// Its units are back.
pub(crate) fn cancel(connection: &Connection, id: PurchaseId, now: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update purchase set status = 'cancelled', settled_at = ?2 where purchase_id = ?1")?
        .execute(params![id.to_string(), now.0])?;
    Ok(())
}

/// Staff has picked it.
pub(crate) fn set_picked(connection: &Connection, id: PurchaseId, at: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update purchase set picked_at = ?2 where purchase_id = ?1")?
        .execute(params![id.to_string(), at.0])?;
    Ok(())
}

/// What picking did.
#[derive(Debug, Clone)]
pub struct Picked {
    /// The purchase after it.
    pub purchase: Purchase,
    /// Where it is recorded; none: it had been picked before.
    pub position: Option<EntryId>,
}

/// Staff has picked it: it can no longer be cancelled. `None`: there is no such purchase.
pub fn pick(
    connection: &Connection,
    id: PurchaseId,
    operation: &OperationId,
    about: &About,
    now: Millis,
) -> Result<Option<Picked>, Abort<Rejection>> {
    let Some(mut purchase) = find(connection, id)? else { return Ok(None) };
    if purchase.is_cancelled {
        return Err(Abort::Refused(Rejection::PurchaseCancelled));
    }
    if purchase.picked_at.is_some() {
        return Ok(Some(Picked { purchase, position: None }));
    }
    set_picked(connection, id, now)?;
    purchase.picked_at = Some(now);
    commands::mark_picked(connection, &purchase.reference.attempt)?;
    let mut head = ledger::head(connection)?;
    let product: ProductId = purchase.reference.product_id.clone();
    let mut fact = Fact::new(product.clone(), now);
    fact.item = ledger::find_item(connection, &product)?;
    fact.about = about.clone();
    fact.purchase = Some(purchase.reference.clone());
    let event = Event::Fact(Kind::PurchasePicked, fact);
    let entry = ledger::append(connection, &mut head, operation, &event, now)?;
    ledger::save_head(connection, &head)?;
    Ok(Some(Picked { purchase, position: Some(entry.id) }))
}
