//! One store as the judge works it out: the requests, in the order that a log tells, by rules written down here once more.
//! No line of production code decides anything in it.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::allotments::{Allotted, Cover, Cut, Raise};
use super::batches::{Running, word};
use super::book::{Asked, Book, Buy, By, Cancel, Lines, Name, Wish};
use super::holds::{Fallen, Held, Step, clock, lines, units};
use super::transfers::{Moved, Sent};

/// A promise that was broken, in words.
pub type Broken = String;

/// One product.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    pub name: Name,
    pub quantity: i64,
    /// Units that open reservations hold.
    pub reserved: i64,
    /// Units that are set aside for online sale.
    pub allotted: i64,
    /// How many of them there shall be, if fewer.
    pub wanted: Option<i64>,
    pub discontinued: bool,
    pub low_at: Option<i64>,
    pub low: bool,
}

/// What became of a purchase at the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The command that asked for it.
    pub command: Name,
    /// The name that the answer has on the link.
    pub kind: Name,
    pub picked: bool,
}

/// An operation that was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Change of the quantity.
    pub delta: i64,
    /// The item after it, which a restore carries over.
    pub(super) after: Option<Item>,
    /// Of a reservation: what it did to it.
    pub(super) step: Option<Step>,
    /// Of a transfer: what it did.
    pub(super) sent: Option<Moved>,
    /// What it did to what is set aside.
    pub(super) allotted: Option<Allotted>,
}

/// The whole of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shop {
    /// By product.
    pub items: BTreeMap<Name, Item>,
    /// By purchase.
    pub attempts: BTreeMap<Name, Attempt>,
    /// By reservation.
    pub holds: BTreeMap<Name, Held>,
    /// By transfer: those that have left, are on their way here, or have arrived, as the store knows.
    pub sent: BTreeMap<Name, Sent>,
    /// By transfer: units that were put on the shelf.
    pub arrived: BTreeMap<Name, Lines>,
    /// Answers to cancels and to commands about items and reservations, by command: the name that the answer has on the link.
    pub answers: BTreeMap<Name, Name>,
    /// By operation.
    pub done: BTreeMap<Name, Done>,
    /// Since the last whole state.
    pub telling: Telling,
}

/// An entry of a log, as it stands in a table.
#[derive(Debug, Clone)]
pub struct Told {
    pub epoch: u64,
    pub seq: u64,
    pub kind: Name,
    pub operation: Name,
    pub body: Value,
    /// If it is a count of an earlier shelf: units that came since, less those that went; none: the log has no such place.
    pub moved: Option<i64>,
    /// If it is of a batch: the same of each of its lines.
    pub lines_moved: Vec<Option<i64>>,
}

/// What was going on when entries were recorded: nothing else may be among them.
#[derive(Debug, Clone, Copy)]
pub enum Occasion<'a> {
    /// A new database.
    Beginning,
    /// These operations of tills and staff.
    Operation(&'a [&'a str]),
    /// Commands of central, when Redis's clock was last asked. `refuses`: the product of which the store's database takes
    /// no units away, by a fault.
    Commands { redis_now: i64, refuses: Option<&'a str> },
    /// Reservations whose time is over end.
    Sweep,
    /// Some of the whole state is told, because central has asked for it.
    State,
    /// The log does not reach back to what central has: a new epoch with the same state.
    Opening,
    /// A restore: what only `own` had is recorded again.
    Restore { own: &'a Shop },
    /// A restore that opens with one of two states and records nothing again.
    Replacement,
    /// A later version's event, which changes nothing.
    News,
}

/// What the pages of a state that is not whole yet have told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Telling {
    items: BTreeMap<Name, Item>,
    outcomes: BTreeMap<Name, (Name, bool)>,
    holds: BTreeMap<Name, Held>,
    sent: BTreeMap<Name, Sent>,
}

/// What the entries of one transaction have yet to say.
#[derive(Debug, Default)]
pub struct Reading {
    /// The operation that left little of a product: the notice follows.
    pub(super) low: VecDeque<(Name, Name)>,
    /// Units found missing, by product: the operation for want of which follows.
    pub(super) short: BTreeMap<Name, i64>,
    /// Fewer units are set aside: what has left too few of them follows.
    pub(super) cut: Option<Cut>,
    /// What a rule sets aside: that follows.
    pub(super) raise: VecDeque<Raise>,
    /// Reservations that have ended for want of units: what has left too few of them follows.
    pub(super) fallen: Option<Fallen>,
    /// A batch of which some lines are told: the others, and its answer, follow.
    pub(super) batch: Option<Running>,
}

impl Item {
    /// Units that may be sold.
    pub fn available(&self) -> i64 {
        self.quantity - self.reserved - self.allotted
    }

    fn is_low(&self) -> bool {
        // Once low it stays so until a tenth more is there, and one unit at least.
        let above = |at: i64| if at == 0 { 0 } else { (at / 10).max(1) };
        self.low_at.is_some_and(|at| self.available() <= if self.low { at + above(at) } else { at })
    }

    pub(super) fn changed(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self.wanted = self.wanted.filter(|wanted| *wanted < self.allotted);
        self.low = self.is_low();
        self
    }

    pub(super) fn moved(self, delta: i64) -> Self {
        self.changed(|item| item.quantity += delta)
    }

    /// As an entry or a page states it.
    pub(super) fn stated(stated: &Value) -> Option<Self> {
        Some(Self {
            name: stated["name"].as_str()?.into(),
            quantity: stated["quantity"].as_i64()?,
            reserved: stated["reserved"].as_i64()?,
            allotted: stated["allotted"].as_i64()?,
            wanted: stated["allotmentWanted"].as_i64(),
            discontinued: stated["discontinued"].as_bool()?,
            low_at: stated["lowAt"].as_i64(),
            low: stated["low"].as_bool()?,
        })
    }
}

/// What a wish comes to, or the code of the refusal. `then`: of a count of an earlier shelf, units that were there. What is
/// on the shelf is not refused because it is held.
pub fn decide(item: Option<&Item>, wish: &Wish, moved: Option<i64>) -> Result<Item, &'static str> {
    let item = match (item, wish) {
        (Some(_), Wish::Create { .. }) => return Err("already_exists"),
        (None, Wish::Create { name, quantity, low_at }) => {
            let new = Item { name: name.clone(), quantity: *quantity, low_at: *low_at, ..Item::default() };
            return Ok(new.moved(0));
        }
        (None, _) => return Err("unknown_product"),
        (Some(item), _) => item.clone(),
    };
    match wish {
        Wish::Sell(units) if *units > item.available() => Err("insufficient_stock"),
        Wish::Adjust(delta) if item.quantity + delta < 0 => Err("insufficient_stock"),
        Wish::Receive(_) if item.discontinued => Err("discontinued"),
        Wish::Allot(units) => item.allot(*units),
        Wish::Sell(units) => Ok(item.moved(-units)),
        Wish::Receive(units) => Ok(item.moved(*units)),
        Wish::Adjust(delta) => Ok(item.moved(*delta)),
        Wish::Count { units, at: None } => Ok(item.changed(|item| item.quantity = *units)),
        Wish::Count { units, at: Some(_) } => {
            let moved = moved.ok_or("unknown_position")?;
            Ok(item.changed(|item| item.quantity = (units + moved).max(0)))
        }
        Wish::Change { name, discontinued, low_at } => Ok(item.changed(|item| {
            item.name = name.clone().unwrap_or_else(|| item.name.clone());
            item.discontinued = discontinued.unwrap_or(item.discontinued);
            if *discontinued == Some(true) {
                item.wanted = Some(0);
            }
            item.low_at = low_at.unwrap_or(item.low_at);
        })),
        Wish::Create { .. } => Err("already_exists"),
    }
}

/// What taking units for an online purchase comes to.
fn take(item: Option<&Item>, units: i64, from_allotment: i64) -> Result<Item, &'static str> {
    match item {
        None => Err("unknown_product"),
        Some(item) if item.discontinued => Err("discontinued"),
        Some(item) => {
            let of = from_allotment.min(item.allotted);
            if units > item.available() + of { Err("insufficient_stock") } else { Ok(item.clone().bought(units, of)) }
        }
    }
}

/// The code of a refusal, and the products that are short.
type Short<'a> = (&'static str, Vec<&'a str>);

/// What an attempt is of, as it is stated: one line has a form of its own.
pub(super) fn bought(stated: &Value) -> Option<Lines> {
    match stated["productId"].as_str() {
        Some(product) => Some(vec![(product.into(), stated["quantity"].as_i64()?)]),
        None => lines(&stated["lines"]).filter(|lines| lines.len() > 1),
    }
}

fn kind_of(wish: &Wish) -> &'static str {
    match wish {
        Wish::Create { .. } => "item_created",
        Wish::Sell(_) => "sold",
        Wish::Receive(_) => "received",
        Wish::Adjust(_) => "adjusted",
        Wish::Count { .. } => "counted",
        Wish::Change { .. } => "item_changed",
        Wish::Allot(_) => "allotment_changed",
    }
}

pub(super) fn must(holds: bool, otherwise: impl FnOnce() -> Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Shop {
    /// Takes in the next entry of a log, or says which promise it breaks.
    pub fn follow(
        &mut self,
        store: &str,
        told: &Told,
        book: &Book,
        occasion: Occasion<'_>,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        if let Some((operation, product)) = reading.low.pop_front() {
            let is_notice =
                &*told.kind == "low_stock" && told.operation == operation && told.body["productId"] == *product;
            must(is_notice, || format!("{operation} left little of {product}, and no notice of it follows"))?;
            return Ok(());
        }
        if let Some(raise) = reading.raise.pop_front() {
            return self.raised(told, raise, reading);
        }
        let is_nobodys = book.store_of(&told.operation).is_none();
        match (&*told.kind, occasion) {
            ("teleported", Occasion::News) => Ok(()),
            ("opened", Occasion::Beginning | Occasion::Opening | Occasion::Restore { .. } | Occasion::Replacement) => {
                self.telling = Telling::default();
                must(told.seq == 1, || "an epoch opens in the middle".into())
            }
            ("ready", Occasion::Commands { .. }) => Ok(()),
            (
                "snapshot_page" | "snapshot_end",
                Occasion::Operation(_) | Occasion::Commands { .. } | Occasion::Sweep,
            ) => Err("P6: a state is told on the side".into()),
            ("snapshot_page", _) => self.telling.page(&told.body),
            ("snapshot_end", _) => std::mem::take(&mut self.telling).end(self),
            ("outcome_repeated", Occasion::Commands { .. } | Occasion::State) => self.repeated(told, book, reading),
            (_, Occasion::Restore { own }) => self.again(told, own, book, reading),
            ("reservation_expired", Occasion::Operation(_) | Occasion::Commands { .. } | Occasion::Sweep) => {
                self.expired(told)
            }
            ("allotment_changed", Occasion::Operation(_) | Occasion::Commands { .. }) if is_nobodys => {
                self.cut(told, reading)
            }
            ("reservation_cancelled", Occasion::Operation(_) | Occasion::Commands { .. }) if is_nobodys => {
                self.fallen(told, reading)
            }
            ("shortage", Occasion::Commands { .. }) if is_nobodys && told.body["reservationId"].is_null() => {
                self.sold_short(told, book, reading)
            }
            ("shortage", Occasion::Operation(_) | Occasion::Commands { .. }) if is_nobodys => {
                self.fallen_named(told, reading)
            }
            (_, Occasion::Operation(operations)) if operations.contains(&&*told.operation) => {
                self.fact(store, told, book, (i64::MIN, None), reading)
            }
            (_, Occasion::Commands { redis_now, refuses }) => {
                self.fact(store, told, book, (redis_now, refuses), reading)
            }
            _ => Err(format!("P3: {} {} was recorded, and nobody asked for it now", told.kind, told.operation)),
        }
    }

    fn fact(
        &mut self,
        store: &str,
        told: &Told,
        book: &Book,
        (redis_now, refuses): (i64, Option<&str>),
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let (kind, operation) = (&*told.kind, &told.operation);
        if let Some(asked_of) = book.store_of(operation) {
            must(**asked_of == *store, || format!("P3: {operation} was asked of {asked_of}"))?;
        }
        if let Some(asked) = book.items.get(operation) {
            if asked.by == By::Batch {
                self.line_told(told, book, reading)?;
            }
            return self.item_fact(store, told, asked, book, refuses, reading);
        }
        if let Some(asked) = book.batches.get(operation) {
            return self.batch_parked(told, book, asked, refuses);
        }
        let is_sold = book.covers.get(operation).is_some_and(|covers| covers.iter().any(|cover| cover.sold));
        must(reading.fallen.is_none() && reading.cut.is_none() || is_sold, || {
            format!("P4: reservations have ended for want of units, or fewer are set aside, and {kind} follows")
        })?;
        if let Some(release) = book.releases.get(operation) {
            return self.release_fact(told, release, reading);
        }
        if let Some(asked) = book.holds.get(operation) {
            return self.hold_fact(told, asked, redis_now, reading);
        }
        if let Some(asked) = book.acts.get(operation) {
            return self.act_fact(told, asked, refuses, reading);
        }
        if let Some(transfer) = book.ships.get(operation) {
            let asked = &book.transfers[transfer];
            return self.ship_fact(told, (transfer, asked), (redis_now, refuses), reading);
        }
        if let Some((_, transfer)) = book.announces.get(operation) {
            return self.auto_fact(told, (transfer, &book.transfers[transfer]), reading);
        }
        if let Some(receipt) = book.receipts.get(operation) {
            return self.receipt_fact(store, told, receipt, book, reading);
        }
        if let Some(pick) = book.picks.get(operation) {
            let attempt = self.attempts.get_mut(&pick.purchase);
            let Some(attempt) = attempt.filter(|attempt| &*attempt.kind == "purchase_confirmed") else {
                return Err(format!("P5: {} was picked and is not confirmed", pick.purchase));
            };
            must(kind == "purchase_picked" && !attempt.picked, || {
                format!("P5: {operation} should pick {} once; {kind} was recorded", pick.purchase)
            })?;
            attempt.picked = true;
            self.done.insert(operation.clone(), Done::default());
            return self.states_lines(told, &book.buys[&pick.purchase], 0);
        }
        let purchase = told.body["purchase"]["purchaseId"].as_str().unwrap_or_default();
        let Some((purchase, buy)) = book.buys.get_key_value(purchase) else {
            return Err(format!("P3: {kind} {operation}: nobody asked for it"));
        };
        let named = &told.body["purchase"];
        let Some(attempt) = buy.attempts.get(store) else {
            return Err(format!("P5: {store} tells {kind} of {purchase}, and was not asked for it, {buy:?}"));
        };
        let is_it = bought(named).as_ref() == Some(&buy.lines) && named["attempt"] == **attempt;
        must(is_it, || format!("P5: {kind} of {purchase} is not about what was asked for, {buy:?}"))?;
        if operation == attempt {
            let cover = Self::cover(told, operation, book)?;
            self.purchase_fact(told, (purchase, buy, &cover), (redis_now, refuses), reading)?;
            if &*told.kind == "purchase_confirmed" {
                for (product, _) in &buy.lines {
                    self.rule_acts(store, operation, product, book, reading);
                }
            }
            return Ok(());
        }
        let is_asked = |cancel: &&Cancel| cancel.purchase == *purchase && *cancel.store == *store;
        let Some(cancel) = book.cancels.get(operation).filter(is_asked) else {
            return Err(format!("P5: {kind} of {purchase} by {operation}: nobody asked for it"));
        };
        must(!self.answers.contains_key(operation), || format!("P3: {operation} was carried out twice"))?;
        self.answers.insert(operation.clone(), told.kind.clone());
        let before = self.attempts.get(purchase).cloned();
        let (taken, picked) = match &before {
            None => (false, false),
            Some(before) if &*before.kind == "purchase_confirmed" => (true, before.picked),
            Some(before) => {
                return Err(format!("P5: {operation} cancels {purchase}, which was {} before", before.kind));
            }
        };
        match kind {
            "purchase_cancelled" if !picked || cancel.forced => {
                self.comes_to(purchase, attempt, &told.kind);
                for (product, units) in buy.lines.iter().filter(|_| taken) {
                    if let Some(item) = self.items.get(product).cloned() {
                        self.items.insert(product.clone(), item.moved(*units));
                    }
                }
                self.states_lines(told, buy, i64::from(taken))
            }
            "command_refused" if picked && !cancel.forced => {
                must(told.body["rejection"]["code"] == "already_picked", || {
                    format!("P5: {operation} was refused wrongly")
                })?;
                self.states_lines(told, buy, 0)
            }
            _ => Err(format!("P5: {kind} answers {operation} of {purchase}; picked {picked}, {cancel:?}")),
        }
    }

    /// An operation on an item, of a till or of central.
    fn item_fact(
        &mut self,
        store: &str,
        told: &Told,
        asked: &Asked,
        book: &Book,
        refuses: Option<&str>,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let (kind, operation) = (&*told.kind, &told.operation);
        let command = told.body["command"].as_str();
        must(command == (asked.by == By::Central).then_some(&**operation), || {
            format!("P3: {operation} was asked by {:?}, and recorded for the command {command:?}", asked.by)
        })?;
        must(told.body["productId"] == *asked.product, || format!("P2: {operation} is about {}", asked.product))?;
        must(!self.done.contains_key(operation) && !self.answers.contains_key(operation), || {
            format!("P3: {operation} was done twice")
        })?;
        let before = self.items.get(&asked.product);
        let takes = |after: &Item| before.is_some_and(|before| after.quantity < before.quantity);
        if refuses == Some(&*asked.product)
            && decide(
                self.without_due([&*asked.product], clock(told)).items.get(&asked.product),
                &asked.wish,
                told.moved,
            )
            .is_ok_and(|after| takes(&after))
        {
            return self.parked(told);
        }
        match decide(before, &asked.wish, told.moved) {
            Ok(after) => {
                self.nothing_due(told, &asked.product)?;
                self.was_cut(&asked.product, after.quantity, reading)
                    .map_err(|text| format!("P4: {operation}, {:?}: {text}", asked.wish))?;
                let fallen = reading.fallen.take();
                self.falls_short(&asked.product, after.quantity, fallen)
                    .map_err(|text| format!("P4: {operation}, {:?}: {text}", asked.wish))?;
                must(kind == kind_of(&asked.wish), || format!("P2: {operation}, {:?}, is told as {kind}", asked.wish))?;
                let delta = after.quantity - before.map_or(0, |item| item.quantity);
                if after.low && !before.is_some_and(|before| before.low) {
                    reading.low.push_back((operation.clone(), asked.product.clone()));
                }
                let allotted = matches!(asked.wish, Wish::Allot(_))
                    .then(|| Self::allotted_by_wish(before.unwrap_or(&after), &after, &asked.product));
                let done = Done { delta, after: Some(after.clone()), allotted, ..Done::default() };
                self.done.insert(operation.clone(), done);
                if asked.by == By::Central {
                    self.answers.insert(operation.clone(), told.kind.clone());
                }
                self.items.insert(asked.product.clone(), after);
                if matches!(asked.wish, Wish::Receive(_) | Wish::Count { .. }) {
                    self.rule_acts(store, operation, &asked.product, book, reading);
                }
                self.states(told, delta)
            }
            Err(code) => {
                self.nothing_due(told, &asked.product)?;
                let refused = kind == "command_refused" && told.body["rejection"]["code"] == code;
                must(refused, || format!("P4: {operation}, {:?}, must be refused ({code}); told: {kind}", asked.wish))?;
                self.answers.insert(operation.clone(), told.kind.clone());
                self.states(told, 0)
            }
        }
    }

    /// The store's word on a purchase itself.
    fn purchase_fact(
        &mut self,
        told: &Told,
        (purchase, buy, cover): (&Name, &Buy, &Cover),
        (redis_now, refuses): (i64, Option<&str>),
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        must(!self.attempts.contains_key(purchase), || format!("P3: {purchase} was carried out twice"))?;
        let products = || buy.lines.iter().map(|(product, _)| &**product);
        let is_refused = refuses.is_some_and(|refused| products().any(|product| product == refused))
            && (cover.sold
                || redis_now <= buy.deadline && self.without_due(products(), clock(told)).take_all(buy, cover).is_ok());
        let taken = if is_refused {
            Err(("unsupported_by_store", Vec::new()))
        } else if cover.sold {
            products().try_for_each(|product| self.nothing_due(told, product))?;
            Ok(self.take_sold(told, buy, cover, reading)?)
        } else {
            products().try_for_each(|product| self.nothing_due(told, product))?;
            self.take_all(buy, cover)
        };
        let (kind, after) = match taken {
            _ if redis_now > buy.deadline && !cover.sold => ("purchase_expired", None),
            Ok(after) => ("purchase_confirmed", Some(after)),
            Err((code, short)) => {
                let rejection = &told.body["rejection"];
                let said = &rejection["code"];
                must(*said == code, || format!("P5: {purchase} is rejected as {said}, not as {code}"))?;
                let named = rejection["lines"].as_array().into_iter().flatten();
                let named: Vec<&str> = named.filter_map(|line| line["productId"].as_str()).collect();
                must(buy.lines.len() == 1 || named == short, || {
                    format!("P5: {purchase} is short of {named:?}, and should be of {short:?}")
                })?;
                ("purchase_rejected", None)
            }
        };
        must(*told.kind == *kind, || {
            let items = &self.items;
            format!(
                "P5: {purchase} must be told as {kind}, not as {}: {items:?}, {buy:?}, Redis's clock {redis_now}",
                told.kind
            )
        })?;
        let is_taken = after.is_some();
        let before = self.items.clone();
        self.items.extend(after.into_iter().flatten());
        self.notices(told, &before, reading);
        self.comes_to(purchase, &told.operation, &kind.into());
        self.states_lines(told, buy, -i64::from(is_taken))
    }

    /// What taking all that is bought comes to, or why it cannot be.
    fn take_all<'a>(&self, buy: &'a Buy, cover: &Cover) -> Result<Vec<(Name, Item)>, Short<'a>> {
        let of = |product: &Name| units(&cover.lines, product);
        let taken =
            buy.lines.iter().map(|(product, units)| (product, take(self.items.get(product), *units, of(product))));
        let (mut after, mut short, mut refused) = (Vec::new(), Vec::new(), None);
        for (product, taken) in taken {
            match taken {
                Ok(item) => after.push((product.clone(), item)),
                Err("insufficient_stock") => short.push(&**product),
                Err(code @ "unknown_product") => return Err((code, Vec::new())),
                Err(code) => refused = refused.or(Some(code)),
            }
        }
        if let Some(code) = refused {
            return Err((code, Vec::new()));
        }
        if short.is_empty() { Ok(after) } else { Err(("insufficient_stock", short)) }
    }

    /// An entry about a purchase names each item of it that the store has, `times` so many units moved as are bought.
    fn states_lines(&self, told: &Told, buy: &Buy, times: i64) -> Result<(), Broken> {
        let has = buy.lines.iter().filter(|(product, _)| self.items.contains_key(product));
        let moved: BTreeMap<Name, i64> = has.map(|(product, units)| (product.clone(), units * times)).collect();
        let filed = moved.keys().next().unwrap_or(&buy.lines[0].0);
        must(told.body["productId"] == **filed, || format!("P2: {} is not filed under {filed}", told.operation))?;
        self.states_items(told, &moved)
    }

    fn comes_to(&mut self, purchase: &Name, command: &Name, kind: &Name) {
        let attempt = Attempt { command: command.clone(), kind: kind.clone(), picked: false };
        self.attempts.insert(purchase.clone(), attempt);
    }

    /// What an entry states of its item is what it is.
    pub(super) fn states(&self, told: &Told, delta: i64) -> Result<(), Broken> {
        let (operation, said) = (&told.operation, told.body["delta"].as_i64().unwrap_or(0));
        must(said == delta, || format!("P2: {operation} comes to {delta:+} units and is recorded as {said:+}"))?;
        let product = told.body["productId"].as_str().unwrap_or_default();
        let (item, stated) = (self.items.get(product), Item::stated(&told.body["item"]));
        must(item == stated.as_ref(), || format!("P2: {operation} leaves {item:?} of {product}, and states {stated:?}"))
    }

    /// An outcome that is said again is the one that was said first.
    fn repeated(&mut self, told: &Told, book: &Book, reading: &mut Reading) -> Result<(), Broken> {
        let command = told.body["command"].as_str().unwrap_or_default();
        let kind = word(&told.body).unwrap_or_default();
        if command.starts_with("resync") {
            return Ok(());
        }
        if let Some(asked) = book.batches.get(command).filter(|_| !self.answers.contains_key(command)) {
            return self.batch_answered(told, asked, book, reading);
        }
        if let Some(asked) = book.acts.get(command).filter(|_| !self.answers.contains_key(command)) {
            return self.done_before(told, asked);
        }
        let is_new = !self.answers.contains_key(command);
        if let Some(release) = book.releases.get(command).filter(|_| is_new) {
            return self.released_before(told, release);
        }
        if let Some((_, transfer)) = book.announces.get(command).filter(|_| is_new) {
            return self.sent_before(told, transfer, &book.transfers[transfer], true);
        }
        if let Some(transfer) = book.ships.get(command).filter(|_| is_new) {
            return self.sent_before(told, transfer, &book.transfers[transfer], false);
        }
        let known = self.answer_to(command);
        let picked = told.body["picked"].as_bool().unwrap_or(false);
        must(known == Some((kind.clone(), picked)), || {
            format!("P3: {command} is said again as {kind}, picked {picked}, and was {known:?}")
        })?;
        if *told.operation != *command {
            let asked = book.cancels.get(&told.operation);
            must(asked.is_some(), || format!("P3: {} says {command} again, and nobody asked", told.operation))?;
            self.answers.insert(told.operation.clone(), kind);
        }
        Ok(())
    }

    /// The answer that stands to a command, and whether what it was about was picked.
    fn answer_to(&self, command: &str) -> Option<(Name, bool)> {
        let of_purchase = Book::purchase_of(command).and_then(|purchase| self.attempts.get(purchase));
        let attempt = of_purchase.filter(|attempt| *attempt.command == *command);
        let attempt = attempt.map(|attempt| (attempt.kind.clone(), attempt.picked));
        attempt.or_else(|| self.answers.get(command).map(|kind| (kind.clone(), false)))
    }

    /// An entry that a restore records again (L10): what only the old database knew, by its difference, never refused.
    fn again(&mut self, told: &Told, own: &Shop, book: &Book, reading: &mut Reading) -> Result<(), Broken> {
        let (kind, operation) = (&*told.kind, &told.operation);
        if let Some(step) = own.done.get(operation).and_then(|done| done.step.as_ref()) {
            return self.step_again(told, step, book, reading);
        }
        if let Some(sent) = own.done.get(operation).and_then(|done| done.sent.as_ref()) {
            return self.sent_again(told, sent, book, reading);
        }
        if let Some(allotted) = own.done.get(operation).and_then(|done| done.allotted.as_ref()) {
            return self.allotted_again(told, allotted, book, reading);
        }
        let Some(product) = told.body["productId"].as_str().map(Name::from) else {
            return Err(format!("{kind} {operation} is about no product"));
        };
        let delta = told.body["delta"].as_i64().unwrap_or(0);
        if kind == "shortage" && told.body["reservationId"].is_null() {
            let is_own_name = !own.done.contains_key(operation) && !book.items.contains_key(operation);
            must(is_own_name, || format!("P3: {operation} and the shortage before it cannot be told apart"))?;
            must(reading.short.insert(product.clone(), delta).is_none(), || {
                format!("P4: units of {product} are told missing twice")
            })?;
            let item = self.items.get(&product).cloned();
            if let Some(item) = item {
                self.items.insert(product, item.moved(delta));
            }
            return Ok(());
        }
        let bought = told.body["purchase"]["purchaseId"].as_str().and_then(|purchase| book.buys.get(purchase));
        if let Some(buy) = bought {
            return self.purchase_again(told, own, book, buy, reading);
        }
        let expected = self.delta_again(told, own, book)?;
        must(delta == expected, || {
            format!("P2: {operation} was {expected:+} units and is recorded again as {delta:+}")
        })?;
        let before = self.items.get(&product).cloned();
        self.missing(told, &[(product.clone(), delta)].into(), reading)?;
        let stated = Item::stated(&told.body["item"]);
        let after = match (before, own.done.get(operation).and_then(|done| done.after.as_ref())) {
            (Some(before), Some(then)) if kind == "item_changed" => Some(before.changed(|item| {
                item.name = then.name.clone();
                item.discontinued = then.discontinued;
                if item.discontinued {
                    item.wanted = Some(0);
                }
                item.low_at = then.low_at;
            })),
            (Some(before), _) => Some(if delta == 0 { before } else { before.moved(delta) }),
            // It begins to exist, by whatever was said of it.
            (None, Some(then)) if kind == "item_created" => {
                let begun = Item { quantity: delta, reserved: 0, allotted: 0, wanted: None, ..then.clone() };
                let new = Item { discontinued: false, low: false, ..begun };
                Some(new.moved(0))
            }
            (None, _) => stated.clone(),
        };
        if let Some(after) = after {
            self.items.insert(product, after);
        }
        self.states(told, delta)
    }

    /// The entries before have said what the judge finds missing for these changes, and nothing else.
    pub(super) fn missing(
        &self,
        told: &Told,
        deltas: &BTreeMap<Name, i64>,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let said = std::mem::take(&mut reading.short);
        let missing = |(product, delta): (&Name, &i64)| {
            let free = self.items.get(product).map_or(0, Item::available) - said.get(product).copied().unwrap_or(0);
            let short = -(free + delta);
            (short > 0 && *delta < 0).then(|| (product.clone(), short))
        };
        let found: BTreeMap<Name, i64> = deltas.iter().filter_map(missing).collect();
        must(said == found, || {
            format!("P4: {} finds {found:?} missing, and the entries before say {said:?}", told.operation)
        })
    }

    /// The same of a purchase: each of its items moves by what was bought, or none does.
    fn purchase_again(
        &mut self,
        told: &Told,
        own: &Shop,
        book: &Book,
        buy: &Buy,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let times = self.delta_again(told, own, book)?;
        let deltas: BTreeMap<Name, i64> =
            buy.lines.iter().map(|(product, units)| (product.clone(), units * times)).collect();
        let cover = if times < 0 { Self::cover(told, &told.operation, book)? } else { Cover::default() };
        let of = self.of_allotment(&cover, &deltas);
        let rest = deltas.iter().map(|(product, delta)| (product.clone(), delta + of[product])).collect();
        self.missing(told, &rest, reading)?;
        for (product, delta) in deltas.iter().filter(|(_, delta)| **delta != 0) {
            if let Some(item) = self.items.get(product).cloned() {
                self.items.insert(product.clone(), item.bought(-delta, of[product]));
            }
        }
        let more = told.body["more"].as_array().into_iter().flatten();
        for named in std::iter::once(&told.body).chain(more) {
            // It begins to exist, by whatever was said of it.
            if let (Some(product), Some(item)) = (named["productId"].as_str(), Item::stated(&named["item"])) {
                self.items.entry(product.into()).or_insert(item);
            }
        }
        self.states_lines(told, buy, times)
    }

    /// By how much an entry that is recorded again moves the stock, of a purchase how often what was bought; notes that it
    /// is done.
    fn delta_again(&mut self, told: &Told, own: &Shop, book: &Book) -> Result<i64, Broken> {
        let (kind, operation) = (&*told.kind, &told.operation);
        if let Some(done) = own.done.get(operation) {
            must(!self.done.contains_key(operation), || {
                format!("P3: {operation} is recorded again, and central has it")
            })?;
            let is_line_answered = Book::batch_of(operation).is_some_and(|batch| self.answers.contains_key(batch));
            must(!is_line_answered, || {
                format!("P3: {operation} is recorded again, and central has its batch's answer")
            })?;
            self.done.insert(operation.clone(), done.clone());
            if let Some(pick) = book.picks.get(operation) {
                // Of a purchase that central has settled otherwise nothing waits to be picked.
                if let Some(attempt) = self.attempts.get_mut(&pick.purchase) {
                    attempt.picked |= &*attempt.kind == "purchase_confirmed";
                }
            } else if book.items.get(operation).is_some_and(|asked| asked.by == By::Central) {
                self.answers.insert(operation.clone(), told.kind.clone());
            }
            return Ok(done.delta);
        }
        let purchase = told.body["purchase"]["purchaseId"].as_str().unwrap_or_default();
        let Some((purchase, buy)) = book.buys.get_key_value(purchase) else {
            let refused = kind == "command_refused" && own.answers.contains_key(operation);
            must(refused, || format!("P3: {kind} {operation} is recorded again, and was never recorded here"))?;
            must(!self.answers.contains_key(operation), || format!("P3: {operation} is answered again"))?;
            self.answers.insert(operation.clone(), told.kind.clone());
            return Ok(0);
        };
        let was_answered = self.answer_to(operation).is_some();
        must(!was_answered, || format!("P3: {operation} is recorded again, and central has its outcome"))?;
        must(own.answer_to(operation).is_some(), || format!("P3: {operation} was never answered here"))?;
        let before = self.attempts.get(purchase).map(|attempt| attempt.kind.clone());
        let attempt = told.body["purchase"]["attempt"].as_str().unwrap_or_default();
        let Some(attempt) = buy.attempts.values().find(|asked| ***asked == *attempt) else {
            return Err(format!("P5: {operation} is recorded again as of {attempt}, which nobody asked for"));
        };
        if operation != attempt {
            self.answers.insert(operation.clone(), told.kind.clone());
        }
        match (kind, before.as_deref()) {
            ("command_refused", _) => Ok(0),
            ("purchase_cancelled", None) => {
                self.comes_to(purchase, attempt, &told.kind);
                Ok(0)
            }
            ("purchase_cancelled", Some("purchase_confirmed")) => {
                self.comes_to(purchase, attempt, &told.kind);
                Ok(1)
            }
            (_, None) => {
                self.comes_to(purchase, attempt, &told.kind);
                Ok(-i64::from(kind == "purchase_confirmed"))
            }
            (_, Some(before)) => Err(format!("P5: {kind} of {purchase} is recorded again, and central has {before}")),
        }
    }

    /// Operations that were done at `other` and not here.
    pub fn lacks<'a>(&'a self, other: &'a Shop) -> impl Iterator<Item = &'a Name> {
        // A command that both were sent may have come to something else here.
        let is_missing = |operation: &&Name| !self.done.contains_key(*operation) && !self.is_answered(operation);
        other.done.keys().filter(is_missing)
    }

    /// Whether an operation, or the batch that it is a line of, is a command that was answered here.
    pub fn is_answered(&self, operation: &str) -> bool {
        self.answers.contains_key(operation)
            || Book::batch_of(operation).is_some_and(|batch| self.answers.contains_key(batch))
    }

    /// Purchases of which the word here is not what it was at `other`, and may not become.
    pub fn unsays<'a>(&'a self, other: &'a Shop) -> impl Iterator<Item = &'a Name> {
        let stands = |purchase: &Name, before: &Attempt| {
            self.attempts.get(purchase).is_some_and(|now| {
                now.kind == before.kind && now.picked >= before.picked
                    || &*before.kind == "purchase_confirmed" && &*now.kind == "purchase_cancelled"
            })
        };
        other.attempts.iter().filter(move |(purchase, before)| !stands(purchase, before)).map(|(purchase, _)| purchase)
    }
}

impl Telling {
    fn page(&mut self, body: &Value) -> Result<(), Broken> {
        for named in body["items"].as_array().into_iter().flatten() {
            let (Some(product), Some(item)) = (named["productId"].as_str(), Item::stated(&named["item"])) else {
                return Err(format!("a page names {named}"));
            };
            self.items.insert(product.into(), item);
        }
        for reservation in body["reservations"].as_array().into_iter().flatten() {
            let Some((id, held)) = Held::stated(reservation, None) else {
                return Err(format!("a page has the reservation {reservation}"));
            };
            self.holds.insert(id, held);
        }
        for transfer in body["transfers"].as_array().into_iter().flatten() {
            let Some((id, sent)) = Sent::stated(transfer) else {
                return Err(format!("a page has the transfer {transfer}"));
            };
            self.sent.insert(id, sent);
        }
        for outcome in body["outcomes"].as_array().into_iter().flatten() {
            let (Some(command), Some(kind)) = (outcome["command"].as_str(), word(outcome)) else {
                return Err(format!("a page has the outcome {outcome}"));
            };
            self.outcomes.insert(command.into(), (kind, outcome["picked"].as_bool().unwrap_or(false)));
        }
        Ok(())
    }

    /// The whole state was told: it is all there is, and nothing else.
    fn end(self, shop: &Shop) -> Result<(), Broken> {
        let Self { items, outcomes, holds, sent } = self;
        must(items == shop.items, || format!("P6: the state told is {items:?}, and it is {:?}", shop.items))?;
        must(holds == shop.holds, || format!("P6: the state told holds {holds:?}, and it is {:?}", shop.holds))?;
        must(sent == shop.sent, || {
            format!("P6: the state told has the transfers {sent:?}, and it is {:?}", shop.sent)
        })?;
        let attempts = shop.attempts.values().map(|attempt| attempt.command.clone());
        for command in attempts.chain(shop.answers.keys().cloned()) {
            let known = shop.answer_to(&command);
            let told = outcomes.get(&command);
            must(told == known.as_ref(), || {
                format!("P3: the state told has {told:?} for {command}, and it was {known:?}")
            })?;
        }
        let is_known = |command: &Name| command.starts_with("resync") || shop.answer_to(command).is_some();
        match outcomes.keys().find(|command| !is_known(command)) {
            Some(command) => {
                Err(format!("P3: the state told has an outcome for {command}, which was never answered here"))
            }
            None => Ok(()),
        }
    }
}

impl Reading {
    /// The transaction is over.
    pub fn finish(self) -> Result<(), Broken> {
        must(self.low.is_empty(), || format!("{:?} left little stock, and no notice of it follows", self.low))?;
        must(self.short.is_empty(), || format!("P4: {:?} was told missing, and nobody wanted it", self.short))?;
        must(self.cut.is_none() && self.raise.is_empty(), || {
            format!("P4: {:?}, {:?}: what is to follow does not", self.cut, self.raise)
        })?;
        must(self.fallen.is_none(), || format!("P5: {:?}, and nothing has left too few units", self.fallen))?;
        must(self.batch.is_none(), || format!("P3: {:?} is not answered", self.batch))
    }
}
