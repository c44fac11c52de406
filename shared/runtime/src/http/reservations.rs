//! A reservation as its store shows it, and central what the store said of it.

use protocol::domain::Lines;
use protocol::domain::reservation::{Reservation, State};
use protocol::ids::{ReservationId, StoreId};
use protocol::time::Millis;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schema;

/// Units held for a while
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reservation, example = json!({
    "reservationId": "0197a1b2-0000-7000-8000-000000000002", "storeId": "store-1", "status": "open",
    "lines": [{"productId": "coffee", "quantity": 2}], "createdAt": "2026-01-31T12:00:00.000Z",
    "expiresAt": "2026-01-31T12:15:00.000Z", "reference": "order 17",
}))]
pub struct StoreReservation<'a> {
    #[schema(value_type = schema::Id)]
    reservation_id: ReservationId,
    #[schema(value_type = schema::StoreId)]
    store_id: &'a StoreId,
    /// `open`, `confirmed`, `cancelled` or `expired`.
    status: &'static str,
    #[schema(value_type = schema::Lines)]
    lines: &'a Lines,
    /// What was sold of it, once it is confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Lines>)]
    confirmed_lines: Option<&'a Lines>,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    /// From then on it holds nothing.
    #[schema(value_type = schema::Time)]
    expires_at: Millis,
    reference: Option<&'a str>,
}

impl<'a> StoreReservation<'a> {
    /// At this store.
    pub fn of(store_id: &'a StoreId, reservation: &'a Reservation) -> Self {
        let confirmed_lines = match &reservation.state {
            State::Confirmed { confirmed_lines } => Some(confirmed_lines),
            State::Open | State::Cancelled | State::Expired => None,
        };
        Self {
            reservation_id: reservation.id,
            store_id,
            status: reservation.state.as_str(),
            lines: &reservation.lines,
            confirmed_lines,
            created_at: reservation.created_at,
            expires_at: reservation.expires_at,
            reference: reservation.reference.as_deref(),
        }
    }
}
