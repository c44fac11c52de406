//! Units set aside for online sale as the judge works them out: who may take them, and what becomes of them.
//!
//! Tills sell none of them. More are set aside at once, fewer by central's release. What is lost is not set aside any more,
//! and a rule sets aside behind deliveries and counts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::book::{Book, Buy, By, Lines, Name};
use super::holds::{lines, units};
use super::shop::{Broken, Done, Item, Reading, Shop, Told, must};

/// What an entry did to what is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allotted {
    product: Name,
    /// So many more.
    by: i64,
    wanted: Option<i64>,
}

/// Central's word that so many units are not sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub store: Name,
    pub product: Name,
    pub units: i64,
}

/// What central wants of a purchase out of the allotment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cover {
    pub lines: Lines,
    /// Central has confirmed it.
    pub sold: bool,
}

impl Cover {
    /// As a command says it.
    pub fn of_command(body: &Value) -> Self {
        let sold = body["deadline"].is_null();
        Self { lines: lines(&body["purchase"]["fromAllotment"]).unwrap_or_default(), sold }
    }
}

/// What a store sets aside by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    pub percent: i64,
    pub minimum: i64,
}

/// Fewer units are set aside, because of a loss that follows.
#[derive(Debug)]
pub(super) struct Cut {
    /// The store before it.
    pub(super) before: Shop,
    product: Name,
}

/// A rule sets units aside: that follows.
#[derive(Debug)]
pub(super) struct Raise {
    operation: Name,
    product: Name,
    by: i64,
}

impl Item {
    /// So many units more are set aside, and so many are wanted to be.
    fn allotted_by(self, by: i64, wanted: Option<i64>) -> Self {
        self.changed(|item| {
            item.allotted += by;
            item.wanted = wanted;
        })
    }

    /// Units leave for a purchase, so many of them out of what is set aside.
    pub(super) fn bought(self, units: i64, of_allotment: i64) -> Self {
        self.changed(|item| {
            item.quantity -= units;
            item.allotted -= of_allotment;
        })
    }

    /// After a loss, of which what is set aside is the first to go.
    pub(super) fn cut(&self) -> Self {
        let by = (-self.available()).clamp(0, self.allotted);
        self.clone().allotted_by(-by, self.wanted)
    }

    /// So many more a store's rule sets aside.
    pub(super) fn wants_more(&self, rule: Option<&Rule>) -> i64 {
        if self.discontinued || self.wanted.is_some() {
            return 0;
        }
        let Rule { percent, minimum } = rule.copied().unwrap_or_default();
        ((self.quantity * percent / 100).max(minimum) - self.allotted).min(self.available()).max(0)
    }

    pub(super) fn raised(self, by: i64) -> Self {
        let wanted = self.wanted;
        self.allotted_by(by, wanted)
    }

    /// Somebody sets units aside.
    pub(super) fn allot(self, units: i64) -> Result<Self, &'static str> {
        let more = units - self.allotted;
        if self.discontinued {
            return Err("discontinued");
        }
        if more > self.available() {
            return Err("insufficient_stock");
        }
        Ok(self.allotted_by(more.max(0), (more < 0).then_some(units)))
    }
}

impl Shop {
    /// An entry changes what is set aside, by nobody's wish or by central's.
    fn changes(&mut self, told: &Told, change: Allotted, reading: &mut Reading) -> Result<(), Broken> {
        let Allotted { product, by, wanted } = change.clone();
        let said = told.body["allottedBy"].as_i64().unwrap_or(0);
        must(&*told.kind == "allotment_changed" && told.body["productId"] == *product, || {
            format!("P4: {} must change what is set aside of {product}, and is told as {}", told.operation, told.kind)
        })?;
        must(said == by, || {
            format!("P4: {} must set aside {by:+} of {product}, and sets aside {said:+}", told.operation)
        })?;
        let before = self.items.clone();
        if let Some(item) = self.items.get(&product).cloned() {
            self.items.insert(product, item.allotted_by(by, wanted));
        }
        self.notices(told, &before, reading);
        let done = Done { allotted: Some(change), ..Done::default() };
        must(self.done.insert(told.operation.clone(), done).is_none(), || {
            format!("P3: {} was done twice", told.operation)
        })?;
        self.states(told, 0)
    }

    /// Fewer units are set aside: what has left too few of them follows.
    pub(super) fn cut(&mut self, told: &Told, reading: &mut Reading) -> Result<(), Broken> {
        must(reading.cut.is_none() && reading.fallen.is_none(), || {
            format!("P4: {} cuts what is set aside twice, or after reservations", told.operation)
        })?;
        let product: Name = told.body["productId"].as_str().unwrap_or_default().into();
        reading.cut = Some(Cut { before: self.clone(), product: product.clone() });
        let wanted = self.items.get(&product).and_then(|item| item.wanted);
        let by = told.body["allottedBy"].as_i64().unwrap_or(0);
        Self::is_by(told, By::Store)?;
        self.changes(told, Allotted { product, by, wanted }, reading)
    }

    /// So many units of a product are left. What was set aside must have been cut by as many as are missing, no more; before
    /// any reservation has ended.
    pub(super) fn was_cut(&self, product: &Name, left: i64, reading: &mut Reading) -> Result<(), Broken> {
        let fallen = reading.fallen.as_ref().map(|fallen| &fallen.before);
        let (before, cut) = match &reading.cut {
            Some(cut) => (&cut.before, fallen.unwrap_or(self)),
            None => (fallen.unwrap_or(self), fallen.unwrap_or(self)),
        };
        let of = |shop: &Shop| shop.items.get(product).cloned().unwrap_or_default();
        let (before, cut) = (of(before), of(cut));
        let is = before.allotted - cut.allotted;
        let missing = (before.reserved + before.allotted - left).clamp(0, before.allotted);
        let of_it = reading.cut.take().is_none_or(|cut| cut.product == *product);
        must(of_it && is == missing, || {
            format!("{left} are left of {before:?}: {missing} fewer must be set aside, and it is {is}")
        })
    }

    /// Behind a delivery or a count: what the store's rule sets aside must follow.
    pub(super) fn rule_acts(&self, store: &str, operation: &Name, product: &Name, book: &Book, reading: &mut Reading) {
        let by = self.items.get(product).map_or(0, |item| item.wants_more(book.rules.get(store)));
        if by > 0 {
            reading.raise.push_back(Raise { operation: operation.clone(), product: product.clone(), by });
        }
    }

    /// A rule has set units aside.
    pub(super) fn raised(&mut self, told: &Told, raise: Raise, reading: &mut Reading) -> Result<(), Broken> {
        let Raise { operation, product, by } = raise;
        must(told.operation != operation, || format!("P3: {operation} and its rule cannot be told apart"))?;
        Self::is_by(told, By::Store)?;
        self.changes(told, Allotted { product, by, wanted: None }, reading)
    }

    /// Central says that so many units are not sold.
    pub(super) fn release_fact(&mut self, told: &Told, release: &Release, reading: &mut Reading) -> Result<(), Broken> {
        Self::is_by(told, By::Central)?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was done twice", told.operation))?;
        let Some(item) = self.items.get(&release.product).cloned() else {
            return self.refused(told, "unknown_product");
        };
        self.nothing_due(told, &release.product)?;
        let Some(wanted) = item.wanted else {
            return Err(format!("P4: {} lowers what nobody wants to be lower", told.operation));
        };
        let by = -release.units.min(item.allotted - wanted);
        self.answers.insert(told.operation.clone(), told.kind.clone());
        self.changes(told, Allotted { product: release.product.clone(), by, wanted: Some(wanted) }, reading)
    }

    /// A release is answered that has changed nothing.
    pub(super) fn released_before(&mut self, told: &Told, release: &Release) -> Result<(), Broken> {
        let item = self.items.get(&release.product);
        let stated = Item::stated(&told.body["item"]);
        must(item.is_some_and(|item| item.wanted.is_none()) && stated.as_ref() == item, || {
            format!("P4: {} changes nothing, {stated:?}, and it is {item:?}", told.operation)
        })?;
        let kind = told.body["kind"].as_str().unwrap_or_default();
        must(kind == "allotment_changed", || format!("P3: {} is answered as {kind}", told.operation))?;
        self.answers.insert(told.operation.clone(), kind.into());
        Ok(())
    }

    /// A restore records again what only the old database knew: as far as it can be today.
    pub(super) fn allotted_again(
        &mut self,
        told: &Told,
        then: &Allotted,
        book: &Book,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let Allotted { product, by, wanted } = then.clone();
        let by_central = book.releases.contains_key(&told.operation)
            || book.items.get(&told.operation).is_some_and(|asked| asked.by == By::Central);
        if by_central {
            must(!self.answers.contains_key(&told.operation), || {
                format!("P3: {} is recorded again, and central has its outcome", told.operation)
            })?;
            self.answers.insert(told.operation.clone(), told.kind.clone());
        }
        let change = match self.items.get(&product) {
            Some(item) if item.discontinued => Allotted { product, by: by.clamp(-item.allotted, 0), wanted: Some(0) },
            // A loss or a release is nobody's wish.
            Some(item) => {
                let wanted = if by < 0 { item.wanted } else { wanted };
                Allotted { product, by: by.clamp(-item.allotted, item.available()), wanted }
            }
            None => {
                // It begins to exist, by whatever was said of it.
                let new = Item::stated(&told.body["item"]).unwrap_or_default();
                self.items.insert(product.clone(), Item { wanted: None, ..new });
                Allotted { product, by: 0, wanted }
            }
        };
        let notices = std::mem::take(&mut reading.low);
        self.changes(told, change.clone(), reading)?;
        // Notices are not recorded again.
        reading.low = notices;
        Ok(())
    }

    /// What central wanted out of the allotment when it asked for what an entry answers.
    pub(super) fn cover(told: &Told, command: &str, book: &Book) -> Result<Cover, Broken> {
        let said = lines(&told.body["purchase"]["fromAllotment"]).unwrap_or_default();
        let asked = book.covers.get(command).into_iter().flatten();
        let mut like: Vec<&Cover> = asked.filter(|cover| cover.lines == said).collect();
        // It may have been asked both ways: for what a human's choice has undone it is asked once more, and not refused.
        let code = &told.body["rejection"]["code"];
        let is_as_sold = &*told.kind == "purchase_confirmed" || *code == "unsupported_by_store";
        like.sort_by_key(|cover| cover.sold == is_as_sold);
        must(!like.is_empty() || said.is_empty(), || {
            format!("P5: {command} takes {said:?} out of the allotment, and was never asked so")
        })?;
        Ok(like.last().copied().cloned().unwrap_or_default())
    }

    /// Central had confirmed it, and its units are not there: they are entered, and what follows takes them.
    pub(super) fn sold_short(&mut self, told: &Told, book: &Book, reading: &mut Reading) -> Result<(), Broken> {
        let purchase = told.body["purchase"]["purchaseId"].as_str().unwrap_or_default();
        must(book.buys.contains_key(purchase), || {
            format!("P4: {} is a shortage, and names no purchase that it is of", told.operation)
        })?;
        let product: Name = told.body["productId"].as_str().unwrap_or_default().into();
        let delta = told.body["delta"].as_i64().unwrap_or(0);
        must(reading.short.insert(product.clone(), delta).is_none(), || {
            format!("P4: units of {product} are told missing twice")
        })?;
        let before = self.items.clone();
        let after = match self.items.get(&product).cloned() {
            Some(item) => item.moved(delta),
            None => Item { name: product.clone(), quantity: delta, ..Item::default() },
        };
        self.items.insert(product, after);
        self.notices(told, &before, reading);
        self.states(told, delta)
    }

    /// A purchase that central has confirmed takes its units, whatever has become of the allotment: those set aside, those
    /// free, those of the youngest reservations; what is missing then was entered before.
    pub(super) fn take_sold(
        &self,
        told: &Told,
        buy: &Buy,
        cover: &Cover,
        reading: &mut Reading,
    ) -> Result<Vec<(Name, Item)>, Broken> {
        let mut said = std::mem::take(&mut reading.short);
        let base = reading.fallen.as_ref().map_or(&self.items, |fallen| &fallen.before.items);
        let lefts = buy.lines.iter().map(|(product, units_)| {
            let item = base.get(product).cloned().unwrap_or_default();
            let of = units(&cover.lines, product).min(item.allotted);
            (product.clone(), (item.quantity - item.allotted + of - units_).max(0))
        });
        let lefts: Vec<(Name, i64)> = lefts.collect();
        let fallen = reading.fallen.take();
        self.all_fall_short(&lefts, fallen).map_err(|text| format!("P4: {}: {text}", told.operation))?;
        let mut after = Vec::new();
        for (product, bought) in &buy.lines {
            let item = self.items.get(product).cloned().unwrap_or_default();
            let of = units(&cover.lines, product).min(item.allotted);
            let entered = said.remove(product).unwrap_or(0);
            let missing = (bought - of - (item.available() - entered)).max(0);
            must(entered == missing, || {
                format!("P4: {} finds {missing} of {product} missing, and {entered} were entered", told.operation)
            })?;
            after.push((product.clone(), item.bought(*bought, of)));
        }
        must(said.is_empty(), || format!("P4: {said:?} was entered before {}, in vain", told.operation))?;
        Ok(after)
    }

    /// The units that unanswered commands take of what a store shows as set aside of a product.
    pub fn taken<'a>(&self, claims: impl Iterator<Item = (&'a Name, i64)>) -> i64 {
        let is_open = |command: &str| {
            let of_purchase = Book::purchase_of(command).and_then(|purchase| self.attempts.get(purchase));
            !self.answers.contains_key(command) && of_purchase.is_none_or(|attempt| *attempt.command != *command)
        };
        claims.filter(|(command, _)| is_open(command)).map(|(_, units)| units).sum()
    }

    /// What of the allotment a purchase takes that is recorded again.
    pub(super) fn of_allotment(&self, cover: &Cover, products: &BTreeMap<Name, i64>) -> BTreeMap<Name, i64> {
        let of = |product: &Name| {
            let allotted = self.items.get(product).map_or(0, |item| item.allotted);
            units(&cover.lines, product).min(allotted)
        };
        products.keys().map(|product| (product.clone(), of(product))).collect()
    }

    /// What an operation that was done by wish has changed.
    pub(super) fn allotted_by_wish(before: &Item, after: &Item, product: &Name) -> Allotted {
        Allotted { product: product.clone(), by: after.allotted - before.allotted, wanted: after.wanted }
    }
}
