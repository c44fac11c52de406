//! What idempotency keys stand for, and how requests must be answered: each has its effect once however often it is sent, is
//! answered only when that is on disk, and is answered alike when it comes again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::book::{Lines, Name};
use super::holds::Held;
use super::oracle::Place;
use super::shop::{Broken, Item, must};
use super::transfers::Sent;

/// What the keys in one database file stand for. They are copied, set back and lost with it.
#[derive(Debug, Clone, Default)]
pub struct BoundKeys(BTreeMap<Name, Bound>);

/// What a key stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// The request that it came with.
    pub request: Name,
    /// At a store the operation, or the reservation or transfer that it is about; at central the purchase or command.
    pub effect: Name,
    /// Where a store has recorded it.
    pub place: Place,
    /// What had to be answered first, if no place says it.
    pub says: Option<Box<Says>>,
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

    /// A human has left out what stands behind this place: who asks for it again asks anew.
    pub fn forget_behind(&mut self, shared: (u64, u64)) {
        self.0.retain(|_, bound| (bound.place.epoch, bound.place.seq) <= shared);
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

/// An item as something has left it.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    pub product: Name,
    pub item: Item,
    /// As its entry states it.
    pub version: Option<i64>,
}

/// What has become of one line of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// With the item after it, which central does not say.
    Done(Option<Left>),
    Refused(Name),
    /// Another one was refused.
    NotExecuted,
}

/// What the body of an answer says.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    Item(Left),
    /// A reservation at its store.
    Hold(Name, Held),
    /// A transfer at its destination.
    Transfer(Name, Sent),
    Lines(Vec<Line>),
    /// These members, as central has them.
    Members(Vec<(&'static str, Value)>),
}

/// How a request must be answered.
#[derive(Debug, Clone)]
pub enum Due {
    Done {
        status: u16,
        says: Says,
        /// Where it stands: store, epoch and number.
        position: Option<String>,
        is_replay: bool,
        /// What was answered before, if anybody knows.
        told: Option<(u16, Value)>,
    },
    Refused(Name),
    /// A batch of which nothing is done, since some lines are refused.
    Undone(Vec<Line>),
}

/// The code by which a client is told why a store refuses something.
pub fn code_of(reason: &str) -> &str {
    match reason {
        "beyond_reservation" | "unknown_position" => "invalid_request",
        "unknown_reservation" | "unknown_transfer" => "unknown_id",
        "beyond_transfer" => "limit_exceeded",
        code => code,
    }
}

/// The status that a code has everywhere.
fn status_of(code: &str) -> u16 {
    match code {
        "invalid_request" => 400,
        "unknown_store" | "unknown_product" | "unknown_id" => 404,
        "precondition_failed" => 412,
        "idempotency_key_reused" => 422,
        "store_unavailable" | "not_caught_up" | "overloaded" | "restarting" => 503,
        _ => 409,
    }
}

impl Left {
    fn is_told(&self, body: &Value) -> bool {
        let Self { product, item, version } = self;
        body["productId"] == **product
            && body["name"] == *item.name
            && body["quantity"] == item.quantity
            && body["reserved"] == item.reserved
            && body["allotted"] == item.allotted
            && body["allotmentWanted"].as_i64() == item.wanted
            && body["available"] == item.available()
            && body["discontinued"] == item.discontinued
            && body["lowAt"].as_i64() == item.low_at
            && version.is_none_or(|version| body["version"] == version)
    }
}

impl Line {
    fn is_told(&self, index: usize, told: &Value) -> bool {
        told["index"] == index
            && match self {
                Self::Done(left) => {
                    told["status"] == "done" && left.as_ref().is_none_or(|left| left.is_told(&told["item"]))
                }
                Self::Refused(code) => told["status"] == "refused" && told["problem"]["code"] == **code,
                Self::NotExecuted => told["status"] == "not_executed",
            }
    }

    fn are_told(lines: &[Self], told: &Value) -> bool {
        let told = told["results"].as_array();
        told.is_some_and(|told| {
            told.len() == lines.len()
                && lines.iter().zip(told).enumerate().all(|(index, (line, told))| line.is_told(index, told))
        })
    }
}

impl Says {
    /// Whether an answer's body says it.
    fn is_told(&self, body: &Value) -> bool {
        match self {
            Self::Item(left) => left.is_told(body),
            Self::Hold(reservation, held) => {
                let mut stated = body.clone();
                stated["id"] = body["reservationId"].clone();
                Held::stated(&stated, None).is_some_and(|(id, stated)| id == *reservation && stated == *held)
            }
            Self::Transfer(transfer, sent) => {
                let of = |member: &str| -> Option<Lines> {
                    let line = |line: &Value| Some((line["productId"].as_str()?.into(), line[member].as_i64()?));
                    body["lines"].as_array()?.iter().map(line).collect()
                };
                let arrived = of("received").map(|all| all.into_iter().filter(|(_, units)| *units > 0).collect());
                let is_short = sent.received.as_ref().is_some_and(|received| *received != sent.lines);
                body["transferId"] == **transfer
                    && of("quantity").as_ref() == Some(&sent.lines)
                    && arrived == sent.received
                    && body["status"] == if sent.received.is_some() { "received" } else { "shipped" }
                    && body["discrepancy"] == is_short
            }
            Self::Lines(lines) => {
                let done = lines.iter().filter(|line| matches!(line, Line::Done(_))).count();
                body["applied"] == done && body["refused"] == lines.len() - done && Line::are_told(lines, body)
            }
            Self::Members(members) => members.iter().all(|(name, value)| body[*name] == *value),
        }
    }
}

impl Due {
    /// A refusal for this reason.
    pub fn refused(reason: &str) -> Self {
        Self::Refused(code_of(reason).into())
    }

    /// Whether a store's answer is the one that is due.
    pub fn judge(&self, answer: &Answer) -> Result<(), Broken> {
        let is_replay = matches!(self, Self::Done { is_replay: true, .. });
        self.judge_content(answer)?;
        must(answer.is_replay == is_replay, || format!("P3: a repetition: {is_replay}, and it is answered {answer:?}"))
    }

    /// The same, whether or not it says that it was asked before.
    fn judge_content(&self, answer: &Answer) -> Result<(), Broken> {
        match self {
            Self::Refused(code) => must(answer.code() == &**code && answer.status == status_of(code), || {
                format!("P4: it must be refused with {code}, and is answered {answer:?}")
            }),
            Self::Undone(lines) => {
                let is_told = answer.status == 409 && Line::are_told(lines, &answer.body);
                must(answer.code() == "batch_refused" && is_told, || {
                    format!("P4: nothing of it is done, {lines:?}, and it is answered {answer:?}")
                })
            }
            Self::Done { status, says, position, told, .. } => {
                must(answer.status == *status, || format!("P3: {status} is due, and it is answered {answer:?}"))?;
                must(answer.position == *position, || {
                    format!("P2: it stands at {position:?}, and is answered {answer:?}")
                })?;
                must(says.is_told(&answer.body), || format!("P2: it must say {says:?}, and is answered {answer:?}"))?;
                let epoch =
                    position.as_ref().and_then(|at| at.rsplit_once(':')?.1.split_once('-')).map(|(epoch, _)| epoch);
                if let (Says::Item(_), Some(epoch)) = (says, epoch) {
                    let tag = format!("\"{epoch}-{}\"", answer.body["version"]);
                    must(answer.etag.as_ref() == Some(&tag), || format!("P4: its tag is {tag}, and it is {answer:?}"))?;
                }
                let is_same =
                    told.as_ref().is_none_or(|(status, body)| (*status, body) == (answer.status, &answer.body));
                must(is_same, || format!("P3: it was answered {told:?} before, and now {answer:?}"))
            }
        }
    }
}

/// A request that asks a store for something through central, and is about to be answered.
#[derive(Debug, Clone)]
pub struct Ordering<'a> {
    /// What its key stands for: whether the store is still to answer, and how it must be answered; none: the store was asked
    /// for nothing.
    pub command: Option<(bool, Due)>,
    /// Reasons for which nothing may be asked.
    pub refusals: &'a [Name],
    /// The key stands for another request.
    pub is_other: bool,
    /// It had come before.
    pub is_replay: bool,
    /// How long it has waited for the store, and how long it was willing to, ms.
    pub waited_ms: i64,
    pub patience_ms: i64,
}

impl Ordering<'_> {
    /// Whether central's answer is one that may be given now.
    pub fn judge(&self, answer: &Answer) -> Result<(), Broken> {
        if self.is_other {
            return Due::refused("idempotency_key_reused").judge(answer);
        }
        let Some((is_open, due)) = &self.command else {
            let refusal = self.refusals.iter().find(|reason| code_of(reason) == answer.code());
            let Some(refusal) = refusal else {
                return Err(format!("P2: nothing was asked of a store, {self:?}, and it is answered {answer:?}"));
            };
            return Due::refused(refusal).judge(answer);
        };
        due.judge_content(answer).map_err(|broken| format!("{broken} ({self:?})"))?;
        must(answer.is_replay == self.is_replay, || format!("P3: {self:?} is answered {answer:?}"))?;
        must(!is_open || self.waited_ms >= self.patience_ms, || format!("P5: {self:?} is not waited for: {answer:?}"))
    }

    /// Whether it may go on waiting.
    pub fn judge_wait(&self) -> Result<(), Broken> {
        let is_open = self.command.as_ref().is_some_and(|(is_open, _)| *is_open);
        must(is_open, || format!("P5: {self:?} is answered, and who waits for it is not told"))?;
        must(self.waited_ms < self.patience_ms, || format!("P5: {self:?} is waited for too long"))
    }
}

/// A request for a purchase that is about to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Buying<'a> {
    /// The purchase that its key stands for, and its status in central's table now; none: it has begun none.
    pub purchase: Option<(&'a str, &'a str)>,
    /// Why that has ended, in central's table.
    pub code: Option<&'a str>,
    /// Reasons for which none may be begun.
    pub refusals: &'a [Name],
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
            let may_be = self.refusals.iter().any(|reason| code_of(reason) == answer.code());
            return must(may_be && answer.status == status_of(answer.code()) && body["purchaseId"].is_null(), || {
                format!("P2: it has begun no purchase, {self:?}, and is answered {answer:?}")
            });
        };
        must(body["purchaseId"] == *purchase, || {
            format!("P3: its key stands for {purchase}, and it is answered {answer:?}")
        })?;
        let code = answer.code();
        let fits = match (answer.status, status) {
            (200, "confirmed") | (202, "pending") => body["status"] == *status,
            (409, "expired") => code == "purchase_expired",
            (409, "cancelled") => code == self.code.unwrap_or("purchase_cancelled"),
            (_, "rejected") => code == self.code.unwrap_or("insufficient_stock") && answer.status == status_of(code),
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
