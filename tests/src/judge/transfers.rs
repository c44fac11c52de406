//! Transfers as the judge works them out: what has left a store, what is on its way to it, and what has arrived.
//!
//! Whatever the stores' tables say, units arrive once, and never more of them than were sent.

use std::collections::BTreeMap;

use serde_json::Value;

use super::book::{Book, By, Lines, Name, Receipt, Transfer};
use super::holds::{lines, units};
use super::shop::{Broken, Done, Item, Reading, Shop, Told, must};

/// A transfer as one of its stores knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub lines: Lines,
    /// What has arrived, if it has.
    pub received: Option<Lines>,
}

/// What an entry did: of which transfer, what that is after it, and by how much each item moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    transfer: Name,
    after: Sent,
    moved: BTreeMap<Name, i64>,
}

impl Sent {
    /// As an entry, a page or a table states it.
    pub fn stated(stated: &Value) -> Option<(Name, Self)> {
        let received = match stated["status"].as_str()? {
            "shipped" => None,
            "received" => Some(lines(&stated["receivedLines"])?),
            _ => return None,
        };
        Some((stated["id"].as_str()?.into(), Self { lines: lines(&stated["lines"])?, received }))
    }

    /// The name that it has on the link.
    fn kind(&self) -> &'static str {
        if self.received.is_some() { "transfer_received" } else { "transfer_shipped" }
    }
}

impl Shop {
    /// Whether a transfer's units can leave, or the code of the refusal.
    fn may_ship(&self, lines: &Lines) -> Result<(), &'static str> {
        self.may_hold(lines)
    }

    /// What booking in a transfer comes to, or the code of the refusal.
    pub fn may_receive(&self, store: &str, book: &Book, receipt: &Receipt) -> Result<Sent, &'static str> {
        let comes_here = book.transfers.get(&receipt.transfer).is_some_and(|transfer| *transfer.to == *store);
        let Some(sent) = self.sent.get(&receipt.transfer).filter(|_| comes_here) else {
            return Err("unknown_transfer");
        };
        if sent.received.is_some() {
            return Err("transfer_closed");
        }
        let arrived = receipt.lines.as_ref().unwrap_or(&sent.lines);
        if arrived.iter().any(|(product, quantity)| *quantity > units(&sent.lines, product)) {
            return Err("beyond_transfer");
        }
        Ok(Sent { received: Some(arrived.clone()), ..sent.clone() })
    }

    /// Units are to leave for another store. `refuses`: see [`super::Occasion::Commands`].
    pub(super) fn ship_fact(
        &mut self,
        told: &Told,
        (transfer, asked): (&Name, &Transfer),
        (redis_now, refuses): (i64, Option<&str>),
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        Self::is_by(told, By::Central)?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was done twice", told.operation))?;
        if redis_now > asked.deadline {
            return self.refused(told, "transfer_closed");
        }
        for (product, _) in &asked.lines {
            self.nothing_due(told, product)?;
        }
        if let Err(code) = self.may_ship(&asked.lines) {
            return self.refused(told, code);
        }
        if refuses.is_some_and(|product| units(&asked.lines, product) > 0) {
            return self.parked(told);
        }
        must(!self.sent.contains_key(transfer), || format!("P3: {transfer} is shipped twice"))?;
        self.answers.insert(told.operation.clone(), "transfer_shipped".into());
        let moved = asked.lines.iter().map(|(product, quantity)| (product.clone(), -quantity)).collect();
        self.become_sent(told, transfer, Sent { lines: asked.lines.clone(), received: None }, moved, reading)
    }

    /// Units are to be booked in.
    pub(super) fn receipt_fact(
        &mut self,
        store: &str,
        told: &Told,
        receipt: &Receipt,
        book: &Book,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        Self::is_by(told, receipt.by)?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was done twice", told.operation))?;
        let after = match self.may_receive(store, book, receipt) {
            Ok(after) => after,
            Err(code) => return self.refused(told, code),
        };
        for (product, _) in &after.lines {
            self.nothing_due(told, product)?;
        }
        self.arrives(told, &receipt.transfer, after, receipt.by == By::Central, reading)
    }

    /// A transfer is announced that is to be booked in at once.
    pub(super) fn auto_fact(
        &mut self,
        told: &Told,
        (transfer, asked): (&Name, &Transfer),
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        Self::is_by(told, By::Central)?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was done twice", told.operation))?;
        let is_closed = self.sent.get(transfer).is_some_and(|sent| sent.received.is_some());
        must(asked.auto && !is_closed, || format!("P5: {} books in {transfer}, {asked:?}", told.operation))?;
        let after = Sent { lines: asked.lines.clone(), received: Some(asked.lines.clone()) };
        self.arrives(told, transfer, after, true, reading)
    }

    fn arrives(
        &mut self,
        told: &Told,
        transfer: &Name,
        after: Sent,
        is_command: bool,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        if is_command {
            self.answers.insert(told.operation.clone(), after.kind().into());
        }
        let moved = after.received.iter().flatten().cloned().collect();
        self.become_sent(told, transfer, after, moved, reading)
    }

    /// A command is answered that has moved nothing: an announcement, or a shipment whose outcome is gone.
    pub(super) fn sent_before(
        &mut self,
        told: &Told,
        transfer: &Name,
        asked: &Transfer,
        is_announced: bool,
    ) -> Result<(), Broken> {
        let stated = Sent::stated(&told.body["transfer"]);
        let known = self.sent.get(transfer).cloned();
        let new = Sent { lines: asked.lines.clone(), received: None };
        let is = match known {
            Some(known) => known,
            None if is_announced && !asked.auto => new,
            known => return Err(format!("P5: {} is answered by {stated:?}, and it is {known:?}", told.operation)),
        };
        must(stated.as_ref() == Some(&(transfer.clone(), is.clone())), || {
            format!("P5: {} is answered by {stated:?}, and it is {is:?}", told.operation)
        })?;
        let kind = told.body["kind"].as_str().unwrap_or_default();
        must(kind == is.kind(), || format!("P3: {} is told as {kind}", told.operation))?;
        self.answers.insert(told.operation.clone(), kind.into());
        self.sent.insert(transfer.clone(), is);
        Ok(())
    }

    /// The items move, and the entry says so.
    fn become_sent(
        &mut self,
        told: &Told,
        transfer: &Name,
        after: Sent,
        moved: BTreeMap<Name, i64>,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let before = self.items.clone();
        for (product, delta) in &moved {
            let item = match self.items.get(product).cloned() {
                Some(item) => item.moved(*delta),
                // It is new here, under the name that the source has told.
                None => {
                    let name = told.body["transfer"]["names"][&**product].as_str().unwrap_or_default().into();
                    Item { name, ..Item::default() }.moved(*delta)
                }
            };
            self.items.insert(product.clone(), item);
        }
        self.notices(told, &before, reading);
        self.states_sent(told, transfer, after, moved)
    }

    /// An entry about a transfer names it as it is, and each item that it changed.
    fn states_sent(
        &mut self,
        told: &Told,
        transfer: &Name,
        after: Sent,
        moved: BTreeMap<Name, i64>,
    ) -> Result<(), Broken> {
        let operation = &told.operation;
        must(*told.kind == *after.kind(), || {
            format!("P3: {operation} comes to {after:?}, and is told as {}", told.kind)
        })?;
        let stated = Sent::stated(&told.body["transfer"]);
        must(stated == Some((transfer.clone(), after.clone())), || {
            format!("P2: {operation} makes {transfer} {after:?}, and states {stated:?}")
        })?;
        self.states_items(told, &moved)?;
        if let Some(arrived) = after.received.as_ref().filter(|_| !moved.is_empty()) {
            let before = self.arrived.insert(transfer.clone(), arrived.clone());
            must(before.is_none(), || format!("P3: {transfer} arrives as {arrived:?}, and had as {before:?}"))?;
            must(arrived.iter().all(|(product, quantity)| *quantity <= units(&after.lines, product)), || {
                format!("P3: of {transfer}, {:?}, {arrived:?} arrives", after.lines)
            })?;
        }
        self.sent.insert(transfer.clone(), after.clone());
        let moved = Moved { transfer: transfer.clone(), after, moved };
        let done = Done { delta: 0, after: None, step: None, sent: Some(moved), allotted: None };
        must(self.done.insert(operation.clone(), done).is_none(), || format!("P3: {operation} was done twice"))
    }

    /// A restore records again what only the old database knew (L10): what left has left, and what arrived has arrived,
    /// unless that is known.
    pub(super) fn sent_again(
        &mut self,
        told: &Told,
        then: &Moved,
        book: &Book,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let Moved { transfer, after, moved } = then;
        let known = self.sent.get(transfer).cloned();
        let is_known = known.as_ref().is_some_and(|known| after.received.is_none() || known.received.is_some());
        let (after, moved) = match known.filter(|_| is_known) {
            Some(known) => (known, BTreeMap::new()),
            None => (after.clone(), moved.clone()),
        };
        self.missing(told, &moved, reading)?;
        let by_central = book.ships.contains_key(&told.operation)
            || book.announces.contains_key(&told.operation)
            || book.receipts.get(&told.operation).is_some_and(|receipt| receipt.by == By::Central);
        if by_central {
            must(!self.answers.contains_key(&told.operation), || {
                format!("P3: {} is recorded again, and central has its outcome", told.operation)
            })?;
            self.answers.insert(told.operation.clone(), after.kind().into());
        }
        let more = told.body["more"].as_array().into_iter().flatten();
        for named in std::iter::once(&told.body).chain(more) {
            let product: Name = named["productId"].as_str().unwrap_or_default().into();
            let Some(delta) = moved.get(&product) else { continue };
            let after = match self.items.get(&product).cloned() {
                Some(item) => item.moved(*delta),
                // It begins to exist, by whatever was said of it.
                None => match Item::stated(&named["item"]) {
                    Some(item) => item,
                    None => continue,
                },
            };
            self.items.insert(product, after);
        }
        self.states_sent(told, transfer, after, moved)
    }

    /// The same store, which knows these transfers from central.
    pub fn knowing(&self, transfers: &[Value]) -> Self {
        Self { sent: transfers.iter().filter_map(Sent::stated).collect(), ..self.clone() }
    }
}
