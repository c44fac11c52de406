//! Rows of `purchase`: what central has promised to buyers.

use protocol::domain::Lines;
use protocol::ids::{OperationId, PurchaseId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::promise::policy::Policy;
use protocol::promise::purchase::{Life, Status};
use protocol::time::Millis;
use protocol::wire::{Position, PurchaseRef};
use runtime::sqlite::{lines_at, parsed, several};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// A row of `purchase`.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// Order in which it was asked.
    pub number: i64,
    pub id: PurchaseId,
    /// At which store.
    pub store: StoreId,
    /// All of it, or nothing.
    pub lines: Lines,
    /// The command that carries it.
    pub attempt: OperationId,
    /// Where it is in its life.
    pub status: Status,
    /// Why it was not confirmed, or how it ended.
    pub code: Option<String>,
    /// The shop's order number.
    pub reference: Option<String>,
    /// The shop's customer; never leaves central.
    pub customer: Option<String>,
    /// When it was asked.
    pub created_at: Millis,
    /// End of its time to live.
    pub expires_at: Millis,
    /// When its cancellation was asked for.
    pub cancel_requested_at: Option<Millis>,
    /// When its outcome was applied.
    pub settled_at: Option<Millis>,
    /// When staff picked it.
    pub picked_at: Option<Millis>,
    /// The store's position of its outcome.
    pub position: Option<Position>,
    /// How its store is chosen, if the shop did not name it.
    pub choice: Option<Choice>,
}

/// What is known of a purchase whose store central chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// By what; none: central was set back, and asks no other store.
    pub policy: Option<Policy>,
    /// No attempt is executed later, by Redis's clock. Without a policy nothing depends on it.
    pub deadline: Millis,
    /// Stores that have refused, in order.
    pub refused: Vec<Attempt>,
    /// The last of these is the store that the purchase names, and no other one is asked yet.
    pub seeking: bool,
}

/// A store that has refused a purchase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    #[serde(rename = "storeId")]
    pub store: StoreId,
    /// Why.
    pub code: String,
    pub at: Millis,
}

/// Columns of a purchase, in the order that [`Purchase::read`] expects.
pub const COLUMNS: &str = "number, purchase_id, store_id, product_id, quantity, attempt, status, code, reference, \
     customer_id, created_at, expires_at, cancel_requested_at, settled_at, picked_at, position, policy, deadline, \
     refused, seeking, lines";

impl Purchase {
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Millis));
        Ok(Self {
            number: row.get(0)?,
            id: parsed(row, 1)?,
            store: parsed(row, 2)?,
            lines: lines_at(row, 3, 4, 20)?,
            attempt: OperationId::parse(row.get_ref(5)?.as_str()?).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, Box::new(error))
            })?,
            status: parsed(row, 6)?,
            code: row.get(7)?,
            reference: row.get(8)?,
            customer: row.get(9)?,
            created_at: Millis(row.get(10)?),
            expires_at: Millis(row.get(11)?),
            cancel_requested_at: time(12)?,
            settled_at: time(13)?,
            picked_at: time(14)?,
            position: row.get::<_, Option<String>>(15)?.and_then(|text| text.parse().ok()),
            choice: Choice::read(row, 16)?,
        })
    }

    /// The attempt as it travels.
    pub fn attempt_ref(&self) -> PurchaseRef {
        PurchaseRef {
            from_allotment: None,
            purchase_id: self.id,
            attempt: self.attempt.clone(),
            lines: self.lines.clone(),
            reference: self.reference.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }

    /// What decides about it.
    pub fn life(&self) -> Life {
        Life {
            status: self.status,
            cancel_requested: self.cancel_requested_at.is_some(),
            picked: self.picked_at.is_some(),
            // Whatever else cancels one says where the store said so.
            voided: self.status == Status::Cancelled
                && self.code.as_deref() == Some("store_retired")
                && self.position.is_none(),
            is_chosen: self.choice.is_some(),
            seeking: self.choice.as_ref().is_some_and(|choice| choice.seeking),
            // Whatever else confirms one says where the store said so.
            sold: self.status == Status::Confirmed && self.position.is_none(),
        }
    }
}

impl Choice {
    fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Self>> {
        let Some(refused) = row.get_ref(first + 2)?.as_str_or_null()? else { return Ok(None) };
        let refused = serde_json::from_str(refused).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(first + 2, rusqlite::types::Type::Text, Box::new(error))
        })?;
        let has_policy = row.get_ref(first)?.as_str_or_null()?.is_some();
        let policy = if has_policy { Some(parsed(row, first)?) } else { None };
        Ok(Some(Self { policy, deadline: Millis(row.get(first + 1)?), refused, seeking: row.get(first + 3)? }))
    }

    fn refused(&self) -> String {
        serde_json::to_string(&self.refused).expect("attempts serialise")
    }
}

pub fn find(connection: &Connection, id: PurchaseId) -> rusqlite::Result<Option<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from purchase where purchase_id = ?1"))?
        .query_row([id.to_string()], Purchase::read)
        .optional()
}

/// Records a purchase; its number is the next one.
pub fn insert(connection: &Connection, purchase: &Purchase) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into purchase (purchase_id, store_id, product_id, quantity, attempt, status, code, reference, \
             customer_id, created_at, expires_at, cancel_requested_at, settled_at, picked_at, position, policy, \
             deadline, refused, seeking, lines) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            purchase.id.to_string(),
            purchase.store.as_str(),
            purchase.lines.first().product_id.as_str(),
            purchase.lines.first().quantity.get(),
            purchase.attempt.as_str(),
            purchase.status.as_str(),
            purchase.code,
            purchase.reference,
            purchase.customer,
            purchase.created_at.0,
            purchase.expires_at.0,
            purchase.cancel_requested_at.map(|at| at.0),
            purchase.settled_at.map(|at| at.0),
            purchase.picked_at.map(|at| at.0),
            purchase.position.as_ref().map(ToString::to_string),
            purchase.choice.as_ref().and_then(|choice| choice.policy).map(Policy::as_str),
            purchase.choice.as_ref().map(|choice| choice.deadline.0),
            purchase.choice.as_ref().map(Choice::refused),
            purchase.choice.as_ref().is_some_and(|choice| choice.seeking),
            several(&purchase.lines),
        ])?;
    save_pending_lines(connection, purchase)
}

/// Saves what has become of a purchase: the columns that a transition changes.
pub fn save_transition(connection: &Connection, purchase: &Purchase) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "update purchase set status = ?2, code = ?3, cancel_requested_at = ?4, settled_at = ?5, picked_at = ?6, \
             position = ?7 where purchase_id = ?1",
        )?
        .execute(params![
            purchase.id.to_string(),
            purchase.status.as_str(),
            purchase.code,
            purchase.cancel_requested_at.map(|at| at.0),
            purchase.settled_at.map(|at| at.0),
            purchase.picked_at.map(|at| at.0),
            purchase.position.as_ref().map(ToString::to_string),
        ])?;
    purchase.choice.as_ref().map_or(Ok(()), |choice| save_choice(connection, purchase, choice))?;
    save_pending_lines(connection, purchase)
}

/// Of a purchase of several lines: what is pending of those behind the first, and where.
fn save_pending_lines(connection: &Connection, purchase: &Purchase) -> rusqlite::Result<()> {
    if purchase.lines.only().is_some() || (purchase.status != Status::Pending && planted(Bug::PendingLinesLeft)) {
        return Ok(());
    }
    let id = purchase.id.to_string();
    connection.prepare_cached("delete from pending_line where purchase_id = ?1")?.execute([&id])?;
    if purchase.status != Status::Pending {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "insert into pending_line (store_id, product_id, purchase_id, quantity) values (?1, ?2, ?3, ?4)",
    )?;
    for line in purchase.lines.iter().skip(1) {
        insert.execute(params![purchase.store.as_str(), line.product_id.as_str(), id, line.quantity.get()])?;
    }
    Ok(())
}

/// Which store central has chosen. Of others the store stays, and no index need be touched for it.
fn save_choice(connection: &Connection, purchase: &Purchase, choice: &Choice) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "update purchase set store_id = ?2, attempt = ?3, refused = ?4, seeking = ?5 where purchase_id = ?1",
        )?
        .execute(params![
            purchase.id.to_string(),
            purchase.store.as_str(),
            purchase.attempt.as_str(),
            choice.refused(),
            choice.seeking,
        ])?;
    Ok(())
}

/// Central was set back: what it had asked other stores for is not known, so no other one is asked for what is pending.
pub fn ask_nobody_else(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update purchase set policy = null where status = 'pending' and refused is not null")?
        .execute([])?;
    Ok(())
}

/// Purchases that seek another store, in the order asked, behind a number.
pub fn seeking(connection: &Connection, behind: i64, limit: usize) -> rusqlite::Result<Vec<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} {SEEKING} limit ?2"))?
        .query_map(params![behind, limit], Purchase::read)?
        .collect()
}

/// What turns are taken for: the products, whatever is wanted of each.
fn products(lines: &Lines) -> String {
    let ids: Vec<&str> = lines.iter().map(|line| line.product_id.as_str()).collect();
    ids.join(" ")
}

/// Who was asked last for these products by turns.
pub fn last_turn(connection: &Connection, lines: &Lines) -> rusqlite::Result<Option<StoreId>> {
    connection
        .prepare_cached("select store_id from policy_turn where products = ?1")?
        .query_row([products(lines)], |row| parsed(row, 0))
        .optional()
}

pub fn save_turn(connection: &Connection, lines: &Lines, store: &StoreId, now: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into policy_turn (products, store_id, at) values (?1, ?2, ?3) \
             on conflict (products) do update set store_id = excluded.store_id, at = excluded.at",
        )?
        .execute((products(lines), store.as_str(), now.0))?;
    Ok(())
}

const PENDING: &str = "from purchase indexed by purchase_open where store_id = ?1 and status = 'pending'";
const VOIDED: &str = "from purchase indexed by purchase_voided \
     where store_id = ?1 and code = 'store_retired' and position is null order by number";
const SEEKING: &str = "from purchase indexed by purchase_seeking where seeking = 1 and number > ?1 order by number";
const OPEN: &str = "select count(*), count(*) filter (where expires_at < ?2) from purchase indexed by purchase_open \
     where store_id = ?1 and status = 'pending'";

/// A store's pending purchases.
pub fn pending(connection: &Connection, store: &StoreId) -> rusqlite::Result<Vec<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} {PENDING}"))?
        .query_map([store.as_str()], Purchase::read)?
        .collect()
}

/// Purchases that retiring a store has ended, and that the store has not answered since, in the order asked.
pub fn voided(connection: &Connection, store: &StoreId) -> rusqlite::Result<Vec<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} {VOIDED}"))?
        .query_map([store.as_str()], Purchase::read)?
        .collect()
}

/// How many of a store's purchases are pending, and how many of these are overdue.
pub fn open(connection: &Connection, store: &StoreId, now: Millis) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(OPEN)?.query_row((store.as_str(), now.0), |row| Ok((row.get(0)?, row.get(1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan};

    #[test]
    fn open_purchases_are_found_without_reading_those_that_ended() {
        let connection = database();
        for sql in [
            OPEN,
            &format!("select number {PENDING}"),
            &format!("select number {VOIDED}"),
            &format!("select number {SEEKING}"),
        ] {
            let plan = plan(&connection, sql);
            assert!(plan.starts_with("SEARCH") && !plan.contains("SCAN"), "{sql}: {plan}");
        }
        let agent = Agent::settled("s1", &connection);
        agent.buy(&connection, 1);
        assert_eq!(open(&connection, &agent.id, NOW).expect("reads"), (1, 0));
        assert_eq!(open(&connection, &agent.id, NOW.plus(60_001)).expect("reads"), (1, 1));
    }
}
