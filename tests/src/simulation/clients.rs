//! Clients of both servers' HTTP interfaces: they name what they ask for with keys, repeat it when no answer came or for no
//! reason, wait or do not, and hang up. That happens in a part of the seeds and by dice of their own, so that the others play as
//! if there were no such thing.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::extract::Request;
use central::links::presence::Reading;
use central::storage::{items, stores};
use protocol::domain::Lines;
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::promise::policy::Policy;
use protocol::time::Millis;
use rusqlite::Connection;
use serde_json::{Value, json};
use store_agent::ledger;
use store_agent::ledger::idempotency::Key;

use super::DENSE;
use super::holds::written;
use super::orders::{Order, Written};
use super::servers::{Answering, OfCentral, Server, Time, id_of};
use super::virtual_world::{Commit, VirtualWorld};
use crate::Dice;
use crate::history::{Bought, Told};
use crate::judge::{
    Answer, Asked, Bound, Buy, Buying, By, Cancel, Cancelling, Due, Name, Occasion, Place, Says, Stands, Wish, decide,
};

/// What clients remember to repeat, at most: the oldest is forgotten.
const ASKS_MAX: usize = 32;
/// A wait when nothing is said, ms.
const WAIT_MS: i64 = 2_000;
/// Older than this, ms, a request waits no longer.
const REQUEST_MS: i64 = 33_000;

/// Clients of one seed.
pub(super) struct Clients {
    pub(super) dice: Dice,
    /// Whether there are any who sell, buy and cancel.
    trades: bool,
    /// Whether there are any who order something else of stores.
    orders: bool,
    pub(super) time: Option<Time>,
    asks: Vec<Ask>,
    /// To be repeated soon.
    again: Vec<Ask>,
    /// Orders through central that a store was still to answer: who wants to know asks again.
    pub(super) open: Vec<Ask>,
    pub(super) sent: Vec<Sent>,
    /// The last number that was given.
    last: u64,
    /// Version of an item as a client was told last.
    tags: BTreeMap<(StoreId, ProductId), (u64, i64)>,
}

/// Something that a client asks for, under one key.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) key: Name,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) if_match: Option<(u64, i64)>,
    pub(super) what: What,
}

#[derive(Clone)]
pub(super) enum What {
    /// Of an item of a store.
    Item { store: StoreId, product: ProductId, wish: Wish },
    /// Of central. None: it chooses the store by a policy.
    Buy { store: Option<StoreId>, lines: Lines, ttl_ms: i64 },
    /// Of central.
    Cancel { purchase: String },
    /// Of a store, there or through central.
    Order { store: StoreId, by: By, order: Order },
}

/// A request on its way.
pub(super) struct Sent {
    /// No other has it.
    pub(super) number: u64,
    pub(super) ask: Ask,
    /// The server that has it.
    server: u64,
    /// None: the client has hung up.
    pub(super) answering: Option<Answering>,
    /// What it names next.
    next_id: u128,
    /// In which turn it queued to be written.
    pub(super) queued: Option<u64>,
    /// The process's clock when it was heard.
    pub(super) clock: Millis,
    /// When it was sent.
    at: i64,
    /// How long it is willing to wait, ms.
    patience_ms: i64,
    /// At a store: how it must be answered. It is on disk.
    pub(super) due: Option<Due>,
    /// At central: the purchase that its key stands for, and since when it waits for that.
    purchase: Option<(Name, i64)>,
    pub(super) is_other: bool,
    pub(super) is_replay: bool,
    /// A cancel that came before is asked for once more.
    is_second: bool,
    /// A cancel that was asked for, and the refusal if it could not be: since when it waits.
    cancel: Option<(Option<&'static str>, i64)>,
    /// The heartbeat that central has read for it last.
    pub(super) looked: Option<(StoreId, Reading)>,
    /// At a store: its operations that its transaction has recorded.
    pub(super) recorded: Vec<Name>,
    /// An order through central: the command that its key stands for, and since when it waits for that.
    pub(super) command: Option<(Name, i64)>,
    /// Why nothing may be asked of the store.
    pub(super) refusals: Vec<Name>,
    /// The reason, if it must be refused whatever central may know.
    pub(super) must_not: Option<&'static str>,
}

impl Ask {
    /// What makes it another request.
    pub(super) fn request(&self) -> Name {
        format!("{} {} {}", self.method, self.path, self.body).into()
    }

    /// Of a store: the name that it has for ever.
    pub(super) fn operation(&self, clock: Millis) -> OperationId {
        let fingerprint = runtime::http::fingerprint(self.method, &self.path, &self.body);
        Key { key: self.key.to_string(), fingerprint, route: String::new() }.operation(clock)
    }
}

impl Sent {
    /// How long it waits at most that has begun to then, ms.
    pub(super) fn waits_for(&self, since: i64) -> i64 {
        self.patience_ms.min(self.at + REQUEST_MS - since).max(0)
    }

    fn buying<'a>(&'a self, status: Option<&'a str>, code: Option<&'a str>, now: i64) -> Buying<'a> {
        Buying {
            purchase: self.purchase.as_ref().map(|(purchase, _)| (&**purchase, status.unwrap_or("unknown"))),
            code,
            refusals: &self.refusals,
            is_other: self.is_other,
            is_replay: self.is_replay,
            waited_ms: self.purchase.as_ref().map_or(0, |(_, since)| now - since),
            patience_ms: self.purchase.as_ref().map_or(0, |(_, since)| self.waits_for(*since)),
        }
    }
}

impl Clients {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x636c_6965_6e74);
        let trades = dice.chance(180) | (seed >= DENSE && seed % 8 == 2);
        let orders = Dice::new(seed ^ 0x6f72_6465_7273).chance(120) | (seed >= DENSE && seed % 8 == 6);
        let (asks, again, open, sent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { dice, trades, orders, time: None, asks, again, open, sent, last: 0, tags: BTreeMap::new() }
    }

    /// Whether a request has asked for a transaction that has yet to be committed.
    pub(super) fn is_writing(&self) -> bool {
        self.sent.iter().any(|sent| sent.queued.is_some())
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl VirtualWorld {
    /// One step of clients and of what serves them, now and then. `is_asked`: for something new; `repeats`: what is to be
    /// repeated.
    pub(super) fn serve(&mut self, is_asked: bool, repeats: bool) {
        if !self.clients.trades && !self.clients.orders {
            return;
        }
        self.forget_dead();
        if is_asked && self.clients.dice.chance(if self.calm { 4 } else { 120 }) {
            let orders = self.clients.orders && (!self.clients.trades || self.clients.dice.chance(600));
            match (self.clients.dice.below(10), orders) {
                (0..=2, true) => self.order_at_store(),
                (3..=5, true) => self.order_through_central(),
                (0..=1, false) => self.ask_at_store(),
                (2..=4, false) => self.ask_for_purchase(),
                (5, false) => self.ask_to_cancel(),
                (6..=8, _) => self.repeat(),
                _ => self.reuse(),
            }
        }
        if repeats && !self.clients.again.is_empty() && self.clients.dice.chance(200) {
            let ask = self.clients.again.remove(0);
            self.send_ask(ask);
        }
        if repeats && !self.clients.open.is_empty() && self.clients.dice.chance(80) {
            let ask = self.clients.open.remove(0);
            self.send_ask(ask);
        }
        if self.clients.sent.is_empty() && self.clients.dice.chance(900) {
            return;
        }
        match self.clients.dice.below(10) {
            0..=3 => self.write_at_a_store(),
            4..=6 => self.write_at_central(),
            7..=8 => self.go_on_waiting(),
            _ if self.clients.dice.chance(100) => self.hang_up(),
            _ => {}
        }
    }

    /// Requests die with their process.
    fn forget_dead(&mut self) {
        let alive = |server: u64| {
            let of_central = self.central.http.as_ref().map(|http| http.server.number);
            let of_agents = self.agents.iter().filter_map(|agent| agent.http.as_ref().map(|http| http.number));
            of_agents.chain(of_central).any(|number| number == server)
        };
        let before = self.clients.sent.len();
        let mut sent = std::mem::take(&mut self.clients.sent);
        sent.retain(|sent| alive(sent.server));
        for _ in sent.len()..before {
            self.count("requests that died with their process");
        }
        self.clients.sent = sent;
    }

    /// A till with a key for each sale, or whoever else writes at a store.
    fn ask_at_store(&mut self) {
        let dice = &mut self.clients.dice;
        let agent = &self.agents[dice.below(self.agents.len() as u64) as usize];
        let Some(product) = dice.pick(&self.products).cloned() else { return };
        let store = agent.store.clone();
        let known = ledger::find_item(&agent.file, &product).expect("stock can be read").is_some();
        let kind = dice.below(10);
        let mut if_match = None;
        let (method, path, mut body, wish) = match kind {
            _ if !known || kind == 9 => {
                let units = dice.between(0, 12);
                let body = json!({"productId": product.as_str(), "name": "first", "quantity": units});
                let wish = Wish::Create { name: "first".into(), quantity: units, low_at: None };
                ("POST", "/inventory".to_owned(), body, wish)
            }
            0..=4 => {
                let units = dice.between(1, 4);
                ("POST", format!("/purchase/{product}"), json!({"quantity": units}), Wish::Sell(units))
            }
            5..=6 => {
                let units = dice.between(1, 6);
                ("POST", format!("/inventory/{product}/receive"), json!({"quantity": units}), Wish::Receive(units))
            }
            7 => {
                let units = dice.between(0, 12);
                ("PUT", format!("/inventory/{product}"), json!({"quantity": units}), Wish::Count { units, at: None })
            }
            _ => {
                let delta = -dice.between(1, 2);
                let body = json!({"delta": delta, "reason": "damage"});
                ("POST", format!("/inventory/{product}/adjust"), body, Wish::Adjust(delta))
            }
        };
        // Now and then it shall be done to the version that was seen last, or to none that ever was.
        let tag = self.clients.tags.get(&(store.clone(), product.clone())).copied();
        let may_guard = !matches!(wish, Wish::Create { .. });
        if let (true, Some((epoch, version))) = (may_guard && self.clients.dice.chance(300), tag) {
            match self.clients.dice.below(3) {
                0 if matches!(wish, Wish::Sell(_) | Wish::Count { .. }) => body["expectedVersion"] = version.into(),
                0 | 1 => if_match = Some((epoch, version)),
                _ => if_match = Some((epoch + 1, version)),
            }
        }
        let key = format!("key-{}", self.clients.number()).into();
        let ask = Ask { key, method, path, body, if_match, what: What::Item { store, product, wish } };
        self.ask(ask);
    }

    /// An online buyer.
    fn ask_for_purchase(&mut self) {
        let dice = &mut self.clients.dice;
        let mut some = || Some((dice.pick(&self.stores).cloned()?, dice.pick(&self.products).cloned()?));
        let is_there = |(store, product): &(StoreId, ProductId)| {
            let item = items::find(&self.central.file, store, product).expect("the view can be read");
            item.is_some_and(|item| item.available() > 0)
        };
        let (first, second) = (some(), some());
        let Some((store, product_id)) = second.filter(is_there).or(first) else { return };
        let policies = [Policy::HighestAvailable, Policy::LowestLatency, Policy::RoundRobin];
        let policy = dice.chance(500).then(|| policies[dice.below(3) as usize]);
        let quantity = dice.units(1, 3);
        let ttl = if dice.chance(400) { 1 } else { 60 };
        let lines = Lines::one(product_id.clone(), quantity);
        let mut body = json!({"quantity": quantity.get(), "ttlSeconds": ttl});
        let (path, store) = match policy {
            None if dice.chance(500) => (format!("/purchase/{store}/{product_id}"), Some(store)),
            None => {
                body["productId"] = product_id.as_str().into();
                body["storeId"] = store.as_str().into();
                ("/purchase".to_owned(), Some(store))
            }
            Some(policy) => {
                body["productId"] = product_id.as_str().into();
                body["policy"] = policy.as_str().into();
                ("/purchase".to_owned(), None)
            }
        };
        let key = format!("key-{}", self.clients.number()).into();
        let what = What::Buy { store, lines, ttl_ms: ttl * 1_000 };
        let ask = Ask { key, method: "POST", path, body, if_match: None, what };
        self.ask(ask);
    }

    fn ask_to_cancel(&mut self) {
        let many = self.history.purchases.len().max(1) as u64;
        let number = self.clients.dice.below(many) as usize;
        let Some(purchase) = self.history.purchases.keys().nth(number).cloned() else { return };
        let key = format!("key-{}", self.clients.number()).into();
        let (path, what) = (format!("/purchases/{purchase}/cancel"), What::Cancel { purchase });
        let ask = Ask { key, method: "POST", path, body: json!({}), if_match: None, what };
        self.ask(ask);
    }

    /// Asks for something new; who is impatient does it twice.
    pub(super) fn ask(&mut self, ask: Ask) {
        if self.clients.asks.len() >= ASKS_MAX {
            self.clients.asks.remove(0);
        }
        self.clients.asks.push(ask.clone());
        if self.clients.dice.chance(150) {
            self.send_ask(ask.clone());
        }
        self.send_ask(ask);
    }

    /// A store is back: its tills repeat some of what they may have been told, and what the store may have forgotten.
    pub(super) fn came_back(&mut self, store: &StoreId) {
        let is_of_it = |ask: &&Ask| matches!(&ask.what, What::Item { store: of, .. } | What::Order { store: of, by: By::Store, .. } if of == store);
        let of_it: Vec<Ask> = self.clients.asks.iter().filter(is_of_it).cloned().collect();
        let again = of_it.into_iter().filter(|_| self.clients.dice.chance(500)).collect();
        self.clients.again = again;
    }

    /// The same once more: no answer came, or somebody is impatient.
    fn repeat(&mut self) {
        let Some(ask) = self.clients.dice.pick(&self.clients.asks).cloned() else { return };
        self.count("requests repeated under their key");
        self.send_ask(ask);
    }

    /// By mistake something else is asked for under a key that was used.
    fn reuse(&mut self) {
        let Some(mut ask) = self.clients.dice.pick(&self.clients.asks).cloned() else { return };
        match &mut ask.what {
            What::Order { order: Order::Batch { atomic, .. }, .. } => {
                *atomic = !*atomic;
                ask.body["atomic"] = (*atomic).into();
            }
            _ => ask.body["reference"] = format!("other {}", self.clients.number()).into(),
        }
        self.count("keys used for something else");
        self.send_ask(ask);
    }

    /// The server hears a request, and does what it can before something must be written or told.
    fn send_ask(&mut self, ask: Ask) {
        let number = self.clients.number();
        let dice = &mut self.clients.dice;
        let (prefer, wait) = match dice.below(5) {
            0 => (Some("respond-async".to_owned()), 0),
            1 => (Some("wait=0".to_owned()), 0),
            2 => (Some("wait=5".to_owned()), 5_000),
            3 => (Some("wait=30".to_owned()), 30_000),
            _ => (None, WAIT_MS),
        };
        let root = if dice.chance(500) { "/v1" } else { "" };
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{root}{}", ask.path))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("idempotency-key", &*ask.key)
            .header("traceparent", format!("00-{number:032x}-{number:016x}-01"));
        if let Some(prefer) = prefer {
            request = request.header("prefer", prefer);
        }
        if let Some((epoch, version)) = ask.if_match {
            request = request.header("if-match", format!("\"{epoch}-{version}\""));
        }
        let request = request.body(Body::from(ask.body.to_string())).expect("a request");
        let sent = Sent {
            number,
            ask,
            server: 0,
            answering: None,
            next_id: id_of(number).as_u128(),
            queued: None,
            clock: Millis(self.now),
            at: self.now,
            patience_ms: wait,
            due: None,
            purchase: None,
            is_other: false,
            is_replay: false,
            is_second: false,
            cancel: None,
            looked: None,
            recorded: Vec::new(),
            command: None,
            refusals: Vec::new(),
            must_not: None,
        };
        self.count("requests sent");
        match &sent.ask.what {
            What::Item { store, .. } | What::Order { store, by: By::Store, .. } => {
                let store = store.clone();
                self.send_to_store(sent, &store, request)
            }
            What::Buy { .. } | What::Cancel { .. } | What::Order { .. } => self.send_to_central(sent, request),
        }
    }

    fn send_to_store(&mut self, mut sent: Sent, store: &StoreId, request: Request) {
        let of_store: Vec<usize> = (0..self.agents.len())
            .filter(|number| self.agents[*number].store == *store && self.agents[*number].runs)
            .collect();
        let Some(number) = self.clients.dice.pick(&of_store).copied() else { return };
        let new = self.clients.number();
        let agent = &mut self.agents[number];
        sent.clock = Millis(self.now + agent.skew);
        let http = agent.http.get_or_insert_with(|| Server::of_agent(new, store));
        sent.server = http.number;
        let operation: Name = sent.ask.operation(sent.clock).as_str().into();
        match &sent.ask.what {
            What::Item { product, wish, .. } => {
                let (store, product) = (store.as_str().into(), product.as_str().into());
                self.oracle.book.items.insert(operation, Asked { store, product, wish: wish.clone(), by: By::Store });
            }
            What::Order { order, .. } => order.write_down(&mut self.oracle.book, store, &operation),
            What::Buy { .. } | What::Cancel { .. } => {}
        }
        sent.answering = Some(http.ask(request));
        if let Some(answer) = self.go_on(&mut sent) {
            let key = &sent.ask.key;
            self.oracle.break_(format!("P2: {key} is answered before it is on disk: {answer:?}"));
        }
        sent.queued = Some(self.clients.number());
        self.clients.sent.push(sent);
    }

    fn send_to_central(&mut self, mut sent: Sent, request: Request) {
        if !self.central.runs {
            return;
        }
        let new = self.clients.number();
        let sells_offline = self.allotting.sells_offline;
        let http = self.central.http.get_or_insert_with(|| OfCentral::new(new, &self.keys, sells_offline));
        sent.server = http.server.number;
        sent.clock = self.central.clock(self.now);
        sent.answering = Some(self.central.http.as_ref().expect("it serves").server.ask(request));
        self.key_stands(&mut sent);
        self.note_refusals(&mut sent);
        let answer = self.go_on(&mut sent);
        self.after_go_on(sent, answer);
    }

    /// What its key stands for, as far as the judge knows.
    fn key_stands(&self, sent: &mut Sent) {
        match self.central.bound.find(&sent.ask.key, &sent.ask.request()) {
            Stands::Free => {}
            Stands::Same(_) if matches!(sent.ask.what, What::Cancel { .. }) => sent.is_replay = true,
            Stands::Same(bound) if matches!(sent.ask.what, What::Order { .. }) => {
                (sent.command, sent.is_replay) = (Some((bound.effect, self.now)), true);
            }
            Stands::Same(bound) => {
                (sent.purchase, sent.is_replay) = (Some((bound.effect, self.now)), true);
            }
            Stands::Other => sent.is_other = true,
        }
    }

    /// Its server goes on with it.
    pub(super) fn go_on(&mut self, sent: &mut Sent) -> Option<Answer> {
        let time = self.clients.time.get_or_insert_with(|| Time::start(self.now));
        time.advance(self.now);
        let answering = sent.answering.as_mut()?;
        let is_its = |http: &Server| http.number == sent.server;
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.http.as_ref().is_some_and(is_its)) {
            let clock = agent.clock(self.now);
            let http = agent.http.as_ref()?;
            return http.go_on(time, &mut agent.file, (clock, &mut sent.next_id), answering);
        }
        self.tell_heartbeats();
        let clock = self.central.clock(self.now);
        let time = self.clients.time.as_mut()?;
        let http = self.central.http.as_ref()?;
        let answer = http.server.go_on(time, &mut self.central.file, (clock, &mut sent.next_id), answering);
        let looked = http.redis.lock().expect("nobody panics with it").looked.take();
        sent.looked = looked.or(sent.looked.take());
        answer
    }

    /// Central's server sees of Redis what there is now.
    fn tell_heartbeats(&self) {
        let Some(http) = &self.central.http else { return };
        let heartbeats: BTreeMap<StoreId, Reading> =
            self.stores.iter().map(|store| (store.clone(), self.heartbeat(store))).collect();
        for (store, reading) in &heartbeats {
            http.presence.note(store, reading);
            http.presence.note_commands_stopped(store, self.central.is_stopped(store));
        }
        let heartbeats = self.central.network.then_some(heartbeats);
        http.redis.lock().expect("nobody panics with it").heartbeats = heartbeats;
    }

    /// Jobs of clients that wait at a store are written, in one transaction.
    fn write_at_a_store(&mut self) {
        let number = self.clients.dice.below(self.agents.len() as u64) as usize;
        let (risk, from) = (self.risk(), self.agents[number].noted);
        let agent = &mut self.agents[number];
        let Some(http) = &mut agent.http else { return };
        let versions = versions(&agent.file, &self.products);
        let epoch = ledger::head(&agent.file).expect("a ledger has a head").cursor.epoch.get();
        let server = http.number;
        let Some((end, group)) = http.write(&agent.file, &mut self.clients.dice, risk) else { return };
        let mut written = self.take_queued(server);
        let names: Vec<Name> = written.iter().flat_map(operations_of).collect();
        let operations: Vec<&str> = names.iter().map(|name| &**name).collect();
        self.look_at(number, Occasion::Operation(&operations), None);
        if written.len() > 1 {
            self.count("requests written in one transaction");
        }
        if end == Commit::Before {
            return self.after_commit(number, end);
        }
        let entries = self.oracle.recorded_since(self.agents[number].store.as_str(), from, self.agents[number].noted);
        let mut log = Written::of(number, &self.agents[number], entries, from, (epoch, versions));
        for sent in &mut written {
            sent.due = match &sent.ask.what {
                What::Item { .. } => self.judge_item(&mut log, sent),
                What::Order { .. } => self.judge_order(&mut log, sent),
                What::Buy { .. } | What::Cancel { .. } => None,
            };
        }
        for sent in &written {
            let is_taken = |operation: &Name| written.iter().any(|other| other.recorded.contains(operation));
            let left = operations_of(sent).into_iter().find(|operation| log.names(operation) && !is_taken(operation));
            if let Some(left) = left {
                let (key, request, due) = (&sent.ask.key, sent.ask.request(), &sent.due);
                self.oracle
                    .break_(format!("P3: {left} is recorded, and must be answered as {due:?} ({key} {request})"));
            }
        }
        if end == Commit::After {
            return self.after_commit(number, end);
        }
        group.answer();
        for mut sent in written {
            if sent.answering.is_none() {
                continue;
            }
            match (self.go_on(&mut sent), &sent.due) {
                (Some(answer), Some(due)) => {
                    if let Err(broken) = due.judge(&answer) {
                        self.oracle.break_(format!("{broken} ({} {})", sent.ask.key, sent.ask.request()));
                    }
                    self.hear_store(number, &sent, &answer);
                }
                _ => self.oracle.break_(format!("P2: {} is on disk, and not answered", sent.ask.key)),
            }
        }
    }

    /// Those that wait to be written by a server, in the order in which they queued.
    fn take_queued(&mut self, server: u64) -> Vec<Sent> {
        let is_queued = |sent: &Sent| sent.server == server && sent.queued.is_some();
        let all = std::mem::take(&mut self.clients.sent);
        let (mut queued, rest): (Vec<Sent>, Vec<Sent>) = all.into_iter().partition(is_queued);
        self.clients.sent = rest;
        queued.sort_by_key(|sent| sent.queued);
        queued
    }

    /// Works out what a request about an item must have done, and how it must be answered.
    fn judge_item(&mut self, log: &mut Written, sent: &mut Sent) -> Option<Due> {
        let What::Item { product, wish, .. } = &sent.ask.what else { return None };
        let (key, request, product): (_, _, Name) = (sent.ask.key.clone(), sent.ask.request(), product.as_str().into());
        let operation: Name = sent.ask.operation(sent.clock).as_str().into();
        let all = self.oracle.shop(&log.store, log.before);
        let shop = all.without_due([&*product], sent.clock.0);
        // What ends first is a change of the item, too.
        let ends = (all.open_holds() - shop.open_holds()) as i64;
        let status = if matches!(wish, Wish::Create { .. }) { 201 } else { 200 };
        match self.agents[log.number].bound.find(&key, &request) {
            Stands::Other => Some(Due::refused("idempotency_key_reused")),
            Stands::Same(Bound { place, says, told, .. }) => {
                let (position, is_replay) = (log.position(place), true);
                says.map(|says| Due::Done { status, says: *says, position, is_replay, told })
            }
            // It came back with central's state, and its answer did not.
            Stands::Free if shop.done.contains_key(&operation) => {
                self.count("requests repeated after a restore");
                let (says, position) = (Says::Item(log.left(&self.oracle, &product)), log.position(log.before));
                Some(Due::Done { status, says, position, is_replay: true, told: None })
            }
            Stands::Free => {
                let version = log.versions.get(&product).map(|version| version + ends);
                let refused = guarded(&sent.ask, log.epoch, version);
                if let Err(code) = refused.map_or_else(|| decide(shop.items.get(&product), wish, None).map(drop), Err) {
                    return Some(Due::refused(code));
                }
                let Some(place) = log.take(&self.oracle, &operation) else {
                    self.oracle.break_(format!("P4: {key} {request} must be done, and is not recorded"));
                    return None;
                };
                sent.recorded.push(operation.clone());
                // What a rule sets aside because of it is in the answer.
                let says = Says::Item(log.left(&self.oracle, &product));
                let bound = Bound { request, effect: operation, place, says: Some(says.clone().into()), told: None };
                self.agents[log.number].bound.bind(key, bound);
                Some(Due::Done { status, says, position: log.position(place), is_replay: false, told: None })
            }
        }
    }

    /// A store's answer goes to its client, unless it is lost on the way.
    fn hear_store(&mut self, number: usize, sent: &Sent, answer: &Answer) {
        let store = self.agents[number].store.clone();
        let agent = &mut self.agents[number];
        if let Some(Due::Done { .. }) = sent.due
            && let Stands::Same(_) = agent.bound.find(&sent.ask.key, &sent.ask.request())
        {
            agent.bound.told(&sent.ask.key, answer);
        }
        if self.clients.dice.chance(150) {
            return self.count("answers lost");
        }
        let key = &sent.ask.key;
        let (status, replay) = (answer.status, if answer.is_replay { ", again" } else { "" });
        self.say(|| format!("{store}/{number}: {key} {} is answered {status}{replay}", sent.ask.request()));
        self.count(match answer.code() {
            "idempotency_key_reused" => "other requests refused under a used key",
            "version_conflict" | "precondition_failed" => "requests refused for their version",
            _ if answer.is_replay => "answers repeated",
            _ => "requests answered",
        });
        let What::Item { product, .. } = &sent.ask.what else { return self.count_ordered(sent, answer) };
        if answer.status < 300 {
            self.oracle.acked(sent.ask.operation(sent.clock).as_str());
        }
        let tag = answer.etag.as_deref().and_then(|tag| tag.trim_matches('"').split_once('-'));
        if let Some((Ok(epoch), Ok(version))) = tag.map(|(epoch, version)| (epoch.parse(), version.parse())) {
            self.clients.tags.insert((store.clone(), product.clone()), (epoch, version));
        }
    }

    /// Jobs of clients that wait at central are written, in one transaction.
    fn write_at_central(&mut self) {
        self.tell_heartbeats();
        let risk = self.risk();
        let Some(http) = &self.central.http else { return };
        let mut queued: Vec<usize> = (0..self.clients.sent.len())
            .filter(|at| self.clients.sent[*at].queued.is_some() && self.clients.sent[*at].server == http.server.number)
            .collect();
        queued.sort_by_key(|at| self.clients.sent[*at].queued);
        let (mut allowed, mut cancels, mut cancelled) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for at in queued {
            self.note_refusals_of(at);
            let sent = &self.clients.sent[at];
            if let (What::Buy { lines, ttl_ms, store }, Some((asked, reading))) = (&sent.ask.what, &sent.looked) {
                let id = PurchaseId::new(id_of(sent.number));
                let attempt = match store {
                    None => OperationId::attempt_at(&id, asked),
                    Some(_) => OperationId::attempt(&id, 1),
                };
                let buy = Buy {
                    lines: written(lines),
                    deadline: reading.redis_now.0 + ttl_ms,
                    is_chosen: store.is_none(),
                    attempts: [(asked.as_str().into(), attempt.as_str().into())].into(),
                };
                allowed.insert(sent.number, self.may_sell_as_looked(asked, reading));
                self.oracle.book.buys.insert(id.to_string().into(), buy);
            }
            if let What::Cancel { purchase } = &sent.ask.what {
                let (number, purchase) = (sent.number, purchase.clone());
                let may_ask = match self.central.bound.find(&sent.ask.key, &sent.ask.request()) {
                    Stands::Free => true,
                    // It asks once more for what has come before, and finds that on its way, or ended.
                    Stands::Same(_) => sent.is_second,
                    Stands::Other => false,
                };
                let may_ask = may_ask && cancelled.insert(purchase.clone());
                cancels.insert(number, self.note_cancel(number, &purchase, may_ask));
            }
            if let What::Order { .. } = &self.clients.sent[at].ask.what {
                let is_allowed = self.note_order(at);
                allowed.insert(self.clients.sent[at].number, is_allowed);
            }
        }
        let http = self.central.http.as_mut().expect("it serves");
        let server = http.server.number;
        let Some((end, group)) = http.server.write(&self.central.file, &mut self.clients.dice, risk) else { return };
        self.oracle.look_at_central(&self.central.file).expect("the view can be read");
        let mut written = self.take_queued(server);
        if written.len() > 1 {
            self.count("requests written in one transaction");
        }
        for sent in &mut written {
            let allowed = allowed.remove(&sent.number).unwrap_or(Ok(()));
            match cancels.remove(&sent.number) {
                Some(asked) => self.judge_cancel(sent, end, asked),
                None if matches!(sent.ask.what, What::Order { .. }) => self.judge_ordered(sent, end, allowed),
                None => self.judge_begun(sent, end, allowed),
            }
        }
        self.after_central_commit(end);
        if end != Commit::Done {
            return;
        }
        group.answer();
        for mut sent in written.into_iter().filter(|sent| sent.answering.is_some()) {
            let answer = self.go_on(&mut sent);
            self.after_go_on(sent, answer);
        }
        self.go_on_waiting();
    }

    /// P8, as the judge sees it.
    pub(super) fn may_sell_as_looked(&self, store: &StoreId, reading: &Reading) -> Result<(), String> {
        let known = stores::find(&self.central.file, store).expect("the view can be read");
        let (Some(known), Some(http)) = (known, &self.central.http) else { return Ok(()) };
        let beat = reading.heartbeat.as_ref().map(|beat| (beat.epoch.get(), reading.age_ms));
        let covered_only = http.presence.judge_sale(&known, reading) == Ok(true);
        let beat = if covered_only { Some((beat.map_or(known.cursor.epoch.get(), |beat| beat.0), 0)) } else { beat };
        self.oracle.may_sell(&self.central.file, store.as_str(), beat).expect("the view can be read")
    }

    /// Writes down that a purchase is to be cancelled, if its store may be asked to: once until it has answered. Says whether it is pending, and why it cannot be cancelled.
    fn note_cancel(&mut self, number: u64, purchase: &str, may_ask: bool) -> (bool, Option<&'static str>) {
        let sql = "select status, store_id, picked_at is not null, coalesce(seeking, 0), \
                   (select retired from store where store_id = purchase.store_id) from purchase where purchase_id = ?1";
        let known = self.central.file.query_row(sql, [purchase], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        });
        let Ok((status, store, picked, seeking, retired)): Result<(_, _, bool, bool, bool), _> = known else {
            return (false, Some("unknown_id"));
        };
        let is_pending = status == "pending";
        let cancel = Cancel { store: store.into(), purchase: purchase.into(), forced: is_pending };
        if may_ask && !self.is_cancel_open(purchase) {
            self.oracle.book.cancels.insert(id_of(number).to_string().into(), cancel);
        }
        let refusal = match status.as_str() {
            "confirmed" if picked => Some("already_picked"),
            "confirmed" | "pending" if retired && !seeking => Some("store_retired"),
            _ => None,
        };
        (is_pending, refusal)
    }

    /// Whether the store of a purchase has a cancel of it to answer.
    pub(super) fn is_cancel_open(&self, purchase: &str) -> bool {
        let sql = "select 1 from request join purchase using (purchase_id, store_id) \
                   where purchase_id = ?1 and type = 'cancel' and request.status = 'pending'";
        let open = self.central.file.prepare_cached(sql).and_then(|mut open| open.exists([purchase]));
        open.expect("the view can be read")
    }

    /// What a request to cancel has come to, in a transaction that is over.
    fn judge_cancel(&mut self, sent: &mut Sent, end: Commit, (was_pending, refusal): (bool, Option<&'static str>)) {
        let (key, request) = (sent.ask.key.clone(), sent.ask.request());
        let What::Cancel { purchase } = sent.ask.what.clone() else { return };
        let stands = self.central.bound.find(&key, &request);
        if stands == Stands::Other && !sent.is_replay {
            sent.is_other = true;
            return;
        }
        if let (Stands::Same(_), false) = (&stands, sent.is_second) {
            // It is asked for once more without its key, and finds what has become of it.
            (sent.is_replay, sent.is_second) = (true, true);
            return;
        }
        sent.cancel = Some((refusal, self.now));
        if end == Commit::Before || refusal.is_some() {
            return;
        }
        if stands == Stands::Free {
            let effect: Name = purchase.as_str().into();
            let bound = Bound { request, effect, place: Place::default(), says: None, told: None };
            self.central.bound.bind(key.clone(), bound);
        }
        self.say(|| format!("{key}: cancel of {purchase}"));
        self.count("cancels asked for under a key");
        if was_pending && end == Commit::Done {
            self.told_at.insert(purchase.clone(), self.step);
            if let Some(bought) = self.history.purchases.get_mut(&purchase) {
                bought.cancelled_while_pending = true;
            }
            self.central.settled(&[purchase]);
        }
    }

    /// What a request for a purchase has begun, in a transaction that is over.
    fn judge_begun(&mut self, sent: &mut Sent, end: Commit, allowed: Result<(), String>) {
        let id = PurchaseId::new(id_of(sent.number)).to_string();
        let (key, request) = (sent.ask.key.clone(), sent.ask.request());
        let row = self.purchase_row(&id);
        self.note_refusals(sent);
        let stands = self.central.bound.find(&key, &request);
        match (&row, stands) {
            (Some((store, status)), Stands::Free) => {
                if let Err(broken) = allowed {
                    self.oracle.break_(broken);
                }
                let effect: Name = id.as_str().into();
                let bound = Bound { request, effect: effect.clone(), place: Place::default(), says: None, told: None };
                self.central.bound.bind(key.clone(), bound);
                sent.purchase = Some((effect, self.now));
                self.told_at.insert(id.clone(), self.step);
                self.say(|| format!("{key} {}: purchase {id} at {store}, {status}", sent.ask.request()));
                let bought = Bought {
                    store: store.clone(),
                    told: Told::Nothing,
                    seen: Vec::new(),
                    cancelled_while_pending: false,
                    may_be_forgotten: false,
                };
                self.history.purchases.insert(id, bought);
                self.count("purchases begun under a key");
            }
            (Some(_), stands) => {
                self.oracle.break_(format!("P3: {key} has begun {id}, and stands for {stands:?}"));
            }
            (None, stands) => {
                self.oracle.book.buys.remove(id.as_str());
                match stands {
                    Stands::Free => {}
                    Stands::Same(bound) => {
                        (sent.purchase, sent.is_replay) = (Some((bound.effect, self.now)), true);
                        self.count("requests that came twice before they were written");
                    }
                    Stands::Other => sent.is_other = true,
                }
            }
        }
        if end != Commit::Done {
            self.say(|| format!("{key}: central dies at the commit"));
        }
    }

    /// Store and status of a purchase in central's table.
    fn purchase_row(&self, id: &str) -> Option<(StoreId, String)> {
        let sql = "select store_id, status from purchase where purchase_id = ?1";
        let row = self.central.file.query_row(sql, [id], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)));
        row.ok().map(|(store, status)| (StoreId::parse(&store).expect("an id"), status))
    }

    /// Why a purchase has ended, in central's table.
    fn purchase_code(&self, id: &str) -> Option<String> {
        let sql = "select code from purchase where purchase_id = ?1";
        self.central.file.query_row(sql, [id], |row| row.get(0)).ok().flatten()
    }

    /// A request to cancel was answered, waits to be written, or waits for a store.
    fn after_go_on_cancel(&mut self, mut sent: Sent, answer: Option<Answer>, purchase: &str) {
        let status = self.purchase_row(purchase).map(|(_, status)| status);
        let sql = "select 1 from request where command_id = ?1 and status = 'pending'";
        let mut open = self.central.file.prepare_cached(sql).expect("the view can be read");
        let is_open = open.exists([id_of(sent.number).to_string()]).expect("the view can be read");
        drop(open);
        let (refusal, since) = sent.cancel.unwrap_or((None, self.now));
        let cancelling = Cancelling {
            status: status.as_deref(),
            refusal,
            is_other: sent.is_other,
            is_replay: sent.is_replay,
            is_open,
            waited_ms: self.now - since,
            patience_ms: sent.waits_for(since),
        };
        let judged = match &answer {
            Some(answer) => cancelling.judge(answer),
            // The cancel of somebody else is on its way, and is waited for instead.
            None if sent.cancel.is_some() && !is_open && self.now - since < sent.waits_for(since) => Ok(()),
            None if sent.cancel.is_some() => cancelling.judge_wait(),
            None => Ok(()),
        };
        if let Err(broken) = judged {
            self.oracle.break_(format!("{broken} ({} {})", sent.ask.key, sent.ask.request()));
        }
        let Some(answer) = answer else {
            sent.queued = sent.cancel.is_none().then(|| self.clients.number());
            return self.clients.sent.push(sent);
        };
        let (key, told) = (sent.ask.key.clone(), answer.status);
        self.say(|| format!("{key} {} is answered {told} {}", sent.ask.request(), answer.code()));
        self.count(match answer.status {
            200 => "cancels answered",
            202 => "cancels answered before the store has",
            _ => "cancels refused",
        });
        if let Some(status) = status {
            self.saw(purchase, &status);
        }
    }

    /// A request at central was answered, waits to be written, or waits for a store.
    fn after_go_on(&mut self, mut sent: Sent, answer: Option<Answer>) {
        match sent.ask.what.clone() {
            What::Cancel { purchase } => return self.after_go_on_cancel(sent, answer, &purchase),
            What::Order { .. } => return self.after_go_on_order(sent, answer),
            What::Item { .. } | What::Buy { .. } => {}
        }
        let status = sent.purchase.as_ref().and_then(|(id, _)| self.purchase_row(id)).map(|(_, status)| status);
        let code = sent.purchase.as_ref().and_then(|(id, _)| self.purchase_code(id));
        let Some(answer) = answer else {
            sent.queued = None;
            if sent.purchase.is_some() || sent.is_other {
                if let Err(broken) = sent.buying(status.as_deref(), None, self.now).judge_wait() {
                    self.oracle.break_(format!("{broken} ({} {})", sent.ask.key, sent.ask.request()));
                }
            } else {
                sent.queued = Some(self.clients.number());
            }
            return self.clients.sent.push(sent);
        };
        let key = sent.ask.key.clone();
        if let Err(broken) = sent.buying(status.as_deref(), code.as_deref(), self.now).judge(&answer) {
            self.oracle.break_(format!("{broken} ({key} {})", sent.ask.request()));
        }
        if self.clients.dice.chance(150) {
            return self.count("answers lost");
        }
        self.count(match (answer.status, answer.code()) {
            (_, "idempotency_key_reused") => "other requests refused under a used key",
            _ if answer.is_replay => "answers repeated",
            (200, _) => "purchases waited for",
            (202, _) => "purchases answered while pending",
            _ if sent.purchase.is_some() => "purchases refused after a wait",
            _ => "requests for purchases refused",
        });
        let told = answer.status;
        self.say(|| format!("{key} {} is answered {told} {}", sent.ask.request(), answer.code()));
        if let (Some((id, _)), Some(status)) = (&sent.purchase, status) {
            if let Some(bought) = self.history.purchases.get_mut(&**id) {
                bought.told = Told::Done;
            }
            self.saw(id, &status);
        }
    }

    /// Those who wait at central look whether they were told, or whether they have waited long enough.
    fn go_on_waiting(&mut self) {
        let Some(http) = &self.central.http else { return };
        let server = http.server.number;
        let is_waiting = |sent: &Sent| sent.server == server && sent.queued.is_none() && sent.answering.is_some();
        let (waiting, rest) = std::mem::take(&mut self.clients.sent).into_iter().partition(is_waiting);
        self.clients.sent = rest;
        let waiting: Vec<Sent> = waiting;
        for mut sent in waiting {
            let answer = self.go_on(&mut sent);
            self.after_go_on(sent, answer);
        }
    }

    /// A client no longer wants to know. What it has asked for may happen all the same.
    fn hang_up(&mut self) {
        let number = self.clients.dice.below(self.clients.sent.len().max(1) as u64) as usize;
        let Some(sent) = self.clients.sent.get_mut(number) else { return };
        sent.answering = None;
        if sent.queued.is_none() {
            self.clients.sent.remove(number);
        }
        self.count("clients that hung up");
    }
}

/// The code of the refusal if a request is for another version of the item than there is.
fn guarded(ask: &Ask, epoch: u64, version: Option<i64>) -> Option<&'static str> {
    let version = version?;
    if ask.if_match.is_some_and(|tag| tag != (epoch, version)) {
        return Some("precondition_failed");
    }
    let expected = ask.body["expectedVersion"].as_i64();
    expected.is_some_and(|expected| expected != version).then_some("version_conflict")
}

/// The operations that a request at a store may record.
fn operations_of(sent: &Sent) -> Vec<Name> {
    let operation: Name = sent.ask.operation(sent.clock).as_str().into();
    match &sent.ask.what {
        What::Order { order, .. } => order.operations(&operation),
        What::Item { .. } | What::Buy { .. } | What::Cancel { .. } => vec![operation],
    }
}

/// Versions of the items that there are.
fn versions(file: &Connection, products: &[ProductId]) -> BTreeMap<Name, i64> {
    let of = |product: &ProductId| {
        let item = ledger::find_item(file, product).expect("stock can be read")?;
        Some((product.as_str().into(), item.version))
    };
    products.iter().filter_map(of).collect()
}
