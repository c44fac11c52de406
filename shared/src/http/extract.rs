//! Reading a request's path and body.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Code, Problem, strict};
use crate::ids::{ProductId, StoreId};

/// Greatest JSON body.
/// Of a body that is too large so much is read and thrown away.
const DISCARDED_BYTES: usize = 64 << 20;
const JSON_BYTES: usize = 1 << 20;
/// A body must arrive within this.
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
        let bytes = collect(request).await?;
        if bytes.is_empty() {
            return Err(Problem::invalid("", "a JSON body is needed"));
        }
        let (value, json) = strict::read(&bytes)?;
        Ok(Self { value, json })
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
        let bytes = collect(request).await?;
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

/// 415 that says what was sent and what is read.
pub fn refuse_body_type(sent: Option<&str>, wanted: &str) -> Problem {
    let sent = sent.map_or_else(|| "nothing".to_owned(), |sent| format!("{sent:?}"));
    Problem::new(Code::UnsupportedMediaType).detail(format!(
        "Content-Type must be {wanted}, {sent} was sent (curl -d sends a form: add -H 'Content-Type: {wanted}')"
    ))
}

/// Reads a body to its end. One that is too large is read on for a while and thrown away: a client that is still sending
/// when the connection closes sees a broken pipe instead of the 413.
async fn collect(request: Request) -> Result<bytes::Bytes, Problem> {
    let mut body = request.into_body();
    let read = async {
        let (mut bytes, mut length) = (bytes::BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length += data.len();
            if length <= JSON_BYTES {
                bytes.extend_from_slice(&data);
            } else if length > DISCARDED_BYTES {
                break;
            }
        }
        Ok::<_, axum::Error>((bytes.freeze(), length))
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok((bytes, length))) if length <= JSON_BYTES => Ok(bytes),
        Ok(Ok(_)) => Err(Problem::new(Code::BodyTooLarge).with("limitBytes", JSON_BYTES)),
        Ok(Err(error)) => Err(Problem::invalid("", format!("the body cannot be read: {error}"))),
        Err(_) => Err(Problem::invalid("", "the body did not arrive within 20 s")),
    }
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
        .map_err(|_| Problem::invalid(format!("{{{name}}}"), "the path is not UTF-8"))?;
    let value = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    value.ok_or_else(|| Problem::internal(format!("the route has no {name}")))
}

async fn id<T, S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<T, Problem>
where
    T: std::str::FromStr<Err = crate::ids::Invalid>,
{
    let text = param(parts, state, name).await?;
    text.parse().map_err(|error: crate::ids::Invalid| Problem::invalid(format!("{{{name}}}"), error.to_string()))
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
            Err(Problem::invalid("{id}", "an id is 1 to 255 visible ASCII characters"))
        }
    }
}
