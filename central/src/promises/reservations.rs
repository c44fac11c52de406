//! Units held at stores: asked through central, or by the stores themselves.
//!
//! **Guarantees.** The store is the only one that decides: a row says what it said last, and `pending` is what it was asked
//! and has not answered. What central asks of a reservation follows in order behind the command that made it.

use protocol::domain::reservation::{Act, Reservation as Reported, State};
use protocol::domain::{Lines, Rejection};
use protocol::ids::{OperationId, ReservationId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Command, Position};
use runtime::sqlite::Abort;

use crate::promises::purchases::judge;
use crate::storage::reservations::{self, Reservation, Status};
use crate::storage::stores::Store;
use crate::storage::{Connection, commands};

/// What a client asks a store to hold, and what was read before the transaction.
#[derive(Debug, Clone)]
pub struct ReservationRequest {
    /// The new reservation's id.
    pub id: ReservationId,
    pub lines: Lines,
    /// For so long from when the store hears of it, ms.
    pub ttl_ms: i64,
    /// Who asked, and the order it is for.
    pub about: About,
    /// Redis's clock, read with the store's heartbeat (B1).
    pub redis_now: Millis,
}

impl ReservationRequest {
    /// The command that asks for it.
    pub fn command(&self) -> OperationId {
        OperationId::parse(&format!("{}:reserve", self.id)).expect("an id and letters")
    }
}

/// The reservation and its command, in one transaction, if the view has as much.
pub fn begin(
    connection: &Connection,
    store: &mut Store,
    ask: &ReservationRequest,
    now: Millis,
) -> Result<(), Abort<Rejection>> {
    if !planted(Bug::HeldWithoutLook) {
        judge(connection, &store.id, &ask.lines)?.map_err(Abort::Refused)?;
    }
    reservations::save(connection, &pending(&store.id, ask, now))?;
    let command = Command::Reserve {
        reservation_id: ask.id,
        lines: ask.lines.clone(),
        ttl_ms: ask.ttl_ms,
        deadline: ask.redis_now.plus(ask.ttl_ms),
        about: ask.about.clone(),
    };
    commands::append(connection, store, &ask.command(), &command, now)?;
    Ok(())
}

fn pending(store: &StoreId, ask: &ReservationRequest, now: Millis) -> Reservation {
    Reservation {
        number: 0,
        id: ask.id,
        store: store.clone(),
        status: Status::Pending,
        code: None,
        lines: ask.lines.clone(),
        confirmed_lines: None,
        reference: ask.about.reference.clone(),
        created_at: now,
        expires_at: now.plus(ask.ttl_ms),
        settled_at: None,
        position: None,
        stock: 0,
        is_store_retired: false,
    }
}

/// What asking something of a reservation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The store was asked, under this command.
    Store(OperationId),
    /// That was done before.
    Done,
}

/// Asks a store to confirm, cancel or extend a reservation. One that has ended is answered from what the store said.
pub fn act(
    connection: &Connection,
    store: &mut Store,
    reservation: &Reservation,
    what: &Act,
    id: OperationId,
    about: &About,
    now: Millis,
) -> Result<Asked, Abort<Rejection>> {
    if let Some(ended) = ended(reservation) {
        let closed = ended.and_then(|reported| reported.decide(what, now)).map_err(Abort::Refused)?;
        debug_assert!(closed.is_none(), "nothing more becomes of what has ended");
        return Ok(Asked::Done);
    }
    let command = Command::Reservation { reservation_id: reservation.id, act: what.clone(), about: about.clone() };
    commands::append(connection, store, &id, &command, now)?;
    Ok(Asked::Store(id))
}

/// One that has ended, as its store said; one that it never held is refused.
fn ended(reservation: &Reservation) -> Option<Result<Reported, Rejection>> {
    let state = match (reservation.status, &reservation.confirmed_lines) {
        (Status::Pending | Status::Open, _) => return None,
        (Status::Cancelled, _) if planted(Bug::CancelledHoldAskedAbout) => return None,
        (Status::Rejected, _) => {
            return Some(Err(Rejection::ReservationClosed { state: Status::Rejected.as_str().to_owned() }));
        }
        (Status::Confirmed, Some(confirmed_lines)) => State::Confirmed { confirmed_lines: confirmed_lines.clone() },
        (Status::Confirmed, None) => State::Confirmed { confirmed_lines: reservation.lines.clone() },
        (Status::Cancelled, _) => State::Cancelled,
        (Status::Expired, _) => State::Expired,
    };
    Some(Ok(Reported {
        id: reservation.id,
        lines: reservation.lines.clone(),
        expires_at: reservation.expires_at,
        created_at: reservation.created_at,
        reference: reservation.reference.clone(),
        state,
    }))
}

/// What a reservation is once its store has reported it, whatever central knew of it. `stock`: the store's generation.
pub(crate) fn reported(
    before: Option<&Reservation>,
    store: &StoreId,
    reported: &Reported,
    position: &Position,
    stock: i64,
    now: Millis,
) -> Reservation {
    let status = Status::of(&reported.state);
    let code = match status {
        Status::Expired => Some("reservation_expired".to_owned()),
        Status::Pending | Status::Open | Status::Confirmed | Status::Cancelled | Status::Rejected => None,
    };
    let confirmed_lines = match &reported.state {
        State::Confirmed { confirmed_lines } => Some(confirmed_lines.clone()),
        State::Open | State::Cancelled | State::Expired => None,
    };
    let settled_at = before.filter(|before| before.status == status).and_then(|before| before.settled_at);
    Reservation {
        number: before.map_or(0, |before| before.number),
        id: reported.id,
        store: store.clone(),
        status,
        code,
        lines: reported.lines.clone(),
        confirmed_lines,
        reference: reported.reference.clone(),
        created_at: reported.created_at,
        expires_at: reported.expires_at,
        settled_at: status.has_ended().then(|| settled_at.unwrap_or(now)),
        position: Some(position.clone()),
        stock,
        is_store_retired: false,
    }
}

/// The store could not hold it.
pub(crate) fn rejected(before: &Reservation, rejection: &Rejection, position: &Position, now: Millis) -> Reservation {
    Reservation {
        status: Status::Rejected,
        code: Some(rejection.code().to_owned()),
        settled_at: Some(now),
        position: Some(position.clone()),
        ..before.clone()
    }
}

/// It ends without its store's word: an operator has retired the store, or the store's state does not name it.
pub(crate) fn voided(before: &Reservation, status: Status, code: &str, now: Millis) -> Reservation {
    Reservation { status, code: Some(code.to_owned()), settled_at: Some(now), ..before.clone() }
}

#[cfg(test)]
mod tests {
    use protocol::link::EntryId;

    use super::*;
    use crate::testing::{NOW, held};

    #[test]
    fn what_ends_without_its_stores_word_ends_now() {
        let position = Position { store: StoreId::parse("s1").expect("valid"), at: EntryId::default() };
        let open = reported(None, &position.store, &held().0, &position, 1, NOW);
        let ended = voided(&open, Status::Expired, "reservation_expired", NOW.plus(5));
        assert_eq!((open.settled_at, ended.settled_at), (None, Some(NOW.plus(5))));
        assert_eq!((ended.status, ended.code.as_deref()), (Status::Expired, Some("reservation_expired")));
    }
}
