//! Units held at a store, asked for through central: hold, read, confirm, cancel, extend.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use protocol::domain::{Lines, Rejection};
use protocol::ids::{OperationId, ReservationId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::requests::{ActAsked, CancelReservation, Confirm, Extend, ReserveAt};
use runtime::http::{
    Body, Code, IdPath, List, OptionalBody, Page, PageSize, Prefer, Problem, Query, Result, Write, Written,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::write::{Done, Headers, Target, about, key_of};
use super::{App, Shared};
use crate::promises::reservations::{Asked, ReservationRequest, act, begin};
use crate::storage::commands::{self, Request};
use crate::storage::idempotency::Effect;
use crate::storage::queries::reservations as listed;
use crate::storage::reservations::{self, Reservation, Status};
use crate::storage::stores::Store;
use crate::storage::{Connection, Weight};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, reserve))
        .routes(routes!(one))
        .routes(routes!(confirm))
        .routes(routes!(cancel))
        .routes(routes!(extend))
}

/// Units held at a store for a while
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reservation, example = json!({
    "reservationId": "0197a1b2-0000-7000-8000-000000000002", "storeId": "store-1", "status": "open",
    "lines": [{"productId": "coffee", "quantity": 2}], "createdAt": "2026-01-31T12:00:00.000Z",
    "expiresAt": "2026-01-31T12:15:00.000Z", "settledAt": null, "reference": "order 17", "code": null,
    "position": "store-1:1769860800000-18",
}))]
pub(super) struct ReservationView {
    #[schema(value_type = schema::Id)]
    reservation_id: ReservationId,
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// `pending`, `open`, `confirmed`, `cancelled`, `expired` or `rejected`.
    status: &'static str,
    #[schema(value_type = schema::Lines)]
    lines: Lines,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Lines>)]
    confirmed_lines: Option<Lines>,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    /// From then on it holds nothing.
    #[schema(value_type = schema::Time)]
    expires_at: Millis,
    #[schema(value_type = Option<schema::Time>)]
    settled_at: Option<Millis>,
    reference: Option<String>,
    /// Why it was refused or has ended.
    code: Option<String>,
    position: Option<String>,
    /// A command about it that the store has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::OperationId>)]
    pending_command_id: Option<OperationId>,
}

impl ReservationView {
    fn of(mut reservation: Reservation, pending_command_id: Option<OperationId>) -> Self {
        if reservation.status == Status::Open && reservation.is_store_retired {
            // Until the store comes back, and says what has become of it.
            (reservation.status, reservation.code) = (Status::Cancelled, Some("store_retired".to_owned()));
        }
        Self {
            reservation_id: reservation.id,
            store_id: reservation.store,
            status: reservation.status.as_str(),
            lines: reservation.lines,
            confirmed_lines: reservation.confirmed_lines,
            created_at: reservation.created_at,
            expires_at: reservation.expires_at,
            settled_at: reservation.settled_at,
            reference: reservation.reference,
            code: reservation.code,
            position: reservation.position.map(|position| position.to_string()),
            pending_command_id,
        }
    }
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownId)
}

/// Hold units at a store for a while
///
/// All lines or none. 200: the key came before, and this is what has become of it.
#[utoipa::path(
    post, path = "/reservations", operation_id = "makeReservation", tag = "Reservations", params(Write, Prefer),
    request_body = ReserveAt,
    responses((status = 201, description = "The reservation", body = ReservationView), (status = 200, description = "The reservation", body = ReservationView), (status = 202, description = "The store has not answered yet", body = ReservationView)),
    extensions(("x-problems" = json!(["unknown_product", "insufficient_stock", "discontinued", "limit_exceeded", "reservation_expired", "unknown_store", "store_retired", "store_unavailable", "unsupported_by_store"]))),
)]
async fn reserve(
    State(app): Shared,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<ReserveAt>,
) -> Result<Response> {
    let (store, asked) = value.asked()?;
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.held(&record.target, &prefer, true).await;
    }
    let (_, reading) = app.sellable(&store).await?;
    let ask = ReservationRequest {
        id: ReservationId::new(app.source.id()),
        lines: asked.lines,
        ttl_ms: asked.ttl_ms,
        about: about(write, asked.reference),
        redis_now: reading.redis_now,
    };
    let (of, lines) = (store.clone(), ask.lines.clone());
    let weight = Weight::of_lines(lines.iter().len());
    let target = Target { effect: Effect::Command, id: ask.command().to_string(), store, weight };
    let judge = app.clone();
    let written = app
        .write(key, target, move |connection, store, now| {
            judge.still_sellable(store, &reading)?;
            if commands::is_full(connection, &store.id)? {
                return Err(Problem::new(Code::Overloaded).into());
            }
            begin(connection, store, &ask, now)?;
            Ok(Done::with(()))
        })
        .await;
    let written = match written {
        Ok(written) => written,
        Err(problem) => return Err(app.with_line(problem, &of, &lines).await?),
    };
    app.held(&written.target, &prefer, written.value.is_none()).await
}

/// Sell what is held
#[utoipa::path(
    post, path = "/reservations/{id}/confirm", operation_id = "confirmReservation", tag = "Reservations", params(IdPath, Write, Prefer),
    request_body = Option<Confirm>,
    responses((status = 200, description = "The reservation", body = ReservationView), (status = 202, description = "The store has not answered yet", body = ReservationView)),
    extensions(("x-problems" = json!(["unknown_id", "store_retired", "store_unavailable", "unsupported_by_store", "reservation_expired", "reservation_closed"]))),
)]
async fn confirm(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    prefer: Prefer,
    OptionalBody { value, json }: OptionalBody<Confirm>,
) -> Result<Response> {
    app.act_on(id, value.asked()?, write, prefer, json).await
}

/// Free what is held
#[utoipa::path(
    post, path = "/reservations/{id}/cancel", operation_id = "cancelReservation", tag = "Reservations", params(IdPath, Write, Prefer),
    request_body = Option<CancelReservation>,
    responses((status = 200, description = "The reservation", body = ReservationView), (status = 202, description = "The store has not answered yet", body = ReservationView)),
    extensions(("x-problems" = json!(["unknown_id", "store_retired", "store_unavailable", "unsupported_by_store", "reservation_expired", "reservation_closed"]))),
)]
async fn cancel(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    prefer: Prefer,
    OptionalBody { value, json }: OptionalBody<CancelReservation>,
) -> Result<Response> {
    app.act_on(id, value.asked(), write, prefer, json).await
}

/// Set anew when a reservation ends
#[utoipa::path(
    post, path = "/reservations/{id}/extend", operation_id = "extendReservation", tag = "Reservations", params(IdPath, Write, Prefer),
    request_body = Extend,
    responses((status = 200, description = "The reservation", body = ReservationView), (status = 202, description = "The store has not answered yet", body = ReservationView)),
    extensions(("x-problems" = json!(["unknown_id", "store_retired", "store_unavailable", "unsupported_by_store", "reservation_expired", "reservation_closed"]))),
)]
async fn extend(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Extend>,
) -> Result<Response> {
    app.act_on(id, value.asked(), write, prefer, json).await
}

impl App {
    /// Asks the store to confirm, cancel or extend a reservation, and waits for its word.
    async fn act_on(
        self: Arc<Self>,
        id: String,
        ActAsked { act: what, reference }: ActAsked,
        write: Write,
        prefer: Prefer,
        json: Value,
    ) -> Result<Response> {
        let id: ReservationId = id.parse().map_err(|_| unknown())?;
        let key = key_of(&write, &json);
        if let Some(record) = self.replay(key.as_ref()).await? {
            return self.acted(id, Some(&record.target), &prefer, true).await;
        }
        let reservation = self.reservation(id).await?;
        let (store, weight) = (reservation.store, Weight::of_lines(reservation.lines.iter().len()));
        // What has ended is answered by what is known, wherever its store is.
        let reading = match reservation.status.has_ended() {
            true => None,
            // What is held is held whether or not the store gets new orders.
            false => Some(self.reachable(&store).await?.1),
        };
        let about = about(write, reference);
        let command = OperationId::from_uuid(self.source.id());
        let target = Target { effect: Effect::Command, id: command.to_string(), store, weight };
        let judge = self.clone();
        let job = move |connection: &Connection, store: &mut Store, now| {
            let reservation = reservations::find(connection, id)?.ok_or_else(unknown)?;
            if let Some(reading) = &reading {
                judge.still_reachable(store, reading)?;
            }
            if commands::is_full(connection, &store.id)? {
                return Err(Problem::new(Code::Overloaded).into());
            }
            let asked = act(connection, store, &reservation, &what, command.clone(), &about, now);
            let of_it = |refused: Rejection| Problem::from(refused).with("reservationId", id.to_string());
            Ok(Done::with(asked.map_err(|abort| abort.map(of_it))?))
        };
        let written = self.write(key, target, job).await?;
        match written.value {
            Some(Asked::Done) => self.acted(id, None, &prefer, false).await,
            Some(Asked::Store(_)) => self.acted(id, Some(&written.target), &prefer, false).await,
            None => self.acted(id, Some(&written.target), &prefer, true).await,
        }
    }

    async fn reservation(&self, id: ReservationId) -> Result<Reservation> {
        let found = self.db.read(|connection| reservations::find(connection, id)).await?;
        found.ok_or_else(unknown)
    }

    /// With the command about it that is unanswered.
    async fn shown(&self, id: ReservationId) -> Result<ReservationView> {
        let found = self.db.read(|connection| {
            let found = reservations::find(connection, id)?;
            let asked = reservations::unanswered(connection, id)?;
            Ok(found.map(|found| ReservationView::of(found, asked)))
        });
        found.await?.ok_or_else(unknown)
    }

    /// Waits for the store's word on a new reservation and says it. `command`: the one that asked for it.
    async fn held(&self, command: &str, prefer: &Prefer, is_replay: bool) -> Result<Response> {
        let id = command.split(':').next().and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
        let request = self.await_command(command, prefer).await?;
        let reservation = self.reservation(id).await?;
        let headers = Headers::new(Some(prefer), is_replay, reservation.position.as_ref())
            .with(header::LOCATION, &format!("/v1/reservations/{id}"));
        let status = match reservation.status {
            Status::Pending if planted(Bug::PendingReservationMade) => StatusCode::CREATED,
            Status::Pending => StatusCode::ACCEPTED,
            Status::Rejected => {
                let problem = why_not(id, &reservation, &request);
                return Ok(headers.on(self.with_line(problem, &reservation.store, &reservation.lines).await?));
            }
            Status::Open | Status::Confirmed | Status::Cancelled | Status::Expired if is_replay => StatusCode::OK,
            Status::Open | Status::Confirmed | Status::Cancelled | Status::Expired => StatusCode::CREATED,
        };
        Ok(headers.on((status, Json(self.shown(id).await?))))
    }

    /// Waits for the store's answer to a command about a reservation, and says what it is now.
    async fn acted(
        &self,
        id: ReservationId,
        command: Option<&str>,
        prefer: &Prefer,
        is_replay: bool,
    ) -> Result<Response> {
        let request = match command {
            Some(command) => match self.await_command(command, prefer).await {
                // What its key stands for asked no store: the reservation had ended as it was to. Or it is past its retention.
                Err(problem) if problem.code() == Code::UnknownId => None,
                found => Some(found?),
            },
            None => None,
        };
        let is_pending = request.as_ref().is_some_and(|request| request.settled_at.is_none());
        let position = request.as_ref().and_then(|request| request.position.clone());
        let headers = Headers::new(Some(prefer), is_replay, position.as_ref());
        let rejection = request.as_ref().and_then(|request| request.rejection());
        if let Some(rejection) = rejection {
            return Ok(headers.on(Problem::from(rejection).with("reservationId", id.to_string())));
        }
        let view = Json(self.shown(id).await?);
        Ok(match (is_pending, command) {
            (true, Some(command)) => {
                headers.with(header::LOCATION, &format!("/v1/commands/{command}")).on((StatusCode::ACCEPTED, view))
            }
            _ => headers.on(view),
        })
    }
}

/// The problem that a reservation was refused with.
fn why_not(id: ReservationId, reservation: &Reservation, request: &Request) -> Problem {
    let problem = match request.rejection() {
        Some(rejection) => Problem::from(rejection),
        None => Problem::new(reservation.code.as_deref().and_then(Code::from_name).unwrap_or(Code::InsufficientStock)),
    };
    problem.with("reservationId", id.to_string()).with("storeId", reservation.store.as_str())
}

/// Read a reservation
#[utoipa::path(
    get, path = "/reservations/{id}", operation_id = "getReservation", tag = "Reservations", params(IdPath, Prefer),
    responses((status = 200, description = "The reservation", body = ReservationView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Response> {
    let id: ReservationId = id.parse().map_err(|_| unknown())?;
    let asked = prefer.only_if_asked();
    if app.reservation(id).await?.status == Status::Pending
        && let Some(command) = app.db.read(|connection| reservations::unanswered(connection, id)).await?
    {
        app.await_command(command.as_str(), &asked).await?;
    }
    let headers = Headers::new(Some(&prefer), false, None);
    Ok(headers.on(Json(app.shown(id).await?)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    store_id: Option<String>,
    status: Option<String>,
    product_id: Option<String>,
    reference: Option<String>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

type Reservations = List<ReservationView>;

/// List reservations
#[utoipa::path(
    get, path = "/reservations", operation_id = "listReservations", tag = "Reservations", params(Filter),
    responses((status = 200, description = "Reservations, the newest first", body = Reservations)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(None, filter.size, filter.cursor.as_deref(), 1)?;
    let wanted = listed::Filter {
        store: filter.store_id,
        status: filter.status,
        product: filter.product_id,
        reference: filter.reference,
    };
    let slice = page.by_number()?;
    let list = app.db.scan(move |connection| {
        let list = List::from(listed::list(connection, &wanted, &slice)?);
        Ok(Written::json(&list.map(|reservation| ReservationView::of(reservation, None))))
    });
    Ok(list.await?)
}
