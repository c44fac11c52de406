//! What clients order of a store besides operations on single items, at the store itself or through central: reservations and
//! what becomes of them, batches, transfers.

use std::collections::{BTreeMap, BTreeSet};

use central::links::presence::Reading;
use central::storage::{items, reservations as held, stores, transfers as sent_units};
use protocol::ids::{OperationId, ReservationId, StoreId};
use protocol::time::Millis;
use serde_json::{Value, json};
use store_agent::ledger;

use super::agent::Agent;
use super::clients::{Ask, Sent, What};
use super::holds::written;
use super::servers::id_of;
use super::virtual_world::{Commit, VirtualWorld};
use crate::Dice;
use crate::judge::{
    Act, Acted, Answer, Asked, Batch, Book, Bound, By, Due, Hold, Known, Left, Line, Lines, Moving, Name, Oracle,
    Ordering, Place, Receipt, Reserved, Says, Shop, Stands, State, Status, Transfer, Wish, decide, line,
};

/// How long the source of a transfer may take to hear of it, ms.
const SHIP_WITHIN_MS: i64 = 60_000;
/// Commands, and batches among them, that a store may have to answer: then it gets no more.
const UNANSWERED_MAX: usize = 2_000;
const UNANSWERED_BATCHES_MAX: usize = 16;
/// Why units cannot be had.
const WANTING: [&str; 3] = ["unknown_product", "discontinued", "insufficient_stock"];

/// What is asked of a store.
#[derive(Debug, Clone)]
pub(super) enum Order {
    Reserve {
        lines: Lines,
        ttl_ms: i64,
    },
    Act {
        reservation: Name,
        act: Act,
    },
    Batch {
        lines: Vec<(Name, Wish)>,
        atomic: bool,
    },
    /// Through central alone.
    Ship {
        to: StoreId,
        lines: Lines,
        auto: bool,
    },
    Receive {
        transfer: Name,
        /// None: all of it.
        lines: Option<Lines>,
    },
}

fn stated(lines: &Lines) -> Value {
    lines.iter().map(|(product, units)| json!({"productId": **product, "quantity": units})).collect()
}

fn stated_wish((product, wish): &(Name, Wish)) -> Value {
    let mut line = match wish {
        Wish::Sell(units) => json!({"op": "sell", "quantity": units}),
        Wish::Receive(units) => json!({"op": "receive", "quantity": units}),
        Wish::Adjust(delta) => json!({"op": "adjust", "delta": delta, "reason": "damage"}),
        Wish::Count { units, .. } => json!({"op": "count", "quantity": units}),
        Wish::Create { name, quantity, .. } => json!({"op": "create", "name": **name, "quantity": quantity}),
        Wish::Allot(_) | Wish::Change { .. } => Value::Null,
    };
    line["productId"] = (**product).into();
    line
}

fn some_lines(dice: &mut Dice, products: &[Name]) -> Lines {
    let mut lines = BTreeMap::new();
    for _ in 0..if dice.chance(400) { 2 } else { 1 } {
        if let Some(product) = dice.pick(products).cloned() {
            *lines.entry(product).or_default() += dice.between(1, 3);
        }
    }
    lines.into_iter().collect()
}

impl Order {
    fn reserve(dice: &mut Dice, lines: Lines) -> Self {
        let ttl_ms = if dice.chance(400) { 1_000 * dice.between(1, 3) } else { 600_000 };
        Self::Reserve { lines, ttl_ms }
    }

    /// Of one of these reservations, with the product that it names first.
    fn act(dice: &mut Dice, known: &[(Name, Name)]) -> Option<Self> {
        // The latest are those of which something may become.
        let latest = &known[known.len().saturating_sub(6)..];
        let (reservation, product) = dice.pick(latest).cloned()?;
        let act = match dice.below(5) {
            0 => Act::Cancel,
            1 => Act::Extend(if dice.chance(300) { 1_000 } else { 600_000 }),
            2..=3 => Act::Confirm(None),
            _ => Act::Confirm(Some(vec![(product, dice.between(1, 2))])),
        };
        Some(Self::Act { reservation, act })
    }

    fn batch(dice: &mut Dice, products: &[Name]) -> Self {
        let mut line = |_| {
            let wish = match dice.below(10) {
                0..=3 => Wish::Sell(dice.between(1, 4)),
                4..=5 => Wish::Receive(dice.between(1, 6)),
                6..=7 => Wish::Adjust(-dice.between(1, 2)),
                8 => Wish::Count { units: dice.between(0, 12), at: None },
                _ => Wish::Create { name: "batched".into(), quantity: dice.between(0, 12), low_at: None },
            };
            Some((dice.pick(products).cloned()?, wish))
        };
        let lines = (0..line_count(products.len())).filter_map(&mut line).collect();
        Self::Batch { lines, atomic: dice.chance(500) }
    }

    /// One of these transfers, each with its first line.
    fn receive(dice: &mut Dice, known: &[(Name, (Name, i64))]) -> Option<Self> {
        let latest = &known[known.len().saturating_sub(3)..];
        let (transfer, (product, units)) = dice.pick(latest).cloned()?;
        let part = vec![(product, dice.between(1, units + 1))];
        Some(Self::Receive { transfer, lines: dice.chance(500).then_some(part) })
    }

    /// As a request: its path and its body.
    fn request(&self, store: &StoreId, by: By) -> (String, Value) {
        let (path, mut body) = match self {
            Self::Reserve { lines, ttl_ms } => {
                ("/reservations".to_owned(), json!({"lines": stated(lines), "ttlSeconds": ttl_ms / 1_000}))
            }
            Self::Act { reservation, act } => {
                let (verb, body) = match act {
                    Act::Confirm(None) => ("confirm", json!({})),
                    Act::Confirm(Some(part)) => ("confirm", json!({"lines": stated(part)})),
                    Act::Cancel => ("cancel", json!({})),
                    Act::Extend(ttl_ms) => ("extend", json!({"ttlSeconds": ttl_ms / 1_000})),
                };
                (format!("/reservations/{reservation}/{verb}"), body)
            }
            Self::Batch { lines, atomic } => {
                let operations: Value = lines.iter().map(stated_wish).collect();
                ("/operations".to_owned(), json!({"operations": operations, "atomic": atomic}))
            }
            Self::Ship { to, lines, auto } => {
                let body = json!({
                    "fromStoreId": store.as_str(), "toStoreId": to.as_str(), "lines": stated(lines), "autoReceive": auto,
                });
                ("/transfers".to_owned(), body)
            }
            Self::Receive { transfer, lines } => {
                let body = lines.as_ref().map_or(json!({}), |lines| json!({"lines": stated(lines)}));
                (format!("/transfers/{transfer}/receive"), body)
            }
        };
        if by == By::Central && matches!(self, Self::Reserve { .. } | Self::Batch { .. }) {
            body["storeId"] = store.as_str().into();
        }
        (path, body)
    }

    /// What a store may record for it, which has this name there.
    pub(super) fn operations(&self, operation: &Name) -> Vec<Name> {
        match self {
            Self::Batch { lines, .. } => (0..lines.len()).map(|index| line(operation, index)).collect(),
            Self::Reserve { .. } | Self::Act { .. } | Self::Ship { .. } | Self::Receive { .. } => {
                vec![operation.clone()]
            }
        }
    }

    fn receipt(&self, store: &str, by: By) -> Option<Receipt> {
        let Self::Receive { transfer, lines } = self else { return None };
        Some(Receipt { store: store.into(), transfer: transfer.clone(), lines: lines.clone(), by })
    }

    /// Writes down what a store is asked for at its own server.
    pub(super) fn write_down(&self, book: &mut Book, store: &StoreId, operation: &Name) {
        let of: Name = store.as_str().into();
        match self {
            Self::Reserve { lines, ttl_ms } => {
                let reservation = made_by(operation);
                let (lines, ttl_ms) = (lines.clone(), *ttl_ms);
                let hold = Hold { store: of, reservation, lines, ttl_ms, by: By::Store, deadline: i64::MAX };
                book.holds.insert(operation.clone(), hold);
            }
            Self::Act { reservation, act } => {
                let acted = Acted { store: of, reservation: reservation.clone(), act: act.clone(), by: By::Store };
                book.acts.insert(operation.clone(), acted);
            }
            Self::Batch { lines, .. } => {
                for (index, (product, wish)) in lines.iter().enumerate() {
                    let (store, product, wish) = (of.clone(), product.clone(), wish.clone());
                    book.items.insert(line(operation, index), Asked { store, product, wish, by: By::Store });
                }
            }
            Self::Receive { .. } => {
                book.receipts.extend(self.receipt(&of, By::Store).map(|asked| (operation.clone(), asked)))
            }
            Self::Ship { .. } => {}
        }
    }
}

fn line_count(products: usize) -> usize {
    products + 1
}

/// The reservation that a store makes by an operation.
fn made_by(operation: &str) -> Name {
    let operation = OperationId::parse(operation).expect("an id");
    ReservationId::of(&operation).to_string().into()
}

/// What a transaction has written into a store's log, read request by request.
pub(super) struct Written {
    /// Whose: the agent's number.
    pub(super) number: usize,
    pub(super) store: Name,
    entries: Vec<(Place, Name, Name)>,
    /// Where the log stands before the next request.
    pub(super) before: Place,
    /// Where it ends.
    to: Place,
    pub(super) epoch: u64,
    /// Of the items, before the next request.
    pub(super) versions: BTreeMap<Name, i64>,
}

impl Written {
    pub(super) fn of(
        number: usize,
        agent: &Agent,
        entries: Vec<(Place, Name, Name)>,
        from: Place,
        (epoch, versions): (u64, BTreeMap<Name, i64>),
    ) -> Self {
        let store = agent.store.as_str().into();
        Self { number, store, entries, before: from, to: agent.noted, epoch, versions }
    }

    fn find(&self, operation: &str) -> Option<usize> {
        let is_own = |(place, kind, of): &(Place, Name, Name)| {
            **of == *operation && &**kind != "low_stock" && place.seq > self.before.seq
        };
        self.entries.iter().position(is_own)
    }

    /// Whether something is recorded for an operation behind that.
    fn has(&self, operation: &str) -> bool {
        self.find(operation).is_some()
    }

    /// Whether anything is recorded for it.
    pub(super) fn names(&self, operation: &str) -> bool {
        self.entries.iter().any(|(_, kind, of)| **of == *operation && &**kind != "low_stock")
    }

    /// Goes on behind the entry of an operation, and what follows from it. Says where it stands.
    pub(super) fn take(&mut self, oracle: &Oracle, operation: &str) -> Option<Place> {
        let own = self.find(operation)?;
        let (place, before) = (self.entries[own].0, self.before);
        let follows = |(at, kind, _): &&(Place, Name, Name)| {
            &**kind == "low_stock" || &**kind == "allotment_changed" && oracle.is_raise(&self.store, *at)
        };
        self.before = self.entries[own + 1..].iter().take_while(follows).last().map_or(place, |last| last.0);
        for (at, ..) in &self.entries {
            if (before.seq + 1..=self.before.seq).contains(&at.seq) {
                self.versions.extend(oracle.versions(&self.store, *at));
            }
        }
        Some(place)
    }

    /// As an answer names it.
    pub(super) fn position(&self, at: Place) -> Option<String> {
        Some(format!("{}:{}-{}", self.store, at.epoch, at.seq))
    }

    /// An item before the next request.
    pub(super) fn left(&self, oracle: &Oracle, product: &Name) -> Left {
        let item = oracle.shop(&self.store, self.before).items.get(product).cloned().unwrap_or_default();
        Left { product: product.clone(), item, version: self.versions.get(product).copied() }
    }
}

impl VirtualWorld {
    fn product_names(&self) -> Vec<Name> {
        self.products.iter().map(|product| product.as_str().into()).collect()
    }

    /// Somebody orders something at a store.
    pub(super) fn order_at_store(&mut self) {
        let products = self.product_names();
        let dice = &mut self.clients.dice;
        let has_coming = |agent: &&Agent| {
            let known = ledger::transfers::all(&agent.file).expect("transfers can be read");
            known.iter().any(|transfer| {
                transfer.to == agent.store && transfer.state == protocol::domain::transfer::State::Shipped
            })
        };
        let waiting: Vec<&Agent> = self.agents.iter().filter(has_coming).collect();
        let agent = match dice.pick(&waiting) {
            Some(agent) if dice.clone().chance(500) => agent,
            _ => &self.agents[dice.below(self.agents.len() as u64) as usize],
        };
        let store = agent.store.clone();
        let known = ledger::transfers::all(&agent.file).expect("transfers can be read");
        let is_coming = |transfer: &&protocol::domain::transfer::Transfer| {
            transfer.to == store && transfer.state == protocol::domain::transfer::State::Shipped
        };
        let coming_here: Vec<_> = known.iter().filter(is_coming).map(coming).collect();
        let order = match dice.below(10) {
            _ if !coming_here.is_empty() && dice.chance(400) => Order::receive(dice, &coming_here),
            0..=2 => {
                let lines = some_lines(dice, &products);
                Some(Order::reserve(dice, lines))
            }
            3..=5 => {
                let known = ledger::reservations::all(&agent.file).expect("reservations can be read");
                let known: Vec<_> = known.iter().map(|held| named(held.id, &held.lines)).collect();
                Order::act(dice, &known)
            }
            6..=7 => Some(Order::batch(dice, &products)),
            _ => Order::receive(dice, &known.iter().map(coming).collect::<Vec<_>>()),
        };
        self.order(store, By::Store, order);
    }

    /// Somebody orders something of a store through central.
    pub(super) fn order_through_central(&mut self) {
        let products = self.product_names();
        // Mostly of a store that may be asked, for what central sees there.
        let may_be = |store: &&StoreId| {
            let known = stores::find(&self.central.file, store).expect("the view can be read");
            known.is_some() && self.may_be_asked(store, None)
        };
        let usable: Vec<StoreId> = self.stores.iter().filter(may_be).cloned().collect();
        let dice = &mut self.clients.dice;
        let is_any = dice.chance(80);
        if usable.is_empty() && !is_any {
            return self.order_at_store();
        }
        let from = if is_any { &self.stores } else { &usable };
        let Some(mut store) = dice.pick(from).cloned() else { return };
        let file = &self.central.file;
        let has = |(product, units): &(Name, i64)| {
            let id = self.products.iter().find(|id| id.as_str() == &**product).expect("a product");
            let item = items::find(file, &store, id).expect("the view can be read");
            item.is_some_and(|item| item.available() >= *units)
        };
        let mut lines = some_lines(dice, &products);
        for _ in 0..6 {
            if lines.iter().all(has) || dice.chance(100) {
                break;
            }
            lines = some_lines(dice, &products);
        }
        let filter =
            ::central::storage::queries::transfers::Filter { status: Some("shipped".into()), ..Default::default() };
        let slice = ::central::storage::queries::Slice { after: None, offset: 0, limit: 21 };
        let on_the_way = ::central::storage::queries::transfers::list(file, &filter, &slice);
        let is_any = on_the_way.is_ok_and(|on_the_way| !on_the_way.rows.is_empty());
        let order = match if is_any && dice.chance(300) { 11 } else { dice.below(12) } {
            0..=2 => Some(Order::reserve(dice, lines)),
            3..=4 => {
                let filter = ::central::storage::queries::reservations::Filter::default();
                let slice = ::central::storage::queries::Slice { after: None, offset: 0, limit: 21 };
                let known = ::central::storage::queries::reservations::list(file, &filter, &slice);
                let known = known.expect("the view can be read").rows;
                let order =
                    Order::act(dice, &known.iter().rev().map(|held| named(held.id, &held.lines)).collect::<Vec<_>>());
                let of = |held: &&held::Reservation| matches!(&order, Some(Order::Act { reservation, .. }) if **reservation == *held.id.to_string());
                store = known.iter().find(of).map_or(store, |held| held.store.clone());
                order
            }
            5 => Some(Order::batch(dice, &products)),
            6..=9 => {
                let others: Vec<StoreId> = self.stores.iter().filter(|other| **other != store).cloned().collect();
                let auto = dice.chance(200);
                dice.pick(&others).cloned().map(|to| Order::Ship { to, lines, auto })
            }
            _ => {
                let filter = ::central::storage::queries::transfers::Filter::default();
                let slice = ::central::storage::queries::Slice { after: None, offset: 0, limit: 21 };
                let known = ::central::storage::queries::transfers::list(file, &filter, &slice);
                let known = known.expect("the view can be read").rows;
                let order =
                    Order::receive(dice, &known.iter().rev().map(|sent| coming(&sent.transfer)).collect::<Vec<_>>());
                let of = |sent: &&sent_units::Transfer| matches!(&order, Some(Order::Receive { transfer, .. }) if **transfer == *sent.transfer.id.to_string());
                store = known.iter().find(of).map_or(store, |sent| sent.transfer.to.clone());
                order
            }
        };
        self.order(store, By::Central, order);
    }

    fn order(&mut self, store: StoreId, by: By, order: Option<Order>) {
        let Some(order) = order else { return };
        let (path, body) = order.request(&store, by);
        let key = format!("key-{}", self.clients.number()).into();
        let what = What::Order { store, by, order };
        self.ask(Ask { key, method: "POST", path, body, if_match: None, what });
    }

    /// Works out what an order at a store must have come to, and how it must be answered.
    pub(super) fn judge_order(&mut self, log: &mut Written, sent: &mut Sent) -> Option<Due> {
        let What::Order { order, .. } = sent.ask.what.clone() else { return None };
        match &order {
            Order::Batch { lines, atomic } => self.judge_batch(log, sent, lines, *atomic),
            Order::Reserve { .. } => {
                let reservation = made_by(sent.ask.operation(sent.clock).as_str());
                self.judge_single(log, sent, &order, reservation)
            }
            Order::Act { reservation: subject, .. } | Order::Receive { transfer: subject, .. } => {
                self.judge_single(log, sent, &order, subject.clone())
            }
            Order::Ship { .. } => None,
        }
    }

    /// The same of one that is recorded as one entry. `subject`: the reservation or transfer that it is about.
    fn judge_single(&mut self, log: &mut Written, sent: &mut Sent, order: &Order, subject: Name) -> Option<Due> {
        let (key, request) = (sent.ask.key.clone(), sent.ask.request());
        let operation: Name = sent.ask.operation(sent.clock).as_str().into();
        let store = log.store.clone();
        let says = |oracle: &Oracle, at: Place, subject: &Name| {
            let shop = oracle.shop(&store, at);
            match order {
                Order::Receive { .. } => {
                    shop.sent.get(subject).cloned().map(|sent| Says::Transfer(subject.clone(), sent))
                }
                _ => shop.holds.get(subject).cloned().map(|held| Says::Hold(subject.clone(), held)),
            }
        };
        let due = |status, says: Option<Says>, position, is_replay| {
            says.map(|says| Due::Done { status, says, position, is_replay, told: None })
        };
        let shop = self.oracle.shop(&log.store, log.before);
        match self.agents[log.number].bound.find(&key, &request) {
            Stands::Other => return Some(Due::refused("idempotency_key_reused")),
            // What it stands for moves on by itself: it is told as it is when all of this is on disk.
            Stands::Same(bound) => {
                return due(200, says(&self.oracle, log.to, &bound.effect), log.position(bound.place), true);
            }
            Stands::Free if shop.done.contains_key(&operation) => {
                self.count("orders repeated after a restore");
                return due(200, says(&self.oracle, log.to, &subject), log.position(log.before), true);
            }
            Stands::Free => {}
        }
        let (place, status) = match self.comes_to(&shop, order, &log.store, sent.clock.0) {
            Err(reason) => return Some(Due::refused(reason)),
            Ok(false) => (log.before, 200),
            Ok(true) => {
                let Some(place) = log.take(&self.oracle, &operation) else {
                    self.oracle.break_(format!("P4: {key} {request} must be done, and is not recorded"));
                    return None;
                };
                sent.recorded.push(operation);
                (place, if matches!(order, Order::Reserve { .. }) { 201 } else { 200 })
            }
        };
        let bound = Bound { request, effect: subject.clone(), place, says: None, told: None };
        self.agents[log.number].bound.bind(key, bound);
        due(status, says(&self.oracle, place, &subject), log.position(place), false)
    }

    /// Whether it is recorded, or was done before; or the reason for which it is refused.
    fn comes_to(&self, shop: &Shop, order: &Order, store: &Name, clock: i64) -> Result<bool, &'static str> {
        match order {
            Order::Reserve { lines, .. } => {
                let free = shop.without_due(lines.iter().map(|(product, _)| &**product), clock);
                free.may_hold(lines).map(|()| true)
            }
            Order::Act { reservation, act } => {
                let known = shop.holds.get(reservation).ok_or("unknown_reservation")?;
                known.decide(act, clock).map(|after| after.is_some())
            }
            Order::Receive { .. } => {
                let receipt = order.receipt(store, By::Store).ok_or("unknown_transfer")?;
                shop.may_receive(store, &self.oracle.book, &receipt).map(|_| true)
            }
            Order::Batch { .. } | Order::Ship { .. } => Ok(true),
        }
    }

    fn judge_batch(&mut self, log: &mut Written, sent: &mut Sent, asked: &[(Name, Wish)], atomic: bool) -> Option<Due> {
        let (key, request, clock) = (sent.ask.key.clone(), sent.ask.request(), sent.clock.0);
        let operation: Name = sent.ask.operation(sent.clock).as_str().into();
        match self.agents[log.number].bound.find(&key, &request) {
            Stands::Other => return Some(Due::refused("idempotency_key_reused")),
            Stands::Same(Bound { place, says, told, .. }) => {
                let position = log.position(place);
                return says.map(|says| Due::Done { status: 200, says: *says, position, is_replay: true, told });
            }
            Stands::Free => {}
        }
        let shop = self.oracle.shop(&log.store, log.before);
        let names: Vec<Name> = (0..asked.len()).map(|index| line(&operation, index)).collect();
        let is_begun = names.iter().any(|name| shop.done.contains_key(name));
        if is_begun {
            self.count("batches repeated after a restore");
        }
        let is_recorded = names.iter().any(|name| log.has(name));
        let codes = shop.foresee(&operation, asked.len(), |_| None, clock, &self.oracle.book).unwrap_or_default();
        // Of two requests under one key the earlier may be refused, and the later be done in the same transaction.
        let is_refused = codes.iter().any(Option::is_some);
        if atomic && !is_begun && (is_refused || !is_recorded) {
            if codes.len() < asked.len() {
                return Some(Due::refused("batch_refused"));
            }
            if codes.iter().all(Option::is_none) {
                self.oracle.break_(format!("P4: {key} {request} must be done, and is not recorded"));
                return None;
            }
            let line = |code: Option<&str>| code.map_or(Line::NotExecuted, refused_line);
            return Some(Due::Undone(codes.into_iter().map(line).collect()));
        }
        let mut lines = Vec::new();
        for (name, (product, wish)) in names.into_iter().zip(asked) {
            let shop = self.oracle.shop(&log.store, log.before);
            if shop.done.contains_key(&name) {
                lines.push(Line::Done(Some(log.left(&self.oracle, product))));
                continue;
            }
            let free = shop.without_due([&**product], clock);
            if let Err(code) = decide(free.items.get(product), wish, None) {
                lines.push(refused_line(code));
                continue;
            }
            if log.take(&self.oracle, &name).is_none() {
                let item = free.items.get(product);
                self.oracle
                    .break_(format!("P4: {name} of {key} {request} must be done, {item:?}, and is not recorded"));
                return None;
            }
            sent.recorded.push(name);
            lines.push(Line::Done(Some(log.left(&self.oracle, product))));
        }
        if atomic && !is_begun && lines.iter().any(|line| matches!(line, Line::Refused(_))) {
            self.oracle.break_(format!("P4: {key} {request} is done in part: {lines:?}"));
        }
        let (place, says) = (log.before, Says::Lines(lines));
        let bound = Bound { request, effect: operation, place, says: Some(says.clone().into()), told: None };
        self.agents[log.number].bound.bind(key, bound);
        Some(Due::Done { status: 200, says, position: log.position(place), is_replay: false, told: None })
    }

    /// A store has answered an order.
    pub(super) fn count_ordered(&mut self, sent: &Sent, answer: &Answer) {
        let What::Order { order, .. } = &sent.ask.what else { return };
        for operation in &sent.recorded {
            self.oracle.acked(operation);
        }
        let is_first = !sent.recorded.is_empty();
        let what = match order {
            Order::Reserve { .. } if is_first => "reservations made under a key",
            Order::Act { act: Act::Confirm(None), .. } if is_first => "reservations confirmed under a key",
            Order::Act { act: Act::Confirm(Some(_)), .. } if is_first => "reservations confirmed in part under a key",
            Order::Act { act: Act::Extend(_), .. } if is_first => "reservations extended under a key",
            Order::Act { act: Act::Cancel, .. } if is_first => "reservations cancelled under a key",
            Order::Act { .. } if answer.status == 200 && !answer.is_replay => "reservations found as they were to be",
            Order::Batch { .. } if answer.body["refused"].as_u64() > Some(0) => "batches done in part under a key",
            Order::Batch { .. } if is_first => "batches done under a key",
            Order::Batch { .. } if answer.code() == "batch_refused" => "batches refused as a whole",
            Order::Receive { .. } if is_first => "transfers booked in under a key",
            _ if answer.is_replay => "orders repeated",
            _ => "orders refused by a store",
        };
        self.count(what);
    }

    /// Notes why nothing may be asked of a store now for a request through central.
    pub(super) fn note_refusals(&self, sent: &mut Sent) {
        let mut reasons = BTreeSet::new();
        match &sent.ask.what {
            What::Buy { store: Some(store), lines, .. } => {
                self.why_not_asked(store, sent, &mut reasons);
                reasons.extend(self.why_not_sold(store, &written(lines), true));
            }
            What::Buy { store: None, lines, .. } => reasons = self.why_none_sells(&written(lines), sent),
            What::Order { store, order, .. } => {
                self.why_not_asked(store, sent, &mut reasons);
                let lacks = match order {
                    Order::Reserve { lines, .. } => self.why_not_sold(store, lines, true),
                    Order::Ship { lines, .. } => self.why_not_sold(store, lines, false),
                    Order::Act { .. } | Order::Receive { .. } | Order::Batch { .. } => BTreeSet::new(),
                };
                for known in self.oracle.may_know() {
                    reasons.extend(self.why_not_ordered(&known, store, order, &lacks));
                }
                if matches!(order, Order::Act { reservation, .. } if self.oracle.known.may_lack(reservation)) {
                    reasons.extend(["unknown_id", "reservation_closed", "reservation_expired"]);
                }
            }
            What::Item { .. } | What::Cancel { .. } => {}
        }
        sent.refusals.extend(reasons.into_iter().map(Name::from));
    }

    /// The same of one that is on its way.
    pub(super) fn note_refusals_of(&mut self, at: usize) {
        let mut sent = self.clients.sent.remove(at);
        self.note_refusals(&mut sent);
        self.clients.sent.insert(at, sent);
    }

    /// Whether a store may be asked for anything, by its heartbeat as it is now and as central has read it for a request.
    fn may_be_asked(&self, store: &StoreId, sent: Option<&Sent>) -> bool {
        let may = |reading: &Reading| {
            let beat = reading.heartbeat.as_ref().map(|beat| (beat.epoch.get(), reading.age_ms));
            self.oracle.may_sell(&self.central.file, store.as_str(), beat).expect("the view can be read").is_ok()
        };
        let looked =
            sent.and_then(|sent| sent.looked.as_ref()).filter(|(of, _)| of == store).map(|(_, reading)| reading);
        self.central.network && !self.central.is_stopped(store) && may(&self.heartbeat(store)) && looked.is_none_or(may)
    }

    /// Why a store cannot be asked for anything.
    fn why_not_asked(&self, store: &StoreId, sent: &Sent, reasons: &mut BTreeSet<&'static str>) {
        let known = &self.oracle.known;
        if known.is_retired(store.as_str()) {
            reasons.insert("store_retired");
        }
        if !known.has_heard_of(store.as_str()) {
            // It may have heard of it, and of nothing that it has said.
            reasons.extend(["unknown_store", "store_unavailable"]);
            return;
        }
        if !self.may_be_asked(store, Some(sent)) {
            reasons.insert("store_unavailable");
        }
        if known.open(store.as_str()).count() >= UNANSWERED_MAX {
            reasons.insert("overloaded");
        }
    }

    /// Why central has not these units of a store to give, if so many of each as it says are kept for others. `online`: those
    /// that are set aside for that are among them.
    fn why_not_taken(
        &self,
        store: &StoreId,
        lines: &Lines,
        online: bool,
        kept: impl Fn(&Name) -> i64,
    ) -> BTreeSet<&'static str> {
        let view = self.view(store);
        let why_not = |(product, units): &(Name, i64)| match view.items.get(product) {
            None => Some("unknown_product"),
            Some(item) if item.discontinued && online => Some("discontinued"),
            Some(item) => {
                let aside = if online { item.allotted } else { 0 };
                (*units > item.available() + aside - kept(product)).then_some("insufficient_stock")
            }
        };
        lines.iter().filter_map(why_not).collect()
    }

    /// The same with as many as there may be that unanswered purchases keep from others; whatever it may be where a fault has
    /// made central's own units wrong.
    fn why_not_sold(&self, store: &StoreId, lines: &Lines, online: bool) -> BTreeSet<&'static str> {
        if self.oracle.known.is_unsure(store.as_str()) {
            return WANTING.into();
        }
        let kept = |known: &Known, product: &Name| known.pending(&self.oracle.book, store.as_str(), product);
        let known = self.oracle.may_know();
        let most = |product: &Name| known.iter().map(|known| kept(known, product)).max().unwrap_or(0);
        self.why_not_taken(store, lines, online, most)
    }

    /// Why central finds no store that sells these units.
    fn why_none_sells(&self, lines: &Lines, sent: &Sent) -> BTreeSet<&'static str> {
        if self.stores.iter().any(|store| self.oracle.known.is_unsure(store.as_str())) {
            return WANTING.into_iter().chain(["store_unavailable"]).collect();
        }
        let of = |sold: &dyn Fn(&StoreId) -> BTreeSet<&'static str>| {
            let (mut of_stores, mut is_known, mut has_some) = (BTreeSet::new(), false, false);
            for store in &self.stores {
                let (mut of_store, mut away) = (sold(store), BTreeSet::new());
                self.why_not_asked(store, sent, &mut away);
                if of_store.is_empty() && away.is_empty() {
                    return BTreeSet::new();
                }
                // What a retired store has counts for nothing.
                let is_there = !away.contains("store_retired") && !away.contains("unknown_store");
                is_known |= is_there && !of_store.contains("unknown_product");
                has_some |= is_there && of_store.is_empty();
                of_stores.append(&mut of_store);
            }
            let why = match (is_known, has_some) {
                (false, _) => "unknown_product",
                (true, false) => "insufficient_stock",
                (true, true) => "store_unavailable",
            };
            let discontinued = of_stores.contains("discontinued").then_some("discontinued");
            discontinued.into_iter().chain([why]).collect::<BTreeSet<_>>()
        };
        let mut reasons = of(&|store| self.why_not_sold(store, lines, true));
        reasons.extend(of(&|store| self.why_not_taken(store, lines, true, |_| 0)));
        reasons
    }

    /// Why central asks no store for an order, whoever has what. `lacks`: why it has not the units.
    fn why_not_ordered(
        &self,
        known: &Known,
        store: &StoreId,
        order: &Order,
        lacks: &BTreeSet<&'static str>,
    ) -> BTreeSet<&'static str> {
        match order {
            Order::Reserve { .. } => lacks.clone(),
            Order::Ship { to, .. } => {
                let is_full = known.open(to.as_str()).count() >= UNANSWERED_MAX;
                let why_not_there = [
                    (!known.has_heard_of(to.as_str())).then_some("unknown_store"),
                    known.is_retired(to.as_str()).then_some("store_retired"),
                    is_full.then_some("overloaded"),
                ];
                lacks.iter().copied().chain(why_not_there.into_iter().flatten()).collect()
            }
            Order::Act { reservation, act } => {
                let ended = known.hold(reservation).map(Reserved::ended);
                let why_not = match ended {
                    None => Some("unknown_id"),
                    Some(Some(ended)) => ended.and_then(|ended| ended.decide(act, i64::MIN)).err(),
                    Some(None) => None,
                };
                why_not.into_iter().collect()
            }
            Order::Receive { transfer, .. } => {
                let why_not = match known.transfer(transfer).map(|known| known.status) {
                    None => Some("unknown_id"),
                    Some("shipped") => None,
                    Some(_) => Some("transfer_closed"),
                };
                why_not.into_iter().collect()
            }
            Order::Batch { .. } => {
                let batches =
                    known.open(store.as_str()).filter(|command| self.oracle.book.batches.contains_key(*command));
                (batches.count() >= UNANSWERED_BATCHES_MAX).then_some("overloaded").into_iter().collect()
            }
        }
    }

    /// Why central must not ask a store for an order, whatever it may know.
    fn must_not_be_asked(&self, store: &StoreId, order: &Order) -> Option<&'static str> {
        let lacks = match order {
            _ if self.oracle.known.is_unsure(store.as_str()) => BTreeSet::new(),
            Order::Reserve { lines, .. } => self.why_not_taken(store, lines, true, |_| 0),
            Order::Ship { lines, .. } => self.why_not_taken(store, lines, false, |_| 0),
            Order::Act { reservation, .. } if self.oracle.known.may_lack(reservation) => return None,
            Order::Act { .. } | Order::Receive { .. } | Order::Batch { .. } => BTreeSet::new(),
        };
        let known = self.oracle.may_know();
        let of_each = known.iter().map(|known| {
            let mut reasons = self.why_not_ordered(known, store, order, &lacks);
            reasons.extend(Self::is_done_before(known, order).then_some("done_before"));
            reasons.extend(known.is_retired(store.as_str()).then_some("store_retired"));
            // Whether it has heard of a store that has said nothing yet is for it to say.
            reasons.remove("unknown_store");
            reasons
        });
        of_each.reduce(|some, other| &some & &other).unwrap_or_default().pop_first()
    }

    /// Whether a reservation has ended as it is asked to: then central asks no store.
    fn is_done_before(known: &Known, order: &Order) -> bool {
        let Order::Act { reservation, act } = order else { return false };
        let ended = known.hold(reservation).and_then(Reserved::ended);
        ended.is_some_and(|ended| ended.is_ok_and(|ended| ended.decide(act, i64::MIN) == Ok(None)))
    }

    /// Writes down what a store may be asked for through central, by a transaction that is about to be. Says whether it may be asked.
    pub(super) fn note_order(&mut self, at: usize) -> Result<(), String> {
        let number = self.clients.sent[at].number;
        let What::Order { store, order, .. } = self.clients.sent[at].ask.what.clone() else { return Ok(()) };
        self.clients.sent[at].must_not = self.must_not_be_asked(&store, &order);
        let looked = self.clients.sent[at].looked.clone();
        let (of, command): (Name, Name) = (store.as_str().into(), command_of(number, &order));
        let redis_now = looked.as_ref().map_or(self.now, |(_, looked)| looked.redis_now.0);
        let book = &mut self.oracle.book;
        match &order {
            Order::Reserve { lines, ttl_ms } => {
                let reservation = id_of(number).to_string().into();
                let (lines, ttl_ms, deadline) = (lines.clone(), *ttl_ms, redis_now + ttl_ms);
                book.holds.insert(command, Hold { store: of, reservation, lines, ttl_ms, by: By::Central, deadline });
            }
            Order::Act { reservation, act } => {
                let acted = Acted { store: of, reservation: reservation.clone(), act: act.clone(), by: By::Central };
                book.acts.insert(command, acted);
            }
            Order::Batch { lines, atomic } => {
                let asked = Batch { store: of, lines: lines.len(), atomic: *atomic };
                book.ask_batch(&command, asked, lines.iter().cloned());
            }
            Order::Ship { to, lines, auto } => {
                let transfer: Name = id_of(number).to_string().into();
                let (to, lines, deadline) = (to.as_str().into(), lines.clone(), redis_now + SHIP_WITHIN_MS);
                book.transfers.insert(transfer.clone(), Transfer { from: of, to, lines, auto: *auto, deadline });
                book.ships.insert(command, transfer);
            }
            Order::Receive { .. } => {
                book.receipts.extend(order.receipt(&of, By::Central).map(|asked| (command, asked)))
            }
        }
        match looked {
            Some((asked, reading)) if asked == store => self.may_sell_as_looked(&store, &reading),
            _ => Ok(()),
        }
    }

    /// What an order through central has asked a store for, in a transaction that is over.
    pub(super) fn judge_ordered(&mut self, sent: &mut Sent, end: Commit, allowed: Result<(), String>) {
        let What::Order { store, order, .. } = sent.ask.what.clone() else { return };
        let (key, request, command) = (sent.ask.key.clone(), sent.ask.request(), command_of(sent.number, &order));
        let is_asked = self.oracle.known.is_asked(&command);
        let stands = self.central.bound.find(&key, &request);
        let bound = Bound { request, effect: command.clone(), place: Place::default(), says: None, told: None };
        self.note_refusals(sent);
        // One that had not ended when the request came is asked for only if its store may be.
        let may_be = sent.looked.is_none() || allowed.is_ok() && !self.central.is_stopped(&store);
        match (is_asked, stands) {
            (true, Stands::Free) => {
                if let Err(broken) = allowed {
                    self.oracle.break_(format!("{broken} ({key} {})", sent.ask.request()));
                }
                if let Some(reason) = sent.must_not {
                    self.oracle
                        .break_(format!("P4: {command} asks {store} for what must be refused ({reason}): {order:?}"));
                }
                self.central.bound.bind(key.clone(), bound);
                sent.command = Some((command.clone(), self.now));
                self.say(|| format!("{key} {}: {command} to {store}", sent.ask.request()));
                self.count(match order {
                    Order::Reserve { .. } => "reservations asked through central under a key",
                    Order::Act { .. } => "commands to reservations under a key",
                    Order::Batch { .. } => "batches asked through central under a key",
                    Order::Ship { .. } => "transfers asked for under a key",
                    Order::Receive { .. } => "transfers received through central under a key",
                });
            }
            (true, stands) => {
                self.oracle.break_(format!("P3: {key} has asked by {command}, and stands for {stands:?}"))
            }
            (false, Stands::Free) if end != Commit::Before && may_be && self.may_be_done(&order) => {
                self.central.bound.bind(key, bound);
                sent.command = Some((command, self.now));
                self.count("reservations found by central as they were to be");
            }
            (false, Stands::Free) => {}
            (false, Stands::Same(bound)) => {
                (sent.command, sent.is_replay) = (Some((bound.effect, self.now)), true);
                self.count("requests that came twice before they were written");
            }
            (false, Stands::Other) => sent.is_other = true,
        }
        if end != Commit::Done {
            self.say(|| format!("{}: central dies at the commit", sent.ask.key));
        }
    }

    /// An order through central was answered, waits to be written, or waits for a store.
    pub(super) fn after_go_on_order(&mut self, mut sent: Sent, answer: Option<Answer>) {
        let (key, request) = (sent.ask.key.clone(), sent.ask.request());
        let since = sent.command.as_ref().map_or(self.now, |(_, since)| *since);
        let due = match &sent.command {
            Some((command, _)) => self.may_say(&sent, command).map(|due| due.into_iter().map(Some).collect()),
            None => Some(vec![None]),
        };
        let judged = due.map(|due: Vec<Option<(bool, Due)>>| {
            let of = |command| Ordering {
                command,
                refusals: &sent.refusals,
                is_other: sent.is_other,
                is_replay: sent.is_replay,
                waited_ms: self.now - since,
                patience_ms: sent.waits_for(since),
            };
            let judge = |command| match &answer {
                Some(answer) => of(command).judge(answer),
                None => of(command).judge_wait(),
            };
            // While a state is taken in more than one thing may be said.
            due.into_iter()
                .map(judge)
                .reduce(|first, other| if first.is_err() && other.is_ok() { other } else { first })
        });
        let is_judged = answer.is_some() || sent.command.is_some() || sent.is_other;
        match judged {
            Some(Some(Err(broken))) if is_judged => self.oracle.break_(format!("{broken} ({key} {request})")),
            Some(_) => {}
            None => self.count("answers about what a fault may have left out"),
        }
        let Some(answer) = answer else {
            sent.queued = (!is_judged).then(|| self.clients.number());
            return self.clients.sent.push(sent);
        };
        self.say(|| format!("{key} {request} is answered {} {}", answer.status, answer.code()));
        if answer.status == 202 {
            self.clients.open.push(sent.ask.clone());
        }
        self.count(match (answer.status, &sent.command) {
            (_, None) if sent.is_other => "other requests refused under a used key",
            (_, None) => "orders refused by central",
            _ if answer.is_replay => "answers repeated",
            (202, _) => "orders answered before the store has",
            (..300, _) => "orders waited for",
            _ => "orders refused after a wait",
        });
    }

    /// Whether a reservation may have ended as it is asked to, for all that central may know.
    fn may_be_done(&self, order: &Order) -> bool {
        let may_lack = matches!(order, Order::Act { reservation, .. } if self.oracle.known.may_lack(reservation));
        may_lack || self.oracle.may_know().iter().any(|known| Self::is_done_before(known, order))
    }

    /// How an order through central may be answered now, and whether its store is still to answer: by what stores have said
    /// of it, as far as central has come. None: a fault may have left that out.
    fn may_say(&self, sent: &Sent, command: &Name) -> Option<Vec<(bool, Due)>> {
        let What::Order { order, .. } = &sent.ask.what else { return None };
        let subject = match order {
            Order::Act { reservation, .. } => reservation,
            _ => &command.split(':').next().unwrap_or_default().into(),
        };
        let known = self.oracle.may_know();
        let all = || known.iter().flat_map(|words| known.iter().map(move |things| (words, things)));
        let is_there = !self.oracle.known.may_lack(subject);
        is_there.then(|| all().map(|known| self.due(order, sent.is_replay, command, known)).collect())
    }

    /// How it must be answered if central knows so much of its answer, and so much of what it is about.
    fn due(&self, order: &Order, is_replay: bool, command: &Name, (words, things): (&Known, &Known)) -> (bool, Due) {
        let (is_open, word) = (words.is_open(command), words.word(command));
        let rejection = word.and_then(|word| word.refusal.as_deref());
        let position = word.and_then(|word| word.position.as_deref());
        let done = |status, members, position: Option<&str>| Due::Done {
            status,
            says: Says::Members(members),
            position: position.map(str::to_owned),
            is_replay,
            told: None,
        };
        let unknown = || Due::refused("unknown_id");
        let (first, again) = (command.split(':').next().unwrap_or_default(), if is_replay { 200 } else { 201 });
        let due = match order {
            Order::Reserve { .. } => match things.hold(first) {
                None => unknown(),
                Some(held) => match held.status {
                    Status::Rejected => {
                        Due::refused(rejection.or(held.code.as_deref()).unwrap_or("insufficient_stock"))
                    }
                    Status::Pending => done(202, shown(things, first, held), held.position.as_deref()),
                    Status::Said(_) => done(again, shown(things, first, held), held.position.as_deref()),
                },
            },
            Order::Ship { .. } => match things.transfer(first) {
                None => unknown(),
                Some(sent) => match sent.status {
                    "rejected" => Due::refused(rejection.or(sent.code.as_deref()).unwrap_or("transfer_closed")),
                    "requested" => done(202, self.shown_transfer(things, first, sent), sent.position.as_deref()),
                    _ => done(again, self.shown_transfer(things, first, sent), sent.position.as_deref()),
                },
            },
            _ if rejection.is_some() => Due::refused(rejection.unwrap_or_default()),
            Order::Act { reservation, .. } => match things.hold(reservation) {
                None => unknown(),
                Some(held) => done(if is_open { 202 } else { 200 }, shown(things, reservation, held), position),
            },
            Order::Receive { transfer, .. } => match things.transfer(transfer) {
                None => unknown(),
                Some(sent) => {
                    done(if is_open { 202 } else { 200 }, self.shown_transfer(things, transfer, sent), position)
                }
            },
            Order::Batch { .. } => match word.and_then(|word| word.batch.as_ref()) {
                None => done(202, vec![("commandId", (**command).into()), ("status", "pending".into())], position),
                Some((lines, is_undone, refused)) => {
                    let line = |index| match refused.iter().find(|(of, _)| *of == index) {
                        Some((_, code)) => refused_line(code),
                        None if *is_undone => Line::NotExecuted,
                        None => Line::Done(None),
                    };
                    let lines = (0..*lines).map(line).collect();
                    if *is_undone {
                        Due::Undone(lines)
                    } else {
                        let (says, position) = (Says::Lines(lines), position.map(str::to_owned));
                        Due::Done { status: 200, says, position, is_replay, told: None }
                    }
                }
            },
        };
        (is_open, due)
    }

    /// A transfer as central shows it.
    fn shown_transfer(&self, known: &Known, transfer: &str, sent: &Moving) -> Vec<(&'static str, Value)> {
        let asked = &self.oracle.book.transfers[transfer];
        let is_gone = sent.status == "shipped" && known.is_retired(&asked.to);
        vec![
            ("transferId", transfer.into()),
            ("fromStoreId", (*asked.from).into()),
            ("toStoreId", (*asked.to).into()),
            ("status", if is_gone { "received" } else { sent.status }.into()),
            ("discrepancy", (is_gone || sent.is_short).into()),
            ("autoReceive", asked.auto.into()),
        ]
    }
}

fn refused_line(reason: &str) -> Line {
    Line::Refused(crate::judge::code_of(reason).into())
}

/// The command by which central asks for an order that came with this request.
fn command_of(number: u64, order: &Order) -> Name {
    let id = id_of(number);
    match order {
        Order::Reserve { .. } => format!("{id}:reserve").into(),
        Order::Ship { .. } => format!("{id}:ship").into(),
        Order::Act { .. } | Order::Batch { .. } | Order::Receive { .. } => id.to_string().into(),
    }
}

fn named(id: ReservationId, lines: &protocol::domain::Lines) -> (Name, Name) {
    (id.to_string().into(), lines.first().product_id.as_str().into())
}

fn coming(transfer: &protocol::domain::transfer::Transfer) -> (Name, (Name, i64)) {
    let first = transfer.lines.first();
    (transfer.id.to_string().into(), (first.product_id.as_str().into(), first.quantity.get()))
}

/// A reservation as central shows it.
fn shown(known: &Known, reservation: &str, held: &Reserved) -> Vec<(&'static str, Value)> {
    let (status, taken) = match &held.status {
        Status::Pending => ("pending", None),
        Status::Rejected => ("rejected", None),
        Status::Said(State::Open) => ("open", None),
        Status::Said(State::Confirmed(taken)) => ("confirmed", Some(taken)),
        Status::Said(State::Cancelled) => ("cancelled", None),
        Status::Said(State::Expired) => ("expired", None),
    };
    let is_gone = held.status == Status::Said(State::Open) && known.is_retired(&held.store);
    let (status, code) = if is_gone { ("cancelled", Some("store_retired")) } else { (status, held.code.as_deref()) };
    let members = [
        ("reservationId", reservation.into()),
        ("storeId", (*held.store).into()),
        ("status", status.into()),
        ("code", code.into()),
        ("lines", stated(&held.lines)),
        ("confirmedLines", taken.map_or(Value::Null, stated)),
    ];
    let expires_at = held.expires_at.map(|at| ("expiresAt", Millis(at).to_string().into()));
    members.into_iter().chain(expires_at).collect()
}
