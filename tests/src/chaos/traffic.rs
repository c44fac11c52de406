//! Tills, staff and online buyers, who record every answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::ids::ProductId;
use reqwest::Method;
use runtime::http::fingerprint;
use serde_json::{Value, json};
use store_agent::ledger::idempotency::Key;

use super::rig::{Rig, Who};
use crate::Dice;
use crate::history::{Bought, History, Operation, Told};
use crate::{Answer, Client};

/// Products of each store.
const PRODUCTS: usize = 8;
/// Tills of each store.
const TILLS: usize = 3;
const BUYERS: usize = 4;
/// A till's pause between two customers, ms.
const TILL_PAUSE: i64 = 60;
/// A buyer's pause, ms.
const BUYER_PAUSE: i64 = 150;
/// How long one try may take before it counts as unanswered.
const TRY: Duration = Duration::from_secs(4);
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// How long somebody insists on an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was recorded, and what must be allowed for.
#[derive(Default)]
pub(super) struct Records {
    pub(super) history: History,
    /// What operations are named if the store's clock says another day, by the name that today gives them.
    other_days: HashMap<String, [String; 2]>,
    /// Operations that only a dead disk had.
    pub(super) lost: HashSet<String>,
    /// Purchases that central was set back to before.
    pub(super) forgotten: HashSet<String>,
    pub(super) totals: Totals,
    pub(super) exits: u64,
    /// Of operations at stores that were answered at the first try, ms.
    pub(super) latencies: Vec<u32>,
    /// How long a till waited for an agent that ran, whatever else went wrong, ms (P1). One that gave up is in it, too.
    pub(super) waits: Vec<u32>,
}

/// Counted on the way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    /// Operations answered: done.
    pub(super) operations: u64,
    /// Operations that were answered only when repeated under their key.
    pub(super) repeated: u64,
    /// Operations without an answer.
    pub(super) unanswered: u64,
    /// Operations refused, for want of stock.
    pub(super) refused: u64,
    pub(super) purchases: u64,
    /// Of these: confirmed at once or later, as far as the buyer saw.
    pub(super) confirmed: u64,
    /// Purchases refused because the store was offline or catching up.
    pub(super) turned_away: u64,
    pub(super) copies: u64,
}

impl Records {
    pub(super) fn violate(&mut self, text: String) {
        if !self.history.violations.contains(&text) {
            self.history.violations.push(text);
        }
    }

    /// A purchase that central was set back to before may be forgotten, and its cancel with it.
    pub(super) fn forget(&mut self, id: String) {
        if let Some(bought) = self.history.purchases.get_mut(&id) {
            bought.may_be_forgotten = true;
            bought.cancelled_while_pending = false;
        }
        self.forgotten.insert(id);
    }

    /// All names that an operation may have.
    pub(super) fn names<'a>(&'a self, id: &'a String) -> impl Iterator<Item = &'a String> {
        std::iter::once(id).chain(self.other_days.get(id).into_iter().flatten())
    }

    /// The history as the judge wants it. `recorded`: operations in central's ledger.
    pub(super) fn to_history(&self, recorded: &HashSet<String>) -> History {
        let mut history = self.history.clone();
        for operation in &mut history.operations {
            operation.may_be_lost |= self.names(&operation.id).any(|id| self.lost.contains(id));
            let name = self.names(&operation.id).find(|id| recorded.contains(*id)).cloned();
            operation.id = name.unwrap_or_else(|| operation.id.clone());
        }
        history
    }

    fn saw(&mut self, id: &str, status: &str) {
        if status == "confirmed" {
            let known = self.history.purchases.get(id);
            self.totals.confirmed += u64::from(known.is_some_and(|bought| bought.seen.is_empty()));
        }
        self.history.saw(id, status);
    }
}

/// Everybody who shops or works, until `stop`.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    people: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    /// They come: first the goods, then the people.
    pub(super) async fn start(rig: &Arc<Rig>, seed: u64) -> anyhow::Result<Self> {
        let mut dice = Dice::new(seed ^ 0x7261_6666);
        for number in 0..rig.ids.len() {
            let mut person = Person::new(rig, Who::Store(number), dice.roll(), format!("opening-{number}"));
            for product in 0..PRODUCTS {
                person.create(number, &product_name(product)).await;
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut people = Vec::new();
        for number in 0..rig.ids.len() {
            for till in 0..TILLS {
                let person = Person::new(rig, Who::Store(number), dice.roll(), format!("till-{number}-{till}"));
                people.push(tokio::spawn(person.keep_till(number, stop.clone())));
            }
            let person = Person::new(rig, Who::Store(number), dice.roll(), format!("staff-{number}"));
            people.push(tokio::spawn(person.pick(number, stop.clone())));
        }
        for buyer in 0..BUYERS {
            let person = Person::new(rig, Who::Central, dice.roll(), format!("buyer-{buyer}"));
            people.push(tokio::spawn(person.buy(stop.clone())));
        }
        Ok(Self { stop, people })
    }

    /// They finish what they are at and go home.
    pub(super) async fn leave(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for person in self.people {
            person.await?;
        }
        Ok(())
    }
}

fn in_ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn product_name(number: usize) -> String {
    format!("product-{number}")
}

/// What came of asking for something.
enum Outcome {
    /// Done; whether an earlier try had stayed without an answer.
    Done(Answer, bool),
    /// Refused; whether an earlier try had stayed without an answer.
    Refused(Answer, bool),
    Nothing,
}

/// A write at a store.
struct Task<'a> {
    method: Method,
    path: &'a str,
    product: &'a str,
    body: Value,
    patience: Duration,
}

impl Task<'_> {
    /// What the agent names the operation, by its clock: yesterday, today and tomorrow.
    fn names(&self, key: &str) -> [String; 3] {
        let path = self.path.strip_prefix("/v1").unwrap_or(self.path);
        let fingerprint = fingerprint(self.method.as_str(), path, &self.body);
        let key = Key { key: key.to_owned(), fingerprint, route: String::new() };
        let now = runtime::clock::now();
        [-DAY_MS, 0, DAY_MS].map(|away| key.operation(now.plus(away)).to_string())
    }
}

/// A till, a member of staff or a buyer.
pub(super) struct Person {
    rig: Arc<Rig>,
    dice: Dice,
    client: Client,
    asks: Who,
    /// Whether it is the agent in service that is asked.
    at_the_agent: bool,
    name: String,
    asked: AtomicU64,
}

impl Person {
    pub(super) fn new(rig: &Arc<Rig>, asks: Who, seed: u64, name: String) -> Self {
        let client = rig.client(asks);
        let at_the_agent = asks != Who::Central;
        Self { rig: rig.clone(), dice: Dice::new(seed), client, asks, at_the_agent, name, asked: AtomicU64::new(0) }
    }

    /// The same, before a server on another port.
    pub(super) fn before(mut self, port: u16) -> Self {
        self.client = Client::new(port);
        self.at_the_agent = false;
        self
    }

    fn key(&self) -> String {
        format!("{}-{}", self.name, self.asked.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the agent that is asked runs, and nobody has held it since it said the same.
    fn undisturbed(&self) -> Option<u64> {
        self.at_the_agent.then(|| self.rig.daemon(self.asks).undisturbed()).flatten()
    }

    /// Asks until there is an answer, under the same key, for as long as the patience lasts.
    async fn insist(&self, method: Method, path: &str, key: &str, body: &Value, patience: Duration) -> Outcome {
        let started = Instant::now();
        let mut unanswered = false;
        loop {
            let headers = [("idempotency-key", key), ("prefer", "wait=1")];
            let asked = self.client.ask(method.clone(), path, &headers, Some(body));
            let (undisturbed, asked_at) = (self.undisturbed(), Instant::now());
            let answer = tokio::time::timeout(TRY, asked).await;
            let is_slow_or_said = match &answer {
                Ok(Ok(answer)) => answer.status < 500,
                Ok(Err(_)) => false,
                Err(_) => true,
            };
            if is_slow_or_said && undisturbed.is_some() && undisturbed == self.undisturbed() {
                self.rig.records.lock().expect("no thread panics").waits.push(in_ms(asked_at.elapsed()));
            }
            match answer {
                Ok(Ok(answer)) => match answer.status {
                    200..=299 => {
                        if !unanswered && self.asks != Who::Central {
                            let took = in_ms(started.elapsed());
                            self.rig.records.lock().expect("no thread panics").latencies.push(took);
                        }
                        return Outcome::Done(answer, unanswered);
                    }
                    // The server says that it cannot say; nothing is known to have been done.
                    429 | 502..=504 => {
                        if matches!(answer.code(), "store_unavailable") {
                            return Outcome::Refused(answer, unanswered);
                        }
                        unanswered = true;
                    }
                    500.. => {
                        self.rig.violation(format!("P9: {path} answered {} {}", answer.status, answer.body));
                        unanswered = true;
                    }
                    _ => return Outcome::Refused(answer, unanswered),
                },
                Ok(Err(_)) | Err(_) => unanswered = true,
            }
            if started.elapsed() >= patience {
                return Outcome::Nothing;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A write at a store, recorded. Returns whether it was done.
    async fn work(&self, store: usize, task: Task<'_>, delta: impl Fn(&Value) -> Option<i64>) -> bool {
        let key = self.key();
        let names = task.names(&key);
        let outcome = self.insist(task.method, task.path, &key, &task.body, task.patience).await;
        let mut records = self.rig.records.lock().expect("no thread panics");
        let (told, delta) = match &outcome {
            Outcome::Done(answer, repeated) => {
                records.totals.operations += 1;
                records.totals.repeated += u64::from(*repeated);
                // After a restore a repeated count is known to have been done, but no longer by how much it was off.
                delta(&answer.body).map_or((Told::Nothing, 0), |delta| (Told::Done, delta))
            }
            Outcome::Refused(_, false) => {
                records.totals.refused += 1;
                return false;
            }
            Outcome::Refused(_, true) | Outcome::Nothing => {
                records.totals.unanswered += 1;
                (Told::Nothing, 0)
            }
        };
        let [yesterday, today, tomorrow] = names;
        records.other_days.insert(today.clone(), [yesterday, tomorrow]);
        records.history.operations.push(Operation {
            id: today,
            store: self.rig.ids[store].clone(),
            product: ProductId::parse(task.product).expect("a valid id"),
            delta,
            told,
            may_be_lost: false,
        });
        matches!(outcome, Outcome::Done(..))
    }

    async fn create(&mut self, store: usize, product: &str) {
        let quantity = self.dice.between(10, 40);
        let body = json!({"productId": product, "quantity": quantity});
        let task = Task { method: Method::POST, path: "/v1/inventory", product, body, patience: PATIENCE };
        self.work(store, task, |_| Some(quantity)).await;
    }

    /// One customer, delivery, count or broken bottle.
    pub(super) async fn serve(&mut self, store: usize) {
        let product = product_name(self.dice.below(PRODUCTS as u64) as usize);
        let units = self.dice.between(1, 3);
        // Now and then somebody does not care to ask again.
        let patience = if self.dice.chance(50) { Duration::ZERO } else { PATIENCE };
        let item = format!("/v1/inventory/{product}");
        let (method, path, body, delta) = match self.dice.below(20) {
            0..=12 => (Method::POST, format!("/v1/purchase/{product}"), json!({"quantity": units}), Some(-units)),
            13..=15 => (Method::POST, format!("{item}/receive"), json!({"quantity": units + 1}), Some(units + 1)),
            16 => (Method::POST, format!("{item}/adjust"), json!({"delta": -1, "reason": "damage"}), Some(-1)),
            // The answer to a count says by how much it was off.
            17 | 18 => (Method::PUT, item.clone(), json!({"quantity": self.dice.between(0, 40)}), None),
            _ => (Method::PATCH, item.clone(), json!({"name": format!("name {}", self.dice.below(5))}), Some(0)),
        };
        let task = Task { method, path: &path, product: &product, body, patience };
        let done = self.work(store, task, |body| delta.or_else(|| body["difference"].as_i64())).await;
        if !done && self.dice.chance(500) {
            let units = self.dice.between(2, 12);
            let (path, body) = (format!("{item}/receive"), json!({"quantity": units}));
            let task = Task { method: Method::POST, path: &path, product: &product, body, patience };
            self.work(store, task, |_| Some(units)).await;
        }
    }

    async fn keep_till(mut self, store: usize, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            self.serve(store).await;
            let pause = self.dice.between(0, 2 * TILL_PAUSE);
            tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
        }
    }

    /// Staff picks what was sold online.
    async fn pick(self, store: usize, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let Ok(list) = self.rig.look(Who::Store(store), "/v1/purchases?picked=false&size=1").await else {
                continue;
            };
            let waiting = &list["items"][0];
            let (Some(id), Some(product)) = (waiting["purchaseId"].as_str(), waiting["lines"][0]["productId"].as_str())
            else {
                continue;
            };
            let path = format!("/v1/purchases/{id}/picked");
            let task = Task { method: Method::POST, path: &path, product, body: json!({}), patience: PATIENCE };
            self.work(store, task, |_| Some(0)).await;
        }
    }

    /// An online buyer, who looks after earlier purchases, too, and cancels some.
    async fn buy(mut self, stop: Arc<AtomicBool>) {
        let mut mine: Vec<String> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if let Some(id) = self.purchase().await {
                mine.push(id);
            }
            if let Some(id) = self.dice.pick(&mine).cloned() {
                if self.dice.chance(150) {
                    self.cancel(&id).await;
                } else if let Ok(purchase) = self.rig.look(Who::Central, &format!("/v1/purchases/{id}")).await {
                    let status = purchase["status"].as_str().unwrap_or_default();
                    self.rig.records.lock().expect("no thread panics").saw(&id, status);
                }
            }
            if mine.len() > 20 {
                mine.remove(0);
            }
            let pause = self.dice.between(0, 2 * BUYER_PAUSE);
            tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
        }
    }

    async fn purchase(&mut self) -> Option<String> {
        let store = self.dice.pick(&self.rig.ids).cloned()?;
        let product = product_name(self.dice.below(PRODUCTS as u64) as usize);
        let ttl = if self.dice.chance(300) { 2 } else { 60 };
        let quantity = self.dice.between(1, 3);
        let other = product_name(self.dice.below(PRODUCTS as u64) as usize);
        let (path, body) = if other != product && self.dice.chance(250) {
            let lines = [(&product, quantity), (&other, 1)]
                .map(|(product, quantity)| json!({"productId": product, "quantity": quantity}));
            ("/v1/purchase".to_owned(), json!({"storeId": store, "lines": lines, "ttlSeconds": ttl}))
        } else {
            (format!("/v1/purchase/{store}/{product}"), json!({"quantity": quantity, "ttlSeconds": ttl}))
        };
        let patience = if self.dice.chance(100) { Duration::ZERO } else { PATIENCE };
        let key = self.key();
        let answer = match self.insist(Method::POST, &path, &key, &body, patience).await {
            Outcome::Done(answer, _) => answer,
            Outcome::Refused(answer, _) => {
                if answer.code() == "store_unavailable" {
                    self.rig.records.lock().expect("no thread panics").totals.turned_away += 1;
                }
                answer
            }
            Outcome::Nothing => return None,
        };
        let purchase = &answer.body["purchase"];
        let id = purchase["purchaseId"].as_str().or_else(|| answer.body["purchaseId"].as_str())?.to_owned();
        // Of several products the purchase is the answer; a problem has a number there.
        let stated = purchase["status"].as_str().or_else(|| answer.body["status"].as_str());
        let status = match (stated, answer.code()) {
            (Some(status), _) => status,
            (None, "purchase_expired") => "expired",
            (None, "purchase_cancelled") => "cancelled",
            (None, _) => "rejected",
        };
        let mut records = self.rig.records.lock().expect("no thread panics");
        records.totals.purchases += 1;
        let may_be_forgotten = records.forgotten.contains(&id);
        records.history.purchases.entry(id.clone()).or_insert(Bought {
            store,
            told: Told::Done,
            seen: Vec::new(),
            cancelled_while_pending: false,
            may_be_forgotten,
        });
        records.saw(&id, status);
        Some(id)
    }

    async fn cancel(&self, id: &str) {
        let path = format!("/v1/purchases/{id}/cancel");
        let Outcome::Done(answer, _) = self.insist(Method::POST, &path, &self.key(), &json!({}), PATIENCE).await else {
            return;
        };
        let status = answer.body["status"].as_str().unwrap_or_default();
        let mut records = self.rig.records.lock().expect("no thread panics");
        records.saw(id, status);
        if status == "pending"
            && !records.forgotten.contains(id)
            && let Some(bought) = records.history.purchases.get_mut(id)
        {
            bought.cancelled_while_pending = true;
        }
    }
}
