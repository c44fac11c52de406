//! What idempotency keys stand for, and how requests must be answered: each has its effect once however often it is sent, is
//! answered only when that is on disk, and is answered alike when it comes again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::book::Name;
use super::oracle::Place;
use super::shop::{Broken, Item, must};

/// What the keys in one database file stand for. They are copied, set back and lost with it.
#[derive(Debug, Clone, Default)]
pub struct BoundKeys(BTreeMap<Name, Bound>);

/// What a key stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// The request that it came with.
    pub request: Name,
    /// At a store the operation, at central the purchase.
    pub effect: Name,
    /// Where a store has recorded it.
    pub place: Place,
    /// What was answered first, if anybody knows.
    pub told: Option<(u16, Value)>,
}

/// What a key stands for when a request comes with it.
#[derive(Debug, Clone, PartialEq)]
pub enum Stands {
    Free,
    /// The same request came before.
    Same(Bound),
    /// Another request came before.
    Other,
}

impl BoundKeys {
    /// What this key stands for, for this request.
    pub fn find(&self, key: &str, request: &str) -> Stands {
        match self.0.get(key) {
            None => Stands::Free,
            Some(bound) if *bound.request == *request => Stands::Same(bound.clone()),
            Some(_) => Stands::Other,
        }
    }

    /// From now on it stands for this.
    pub fn bind(&mut self, key: Name, bound: Bound) {
        self.0.insert(key, bound);
    }

    /// Somebody was given this answer to what the key stands for.
    pub fn told(&mut self, key: &str, answer: &Answer) {
        if let Some(bound) = self.0.get_mut(key) {
            bound.told = Some((answer.status, answer.body.clone()));
        }
    }
}

/// An answer as a client gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// It says that it had been answered before.
    pub is_replay: bool,
    /// Of its entry in a store's log.
    pub position: Option<String>,
    pub etag: Option<String>,
    pub body: Value,
}

impl Answer {
    /// What a refusal says is the reason.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// How a store must answer a request about an item.
#[derive(Debug, Clone)]
pub enum Due {
    Done {
        status: u16,
        product: Name,
        /// The item after it.
        item: Item,
        /// Where it stands, store, epoch and number.
        position: String,
        is_replay: bool,
        /// What was answered before, if anybody knows.
        told: Option<(u16, Value)>,
    },
    Refused(&'static str),
}

impl Due {
    /// Whether a store's answer is the one that is due.
    pub fn judge(&self, answer: &Answer) -> Result<(), Broken> {
        match self {
            Self::Refused(code) => must(answer.code() == *code && answer.status >= 400 && !answer.is_replay, || {
                format!("P4: it must be refused with {code}, and is answered {answer:?}")
            }),
            Self::Done { status, product, item, position, is_replay, told } => {
                must(answer.status == *status && answer.is_replay == *is_replay, || {
                    format!("P3: {status}, a repetition: {is_replay}, is due, and it is answered {answer:?}")
                })?;
                must(answer.position.as_deref() == Some(position.as_str()), || {
                    format!("P2: it stands at {position}, and is answered {answer:?}")
                })?;
                let body = &answer.body;
                let is_it = body["productId"] == **product
                    && body["name"] == *item.name
                    && body["quantity"] == item.quantity
                    && body["reserved"] == item.reserved
                    && body["discontinued"] == item.discontinued
                    && body["lowAt"].as_i64() == item.low_at;
                must(is_it, || format!("P2: it leaves {item:?} of {product}, and is answered {answer:?}"))?;
                let is_same =
                    told.as_ref().is_none_or(|(status, body)| (*status, body) == (answer.status, &answer.body));
                must(is_same, || format!("P3: it was answered {told:?} before, and now {answer:?}"))
            }
        }
    }
}

/// A request for a purchase that is about to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Buying<'a> {
    /// The purchase that its key stands for, and its status in central's table now; none: it has begun none.
    pub purchase: Option<(&'a str, &'a str)>,
    /// The key stands for another request.
    pub is_other: bool,
    /// It had come before.
    pub is_replay: bool,
    /// How long it has waited for the store, and how long it was willing to, ms.
    pub waited_ms: i64,
    pub patience_ms: i64,
}

impl Buying<'_> {
    /// Whether central's answer is one that may be given now.
    pub fn judge(&self, answer: &Answer) -> Result<(), Broken> {
        let is_reused = answer.status == 422 && answer.code() == "idempotency_key_reused";
        must(is_reused == self.is_other, || format!("P3: another request under the key: {self:?}, {answer:?}"))?;
        if self.is_other {
            return Ok(());
        }
        must(answer.is_replay == self.is_replay, || format!("P3: {self:?} is answered {answer:?}"))?;
        let body = if answer.body["purchase"].is_object() { &answer.body["purchase"] } else { &answer.body };
        let Some((purchase, status)) = self.purchase else {
            return must(answer.status >= 400 && body["purchaseId"].is_null(), || {
                format!("P2: it has begun no purchase, and is answered {answer:?}")
            });
        };
        must(body["purchaseId"] == *purchase, || {
            format!("P3: its key stands for {purchase}, and it is answered {answer:?}")
        })?;
        let code = answer.code();
        let fits = match (answer.status, status) {
            (200, "confirmed") | (202, "pending") => body["status"] == *status,
            (400.., "expired") => code == "purchase_expired",
            (400.., "cancelled") => code == "purchase_cancelled" || code == "store_retired",
            (400.., "rejected") => code != "purchase_expired" && code != "purchase_cancelled",
            _ => false,
        };
        must(fits, || format!("P5: {purchase} is {status}, and it is answered {answer:?}"))?;
        must(answer.status != 202 || self.waited_ms >= self.patience_ms, || {
            format!("P5: {self:?} is not waited for: {answer:?}")
        })
    }

    /// Whether it may go on waiting.
    pub fn judge_wait(&self) -> Result<(), Broken> {
        let Some((purchase, status)) = self.purchase else { return Ok(()) };
        must(status == "pending", || format!("P5: {purchase} is {status}, and who waits for it is not told"))?;
        must(self.waited_ms < self.patience_ms, || format!("P5: {self:?} is waited for too long"))
    }
}

/// A request to cancel a purchase that is about to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Cancelling<'a> {
    /// The purchase's status in central's table now, if it is there.
    pub status: Option<&'a str>,
    /// Why it could not be asked for, when it was.
    pub refusal: Option<&'static str>,
    /// The key stands for another request.
    pub is_other: bool,
    /// It had come before.
    pub is_replay: bool,
    /// The store has not answered it.
    pub is_open: bool,
    /// How long it has waited for the store, and how long it was willing to, ms.
    pub waited_ms: i64,
    pub patience_ms: i64,
}

impl Cancelling<'_> {
    /// Whether central's answer is one that may be given now.
    pub fn judge(&self, answer: &Answer) -> Result<(), Broken> {
        let code = answer.code();
        let fits = match (answer.status, self.status) {
            _ if self.is_other => answer.status == 422 && code == "idempotency_key_reused",
            (404, None) => code == "unknown_id",
            _ if self.refusal.is_some() => Some(code) == self.refusal,
            (200, Some(status)) => {
                ["rejected", "expired", "cancelled"].contains(&status) && answer.body["status"] == *status
            }
            (202, Some(status)) => ["pending", "confirmed"].contains(&status) && answer.body["status"] == *status,
            (400.., Some("confirmed")) => code == "already_picked" || code == "store_retired",
            _ => false,
        };
        must(fits, || format!("P5: a cancel, {self:?}, is answered {answer:?}"))?;
        must(answer.status >= 300 || answer.is_replay == self.is_replay, || {
            format!("P3: a cancel, {self:?}, is answered {answer:?}")
        })?;
        must(answer.status != 202 || !self.is_open || self.waited_ms >= self.patience_ms, || {
            format!("P5: a cancel, {self:?}, is not waited for: {answer:?}")
        })
    }

    /// Whether it may go on waiting.
    pub fn judge_wait(&self) -> Result<(), Broken> {
        must(self.is_open, || format!("P5: {self:?} is answered, and who waits for it is not told"))?;
        must(self.waited_ms < self.patience_ms, || format!("P5: {self:?} is waited for too long"))
    }
}
