//! Central as the judge works it out: what it must know of all that stores were asked through it. How far central has come is
//! read from it: which entries it has applied, which of them its database has refused, which requests it has written down, and
//! whether it is still taking in a state. What follows is worked out here, from the entries as the stores' logs have them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde_json::Value;

use super::batches::{Refused, results};
use super::book::{Book, Lines, Name};
use super::holds::{Held, State};
use super::oracle::{Oracle, Place};
use super::transfers::Sent;

/// An entry that central has applied, as its store's log has it.
pub(super) struct Entry<'a> {
    pub(super) store: &'a Name,
    pub(super) place: Place,
    pub(super) kind: &'a str,
    pub(super) operation: &'a str,
    pub(super) body: &'a Value,
}

/// What central knows.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Those it has heard of.
    stores: BTreeMap<Name, Store>,
    /// What it has asked.
    commands: BTreeMap<Name, Command>,
    /// By reservation.
    holds: BTreeMap<Name, Reserved>,
    /// By transfer.
    transfers: BTreeMap<Name, Moving>,
    /// Entries that its database has refused, by a fault: their effect comes with a state.
    parked: BTreeSet<(Name, u64, u64)>,
    /// Reservations that it may have left out of a state, by the same fault.
    left_out: BTreeSet<Name>,
}

#[derive(Debug, Clone, Default)]
struct Store {
    epoch: u64,
    /// The command epoch that it is ready for.
    ready: Option<u64>,
    is_retired: bool,
    /// What is told of its state.
    pages: Pages,
    /// A state that was told, until all that came with it is taken in.
    coming: Option<Pages>,
    /// Its units may be wrong at central, by a fault, until a state is taken in.
    is_unsure: bool,
}

/// What comes with a whole state, besides items.
#[derive(Debug, Clone, Default)]
struct Pages {
    outcomes: Vec<Value>,
    holds: Vec<(Name, Held)>,
    sent: Vec<(Name, Sent)>,
    /// Where it ends.
    position: Name,
    /// Central's database has refused a part, by a fault.
    is_hit: bool,
}

#[derive(Debug, Clone)]
struct Command {
    store: Name,
    word: Option<Word>,
}

/// What has become of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The name that the answer has on the link.
    pub(super) kind: Name,
    pub refusal: Option<Name>,
    /// Of a batch: how many lines, whether none was done, and those that were refused.
    pub batch: Option<(usize, bool, Refused)>,
    /// Where the store has said so; none: it was retired first.
    pub position: Option<Name>,
}

/// A reservation.
#[derive(Debug, Clone)]
pub struct Reserved {
    pub store: Name,
    pub status: Status,
    pub code: Option<Name>,
    pub lines: Lines,
    /// By the store's clock, once it has said so.
    pub expires_at: Option<i64>,
    /// Where the store has said so last.
    pub position: Option<Name>,
}

/// Where a reservation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Pending,
    Rejected,
    Said(State),
}

/// A transfer.
#[derive(Debug, Clone)]
pub struct Moving {
    pub status: &'static str,
    pub code: Option<Name>,
    /// Less has arrived than was sent.
    pub is_short: bool,
    pub position: Option<Name>,
}

impl Word {
    /// As an answer or a kept outcome states it.
    fn said(kind: &str, stated: &Value, position: &Name) -> Self {
        let code = stated["rejection"]["code"].as_str().unwrap_or_default();
        Self {
            kind: kind.into(),
            refusal: (kind == "command_refused").then(|| code.into()),
            batch: (kind == "batch").then(|| results(stated)),
            position: Some(position.clone()),
        }
    }
}

impl Reserved {
    /// What it is once it has ended, if it has; the code of the refusal if its store never held it.
    pub fn ended(&self) -> Option<Result<Held, &'static str>> {
        let state = match &self.status {
            Status::Rejected => return Some(Err("reservation_closed")),
            Status::Pending | Status::Said(State::Open) => return None,
            Status::Said(state) => state.clone(),
        };
        let (lines, expires_at) = (self.lines.clone(), self.expires_at.unwrap_or(i64::MAX));
        Some(Ok(Held { lines, made_at: 0, expires_at, state }))
    }
}

impl Known {
    /// What has become of a command, if anything has.
    pub fn word(&self, command: &str) -> Option<&Word> {
        self.commands.get(command)?.word.as_ref()
    }

    pub fn is_asked(&self, command: &str) -> bool {
        self.commands.contains_key(command)
    }

    /// Whether a command was asked and is not answered.
    pub fn is_open(&self, command: &str) -> bool {
        self.commands.get(command).is_some_and(|asked| asked.word.is_none())
    }

    /// The commands that a store has not answered.
    pub fn open<'a>(&'a self, store: &'a str) -> impl Iterator<Item = &'a Name> {
        let is_open = move |(_, asked): &(&Name, &Command)| *asked.store == *store && asked.word.is_none();
        self.commands.iter().filter(is_open).map(|(command, _)| command)
    }

    pub fn hold(&self, reservation: &str) -> Option<&Reserved> {
        self.holds.get(reservation)
    }

    pub fn transfer(&self, transfer: &str) -> Option<&Moving> {
        self.transfers.get(transfer)
    }

    /// Whether it has applied anything of a store.
    pub fn has_heard_of(&self, store: &str) -> bool {
        self.stores.get(store).is_some_and(|known| known.epoch > 0)
    }

    pub fn is_retired(&self, store: &str) -> bool {
        self.stores.get(store).is_some_and(|known| known.is_retired)
    }

    pub(super) fn retired(&self) -> BTreeSet<Name> {
        self.stores.iter().filter(|(_, known)| known.is_retired).map(|(store, _)| store.clone()).collect()
    }

    /// Whether its units of a store may be wrong, by a fault.
    pub fn is_unsure(&self, store: &str) -> bool {
        self.stores.get(store).is_some_and(|known| known.is_unsure)
    }

    /// Whether it may have left out what the judge knows of a reservation, by a fault.
    pub fn may_lack(&self, reservation: &str) -> bool {
        self.left_out.contains(reservation)
    }

    /// The store's epoch, and the command epoch that it is ready for.
    pub(super) fn epochs(&self, store: &str) -> (u64, Option<u64>) {
        self.stores.get(store).map_or((0, None), |known| (known.epoch, known.ready))
    }

    /// Units that purchases may still keep from others at a store, at most.
    pub fn pending(&self, book: &Book, store: &str, product: &str) -> i64 {
        let cancels = self.open(store).filter_map(|command| book.cancels.get(command));
        let to_cancel: BTreeSet<&Name> = cancels.map(|cancel| &cancel.purchase).collect();
        let may_pend = |(purchase, attempt, is_chosen): (&Name, &Name, bool)| {
            let may_seek = match self.word(attempt) {
                // It came back by a store's word, or was never asked.
                None => !self.is_asked(attempt),
                Some(word) => &*word.kind != "purchase_confirmed",
            };
            self.is_open(attempt) || to_cancel.contains(purchase) || is_chosen && may_seek
        };
        let here = book.buys.iter().filter_map(|(purchase, buy)| {
            let attempt = buy.attempts.get(store)?;
            may_pend((purchase, attempt, buy.is_chosen)).then_some(&buy.lines)
        });
        here.flatten().filter(|(of, _)| **of == *product).map(|(_, units)| units).sum()
    }

    /// An operator has retired a store: what it has not answered ends.
    pub fn retire(&mut self, store: &str, book: &Book) {
        self.stores.entry(store.into()).or_default().is_retired = true;
        let ended: Vec<Name> = self.open(store).cloned().collect();
        for command in ended {
            let code = Some(Name::from("store_retired"));
            if let Some(asked) = self.commands.get_mut(&command) {
                let word = Word { kind: "command_refused".into(), refusal: code.clone(), batch: None, position: None };
                asked.word = Some(word);
            }
            if let Some(hold) = book.holds.get(&command).and_then(|hold| self.holds.get_mut(&hold.reservation)) {
                (hold.status, hold.code) = (Status::Said(State::Cancelled), code.clone());
            }
            let transfer = book.ships.get(&command).and_then(|transfer| self.transfers.get_mut(transfer));
            if let Some(transfer) = transfer.filter(|transfer| transfer.status == "requested") {
                (transfer.status, transfer.code) = ("rejected", code);
            }
        }
    }

    /// An operator has taken it back.
    pub fn readmit(&mut self, store: &str) {
        self.stores.entry(store.into()).or_default().is_retired = false;
    }

    /// A store asks for its state, to be restored, and is given the epoch in which it begins anew.
    pub fn restore(&mut self, store: &str, epoch: u64) {
        let known = self.stores.entry(store.into()).or_default();
        (known.epoch, known.ready, known.pages) = (epoch, None, Pages::default());
    }

    /// A fault has made its units of a store wrong.
    pub(super) fn damage(&mut self, store: &str) {
        self.stores.entry(store.into()).or_default().is_unsure = true;
    }

    /// Its database has refused an entry, by a fault.
    pub(super) fn park(&mut self, store: Name, place: (u64, u64)) {
        self.parked.insert((store, place.0, place.1));
    }

    /// Its database refuses rows of a product while it takes in what came with a state.
    pub fn refuse(&mut self, store: &str, product: &str) {
        let Some(known) = self.stores.get_mut(store) else { return };
        let Some(coming) = &mut known.coming else { return };
        coming.is_hit = true;
        let has = |held: &Held| held.lines.iter().any(|(of, _)| **of == *product);
        let named = coming.holds.iter().filter(|(_, held)| has(held)).map(|(reservation, _)| reservation);
        // Those that the state does not name end then.
        let of_it = self.holds.iter().filter(|(_, hold)| *hold.store == *store);
        let unnamed =
            of_it.filter(|(_, hold)| hold.status == Status::Said(State::Open)).map(|(reservation, _)| reservation);
        self.left_out.extend(named.chain(unnamed).cloned());
    }

    /// Something was asked of a store.
    pub(super) fn ask(&mut self, command: Name, store: Name, book: &Book) {
        if let Some(hold) = book.holds.get(&command) {
            let pending = Reserved {
                store: store.clone(),
                status: Status::Pending,
                code: None,
                lines: hold.lines.clone(),
                expires_at: None,
                position: None,
            };
            self.holds.insert(hold.reservation.clone(), pending);
        }
        if let Some(transfer) = book.ships.get(&command) {
            let requested = Moving { status: "requested", code: None, is_short: false, position: None };
            self.transfers.insert(transfer.clone(), requested);
        }
        self.commands.insert(command, Command { store, word: None });
    }

    /// Takes in the next entry.
    pub(super) fn apply(&mut self, entry: &Entry<'_>, book: &Book) {
        let Entry { store, place, kind, operation, body } = entry;
        // Whatever came with a state comes before what is said behind it.
        self.take_in(store, book);
        let position: Name = format!("{store}:{}-{}", place.epoch, place.seq).into();
        let is_parked = self.parked.contains(&((*store).clone(), place.epoch, place.seq));
        let known = self.stores.entry((*store).clone()).or_default();
        known.epoch = place.epoch;
        match *kind {
            "opened" => (known.is_retired, known.ready, known.pages) = (false, None, Pages::default()),
            "ready" => known.ready = body["commandEpoch"].as_u64(),
            "snapshot_page" => known.pages.read(body, is_parked),
            "snapshot_end" => {
                let pages = std::mem::take(&mut known.pages);
                if is_parked || pages.is_hit {
                    known.is_unsure = true;
                } else {
                    known.coming = Some(Pages { position, ..pages });
                }
            }
            _ if is_parked => known.is_unsure = true,
            "outcome_repeated" => self.outcome(body, Some(operation), &position, book),
            kind => self.fact(store, kind, body, &position, book),
        }
    }

    fn fact(&mut self, store: &Name, kind: &str, body: &Value, position: &Name, book: &Book) {
        if let Some((reservation, held)) = Held::stated(&body["reservation"], None) {
            self.held(store, reservation, held, position);
        }
        if let Some((transfer, sent)) = Sent::stated(&body["transfer"]) {
            self.sent(store, transfer, &sent, position, book);
        }
        let word = Word::said(kind, body, position);
        if let Some(command) = body["command"].as_str() {
            self.answer(command, &word);
            self.refusal(command, &word, book);
        }
        self.answer_attempt(body, &word);
    }

    /// An outcome that is told again, or kept in a state. `also`: the command that made the store tell it.
    fn outcome(&mut self, stated: &Value, also: Option<&str>, position: &Name, book: &Book) {
        let word = Word::said(stated["kind"].as_str().unwrap_or_default(), stated, position);
        let command = stated["command"].as_str().unwrap_or_default();
        self.answer(command, &word);
        if let Some(also) = also {
            self.answer(also, &word);
        }
        self.refusal(command, &word, book);
        self.answer_attempt(stated, &word);
    }

    /// The first answer stands.
    fn answer(&mut self, command: &str, word: &Word) {
        let Some(asked) = self.commands.get_mut(command) else { return };
        if asked.word.as_ref().is_none_or(|word| word.position.is_none()) {
            asked.word = Some(word.clone());
        }
    }

    /// What becomes of a purchase answers the attempt, be it by a cancel.
    fn answer_attempt(&mut self, stated: &Value, word: &Word) {
        let is_end = ["purchase_confirmed", "purchase_rejected", "purchase_expired", "purchase_cancelled"];
        if let (Some(attempt), true) = (stated["purchase"]["attempt"].as_str(), is_end.contains(&&*word.kind)) {
            self.answer(attempt, word);
        }
    }

    /// What was asked for is not, since the store has refused it.
    fn refusal(&mut self, command: &str, word: &Word, book: &Book) {
        let Some(code) = word.refusal.as_ref().filter(|_| self.is_asked(command)) else { return };
        let hold = book.holds.get(command).and_then(|hold| self.holds.get_mut(&hold.reservation));
        if let Some(hold) = hold.filter(|hold| hold.status == Status::Pending) {
            (hold.status, hold.code, hold.position) = (Status::Rejected, Some(code.clone()), word.position.clone());
        }
        let transfer = book.ships.get(command).and_then(|transfer| self.transfers.get_mut(transfer));
        if let Some(transfer) = transfer.filter(|transfer| transfer.status == "requested") {
            (transfer.status, transfer.code, transfer.position) =
                ("rejected", Some(code.clone()), word.position.clone());
        }
    }

    /// A reservation is what its store says.
    fn held(&mut self, store: &Name, reservation: Name, held: Held, position: &Name) {
        let code = (held.state == State::Expired).then(|| "reservation_expired".into());
        self.left_out.remove(&reservation);
        let said = Reserved {
            store: store.clone(),
            status: Status::Said(held.state),
            code,
            lines: held.lines,
            expires_at: Some(held.expires_at),
            position: Some(position.clone()),
        };
        self.holds.insert(reservation, said);
    }

    /// A transfer is what its destination says; its source says only that it has left.
    fn sent(&mut self, store: &Name, transfer: Name, sent: &Sent, position: &Name, book: &Book) {
        let Some(asked) = book.transfers.get(&transfer) else { return };
        let has_left =
            self.transfers.get(&transfer).is_some_and(|known| matches!(known.status, "shipped" | "received"));
        let received = sent.received.as_ref().filter(|_| asked.to == *store);
        if asked.to != *store && (has_left || asked.from != *store) {
            return;
        }
        let said = Moving {
            status: if received.is_some() { "received" } else { "shipped" },
            code: None,
            is_short: received.is_some_and(|received| *received != sent.lines),
            position: Some(position.clone()),
        };
        self.transfers.insert(transfer, said);
    }

    /// All that came with a store's state is taken in.
    fn take_in(&mut self, store: &Name, book: &Book) {
        let Some(known) = self.stores.get_mut(store) else { return };
        let Some(Pages { outcomes, holds, sent, position, is_hit }) = known.coming.take() else { return };
        known.is_unsure = is_hit;
        for outcome in &outcomes {
            self.outcome(outcome, None, &position, book);
        }
        let left_out = self.left_out.clone();
        let named: BTreeSet<Name> = holds.iter().map(|(reservation, _)| reservation.clone()).collect();
        for (reservation, held) in holds {
            self.held(store, reservation, held, &position);
        }
        let of_it =
            self.holds.iter_mut().filter(|(reservation, hold)| hold.store == *store && !named.contains(*reservation));
        for (_, hold) in of_it.filter(|(_, hold)| hold.status == Status::Said(State::Open)) {
            (hold.status, hold.code) = (Status::Said(State::Expired), Some("reservation_expired".into()));
        }
        if is_hit {
            self.left_out = left_out;
        } else {
            let holds = &self.holds;
            self.left_out.retain(|reservation| holds.get(reservation).is_none_or(|hold| hold.store != *store));
        }
        for (transfer, sent) in &sent {
            self.sent(store, transfer.clone(), sent, &position, book);
        }
    }

    /// What it may know: of each state that it is still taking in, all that came with it or nothing yet.
    fn readings(&self, book: &Book) -> Vec<Self> {
        let coming = self.stores.iter().filter(|(_, known)| known.coming.is_some()).map(|(store, _)| store);
        coming.fold(vec![self.clone()], |readings, store| {
            let taken_in = |reading: &Self| {
                let mut reading = reading.clone();
                reading.take_in(store, book);
                reading
            };
            let more: Vec<Self> = readings.iter().map(taken_in).collect();
            readings.into_iter().chain(more).collect()
        })
    }
}

impl Pages {
    fn read(&mut self, page: &Value, is_hit: bool) {
        let all = |member: &str| page[member].as_array().into_iter().flatten().cloned();
        self.outcomes.extend(all("outcomes"));
        self.holds.extend(all("reservations").filter_map(|stated| Held::stated(&stated, None)));
        self.sent.extend(all("transfers").filter_map(|stated| Sent::stated(&stated)));
        self.is_hit |= is_hit;
    }
}

impl Oracle {
    /// An operator has retired a store.
    pub fn retire(&mut self, store: &str) {
        self.known.retire(store, &self.book);
    }

    /// What central may know now: more than one thing while it takes in a state in steps.
    pub fn may_know(&self) -> Vec<Known> {
        self.known.readings(&self.book)
    }

    /// States of which central has taken in all that came with them.
    pub(super) fn take_in(&mut self, central: &Connection) -> rusqlite::Result<()> {
        let coming = self.known.stores.iter().filter(|(_, known)| known.coming.is_some());
        let coming: Vec<Name> = coming.map(|(store, _)| store.clone()).collect();
        for store in coming {
            let is_at_it: bool = central
                .prepare_cached("select installing from store where store_id = ?1")?
                .query_row([&*store], |row| row.get(0))?;
            if !is_at_it {
                self.known.take_in(&store, &self.book);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{By, Hold, Transfer};
    use super::*;

    /// A reservation was asked of `s0`, and a transfer from there to `s1`.
    fn asked() -> (Known, Book) {
        let mut book = Book::default();
        let (store, lines): (Name, Lines) = ("s0".into(), vec![("ale".into(), 2)]);
        let hold = Hold {
            store: store.clone(),
            reservation: "held".into(),
            lines: lines.clone(),
            ttl_ms: 1_000,
            by: By::Central,
            deadline: 0,
        };
        book.holds.insert("reserve".into(), hold);
        book.transfers
            .insert("out".into(), Transfer { from: store.clone(), to: "s1".into(), lines, auto: false, deadline: 0 });
        book.ships.insert("ship".into(), "out".into());
        let mut known = Known::default();
        known.ask("reserve".into(), store.clone(), &book);
        known.ask("ship".into(), store, &book);
        (known, book)
    }

    fn says(known: &mut Known, book: &Book, (store, seq): (&str, u64), kind: &str, body: &Value) {
        let mut place = Place::default();
        (place.epoch, place.seq) = (1, seq);
        known.apply(&Entry { store: &store.into(), place, kind, operation: "", body }, book);
    }

    fn held(status: &str) -> Value {
        let lines = json!([{"productId": "ale", "quantity": 2}]);
        let time = "2026-01-31T12:00:00.000Z";
        json!({"id": "held", "status": status, "lines": lines, "createdAt": time, "expiresAt": time})
    }

    fn refused(code: &str) -> Value {
        json!({"command": "reserve", "rejection": {"code": code}})
    }

    fn status(known: &Known) -> Status {
        known.hold("held").expect("was asked for").status.clone()
    }

    #[test]
    fn the_first_answer_stands_and_says_where_it_is() {
        let (mut known, book) = asked();
        assert!(known.is_open("reserve"));
        says(&mut known, &book, ("s0", 3), "command_refused", &refused("insufficient_stock"));
        says(&mut known, &book, ("s0", 4), "command_refused", &refused("unknown_product"));
        let word = known.word("reserve").expect("is answered");
        assert_eq!((word.refusal.as_deref(), word.position.as_deref()), (Some("insufficient_stock"), Some("s0:1-3")));
        assert_eq!((status(&known), known.is_open("ship")), (Status::Rejected, true));
        assert_eq!(known.hold("held").and_then(Reserved::ended), Some(Err("reservation_closed")));
    }

    #[test]
    fn what_a_retired_store_had_to_answer_ends_until_it_says_what_has_become_of_it() {
        let (mut known, book) = asked();
        known.retire("s0", &book);
        let refusal = known.word("ship").and_then(|word| word.refusal.as_deref());
        assert_eq!((refusal, status(&known)), (Some("store_retired"), Status::Said(State::Cancelled)));
        assert_eq!(known.transfer("out").map(|transfer| transfer.status), Some("rejected"));
        let reserved = json!({"command": "reserve", "reservation": held("open")});
        says(&mut known, &book, ("s0", 3), "reserved", &reserved);
        assert_eq!(status(&known), Status::Said(State::Open));
        assert_eq!(known.word("reserve").and_then(|word| word.refusal.as_deref()), None);
        assert!(known.is_retired("s0"));
        says(&mut known, &book, ("s0", 1), "opened", &Value::Null);
        assert!(!known.is_retired("s0"));
    }

    #[test]
    fn a_state_may_be_taken_in_in_steps_and_comes_before_what_is_said_behind_it() {
        let (mut known, book) = asked();
        let reserved = json!({"command": "reserve", "reservation": held("open")});
        says(&mut known, &book, ("s0", 2), "reserved", &reserved);
        let page = json!({"outcomes": [{"command": "ship", "kind": "command_refused", "rejection": {"code": "x"}}]});
        says(&mut known, &book, ("s0", 3), "snapshot_page", &page);
        says(&mut known, &book, ("s0", 4), "snapshot_end", &Value::Null);
        let may_be: Vec<_> = known.readings(&book).iter().map(|known| (known.is_open("ship"), status(known))).collect();
        let open = (true, Status::Said(State::Open));
        assert_eq!(may_be, [open, (false, Status::Said(State::Expired))], "the state does not name it");
        says(&mut known, &book, ("s0", 5), "sold", &json!({}));
        assert!(!known.is_open("ship"));
        assert_eq!(known.word("ship").and_then(|word| word.position.as_deref()), Some("s0:1-4"));
    }

    #[test]
    fn what_its_database_has_refused_it_does_not_know() {
        let (mut known, book) = asked();
        known.park("s0".into(), (1, 2));
        says(&mut known, &book, ("s0", 2), "command_refused", &refused("insufficient_stock"));
        assert!(known.is_open("reserve") && known.is_unsure("s0"));
        says(&mut known, &book, ("s0", 3), "snapshot_page", &json!({"reservations": [held("open")]}));
        says(&mut known, &book, ("s0", 4), "snapshot_end", &Value::Null);
        known.refuse("s0", "bun");
        assert!(!known.may_lack("held"), "it holds no bun");
        known.refuse("s0", "ale");
        known.take_in(&"s0".into(), &book);
        assert!(known.may_lack("held") && known.is_unsure("s0"));
        says(&mut known, &book, ("s0", 5), "reserved", &json!({"reservation": held("open")}));
        assert!(!known.may_lack("held"), "it was told again");
    }

    #[test]
    fn where_a_transfer_is_its_destination_says() {
        let (mut known, book) = asked();
        let lines = |units| json!([{"productId": "ale", "quantity": units}]);
        let shipped = json!({"transfer": {"id": "out", "status": "shipped", "lines": lines(2)}});
        let received =
            json!({"transfer": {"id": "out", "status": "received", "lines": lines(2), "receivedLines": lines(1)}});
        let is = |known: &Known| {
            let transfer = known.transfer("out").expect("was asked for");
            (transfer.status, transfer.is_short, transfer.position.clone().unwrap_or_default())
        };
        says(&mut known, &book, ("s0", 2), "transfer_shipped", &shipped);
        assert_eq!(is(&known), ("shipped", false, "s0:1-2".into()));
        says(&mut known, &book, ("s1", 7), "transfer_received", &received);
        says(&mut known, &book, ("s0", 3), "transfer_shipped", &shipped);
        assert_eq!(is(&known), ("received", true, "s1:1-7".into()));
    }
}
