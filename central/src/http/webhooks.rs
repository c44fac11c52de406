//! Webhooks: where the chain's events are sent.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::ids::StoreId;
use protocol::time::Millis;
use runtime::http::{Body, Code, IdPath, List, OptionalBody, PageQuery, Problem, Query, Result, Write, encode_cursor};
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::views::behind_number;
use super::write::{Headers, key_of};
use super::{App, Shared};
use crate::outbound::event::is_type;
use crate::outbound::sender::{Message, Secret};
use crate::outbound::webhooks::{attempted_of, payload, secrets};
use crate::storage::idempotency::Effect;
use crate::storage::queries::events::last_place;
use crate::storage::webhooks::{self, Delivery, NewWebhook, Webhook};
use crate::storage::{Abort, Connection};

/// Webhooks at once: each has connections and memory of its own.
const MOST: usize = 100;
/// For how long the secret before still signs, ms: a day.
const ROTATION_MS: i64 = 24 * 60 * 60 * 1_000;
/// Stores that are held back, as many as are shown.
const HELD: usize = 100;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/webhooks", get(list).post(register))
        .route("/webhooks/{id}", get(one).delete(delete))
        .route("/webhooks/{id}/test", post(test))
        .route("/webhooks/{id}/replay", post(replay))
        .route("/webhooks/{id}/secret", post(rotate))
        .route("/webhooks/{id}/deliveries", get(deliveries))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookView {
    webhook_id: String,
    url: String,
    types: Vec<String>,
    store_ids: Vec<String>,
    status: &'static str,
    /// Everything up to there is delivered: what `replay` takes, and `/events?after=`.
    cursor: String,
    failing_since: Option<Millis>,
    /// How many stores are held back behind an event that failed.
    held_stores: usize,
    held: Vec<HeldView>,
    created_at: Millis,
    /// Only when it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeldView {
    store_id: String,
    failures: u32,
    next_attempt_at: Millis,
}

impl WebhookView {
    fn of(webhook: Webhook, secret: Option<Secret>) -> Self {
        let held = webhook.progress.held.iter().take(HELD).map(|(store, held)| HeldView {
            store_id: store.clone(),
            failures: held.failures,
            next_attempt_at: held.next_at,
        });
        Self {
            held: held.collect(),
            held_stores: webhook.progress.held.len(),
            status: webhook.progress.status.as_str(),
            cursor: webhook.progress.delivered_to().to_string(),
            failing_since: webhook.progress.failing_since,
            webhook_id: webhook.id,
            url: webhook.url,
            types: webhook.types,
            store_ids: webhook.stores,
            created_at: webhook.created_at,
            secret: secret.map(|secret| secret.to_text()),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryView {
    delivery_id: String,
    webhook_id: String,
    /// `null`: a test.
    event_id: Option<String>,
    attempt: u32,
    at: Millis,
    duration_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl DeliveryView {
    fn of(webhook: &str, delivery: Delivery) -> Self {
        let Delivery { number, attempted } = delivery;
        Self {
            delivery_id: number.to_string(),
            webhook_id: webhook.to_owned(),
            event_id: attempted.event_id,
            attempt: attempted.attempt,
            at: attempted.at,
            duration_ms: attempted.duration_ms,
            status_code: attempted.answer.as_ref().ok().copied(),
            error: attempted.answer.err(),
        }
    }
}

async fn list(State(app): Shared, Query(query): Query<PageQuery>) -> Result<Json<List<WebhookView>>> {
    let page = query.page(1)?;
    let slice = behind_number(&page)?;
    let all = app.db.scan(webhooks::all).await?;
    let behind = all.into_iter().filter(|webhook| slice.after.is_none_or(|after| webhook.number < after));
    let found: Vec<Webhook> = behind.skip(slice.offset).take(slice.limit).collect();
    let list = List::cut(found, &page, |webhook: &Webhook| encode_cursor(&[&webhook.number.to_string()]));
    let items = list.items.into_iter().map(|webhook| WebhookView::of(webhook, None)).collect();
    Ok(Json(List { items, next_cursor: list.next_cursor }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Register {
    url: String,
    types: Option<Vec<String>>,
    store_id: Option<StoreId>,
}

async fn register(State(app): Shared, write: Write, Body { value: asked, json }: Body<Register>) -> Result<Response> {
    let types = asked.types.unwrap_or_default();
    if let Some(at) = types.iter().position(|name| !is_type(name)) {
        return Err(Problem::invalid(format!("/types/{at}"), "there are no events of this type"));
    }
    let reach = app.webhooks.sender.reach();
    let refused = |why: String| Problem::invalid("/url", why);
    let url = reach.read(&asked.url).map_err(refused)?;
    let key = key_of(&write, &json);
    // What was registered under this key stays so, whatever the name resolves to by now.
    if app.replay(key.as_ref()).await?.is_none() {
        reach.resolve(&url).await.map_err(refused)?;
    }
    let secret = Secret::generate();
    let new = NewWebhook {
        id: uuid::Uuid::now_v7().to_string(),
        url: asked.url,
        types,
        stores: asked.store_id.iter().map(ToString::to_string).collect(),
        secret: secret.0.clone(),
    };
    let id = new.id.clone();
    let act = move |connection: &Connection, now: Millis| {
        if webhooks::count(connection)? >= MOST {
            let problem = Problem::new(Code::LimitExceeded).detail(format!("there are {MOST} webhooks already"));
            return Err(problem.into());
        }
        Ok(webhooks::insert(connection, &new, now)?)
    };
    let changed = app.webhooks.changed.clone();
    let tell = move || changed.notify_one();
    let written = app.write_chain(key, Effect::Webhook, id, act, tell).await?;
    let secret = written.value.is_some().then_some(secret);
    let headers = Headers::new(None, secret.is_none(), None);
    let webhook = app.webhook(&written.target).await?;
    let headers = headers.with(header::LOCATION, &format!("/v1/webhooks/{}", webhook.id));
    Ok(headers.on((StatusCode::CREATED, Json(WebhookView::of(webhook, secret)))))
}

async fn one(State(app): Shared, IdPath(id): IdPath) -> Result<Json<WebhookView>> {
    Ok(Json(WebhookView::of(app.webhook(&id).await?, None)))
}

impl App {
    async fn webhook(&self, id: &str) -> Result<Webhook> {
        let wanted = id.to_owned();
        let found = self.db.scan(move |connection| webhooks::find(connection, &wanted)).await?;
        found.ok_or_else(|| Problem::new(Code::UnknownId))
    }

    /// An operator's word about a webhook; whoever delivers to it begins anew. Says whether it came before.
    async fn decide(
        &self,
        write: &Write,
        json: &Value,
        id: &str,
        act: impl Fn(&Connection, &str, Millis) -> std::result::Result<bool, Abort<Problem>> + Send + 'static,
    ) -> Result<bool> {
        let of = id.to_owned();
        let act = move |connection: &Connection, now: Millis| match act(connection, &of, now)? {
            true => Ok(()),
            false => Err(Problem::new(Code::UnknownId).into()),
        };
        let changed = self.webhooks.changed.clone();
        let tell = move || changed.notify_one();
        let written = self.write_chain(key_of(write, json), Effect::Webhook, id.to_owned(), act, tell).await?;
        Ok(written.value.is_none())
    }
}

async fn delete(State(app): Shared, IdPath(id): IdPath, write: Write) -> Result<Response> {
    let act = |connection: &Connection, id: &str, _| Ok(webhooks::delete(connection, id)?);
    let is_replay = app.decide(&write, &Value::Null, &id, act).await?;
    Ok(Headers::new(None, is_replay, None).on(StatusCode::NO_CONTENT))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Replay {
    after: Place,
}

/// A place in the chain: an event's `chainSeq`, or the text that a list's `nextCursor` is.
#[derive(Debug)]
struct Place(i64);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Place;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a place in the chain, as a number or as text")
            }
            fn visit_u64<E: serde::de::Error>(self, place: u64) -> std::result::Result<Place, E> {
                i64::try_from(place).map(Place).map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, place: i64) -> std::result::Result<Place, E> {
                if place < 0 { Err(E::custom("places count from 0")) } else { Ok(Place(place)) }
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Place, E> {
                self.visit_u64(text.parse().map_err(|_| E::custom("not a place in the chain"))?)
            }
        }
        deserializer.deserialize_any(Either).map_err(D::Error::custom)
    }
}

async fn replay(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    Body { value: Replay { after: Place(after) }, json }: Body<Replay>,
) -> Result<Response> {
    let act = move |connection: &Connection, id: &str, _| {
        if after > last_place(connection)? {
            return Err(Problem::invalid("/after", "the chain has not come so far").into());
        }
        Ok(webhooks::replay(connection, id, after)?)
    };
    let is_replay = app.decide(&write, &json, &id, act).await?;
    let view = WebhookView::of(app.webhook(&id).await?, None);
    Ok(Headers::new(None, is_replay, None).on(Json(view)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nothing {}

async fn rotate(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    OptionalBody { json, .. }: OptionalBody<Nothing>,
) -> Result<Response> {
    let secret = Secret::generate();
    let new = secret.0.clone();
    let act = move |connection: &Connection, id: &str, now: Millis| {
        Ok(webhooks::rotate(connection, id, &new, now.plus(ROTATION_MS))?)
    };
    let is_replay = app.decide(&write, &json, &id, act).await?;
    let view = WebhookView::of(app.webhook(&id).await?, (!is_replay).then_some(secret));
    Ok(Headers::new(None, is_replay, None).on(Json(view)))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    webhook_id: String,
}

/// Sends something that is no event, now and once; how it ends is in the answer and in the log.
async fn test(
    State(app): Shared,
    IdPath(id): IdPath,
    OptionalBody { .. }: OptionalBody<Nothing>,
) -> Result<Json<DeliveryView>> {
    let webhook = app.webhook(&id).await?;
    let now = runtime::clock::now();
    let body = payload("test", now, &Test { webhook_id: id.clone() });
    let message = Message { id: format!("test-{}", uuid::Uuid::new_v4()), body };
    let sent = app.webhooks.sender.send(&webhook.url, &secrets(&webhook, now), &message).await;
    let attempted = attempted_of(None, 1, sent);
    let (number, kept) = (webhook.number, attempted.clone());
    let of = id.clone();
    let job = move |connection: &Connection| match webhooks::find(connection, &of)? {
        Some(_) => Ok(webhooks::log(connection, number, &kept)?),
        // It was deleted meanwhile.
        None => Err(Abort::from(Problem::new(Code::UnknownId))),
    };
    let number = app.db.write(job).await??;
    Ok(Json(DeliveryView::of(&id, Delivery { number, attempted })))
}

async fn deliveries(
    State(app): Shared,
    IdPath(id): IdPath,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<DeliveryView>>> {
    let page = query.page(1)?;
    let slice = behind_number(&page)?;
    let webhook = app.webhook(&id).await?.number;
    let (before, limit) = (slice.after.unwrap_or(i64::MAX), slice.offset + slice.limit);
    let found = app.db.scan(move |connection| webhooks::deliveries(connection, webhook, before, limit)).await?;
    let found: Vec<DeliveryView> =
        found.into_iter().skip(slice.offset).map(|delivery| DeliveryView::of(&id, delivery)).collect();
    Ok(Json(List::cut(found, &page, |delivery: &DeliveryView| encode_cursor(&[&delivery.delivery_id]))))
}
