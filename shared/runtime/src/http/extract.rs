//! Reading a request's path and body.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::SMALL;
use super::{Code, Problem, strict};
use protocol::ids::{ProductId, StoreId};

/// Greatest JSON body, but for [`LargeBody`].
pub(super) const JSON_BYTES: usize = 1 << 20;
/// Greatest body of a route that takes large ones.
pub(super) const LARGE_JSON_BYTES: usize = 16 << 20;
/// Of a body that is too large so much is read nevertheless, and for so long.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// A body must arrive within this, which is a rate, too, since it is no larger than it may be.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// A JSON body that must be there.
#[derive(Debug)]
pub struct Body<T> {
    /// What it means.
    pub value: T,
    /// As it is, for the fingerprint.
    pub json: Value,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        expect_json(request.headers())?;
        let bytes = received(request)?.body?;
        if bytes.is_empty() {
            return Err(Problem::invalid("", "A JSON body is needed"));
        }
        let (value, json) = strict::read(&bytes)?;
        Ok(Self { value, json })
    }
}

/// A JSON body of up to 16 MiB that must be there. Reading one takes as long as thousands of point reads, so it is done on a
/// thread that serves nobody else, and straight into what it means, which takes a tenth of the memory.
#[derive(Debug)]
pub struct LargeBody<T> {
    /// What it means.
    pub value: T,
    /// Stands for it in the fingerprint: a hash of what it means, since the whole is not kept.
    pub json: Value,
    /// Its place among those in memory.
    pub place: Option<Arc<OwnedSemaphorePermit>>,
}

impl<T, S> FromRequest<S> for LargeBody<T>
where
    T: DeserializeOwned + Serialize + Send + 'static,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        expect_json(request.headers())?;
        let Received { body, place } = received(request)?;
        let bytes = body?;
        if bytes.is_empty() {
            return Err(Problem::invalid("", "A JSON body is needed"));
        }
        let read = tokio::task::spawn_blocking(move || strict::read_large(&bytes)).await;
        let (value, json) = read.map_err(Problem::internal)??;
        Ok(Self { value, json, place })
    }
}

/// A JSON body that may be left out: then it is as if it were `{}`.
#[derive(Debug)]
pub struct OptionalBody<T> {
    /// What it means.
    pub value: T,
    /// As it is, for the fingerprint.
    pub json: Value,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let content_type = expect_json(request.headers());
        let bytes = received(request)?.body?;
        if bytes.is_empty() {
            let json = Value::Object(Map::new());
            let value = serde_json::from_value(json.clone()).map_err(Problem::internal)?;
            return Ok(Self { value, json });
        }
        content_type?;
        let (value, json) = strict::read(&bytes)?;
        Ok(Self { value, json })
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next()?.trim().to_ascii_lowercase())
}

fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::new(Code::UnsupportedMediaType).detail("compressed bodies are read by /import alone"));
    }
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        other => Err(refuse_body_type(other, "application/json")),
    }
}

/// Why a body that was announced cannot be read as JSON, whatever else is wrong with the request.
pub(super) fn body_problem(headers: &HeaderMap, limit: usize) -> Option<Problem> {
    let length = announced(headers);
    if length.unwrap_or(0) == 0 && !headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    match expect_json(headers) {
        Err(problem) => Some(problem),
        Ok(()) => length.filter(|length| *length > limit).map(|_| too_large(limit)),
    }
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge).detail(format!("the body is larger than {limit} bytes")).with("limitBytes", limit)
}

/// 415 that says what was sent and what is read.
pub fn refuse_body_type(sent: Option<&str>, wanted: &str) -> Problem {
    let sent = sent.map_or_else(|| "nothing".to_owned(), |sent| format!("{sent:?}"));
    Problem::new(Code::UnsupportedMediaType).detail(format!(
        "Content-Type must be {wanted}, {sent} was sent (curl -d sends a form: add -H 'Content-Type: {wanted}')"
    ))
}

/// A JSON body that has arrived, or why it has not: read by the edge before the request gets a place, so that a client
/// that sends slowly keeps nobody out.
#[derive(Debug, Clone)]
pub(super) struct Received {
    body: Result<Bytes, Problem>,
    place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Received {
    /// Reads a body of up to `limit` bytes to its end. One that is more than small needs a place among those in memory.
    pub(super) async fn read(
        body: axum::body::Body,
        headers: &HeaderMap,
        limit: usize,
        places: &Arc<Semaphore>,
    ) -> Self {
        let mut place = None;
        let body = match tokio::time::timeout(BODY_TIMEOUT, collect(body, headers, limit, places, &mut place)).await {
            Ok(body) => body,
            Err(_) => Err(Problem::invalid("", "The body did not arrive within 20 s")),
        };
        Self { body, place: place.map(Arc::new) }
    }
}

fn received(mut request: Request) -> Result<Received, Problem> {
    let received = request.extensions_mut().remove::<Received>();
    received.ok_or_else(|| Problem::internal("no body was read for this route"))
}

async fn collect(
    mut body: axum::body::Body,
    headers: &HeaderMap,
    limit: usize,
    places: &Arc<Semaphore>,
    place: &mut Option<OwnedSemaphorePermit>,
) -> Result<Bytes, Problem> {
    if announced(headers).is_some_and(|length| length > limit) {
        drain(body).await;
        return Err(too_large(limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(%error, "a body broke off");
            Problem::invalid("", "The body broke off before its end")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            drain(body).await;
            return Err(too_large(limit));
        }
        if bytes.len() + data.len() > SMALL && place.is_none() {
            let free = places.clone().try_acquire_owned();
            *place = Some(free.map_err(|_| Problem::new(Code::Overloaded).detail("too many large bodies at once"))?);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads what is still being sent and forgets it, up to a bound: a client that is cut off while it sends sees a broken
/// connection instead of the answer.
async fn drain(body: axum::body::Body) {
    let mut rest = std::pin::pin!(Limited::new(body, DRAIN_BYTES));
    let all = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Whoever sends more, or too slowly, is cut off.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
}

/// A body of CSV, of any length, perhaps compressed.
#[derive(Debug)]
pub struct Upload {
    /// The bytes as they come.
    pub body: axum::body::Body,
    /// Whether they are gzip.
    pub gzip: bool,
}

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        match media_type(request.headers()).as_deref() {
            Some("text/csv") => {}
            other => return Err(refuse_body_type(other, "text/csv")),
        }
        let gzip = match request.headers().get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => false,
            Some(b"gzip") => true,
            Some(_) => {
                return Err(Problem::new(Code::UnsupportedMediaType).detail("Content-Encoding must be gzip or none"));
            }
        };
        Ok(Self { body: request.into_body(), gzip })
    }
}

async fn param<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Problem> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::invalid(format!("{{{name}}}"), "must be UTF-8"))?;
    let value = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    value.ok_or_else(|| Problem::internal(format!("the route has no {name}")))
}

async fn id<T, S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<T, Problem>
where
    T: std::str::FromStr<Err = protocol::ids::Invalid>,
{
    let text = param(parts, state, name).await?;
    text.parse().map_err(|error: protocol::ids::Invalid| Problem::invalid(format!("{{{name}}}"), error.to_string()))
}

/// `{storeId}` of the path.
#[derive(Debug)]
pub struct StorePath(pub StoreId);

impl<S: Send + Sync> FromRequestParts<S> for StorePath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        id(parts, state, "storeId").await.map(Self)
    }
}

/// `{productId}` of the path.
#[derive(Debug)]
pub struct ProductPath(pub ProductId);

impl<S: Send + Sync> FromRequestParts<S> for ProductPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        id(parts, state, "productId").await.map(Self)
    }
}

/// `{storeId}/{productId}` of the path.
#[derive(Debug)]
pub struct ItemPath {
    /// The store.
    pub store_id: StoreId,
    /// The product.
    pub product_id: ProductId,
}

impl<S: Send + Sync> FromRequestParts<S> for ItemPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self { store_id: id(parts, state, "storeId").await?, product_id: id(parts, state, "productId").await? })
    }
}

/// `{id}` of the path: 1 to 255 visible ASCII characters.
#[derive(Debug)]
pub struct IdPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = param(parts, state, "id").await?;
        if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(Problem::invalid("{id}", "must be 1 to 255 visible ASCII characters"))
        }
    }
}
