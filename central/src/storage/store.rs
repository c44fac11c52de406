//! What is kept of a store in its own row.

use protocol::hash::Digest;
use protocol::ids::StoreId;
use protocol::link::{Ack, Commands, Cursor, EntryId, Epoch, Seq};
use protocol::number::CommandEpoch;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use rusqlite::{Connection, Row, params};

use runtime::sqlite::{DigestColumn, HashColumn, NumberColumn, cursor_at, id_at, number_at, parsed};

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
    pub id: StoreId,
    /// When central first heard of it.
    pub first_seen_at: Millis,
    /// Events applied up to here.
    pub cursor: Cursor,
    /// An epoch that was refused; 0: none.
    pub fenced: Epoch,
    /// An epoch that an operator said to adopt.
    pub adopt: Option<Epoch>,
    /// The view's own digest.
    pub digest: Digest,
    /// Sum of the quantities of its items.
    pub units: i64,
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
    pub command_head: Cursor<Commands>,
    /// Commands acknowledged by the store, of the present command epoch.
    pub command_acked: Seq,
    /// The command epoch that the store is ready for.
    pub ready_epoch: CommandEpoch,
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
    /// The stock as which the last installed state was first shown; a rebuild shows another one with the same state.
    pub generation: i64,
    /// Since when that state names all operations of earlier epochs that are in it, by the store's clock.
    pub named_since: Option<Millis>,
    /// The stock that is arriving; 0: none.
    pub staged: i64,
    /// Outcomes that came with the stock are still to be settled; entries wait until then.
    pub installing: bool,
    /// Something is left to be done in [steps](crate::projection::steps).
    pub steps: bool,
    /// The first page of the snapshot that was installed last: the ledger is replayed from there.
    pub base: EntryId,
}

/// What of a store says how its items are shown, and whether central would sell them: all of its row is three times as much to
/// read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub id: StoreId,
    /// Of its events.
    pub epoch: Epoch,
    /// An epoch that was refused; 0: none.
    pub fenced: Epoch,
    /// Where the view stands.
    pub state_epoch: Epoch,
    /// Central's time of the last look after which everything known was applied.
    pub as_of: Millis,
    /// Its state has not arrived in full.
    pub is_arriving: bool,
    /// See [`Store::is_settling`].
    pub is_settling: bool,
    /// Whether it may sell online at all.
    pub online_sale: bool,
    /// Taken out of the chain.
    pub retired: bool,
}

/// Columns for [`Standing::read`].
pub(super) const STANDING: &str = "store.epoch, store.seq, store.fenced, store.state_epoch, store.as_of, store.opening, \
     store.complete, store.ready_epoch, store.command_epoch, store.online_sale, store.retired";
/// How many they are.
pub(super) const STANDING_WIDTH: usize = 11;

impl Standing {
    pub(super) fn read(id: &StoreId, row: &Row<'_>) -> rusqlite::Result<Self> {
        let is_arriving = row.get(5)? || !row.get::<_, bool>(6)?;
        Ok(Self {
            id: id.clone(),
            epoch: number_at(row, 0)?,
            fenced: number_at(row, 2)?,
            state_epoch: number_at(row, 3)?,
            as_of: Millis(row.get(4)?),
            is_arriving,
            is_settling: is_settling(is_arriving, number_at(row, 1)?, number_at(row, 7)?, number_at(row, 8)?),
            online_sale: row.get(9)?,
            retired: row.get(10)?,
        })
    }
}

fn is_settling(is_arriving: bool, seq: Seq, ready: CommandEpoch, asked: CommandEpoch) -> bool {
    is_arriving || seq == Seq::ZERO || ready != asked && !planted(Bug::SettlingSoldFor)
}

/// Columns of a store, in the order that [`Store::read`] expects.
pub(super) const COLUMNS: &str = "store.store_id, store.first_seen_at, store.epoch, store.seq, store.hash, store.fenced, store.adopt, \
     store.digest, store.digest_state, store.opening, store.complete, store.state_epoch, store.state_seq, \
     store.state_hash, store.as_of, store.command_epoch, store.command_seq, store.command_hash, \
     store.command_acked, store.ready_epoch, store.suspect, store.resync_at, store.online_sale, \
     store.retired, store.stock, store.staged, store.installing, store.steps, store.base_epoch, store.base_seq, \
     store.units, store.generation, store.named_since";
/// How many they are.
pub(super) const WIDTH: usize = 33;

impl Store {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let digest_state = match row.get_ref(8)?.as_str()? {
            "equal" => DigestState::Equal,
            "different" => DigestState::Different,
            _ => DigestState::Unknown,
        };
        Ok(Self {
            id: parsed(row, 0)?,
            first_seen_at: Millis(row.get(1)?),
            cursor: cursor_at(row, 2)?,
            fenced: number_at(row, 5)?,
            adopt: row.get::<_, Option<NumberColumn<_>>>(6)?.map(|epoch| epoch.0),
            digest: row.get::<_, DigestColumn>(7)?.0,
            units: row.get(30)?,
            digest_state,
            opening: row.get(9)?,
            complete: row.get(10)?,
            state: cursor_at(row, 11)?,
            as_of: Millis(row.get(14)?),
            command_head: cursor_at(row, 15)?,
            command_acked: number_at(row, 18)?,
            ready_epoch: number_at(row, 19)?,
            suspect: row.get(20)?,
            resync_at: row.get::<_, Option<i64>>(21)?.map(Millis),
            online_sale: row.get(22)?,
            retired: row.get(23)?,
            stock: row.get(24)?,
            generation: row.get(31)?,
            named_since: row.get::<_, Option<i64>>(32)?.map(Millis),
            staged: row.get(25)?,
            installing: row.get(26)?,
            steps: row.get(27)?,
            base: id_at(row, 28)?,
        })
    }

    /// What the store is told of its events (L2). While it is retired its known epoch is fenced, whichever other one was
    /// refused.
    pub fn ack(&self) -> Ack {
        let fenced = if self.retired && self.cursor.epoch != Epoch::NONE { self.cursor.epoch } else { self.fenced };
        Ack { cursor: self.cursor, fenced }
    }

    /// Epochs that some agent claims and central refuses: those that an operator may adopt. A store that was retired before
    /// it opened any is taken back under epoch 0.
    pub fn claims(&self) -> Vec<Epoch> {
        let claimed = [self.ack().fenced, self.fenced].into_iter().filter(|epoch| *epoch != Epoch::NONE);
        let mut claims: Vec<Epoch> = claimed.collect();
        claims.dedup();
        if self.retired && claims.is_empty() {
            claims.push(Epoch::NONE);
        }
        claims
    }

    /// Something of its state is missing here, or wrong: that lasts until the whole of it has come.
    pub fn want_state(&mut self) {
        (self.digest_state, self.suspect) = (DigestState::Different, true);
    }

    /// Whether the view is the store's stock as far as is known: else nothing is promised by it that the store does not
    /// decide itself.
    pub fn is_trusted(&self) -> bool {
        self.digest_state != DigestState::Different && !self.suspect
    }

    /// Whether its whole state is wanted: a digest differed, an opening came with pages missing, or the database refused what
    /// the store said.
    pub fn wants_resync(&self) -> bool {
        self.digest_state == DigestState::Different && !self.retired
    }

    /// Whether it still has to say that it is ready for the present command epoch (L8).
    pub fn is_settling(&self) -> bool {
        is_settling(self.opening || !self.complete, self.cursor.seq, self.ready_epoch, self.command_head.epoch)
    }

    /// How its items are shown.
    pub fn standing(&self) -> Standing {
        Standing {
            id: self.id.clone(),
            epoch: self.cursor.epoch,
            fenced: self.fenced,
            state_epoch: self.state.epoch,
            as_of: self.as_of,
            is_arriving: self.opening || !self.complete,
            is_settling: self.is_settling(),
            online_sale: self.online_sale,
            retired: self.retired,
        }
    }

    /// Writes back the event side: what follows from the store's entries. All else of the row has its own narrow updates:
    /// the command link's in [`commands`](crate::storage::commands), the operators' and the others in
    /// [`stores`](crate::storage::stores).
    pub fn save_events(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "update store set epoch = ?2, seq = ?3, hash = ?4, fenced = ?5, digest = ?6, digest_state = ?7, \
                 opening = ?8, complete = ?9, state_epoch = ?10, state_seq = ?11, state_hash = ?12, \
                 ready_epoch = ?13, suspect = ?14, stock = ?15, staged = ?16, installing = ?17, steps = steps or ?18, \
                 base_epoch = ?19, base_seq = ?20, units = ?21, generation = ?22, named_since = ?23 where store_id = ?1",
            )?
            .execute(params![
                self.id.as_str(),
                self.cursor.epoch.get(),
                self.cursor.seq.get(),
                HashColumn(self.cursor.hash),
                self.fenced.get(),
                DigestColumn(self.digest),
                self.digest_state.as_str(),
                self.opening,
                self.complete,
                self.state.epoch.get(),
                self.state.seq.get(),
                HashColumn(self.state.hash),
                self.ready_epoch.get(),
                self.suspect,
                self.stock,
                self.staged,
                self.installing,
                self.steps,
                self.base.epoch.get(),
                self.base.seq.get(),
                self.units,
                self.generation,
                self.named_since.map(|since| since.0),
            ])?;
        Ok(())
    }
}
