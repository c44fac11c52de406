//! Reservations as the judge works them out: what a store holds, until when, and what becomes of it.

use std::collections::BTreeMap;

use protocol::time::Millis;
use serde_json::Value;

use super::book::{Act, Acted, Book, By, Hold, Lines, Name};
use super::shop::{Broken, Done, Item, Reading, Shop, Told, must};

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub lines: Lines,
    /// By the store's clock, ms.
    pub made_at: i64,
    /// By the store's clock, ms.
    pub expires_at: i64,
    pub state: State,
}

/// Where it is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Open,
    /// With what has left the stock.
    Confirmed(Lines),
    Cancelled,
    Expired,
}

/// Reservations that have ended because fewer units are there than are held.
#[derive(Debug)]
pub struct Fallen {
    /// The store before it.
    pub(super) before: Shop,
    /// Which, in their order, and for want of which product.
    ended: Vec<(Name, Name)>,
    /// The last of them, until it has been named as a shortage.
    unnamed: Option<Name>,
}

/// What an entry did to a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    kind: Name,
    reservation: Name,
    /// The reservation after it.
    after: Held,
    /// By how much it moved the quantity of each item that it changed.
    moved: BTreeMap<Name, i64>,
}

impl State {
    /// The name that an answer has on the link which says so.
    fn kind(&self) -> &'static str {
        match self {
            Self::Open => "reserved",
            Self::Confirmed(_) => "reservation_confirmed",
            Self::Cancelled => "reservation_cancelled",
            Self::Expired => "reservation_expired",
        }
    }
}

pub(super) fn lines(stated: &Value) -> Option<Lines> {
    let line = |line: &Value| Some((line["productId"].as_str()?.into(), line["quantity"].as_i64()?));
    stated.as_array()?.iter().map(line).collect()
}

pub(super) fn units(lines: &Lines, product: &str) -> i64 {
    lines.iter().find(|(of, _)| **of == *product).map_or(0, |(_, units)| *units)
}

impl Held {
    /// As an entry, a page or, with its times beside it, a table states it.
    pub(super) fn stated(stated: &Value, times: Option<(i64, i64)>) -> Option<(Name, Self)> {
        let state = match stated["status"].as_str()? {
            "open" => State::Open,
            "confirmed" => State::Confirmed(lines(&stated["confirmedLines"])?),
            "cancelled" => State::Cancelled,
            "expired" => State::Expired,
            _ => return None,
        };
        let lines = lines(&stated["lines"])?;
        let (made_at, expires_at) = match times {
            Some(times) => times,
            None => (time(&stated["createdAt"])?, time(&stated["expiresAt"])?),
        };
        Some((stated["id"].as_str()?.into(), Self { lines, made_at, expires_at, state }))
    }

    fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// What something that is asked of it comes to, or the code of the refusal. `None`: it was done before.
    pub fn decide(&self, act: &Act, clock: i64) -> Result<Option<Self>, &'static str> {
        match (&self.state, act) {
            (State::Open, _) if self.expires_at <= clock => Err("reservation_expired"),
            (State::Open, Act::Confirm(part)) => {
                let taken = part.as_ref().unwrap_or(&self.lines);
                if taken.iter().any(|(product, quantity)| *quantity > units(&self.lines, product)) {
                    return Err("beyond_reservation");
                }
                Ok(Some(Self { state: State::Confirmed(taken.clone()), ..self.clone() }))
            }
            (State::Open, Act::Cancel) => Ok(Some(Self { state: State::Cancelled, ..self.clone() })),
            (State::Open, Act::Extend(ttl_ms)) => Ok(Some(Self { expires_at: clock + ttl_ms, ..self.clone() })),
            (State::Confirmed(taken), Act::Confirm(part)) if part.as_ref().is_none_or(|part| part == taken) => Ok(None),
            (State::Cancelled, Act::Cancel) => Ok(None),
            (State::Expired, _) => Err("reservation_expired"),
            (State::Confirmed(_) | State::Cancelled, _) => Err("reservation_closed"),
        }
    }
}

/// The store's clock when an entry was recorded, ms.
pub(super) fn clock(told: &Told) -> i64 {
    time(&told.body["recordedAt"]).unwrap_or(i64::MIN)
}

pub(super) fn time(stated: &Value) -> Option<i64> {
    Millis::parse(stated.as_str()?).map(|at| at.0)
}

impl Shop {
    /// Whether these units can be held, or the code of the refusal.
    pub fn may_hold(&self, lines: &Lines) -> Result<(), &'static str> {
        if lines.iter().any(|(product, _)| !self.items.contains_key(product)) {
            return Err("unknown_product");
        }
        let is_short = |(product, quantity): &(Name, i64)| *quantity > self.items[product].available();
        if lines.iter().any(is_short) { Err("insufficient_stock") } else { Ok(()) }
    }

    /// How many reservations are open.
    pub fn open_holds(&self) -> usize {
        self.holds.values().filter(|held| held.is_open()).count()
    }

    /// The same store once the end of all reservations of these products that are over has been recorded.
    pub fn without_due<'a>(&self, products: impl IntoIterator<Item = &'a str>, clock: i64) -> Self {
        let mut shop = self.clone();
        for product in products {
            let due = |held: &Held| held.is_open() && held.expires_at <= clock && units(&held.lines, product) > 0;
            let due: Vec<Name> =
                shop.holds.iter().filter(|(_, held)| due(held)).map(|(reservation, _)| reservation.clone()).collect();
            for reservation in due {
                let held = shop.holds[&reservation].clone();
                shop.become_(&reservation, Held { state: State::Expired, ..held });
            }
        }
        shop
    }

    /// A reservation whose time is over blocks nothing that is about its products.
    pub(super) fn nothing_due(&self, told: &Told, product: &str) -> Result<(), Broken> {
        let now = clock(told);
        let due = self
            .holds
            .iter()
            .find(|(_, held)| held.is_open() && held.expires_at <= now && units(&held.lines, product) > 0);
        must(due.is_none(), || format!("P4: {} finds units of {product} held by {due:?}", told.operation))
    }

    /// The database took nothing away, by a fault: what was asked is refused as something that the store cannot do.
    pub(super) fn parked(&mut self, told: &Told) -> Result<(), Broken> {
        let is_refusal = &*told.kind == "command_refused" && told.body["rejection"]["code"] == "unsupported_by_store";
        must(is_refusal, || format!("P7: {} cannot be recorded, and is told as {}", told.operation, told.kind))?;
        self.answers.insert(told.operation.clone(), told.kind.clone());
        self.states(told, 0)
    }

    /// A reservation becomes this, and its items follow. Says by how much their quantities moved: of each item that it
    /// changed.
    fn become_(&mut self, reservation: &Name, after: Held) -> BTreeMap<Name, i64> {
        let before = self.holds.insert(reservation.clone(), after.clone());
        let held = |held: Option<&Held>, product: &str| {
            held.filter(|held| held.is_open()).map_or(0, |held| units(&held.lines, product))
        };
        let was_open = before.as_ref().is_some_and(Held::is_open);
        let taken = match &after.state {
            State::Confirmed(taken) if was_open => taken.clone(),
            State::Confirmed(_) | State::Open | State::Cancelled | State::Expired => Lines::new(),
        };
        let mut moved = BTreeMap::new();
        for (product, _) in &after.lines {
            let more = held(Some(&after), product) - held(before.as_ref(), product);
            let delta = -units(&taken, product);
            let Some(item) = self.items.get(product).filter(|_| more != 0) else { continue };
            let changed = item.clone().changed(|item| {
                item.reserved += more;
                item.quantity += delta;
            });
            self.items.insert(product.clone(), changed);
            moved.insert(product.clone(), delta);
        }
        moved
    }

    /// An entry about a reservation names it as it is, and each item that it changed.
    fn states_step(
        &mut self,
        told: &Told,
        reservation: &Name,
        kind: &str,
        moved: BTreeMap<Name, i64>,
    ) -> Result<(), Broken> {
        let operation = &told.operation;
        must(*told.kind == *kind, || format!("P3: {operation} comes to {kind}, and is told as {}", told.kind))?;
        let after = self.holds[reservation].clone();
        let stated = Held::stated(&told.body["reservation"], None);
        must(stated == Some((reservation.clone(), after.clone())), || {
            format!("P2: {operation} makes {reservation} {after:?}, and states {stated:?}")
        })?;
        self.states_items(told, &moved)?;
        let step = Step { kind: kind.into(), reservation: reservation.clone(), after, moved };
        let done = Done { delta: 0, after: None, step: Some(step), sent: None, allotted: None };
        must(self.done.insert(operation.clone(), done).is_none(), || format!("P3: {operation} was done twice"))
    }

    /// An entry names each item that it changed as it is after it.
    pub(super) fn states_items(&self, told: &Told, moved: &BTreeMap<Name, i64>) -> Result<(), Broken> {
        let more = told.body["more"].as_array().into_iter().flatten();
        let named = std::iter::once(&told.body).filter(|first| first["item"].is_object()).chain(more);
        let stated: Vec<(Name, i64, Option<Item>)> = named
            .map(|named| {
                let product = named["productId"].as_str().unwrap_or_default().into();
                (product, named["delta"].as_i64().unwrap_or(0), Item::stated(&named["item"]))
            })
            .collect();
        let is = moved.iter().map(|(product, delta)| (product.clone(), *delta, self.items.get(product).cloned()));
        let is: Vec<_> = is.collect();
        must(stated == is, || format!("P2: {} leaves {is:?}, and states {stated:?}", told.operation))
    }

    /// Notices follow for those that this has left little of.
    pub(super) fn notices(&self, told: &Told, before: &BTreeMap<Name, Item>, reading: &mut Reading) {
        let fallen = self
            .items
            .iter()
            .filter(|(product, item)| item.low && !before.get(*product).is_some_and(|before| before.low));
        reading.low.extend(fallen.map(|(product, _)| (told.operation.clone(), product.clone())));
    }

    pub(super) fn is_by(told: &Told, by: By) -> Result<(), Broken> {
        let (operation, command) = (&told.operation, told.body["command"].as_str());
        must(command == (by == By::Central).then_some(&**operation), || {
            format!("P3: {operation} was asked by {by:?}, and recorded for the command {command:?}")
        })
    }

    pub(super) fn refused(&mut self, told: &Told, code: &str) -> Result<(), Broken> {
        let is_refusal = &*told.kind == "command_refused" && told.body["rejection"]["code"] == code;
        must(is_refusal, || format!("P4: {} must be refused ({code}); told: {}", told.operation, told.kind))?;
        self.answers.insert(told.operation.clone(), told.kind.clone());
        self.states(told, 0)
    }

    /// Units are to be held.
    pub(super) fn hold_fact(
        &mut self,
        told: &Told,
        asked: &Hold,
        redis_now: i64,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        Self::is_by(told, asked.by)?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was done twice", told.operation))?;
        if asked.by == By::Central && redis_now > asked.deadline {
            return self.refused(told, "reservation_expired");
        }
        for (product, _) in &asked.lines {
            self.nothing_due(told, product)?;
        }
        if let Err(code) = self.may_hold(&asked.lines) {
            return self.refused(told, code);
        }
        let before = self.items.clone();
        let made_at = clock(told);
        let lines = asked.lines.clone();
        let after = Held { lines, made_at, expires_at: made_at + asked.ttl_ms, state: State::Open };
        must(!self.holds.contains_key(&asked.reservation), || format!("P3: {} is held twice", asked.reservation))?;
        if asked.by == By::Central {
            self.answers.insert(told.operation.clone(), after.state.kind().into());
        }
        let moved = self.become_(&asked.reservation, after);
        self.notices(told, &before, reading);
        self.states_step(told, &asked.reservation, "reserved", moved)
    }

    /// Something was asked of a reservation.
    pub(super) fn act_fact(
        &mut self,
        told: &Told,
        asked: &Acted,
        refuses: Option<&str>,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        Self::is_by(told, asked.by)?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was done twice", told.operation))?;
        let known = self.holds.get(&asked.reservation).ok_or("unknown_reservation");
        let after = match known.and_then(|held| held.decide(&asked.act, clock(told))) {
            Ok(Some(after)) => after,
            Ok(None) => return Err(format!("P3: {}, {asked:?}, was done before, and is told", told.operation)),
            Err(code) => return self.refused(told, code),
        };
        if let (State::Confirmed(taken), Some(product)) = (&after.state, refuses)
            && units(taken, product) > 0
        {
            return self.parked(told);
        }
        let kind = match asked.act {
            Act::Extend(_) => "reservation_extended",
            Act::Confirm(_) | Act::Cancel => after.state.kind(),
        };
        if asked.by == By::Central {
            self.answers.insert(told.operation.clone(), after.state.kind().into());
        }
        let before = self.items.clone();
        let moved = self.become_(&asked.reservation, after);
        self.notices(told, &before, reading);
        self.states_step(told, &asked.reservation, kind, moved)
    }

    /// A command finds that what it asks of a reservation was done before, and is told how it is.
    pub(super) fn done_before(&mut self, told: &Told, asked: &Acted) -> Result<(), Broken> {
        let known = self.holds.get(&asked.reservation);
        let was_done = known.is_some_and(|held| held.decide(&asked.act, i64::MIN) == Ok(None));
        let said = Held::stated(&told.body["reservation"], None).map(|(_, held)| held);
        must(was_done && said.as_ref() == known, || {
            format!("P3: {}, {asked:?}, is told as done before, {said:?}, and it is {known:?}", told.operation)
        })?;
        let kind = told.body["kind"].as_str().unwrap_or_default();
        must(said.is_some_and(|said| said.state.kind() == kind), || format!("P3: it is told as {kind}"))?;
        self.answers.insert(told.operation.clone(), kind.into());
        Ok(())
    }

    /// The time of a reservation is over.
    pub(super) fn expired(&mut self, told: &Told) -> Result<(), Broken> {
        let stated = told.body["reservation"]["id"].as_str().unwrap_or_default();
        let reservation: Name = stated.into();
        must(*told.operation == *format!("{reservation}:expired"), || {
            format!("P3: {} ends {reservation}", told.operation)
        })?;
        let Some(held) = self.holds.get(&reservation).filter(|held| held.is_open()).cloned() else {
            return Err(format!("P5: {reservation} has expired, and was not open"));
        };
        must(held.expires_at <= clock(told), || format!("P5: {reservation} has expired before its time, {held:?}"))?;
        let moved = self.become_(&reservation, Held { state: State::Expired, ..held });
        self.states_step(told, &reservation, "reservation_expired", moved)
    }

    /// A reservation ends because its units are missing. What has left too few of them follows.
    pub(super) fn fallen(&mut self, told: &Told, reading: &mut Reading) -> Result<(), Broken> {
        let reservation: Name = told.body["reservation"]["id"].as_str().unwrap_or_default().into();
        let Some(held) = self.holds.get(&reservation).filter(|held| held.is_open()).cloned() else {
            return Err(format!("P5: {reservation} has ended for want of units, and was not open"));
        };
        must(held.expires_at > clock(told), || format!("P5: the time of {reservation} was over, {held:?}"))?;
        let fallen =
            reading.fallen.get_or_insert_with(|| Fallen { before: self.clone(), ended: Vec::new(), unnamed: None });
        must(fallen.unnamed.is_none(), || format!("P4: no shortage names {:?}", fallen.unnamed))?;
        fallen.unnamed = Some(reservation.clone());
        let moved = self.become_(&reservation, Held { state: State::Cancelled, ..held });
        Self::is_by(told, By::Store)?;
        self.states_step(told, &reservation, "reservation_cancelled", moved)
    }

    /// A shortage names the reservation that has just ended for want of units.
    pub(super) fn fallen_named(&mut self, told: &Told, reading: &mut Reading) -> Result<(), Broken> {
        let named = told.body["reservationId"].as_str().map(Name::from);
        let unnamed = reading.fallen.as_mut().and_then(|fallen| fallen.unnamed.take());
        let (Some(fallen), Some(reservation), true) = (&mut reading.fallen, &named, named == unnamed) else {
            return Err(format!("P4: a shortage names {named:?}, and {unnamed:?} has ended for want of units"));
        };
        fallen.ended.push((reservation.clone(), told.body["productId"].as_str().unwrap_or_default().into()));
        let done = Done { delta: 0, after: None, step: None, sent: None, allotted: None };
        must(self.done.insert(told.operation.clone(), done).is_none(), || {
            format!("P3: {} was done twice", told.operation)
        })?;
        Self::is_by(told, By::Store)?;
        self.states(told, 0)
    }

    /// So many units of a product are left. If fewer than were held, the youngest reservations have ended, as many as it
    /// takes; else none.
    pub(super) fn falls_short(&self, product: &Name, left: i64, fallen: Option<Fallen>) -> Result<(), Broken> {
        self.all_fall_short(&[(product.clone(), left)], fallen)
    }

    /// The same of several products, one after the other.
    pub(super) fn all_fall_short(&self, lefts: &[(Name, i64)], fallen: Option<Fallen>) -> Result<(), Broken> {
        let (mut holds, ended, unnamed) = match fallen {
            Some(Fallen { before, ended, unnamed }) => (before.holds, ended, unnamed),
            None => (self.holds.clone(), Vec::new(), None),
        };
        must(unnamed.is_none(), || format!("no shortage names {unnamed:?}"))?;
        if let Some((reservation, of)) = ended.iter().find(|(_, of)| lefts.iter().all(|(product, _)| product != of)) {
            return Err(format!("{reservation} has ended for want of {of}"));
        }
        for (product, left) in lefts {
            let of_it = ended.iter().filter(|(_, of)| of == product).map(|(reservation, _)| reservation.clone());
            Self::one_falls_short(product, *left, of_it.collect(), &mut holds)?;
        }
        Ok(())
    }

    fn one_falls_short(
        product: &Name,
        left: i64,
        ended: Vec<Name>,
        holds: &mut BTreeMap<Name, Held>,
    ) -> Result<(), Broken> {
        let held = |holds: &BTreeMap<Name, Held>| {
            let open = holds.values().filter(|held| held.is_open());
            open.map(|held| units(&held.lines, product)).sum::<i64>()
        };
        for reservation in ended {
            let (there, its) = (held(holds), holds.get(&reservation).cloned());
            must(there > left, || {
                format!("{reservation} has ended, and {left} are left for the {there} that are held")
            })?;
            let Some(its) = its.filter(|its| units(&its.lines, product) > 0) else {
                return Err(format!("{reservation} holds nothing of {product}"));
            };
            let is_younger =
                |held: &&Held| held.is_open() && units(&held.lines, product) > 0 && held.made_at > its.made_at;
            if let Some(younger) = holds.values().find(is_younger) {
                return Err(format!("{reservation}, {its:?}, has ended, and {younger:?} is younger"));
            }
            holds.insert(reservation, Held { state: State::Cancelled, ..its });
        }
        let there = held(holds);
        must(there <= left, || format!("{left} are left, and {there} of them are held"))
    }

    /// A restore records again what only the old database knew of a reservation (B8). What was acknowledged stands in the
    /// ledger; what it says there is what the reservation is after it.
    pub(super) fn step_again(
        &mut self,
        told: &Told,
        step: &Step,
        book: &Book,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let Step { kind, reservation, after: then, moved } = step;
        let held = self.holds.get(reservation).cloned();
        let lines = held.as_ref().map_or(&then.lines, |held| &held.lines).clone();
        let is_open = held.as_ref().is_some_and(Held::is_open);
        let takes = |then: &Held| Held { lines: lines.clone(), ..then.clone() };
        let (after, left) = match (&**kind, held) {
            ("reserved" | "reservation_extended", None) => {
                let free = self.may_hold(&lines).is_ok();
                (if free { then.clone() } else { Held { state: State::Cancelled, ..then.clone() } }, None)
            }
            ("reservation_extended" | "reservation_confirmed", Some(_)) if is_open => (takes(then), None),
            ("reservation_cancelled" | "reservation_expired", Some(_)) if is_open => (takes(then), None),
            ("reservation_cancelled" | "reservation_expired", None) => (then.clone(), None),
            ("reservation_confirmed", held) => match held {
                Some(held) if matches!(held.state, State::Confirmed(_)) => (held, None),
                // They have left the store, whoever was promised them since.
                _ => (then.clone(), Some(moved.clone())),
            },
            (_, Some(held)) => (held, None),
            (kind, None) => return Err(format!("P3: {kind} {} is recorded again", told.operation)),
        };
        let kind = match (&**kind, &after.state) {
            ("reservation_extended", State::Open) if is_open => "reservation_extended",
            (_, State::Open) if is_open => "reservation_extended",
            (_, state) => state.kind(),
        };
        self.missing(told, left.as_ref().unwrap_or(&BTreeMap::new()), reading)?;
        let by = book.holds.get(&told.operation).map(|hold| hold.by);
        if by.or_else(|| book.acts.get(&told.operation).map(|acted| acted.by)) == Some(By::Central) {
            must(!self.answers.contains_key(&told.operation), || {
                format!("P3: {} is recorded again, and central has its outcome", told.operation)
            })?;
            self.answers.insert(told.operation.clone(), after.state.kind().into());
        }
        let mut moved = self.become_(reservation, after);
        for (product, delta) in left.into_iter().flatten() {
            if let Some(item) = self.items.get(&product).cloned() {
                self.items.insert(product.clone(), item.moved(delta));
            }
            moved.insert(product, delta);
        }
        self.states_step(told, reservation, kind, moved)
    }
}
