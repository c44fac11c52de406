//! What central knows of a store: where its two links stand, and what operators decided.

use protocol::hash::Digest;
use protocol::ids::StoreId;
use protocol::link::{Ack, Cursor, EntryId, Known, Past};
use protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::storage::stocks;
use runtime::sqlite::{DigestColumn, HashColumn, cursor_at, parsed};

/// Earlier epochs of a store that are kept, the newest; the ledger itself tells of all that central has applied.
const LINEAGE_MAX: usize = 1_000;

/// What the last comparison of digests said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestState {
    /// Not compared in this epoch yet.
    Unknown,
    /// View and store are the same.
    Equal,
    /// They differ; a resync was asked for.
    Different,
}

impl DigestState {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Equal => "equal",
            Self::Different => "different",
        }
    }
}

/// A row of `store`.
#[derive(Debug, Clone)]
pub struct Store {
    /// Whose.
    pub id: StoreId,
    /// When central first heard of it.
    pub first_seen_at: Millis,
    /// Events applied up to here.
    pub cursor: Cursor,
    /// An epoch that was refused; 0: none.
    pub fenced: u64,
    /// An epoch that an operator said to adopt.
    pub adopt: Option<u64>,
    /// The view's own digest.
    pub digest: Digest,
    /// What the last comparison said.
    pub digest_state: DigestState,
    /// An epoch's opening state is arriving.
    pub opening: bool,
    /// Some opening has arrived in full.
    pub complete: bool,
    /// Where the view stands.
    pub state: Cursor,
    /// Central's time of the last look after which everything known was applied.
    pub as_of: Millis,
    /// Head of the command log.
    pub command_head: Cursor,
    /// Commands acknowledged by the store, of the present command epoch.
    pub command_acked: u64,
    /// The command epoch that the store is ready for.
    pub ready_epoch: u64,
    /// The digests differed, or an entry was not understood and no later one has shown that it changed no stock.
    pub suspect: bool,
    /// When a resync was last asked for.
    pub resync_at: Option<Millis>,
    /// Whether it may sell online at all.
    pub online_sale: bool,
    /// Taken out of the chain.
    pub retired: bool,
    /// The [stock](crate::storage::stocks) that is shown.
    pub stock: i64,
    /// The stock that is arriving; 0: none.
    pub staged: i64,
    /// Outcomes that came with the stock are still to be settled; entries wait until then.
    pub installing: bool,
    /// Something is left to be done in [steps](crate::projection::steps).
    pub steps: bool,
    /// The first page of the snapshot that was installed last: the ledger is replayed from there.
    pub base: EntryId,
}

const COLUMNS: &str = "store_id, first_seen_at, epoch, seq, hash, fenced, adopt, digest, digest_state, opening, complete, \
     state_epoch, state_seq, state_hash, as_of, command_epoch, command_seq, command_hash, command_acked, ready_epoch, \
     suspect, resync_at, online_sale, retired, stock, staged, installing, steps, base_epoch, base_seq";

impl Store {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let digest_state = match row.get_ref(8)?.as_str()? {
            "equal" => DigestState::Equal,
            "different" => DigestState::Different,
            _ => DigestState::Unknown,
        };
        Ok(Self {
            id: parsed(row, 0)?,
            first_seen_at: Millis(row.get(1)?),
            cursor: cursor_at(row, 2)?,
            fenced: row.get(5)?,
            adopt: row.get(6)?,
            digest: row.get::<_, DigestColumn>(7)?.0,
            digest_state,
            opening: row.get(9)?,
            complete: row.get(10)?,
            state: cursor_at(row, 11)?,
            as_of: Millis(row.get(14)?),
            command_head: cursor_at(row, 15)?,
            command_acked: row.get(18)?,
            ready_epoch: row.get(19)?,
            suspect: row.get(20)?,
            resync_at: row.get::<_, Option<i64>>(21)?.map(Millis),
            online_sale: row.get(22)?,
            retired: row.get(23)?,
            stock: row.get(24)?,
            staged: row.get(25)?,
            installing: row.get(26)?,
            steps: row.get(27)?,
            base: EntryId { epoch: row.get(28)?, seq: row.get(29)? },
        })
    }

    /// What the store is told of its events (L2). While it is retired its known epoch is fenced, whichever other one was
    /// refused.
    pub fn ack(&self) -> Ack {
        let fenced = if self.retired && self.cursor.epoch > 0 { self.cursor.epoch } else { self.fenced };
        Ack { cursor: self.cursor, fenced }
    }

    /// Epochs that some agent claims and central refuses: those that an operator may adopt. A store that was retired before
    /// it opened any is taken back under epoch 0.
    pub fn claims(&self) -> Vec<u64> {
        let mut claims: Vec<u64> = [self.ack().fenced, self.fenced].into_iter().filter(|epoch| *epoch != 0).collect();
        claims.dedup();
        if self.retired && claims.is_empty() {
            claims.push(0);
        }
        claims
    }

    /// Puts it in the chain again.
    pub fn take_back(&mut self) {
        self.steps |= self.retired;
        self.retired = false;
    }

    /// Whether its whole state is wanted: a digest differed, or an opening came with pages missing.
    pub fn wants_resync(&self) -> bool {
        self.digest_state == DigestState::Different && !self.retired
    }

    /// Whether it still has to say that it is ready for the present command epoch (L8).
    pub fn is_settling(&self) -> bool {
        self.opening || !self.complete || self.cursor.seq == 0 || self.ready_epoch != self.command_head.epoch
    }

    /// Writes back the event side and what operators decided. The command link's columns are written by
    /// [`commands`](crate::storage::commands) and [`store_command_acked`] alone, `as_of` by [`note_as_of`].
    pub fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "update store set epoch = ?2, seq = ?3, hash = ?4, fenced = ?5, adopt = ?6, digest = ?7, \
                 digest_state = ?8, opening = ?9, complete = ?10, state_epoch = ?11, state_seq = ?12, \
                 state_hash = ?13, ready_epoch = ?14, suspect = ?15, resync_at = ?16, online_sale = ?17, \
                 retired = ?18, stock = ?19, staged = ?20, installing = ?21, steps = ?22, base_epoch = ?23, \
                 base_seq = ?24 where store_id = ?1",
            )?
            .execute(params![
                self.id.as_str(),
                self.cursor.epoch,
                self.cursor.seq,
                HashColumn(self.cursor.hash),
                self.fenced,
                self.adopt,
                DigestColumn(self.digest),
                self.digest_state.as_str(),
                self.opening,
                self.complete,
                self.state.epoch,
                self.state.seq,
                HashColumn(self.state.hash),
                self.ready_epoch,
                self.suspect,
                self.resync_at.map(|at| at.0),
                self.online_sale,
                self.retired,
                self.stock,
                self.staged,
                self.installing,
                self.steps,
                self.base.epoch,
                self.base.seq,
            ])?;
        Ok(())
    }
}

/// One store, if central has heard of it.
pub fn find(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store where store_id = ?1"))?
        .query_row([id.as_str()], Store::read)
        .optional()
}

/// All stores, by id.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store order by store_id"))?
        .query_map([], Store::read)?
        .collect()
}

/// Up to `limit` of the stores that are wanted, by id, behind `after`, without the first `offset`.
pub fn after(
    connection: &Connection,
    after: Option<&str>,
    offset: usize,
    limit: usize,
    wanted: impl Fn(&Store) -> bool,
) -> rusqlite::Result<Vec<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store where store_id > ?1 order by store_id"))?
        .query_map([after.unwrap_or("")], Store::read)?
        .filter(|store| store.as_ref().map_or(true, &wanted))
        .skip(offset)
        .take(limit)
        .collect()
}

/// Stores that have something left to do in [steps](crate::projection::steps).
pub fn with_steps(connection: &Connection) -> rusqlite::Result<Vec<StoreId>> {
    connection
        .prepare_cached("select store_id from store indexed by store_with_steps where steps = 1 order by store_id")?
        .query_map([], |row| parsed(row, 0))?
        .collect()
}

/// Makes a store known: from now on it gets an ack, and its events are read.
pub fn discover(connection: &Connection, id: &StoreId, now: Millis) -> rusqlite::Result<()> {
    let is_new = connection
        .prepare_cached("insert or ignore into store (store_id, first_seen_at, steps) values (?1, ?2, 0)")?
        .execute(params![id.as_str(), now.0])?
        > 0;
    if is_new {
        let stock = stocks::first(connection, id)?;
        connection
            .prepare_cached("update store set stock = ?2 where store_id = ?1")?
            .execute(params![id.as_str(), stock])?;
    }
    Ok(())
}

/// Stores of which no event was ever applied.
pub fn count_unopened(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("select count(*) from store where epoch = 0")?.query_row([], |row| row.get(0))
}

/// Forgets a store of which no event was ever applied: all that hangs on it is an empty stock. `false`: there is more.
pub fn forget(connection: &Connection, id: &StoreId) -> rusqlite::Result<bool> {
    let unopened = connection
        .prepare_cached("select 1 from store where store_id = ?1 and epoch = 0 and command_epoch = 0")?
        .exists([id.as_str()])?;
    if unopened {
        connection.prepare_cached("delete from stock where store_id = ?1")?.execute([id.as_str()])?;
        connection.prepare_cached("delete from store where store_id = ?1")?.execute([id.as_str()])?;
    }
    Ok(unopened)
}

const OTHER_CASE: &str = "select store_id from store where store_id = ?1 collate nocase and store_id <> ?1 limit 1";

/// A known store whose id differs in case only.
pub fn other_case(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<StoreId>> {
    connection.prepare_cached(OTHER_CASE)?.query_row([id.as_str()], |row| parsed(row, 0)).optional()
}

/// From each epoch of the ledger to the next: a step for an epoch, not for an entry.
const EPOCHS: &str = "with recursive known (epoch) as (\
     select min(epoch) from event where store_id = ?1 union all \
     select (select min(event.epoch) from event where event.store_id = ?1 and event.epoch > known.epoch) from known \
     where known.epoch is not null) \
     select epoch from known where epoch is not null union select epoch from lineage where store_id = ?1";

/// What L7 needs to judge an opening.
pub fn known(connection: &Connection, store: &Store) -> rusqlite::Result<Known> {
    let mut epochs: Vec<u64> = connection
        .prepare_cached(EPOCHS)?
        .query_map([store.id.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    epochs.push(store.cursor.epoch);
    Ok(Known { cursor: store.cursor, epochs, adopt: store.adopt })
}

/// The last cursor of each earlier epoch.
pub fn lineage(connection: &Connection, id: &StoreId) -> rusqlite::Result<Vec<Cursor>> {
    connection
        .prepare_cached("select epoch, seq, hash from lineage where store_id = ?1 order by epoch")?
        .query_map([id.as_str()], |row| cursor_at(row, 0))?
        .collect()
}

/// A cursor at which an epoch was left.
pub fn add_to_lineage(connection: &Connection, id: &StoreId, past: &Cursor) -> rusqlite::Result<()> {
    connection
        .prepare_cached("insert or replace into lineage (store_id, epoch, seq, hash) values (?1, ?2, ?3, ?4)")?
        .execute(params![id.as_str(), past.epoch, past.seq, HashColumn(past.hash)])?;
    Ok(())
}

/// Replaces the lineage by that of an accepted opening, as far as it is kept.
pub fn set_lineage(connection: &Connection, id: &StoreId, lineage: &[Past]) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from lineage where store_id = ?1")?.execute([id.as_str()])?;
    let mut newest_first: Vec<&Past> = lineage.iter().collect();
    newest_first.sort_by_key(|past| std::cmp::Reverse(past.end.epoch));
    newest_first.into_iter().take(LINEAGE_MAX).try_for_each(|past| add_to_lineage(connection, id, &past.end))
}

/// Everything that the store is known to have recorded was applied by then.
pub fn note_as_of(connection: &Connection, id: &StoreId, at: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update store set as_of = ?2 where store_id = ?1")?
        .execute(params![id.as_str(), at.0])?;
    Ok(())
}

/// Remembers how far the store has acknowledged its commands: what lies below may be pruned in time.
pub fn store_command_acked(connection: &Connection, id: &StoreId, epoch: u64, seq: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update store set command_acked = ?3 where store_id = ?1 and command_epoch = ?2")?
        .execute(params![id.as_str(), epoch, seq])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::stores::{adopt as take_back, retire as take_out};
    use crate::storage::{commands, purchases};
    use crate::testing::{Agent, NOW, database, plan, purchase_id};
    use protocol::domain::Rejection;
    use protocol::promise::{purchase, request};

    fn retire(connection: &Connection, agent: &Agent) -> Vec<String> {
        let mut store = agent.store(connection);
        let ended = take_out(connection, &mut store, NOW).expect("retires");
        store.save(connection).expect("is saved");
        ended
    }

    fn adopt(connection: &Connection, agent: &Agent, epoch: u64) -> bool {
        let mut store = agent.store(connection);
        let adopted = take_back(connection, &mut store, epoch, NOW).expect("can be judged");
        store.save(connection).expect("is saved");
        adopted
    }

    fn commands_of(connection: &Connection, store: &Store) -> Vec<String> {
        let head = store.command_head;
        let entries = commands::entries(connection, &store.id, head.epoch, 1, head.seq).expect("can be read");
        entries.into_iter().map(|entry| entry.kind).collect()
    }

    #[test]
    fn retiring_ends_what_is_open_and_no_store_hears_of_it_again() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let ended = retire(&connection, &agent);
        assert!(ended.contains(&attempt.to_string()) && ended.contains(&purchase_id(1).to_string()), "{ended:?}");
        let request = commands::find(&connection, attempt.as_str()).expect("can be read").expect("is there");
        assert_eq!(request.status, request::Status::Refused);
        assert_eq!(request.outcome.and_then(|outcome| outcome.rejection), Some(Rejection::StoreRetired));
        let purchase = purchases::find(&connection, purchase_id(1)).expect("can be read").expect("is there");
        assert_eq!((purchase.status, purchase.code.as_deref()), (purchase::Status::Cancelled, Some("store_retired")));
        assert_eq!(commands_of(&connection, &agent.store(&connection)), ["opened"], "the purchase left the log");

        let before = agent.store(&connection).command_head.epoch;
        assert!(!adopt(&connection, &agent, 8), "nobody claims that");
        assert!(adopt(&connection, &agent, 7));
        let store = agent.store(&connection);
        assert!(!store.retired && store.ack().fenced == 0);
        assert!(store.command_head.epoch > before && store.is_settling(), "it answers before it sells");
        assert_eq!(commands_of(&connection, &store), ["opened", "cancel"], "whatever it took for us it gives back");
        agent.get_ready(&connection);
        assert!(!agent.store(&connection).is_settling());
    }

    #[test]
    fn a_retired_store_comes_back_by_an_operators_word_alone() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        retire(&connection, &agent);
        let lineage = [agent.head];
        let opening = agent.open(9, &lineage);
        assert!(agent.tell(&connection, &opening).stuck.is_some(), "its lineage alone is not enough");
        let store = agent.store(&connection);
        assert!(store.retired);
        assert_eq!((store.ack().fenced, store.claims()), (7, vec![7, 9]), "the old epoch stays fenced");
        assert!(adopt(&connection, &agent, 9));
        assert!(agent.store(&connection).retired, "until it opens");
        assert!(agent.tell(&connection, &opening).stuck.is_none());
        let store = agent.store(&connection);
        assert_eq!((store.retired, store.ack().fenced, store.cursor.epoch), (false, 0, 9));
        assert_eq!(
            crate::operators::verify::verify(&connection).expect("can be read").differences,
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_store_retired_before_it_was_ever_seen_can_be_adopted() {
        let connection = database();
        let mut agent = Agent::new("s1");
        discover(&connection, &agent.id, NOW).expect("is known");
        retire(&connection, &agent);
        assert_eq!(agent.store(&connection).claims(), [0]);
        assert!(adopt(&connection, &agent, 0), "a restore of its machine is refused until then");
        assert!(!agent.store(&connection).retired);
        retire(&connection, &agent);
        let opening = agent.open(7, &[]);
        assert!(agent.tell(&connection, &opening).stuck.is_some());
        assert_eq!(agent.store(&connection).ack().fenced, 7, "it is told");
        assert!(!adopt(&connection, &agent, 0), "now it has an epoch");
        assert!(adopt(&connection, &agent, 7));
        assert!(agent.tell(&connection, &opening).stuck.is_none());
        assert!(!agent.store(&connection).retired);
    }

    #[test]
    fn only_a_store_that_has_sent_nothing_is_forgotten() {
        let connection = database();
        let (opened, nobody, retired) = (Agent::settled("s1", &connection), Agent::new("s2"), Agent::new("s3"));
        for agent in [&nobody, &retired] {
            discover(&connection, &agent.id, NOW).expect("is known");
        }
        retire(&connection, &retired);
        assert_eq!(count_unopened(&connection).expect("reads"), 2);
        assert!(!forget(&connection, &opened.id).expect("can be judged"));
        for agent in [&nobody, &retired] {
            assert!(forget(&connection, &agent.id).expect("is forgotten"));
            assert!(!forget(&connection, &agent.id).expect("can be judged"), "it is no store any more");
            discover(&connection, &agent.id, NOW).expect("comes again");
        }
        assert_eq!(all(&connection).expect("reads").len(), 3);
    }

    #[test]
    fn pages_of_stores_begin_behind_a_store() {
        let connection = database();
        for id in ["a", "b", "c", "d"] {
            discover(&connection, &Agent::new(id).id, NOW).expect("is known");
        }
        let page = |behind, offset, limit, except: &str| -> Vec<String> {
            let found = after(&connection, behind, offset, limit, |store| store.id.as_str() != except);
            found.expect("reads").iter().map(|store| store.id.to_string()).collect()
        };
        assert_eq!(page(None, 0, 2, ""), ["a", "b"]);
        assert_eq!(page(Some("b"), 0, 9, ""), ["c", "d"]);
        assert_eq!(page(None, 1, 2, "b"), ["c", "d"]);
    }

    #[test]
    fn the_epochs_of_a_ledger_are_found_without_reading_it() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let lineage = [agent.head];
        let opening = agent.open(9, &lineage);
        agent.tell(&connection, &opening);
        let mut epochs = known(&connection, &agent.store(&connection)).expect("reads").epochs;
        epochs.dedup();
        assert_eq!(epochs, [7, 9]);
        let nobody = Agent::new("s2");
        discover(&connection, &nobody.id, NOW).expect("is known");
        assert_eq!(known(&connection, &nobody.store(&connection)).expect("reads").epochs, [0]);
        for sql in [EPOCHS, OTHER_CASE, crate::storage::items::OTHER_CASE] {
            let plan = plan(&connection, sql);
            for table in ["event", "store", "item", "lineage"] {
                assert!(!plan.contains(&format!("SCAN {table}")), "{sql}: {plan}");
            }
        }
        assert_eq!(other_case(&connection, &StoreId::parse("S1").expect("valid")).expect("reads"), Some(agent.id));
    }

    #[test]
    fn a_word_given_before_the_store_was_retired_no_longer_counts() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let stranger = agent.open(9, &[]);
        assert!(agent.tell(&connection, &stranger).stuck.is_some());
        assert!(adopt(&connection, &agent, 9));
        retire(&connection, &agent);
        assert!(agent.tell(&connection, &stranger).stuck.is_some());
        assert!(agent.store(&connection).retired);
    }
}
