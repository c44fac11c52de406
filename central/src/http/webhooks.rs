//! Webhooks: where the chain's events are sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use protocol::ids::StoreId;
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{Body, Code, IdPath, List, OptionalBody, PageQuery, Problem, Query, Result, Write, encode_cursor};
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::refuse_beyond;
use super::write::{Headers, key_of};
use super::{App, Shared};
use crate::outbound::event::is_type;
use crate::outbound::sender::{Message, Secret};
use crate::outbound::webhooks::{attempted_of, payload, secrets};
use crate::storage::idempotency::Effect;
use crate::storage::webhooks::{self, Delivery, NewWebhook, Status, Webhook};
use crate::storage::{Abort, Connection};

/// Webhooks at once: each has connections and memory of its own.
const MOST: usize = 100;
/// For how long the secret before still signs, ms: a day.
const ROTATION_MS: i64 = 24 * 60 * 60 * 1_000;
/// Stores that are held back, as many as are shown.
const HELD: usize = 100;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(one, delete))
        .routes(routes!(test))
        .routes(routes!(replay))
        .routes(routes!(rotate))
        .routes(routes!(deliveries))
}

/// Where events are sent
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Webhook)]
struct WebhookView {
    webhook_id: String,
    url: String,
    /// None: all of them.
    types: Vec<String>,
    /// None: all of them.
    store_ids: Vec<String>,
    /// `active`, `parked` or `disabled`.
    status: &'static str,
    /// Everything up to there is delivered: what `replay` takes, and `/events?after=`.
    cursor: String,
    #[schema(value_type = Option<schema::Time>)]
    failing_since: Option<Millis>,
    /// How many stores are held back behind an event that failed.
    held_stores: usize,
    held: Vec<HeldView>,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    /// Signs what is sent (Standard Webhooks). Only told when it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// A store whose events wait behind one that could not be delivered
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HeldStore)]
struct HeldView {
    store_id: String,
    failures: u32,
    /// `null`: none comes, since the webhook is not `active`.
    #[schema(value_type = Option<schema::Time>)]
    next_attempt_at: Option<Millis>,
}

impl WebhookView {
    fn of(webhook: Webhook, secret: Option<Secret>) -> Self {
        let is_active = webhook.progress.status == Status::Active;
        let held = webhook.progress.failing().take(HELD).map(|(store, held)| HeldView {
            store_id: store.clone(),
            failures: held.failures,
            next_attempt_at: is_active.then_some(held.next_at),
        });
        Self {
            held: held.collect(),
            held_stores: webhook.progress.failing().count(),
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

/// An attempt to deliver an event
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
struct DeliveryView {
    delivery_id: String,
    webhook_id: String,
    /// `null`: a test.
    event_id: Option<String>,
    attempt: u32,
    #[schema(value_type = schema::Time)]
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

type Webhooks = List<WebhookView>;
type Deliveries = List<DeliveryView>;

/// List webhooks
#[utoipa::path(
    get, path = "/webhooks", operation_id = "listWebhooks", tag = "Webhooks", params(PageQuery),
    responses((status = 200, description = "Webhooks, the newest first", body = Webhooks)),
)]
async fn list(State(app): Shared, Query(query): Query<PageQuery>) -> Result<Json<List<WebhookView>>> {
    let page = query.page(1)?;
    let slice = page.by_number()?;
    let all = app.db.scan(webhooks::all).await?;
    let behind = all.into_iter().filter(|webhook| slice.after.is_none_or(|after| webhook.number < after));
    let found: Vec<Webhook> = behind.skip(slice.offset).take(slice.limit).collect();
    let list = List::cut(found, &page, |webhook: &Webhook| encode_cursor(&[&webhook.number.to_string()]));
    let items = list.items.into_iter().map(|webhook| WebhookView::of(webhook, None)).collect();
    Ok(Json(List { items, next_cursor: list.next_cursor }))
}

/// A new webhook
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RegisterWebhook, example = json!({"url": "https://shop.example/hooks", "types": ["sold", "low_stock"]}))]
struct Register {
    /// `https://`, and a public address.
    url: String,
    /// All, if they are left out.
    #[schema(value_type = Option<Vec<String>>)]
    types: Option<Vec<String>>,
    /// All, if it is left out.
    #[schema(value_type = Option<schema::StoreId>)]
    store_id: Option<StoreId>,
}

/// Have events sent
///
/// Signed as Standard Webhooks has it. Refused for an address that is not public, unless the server allows it.
#[utoipa::path(
    post, path = "/webhooks", operation_id = "registerWebhook", tag = "Webhooks", params(Write),
    request_body = Register,
    responses((status = 201, description = "The webhook, with the secret that signs", body = WebhookView)),
    extensions(("x-problems" = json!(["limit_exceeded"]))),
)]
async fn register(State(app): Shared, write: Write, Body { value: asked, json }: Body<Register>) -> Result<Response> {
    let types = asked.types.unwrap_or_default();
    if let Some(at) = types.iter().position(|name| !is_type(name)) {
        return Err(Problem::invalid(format!("/types/{at}"), "must be a type of events, such as sold or low_stock"));
    }
    let reach = app.webhooks.sender.reach();
    let refused = |why: String| Problem::invalid("/url", why);
    let url = reach.read(&asked.url).map_err(refused)?;
    if url.fragment().is_some() {
        return Err(refused("must have no fragment: none is sent".to_owned()));
    }
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

/// Read a webhook
#[utoipa::path(
    get, path = "/webhooks/{id}", operation_id = "getWebhook", tag = "Webhooks", params(IdPath),
    responses((status = 200, description = "The webhook", body = WebhookView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
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

/// Send no more
#[utoipa::path(
    delete, path = "/webhooks/{id}", operation_id = "deleteWebhook", tag = "Webhooks", params(IdPath, Write),
    responses((status = 204, description = "It is gone")),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn delete(State(app): Shared, IdPath(id): IdPath, write: Write) -> Result<Response> {
    let act = |connection: &Connection, id: &str, _| Ok(webhooks::delete(connection, id)?);
    let is_replay = app.decide(&write, &Value::Null, &id, act).await?;
    Ok(Headers::new(None, is_replay, None).on(StatusCode::NO_CONTENT))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ReplayEvents, example = json!({"after": 0}))]
struct Replay {
    after: Place,
}

/// A place in the chain: an event's `chainSeq`, or the text that a list's `nextCursor` is.
#[derive(Debug)]
struct Place(i64);

impl PartialSchema for Place {
    fn schema() -> RefOr<Schema> {
        let number = json!({"type": "integer", "format": "int64", "minimum": 0});
        schema::schema(json!({"oneOf": [number, {"type": "string", "pattern": "^[0-9]{1,18}$"}]}))
    }
}

impl ToSchema for Place {}

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
                if place < 0 { Err(E::invalid_value(Unexpected::Signed(place), &self)) } else { Ok(Place(place)) }
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Place, E> {
                match text.parse() {
                    Ok(place) => self.visit_u64(place),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Either).map_err(D::Error::custom)
    }
}

/// Send again from a place in the chain
#[utoipa::path(
    post, path = "/webhooks/{id}/replay", operation_id = "replayWebhook", tag = "Webhooks", params(IdPath, Write),
    request_body = Replay,
    responses((status = 200, description = "The webhook", body = WebhookView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn replay(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    Body { value: Replay { after: Place(after) }, json }: Body<Replay>,
) -> Result<Response> {
    let act = move |connection: &Connection, id: &str, _| {
        refuse_beyond(connection, "/after", after)??;
        Ok(webhooks::replay(connection, id, after)?)
    };
    let is_replay = app.decide(&write, &json, &id, act).await?;
    let view = WebhookView::of(app.webhook(&id).await?, None);
    Ok(Headers::new(None, is_replay, None).on(Json(view)))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Sign with a new secret
#[utoipa::path(
    post, path = "/webhooks/{id}/secret", operation_id = "rotateSecret", tag = "Webhooks", params(IdPath, Write),
    request_body = Option<Nothing>,
    responses((status = 200, description = "The webhook, with its new secret; for a day the one before signs, too", body = WebhookView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
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

/// Send something that is no event
#[utoipa::path(
    post, path = "/webhooks/{id}/test", operation_id = "testWebhook", tag = "Webhooks", params(IdPath),
    request_body = Option<Nothing>,
    responses((status = 200, description = "How it went", body = DeliveryView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
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

/// List attempts to deliver
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries", operation_id = "listDeliveries", tag = "Webhooks", params(IdPath, PageQuery),
    responses((status = 200, description = "Attempts, the newest first", body = Deliveries)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn deliveries(
    State(app): Shared,
    IdPath(id): IdPath,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<DeliveryView>>> {
    let page = query.page(1)?;
    let slice = page.by_number()?;
    let webhook = app.webhook(&id).await?.number;
    let (before, limit) = (slice.after.unwrap_or(i64::MAX), slice.offset + slice.limit);
    let found = app.db.scan(move |connection| webhooks::deliveries(connection, webhook, before, limit)).await?;
    let found: Vec<DeliveryView> =
        found.into_iter().skip(slice.offset).map(|delivery| DeliveryView::of(&id, delivery)).collect();
    Ok(Json(List::cut(found, &page, |delivery: &DeliveryView| encode_cursor(&[&delivery.delivery_id]))))
}
