//! Headers that mean the same on every route.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::percent_decode_str;

use super::edge::{Place, Wait};
use super::{Actor, Caller, Problem};
use protocol::domain::IfMatch;
use protocol::number::Epoch;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Longest wait for a store's answer, s.
const WAIT_MOST: u64 = 30;
/// Wait when nothing is said, s.
const WAIT_DEFAULT: u64 = 2;

/// What every write may say about itself.
#[derive(Debug, Clone)]
pub struct Write {
    /// `Idempotency-Key`, as it is kept: callers with tokens have keys of their own.
    pub key: Option<String>,
    /// The token's name, else `Shelf-Actor`.
    pub actor: Option<String>,
    /// `traceparent`, the caller's or a new one.
    pub traceparent: String,
    /// Decoded path without `/v1`.
    pub path: String,
    /// The method.
    pub method: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Write {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if parts.headers.contains_key(header::IF_MATCH) {
            return Err(Problem::invalid("If-Match", "must be left out: it is for writes of one item"));
        }
        Self::read(parts)
    }
}

impl Write {
    fn read(parts: &Parts) -> Result<Self, Problem> {
        let headers = &parts.headers;
        let key = text(headers, "idempotency-key")?;
        if key.as_ref().is_some_and(|key| !(1..=255).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Problem::invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
        }
        let caller = Caller::of(parts);
        let actor = text(headers, "shelf-actor")?
            .map(|actor| Actor::parse(&actor).map(|actor| actor.0))
            .transpose()
            .map_err(|why| Problem::invalid("Shelf-Actor", why))?;
        let traceparent = text(headers, "traceparent")?
            .filter(|text| super::edge::trace_id(text).is_some())
            .unwrap_or_else(|| parts.extensions.get::<super::edge::Trace>().map_or_else(String::new, |t| t.parent()));
        // Only used to compare paths.
        let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
        let actor = caller.name().map(str::to_owned).or(actor);
        let key = key.map(|key| caller.own_key(&key));
        Ok(Self { key, actor, traceparent, path, method: parts.method.to_string() })
    }
}

/// What a write of one item that exists may say about itself.
#[derive(Debug, Clone)]
pub struct ItemWrite {
    /// What every write may.
    pub write: Write,
    /// `If-Match`.
    pub if_match: Option<IfMatch>,
}

impl<S: Send + Sync> FromRequestParts<S> for ItemWrite {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self { write: Write::read(parts)?, if_match: if_match(&parts.headers) })
    }
}

impl From<Write> for ItemWrite {
    /// Whatever the item's version.
    fn from(write: Write) -> Self {
        Self { write, if_match: None }
    }
}

fn text(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid(name, "must be sent only once"));
    }
    let value = std::str::from_utf8(value.as_bytes()).map_err(|_| Problem::invalid(name, "must be UTF-8"))?;
    Ok(Some(value.to_owned()))
}

/// `If-Match`, reduced to what is compared. A tag that was never issued matches nothing.
fn if_match(headers: &HeaderMap) -> Option<IfMatch> {
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let value = value.to_str().unwrap_or_default();
        if value.trim() == "*" {
            return Some(IfMatch::Any);
        }
        tags.extend(value.split(',').filter_map(parse_tag));
    }
    headers.contains_key(header::IF_MATCH).then_some(IfMatch::Versions(tags))
}

/// `"<epoch>-<version>"` or `W/"<epoch>-<version>-<pending>-<online>"`.
fn parse_tag(tag: &str) -> Option<(Epoch, i64)> {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
    let mut parts = tag.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// How long to wait for a store.
#[derive(Debug, Clone)]
pub struct Prefer {
    wait_seconds: u64,
    asked: bool,
    place: Option<Place>,
}

impl<S: Send + Sync> FromRequestParts<S> for Prefer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut prefer =
            Self { wait_seconds: WAIT_DEFAULT, asked: false, place: parts.extensions.get::<Place>().cloned() };
        for value in parts.headers.get_all(PREFER) {
            for preference in value.to_str().unwrap_or_default().split([',', ';']) {
                let preference = preference.trim().to_ascii_lowercase();
                if preference == "respond-async" {
                    (prefer.wait_seconds, prefer.asked) = (0, true);
                } else if let Some(wait) = preference.strip_prefix("wait=") {
                    let seconds: u64 = wait.trim_matches('"').parse().map_err(|_| {
                        Problem::invalid("Prefer", "must name a whole number of seconds from 0 to 30, as in wait=5")
                    })?;
                    (prefer.wait_seconds, prefer.asked) = (seconds.min(WAIT_MOST), true);
                }
            }
        }
        Ok(prefer)
    }
}

impl Prefer {
    /// Waits only if the client said so: reads answer at once unless asked to wait.
    pub fn only_if_asked(&self) -> Self {
        if self.asked { self.clone() } else { Self { wait_seconds: 0, asked: false, place: None } }
    }

    /// Begins the wait. The request gives up its place among those at work; what it does after the wait must be short.
    /// `None`: it shall not wait, or too many do already.
    pub fn wait(&self) -> Option<Wait> {
        let wanted = Duration::from_secs(self.wait_seconds);
        match &self.place {
            _ if self.wait_seconds == 0 => None,
            Some(place) => place.wait(wanted),
            None => Some(Wait::free(wanted)),
        }
    }

    /// `Preference-Applied`, if a preference was sent.
    pub fn applied(&self) -> Option<(HeaderName, HeaderValue)> {
        let value = HeaderValue::from_str(&format!("wait={}", self.wait_seconds)).ok()?;
        self.asked.then_some((PREFERENCE_APPLIED, value))
    }
}

/// The tags of `If-None-Match`.
#[derive(Debug, Clone, Default)]
pub struct Etags(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Etags {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let values: Vec<&str> =
            parts.headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).collect();
        Ok(Self((!values.is_empty()).then(|| values.join(","))))
    }
}

/// Whether the client has this version already: weak comparison.
pub fn not_modified(etags: &Etags, current: &HeaderValue) -> bool {
    let Etags(Some(tags)) = etags else { return false };
    let current = current.as_bytes();
    let current = current.strip_prefix(b"W/").unwrap_or(current);
    let is_current = |tag: &str| tag.trim().trim_start_matches("W/").as_bytes() == current;
    tags.trim() == "*" || tags.split(',').any(is_current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_both_servers_are_compared_by_epoch_and_version() {
        assert_eq!(parse_tag("\"17-4\""), Some((17.into(), 4)));
        assert_eq!(parse_tag(" W/\"17-4-2-1\""), Some((17.into(), 4)));
        assert_eq!(parse_tag("\"opaque\""), None);
        assert_eq!(parse_tag("17-4"), None);
    }

    #[test]
    fn if_none_match_is_weak() {
        let etags = Etags(Some("\"a\", W/\"1-2-0-1\"".into()));
        assert!(not_modified(&etags, &HeaderValue::from_static("W/\"1-2-0-1\"")));
        assert!(not_modified(&etags, &HeaderValue::from_static("\"a\"")));
        assert!(!not_modified(&etags, &HeaderValue::from_static("\"b\"")));
        assert!(!not_modified(&Etags(None), &HeaderValue::from_static("\"b\"")));
    }
}
