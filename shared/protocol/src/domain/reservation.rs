//! A reservation: units of several products, held in one store for a while.
//!
//! **Guarantees.** It holds all of its lines or none. It is open, then ends once: confirmed (the units, or a part of them,
//! leave the stock), cancelled, or expired (they are free again). From its end by the store's clock on it can only expire,
//! whether or not anybody has recorded that yet. Confirming it never fails for want of units: they are its own. If fewer
//! are on the shelf than are held, the youngest are cancelled, as a whole, until the rest are there.

use serde::{Deserialize, Serialize};

use super::{Change, Item, Line, Lines, Rejection, insufficient};
use crate::ids::{ProductId, ReservationId};
use crate::planted::{Bug, planted};
use crate::time::Millis;

/// Longest time to live, ms: 31 days.
pub const TTL_MS_MAX: i64 = 31 * 24 * 60 * 60 * 1_000;

/// Units held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The same at the store and at central.
    pub id: ReservationId,
    /// What it holds, or held.
    pub lines: Lines,
    /// By the store's clock: from then on it holds nothing.
    pub expires_at: Millis,
    /// By the store's clock.
    pub created_at: Millis,
    /// The order that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: State,
}

/// Where a reservation is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum State {
    /// It holds its units.
    Open,
    /// These left the stock; the rest is free again.
    Confirmed {
        /// All of its lines, or a part.
        confirmed_lines: Lines,
    },
    /// Its units are free again.
    Cancelled,
    /// Its time was over; its units are free again.
    Expired,
}

impl State {
    /// Stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Confirmed { .. } => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Something asked of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Act {
    /// Take the units, or a part of them.
    Confirm {
        /// Absent: all of its lines.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<Lines>,
    },
    /// Free them.
    Cancel,
    /// It shall end so long from now, ms.
    Extend {
        /// 1 to [`TTL_MS_MAX`].
        ttl_ms: i64,
    },
}

impl Act {
    /// What a client calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Confirm { .. } => "confirm_reservation",
            Self::Cancel => "cancel_reservation",
            Self::Extend { .. } => "extend_reservation",
        }
    }
}

/// What becomes of a reservation, and of the items that it holds units of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The reservation after it.
    pub after: Reservation,
    /// Each product once, in the order of product ids.
    pub changes: Vec<(ProductId, Change)>,
}

/// Whether these lines can be held now, and what that changes.
pub fn hold<'a>(
    lines: &Lines,
    item: impl Fn(&ProductId) -> Option<&'a Item>,
) -> Result<Vec<(ProductId, Change)>, Rejection> {
    let one = |line: &Line| {
        let item = item(&line.product_id).ok_or(Rejection::UnknownProduct)?;
        if line.quantity.get() > item.available() {
            return Err(insufficient(item, line.quantity.get()));
        }
        Ok((line.product_id.clone(), Change::Reserved(line.quantity.get())))
    };
    lines.each(one)
}

impl Reservation {
    /// Whether its time is over.
    pub fn is_due(&self, now: Millis) -> bool {
        self.state == State::Open && self.expires_at <= now
    }

    /// Decides what is asked of it. `None`: that was done before.
    pub fn decide(&self, act: &Act, now: Millis) -> Result<Option<Decided>, Rejection> {
        match (&self.state, act) {
            (State::Open, _) if self.is_due(now) && !planted(Bug::ConfirmedAfterExpiry) => {
                Err(Rejection::ReservationExpired)
            }
            (State::Open, Act::Confirm { lines }) => self.confirm(lines.as_ref().unwrap_or(&self.lines)).map(Some),
            (State::Open, Act::Cancel) => Ok(Some(self.end(State::Cancelled))),
            (State::Open, Act::Extend { ttl_ms }) => {
                let after = Self { expires_at: now.plus(*ttl_ms), ..self.clone() };
                Ok(Some(Decided { after, changes: Vec::new() }))
            }
            (State::Confirmed { confirmed_lines }, Act::Confirm { lines })
                if lines.as_ref().is_none_or(|lines| lines == confirmed_lines) =>
            {
                Ok(None)
            }
            (State::Cancelled, Act::Cancel) => Ok(None),
            (State::Expired, _) => Err(Rejection::ReservationExpired),
            (State::Confirmed { .. } | State::Cancelled, _) => {
                Err(Rejection::ReservationClosed { state: self.state.as_str().to_owned() })
            }
        }
    }

    /// Its time is over: what it holds is free. `None`: it is not, or it has ended.
    pub fn expire(&self, now: Millis) -> Option<Decided> {
        self.is_due(now).then(|| self.end(State::Expired))
    }

    /// Units that it holds are missing: it is cancelled as a whole. `None`: it holds nothing any more.
    pub fn fall_short(&self) -> Option<Decided> {
        (self.state == State::Open).then(|| self.end(State::Cancelled))
    }

    fn confirm(&self, taken: &Lines) -> Result<Decided, Rejection> {
        if let Some(line) = taken.iter().find(|line| line.quantity.get() > self.lines.quantity_of(&line.product_id)) {
            return Err(Rejection::BeyondReservation {
                product_id: line.product_id.clone(),
                held: self.lines.quantity_of(&line.product_id),
            });
        }
        let change = |line: &Line| {
            let taken = taken.quantity_of(&line.product_id);
            let held = if planted(Bug::PartKeepsTheRest) { taken } else { line.quantity.get() };
            (line.product_id.clone(), Change::Fulfilled { taken, held })
        };
        let after = Self { state: State::Confirmed { confirmed_lines: taken.clone() }, ..self.clone() };
        Ok(Decided { after, changes: self.lines.iter().map(change).collect() })
    }

    fn end(&self, state: State) -> Decided {
        let times = if planted(Bug::CancelFreesTwice) { 2 } else { 1 };
        let freed = |line: &Line| (line.product_id.clone(), Change::Reserved(-line.quantity.get() * times));
        let changes = self.lines.iter().map(freed);
        Decided { after: Self { state, ..self.clone() }, changes: changes.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Quantity, apply, shortage};

    const NOW: Millis = Millis(1_000);

    fn product(name: &str) -> ProductId {
        ProductId::parse(name).expect("valid")
    }

    fn lines(of: &[(&str, i64)]) -> Lines {
        Lines::new(of.iter().map(|(name, quantity)| Line {
            product_id: product(name),
            quantity: Quantity::try_from(*quantity).expect("in range"),
        }))
        .expect("are lines")
    }

    fn stock(of: &[(&str, i64)]) -> BTreeMap<ProductId, Item> {
        let item = |quantity| Item { quantity, version: 1, ..Item::default() };
        of.iter().map(|(name, quantity)| (product(name), item(*quantity))).collect()
    }

    fn held(stock: &mut BTreeMap<ProductId, Item>, of: &[(&str, i64)]) -> Reservation {
        let changes = hold(&lines(of), |product| stock.get(product)).expect("there are enough");
        happen(stock, &changes);
        Reservation {
            id: ReservationId::new(uuid::Uuid::from_u128(1)),
            lines: lines(of),
            expires_at: NOW.plus(100),
            created_at: NOW,
            reference: None,
            state: State::Open,
        }
    }

    fn happen(stock: &mut BTreeMap<ProductId, Item>, changes: &[(ProductId, Change)]) {
        for (product, change) in changes {
            let after = apply(stock.get(product), change, NOW);
            stock.insert(product.clone(), after);
        }
    }

    fn figures(stock: &BTreeMap<ProductId, Item>, name: &str) -> (i64, i64, i64) {
        let item = &stock[&product(name)];
        (item.quantity, item.reserved, item.available())
    }

    #[test]
    fn what_is_asked_of_a_reservation_is_called_what_clients_call_it() {
        let called = [Act::Confirm { lines: None }, Act::Cancel, Act::Extend { ttl_ms: 1 }].map(|act| act.name());
        assert_eq!(called, ["confirm_reservation", "cancel_reservation", "extend_reservation"]);
    }

    #[test]
    fn all_lines_are_held_or_none() {
        let mut stock = stock(&[("ale", 5), ("tea", 2)]);
        let refused = hold(&lines(&[("ale", 1), ("tea", 3)]), |product| stock.get(product));
        assert!(matches!(refused, Err(Rejection::InsufficientStock { requested: 3, available: 2, .. })));
        assert_eq!(hold(&lines(&[("bun", 1)]), |product| stock.get(product)), Err(Rejection::UnknownProduct));
        held(&mut stock, &[("ale", 4), ("tea", 2)]);
        assert_eq!((figures(&stock, "ale"), figures(&stock, "tea")), ((5, 4, 1), (2, 2, 0)));
    }

    #[test]
    fn a_part_is_taken_and_the_rest_is_free() {
        let mut stock = stock(&[("ale", 5), ("tea", 2)]);
        let reservation = held(&mut stock, &[("ale", 4), ("tea", 2)]);
        let part = Act::Confirm { lines: Some(lines(&[("ale", 3)])) };
        let decided = reservation.decide(&part, NOW).expect("is open").expect("is new");
        happen(&mut stock, &decided.changes);
        assert_eq!((figures(&stock, "ale"), figures(&stock, "tea")), ((2, 0, 2), (2, 0, 2)));
        let closed = decided.after;
        assert_eq!(closed.decide(&part, NOW), Ok(None));
        assert_eq!(closed.decide(&Act::Confirm { lines: None }, NOW), Ok(None), "what was done is what is told");
        let closed_as = |act: &Act| closed.decide(act, NOW).expect_err("is closed");
        assert_eq!(closed_as(&Act::Cancel), Rejection::ReservationClosed { state: "confirmed".into() });
        assert_eq!(closed_as(&Act::Extend { ttl_ms: 5 }), Rejection::ReservationClosed { state: "confirmed".into() });
    }

    #[test]
    fn more_than_is_held_is_not_taken() {
        let reservation = held(&mut stock(&[("ale", 9)]), &[("ale", 4)]);
        for beyond in [lines(&[("ale", 5)]), lines(&[("ale", 1), ("tea", 1)])] {
            let refused = reservation.decide(&Act::Confirm { lines: Some(beyond) }, NOW);
            assert!(matches!(refused, Err(Rejection::BeyondReservation { .. })), "{refused:?}");
        }
    }

    #[test]
    fn from_its_end_on_it_can_only_expire() {
        let mut stock = stock(&[("ale", 5)]);
        let reservation = held(&mut stock, &[("ale", 4)]);
        let end = reservation.expires_at;
        assert_eq!(reservation.expire(end.plus(-1)), None);
        for act in [Act::Confirm { lines: None }, Act::Cancel, Act::Extend { ttl_ms: 9 }] {
            assert!(reservation.decide(&act, end.plus(-1)).is_ok());
            assert_eq!(reservation.decide(&act, end), Err(Rejection::ReservationExpired));
        }
        let expired = reservation.expire(end).expect("its time is over");
        happen(&mut stock, &expired.changes);
        assert_eq!(figures(&stock, "ale"), (5, 0, 5));
        assert_eq!(expired.after.expire(end), None);
        assert_eq!(expired.after.decide(&Act::Cancel, end), Err(Rejection::ReservationExpired));
        let extended = reservation.decide(&Act::Extend { ttl_ms: 500 }, NOW).expect("is open").expect("is new");
        assert_eq!((extended.after.expires_at, extended.changes.len()), (NOW.plus(500), 0));
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        let open = held(&mut stock(&[("ale", 9)]), &[("ale", 4)]);
        let part = Act::Confirm { lines: Some(lines(&[("ale", 3)])) };
        let confirmed = open.decide(&part, NOW).expect("is open").expect("is new").after;
        for reservation in [open, confirmed] {
            let text = serde_json::to_string(&reservation).expect("serialises");
            assert_eq!(serde_json::from_str::<Reservation>(&text).expect("reads"), reservation, "{text}");
        }
    }

    proptest! {
        /// However holds come and end, what is reserved is the sum of the open ones, and nothing is sold twice.
        #[test]
        fn reserved_is_the_sum_of_open_holds(steps in prop::collection::vec((0..5_u8, 0..6_usize, 1..5_i64, 1..5_i64), 1..60)) {
            let mut stock = stock(&[("ale", 12), ("tea", 7)]);
            let mut all: Vec<Reservation> = Vec::new();
            let (mut taken, mut found) = (0, 0);
            for (step, which, ale, tea) in steps {
                let wanted = lines(&[("ale", ale), ("tea", tea)]);
                if step == 0 {
                    let Ok(changes) = hold(&wanted, |product| stock.get(product)) else { continue };
                    happen(&mut stock, &changes);
                    let id = ReservationId::new(uuid::Uuid::from_u128(all.len() as u128));
                    all.push(Reservation {
                        id, lines: wanted, expires_at: NOW.plus(100), created_at: NOW, reference: None, state: State::Open,
                    });
                    continue;
                }
                if step == 4 {
                    let before = &stock[&product("ale")];
                    let counted = Change::Moved(ale - before.quantity);
                    let (mut missing, item) = (shortage(before, &counted), before.clone());
                    for reservation in all.iter_mut().rev() {
                        if missing <= 0 { break }
                        let Some(decided) = reservation.fall_short() else { continue };
                        missing -= reservation.lines.quantity_of(&product("ale"));
                        happen(&mut stock, &decided.changes);
                        *reservation = decided.after;
                    }
                    happen(&mut stock, &[(product("ale"), counted)]);
                    found += ale - item.quantity;
                    continue;
                }
                let Some(reservation) = all.get_mut(which) else { continue };
                let decided = match step {
                    1 => reservation.decide(&Act::Confirm { lines: Some(wanted) }, NOW).ok().flatten(),
                    2 => reservation.decide(&Act::Cancel, NOW).ok().flatten(),
                    _ => reservation.expire(NOW.plus(200)),
                };
                let Some(decided) = decided else { continue };
                if let State::Confirmed { confirmed_lines } = &decided.after.state {
                    taken += confirmed_lines.quantity_of(&product("ale"));
                }
                happen(&mut stock, &decided.changes);
                *reservation = decided.after;
            }
            for name in ["ale", "tea"] {
                let open: i64 = all.iter().filter(|one| one.state == State::Open)
                    .map(|one| one.lines.quantity_of(&product(name))).sum();
                let item = &stock[&product(name)];
                prop_assert_eq!(item.reserved, open);
                prop_assert!(item.available() >= 0);
            }
            prop_assert_eq!(stock[&product("ale")].quantity + taken, 12 + found);
        }
    }
}
