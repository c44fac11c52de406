//! The command link's log and the requests in it: what central asks of a store, in order, and the epochs it is sent in
//! (L8).
//!
//! A command is a *request* that outlives epochs, and an *entry* of the log for each epoch in which it was sent. A
//! request leaves the pending state only by the store's answer, or because the store was retired.

use std::cell::Cell;

use protocol::domain::{Lines, Rejection};
use protocol::hash::Hash;
use protocol::ids::{OperationId, ProductId, PurchaseId, ReservationId, StoreId, TransferId};
use protocol::link::{Commands, Cursor, Entry, EntryId, Seq};
use protocol::number::CommandEpoch;
use protocol::planted::{Bug, planted};
use protocol::promise::request::Status;
use protocol::time::Millis;
use protocol::wire::{Command, Outcome, Position};
use rusqlite::{Connection, OptionalExtension, params};

use crate::storage::allotments;
use crate::storage::stores::Store;
use runtime::sqlite::{HashColumn, cursor_at, number_at, parsed};

/// Requests of one store that may be unanswered: what a new command epoch repeats and what retiring ends is done in one
/// transaction.
const UNANSWERED_MAX: usize = 2_000;

/// Whether a store has so many requests to answer that it gets no more.
pub fn is_full(connection: &Connection, store: &StoreId) -> rusqlite::Result<bool> {
    has_to_answer(connection, store, UNANSWERED_MAX)
}

/// Whether a store has so many requests to answer, or more.
pub(crate) fn has_to_answer(connection: &Connection, store: &StoreId, many: usize) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "select exists (select 1 from request indexed by request_pending \
             where store_id = ?1 and status = 'pending' order by number limit 1 offset ?2)",
        )?
        .query_row(params![store.as_str(), many - 1], |row| row.get(0))
}

/// Batches of one store that may be unanswered. One may take 256 KiB, and each holds up the tills while the store does it.
const UNANSWERED_BATCHES_MAX: i64 = 16;
const UNANSWERED_BATCHES: &str = "select count(*) from request indexed by request_pending_by_type \
     where store_id = ?1 and type = 'batch' and status = 'pending'";

/// Whether a store has so many batches to answer that it gets no more of them.
pub fn is_full_of_batches(connection: &Connection, store: &StoreId) -> rusqlite::Result<bool> {
    let unanswered: i64 =
        connection.prepare_cached(UNANSWERED_BATCHES)?.query_row([store.as_str()], |row| row.get(0))?;
    Ok(unanswered >= if planted(Bug::OneBatchAtOnce) { 1 } else { UNANSWERED_BATCHES_MAX })
}

/// Asks the store for something: the request, and its entry in the log. Moves the store's command head.
pub fn append(
    connection: &Connection,
    store: &mut Store,
    id: &OperationId,
    command: &Command,
    now: Millis,
) -> rusqlite::Result<()> {
    let (product, purchase, reservation): (Option<&ProductId>, Option<PurchaseId>, Option<ReservationId>) =
        match command {
            Command::Purchase { purchase, .. } | Command::Cancel { purchase, .. } => {
                (purchase.lines.only().map(|line| &line.product_id), Some(purchase.purchase_id), None)
            }
            Command::Operate { product_id, .. } | Command::Release { product_id, .. } => (Some(product_id), None, None),
            Command::Reserve { reservation_id, .. } | Command::Reservation { reservation_id, .. } => {
                (None, None, Some(*reservation_id))
            }
            Command::Opened { .. }
            | Command::Batch { .. }
            | Command::Ship { .. }
            | Command::Announce { .. }
            | Command::ReceiveTransfer { .. }
            | Command::Resync => (None, None, None),
        };
    let transfer = match command {
        Command::Ship { transfer, .. } | Command::Announce { transfer } => Some(transfer.id),
        Command::ReceiveTransfer { transfer_id, .. } => Some(*transfer_id),
        Command::Opened { .. }
        | Command::Purchase { .. }
        | Command::Cancel { .. }
        | Command::Operate { .. }
        | Command::Batch { .. }
        | Command::Reserve { .. }
        | Command::Reservation { .. }
        | Command::Release { .. }
        | Command::Resync => None,
    };
    let body = command.encode();
    connection
        .prepare_cached(
            "insert into request (command_id, store_id, type, operation, body, status, product_id, purchase_id, \
             created_at, reservation_id, transfer_id) \
             values (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            id.as_str(),
            store.id.as_str(),
            command.kind(),
            name(command),
            body,
            product.map(ProductId::as_str),
            purchase.map(|id| id.to_string()),
            now.0,
            reservation.map(|id| id.to_string()),
            transfer.map(|id| id.to_string()),
        ])?;
    if let Command::Release { product_id, units } = command {
        allotments::take(connection, &store.id, product_id, id, (*units, 0))?;
    }
    if let Command::Purchase { purchase, deadline, .. } = command {
        for line in purchase.lines.iter() {
            let mut covered = purchase.from_allotment.iter().flat_map(Lines::iter);
            let covered = covered.find(|covered| covered.product_id == line.product_id);
            let units = covered.map_or(0, |covered| covered.quantity.get());
            let sold = if deadline.is_none() { line.quantity.get() } else { 0 };
            if units + sold > 0 {
                allotments::take(connection, &store.id, &line.product_id, id, (units, sold))?;
            }
        }
    }
    log(connection, store, id.as_str(), command.kind(), body, now)?;
    save_head(connection, store)
}

/// Forgets a request that was answered: it is to be asked anew.
pub(crate) fn forget(connection: &Connection, id: &OperationId) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from request where command_id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// What a client calls it.
fn name(command: &Command) -> &'static str {
    match command {
        Command::Operate { operation, .. } => operation.action().as_str(),
        Command::Reservation { act, .. } => act.name(),
        Command::Opened { .. }
        | Command::Purchase { .. }
        | Command::Cancel { .. }
        | Command::Batch { .. }
        | Command::Reserve { .. }
        | Command::Ship { .. }
        | Command::Announce { .. }
        | Command::ReceiveTransfer { .. }
        | Command::Release { .. }
        | Command::Resync => command.kind(),
    }
}

fn log(
    connection: &Connection,
    store: &mut Store,
    id: &str,
    kind: &str,
    body: String,
    now: Millis,
) -> rusqlite::Result<()> {
    let entry = Entry::follow(&store.command_head, kind, id, body, None);
    connection
        .prepare_cached(
            "insert into command (store_id, epoch, seq, command_id, type, body, hash, created_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            store.id.as_str(),
            entry.id.epoch.get(),
            entry.id.seq.get(),
            id,
            kind,
            entry.body,
            HashColumn(entry.hash),
            now.0,
        ])?;
    store.command_head = entry.cursor();
    Ok(())
}

/// A store's unanswered requests. The store's whole history must not be read for them, hence the index by name.
const PENDING: &str =
    "from request indexed by request_pending where store_id = ?1 and status = 'pending' order by number";
const CANCELS_OF_STORE: &str = "select command_id from request indexed by request_pending_by_purchase \
     where purchase_id = ?1 and type = 'cancel' and status = 'pending' and store_id = ?2";
const CREATING: &str = "select command_id, store_id from request indexed by request_pending_create \
     where product_id = ?1 and status = 'pending' and operation = 'create' limit 1";
const IS_RESYNC_ASKED: &str = "select exists (select 1 from request indexed by request_pending_by_type \
     where store_id = ?1 and type = 'resync' and status = 'pending')";

/// A request that the store has not answered.
#[derive(Debug, Clone)]
pub struct Unanswered {
    pub id: OperationId,
    /// Its type on the link.
    pub kind: String,
    /// Its body on the link.
    pub body: String,
    /// The product it is about.
    pub product: Option<ProductId>,
    /// The purchase it is about.
    pub purchase: Option<PurchaseId>,
    /// The reservation it is about.
    pub reservation: Option<ReservationId>,
    /// The transfer it is about.
    pub transfer: Option<TransferId>,
}

/// A store's unanswered requests, in the order asked.
pub fn unanswered(connection: &Connection, store: &StoreId) -> rusqlite::Result<Vec<Unanswered>> {
    connection
        .prepare_cached(&format!(
            "select command_id, type, body, product_id, purchase_id, reservation_id, transfer_id {PENDING}"
        ))?
        .query_map([store.as_str()], |row| {
            let has = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str_or_null()?.is_some());
            Ok(Unanswered {
                id: parsed(row, 0)?,
                kind: row.get(1)?,
                body: row.get(2)?,
                product: if has(3)? { Some(parsed(row, 3)?) } else { None },
                purchase: if has(4)? { Some(parsed(row, 4)?) } else { None },
                reservation: if has(5)? { Some(parsed(row, 5)?) } else { None },
                transfer: if has(6)? { Some(parsed(row, 6)?) } else { None },
            })
        })?
        .collect()
}

/// Begins the log anew in a greater command epoch, with these entries (id, type, body). Moves the store's command head.
pub fn begin_epoch(
    connection: &Connection,
    store: &mut Store,
    epoch: CommandEpoch,
    entries: impl IntoIterator<Item = (String, String, String)>,
    now: Millis,
) -> rusqlite::Result<()> {
    store.command_head = Cursor { epoch, seq: Seq::ZERO, hash: Hash::ZERO };
    connection
        .prepare_cached("update store set command_acked = 0 where store_id = ?1")?
        .execute([store.id.as_str()])?;
    for (id, kind, body) in entries {
        log(connection, store, &id, &kind, body, now)?;
    }
    save_head(connection, store)
}

/// Of the store's row what belongs to the command link: nothing else writes it.
fn save_head(connection: &Connection, store: &Store) -> rusqlite::Result<()> {
    let head = &store.command_head;
    connection
        .prepare_cached("update store set command_epoch = ?2, command_seq = ?3, command_hash = ?4 where store_id = ?1")?
        .execute(params![store.id.as_str(), head.epoch.get(), head.seq.get(), HashColumn(head.hash)])?;
    Ok(())
}

/// The log as the sender sees it.
pub struct Log<'a> {
    /// Where it is.
    pub connection: &'a Connection,
    pub store: &'a StoreId,
    /// Its head, read once: what is committed later is for the next step.
    pub head: Cursor<Commands>,
    /// The first read that failed: an entry that cannot be read must not pass for one that is gone.
    pub failed: Cell<Option<rusqlite::Error>>,
}

impl protocol::link::Log<Commands> for Log<'_> {
    fn head(&self) -> Cursor<Commands> {
        self.head
    }

    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        if seq == Seq::ZERO {
            return Some(Hash::ZERO);
        }
        if seq >= self.head.seq {
            return (seq == self.head.seq).then_some(self.head.hash);
        }
        let found = self
            .connection
            .prepare_cached("select hash from command where store_id = ?1 and epoch = ?2 and seq = ?3")
            .and_then(|mut statement| {
                statement
                    .query_row(params![self.store.as_str(), self.head.epoch.get(), seq.get()], |row| {
                        row.get::<_, HashColumn>(0)
                    })
                    .optional()
            });
        match found {
            Ok(hash) => hash.map(|hash| hash.0),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }

    fn content_at(&self, seq: Seq) -> Option<Hash> {
        if seq > self.head.seq {
            return None;
        }
        match entries(self.connection, self.store, self.head.epoch, seq, seq) {
            Ok(found) => found.first().map(Entry::content),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }
}

/// Head of a store's command log.
pub fn head(connection: &Connection, store: &StoreId) -> rusqlite::Result<Cursor<Commands>> {
    connection
        .prepare_cached("select command_epoch, command_seq, command_hash from store where store_id = ?1")?
        .query_row([store.as_str()], |row| cursor_at(row, 0))
        .optional()
        .map(Option::unwrap_or_default)
}

/// Entries `from` to `to` of an epoch.
pub fn entries(
    connection: &Connection,
    store: &StoreId,
    epoch: CommandEpoch,
    from: Seq,
    to: Seq,
) -> rusqlite::Result<Vec<Entry<Commands>>> {
    connection
        .prepare_cached(
            "select seq, type, command_id, body, hash from command \
             where store_id = ?1 and epoch = ?2 and seq between ?3 and ?4 order by seq",
        )?
        .query_map(params![store.as_str(), epoch.get(), from.get(), to.get()], |row| {
            Ok(Entry {
                id: EntryId { epoch, seq: number_at(row, 0)? },
                kind: row.get(1)?,
                operation: row.get(2)?,
                body: row.get(3)?,
                digest: None,
                hash: row.get::<_, HashColumn>(4)?.0,
            })
        })?
        .collect()
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub struct Request {
    /// Order in which it was asked.
    pub number: i64,
    pub id: OperationId,
    /// Of which store.
    pub store: StoreId,
    /// What was asked, as clients call it.
    pub operation: String,
    /// What became of it.
    pub status: Status,
    /// The product it is about.
    pub product: Option<String>,
    /// When it was asked.
    pub created_at: Millis,
    /// When the answer was applied.
    pub settled_at: Option<Millis>,
    pub outcome: Option<Outcome>,
    /// The store's position of the answer.
    pub position: Option<Position>,
}

/// Columns of a request, in the order that [`Request::read`] expects.
pub const COLUMNS: &str =
    "number, command_id, store_id, operation, status, product_id, created_at, settled_at, outcome, position";

impl Request {
    pub fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let outcome = row.get::<_, Option<String>>(8)?.map(|text| serde_json::from_str(&text)).transpose();
        let outcome = outcome.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(8, rusqlite::types::Type::Text, Box::new(error))
        })?;
        Ok(Self {
            number: row.get(0)?,
            id: parsed(row, 1)?,
            store: parsed(row, 2)?,
            operation: row.get(3)?,
            status: parsed(row, 4)?,
            product: row.get(5)?,
            created_at: Millis(row.get(6)?),
            settled_at: row.get::<_, Option<i64>>(7)?.map(Millis),
            outcome,
            position: row.get::<_, Option<String>>(9)?.and_then(|text| text.parse().ok()),
        })
    }
}

impl Request {
    /// Why it was not done.
    pub fn rejection(&self) -> Option<&Rejection> {
        self.outcome.as_ref()?.became.rejection()
    }
}

pub fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Request>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from request where command_id = ?1"))?
        .query_row([id], Request::read)
        .optional()
}

/// What a store was asked for.
pub fn command(connection: &Connection, id: &OperationId) -> rusqlite::Result<Option<Command>> {
    let found = connection
        .prepare_cached("select type, body from request where command_id = ?1")?
        .query_row([id.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    Ok(found.and_then(|(kind, body)| Command::decode(&kind, &body).ok()))
}

/// Commands of which the median round trip is taken.
const ROUND_TRIPS: usize = 20;
// What was ended without the store's word has no position.
const LAST_ROUND_TRIPS: &str = "select settled_at - created_at from (select settled_at, created_at, position \
     from request indexed by request_by_store where store_id = ?1 order by number desc limit ?2) \
     where position is not null";

/// How long a store takes to answer: the median over its last commands, ms. None: it has answered none of them.
pub fn round_trip_ms(connection: &Connection, store: &StoreId) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(LAST_ROUND_TRIPS)?;
    let rows = statement.query_map(params![store.as_str(), ROUND_TRIPS], |row| row.get(0))?;
    let mut found: Vec<i64> = rows.collect::<rusqlite::Result<_>>()?;
    found.sort_unstable();
    Ok(found.get(found.len() / 2).copied())
}

/// What an answer to a request has to know of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its type on the link.
    pub kind: String,
    /// The purchase it is about.
    pub purchase: Option<PurchaseId>,
    /// The reservation it is about.
    pub reservation: Option<ReservationId>,
    /// The transfer it is about.
    pub transfer: Option<TransferId>,
    /// What became of it.
    pub status: Status,
    /// Whether the store has answered it.
    pub is_answered: bool,
}

/// A request that is answered.
pub fn asked(connection: &Connection, id: &OperationId) -> rusqlite::Result<Option<Asked>> {
    connection
        .prepare_cached(
            "select type, purchase_id, status, position is not null, reservation_id, transfer_id from request \
             where command_id = ?1",
        )?
        .query_row([id.as_str()], |row| {
            let is_of_purchase = row.get_ref(1)?.as_str_or_null()?.is_some();
            let is_of_reservation = row.get_ref(4)?.as_str_or_null()?.is_some();
            let is_of_transfer = row.get_ref(5)?.as_str_or_null()?.is_some();
            Ok(Asked {
                kind: row.get(0)?,
                purchase: if is_of_purchase { Some(parsed(row, 1)?) } else { None },
                reservation: if is_of_reservation { Some(parsed(row, 4)?) } else { None },
                transfer: if is_of_transfer { Some(parsed(row, 5)?) } else { None },
                status: parsed(row, 2)?,
                is_answered: row.get(3)?,
            })
        })
        .optional()
}

/// Records the answer to a request. `position`: where the store said so; none: it was ended without the store's word.
/// Returns the products of whose allotment it took units, and does no more.
pub fn save_answer(
    connection: &Connection,
    id: &OperationId,
    status: Status,
    outcome: &Outcome,
    position: Option<&Position>,
    now: Millis,
) -> rusqlite::Result<Vec<ProductId>> {
    let outcome = serde_json::to_string(outcome).expect("an outcome serialises");
    connection
        .prepare_cached(
            "update request set status = ?2, outcome = ?3, position = ?4, settled_at = ?5 where command_id = ?1",
        )?
        .execute(params![id.as_str(), status.as_str(), outcome, position.map(ToString::to_string), now.0])?;
    allotments::free(connection, id)
}

/// The unanswered cancels of a purchase at a store.
pub fn unanswered_cancels(
    connection: &Connection,
    store: &StoreId,
    purchase: PurchaseId,
) -> rusqlite::Result<Vec<OperationId>> {
    connection
        .prepare_cached(CANCELS_OF_STORE)?
        .query_map([purchase.to_string().as_str(), store.as_str()], |row| parsed(row, 0))?
        .collect()
}

/// A store that was asked to create a product and has not answered, and by which command.
pub fn creating(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<(OperationId, StoreId)>> {
    connection
        .prepare_cached(CREATING)?
        .query_row([product.as_str()], |row| Ok((parsed(row, 0)?, parsed(row, 1)?)))
        .optional()
}

/// Whether a resync is still unanswered.
pub fn is_resync_asked(connection: &Connection, store: &StoreId) -> rusqlite::Result<bool> {
    connection.prepare_cached(IS_RESYNC_ASKED)?.query_row([store.as_str()], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan, product};
    use protocol::domain::{Guard, Item, Operation, Quantity};
    use protocol::wire::{About, BatchLine, Became, Event, Fact, Happened, ItemAfter, RefusedLine, Results};

    /// Central asked for five units of tea, the store took them in, and was retired before it could say so. Returns the
    /// command and the store's answer.
    fn retired_before_the_answer(connection: &Connection, agent: &Agent) -> (OperationId, Fact) {
        let id = OperationId::parse("more-tea").expect("valid");
        let command = Command::Operate {
            product_id: product("tea"),
            operation: Operation::Receive { quantity: Quantity::ONE },
            guard: Guard::default(),
            about: About::default(),
        };
        let mut store = agent.store(connection);
        append(connection, &mut store, &id, &command, NOW).expect("writes");
        crate::promises::stores::retire(connection, &mut store, NOW).expect("retires");
        let told = find(connection, id.as_str()).expect("reads").expect("is there");
        assert_eq!((told.status, told.position), (Status::Refused, None));
        let item = Item { name: "Tea".into(), quantity: 11, version: 2, ..Item::default() };
        let what = Happened::Received(ItemAfter { product_id: product("tea"), delta: 5, item });
        let done = Fact { command: Some(id.clone()), ..Fact::new(what, NOW) };
        (id, done)
    }

    fn assert_done(connection: &Connection, id: &OperationId) {
        let told = find(connection, id.as_str()).expect("reads").expect("is there");
        assert_eq!(told.status, Status::Done);
        assert_eq!(told.outcome.as_ref().and_then(|outcome| outcome.became.rejection()), None);
        assert!(told.position.is_some());
    }

    #[test]
    fn a_command_that_took_effect_before_its_store_was_retired_is_told_as_done_once_that_is_known() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let (id, done) = retired_before_the_answer(&connection, &agent);
        let late = agent.entry(&Event::Fact(done));
        let applied = agent.tell(&connection, &[late]);
        assert!(applied.saved.settled.contains(&id.to_string()), "whoever waits hears of it");
        assert_done(&connection, &id);
    }

    #[test]
    fn a_state_that_a_retired_store_comes_back_with_tells_the_truth_too() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let (id, done) = retired_before_the_answer(&connection, &agent);
        let mut store = agent.store(&connection);
        assert!(crate::promises::stores::adopt(&connection, &mut store, 7.into(), NOW).expect("can be judged"));
        let state = agent.state(done.outcome().into_iter().collect());
        agent.tell(&connection, &state);
        agent.settle_in(&connection);
        assert_done(&connection, &id);
    }

    #[test]
    fn a_store_that_answers_nothing_gets_no_more() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let mut store = agent.store(&connection);
        for number in 0..UNANSWERED_MAX {
            assert!(!is_full(&connection, &agent.id).expect("reads"), "{number}");
            let id = OperationId::parse(&format!("resync-{number}")).expect("valid");
            append(&connection, &mut store, &id, &Command::Resync, NOW).expect("writes");
        }
        assert!(is_full(&connection, &agent.id).expect("reads"));
        let other = Agent::settled("s2", &connection);
        assert!(!is_full(&connection, &other.id).expect("reads"));
    }

    fn batch() -> Command {
        let line = |quantity| BatchLine {
            product_id: product("tea"),
            operation: Operation::Receive { quantity },
            expected_version: None,
            reference: None,
            occurred_at: None,
        };
        Command::Batch { lines: vec![line(Quantity::ONE); 3], atomic: true, about: About::default() }
    }

    #[test]
    fn a_store_gets_few_batches_at_once() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let mut store = agent.store(&connection);
        for number in 0..UNANSWERED_BATCHES_MAX {
            assert!(!is_full_of_batches(&connection, &agent.id).expect("reads"), "{number}");
            let id = OperationId::parse(&format!("batch-{number}")).expect("valid");
            append(&connection, &mut store, &id, &batch(), NOW).expect("writes");
        }
        assert!(is_full_of_batches(&connection, &agent.id).expect("reads"));
        assert!(!is_full(&connection, &agent.id).expect("reads"), "of anything else");
    }

    #[test]
    fn the_stores_answer_to_a_batch_settles_it_and_is_kept_for_a_restore() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let mut store = agent.store(&connection);
        for (name, undone, status) in [("some", false, Status::Done), ("none", true, Status::Refused)] {
            let id = OperationId::parse(name).expect("valid");
            append(&connection, &mut store, &id, &batch(), NOW).expect("writes");
            let asked = find(&connection, name).expect("reads").expect("is there");
            assert_eq!((asked.status, asked.operation.as_str(), asked.product), (Status::Pending, "batch", None));
            let refused = vec![RefusedLine { index: 1, product_id: None, rejection: Rejection::UnknownProduct }];
            let results = Results { lines: 3, undone, refused };
            let outcome = Outcome { command: id.clone(), at: NOW, became: Became::Batch(results.clone()) };
            let told = agent.entry(&Event::OutcomeRepeated(outcome.clone()));
            assert!(
                agent.tell(&connection, &[told]).saved.settled.contains(&name.to_owned()),
                "whoever waits hears of it"
            );
            let told = find(&connection, name).expect("reads").expect("is there");
            assert_eq!(
                (told.status, told.outcome.as_ref().and_then(|kept| kept.became.results())),
                (status, Some(&results))
            );
            let kept = crate::storage::outcomes::find(&connection, &agent.id, &id).expect("reads");
            assert_eq!(kept, Some(outcome));
        }
    }

    #[test]
    fn what_is_unanswered_is_found_without_reading_what_was_answered() {
        let connection = database();
        let pending = format!("select command_id {PENDING}");
        for sql in [pending.as_str(), CANCELS_OF_STORE, CREATING, IS_RESYNC_ASKED, UNANSWERED_BATCHES] {
            let plan = plan(&connection, sql);
            assert!(plan.contains("request_pending") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
            assert!(!plan.contains("SCAN request"), "{sql}: {plan}");
        }
        let agent = Agent::settled("s1", &connection);
        agent.buy(&connection, 1);
        let id = crate::testing::purchase_id(1);
        assert_eq!(unanswered(&connection, &agent.id).expect("reads")[0].purchase, Some(id));
        assert_eq!(unanswered_cancels(&connection, &agent.id, id).expect("reads"), []);
        assert!(!is_resync_asked(&connection, &agent.id).expect("reads"));
    }
}
