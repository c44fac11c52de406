//! What every write does: look at the key, act, keep the answer, say it.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::domain::{Action, Item};
use protocol::ids::{OperationId, ProductId, ReservationId, StoreId};
use protocol::link::EntryId;
use protocol::number::Epoch;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{Code, HEADERS, Problem, Result, Write, fingerprint, header_value};
use runtime::sqlite::{Abort, Connection, Error, Weight};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{App, POSITION};
use crate::ledger::idempotency::{self, Key, Record};
use crate::ledger::{self, Moved};
use crate::operations::till::Performed;

/// How long a till's count waits for a place among those that read lists.
const PLACE_WITHIN: Duration = Duration::from_millis(250);
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An item
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Item, example = json!({
    "storeId": "store-1", "productId": "coffee", "name": "Coffee, 500 g", "quantity": 24, "reserved": 2,
    "allotted": 0, "available": 22, "discontinued": false, "lowAt": 6, "version": 4,
    "updatedAt": "2026-01-31T12:00:00.000Z",
}))]
pub(super) struct ItemView<'a> {
    #[schema(value_type = schema::StoreId)]
    store_id: &'a StoreId,
    #[schema(value_type = schema::ProductId)]
    product_id: &'a ProductId,
    name: &'a str,
    /// Units on hand and not sold.
    quantity: i64,
    /// Of these, held by open reservations.
    reserved: i64,
    /// Of these, set aside for online sale.
    allotted: i64,
    /// What the allotment shall become.
    #[serde(skip_serializing_if = "Option::is_none")]
    allotment_wanted: Option<i64>,
    /// What tills may sell: `quantity` less `reserved` and `allotted`.
    available: i64,
    /// No longer carried: tills sell what is left.
    discontinued: bool,
    /// At so many available units it is low; `null`: never.
    low_at: Option<i64>,
    /// Grows with each change.
    version: i64,
    #[schema(value_type = schema::Time)]
    updated_at: Millis,
    /// After a count: by how much the book was off.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<i64>,
    /// Reservations that fell short of what is on the shelf, and have ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    ended_reservations: Vec<Ended>,
}

/// A reservation that fell short
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EndedReservation)]
pub(super) struct Ended {
    #[schema(value_type = schema::Id)]
    reservation_id: ReservationId,
    reference: Option<String>,
}

impl Ended {
    /// Those that an operation has ended.
    pub(super) fn by(performed: &Performed) -> impl Iterator<Item = Self> {
        performed.ended.iter().map(|ended| Self { reservation_id: ended.id, reference: ended.reference.clone() })
    }
}

impl<'a> ItemView<'a> {
    pub(super) fn of(store_id: &'a StoreId, product_id: &'a ProductId, item: &'a Item) -> Self {
        Self {
            store_id,
            product_id,
            name: &item.name,
            quantity: item.quantity,
            reserved: item.reserved,
            allotted: if planted(Bug::AllottedNotShown) { 0 } else { item.allotted },
            allotment_wanted: item.allotment_wanted,
            available: item.available(),
            discontinued: item.discontinued,
            low_at: item.low_at,
            version: item.version,
            updated_at: item.updated_at,
            difference: None,
            ended_reservations: Vec::new(),
        }
    }

    /// With what whoever did the operation has to know besides.
    pub(super) fn after(mut self, action: Action, performed: &Performed) -> Self {
        self.difference = (action == Action::Count).then_some(performed.delta);
        self.ended_reservations = Ended::by(performed).collect();
        self
    }

    pub(super) fn json(&self) -> Value {
        serde_json::to_value(self).expect("an item serialises")
    }
}

/// Strong: the same tag means the same item to the last member.
pub(super) fn etag(epoch: Epoch, version: i64) -> HeaderValue {
    header_value(format_args!("\"{epoch}-{version}\""))
}

/// What a write did, before it is on disk.
pub(super) struct Done {
    status: StatusCode,
    body: String,
    position: EntryId,
    is_known: bool,
}

impl Done {
    /// `status`: 200 or 201. `position`: where it is recorded.
    pub(super) fn new(status: StatusCode, body: &impl Serialize, position: EntryId) -> Self {
        let body = serde_json::to_string(body).expect("an answer serialises");
        Self { status, body, position, is_known: false }
    }

    /// It turns out to have been done before: its effect is there under its own name.
    pub(super) fn known(self) -> Self {
        Self { is_known: true, ..self }
    }
}

/// A write about to be done.
pub(super) struct Call<'a> {
    /// What the caller calls it, if it does.
    pub(super) key: Option<&'a Key>,
    /// Its name for ever: the same for the same request under the same key.
    pub(super) operation: OperationId,
    /// It was done before a restore: its effect is in the stock, its answer is lost.
    pub(super) is_known: bool,
    pub(super) now: Millis,
}

impl App {
    /// What items have moved since these positions: added up beside the writer, however much it is. While lists take all the
    /// places for that one of them is left to the writer: a till does not wait for lists.
    pub(super) async fn moved_since(&self, positions: Vec<(ProductId, EntryId)>) -> Result<Moved> {
        if positions.is_empty() {
            return Ok(Moved::default());
        }
        let is_one = positions.len() == 1;
        let sum = move |connection: &Connection| Moved::since_positions(connection, positions.clone());
        if !is_one {
            return Ok(self.db.scan(sum).await?);
        }
        match self.db.scan_within(PLACE_WITHIN, sum).await {
            Err(Error::Busy) => Ok(Moved::default()),
            moved => Ok(moved?),
        }
    }

    /// Runs a light write in one transaction with its key. `act` is a part of the job, and may be run again.
    pub(super) async fn write(
        &self,
        write: &Write,
        json: &Value,
        act: impl Fn(&Connection, Call<'_>) -> std::result::Result<Done, Abort<Problem>> + Send + 'static,
    ) -> Result<Response> {
        self.write_as(Weight::Light, write, json, act).await
    }

    /// The same of this weight.
    pub(super) async fn write_as(
        &self,
        weight: Weight,
        write: &Write,
        json: &Value,
        act: impl Fn(&Connection, Call<'_>) -> std::result::Result<Done, Abort<Problem>> + Send + 'static,
    ) -> Result<Response> {
        self.write_then(weight, write, json, act, || {}).await
    }

    /// The same, and `then` is called once it is on disk, also if the client has gone.
    pub(super) async fn write_then(
        &self,
        weight: Weight,
        write: &Write,
        json: &Value,
        act: impl Fn(&Connection, Call<'_>) -> std::result::Result<Done, Abort<Problem>> + Send + 'static,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<Response> {
        let key = write.key.clone().map(|key| Key {
            key,
            fingerprint: fingerprint(&write.method, &write.path, json),
            route: format!("{} {}", write.method, write.path),
        });
        let now = self.source.now();
        let store = self.store.clone();
        let unnamed = OperationId::from_uuid(self.source.id());
        let (status, body, position, replayed) = self
            .db
            .write_then(
                weight,
                move |connection| {
                    let call = match &key {
                        None => Call { key: None, operation: unnamed.clone(), is_known: false, now },
                        Some(key) => {
                            if let Some(record) = idempotency::find(connection, &key.key)? {
                                let Record { fingerprint, status, body, position, .. } = record;
                                if fingerprint != key.fingerprint && !planted(Bug::OtherRequestAnswered) {
                                    return Err(Abort::Refused(Problem::new(Code::IdempotencyKeyReused)));
                                }
                                return Ok((status, body, position, true));
                            }
                            let known =
                                idempotency::known(connection, key, now)?.filter(|_| !planted(Bug::KnownDoneAgain));
                            let is_known = known.is_some();
                            // The day on which it was done is in its name.
                            let operation = known.unwrap_or_else(|| key.operation(now));
                            Call { key: Some(key), operation, is_known, now }
                        }
                    };
                    let is_known = call.is_known;
                    let done = match act(connection, call) {
                        Err(Abort::Refused(problem)) if planted(Bug::RefusalKept) => Ok(Done::new(
                            problem.code().status(),
                            &problem.to_json(),
                            ledger::head(connection)?.cursor.id(),
                        )),
                        done => done,
                    };
                    let done = done?;
                    let is_known = is_known || done.is_known;
                    let Done { status, body, position, .. } = done;
                    let (status, position) = (status.as_u16(), format!("{store}:{position}"));
                    let is_forgotten = |key: &&Key| {
                        let is_of = |route: &str, bug| key.route.contains(route) && planted(bug);
                        planted(Bug::KeyNotKept)
                            || is_of("/reservations", Bug::KeyOfReservationNotKept)
                            || is_of("/operations", Bug::KeyOfBatchNotKept)
                    };
                    if let Some(key) = key.as_ref().filter(|key| !is_known && !is_forgotten(key)) {
                        idempotency::bind(connection, key, status, &body, &position, now)?;
                    }
                    Ok((status, body, position, is_known))
                },
                |_| then(),
            )
            .await??;
        Ok(answer(status, body, &position, replayed))
    }
}

/// Whether it is the answer to what had been done before.
pub(super) fn is_replayed(answer: &Response) -> bool {
    answer.headers().contains_key(REPLAYED)
}

/// What an answer's headers say of its body.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Headed<'a> {
    version: Option<i64>,
    #[serde(borrow)]
    reservation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    product_id: Option<Cow<'a, str>>,
}

fn answer(status: u16, body: String, position: &str, replayed: bool) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(POSITION, header_value(position));
    let headed: Headed<'_> = serde_json::from_str(&body).unwrap_or_default();
    let epoch = position.rsplit_once(':').and_then(|(_, at)| at.split('-').next()?.parse().ok());
    if let (Some(epoch), Some(version)) = (epoch, headed.version) {
        let version = version - i64::from(planted(Bug::TagOfBefore));
        headers.insert(header::ETAG, etag(epoch, version));
    }
    if status == StatusCode::CREATED {
        let reservation = headed.reservation_id.map(|id| format!("/v1/reservations/{id}"));
        let product = headed.product_id.map(|id| format!("/v1/inventory/{id}"));
        if let Some(place) = product.or(reservation) {
            headers.insert(header::LOCATION, header_value(place));
        }
    }
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    (status, headers, body).into_response()
}
