//! Units held for a while: hold, read, confirm, cancel, extend.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::domain::reservation::Reservation;
use protocol::ids::{ReservationId, StoreId};
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::wire::About;
use runtime::http::requests::{ActAsked, CancelReservation, Confirm, Extend, Reserve};
use runtime::http::{
    Body, Code, IdPath, List, OptionalBody, Page, PageSize, Problem, Query, Result, StoreReservation, Write, Written,
};
use runtime::sqlite::{Abort, Connection, Weight};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Call, Done, is_replayed};
use super::{App, Shared};
use crate::ledger;
use crate::ledger::reservations;
use crate::operations::reservations::{Asking, act, reserve};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, hold))
        .routes(routes!(one))
        .routes(routes!(confirm))
        .routes(routes!(cancel))
        .routes(routes!(extend))
}

type Reservations = List<StoreReservation<'static>>;

fn view(store: &StoreId, reservation: &Reservation) -> Value {
    serde_json::to_value(StoreReservation::of(store, reservation)).expect("a reservation serialises")
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownId)
}

fn about(write: &Write, reference: Option<String>) -> About {
    About { reference, actor: write.actor.clone(), traceparent: Some(write.traceparent.clone()), ..About::default() }
}

/// Hold units for a while
///
/// All lines or none. Held units are sold to nobody else until the reservation is confirmed, cancelled, or its time is over.
#[utoipa::path(
    post, path = "/reservations", operation_id = "makeReservation", tag = "Reservations", params(Write),
    request_body = Reserve,
    responses((status = 201, description = "The reservation", body = StoreReservation), (status = 200, description = "What has become of it: the key came before", body = StoreReservation)),
    extensions(("x-problems" = json!(["unknown_product", "insufficient_stock", "limit_exceeded"]))),
)]
async fn hold(State(app): Shared, write: Write, Body { value, json }: Body<Reserve>) -> Result<Response> {
    let asked = value.asked()?;
    let about = about(&write, asked.reference);
    let (store, lines) = (app.store.clone(), asked.lines.clone());
    let (weight, expiry) = (Weight::of_lines(lines.iter().len()), app.expiry.clone());
    let answer = app
        .write_then(
            weight,
            &write,
            &json,
            move |connection, Call { operation, now, .. }| {
                // The same key is the same operation, and the same reservation, also after a restore.
                let id = ReservationId::of(&operation);
                // A state that a restore took in may have it without a word of how it was made.
                if let Some(known) = reservations::find(connection, id)? {
                    return done(connection, &store, StatusCode::OK, &known, None).map(Done::known);
                }
                let asking = Asking { operation, about: about.clone(), command: None };
                let held = reserve(connection, id, &asked.lines, asked.ttl_ms, &asking, now)?;
                done(connection, &store, StatusCode::CREATED, &held.reservation, held.position)
            },
            move || expiry.notify_one(),
        )
        .await;
    let answer = match answer {
        Err(problem) if problem.code() == Code::UnknownProduct => {
            return Err(app.unknown_line(problem, &lines).await?);
        }
        answer => answer?,
    };
    app.at_present(answer).await
}

/// Sell what is held
#[utoipa::path(
    post, path = "/reservations/{id}/confirm", operation_id = "confirmReservation", tag = "Reservations", params(IdPath, Write),
    request_body = Option<Confirm>,
    responses((status = 200, description = "The reservation", body = StoreReservation)),
    extensions(("x-problems" = json!(["unknown_id", "reservation_expired", "reservation_closed"]))),
)]
async fn confirm(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    OptionalBody { value, json }: OptionalBody<Confirm>,
) -> Result<Response> {
    app.act_on(id, value.asked()?, write, json).await
}

/// Free what is held
#[utoipa::path(
    post, path = "/reservations/{id}/cancel", operation_id = "cancelReservation", tag = "Reservations", params(IdPath, Write),
    request_body = Option<CancelReservation>,
    responses((status = 200, description = "The reservation", body = StoreReservation)),
    extensions(("x-problems" = json!(["unknown_id", "reservation_expired", "reservation_closed"]))),
)]
async fn cancel(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    OptionalBody { value, json }: OptionalBody<CancelReservation>,
) -> Result<Response> {
    app.act_on(id, value.asked(), write, json).await
}

/// Set anew when a reservation ends
#[utoipa::path(
    post, path = "/reservations/{id}/extend", operation_id = "extendReservation", tag = "Reservations", params(IdPath, Write),
    request_body = Extend,
    responses((status = 200, description = "The reservation", body = StoreReservation)),
    extensions(("x-problems" = json!(["unknown_id", "reservation_expired", "reservation_closed"]))),
)]
async fn extend(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    Body { value, json }: Body<Extend>,
) -> Result<Response> {
    app.act_on(id, value.asked(), write, json).await
}

fn done(
    connection: &Connection,
    store: &StoreId,
    status: StatusCode,
    reservation: &Reservation,
    position: Option<EntryId>,
) -> std::result::Result<Done, Abort<Problem>> {
    let position = match position {
        Some(position) => position,
        None => ledger::head(connection)?.cursor.id(),
    };
    Ok(Done::new(status, &view(store, reservation), position))
}

impl App {
    async fn act_on(
        &self,
        id: String,
        ActAsked { act: asked, reference }: ActAsked,
        write: Write,
        json: Value,
    ) -> Result<Response> {
        let id: ReservationId = id.parse().map_err(|_| unknown())?;
        let about = about(&write, reference);
        let store = self.store.clone();
        let known = self.db.read(|connection| reservations::find(connection, id)).await?;
        let weight = Weight::of_lines(known.map_or(0, |reservation| reservation.lines.iter().len()));
        let expiry = self.expiry.clone();
        let answer = self
            .write_then(
                weight,
                &write,
                &json,
                move |connection, Call { operation, is_known, now, .. }| {
                    if is_known && let Some(known) = reservations::find(connection, id)? {
                        return done(connection, &store, StatusCode::OK, &known, None);
                    }
                    let asking = Asking { operation, about: about.clone(), command: None };
                    let acted = act(connection, id, &asked, &asking, now)?;
                    let acted = acted.ok_or_else(|| Abort::Refused(unknown()))?;
                    done(connection, &store, StatusCode::OK, &acted.reservation, acted.position)
                },
                move || expiry.notify_one(),
            )
            .await?;
        self.at_present(answer).await
    }

    /// A reservation moves on by itself: what its key stands for is what it is now, not what it was at first.
    async fn at_present(&self, answer: Response) -> Result<Response> {
        if !is_replayed(&answer) || planted(Bug::FirstReservationRepeated) {
            return Ok(answer);
        }
        let (mut parts, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(Problem::internal)?;
        let first: Value = serde_json::from_slice(&bytes).map_err(Problem::internal)?;
        let id = first["reservationId"].as_str().and_then(|id| id.parse().ok());
        let found = self.db.read(|connection| id.map_or(Ok(None), |id| reservations::find(connection, id))).await?;
        let present = found.map_or(first, |present| view(&self.store, &present));
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        parts.headers.remove(axum::http::header::LOCATION);
        Ok((StatusCode::OK, parts.headers, Json(present)).into_response())
    }
}

/// Read a reservation
#[utoipa::path(
    get, path = "/reservations/{id}", operation_id = "getReservation", tag = "Reservations", params(IdPath),
    responses((status = 200, description = "The reservation", body = StoreReservation)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Value>> {
    let id: ReservationId = id.parse().map_err(|_| unknown())?;
    let found = app.db.read(|connection| reservations::find(connection, id)).await?.ok_or_else(unknown)?;
    Ok(Json(view(&app.store, &found)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    status: Option<String>,
    product_id: Option<String>,
    reference: Option<String>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

/// List reservations
#[utoipa::path(
    get, path = "/reservations", operation_id = "listReservations", tag = "Reservations", params(Filter),
    responses((status = 200, description = "Reservations, the newest first", body = Reservations)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(None, filter.size, filter.cursor.as_deref(), 1)?;
    let filter =
        reservations::Filter { status: filter.status, product_id: filter.product_id, reference: filter.reference };
    let (slice, store) = (page.by_number()?, app.store.clone());
    let list = app.db.scan(move |connection| {
        let list = List::from(reservations::list(connection, &filter, &slice)?);
        Ok(Written::json(&list.map(|recorded| view(&store, &recorded.reservation))))
    });
    Ok(list.await?)
}
