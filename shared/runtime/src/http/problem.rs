//! Problem details (RFC 9457) with stable codes.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use protocol::domain::Rejection;

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $title:literal $retryable:literal $meaning:literal;)+) => {
        /// Every code that a problem may have. A code has one status everywhere.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)+
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The stable name: last part of a problem's `type`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Its status.
            pub fn status(self) -> StatusCode {
                let number = match self { $(Self::$variant => $status,)+ };
                StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// Its title.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// Whether the same request may succeed later unchanged.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)+ }
            }

            /// What it means and what to do.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// Reads the stable name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == name)
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 400 "Invalid Request" false "The request breaks a rule; `errors` points at what and says how. Correct it: the same request will never succeed.";
    Forbidden "forbidden" 403 "Forbidden" false "The token has not the scope that `detail` names; or the Host or the Origin of the request is not one that this server serves, see ALLOWED_HOSTS and CORS_ORIGINS.";
    UnknownRoute "unknown_route" 404 "Unknown Route" false "There is nothing at this path. Paths are case-sensitive and have no slash at the end.";
    Unauthorized "unauthorized" 401 "Unauthorized" false "The server wants to know who asks: send `Authorization: Bearer <token>` with a token that it knows.";
    UnknownStore "unknown_store" 404 "Unknown Store" false "Central has never heard of this store.";
    UnknownProduct "unknown_product" 404 "Product Not Found" false "There is no such product, `productId`, at the store or, if none was named, at any. Ids are case-sensitive: `didYouMean` names one that differs in case only.";
    UnknownId "unknown_id" 404 "Not Found" false "There is no record with this id, or it is past its retention.";
    MethodNotAllowed "method_not_allowed" 405 "Method Not Allowed" false "The path exists, but not with this method. `Allow` lists those it has.";
    BodyTooLarge "body_too_large" 413 "Body Too Large" false "The body is larger than `limitBytes`.";
    UnsupportedMediaType "unsupported_media_type" 415 "Unsupported Media Type" false "The body's Content-Type or encoding is not one that this route reads.";
    InsufficientStock "insufficient_stock" 409 "Insufficient Stock" false "Fewer units may be taken than were asked for. The members say how many there are and why; of several lines `lines` names each that is short. Of a purchase `alternatives` names stores that would sell all of it.";
    BatchRefused "batch_refused" 409 "Batch Refused" false "A line of the batch was refused, so nothing of it was done. `results` has all lines and why; send `atomic: false` to have those done that can be.";
    AlreadyExists "already_exists" 409 "Product Already Exists" false "The store has this product already, or was asked to create it.";
    VersionConflict "version_conflict" 409 "Version Conflict" false "`expectedVersion` is not the item's version. Read it again and decide anew.";
    Discontinued "discontinued" 409 "Discontinued" false "The item is no longer carried: tills sell what is left, nothing else.";
    LimitExceeded "limit_exceeded" 409 "Limit Exceeded" false "More than there may be: of units (1,000,000,000), of a transfer than was shipped, of open reservations of a product at a store (1,000), of webhooks (100), of products whose count differs (1,000). `detail` says which.";
    UnsupportedByStore "unsupported_by_store" 409 "Unsupported By Store" false "The store's agent is older than this command. Upgrade it.";
    PurchaseExpired "purchase_expired" 409 "Purchase Expired" false "The store heard of the purchase after its time to live. Nothing was taken; a new attempt takes a new key.";
    PurchaseCancelled "purchase_cancelled" 409 "Purchase Cancelled" false "The purchase was cancelled; its units are back.";
    AlreadyPicked "already_picked" 409 "Already Picked" false "Staff has picked the purchase: it can no longer be cancelled.";
    ReservationExpired "reservation_expired" 409 "Reservation Expired" false "The reservation's time was over: its units are free again.";
    ReservationClosed "reservation_closed" 409 "Reservation Closed" false "The reservation has ended; `state` says how.";
    TransferClosed "transfer_closed" 409 "Transfer Closed" false "The transfer has ended, or has not left its source yet (`requested`: ask again once it is `shipped`), or the source heard of it too late. `state` says where it is.";
    StoreOnline "store_online" 409 "Store Online" false "The store's heartbeat is fresh: stop its agent before retiring it.";
    StoreRetired "store_retired" 409 "Store Retired" false "The store was retired. It comes back by adopting its epoch.";
    UnknownClaim "unknown_claim" 409 "Unknown Claim" false "No agent claims this epoch for the store: see the store's `claims`.";
    EmptyClaim "empty_claim" 409 "Empty Claim" false "The agent that claims this epoch has no items, or how many is not known: adopting it may empty the store. Say `items: 0` if that is meant.";
    StoreOpened "store_opened" 409 "Store Opened" false "The store has sent events: it can be retired, not forgotten.";
    CursorExpired "cursor_expired" 410 "Cursor Expired" false "What lies after this cursor is no longer kept. `oldest` is the first that is.";
    PreconditionFailed "precondition_failed" 412 "Precondition Failed" false "If-Match names no version of the item as it is. Read it again and decide anew.";
    IdempotencyKeyReused "idempotency_key_reused" 422 "Idempotency Key Reused" false "This key came with another request before. A new request takes a new key.";
    RateLimited "rate_limited" 429 "Rate Limited" true "This caller has asked more often than it may. `RateLimit-Reset` says when it has all of its requests again.";
    Internal "internal" 500 "Internal Error" false "Something failed in the server. Give `traceId` to whoever runs it.";
    StoreUnavailable "store_unavailable" 503 "Store Unavailable" true "The store cannot be asked at present; `reason` says why. Nothing was done.";
    NotCaughtUp "not_caught_up" 503 "Not Caught Up" true "Central has not yet applied what the request asks for.";
    Overloaded "overloaded" 503 "Overloaded" true "Too much is being asked at once. Nothing was done.";
    Restarting "restarting" 503 "Restarting" true "The server cannot go on and is about to start again. Whether the request was carried out is not known: repeat it under the same Idempotency-Key.";
}

/// An error as clients see it.
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    detail: Option<String>,
    errors: Vec<(String, String)>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Members that every problem has begin with these, in this order; what a code adds follows.
const FIRST: [&str; 7] = ["type", "title", "status", "code", "retryable", "detail", "errors"];
/// And end with these.
const LAST: [&str; 2] = ["instance", "traceId"];

/// A problem's members in the order in which all problems have them.
pub(super) struct Ordered<'a>(pub(super) &'a Map<String, Value>);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = |names: &'static [&'static str]| names.iter().filter_map(|name| Some((*name, self.0.get(*name)?)));
        let own = self.0.iter().map(|(name, value)| (name.as_str(), value));
        let own = own.filter(|(name, _)| !FIRST.contains(name) && !LAST.contains(name));
        serializer.collect_map(of(&FIRST).chain(own).chain(of(&LAST)))
    }
}

/// Marks a response whose problem body is to be completed by the edge with instance and trace id.
#[derive(Clone)]
pub(super) struct Pending(pub(super) Map<String, Value>);

impl Problem {
    /// A problem with nothing but its code.
    pub fn new(code: Code) -> Self {
        let parts = Parts { code, detail: None, errors: Vec::new(), members: Map::new(), headers: Vec::new() };
        Self(Box::new(parts))
    }

    /// 400 with one place and what is wrong there, in words that go on from its name: `must be ...`. Pointer: JSON pointer
    /// into the body, `?name`, `{name}` or a header; empty if all of the body is meant: then the words are a sentence.
    pub fn invalid(pointer: impl Into<String>, predicate: impl AsRef<str>) -> Self {
        let pointer = pointer.into();
        let detail = super::words::sentence(&pointer, predicate.as_ref());
        let mut problem = Self::new(Code::InvalidRequest);
        problem.0.errors.push((pointer, detail));
        problem
    }

    /// 500. What failed goes to the log under the trace id, never to the client.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(Code::Internal)
    }

    /// In words.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// One more member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// One more header.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The members that describe it, as they are within `results[]` and `Command`.
    pub fn to_json(&self) -> Map<String, Value> {
        let Parts { code, detail, errors, members, .. } = &*self.0;
        let mut map = Map::new();
        map.insert("type".into(), format!("/problems/{}", code.as_str()).into());
        map.insert("title".into(), code.title().into());
        map.insert("status".into(), code.status().as_u16().into());
        map.insert("code".into(), code.as_str().into());
        map.insert("retryable".into(), code.retryable().into());
        let detail = detail.clone().or_else(|| errors.first().map(|(_, text)| text.clone()));
        map.insert("detail".into(), detail.unwrap_or_else(|| code.meaning().to_owned()).into());
        if !errors.is_empty() {
            let list = errors.iter().map(|(pointer, detail)| json!({"pointer": pointer, "detail": detail}));
            map.insert("errors".into(), list.collect());
        }
        for (name, value) in members {
            map.insert(name.clone(), value.clone());
        }
        map
    }
}

impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::UnknownPosition => {
                return Self::invalid("/countedAt", "must be a position of this store's ledger");
            }
            Rejection::BeyondReservation { product_id, held } => {
                let text = format!("must be within what the reservation holds, which is {held} of {product_id}");
                return Self::invalid("/lines", text);
            }
            Rejection::UnknownReservation | Rejection::UnknownTransfer => return Self::new(Code::UnknownId),
            Rejection::BeyondTransfer { product_id, shipped } => {
                return Self::new(Code::LimitExceeded)
                    .detail(rejection.to_string())
                    .with("productId", product_id.as_str())
                    .with("shipped", *shipped);
            }
            Rejection::UnknownProduct
            | Rejection::AlreadyExists
            | Rejection::InsufficientStock { .. }
            | Rejection::VersionConflict { .. }
            | Rejection::PreconditionFailed { .. }
            | Rejection::Discontinued
            | Rejection::LimitExceeded { .. }
            | Rejection::PurchaseExpired
            | Rejection::PurchaseCancelled
            | Rejection::AlreadyPicked
            | Rejection::ReservationExpired
            | Rejection::ReservationClosed { .. }
            | Rejection::TransferClosed { .. }
            | Rejection::UnsupportedByStore { .. }
            | Rejection::StoreRetired => {}
        }
        let mut problem =
            Self::new(Code::from_name(rejection.code()).unwrap_or(Code::Internal)).detail(rejection.to_string());
        if let Ok(Value::Object(members)) = serde_json::to_value(rejection) {
            for (name, value) in members.into_iter().filter(|(name, _)| name != "code") {
                problem.0.members.insert(name, value);
            }
        }
        problem
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self::from(&rejection)
    }
}

impl From<crate::sqlite::JobError> for Problem {
    fn from(error: crate::sqlite::JobError) -> Self {
        crate::sqlite::Error::from(error).into()
    }
}

impl From<crate::sqlite::Error> for Problem {
    fn from(error: crate::sqlite::Error) -> Self {
        use crate::sqlite::Error;
        match error {
            Error::Busy => Self::new(Code::Overloaded).detail(error.to_string()),
            Error::Stopped => Self::new(Code::Restarting),
            Error::Data(_) | Error::Fatal(_) => Self::internal(error),
        }
    }
}

/// What refuses a job may be said as it is: `?` takes the job's effect back.
impl From<Problem> for crate::sqlite::Abort<Problem> {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// A refusal of the domain as clients see it.
impl From<crate::sqlite::Abort<Rejection>> for crate::sqlite::Abort<Problem> {
    fn from(abort: crate::sqlite::Abort<Rejection>) -> Self {
        abort.map(Problem::from)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let map = self.to_json();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.code.status();
        let retry_after = match self.0.code {
            Code::StoreUnavailable => Some("5"),
            Code::NotCaughtUp | Code::RateLimited | Code::Overloaded | Code::Restarting => Some("1"),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        for (name, value) in self.0.headers {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(Pending(map));
        response
    }
}

/// A kind of problem
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProblemKind, example = json!({
    "code": "overloaded", "title": "Overloaded", "status": 503, "retryable": true,
    "meaning": "Too much is being asked at once. Nothing was done.",
}))]
pub struct Kind {
    /// Its stable name.
    code: &'static str,
    /// In a few words.
    title: &'static str,
    /// The status of each answer with this code.
    status: u16,
    /// Whether the same request may succeed later, unchanged.
    retryable: bool,
    /// What it means and what to do.
    meaning: &'static str,
}

impl From<Code> for Kind {
    fn from(code: Code) -> Self {
        Self {
            code: code.as_str(),
            title: code.title(),
            status: code.status().as_u16(),
            retryable: code.retryable(),
            meaning: code.meaning(),
        }
    }
}

/// What a problem means
///
/// A problem's `type` is the address of this. `id` is its code.
#[utoipa::path(
    get, path = "/problems/{id}", operation_id = "getProblem", tag = "Server", params(super::IdPath),
    responses((status = 200, description = "The kind of problem", body = Kind)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
pub async fn describe(super::IdPath(name): super::IdPath) -> super::Result<axum::Json<Kind>> {
    let code = Code::from_name(&name).ok_or_else(|| Problem::new(Code::UnknownId))?;
    Ok(axum::Json(code.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_in_the_same_order_in_every_problem() {
        let mut map = Problem::invalid("?size", "is missing").with("available", 3).to_json();
        map.insert("traceId".into(), "t".into());
        map.insert("instance".into(), "/v1/inventory".into());
        let text = serde_json::to_string(&Ordered(&map)).expect("serialises");
        let names =
            ["type", "title", "status", "code", "retryable", "detail", "errors", "available", "instance", "traceId"];
        let places = names.map(|name| text.find(&format!("\"{name}\":")).expect(name));
        assert!(places.is_sorted(), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), Value::Object(map));
    }
}
