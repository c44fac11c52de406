//! Follows every file of a simulated world from transaction to transaction, and compares what stands in it with what the
//! judge has worked out from the requests alone.
//!
//! An entry's hash names all that led to it, so a place in a log, and with it a copied, cloned or restored file, has one
//! [`Shop`] for ever. Nothing is excused because the system did it: what may be lost is what a fault took, operation by
//! operation, worked out from the shops of the files that are left.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::allotments::{Cover, Release};
use super::batches::word;
use super::book::{Asked, Book, By, Cancel, Name, Wish};
use super::central::{Entry, Known};
use super::events::Applied;
use super::holds::{Held, lines as lines_of};
use super::shop::{Attempt, Broken, Item, Occasion, Reading, Shop, Telling, Told};
use super::transfers::Sent;

/// Older than this, ms, a heartbeat says nothing (P8).
const OLD_MS: i64 = 50_000;

/// A place in a log: epoch, number and hash of its last entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub epoch: u64,
    pub seq: u64,
    hash: [u8; 16],
}

/// What stands at a place.
#[derive(Debug)]
struct Node {
    before: Place,
    kind: Name,
    operation: Name,
    body: String,
    shop: Rc<Shop>,
}

/// Follows a world.
#[derive(Debug, Default)]
pub struct Oracle {
    /// What was asked.
    pub book: Book,
    /// What central must know of it.
    pub known: Known,
    nodes: HashMap<(Name, Place), Node>,
    /// Operations that a client was told are done.
    acked: BTreeSet<Name>,
    /// Operations that stood in some file, and of which store.
    recorded: BTreeMap<Name, Name>,
    /// Operations that a fault took.
    lost: HashSet<Name>,
    /// Epochs that a human said shall stand, whatever central knows.
    chosen: HashSet<(Name, u64)>,
    /// Operations whose effect came with a state, because a fault had cut the log that had their entry.
    carried: HashSet<Name>,
    /// Operations that central's ledger had when it was set back to before them: what stands in no log that is still told comes
    /// with a state, too.
    cut: HashSet<Name>,
    /// Purchases that were open when an operator last said that central was set back.
    closed: HashSet<Name>,
    /// Purchases and commands of which a human's choice has forgotten the store's word.
    unsaid: HashSet<Name>,
    /// Purchases, and the stores that had taken their units, which waited to be picked when a human chose a state that does not
    /// know of them: the store is to be asked for them again.
    owed: HashSet<(Name, Name)>,
    /// Transfers of which a human's choice has forgotten the store's word.
    unsent: HashSet<Name>,
    /// Operations that central had, and that a human's choice has undone, and the latest epoch that was chosen without them: what
    /// asks for them still, as a command of central, is done once more.
    undone: HashMap<Name, u64>,
    /// Epochs of stores of which central's database refused a part of a whole state, by a fault.
    refused: HashSet<(Name, u64)>,
    /// Commands of central, and of which store's and product's allotment they take how many units; of a store that was
    /// retired since they take none.
    claims: Vec<(Name, (Name, Name, i64))>,
    /// Commands of central that count something, or may, and of which store; of a store that was retired since none.
    pub(super) counting: Vec<(Name, Name)>,
    /// Stores of which the view was damaged, by a fault.
    pub damaged: HashSet<Name>,
    /// What central has applied, in its order.
    pub(super) chain: Vec<Applied>,
    /// Up to where central's ledger and requests were looked at.
    events_seen: i64,
    requests_seen: i64,
    /// Promises that were broken.
    pub violations: Vec<Broken>,
}

impl Place {
    pub(super) fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Self> {
        Ok(Self { epoch: row.get(from)?, seq: row.get(from + 1)?, hash: row.get(from + 2)? })
    }

    /// Where a store's log ends.
    pub fn of_file(file: &Connection) -> rusqlite::Result<Self> {
        file.prepare_cached("select epoch, seq, hash from meta")?.query_row([], |row| Self::read(row, 0))
    }

    /// Central's last entry of a store before this place in the chain.
    fn last_before(central: &Connection, store: &str, chain_seq: i64) -> rusqlite::Result<Option<Self>> {
        central
            .prepare_cached(
                "select epoch, seq, hash from event where store_id = ?1 and chain_seq < ?2 \
                 order by chain_seq desc limit 1",
            )?
            .query_row(params![store, chain_seq], |row| Self::read(row, 0))
            .optional()
    }

    /// The place at which central's view of a store stands: behind its last entry, but for those of a state that has not
    /// arrived in full.
    pub fn of_view(central: &Connection, store: &str) -> rusqlite::Result<Self> {
        Self::of_view_before(central, store, i64::MAX)
    }

    fn of_view_before(central: &Connection, store: &str, mut end: i64) -> rusqlite::Result<Self> {
        loop {
            let Some(last) = Self::last_before(central, store, end)? else { return Ok(Self::default()) };
            let (opened, whole): (i64, Option<i64>) = central
                .prepare_cached(
                    "select min(chain_seq), max(case when type = 'snapshot_end' and not exists ( \
                       select 1 from event as told join dead_letter as refused \
                       on refused.store_id = ?1 and refused.entry_id = ?2 || '-' || told.seq \
                       where told.store_id = ?1 and told.epoch = ?2 and told.type in ('snapshot_page', 'snapshot_end') \
                       and told.seq <= event.seq \
                       and told.seq > coalesce((select max(seq) from event as last where last.store_id = ?1 \
                         and last.epoch = ?2 and last.type = 'snapshot_end' and last.seq < event.seq), 0) \
                     ) then chain_seq end) from event where store_id = ?1 and epoch = ?2 and chain_seq < ?3",
                )?
                .query_row(params![store, last.epoch, end], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if whole.is_some() {
                return Ok(last);
            }
            end = opened;
        }
    }
}

impl Oracle {
    pub fn break_(&mut self, text: Broken) {
        if self.violations.len() < 50 {
            self.violations.push(text);
        }
    }

    /// What stands at a place; nothing at the beginning.
    pub fn shop(&self, store: &str, place: Place) -> Rc<Shop> {
        self.nodes.get(&(store.into(), place)).map(|node| node.shop.clone()).unwrap_or_default()
    }

    /// What was recorded behind a place of a log and up to a later one: where, of which kind, and by which operation.
    pub fn recorded_since(&self, store: &str, from: Place, to: Place) -> Vec<(Place, Name, Name)> {
        let (mut place, mut found) = (to, Vec::new());
        while place != from
            && let Some(node) = self.nodes.get(&(store.into(), place))
        {
            found.push((place, node.kind.clone(), node.operation.clone()));
            place = node.before;
        }
        found.reverse();
        found
    }

    /// The versions of items that the entry at a place states.
    pub fn versions(&self, store: &str, place: Place) -> Vec<(Name, i64)> {
        let Some(node) = self.nodes.get(&(store.into(), place)) else { return Vec::new() };
        let body: serde_json::Value = serde_json::from_str(&node.body).unwrap_or_default();
        let more = body["more"].as_array().into_iter().flatten();
        let stated =
            |named: &serde_json::Value| Some((named["productId"].as_str()?.into(), named["item"]["version"].as_i64()?));
        std::iter::once(&body).chain(more).filter_map(stated).collect()
    }

    /// Whether the entry at a place says that more units are set aside.
    pub fn is_raise(&self, store: &str, place: Place) -> bool {
        let node = self.nodes.get(&(store.into(), place));
        let body = node.and_then(|node| serde_json::from_str::<serde_json::Value>(&node.body).ok());
        body.is_some_and(|body| body["allottedBy"].as_i64() > Some(0))
    }

    /// A client was told that an operation is done.
    pub fn acked(&mut self, operation: &str) {
        self.acked.insert(operation.into());
    }

    /// Looks at what a transaction has left in a store's file. `noted`: where its log ended before; moves on.
    /// `begins`: what a restore opens with.
    pub fn look(
        &mut self,
        store: &str,
        file: &Connection,
        noted: &mut Place,
        occasion: Occasion<'_>,
        begins: Option<Rc<Shop>>,
    ) -> rusqlite::Result<()> {
        let (from, head) = (std::mem::replace(noted, Place::of_file(file)?), Place::of_file(file)?);
        let name: Name = store.into();
        let mut shop = Shop::clone(&begins.unwrap_or_else(|| self.shop(store, from)));
        let mut next = if head.epoch == from.epoch { from.seq + 1 } else { 1 };
        let mut statement = file.prepare_cached(
            "select epoch, seq, hash, type, operation_id, body from ledger where epoch = ?1 and seq >= ?2 order by seq",
        )?;
        let mut rows = statement.query(params![head.epoch, next])?;
        let (mut before, mut reading) = (from, Reading::default());
        let mut claims = Vec::new();
        while let Some(row) = rows.next()? {
            let place = Place::read(row, 0)?;
            let (kind, operation, body): (String, String, String) = (row.get(3)?, row.get(4)?, row.get(5)?);
            let counted = self.book.items.get(operation.as_str());
            let told = Told {
                epoch: place.epoch,
                seq: place.seq,
                moved: counted.map_or(Ok(None), |asked| self.moved(store, file, before, asked))?,
                lines_moved: self.lines_moved(store, file, before, &operation)?,
                kind: kind.into(),
                operation: operation.into(),
                body: serde_json::from_str(&body).unwrap_or_default(),
            };
            if place.seq != next {
                self.break_(format!("P3: {store}: {}-{} stands where {next} should", place.epoch, place.seq));
            }
            next = place.seq + 1;
            if let Err(broken) = shop.follow(store, &told, &self.book, occasion, &mut reading) {
                self.break_(format!("{broken} ({store} at {}-{})", place.epoch, place.seq));
            }
            if let (Occasion::Restore { .. }, "opened") = (occasion, &*told.kind) {
                claims = claimed(&told.body);
            }
            if &*told.kind == "snapshot_end" {
                for claim in std::mem::take(&mut claims) {
                    let all = self.shop(store, claim);
                    let lacks = shop.lacks(&all).find(|operation| !self.lost.contains(*operation)).cloned();
                    if let Some(lacks) = lacks {
                        let Place { epoch, seq, .. } = claim;
                        self.break_(format!("P2: {store} claims to have all up to {epoch}-{seq}, and lacks {lacks}"));
                    }
                }
            }
            // The end of a reservation's time is nobody's operation, and comes of itself.
            if shop.done.contains_key(&told.operation) && &*told.kind != "reservation_expired" {
                self.recorded.insert(told.operation.clone(), name.clone());
            }
            let node = Node { before, kind: told.kind, operation: told.operation, body, shop: Rc::new(shop.clone()) };
            self.nodes.insert((name.clone(), place), node);
            before = place;
        }
        if before != head {
            self.break_(format!("P3: {store}: the log ends at {before:?}, its head is {head:?}"));
        }
        let is_telling = shop.telling != Telling::default();
        if is_telling && matches!(occasion, Occasion::Beginning | Occasion::Opening | Occasion::Restore { .. }) {
            self.break_(format!("P6: {store}: an epoch opens with a part of a state"));
        }
        if let Err(broken) = reading.finish() {
            self.break_(format!("{broken} ({store} at {}-{})", head.epoch, head.seq));
        }
        if let Occasion::Restore { own } = occasion {
            for operation in
                shop.lacks(own).filter(|operation| !self.lost.contains(*operation)).cloned().collect::<Vec<_>>()
            {
                self.break_(format!("P2: the restore of {store} forgets {operation}"));
            }
            let forgotten = own.attempts.keys().filter(|purchase| !shop.attempts.contains_key(*purchase));
            for purchase in forgotten.filter(|purchase| !self.unsaid.contains(*purchase)).cloned().collect::<Vec<_>>() {
                self.break_(format!("P2: the restore of {store} forgets what became of {purchase}"));
            }
        }
        if let Some(text) = differs(file, &shop)? {
            self.break_(format!("P2: {store} at {}-{}: {text}", head.epoch, head.seq));
        }
        Ok(())
    }

    /// Of a count of an earlier shelf: units that came since, less those that went. What other counts found, and what the
    /// product was created with, was there already. `from`: where the log ends. None: the log has no such place, or not in
    /// the epoch that it is in.
    pub fn moved(&self, store: &str, file: &Connection, from: Place, asked: &Asked) -> rusqlite::Result<Option<i64>> {
        let Wish::Count { at: Some((epoch, seq)), .. } = asked.wish else { return Ok(None) };
        let mut kept = file.prepare_cached("select 1 from ledger where epoch = ?1 and seq = ?2")?;
        if *asked.store != *store || epoch != from.epoch || !kept.exists(params![epoch, seq])? {
            return Ok(None);
        }
        Ok(self.moved_since(store, from, (epoch, seq), &asked.product))
    }

    /// The same of each line of the batch that an entry is of, if it is of one.
    fn lines_moved(
        &self,
        store: &str,
        file: &Connection,
        from: Place,
        operation: &str,
    ) -> rusqlite::Result<Vec<Option<i64>>> {
        let of = |command: &str| self.book.batches.get_key_value(command);
        let Some((command, batch)) = of(operation).or_else(|| Book::batch_of(operation).and_then(of)) else {
            return Ok(Vec::new());
        };
        let line = |index| match self.book.items.get(&super::batches::line(command, index)) {
            Some(asked) => self.moved(store, file, from, asked),
            None => Ok(None),
        };
        (0..batch.lines).map(line).collect()
    }

    /// Units of a product that came behind an earlier place of the same epoch and up to this one, less those that went. None:
    /// no way leads from one to the other.
    pub(super) fn moved_since(&self, store: &str, to: Place, since: (u64, u64), product: &str) -> Option<i64> {
        let units = |shop: &Shop| shop.items.get(product).map_or(0, |item| item.quantity);
        let (mut place, mut moved) = (to, 0);
        while place.epoch == since.0 && place.seq > since.1 {
            let node = self.nodes.get(&(store.into(), place))?;
            if !["counted", "item_created", "shortage"].contains(&&*node.kind) {
                moved += units(&node.shop) - units(&self.shop(store, node.before));
            }
            place = node.before;
        }
        ((place.epoch, place.seq) == since).then_some(moved)
    }

    /// Whether something was counted behind an earlier place and up to this one; also if none leads to the other.
    pub(super) fn counted_since(&self, store: &str, to: Place, since: Place) -> bool {
        let mut place = to;
        while place.epoch == since.epoch && place.seq > since.seq {
            match self.nodes.get(&(store.into(), place)) {
                Some(node) if &*node.kind != "counted" => place = node.before,
                _ => return true,
            }
        }
        place != since
    }

    /// A human said that an epoch shall stand.
    pub fn choose(&mut self, store: &str, epoch: u64) {
        self.chosen.insert((store.into(), epoch));
    }

    /// A human has said that one state stands, and not the other.
    pub fn disown(&mut self, other: &Shop, stands: &Rc<Shop>) {
        self.unsaid.extend(stands.unsays(other).cloned());
        let unanswered = other.answers.iter().filter(|(command, kind)| stands.answers.get(*command) != Some(kind));
        self.unsaid.extend(unanswered.map(|(command, _)| command.clone()));
        let differs = |transfer: &&Name| other.sent.get(*transfer) != stands.sent.get(*transfer);
        self.unsent.extend(other.sent.keys().chain(stands.sent.keys()).filter(differs).cloned());
        self.lose(other, std::slice::from_ref(stands));
    }

    /// Central has accepted an epoch that a human has chosen. `view`: what it had of the store; `stands`: what that has become.
    fn owe(&mut self, store: &str, view: &Shop, stands: &Shop) {
        let owed = view.attempts.iter().filter(|(purchase, attempt)| {
            &*attempt.kind == "purchase_confirmed" && !attempt.picked && !stands.attempts.contains_key(*purchase)
        });
        self.owed.extend(owed.map(|(purchase, _)| (purchase.clone(), store.into())));
        // What these took of the allotment was answered.
        let is_owed = |command: &Name| self.is_owed(command, store);
        let claims = self.claims.iter().filter(|(command, (of, ..))| **of != *store || !is_owed(command));
        self.claims = claims.cloned().collect();
    }

    /// Whether a store is to be asked again for what a command asked it for.
    fn is_owed(&self, command: &str, store: &str) -> bool {
        let purchase = Book::purchase_of(command);
        purchase.is_some_and(|purchase| self.owed.contains(&(purchase.into(), store.into())))
    }

    /// Central has accepted an epoch that a human has chosen: what stands in its ledger, or was in its view, and is not in that
    /// state is undone.
    fn undo(
        &mut self,
        central: &Connection,
        store: &str,
        epoch: u64,
        (view, stands): (&Shop, &Shop),
    ) -> rusqlite::Result<()> {
        self.undone.extend(stands.lacks(view).map(|operation| (operation.clone(), epoch)));
        let mut told =
            central.prepare_cached("select distinct operation_id from event where store_id = ?1 and epoch < ?2")?;
        let mut rows = told.query(params![store, epoch])?;
        while let Some(row) = rows.next()? {
            let operation: String = row.get(0)?;
            if !stands.done.contains_key(operation.as_str()) {
                self.undone.insert(operation.into(), epoch);
            }
        }
        Ok(())
    }

    /// Central's database has refused rows, by a fault. Of an epoch whose state was hit by that nothing may have been taken
    /// in, and yet stand in the ledger: then a restore records it again.
    pub fn refuse(&mut self, central: &Connection) -> rusqlite::Result<()> {
        let mut statement = central.prepare_cached(
            "select store_id, epoch from event where type in ('snapshot_page', 'snapshot_end') and exists ( \
             select 1 from dead_letter where dead_letter.store_id = event.store_id \
             and entry_id = event.epoch || '-' || event.seq)",
        )?;
        let hit = statement.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
        self.refused.extend(hit.collect::<rusqlite::Result<Vec<_>>>()?);
        let mut statement = central.prepare_cached("select distinct store_id from dead_letter")?;
        let damaged = statement.query_map([], |row| Ok(row.get::<_, String>(0)?.into()))?;
        self.damaged.extend(damaged.collect::<rusqlite::Result<Vec<_>>>()?);
        let mut statement = central
            .prepare_cached("select store_id, entry_id from dead_letter where reason like 'it cannot be applied%'")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (store, at): (String, String) = (row.get(0)?, row.get(1)?);
            let place = at.split_once('-').map(|(epoch, seq)| (epoch.parse(), seq.parse()));
            if let Some((Ok(epoch), Ok(seq))) = place {
                self.known.park(store.into(), (epoch, seq));
            }
        }
        Ok(())
    }

    /// The entries of these operations stand in no log any more, by a fault: their effects come with a state.
    pub fn carry(&mut self, shop: &Shop) {
        self.carried.extend(shop.done.keys().cloned());
    }

    /// A fault has taken what `gone` had and none of `left` has.
    pub fn lose(&mut self, gone: &Shop, left: &[Rc<Shop>]) {
        let is_gone = |operation: &&Name| left.iter().all(|shop| !shop.done.contains_key(*operation));
        self.lost.extend(gone.done.keys().filter(is_gone).cloned());
    }

    /// A fault has taken a log away. `left`: the other logs of its store. What stands in it alone, and in effect elsewhere, is
    /// carried by a state from now on.
    pub fn lose_log(
        &mut self,
        store: &str,
        gone: &Connection,
        left: &[&Connection],
        central: &Connection,
    ) -> rusqlite::Result<()> {
        let mut entries = gone.prepare_cached("select operation_id from ledger")?;
        let mut rows = entries.query([])?;
        let at_central = "select 1 from event where operation_id = ?1 and store_id = ?2";
        while let Some(row) = rows.next()? {
            let operation: String = row.get(0)?;
            let mut stands = central.prepare_cached(at_central)?.exists([operation.as_str(), store])?;
            for log in left {
                stands |= log.prepare_cached("select 1 from ledger where operation_id = ?1")?.exists([&operation])?;
            }
            if !stands {
                self.carried.insert(operation.into());
            }
        }
        Ok(())
    }

    /// A human has left out what nobody can place: where central knows only how an epoch ended, and has no entry of it from
    /// there on, what the log (before the restore) has before that end, and central's state lacks; and what is in no log, since
    /// it came with a state of a central that was set back since.
    pub fn leave_out(
        &mut self,
        central: &Connection,
        store: &str,
        file: &Connection,
        own: &Shop,
        theirs: &Shop,
    ) -> rusqlite::Result<()> {
        let mut known = central.prepare_cached(
            "select 1 from lineage where store_id = ?1 and epoch = ?2 and seq > ?3 \
             and not exists (select 1 from event where store_id = ?1 and epoch = ?2 and seq >= ?3)",
        )?;
        let mut entries = file.prepare_cached("select epoch, seq, operation_id from ledger")?;
        let mut rows = entries.query([])?;
        let mut left_out: HashSet<Name> = own.done.keys().cloned().collect();
        while let Some(row) = rows.next()? {
            let (epoch, seq, operation): (u64, u64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            left_out.remove(operation.as_str());
            if known.exists(params![store, epoch, seq])? {
                left_out.insert(operation.into());
            }
        }
        self.lost.extend(theirs.lacks(own).filter(|operation| left_out.contains(*operation)).cloned());
        let unsaid = theirs.unsays(own).filter(|purchase| left_out.contains(&own.attempts[*purchase].command));
        self.unsaid.extend(unsaid.cloned());
        let differs = |command: &&Name| theirs.answers.get(*command) != own.answers.get(*command);
        self.unsaid.extend(own.answers.keys().filter(differs).filter(|command| left_out.contains(*command)).cloned());
        Ok(())
    }

    /// Central's file is replaced by an older one. `logs`: of each store, the files that there are.
    pub fn set_back(
        &mut self,
        now: &Connection,
        old: &Connection,
        logs: &BTreeMap<Name, Vec<(&Connection, Place)>>,
    ) -> rusqlite::Result<()> {
        for (store, files) in logs {
            let gone = self.shop(store, Place::of_view(now, store)?);
            let stands = self.shop(store, Place::of_view(old, store)?);
            let mut left: Vec<Rc<Shop>> = files.iter().map(|(_, place)| self.shop(store, *place)).collect();
            left.push(stands.clone());
            self.lose(&gone, &left);
            self.cut.extend(stands.lacks(&gone).cloned());
        }
        self.closed.clear();
        let mut known = old.prepare_cached("select 1 from request where command_id = ?1 and status = 'pending'")?;
        let is_known = |command: &Name| known.exists([&**command]).unwrap_or(false);
        let mut is_known = is_known;
        self.claims.retain(|(command, _)| is_known(command));
        self.counting.retain(|(command, _)| is_known(command));
        self.events_seen = old.query_row("select coalesce(max(chain_seq), 0) from event", [], |row| row.get(0))?;
        self.requests_seen = old.query_row("select coalesce(max(number), 0) from request", [], |row| row.get(0))?;
        self.set_chain_back(old)
    }

    /// P8: whether a store may be sold for. `beat`: the epoch that its heartbeat names, and its age by Redis's clock, ms.
    pub fn may_sell(
        &self,
        central: &Connection,
        store: &str,
        beat: Option<(u64, i64)>,
    ) -> rusqlite::Result<Result<(), Broken>> {
        // Central alone decides in which command epoch it asks, and which epoch it fences.
        let (fenced, commands): (u64, u64) = central
            .prepare_cached("select fenced, command_epoch from store where store_id = ?1")?
            .query_row([store], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (epoch, ready) = self.known.epochs(store);
        let why = match beat {
            None => "it was never heard of",
            Some((_, age)) if age > OLD_MS => "it was not heard of for too long",
            Some((of, _)) if of != epoch => "another epoch's heart beats",
            Some(_) if self.known.is_retired(store) => "it is retired",
            Some(_) if fenced == epoch => "it is fenced",
            Some(_) if ready != Some(commands) => "it is not ready for commands",
            Some(_) => return Ok(Ok(())),
        };
        Ok(Err(format!("P8: a purchase was accepted for {store}, and {why}")))
    }

    /// B6: whether central may ask this store, too, for a purchase that another one has refused. `cancelled`: a cancel was
    /// accepted before.
    pub fn may_ask_next(
        &self,
        central: &Connection,
        purchase: &str,
        store: &str,
        (redis_now, cancelled): (i64, bool),
    ) -> rusqlite::Result<Result<(), Broken>> {
        let Some(buy) = self.book.buys.get(purchase) else {
            return Ok(Err(format!("P5: central asks {store} for {purchase}, which nobody asked for")));
        };
        let mut words = BTreeMap::new();
        for asked in buy.attempts.keys() {
            let view = self.shop(asked, Place::of_view(central, asked)?);
            words.extend(view.attempts.get(purchase).map(|attempt| (asked.clone(), attempt.kind.clone())));
        }
        // What a store has said settles the purchase, though the view may stand before that: central's database has refused its state.
        let is_rejected =
            |attempt: &Name| self.known.word(attempt).is_some_and(|word| &*word.kind == "purchase_rejected");
        let why = if !buy.is_chosen {
            "the buyer has named another store"
        } else if redis_now > buy.deadline {
            "its time is over"
        } else if cancelled {
            "it is to be cancelled"
        } else if self.closed.contains(purchase) {
            "central was set back, and may have asked others before"
        } else if words.contains_key(store) {
            "it has answered before"
        } else if !words.values().any(|kind| &**kind == "purchase_rejected") && !buy.attempts.values().any(is_rejected)
        {
            "no other store has refused"
        } else if words.values().any(|kind| &**kind == "purchase_confirmed") {
            "another store has the units"
        } else {
            return Ok(Ok(()));
        };
        Ok(Err(format!("P5: central asks {store} next for {purchase}, and {why}: {words:?}")))
    }

    /// An operator said that central was set back: no other store is asked for what is open.
    pub fn restored(&mut self, central: &Connection) -> rusqlite::Result<()> {
        let mut statement = central.prepare_cached("select purchase_id from purchase where status = 'pending'")?;
        let open = statement.query_map([], |row| Ok(row.get::<_, String>(0)?.into()))?;
        self.closed = open.collect::<rusqlite::Result<_>>()?;
        Ok(())
    }

    /// Looks at what a transaction of central has applied and asked for.
    pub fn look_at_central(&mut self, central: &Connection) -> rusqlite::Result<()> {
        let mut statement = central.prepare_cached(
            "select epoch, seq, hash, chain_seq, store_id, type, operation_id, body from event where chain_seq > ?1 \
             order by chain_seq",
        )?;
        let mut rows = statement.query([self.events_seen])?;
        while let Some(row) = rows.next()? {
            let (place, number) = (Place::read(row, 0)?, row.get(3)?);
            let (store, kind, operation, body): (String, String, String, String) =
                (row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?);
            self.events_seen = number;
            self.chain.push(Applied {
                number,
                store: store.as_str().into(),
                place,
                kind: kind.as_str().into(),
                operation: operation.as_str().into(),
            });
            let Some(node) = self.nodes.get(&(store.as_str().into(), place)) else {
                self.break_(format!(
                    "P3: central applied {store} {}-{} {kind}, which no file ever had",
                    place.epoch, place.seq
                ));
                continue;
            };
            let was_retired = self.known.is_retired(&store);
            let entry = Entry {
                store: &store.as_str().into(),
                place,
                kind: &node.kind,
                operation: &node.operation,
                body: &serde_json::from_str(&node.body).unwrap_or_default(),
            };
            self.known.apply(&entry, &self.book);
            let is_it = *node.kind == *kind && *node.operation == *operation && node.body == body;
            let (before, shop) = (node.before, node.shop.clone());
            if !is_it {
                self.break_(format!("P6: central applied {store} {}-{} as something else", place.epoch, place.seq));
            }
            if place.seq > 1 {
                let last = Place::last_before(central, &store, number)?;
                if last != Some(before) {
                    self.break_(format!("P3: central applied {store} {}-{} behind {last:?}", place.epoch, place.seq));
                }
                continue;
            }
            let view = self.shop(&store, Place::of_view_before(central, &store, number)?);
            let is_chosen = self.chosen.contains(&(store.as_str().into(), place.epoch));
            if was_retired && !is_chosen {
                self.break_(format!("P6: {store} is retired, and central accepted epoch {} of it", place.epoch));
            }
            if is_chosen {
                self.disown(&view, &shop);
                self.owe(&store, &view, &shop);
                self.undo(central, &store, place.epoch, (&view, &shop))?;
                continue;
            }
            let mut gone: Vec<String> = shop.lacks(&view).map(|operation| format!("operation {operation}")).collect();
            gone.extend(shop.unsays(&view).map(|purchase| format!("the word on {purchase}")));
            if let Some(first) = gone.first() {
                let epoch = place.epoch;
                self.break_(format!("P2: central accepted epoch {epoch} of {store}, which lacks {first}"));
            }
        }
        self.take_in(central)?;
        let retired = Self::retired(central)?;
        if retired != self.known.retired() {
            self.break_(format!("P6: central takes {retired:?} for retired, and {:?} are", self.known.retired()));
        }
        self.claims.retain(|(_, (store, ..))| !retired.contains(store));
        self.counting.retain(|(_, store)| !retired.contains(store));
        self.look_at_requests(central)
    }

    /// Central shows what it has built of a store anew: what the store's operations make.
    pub fn look_at_rebuilt(&mut self, central: &Connection, store: &str) -> rusqlite::Result<()> {
        let shop = self.shop(store, Place::of_view(central, store)?);
        if let Some(text) = view_differs(central, store, &shop)? {
            self.break_(format!("P6: central's view of {store}, built anew: {text}"));
        }
        Ok(())
    }

    fn retired(central: &Connection) -> rusqlite::Result<BTreeSet<Name>> {
        let mut statement = central.prepare_cached("select store_id from store where retired")?;
        statement.query_map([], |row| Ok(row.get::<_, String>(0)?.into()))?.collect()
    }

    /// Central asks by itself only for units that a store took for a purchase that has ended otherwise.
    fn look_at_requests(&mut self, central: &Connection) -> rusqlite::Result<()> {
        let mut statement = central.prepare_cached(
            "select request.number, command_id, type, request.purchase_id, purchase.status, request.store_id, \
             purchase.store_id <> request.store_id from request left join purchase using (purchase_id) \
             where request.number > ?1 order by request.number",
        )?;
        let mut rows = statement.query([self.requests_seen])?;
        while let Some(row) = rows.next()? {
            let (number, command, kind): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (purchase, status): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
            let (store, elsewhere): (String, Option<bool>) = (row.get(5)?, row.get(6)?);
            self.requests_seen = number;
            self.known.ask(command.as_str().into(), store.as_str().into(), &self.book);
            let is_asked = self.book.items.contains_key(command.as_str())
                || self.book.batches.contains_key(command.as_str())
                || self.book.cancels.contains_key(command.as_str())
                || self.book.holds.contains_key(command.as_str())
                || self.book.acts.contains_key(command.as_str())
                || self.book.ships.contains_key(command.as_str())
                || self.book.receipts.contains_key(command.as_str())
                || self.book.is_attempt(&command, &store);
            let may_count = self.book.batches.contains_key(command.as_str())
                || self.book.items.get(command.as_str()).is_some_and(|asked| matches!(asked.wish, Wish::Count { .. }));
            if may_count {
                self.counting.push((command.as_str().into(), store.as_str().into()));
            }
            if kind == "purchase" {
                self.look_at_cover(central, &command, &store)?;
            }
            if is_asked || kind == "resync" {
                continue;
            }
            if kind == "release" {
                self.look_at_release(central, &command, &store)?;
                continue;
            }
            if kind == "announce" {
                self.look_at_announcement(central, &command, &store)?;
                continue;
            }
            let ended =
                elsewhere == Some(true) || matches!(status.as_deref(), Some("rejected" | "expired" | "cancelled"));
            let (true, "cancel", Some(purchase)) = (ended, kind.as_str(), purchase) else {
                self.break_(format!("P5: central asks for {kind} {command} by itself ({status:?})"));
                continue;
            };
            self.book
                .cancels
                .insert(command.into(), Cancel { store: store.into(), purchase: purchase.into(), forced: true });
        }
        Ok(())
    }

    /// What central wants of a purchase out of the allotment is no more than the store has set aside, and nobody else has.
    fn look_at_cover(&mut self, central: &Connection, command: &str, store: &str) -> rusqlite::Result<()> {
        let body: String =
            central.query_row("select body from request where command_id = ?1", [command], |row| row.get(0))?;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let cover = Cover::of_command(&body);
        let view = self.shop(store, Place::of_view(central, store)?);
        let is_owed = cover.sold && self.is_owed(command, store);
        if is_owed {
            self.claims.retain(|(of, _)| **of != *command);
        }
        for (product, units) in &cover.lines {
            // Of what a human's choice has unsaid central has had the answer, unless it has asked again.
            let is_open = |command: &str| !self.is_unsaid(command) || self.is_owed(command, store);
            let of_it = self
                .claims
                .iter()
                .filter(|(command, (of, claimed, _))| **of == *store && claimed == product && is_open(command));
            let taken = view.taken(of_it.map(|(command, (_, _, units))| (command, *units)));
            let aside = view.items.get(product).map_or(0, |item| item.allotted);
            // A view that a fault has damaged may want more of a purchase than there is: the store takes the rest as of any other.
            if units + taken > aside && (cover.sold || !self.damaged.contains(store)) {
                self.break_(format!(
                    "P4: central takes {units} of {product} out of the allotment of {store} for {command}; {aside} are \
                     set aside, and {taken} are taken"
                ));
            }
            self.claims.push((command.into(), (store.into(), product.clone(), *units)));
        }
        let buy = Book::purchase_of(command).and_then(|purchase| self.book.buys.get(purchase));
        if cover.sold && !is_owed && buy.is_some_and(|buy| buy.lines != cover.lines) {
            self.break_(format!("P4: central has confirmed {command}, and only {:?} of it is set aside", cover.lines));
        }
        self.book.covers.entry(command.into()).or_default().push(cover);
        Ok(())
    }

    /// Central releases by itself what it has not sold of what is set aside.
    fn look_at_release(&mut self, central: &Connection, command: &str, store: &str) -> rusqlite::Result<()> {
        let body: String =
            central.query_row("select body from request where command_id = ?1", [command], |row| row.get(0))?;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let product = body["productId"].as_str().unwrap_or_default().into();
        let release = Release { store: store.into(), product, units: body["units"].as_i64().unwrap_or(0) };
        self.claims.push((command.into(), (store.into(), release.product.clone(), release.units)));
        self.book.releases.insert(command.into(), release);
        Ok(())
    }

    /// Central asks a store by itself to expect what has left another one for it.
    fn look_at_announcement(&mut self, central: &Connection, command: &str, store: &str) -> rusqlite::Result<()> {
        let transfer = command.split(':').next().unwrap_or_default();
        let Some((transfer, asked)) = self.book.transfers.get_key_value(transfer) else {
            self.break_(format!("P5: central announces {transfer} to {store}, and nobody asked for it"));
            return Ok(());
        };
        let (transfer, from, is_for_it) = (transfer.clone(), asked.from.clone(), *asked.to == *store);
        // Entries count from when they are applied, whether or not the state that they follow could be taken in.
        let source = self.shop(&from, Place::last_before(central, &from, i64::MAX)?.unwrap_or_default());
        if !is_for_it || !(source.sent.contains_key(&transfer) || self.unsent.contains(&transfer)) {
            self.break_(format!("P5: central announces {transfer} to {store}, and it has not left {from} for it"));
        }
        self.book.announces.insert(command.into(), (store.into(), transfer));
        Ok(())
    }

    /// Whether central has ever confirmed an attempt out of the allotment.
    fn is_sold(&self, command: &str) -> bool {
        self.book.covers.get(command).is_some_and(|covers| covers.iter().any(|cover| cover.sold))
    }

    /// Whether a human's choice has forgotten the store's word about a command, or about the purchase that it is for.
    pub fn is_unsaid(&self, command: &str) -> bool {
        let purchase = Book::purchase_of(command);
        self.unsaid.contains(command) || purchase.is_some_and(|purchase| self.unsaid.contains(purchase))
    }

    /// Whether a human has ever said which of a store's states stands.
    pub fn has_chosen(&self, store: &str) -> bool {
        self.chosen.iter().any(|(of, _)| **of == *store)
    }

    /// Of each transfer, when all has healed: what has left one store has arrived at the other, or is expected there; what
    /// central shows is what they say.
    pub(super) fn conclude_transfers(
        &self,
        central: &Connection,
        shops: &BTreeMap<Name, Rc<Shop>>,
        found: &mut Vec<Broken>,
    ) -> rusqlite::Result<()> {
        let mut row = central.prepare_cached("select status, body from transfer where transfer_id = ?1")?;
        for (transfer, asked) in &self.book.transfers {
            let (Some(source), Some(there)) = (shops.get(&asked.from), shops.get(&asked.to)) else { continue };
            let (left, expected) = (source.sent.get(transfer), there.sent.get(transfer));
            let known = row.query_row([&**transfer], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
            let known = known.optional()?;
            if self.unsent.contains(transfer) {
                // Its word may be gone; but what is on its way is on its way to somebody who knows.
                if expected.is_none() && known.as_ref().is_some_and(|(status, _)| status == "shipped") {
                    found.push(format!("P6: {transfer} is on its way, and {} has not heard of it", asked.to));
                }
                continue;
            }
            let ship = self.book.ships.iter().find(|(_, of)| *of == transfer).map(|(command, _)| command);
            let is_lost = ship.is_some_and(|command| self.lost.contains(command));
            if expected.is_some() && left.is_none() && !is_lost {
                found.push(format!("P5: {transfer} has not left {}, and {expected:?} at {}", asked.from, asked.to));
            }
            if left.is_some() && expected.is_none() {
                found.push(format!("P6: {transfer} has left {}, and {} has not heard of it", asked.from, asked.to));
            }
            let status = known.as_ref().map(|(status, _)| status.as_str());
            let is = match (left, expected) {
                (_, Some(expected)) if expected.received.is_some() => Some("received"),
                (Some(_), _) | (_, Some(_)) => Some("shipped"),
                (None, None) => None,
            };
            let agrees = match is {
                // A central that was set back hears of what its source has lost once its destination receives it.
                Some("shipped") if is_lost && left.is_none() && status.is_none() => true,
                Some(is) => status == Some(is),
                None => matches!(status, None | Some("rejected")),
            };
            if !agrees {
                found.push(format!(
                    "P6: {transfer} is {status:?} for central, and {left:?}, {expected:?} at its stores"
                ));
            }
            let stated = known.and_then(|(_, body)| Sent::stated(&serde_json::from_str(&body).unwrap_or_default()));
            if let (Some(expected), Some((_, stated))) = (expected, stated)
                && *expected != stated
            {
                found.push(format!("P6: {transfer} is {stated:?} for central, and {expected:?} at {}", asked.to));
            }
        }
        Ok(())
    }

    /// The last word, when all has healed: of each store one file is in service. `voided`: whether a purchase's store was
    /// retired since it was asked for; `forgotten`: whether central was set back to before it.
    pub fn conclude(
        &mut self,
        central: &Connection,
        stores: &[(Name, &Connection)],
        voided: &dyn Fn(&str) -> bool,
        forgotten: &dyn Fn(&str) -> bool,
    ) -> rusqlite::Result<()> {
        let mut found = Vec::new();
        let mut shops: BTreeMap<Name, Rc<Shop>> = BTreeMap::new();
        for (store, file) in stores {
            let shop = self.shop(store, Place::of_file(file)?);
            if let Some(text) = differs(file, &shop)? {
                found.push(format!("P2: {store}: {text}"));
            }
            if let Some(text) = view_differs(central, store, &shop)? {
                found.push(format!("P6: central's view of {store}: {text}"));
            }
            shops.insert(store.clone(), shop);
        }
        for operation in &self.acked {
            if !self.recorded.contains_key(operation) {
                found.push(format!("P2: {operation} was answered and never recorded"));
            }
        }
        let mut told = central.prepare_cached(
            "select epoch, product_id, delta from event where store_id = ?1 and operation_id = ?2 \
             and type not in ('low_stock', 'outcome_repeated') and (type <> 'shortage' or delta = 0)",
        )?;
        for (operation, store) in &self.recorded {
            let Some(shop) = shops.get(store) else { continue };
            let entries = told.query_map(params![&**store, &**operation], |row| {
                Ok((row.get::<_, u64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, Option<i64>>(2)?))
            })?;
            let entries = entries.collect::<rusqlite::Result<Vec<_>>>()?;
            let since = self.undone.get(operation).copied().unwrap_or(0);
            let is_counted = |epoch: u64| epoch >= since && !self.refused.contains(&(store.clone(), epoch));
            let times = entries.iter().filter(|(epoch, ..)| is_counted(*epoch)).count();
            let asked = self.book.items.get(operation).filter(|asked| asked.by == By::Store);
            if let (Some(asked), Some(done)) = (asked, shop.done.get(operation)) {
                let is = (Some(&*asked.product), Some(done.delta));
                // What stands in an epoch before one that a human has chosen is not what the chosen state has.
                let of_store = self.chosen.iter().filter(|(of, _)| of == store);
                let chosen = of_store.map(|(_, epoch)| *epoch).max().unwrap_or(0);
                let mut counted = entries.iter().filter(|(epoch, ..)| is_counted(*epoch) && *epoch >= chosen);
                if let Some((_, product, delta)) =
                    counted.find(|(_, product, delta)| (product.as_deref(), *delta) != is)
                {
                    found.push(format!("P6: {operation} is {is:?}, and {product:?} {delta:?} in central's ledger"));
                }
            }
            if !shop.done.contains_key(operation) {
                // A command that two agents were sent may have come to something else at the one that central heard.
                if !self.lost.contains(operation) && !shop.is_answered(operation) {
                    found.push(format!("P2: {operation} was recorded at {store}, and is gone without a reason"));
                }
                continue;
            }
            if times > 1 {
                found.push(format!("P3: {operation} stands {times} times in central's ledger"));
            }
            let comes_with_a_state = || -> rusqlite::Result<bool> {
                let Some((_, file)) = stores.iter().find(|(name, _)| name == store) else { return Ok(false) };
                let mut told = file.prepare_cached(
                    "select 1 from ledger where operation_id = ?1 and epoch = ?2 and type <> 'outcome_repeated'",
                )?;
                let is_told = told.exists(params![&**operation, Place::of_file(file)?.epoch])?;
                Ok(self.carried.contains(operation) || self.cut.contains(operation) && !is_told)
            };
            if entries.is_empty() && !comes_with_a_state()? {
                found.push(format!("P2: {operation} is not in central's ledger"));
            }
        }
        self.conclude_purchases(central, &shops, voided, forgotten, &mut found)?;
        self.conclude_commands(central, &shops, &mut found)?;
        self.conclude_transfers(central, &shops, &mut found)?;
        self.violations.extend(found);
        Ok(())
    }

    fn conclude_purchases(
        &self,
        central: &Connection,
        shops: &BTreeMap<Name, Rc<Shop>>,
        voided: &dyn Fn(&str) -> bool,
        forgotten: &dyn Fn(&str) -> bool,
        found: &mut Vec<Broken>,
    ) -> rusqlite::Result<()> {
        let mut row = central.prepare_cached(
            "select status, picked_at is not null, quantity, product_id, store_id, attempt, lines from purchase \
             where purchase_id = ?1",
        )?;
        let left: i64 = central.query_row(
            "select count(*) from pending_line where not exists (select 1 from purchase \
             where purchase.purchase_id = pending_line.purchase_id and status = 'pending')",
            [],
            |row| row.get(0),
        )?;
        if left > 0 {
            found.push(format!("P5: {left} lines of purchases that have ended are left out of what is sold"));
        }
        let cancelled: HashSet<&Name> = self.book.cancels.values().map(|cancel| &cancel.purchase).collect();
        for (purchase, buy) in &self.book.buys {
            let has_all = buy.attempts.keys().all(|store| shops.contains_key(store));
            if !has_all {
                continue;
            }
            let is_unsaid = self.unsaid.contains(purchase);
            let word = |store: &str| shops.get(store).and_then(|shop| shop.attempts.get(purchase));
            let words: Vec<_> = buy.attempts.keys().map(|store| (store, word(store))).collect();
            let known = row.query_row([&**purchase], |row| {
                let store: (String, String) = (row.get(4)?, row.get(5)?);
                Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, (row.get(2)?, row.get(3)?, row.get(6)?), store))
            });
            let Some((status, picked, of, (store, attempt))) = known.optional()? else {
                if !is_unsaid && (words.iter().any(|(_, word)| word.is_some()) || !forgotten(purchase)) {
                    found.push(format!("P2: central does not know purchase {purchase}, which came to {words:?}"));
                }
                continue;
            };
            let (quantity, product, lines): (i64, String, Option<String>) = of;
            let of = match lines.as_deref().map(serde_json::from_str::<serde_json::Value>) {
                None => Some(vec![(product.into(), quantity)]),
                Some(stated) => stated.ok().and_then(|stated| lines_of(&stated)),
            };
            if of.as_ref() != Some(&buy.lines) {
                found.push(format!("P5: purchase {purchase} is of {of:?}, and was asked as {buy:?}"));
            }
            if buy.attempts.get(store.as_str()).is_none_or(|asked| **asked != *attempt) {
                found.push(format!("P5: purchase {purchase} is at {store} as {attempt}, and was asked as {buy:?}"));
            }
            let here = word(&store);
            let kind = here.map(|word| word.kind.strip_prefix("purchase_").unwrap_or_default());
            let never_taken = matches!(kind, None | Some("rejected" | "expired" | "cancelled"));
            // Between two stores a cancel needs none of them.
            let is_between = kind == Some("rejected") && buy.is_chosen && cancelled.contains(purchase);
            // Its database did not take what central had sold.
            let has_failed = kind == Some("rejected") && self.is_sold(&attempt);
            // A human has chosen a state that does not know what the store had said before. Whoever was promised units has them,
            // unless that state has refused them; what was picked has left.
            let stands = match &*status {
                "confirmed" => picked || matches!(kind, Some("rejected" | "expired")),
                _ => never_taken,
            };
            let agrees = kind == Some(&*status)
                || status == "cancelled" && never_taken && (voided(purchase) || is_between || has_failed)
                || is_unsaid && stands;
            if !agrees {
                found.push(format!("P5: purchase {purchase} is {status} at {store} for central; stores: {words:?}"));
            }
            let is_picked = here.is_some_and(|word| word.picked);
            // What was picked has left: a state that was chosen without it is not asked for it again.
            let has_left = is_unsaid && picked && kind != Some("confirmed");
            if status == "confirmed" && picked != is_picked && !has_left {
                found.push(format!("P5: purchase {purchase}: picked is {picked} at central; stores: {words:?}"));
            }
            let has_units = |(of, word): &&(&Name, Option<&Attempt>)| {
                ***of != *store && word.is_some_and(|word| &*word.kind == "purchase_confirmed")
            };
            if let Some((other, _)) = words.iter().find(has_units) {
                found.push(format!("P5: purchase {purchase} is {status} at {store}, and {other} keeps units for it"));
            }
        }
        Ok(())
    }

    fn conclude_commands(
        &self,
        central: &Connection,
        shops: &BTreeMap<Name, Rc<Shop>>,
        found: &mut Vec<Broken>,
    ) -> rusqlite::Result<()> {
        let mut statement = central.prepare_cached(
            "select command_id, store_id, status, position is not null, outcome from request \
             where type in ('operation', 'batch', 'reserve', 'reservation', 'ship', 'announce', 'receive_transfer', \
             'release')",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (command, store, status, answered): (String, String, String, bool) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            let is_unsaid = self.unsaid.contains(command.as_str());
            let Some(shop) = shops.get(store.as_str()).filter(|_| !is_unsaid) else { continue };
            let answer = shop.answers.get(command.as_str());
            let told: Option<String> = row.get(4)?;
            let told = told.and_then(|told| serde_json::from_str(&told).ok()).and_then(|told| word(&told));
            let is_batch = self.book.batches.contains_key(command.as_str());
            let agrees = match (status.as_str(), answer.map(|kind| &**kind)) {
                // It is said line by line.
                ("done", Some(word)) if is_batch => told.as_deref() == Some(word) && word.contains("undone false"),
                ("refused", Some(word)) if is_batch => told.as_deref() == Some(word) && !word.contains("undone false"),
                ("refused", Some("command_refused")) => true,
                // Retiring the store has ended it, and the store never had it.
                ("refused", None) => !answered,
                ("done", Some(kind)) => kind != "command_refused",
                _ => false,
            };
            if !agrees {
                found.push(format!("P5: command {command} is {status} at central, and {answer:?} at {store}"));
            }
        }
        Ok(())
    }
}

/// The places up to which an opening says that its state has all.
fn claimed(opened: &serde_json::Value) -> Vec<Place> {
    let place = |past: &serde_json::Value| {
        let (epoch, seq) = (past["epoch"].as_u64()?, past["seq"].as_u64()?);
        let hash = u128::from_str_radix(past["hash"].as_str()?, 16).ok()?.to_be_bytes();
        Some(Place { epoch, seq, hash })
    };
    opened["lineage"].as_array().into_iter().flatten().filter_map(place).collect()
}

/// How a store's tables differ from what the judge has worked out.
fn differs(file: &Connection, shop: &Shop) -> rusqlite::Result<Option<String>> {
    let items = items(
        file,
        "select product_id, name, quantity, discontinued, low_at, low, reserved, allotted, allotment_wanted \
         from item where ?1 = ?1",
        0,
    )?;
    if items != shop.items {
        return Ok(Some(format!("its stock is {items:?}, and its operations make {:?}", shop.items)));
    }
    let holds = holds(file)?;
    if holds != shop.holds {
        return Ok(Some(format!("it holds {holds:?}, and its operations make {:?}", shop.holds)));
    }
    let sent = sent(file)?;
    if sent != shop.sent {
        return Ok(Some(format!("it has the transfers {sent:?}, and its operations make {:?}", shop.sent)));
    }
    let mut statement = file.prepare_cached("select purchase_id, status, picked_at is not null from purchase")?;
    let mut rows = statement.query([])?;
    let mut confirmed = 0;
    while let Some(row) = rows.next()? {
        let (purchase, status, picked): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        confirmed += usize::from(status == "confirmed");
        let attempt = shop.attempts.get(purchase.as_str());
        let agrees = attempt.is_some_and(|attempt| {
            attempt.kind.strip_prefix("purchase_") == Some(&status)
                && (attempt.picked == picked || status == "cancelled")
        });
        if !agrees {
            return Ok(Some(format!("{purchase} is {status}, picked {picked}, in its list, and must be {attempt:?}")));
        }
    }
    let wanted = shop.attempts.values().filter(|attempt| &*attempt.kind == "purchase_confirmed").count();
    Ok((confirmed != wanted).then(|| format!("{confirmed} purchases are in its list as confirmed, of {wanted}")))
}

fn holds(file: &Connection) -> rusqlite::Result<BTreeMap<Name, Held>> {
    let sql = "select json_object('id', reservation_id, 'status', status, 'lines', json(lines), \
               'confirmedLines', json(confirmed_lines)), created_at, expires_at from reservation";
    let mut statement = file.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        let (stated, times): (String, (i64, i64)) = (row.get(0)?, (row.get(1)?, row.get(2)?));
        Ok(Held::stated(&serde_json::from_str(&stated).unwrap_or_default(), Some(times)))
    })?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn sent(file: &Connection) -> rusqlite::Result<BTreeMap<Name, Sent>> {
    let mut statement = file.prepare_cached("select body from transfer")?;
    let rows = statement
        .query_map([], |row| Ok(Sent::stated(&serde_json::from_str(&row.get::<_, String>(0)?).unwrap_or_default())))?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

pub(super) fn view_differs(central: &Connection, store: &str, shop: &Shop) -> rusqlite::Result<Option<String>> {
    let items = items_of_view(central, store)?;
    Ok((items != shop.items).then(|| format!("{items:?}, and the store's operations make {:?}", shop.items)))
}

pub(super) fn items_of_view(central: &Connection, store: &str) -> rusqlite::Result<BTreeMap<Name, Item>> {
    let stock: i64 = central.query_row("select stock from store where store_id = ?1", [store], |row| row.get(0))?;
    let sql = "select product_id, name, quantity, discontinued, low_at, low, reserved, allotted, allotment_wanted \
               from item where stock = ?1";
    items(central, sql, stock)
}

fn items(file: &Connection, sql: &str, stock: i64) -> rusqlite::Result<BTreeMap<Name, Item>> {
    let mut statement = file.prepare_cached(sql)?;
    let rows = statement.query_map([stock], |row| {
        let (product, name): (String, String) = (row.get(0)?, row.get(1)?);
        let item = Item {
            name: name.into(),
            quantity: row.get(2)?,
            discontinued: row.get(3)?,
            low_at: row.get(4)?,
            low: row.get(5)?,
            reserved: row.get(6)?,
            allotted: row.get(7)?,
            wanted: row.get(8)?,
        };
        Ok((product.into(), item))
    })?;
    rows.collect()
}
