//! What every write about a store does: look at the key, judge, act, bind the key to the effect, tell who has to know,
//! and answer.
//!
//! **Guarantees.** The effect and what its key stands for are one transaction. Whoever has to know of it hears it once
//! that is on disk, also when the client has gone; nobody hears of what was refused.

use std::result::Result as Outcome;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::ids::StoreId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Position};
use runtime::http::{Code, Prefer, Problem, Result, Write, fingerprint, header_value};
use serde_json::Value;

use super::App;
use super::views::POSITION;
use crate::storage::idempotency::{self, Effect, Key, Record};
use crate::storage::stores::{self, Store};
use crate::storage::{Abort, Connection, Weight};

/// The key of a write, if it has one.
pub(super) fn key_of(write: &Write, json: &Value) -> Option<Key> {
    let key = write.key.clone()?;
    let fingerprint = fingerprint(&write.method, &write.path, json);
    Some(Key { key, fingerprint, route: format!("{} {}", write.method, write.path) })
}

/// What a write says about itself to the store.
pub(super) fn about(write: Write, reference: Option<String>) -> About {
    About { reference, actor: write.actor, traceparent: Some(write.traceparent), ..About::default() }
}

/// What a write has effect on, known before it is done.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What kind of effect.
    pub(super) effect: Effect,
    /// The purchase's, command's or store's id: what the key stands for from then on.
    pub(super) id: String,
    /// The store that it is about.
    pub(super) store: StoreId,
    /// How long it keeps others waiting.
    pub(super) weight: Weight,
}

/// What a write has done, before it is on disk.
pub(super) struct Done<T> {
    /// What the answer needs of it.
    pub(super) value: T,
    /// Purchases and commands that it has ended.
    pub(super) settled: Vec<String>,
}

impl<T> Done<T> {
    /// It has ended nothing.
    pub(super) fn with(value: T) -> Self {
        Self { value, settled: Vec::new() }
    }
}

/// What a write has done, on disk.
pub(super) struct Written<T> {
    /// What its key stands for.
    pub(super) target: String,
    /// `None`: it had been done before, under the same key.
    pub(super) value: Option<T>,
}

impl App {
    /// What the key stands for already: looked up before anything else is judged, so that a repetition is answered
    /// whatever has become of the store.
    pub(super) async fn replay(&self, key: Option<&Key>) -> Result<Option<Record>> {
        let Some(key) = key else { return Ok(None) };
        let found = self.db.read(|connection| idempotency::find(connection, &key.key)).await?;
        found.map(|record| is_same(key, record)).transpose()
    }

    /// Does a write in one transaction with its key, unless the key has come before. `act` judges and has the effect on
    /// the store's state, which is saved after it.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        key: Option<Key>,
        target: Target,
        act: impl Fn(&Connection, &mut Store, Millis) -> Outcome<Done<T>, Abort<Problem>> + Send + 'static,
    ) -> Result<Written<T>> {
        let Target { effect, id, store: store_id, weight } = target;
        let (wakes, waiting, written_to) = (self.wakes.clone(), self.waiting.clone(), store_id.clone());
        let now = self.source.now();
        let job = move |connection: &Connection| {
            once(connection, key.as_ref(), effect, &id, now, || {
                let mut store = load(connection, &store_id)?;
                act(connection, &mut store, now)
            })
        };
        let tell = move |(_, done): &(String, Option<Done<T>>)| {
            if let Some(done) = done {
                wakes.wake(&written_to);
                // What an operator decides may leave something to do.
                wakes.steps().notify_one();
                waiting.settled(&done.settled);
            }
        };
        let (target, done) = self.db.write_then(weight, job, tell).await??;
        Ok(Written { target, value: done.map(|done| done.value) })
    }
}

impl App {
    /// The same for what is about no store: `tell` hears of it once it is on disk.
    pub(super) async fn write_chain<T: Send + 'static>(
        &self,
        key: Option<Key>,
        effect: Effect,
        id: String,
        act: impl Fn(&Connection, Millis) -> Outcome<T, Abort<Problem>> + Send + 'static,
        tell: impl FnOnce() + Send + 'static,
    ) -> Result<Written<T>> {
        let now = self.source.now();
        let job =
            move |connection: &Connection| once(connection, key.as_ref(), effect, &id, now, || act(connection, now));
        let (target, value) = self
            .db
            .write_then(Weight::Light, job, |(_, done)| {
                if done.is_some() {
                    tell()
                }
            })
            .await??;
        Ok(Written { target, value })
    }
}

/// What a key stands for: what it stood for already, or the effect that `act` has now.
fn once<T>(
    connection: &Connection,
    key: Option<&Key>,
    effect: Effect,
    id: &str,
    now: Millis,
    act: impl FnOnce() -> Outcome<T, Abort<Problem>>,
) -> Outcome<(String, Option<T>), Abort<Problem>> {
    if let Some(key) = key
        && let Some(record) = idempotency::find(connection, &key.key)?
        && !planted(Bug::KeyLookedForTooEarly)
    {
        return Ok((is_same(key, record)?.target, None));
    }
    let done = act()?;
    let is_forgotten =
        planted(Bug::KeyOfPurchaseNotKept) || effect == Effect::Command && planted(Bug::KeyOfCommandNotKept);
    if let Some(key) = key.filter(|_| !is_forgotten) {
        idempotency::bind(connection, key, effect, id, now)?;
    }
    Ok((id.to_owned(), Some(done)))
}

/// Another request under the same key is refused.
fn is_same(key: &Key, record: Record) -> Result<Record> {
    if record.fingerprint == key.fingerprint || planted(Bug::OtherRequestAnswered) {
        Ok(record)
    } else {
        Err(Problem::new(Code::IdempotencyKeyReused))
    }
}

/// A store that must be known.
pub(super) fn load(connection: &Connection, id: &StoreId) -> Outcome<Store, Abort<Problem>> {
    Ok(stores::find(connection, id)?.ok_or_else(|| Problem::new(Code::UnknownStore))?)
}

/// The headers of an answer to a write.
pub(super) struct Headers(HeaderMap);

impl Headers {
    /// `position`: where the store has answered.
    pub(super) fn new(prefer: Option<&Prefer>, is_replay: bool, position: Option<&Position>) -> Self {
        let mut headers: HeaderMap = prefer.and_then(Prefer::applied).into_iter().collect();
        if is_replay && !planted(Bug::RepetitionNotNamed) {
            headers.insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
        }
        if let Some(position) = position {
            headers.insert(POSITION, header_value(position));
        }
        Self(headers)
    }

    pub(super) fn with(mut self, name: HeaderName, text: &str) -> Self {
        self.0.insert(name, header_value(text));
        self
    }

    pub(super) fn tagged(mut self, etag: HeaderValue) -> Self {
        self.0.insert(header::ETAG, etag);
        self
    }

    /// The answer with these. What is still open says where its outcome can be read, and when to look.
    pub(super) fn on(self, answer: impl IntoResponse) -> Response {
        let mut response = answer.into_response();
        response.headers_mut().extend(self.0);
        if response.status() == StatusCode::ACCEPTED && response.headers().contains_key(header::LOCATION) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::app;

    type Acted = Outcome<Done<()>, Abort<Problem>>;

    #[tokio::test]
    async fn a_key_stands_for_the_first_effect_and_for_none_that_was_refused() {
        let (_dir, app) = app();
        let id = StoreId::parse("s1").expect("valid");
        let discovered = id.clone();
        let discover =
            move |connection: &Connection| Ok::<_, Abort<()>>(stores::discover(connection, &discovered, Millis(1))?);
        app.db.write(discover).await.expect("writes").expect("is not refused");
        let key = |body| Some(Key { key: "k".into(), fingerprint: [body; 16], route: "PATCH /stores/s1".into() });
        let weight = Weight::Light;
        let target = |of: &str| Target { effect: Effect::Store, id: of.to_owned(), store: id.clone(), weight };

        let refuse = |connection: &Connection, store: &mut Store, _: Millis| -> Acted {
            stores::set_online_sale(connection, store, false)?;
            Err(Problem::new(Code::Overloaded).into())
        };
        let refused = app.write(key(1), target("one"), refuse).await.err().expect("is refused");
        assert_eq!(refused.code(), Code::Overloaded);
        assert!(app.replay(key(1).as_ref()).await.expect("reads").is_none(), "nothing stands under the key");
        assert!(app.known(&id).await.expect("is known").online_sale);

        let act = |connection: &Connection, store: &mut Store, _: Millis| -> Acted {
            stores::set_online_sale(connection, store, false)?;
            Ok(Done::with(()))
        };
        let first = app.write(key(1), target("one"), act).await.expect("is done");
        assert_eq!((first.target.as_str(), first.value), ("one", Some(())));
        assert!(!app.known(&id).await.expect("is known").online_sale);
        let again = app.write(key(1), target("two"), refuse).await.expect("is answered");
        assert_eq!((again.target.as_str(), again.value), ("one", None));
        let other = app.write(key(2), target("three"), act).await.err().expect("is refused");
        assert_eq!(other.code(), Code::IdempotencyKeyReused);
    }
}
