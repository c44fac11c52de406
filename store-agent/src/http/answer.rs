//! What every write does: look at the key, act, keep the answer, say it.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::domain::Item;
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::number::Epoch;
use protocol::time::Millis;
use runtime::http::{Code, Problem, Result, Write, fingerprint};
use runtime::sqlite::{Abort, Connection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, POSITION};
use crate::ledger::idempotency::{self, Key, Record};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An item as clients see it.
pub(super) fn item_view(store: &StoreId, product: &ProductId, item: &Item) -> Value {
    let mut view = json!({
        "storeId": store,
        "productId": product,
        "name": item.name,
        "quantity": item.quantity,
        "reserved": item.reserved,
        "allotted": item.allotted,
        "available": item.available(),
        "discontinued": item.discontinued,
        "lowAt": item.low_at,
        "version": item.version,
        "updatedAt": item.updated_at,
    });
    if let Some(wanted) = item.allotment_wanted {
        view["allotmentWanted"] = wanted.into();
    }
    view
}

/// Strong: the same tag means the same item to the last member.
pub(super) fn etag(epoch: Epoch, version: i64) -> String {
    format!("\"{epoch}-{version}\"")
}

/// What a write did, before it is on disk.
pub(super) struct Done {
    /// 200 or 201.
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// `<epoch>-<seq>` of its event.
    pub(super) position: String,
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
    /// Runs a write in one transaction with its key. `act` is a part of the job, and may be run again.
    pub(super) async fn write(
        &self,
        write: &Write,
        json: &Value,
        act: impl Fn(&Connection, Call<'_>) -> std::result::Result<Done, Abort<Problem>> + Send + 'static,
    ) -> Result<Response> {
        let key = write.key.clone().map(|key| Key {
            key,
            fingerprint: fingerprint(&write.method, &write.path, json),
            route: format!("{} {}", write.method, write.path),
        });
        let now = runtime::clock::now();
        let store = self.store.clone();
        let unnamed = OperationId::from_uuid(uuid::Uuid::now_v7());
        let (status, body, position, replayed) = self
            .db
            .write(move |connection| {
                let call = match &key {
                    None => Call { key: None, operation: unnamed.clone(), is_known: false, now },
                    Some(key) => {
                        if let Some(record) = idempotency::find(connection, &key.key)? {
                            let Record { fingerprint, status, body, position, .. } = record;
                            if fingerprint != key.fingerprint {
                                return Err(Abort::Refused(Problem::new(Code::IdempotencyKeyReused)));
                            }
                            return Ok((status, body, position, true));
                        }
                        let is_known = idempotency::is_known(connection, key, now)?;
                        Call { key: Some(key), operation: key.operation(now), is_known, now }
                    }
                };
                let is_known = call.is_known;
                let done = act(connection, call)?;
                let (status, body) = (done.status.as_u16(), done.body.to_string());
                let position = format!("{store}:{}", done.position);
                if let Some(key) = key.as_ref().filter(|_| !is_known) {
                    idempotency::bind(connection, key, status, &body, &position, now)?;
                }
                Ok((status, body, position, is_known))
            })
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
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(POSITION, value(position));
    let headed: Headed<'_> = serde_json::from_str(&body).unwrap_or_default();
    let epoch = position.rsplit_once(':').and_then(|(_, at)| at.split('-').next()?.parse().ok());
    if let (Some(epoch), Some(version)) = (epoch, headed.version) {
        headers.insert(header::ETAG, value(&etag(epoch, version)));
    }
    if status == StatusCode::CREATED {
        let reservation = headed.reservation_id.map(|id| format!("/v1/reservations/{id}"));
        let product = headed.product_id.map(|id| format!("/v1/inventory/{id}"));
        if let Some(place) = product.or(reservation) {
            headers.insert(header::LOCATION, value(&place));
        }
    }
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    (status, headers, body).into_response()
}
