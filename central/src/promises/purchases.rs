//! Online purchases: asked by the shop, settled by the store (rules B1 to B6).
//!
//! A purchase is `pending` until the store's answer is applied, then has one outcome for ever, but that a confirmed
//! one may be cancelled until it is picked. While it is pending its units are left out of `onlineAvailable`.

use protocol::domain::{Item, Rejection};
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Command, Kind, Position, PurchaseRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::promises::commands;
use crate::storage::items;
use crate::storage::outcomes;
use crate::storage::stores::Store;
use runtime::sqlite::parsed;

/// Where a purchase is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The store has not answered.
    Pending,
    /// The store took the units.
    Confirmed,
    /// The store could not.
    Rejected,
    /// The store heard of it too late.
    Expired,
    /// Cancelled; units that were taken are back.
    Cancelled,
}

impl Status {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = protocol::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Confirmed, Self::Rejected, Self::Expired, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| protocol::ids::Invalid(format!("no purchase status {text:?}")))
    }
}

/// A row of `purchase`.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// Order in which it was asked.
    pub number: i64,
    /// Which.
    pub id: PurchaseId,
    /// At which store.
    pub store: StoreId,
    /// What.
    pub product: ProductId,
    /// How many.
    pub quantity: i64,
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
}

/// Columns of a purchase, in the order that [`Purchase::read`] expects.
pub const COLUMNS: &str = "number, purchase_id, store_id, product_id, quantity, attempt, status, code, reference, \
     customer_id, created_at, expires_at, cancel_requested_at, settled_at, picked_at, position";

impl Purchase {
    /// Reads [`COLUMNS`].
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Millis));
        Ok(Self {
            number: row.get(0)?,
            id: parsed(row, 1)?,
            store: parsed(row, 2)?,
            product: parsed(row, 3)?,
            quantity: row.get(4)?,
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
        })
    }

    /// The attempt as it travels.
    pub fn attempt_ref(&self) -> PurchaseRef {
        PurchaseRef {
            purchase_id: self.id,
            attempt: self.attempt.clone(),
            product_id: self.product.clone(),
            quantity: self.quantity,
            reference: self.reference.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

/// One purchase.
pub fn find(connection: &Connection, id: PurchaseId) -> rusqlite::Result<Option<Purchase>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from purchase where purchase_id = ?1"))?
        .query_row([id.to_string()], Purchase::read)
        .optional()
}

/// What the shop asks for, and what was read before the transaction.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The new purchase's id.
    pub id: PurchaseId,
    /// What.
    pub product: ProductId,
    /// How many, 1 to a million.
    pub quantity: i64,
    /// The shop's customer.
    pub customer: Option<String>,
    /// Who asked, and the shop's order number.
    pub about: About,
    /// Time to live, ms.
    pub ttl_ms: i64,
    /// Redis's clock, read with the store's heartbeat (B1).
    pub redis_now: Millis,
}

/// B1: the purchase and its command, in one transaction.
pub fn begin(
    connection: &Connection,
    store: &mut Store,
    ask: &Ask,
    now: Millis,
) -> Result<(), runtime::sqlite::Abort<Rejection>> {
    use runtime::sqlite::Abort::Refused;
    let item = items::find(connection, &store.id, &ask.product)?.ok_or(Refused(Rejection::UnknownProduct))?;
    if item.discontinued {
        return Err(Refused(Rejection::Discontinued));
    }
    let pending = items::pending(connection, &store.id, &ask.product)?;
    if ask.quantity > items::online_available(&item, pending) {
        return Err(Refused(insufficient(&item, pending, ask.quantity)));
    }
    let attempt = OperationId::attempt(&ask.id, 1);
    let expires_at = now.plus(ask.ttl_ms);
    connection
        .prepare_cached(
            "insert into purchase (purchase_id, store_id, product_id, quantity, attempt, status, reference, \
             customer_id, created_at, expires_at) values (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            ask.id.to_string(),
            store.id.as_str(),
            ask.product.as_str(),
            ask.quantity,
            attempt.as_str(),
            ask.about.reference,
            ask.customer,
            now.0,
            expires_at.0,
        ])?;
    let purchase = PurchaseRef {
        purchase_id: ask.id,
        attempt: attempt.clone(),
        product_id: ask.product.clone(),
        quantity: ask.quantity,
        reference: ask.about.reference.clone(),
        created_at: now,
        expires_at,
    };
    let deadline = ask.redis_now.plus(ask.ttl_ms);
    let command = Command::Purchase { purchase, deadline, about: ask.about.clone() };
    commands::append(connection, store, &attempt, &command, now)?;
    Ok(())
}

fn insufficient(item: &Item, pending: i64, requested: i64) -> Rejection {
    Rejection::InsufficientStock {
        requested,
        quantity: item.quantity,
        reserved: item.reserved,
        allotted: item.allotted,
        available: items::online_available(item, pending),
    }
}

/// What a cancel did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// The store was asked, now or before, under this command.
    Asked(OperationId),
    /// It had ended before; nothing to do.
    Ended,
}

/// B5: asks the store to cancel, in order. From now on a pending purchase can never end `confirmed`.
pub fn cancel(
    connection: &Connection,
    store: &mut Store,
    purchase: &Purchase,
    id: OperationId,
    about: &About,
    now: Millis,
) -> Result<Cancelled, runtime::sqlite::Abort<Rejection>> {
    let forced = match purchase.status {
        Status::Pending => true,
        Status::Confirmed if purchase.picked_at.is_some() => {
            return Err(runtime::sqlite::Abort::Refused(Rejection::AlreadyPicked));
        }
        Status::Confirmed => false,
        Status::Rejected | Status::Expired | Status::Cancelled => return Ok(Cancelled::Ended),
    };
    if store.retired {
        return Err(runtime::sqlite::Abort::Refused(Rejection::StoreRetired));
    }
    if let Some(asked) = unanswered_cancel(connection, purchase.id)? {
        return Ok(Cancelled::Asked(asked));
    }
    if planted(Bug::CancelOutOfOrder) && forced {
        connection
            .execute("update purchase set status = 'cancelled' where purchase_id = ?1", [purchase.id.to_string()])?;
        return Ok(Cancelled::Ended);
    }
    connection
        .prepare_cached("update purchase set cancel_requested_at = ?2 where purchase_id = ?1")?
        .execute(params![purchase.id.to_string(), now.0])?;
    let command = Command::Cancel { purchase: purchase.attempt_ref(), forced, about: about.clone() };
    commands::append(connection, store, &id, &command, now)?;
    Ok(Cancelled::Asked(id))
}

const UNANSWERED_CANCEL: &str = "select command_id from request indexed by request_pending_by_purchase \
     where purchase_id = ?1 and type = 'cancel' and status = 'pending' order by number limit 1";

fn unanswered_cancel(connection: &Connection, id: PurchaseId) -> rusqlite::Result<Option<OperationId>> {
    connection
        .prepare_cached(UNANSWERED_CANCEL)?
        .query_row([id.to_string()], |row| row.get::<_, String>(0))
        .optional()
        .map(|found| found.and_then(|text| OperationId::parse(&text).ok()))
}

/// The store's word on an attempt.
#[derive(Debug, Clone)]
pub struct Answer<'a> {
    /// The attempt.
    pub purchase: &'a PurchaseRef,
    /// What the store says of it.
    pub kind: Kind,
    /// Why not.
    pub rejection: Option<&'a Rejection>,
    /// Picked by staff, as far as the answer says.
    pub picked: bool,
    /// Where the store said so.
    pub position: &'a Position,
}

/// B3, B5, B6: applies the store's word, in the transaction that applies it to the view. Says whether the purchase has
/// moved.
pub fn settle(connection: &Connection, store: &mut Store, answer: &Answer<'_>, now: Millis) -> rusqlite::Result<bool> {
    let Some(purchase) = find(connection, answer.purchase.purchase_id)? else {
        recreate(connection, store, answer)?;
        find_and_end(connection, answer, now)?;
        return Ok(true);
    };
    let present = purchase.attempt == answer.purchase.attempt && purchase.store == store.id;
    match (answer.kind, purchase.status) {
        (Kind::PurchasePicked, _) if present => {
            connection
                .prepare_cached("update purchase set picked_at = coalesce(picked_at, ?2) where purchase_id = ?1")?
                .execute(params![purchase.id.to_string(), now.0])?;
            Ok(true)
        }
        // A cancel was asked for while it was pending, and follows in order: its answer ends the purchase, not this.
        (Kind::PurchaseConfirmed, Status::Pending)
            if present && purchase.cancel_requested_at.is_some() && !planted(Bug::ConfirmedAfterCancel) =>
        {
            Ok(false)
        }
        _ if planted(Bug::SettleTwice) && answer.kind != Kind::PurchasePicked => {
            find_and_end(connection, answer, now)?;
            Ok(true)
        }
        (
            Kind::PurchaseConfirmed | Kind::PurchaseRejected | Kind::PurchaseExpired | Kind::PurchaseCancelled,
            Status::Pending,
        ) if present => {
            find_and_end(connection, answer, now)?;
            Ok(true)
        }
        (Kind::PurchaseCancelled, Status::Confirmed) if present => {
            find_and_end(connection, answer, now)?;
            Ok(true)
        }
        (Kind::PurchaseConfirmed, Status::Confirmed) if present => Ok(false),
        // Retiring the store had ended it; that the store holds nothing of it is known now.
        (Kind::PurchaseRejected | Kind::PurchaseExpired | Kind::PurchaseCancelled, Status::Cancelled)
            if present && purchase.position.is_none() =>
        {
            connection
                .prepare_cached("update purchase set position = ?2 where purchase_id = ?1")?
                .execute(params![purchase.id.to_string(), answer.position.to_string()])?;
            Ok(false)
        }
        (Kind::PurchaseConfirmed, _) => {
            give_back(connection, store, answer.purchase, now)?;
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// B6: the store took units for a purchase that is settled otherwise: it shall give them back.
fn give_back(connection: &Connection, store: &mut Store, purchase: &PurchaseRef, now: Millis) -> rusqlite::Result<()> {
    if planted(Bug::NothingGivenBack) {
        return Ok(());
    }
    if commands::is_asked(connection, &store.id, "cancel", purchase.purchase_id)? {
        return Ok(());
    }
    // One such cancel for each time the store says so: named by where it stands in the log, hence never twice.
    let id = format!("{}:back:{}-{}", purchase.attempt, store.command_head.epoch, store.command_head.seq);
    let Ok(id) = OperationId::parse(&id) else { return Ok(()) };
    let command = Command::Cancel { purchase: purchase.clone(), forced: true, about: About::default() };
    commands::append(connection, store, &id, &command, now)
}

/// A retired store is back: it may have taken units for purchases that retiring has ended, and the answer that said so may
/// have come before, waiting for that of a cancel which was ended, too.
pub fn ask_back(connection: &Connection, store: &mut Store, now: Millis) -> rusqlite::Result<()> {
    let ended: Vec<Purchase> = connection
        .prepare_cached(&format!("select {COLUMNS} {VOIDED}"))?
        .query_map([store.id.as_str()], Purchase::read)?
        .collect::<rusqlite::Result<_>>()?;
    ended.iter().try_for_each(|purchase| give_back(connection, store, &purchase.attempt_ref(), now))
}

const VOIDED: &str = "from purchase indexed by purchase_voided \
     where store_id = ?1 and code = 'store_retired' and position is null order by number";

/// B3: a reply to a purchase that central no longer knows makes it known again.
fn recreate(connection: &Connection, store: &Store, answer: &Answer<'_>) -> rusqlite::Result<()> {
    let purchase = answer.purchase;
    connection
        .prepare_cached(
            "insert into purchase (purchase_id, store_id, product_id, quantity, attempt, status, reference, \
             created_at, expires_at) values (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?7, ?8)",
        )?
        .execute(params![
            purchase.purchase_id.to_string(),
            store.id.as_str(),
            purchase.product_id.as_str(),
            purchase.quantity,
            purchase.attempt.as_str(),
            purchase.reference,
            purchase.created_at.0,
            purchase.expires_at.0,
        ])?;
    Ok(())
}

fn find_and_end(connection: &Connection, answer: &Answer<'_>, now: Millis) -> rusqlite::Result<()> {
    let late = planted(Bug::ExpiryByTimeAlone) && answer.purchase.expires_at < now;
    let (status, code) = match answer.kind {
        Kind::PurchaseConfirmed if late => (Status::Expired, Some("purchase_expired")),
        Kind::PurchaseConfirmed | Kind::PurchasePicked => (Status::Confirmed, None),
        Kind::PurchaseExpired => (Status::Expired, Some("purchase_expired")),
        Kind::PurchaseCancelled => (Status::Cancelled, Some("purchase_cancelled")),
        _ => (Status::Rejected, Some(answer.rejection.map_or("insufficient_stock", Rejection::code))),
    };
    let picked = answer.picked || answer.kind == Kind::PurchasePicked;
    connection
        .prepare_cached(
            "update purchase set status = ?2, code = ?3, settled_at = ?4, position = ?5, \
             picked_at = coalesce(picked_at, ?6) where purchase_id = ?1",
        )?
        .execute(params![
            answer.purchase.purchase_id.to_string(),
            status.as_str(),
            code,
            now.0,
            answer.position.to_string(),
            picked.then_some(now.0),
        ])?;
    Ok(())
}

/// The store refused a command that was about a purchase, if it was: the purchase goes on, or ends. Returns which.
///
/// A cancel is refused because it was picked, or because the store's version does not understand it: then the purchase's
/// own outcome stands, and it may be asked about again. A purchase is refused like this only if it was not understood.
pub fn command_refused(
    connection: &Connection,
    store: &Store,
    command: &OperationId,
    rejection: Option<&Rejection>,
    position: &Position,
    now: Millis,
) -> rusqlite::Result<Option<PurchaseId>> {
    let asked: Option<(String, PurchaseId)> = connection
        .prepare_cached("select type, purchase_id from request where command_id = ?1 and purchase_id is not null")?
        .query_row([command.as_str()], |row| Ok((row.get(0)?, parsed(row, 1)?)))
        .optional()?;
    let Some((kind, id)) = asked else { return Ok(None) };
    let Some(purchase) = find(connection, id)? else { return Ok(None) };
    let end = |kind, rejection| {
        let purchase = purchase.attempt_ref();
        find_and_end(connection, &Answer { purchase: &purchase, kind, rejection, picked: false, position }, now)
    };
    if kind == "purchase" {
        if purchase.status == Status::Pending {
            end(Kind::PurchaseRejected, rejection)?;
        }
        return Ok(Some(id));
    }
    connection
        .prepare_cached("update purchase set cancel_requested_at = null where purchase_id = ?1")?
        .execute([id.to_string()])?;
    // Its own reply came before and waited for that of the cancel.
    let replied = outcomes::find(connection, &store.id, &purchase.attempt)?;
    if let (Status::Pending, Some(Kind::PurchaseConfirmed)) = (purchase.status, replied.map(|replied| replied.kind)) {
        end(Kind::PurchaseConfirmed, None)?;
    }
    Ok(Some(id))
}

/// The cancel of a confirmed one was ended without an answer: it stands, and may be asked about again.
pub fn forget_cancel(connection: &Connection, id: PurchaseId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "update purchase set cancel_requested_at = null where purchase_id = ?1 and status = 'confirmed'",
        )?
        .execute([id.to_string()])?;
    Ok(())
}

const PENDING: &str =
    "select purchase_id from purchase indexed by purchase_open where store_id = ?1 and status = 'pending'";
const OPEN: &str = "select count(*), count(*) filter (where expires_at < ?2) from purchase indexed by purchase_open \
     where store_id = ?1 and status = 'pending'";

/// How many of a store's purchases are pending, and how many of these are overdue.
pub fn open(connection: &Connection, store: &StoreId, now: Millis) -> rusqlite::Result<(i64, i64)> {
    connection.prepare_cached(OPEN)?.query_row((store.as_str(), now.0), |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Ends all open purchases of a store that an operator has retired. Returns their ids.
pub fn void(connection: &Connection, store: &StoreId, now: Millis) -> rusqlite::Result<Vec<String>> {
    let ids: Vec<String> = connection
        .prepare_cached(PENDING)?
        .query_map([store.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &ids {
        connection
            .prepare_cached(
                "update purchase set status = 'cancelled', code = 'store_retired', settled_at = ?2 \
                 where purchase_id = ?1",
            )?
            .execute(params![id, now.0])?;
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan};

    #[test]
    fn open_purchases_are_found_without_reading_those_that_ended() {
        let connection = database();
        for sql in [UNANSWERED_CANCEL, OPEN, PENDING, &format!("select number {VOIDED}")] {
            let plan = plan(&connection, sql);
            assert!(plan.starts_with("SEARCH") && !plan.contains("SCAN"), "{sql}: {plan}");
        }
        let agent = Agent::settled("s1", &connection);
        agent.buy(&connection, 1);
        assert_eq!(open(&connection, &agent.id, NOW).expect("reads"), (1, 0));
        assert_eq!(open(&connection, &agent.id, NOW.plus(60_001)).expect("reads"), (1, 1));
    }
}
