//! Reservations: made at a store or through central, confirmed, extended, cancelled, and those that end by themselves.

use std::collections::BTreeMap;

use central::promises::reservations as promised;
use central::storage::reservations as shown;
use central::storage::stores;
use protocol::domain::reservation::{Act, Reservation, State};
use protocol::domain::{Line, Lines, Quantity};
use protocol::ids::{OperationId, ReservationId, StoreId};
use protocol::wire::About;
use runtime::sqlite::{Abort, Connection, attempt};
use store_agent::ledger;
use store_agent::operations::reservations::{Asking, act, reserve, sweep};

use super::virtual_world::{Commit, VirtualWorld, commit};
use crate::judge::{self, Acted, By, Hold, Occasion};

impl VirtualWorld {
    pub(super) fn hold_traffic(&mut self) {
        match self.dice.below(8) {
            0..=1 => self.hold(),
            2 => self.act_on_hold(),
            3..=4 => self.hold_through_central(),
            5 => self.act_through_central(),
            _ => self.sweep_holds(),
        }
    }

    fn some_lines(&mut self) -> Option<Lines> {
        let line = |world: &mut Self| {
            let product_id = world.dice.pick(&world.products).cloned()?;
            Some(Line { product_id, quantity: world.dice.units(1, 3) })
        };
        let first = line(self)?;
        let second = if self.dice.chance(400) { line(self) } else { None };
        Lines::new([first].into_iter().chain(second)).ok()
    }

    fn ttl_ms(&mut self) -> i64 {
        if self.dice.chance(500) { self.dice.between(500, 3_000) } else { 600_000 }
    }

    fn running_agent(&mut self) -> Option<usize> {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        self.agents[number].runs.then_some(number)
    }

    fn hold(&mut self) {
        let (Some(number), Some(lines)) = (self.running_agent(), self.some_lines()) else { return };
        let id = format!("hold-{}", self.name());
        let operation = OperationId::parse(&id).expect("a valid id");
        let asking = Asking { operation: operation.clone(), about: About::default(), command: None };
        let (clock, risk, ttl_ms) = (self.agents[number].clock(self.now), self.risk(), self.ttl_ms());
        let asked = written(&lines);
        let shop = self.shop(number).without_due(asked.iter().map(|(product, _)| &**product), clock.0);
        let expected = shop.may_hold(&asked);
        let asked = Hold {
            store: self.agents[number].store.as_str().into(),
            reservation: ReservationId::of(&operation).to_string().into(),
            lines: asked,
            ttl_ms,
            by: By::Store,
            deadline: i64::MAX,
        };
        self.oracle.book.holds.insert(id.as_str().into(), asked);
        let mut held = Err("");
        let end = commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
            let reservation = ReservationId::of(&operation);
            match attempt(connection, || reserve(connection, reservation, &lines, ttl_ms, &asking, clock))? {
                Ok(done) => held = Ok(done.reservation),
                Err(Abort::Refused(rejection)) => held = Err(rejection.code()),
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        if held.as_ref().map(drop).map_err(|code| *code) != expected {
            self.oracle.break_(format!("P4: {id} was answered {held:?}, and must be {expected:?}"));
        }
        self.look_at(number, Occasion::Operation(&[&id]), None);
        if let (Ok(held), Commit::Done | Commit::After) = (held, end) {
            self.count("units held");
            self.say(|| format!("agent {number}: {id} holds {:?} as {}", held.lines, held.id));
            if end == Commit::Done {
                self.oracle.acked(&id);
            }
        }
        self.after_commit(number, end);
    }

    fn some_act(&mut self, held: &Reservation) -> Act {
        match self.dice.below(4) {
            0 => Act::Cancel,
            1 => Act::Extend { ttl_ms: self.ttl_ms() },
            2 => Act::Confirm { lines: None },
            _ => {
                let first = held.lines.iter().next().expect("a reservation has a line");
                Act::Confirm { lines: Some(Lines::one(first.product_id.clone(), Quantity::ONE)) }
            }
        }
    }

    fn act_on_hold(&mut self) {
        let Some(number) = self.running_agent() else { return };
        let known = ledger::reservations::all(&self.agents[number].file).expect("reservations can be read");
        let Some(held) = self.dice.pick(&known).cloned() else { return };
        let what = self.some_act(&held);
        let id = format!("act-{}", self.name());
        let operation = OperationId::parse(&id).expect("a valid id");
        let asking = Asking { operation, about: About::default(), command: None };
        let (clock, risk) = (self.agents[number].clock(self.now), self.risk());
        let store = self.agents[number].store.clone();
        let asked = acted(&store, held.id, &what, By::Store);
        let known = self.shop(number).holds.get(&asked.reservation).cloned();
        let expected = known.ok_or("unknown_reservation").and_then(|held| held.decide(&asked.act, clock.0));
        let expected = expected.map(|after| after.is_some());
        self.oracle.book.acts.insert(id.as_str().into(), asked);
        let (mut after, mut answer) = (None, Err(""));
        let end = commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
            match attempt(connection, || act(connection, held.id, &what, &asking, clock))? {
                Ok(done) => {
                    after = done.filter(|done| done.position.is_some()).map(|done| done.reservation);
                    answer = Ok(after.is_some());
                }
                Err(Abort::Refused(rejection)) => answer = Err(rejection.code()),
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        if answer != expected {
            self.oracle.break_(format!("P4: {id}, {what:?}, was answered {answer:?}, and must be {expected:?}"));
        }
        self.look_at(number, Occasion::Operation(&[&id]), None);
        if let (Some(after), Commit::Done | Commit::After) = (after, end) {
            self.say(|| format!("agent {number}: {id} makes {} {:?}", after.id, after.state));
            if matches!(after.state, State::Confirmed { .. }) {
                self.count("holds confirmed");
            }
            if end == Commit::Done {
                self.oracle.acked(&id);
            }
        }
        self.after_commit(number, end);
    }

    fn sweep_holds(&mut self) {
        let Some(number) = self.running_agent() else { return };
        let (clock, risk) = (self.agents[number].clock(self.now), self.risk());
        let end = commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
            sweep(connection, clock).map(drop)
        });
        self.look_at(number, Occasion::Sweep, None);
        self.after_commit(number, end);
    }

    fn hold_through_central(&mut self) {
        if !self.central.runs {
            return;
        }
        let (Some(id), Some(lines)) = (self.dice.pick(&self.stores).cloned(), self.some_lines()) else { return };
        let reservation = ReservationId::new(uuid::Uuid::from_u128(u128::from(self.name())));
        let ttl_ms = self.ttl_ms();
        let redis_now = protocol::time::Millis(self.now);
        let asked = Hold {
            store: id.as_str().into(),
            reservation: reservation.to_string().into(),
            lines: written(&lines),
            ttl_ms,
            by: By::Central,
            deadline: redis_now.0 + ttl_ms,
        };
        let ask = promised::ReservationRequest { id: reservation, lines, ttl_ms, about: About::default(), redis_now };
        self.oracle.book.holds.insert(ask.command().as_str().into(), asked);
        self.ask_of_central(&id, |connection, store, clock| promised::begin(connection, store, &ask, clock).map(drop));
    }

    fn act_through_central(&mut self) {
        if !self.central.runs {
            return;
        }
        let Some(id) = self.dice.pick(&self.stores).cloned() else { return };
        let filter =
            ::central::storage::queries::reservations::Filter { store: Some(id.to_string()), ..Default::default() };
        let slice = ::central::storage::queries::Slice { after: None, offset: 0, limit: 21 };
        let known = ::central::storage::queries::reservations::list(&self.central.file, &filter, &slice);
        let known = known.expect("the view can be read").rows;
        let Some(held) = self.dice.pick(&known).cloned() else { return };
        let as_said = Reservation {
            id: held.id,
            lines: held.lines.clone(),
            expires_at: held.expires_at,
            created_at: held.created_at,
            reference: None,
            state: State::Open,
        };
        let what = self.some_act(&as_said);
        let name = format!("central-act-{}", self.name());
        let command = OperationId::parse(&name).expect("a valid id");
        self.oracle.book.acts.insert(name.as_str().into(), acted(&id, held.id, &what, By::Central));
        self.ask_of_central(&id, |connection, store, clock| {
            promised::act(connection, store, &held, &what, command.clone(), &About::default(), clock).map(drop)
        });
    }

    fn ask_of_central(
        &mut self,
        id: &StoreId,
        mut ask: impl FnMut(
            &Connection,
            &mut stores::Store,
            protocol::time::Millis,
        ) -> Result<(), Abort<protocol::domain::Rejection>>,
    ) {
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let mut asked = false;
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(mut store) = stores::find(connection, id)?.filter(|store| !store.is_settling()) else {
                return Ok(());
            };
            match attempt(connection, || ask(connection, &mut store, clock))? {
                Ok(()) => asked = true,
                Err(Abort::Refused(_)) => {}
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        if asked && end != Commit::Before {
            self.count("reservations asked through central");
        }
        self.after_central_commit(end);
    }
}

/// As the judge writes it down.
pub(super) fn written(lines: &Lines) -> judge::Lines {
    lines.iter().map(|line| (line.product_id.as_str().into(), line.quantity.get())).collect()
}

fn acted(store: &StoreId, reservation: ReservationId, act: &Act, by: By) -> Acted {
    let act = match act {
        Act::Confirm { lines } => judge::Act::Confirm(lines.as_ref().map(written)),
        Act::Cancel => judge::Act::Cancel,
        Act::Extend { ttl_ms } => judge::Act::Extend(*ttl_ms),
    };
    Acted { store: store.as_str().into(), reservation: reservation.to_string().into(), act, by }
}

/// P6: once all has healed, central has of each store the reservations that the store has, as they are there; and nothing
/// that it shows as held or asked for is held by nobody.
pub(super) fn compare(central: &Connection, agents: &[(StoreId, &Connection)]) -> Vec<String> {
    let mut found = Vec::new();
    for (store, file) in agents {
        let there: BTreeMap<ReservationId, Reservation> = ledger::reservations::all(file)
            .expect("reservations can be read")
            .into_iter()
            .map(|reservation| (reservation.id, reservation))
            .collect();
        for reservation in there.values() {
            let known = shown::find(central, reservation.id).expect("the view can be read");
            let confirmed = match &reservation.state {
                State::Confirmed { confirmed_lines } => Some(confirmed_lines),
                State::Open | State::Cancelled | State::Expired => None,
            };
            let is_same = known.as_ref().is_some_and(|known| {
                known.status == shown::Status::of(&reservation.state)
                    && known.confirmed_lines.as_ref() == confirmed
                    && known.expires_at == reservation.expires_at
                    && known.lines == reservation.lines
                    && known.store == *store
            });
            if !is_same {
                found.push(format!("P6: {store} has {reservation:?}, central has {known:?}"));
            }
        }
        let filter =
            ::central::storage::queries::reservations::Filter { store: Some(store.to_string()), ..Default::default() };
        let slice = ::central::storage::queries::Slice { after: None, offset: 0, limit: usize::MAX >> 1 };
        let known = ::central::storage::queries::reservations::list(central, &filter, &slice);
        for known in known.expect("the view can be read").rows {
            if !known.status.has_ended() && !there.contains_key(&known.id) {
                found.push(format!("P5: central has {} as {:?}, {store} does not know it", known.id, known.status));
            }
        }
    }
    found
}
