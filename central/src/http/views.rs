//! What clients see of items, purchases, commands and stores.

use axum::http::{HeaderName, HeaderValue};
use protocol::domain::{Item, Lines};
use protocol::ids::{ProductId, StoreId};
use protocol::number::Epoch;
use protocol::promise::policy::Policy;
use protocol::promise::purchase::Status;
use protocol::time::Millis;
use protocol::wire::{LineResult, RefusedLine, Results};
use runtime::http::openapi::schema;
use runtime::http::{Code, Page, Problem, Result, StoreReservation, StoreTransfer, header_value};
use serde::Serialize;
use serde_json::{Value, to_value};
use utoipa::ToSchema;

use super::App;
use crate::storage::commands;
use crate::storage::items;
use crate::storage::purchases::Purchase;
use crate::storage::queries::Slice;
use crate::storage::stores::Standing;

/// Header of every read of the view: age of the oldest entry known to exist and not applied.
pub(super) const LAG: HeaderName = HeaderName::from_static("x-projection-lag-ms");
/// Header of every answer of a store: its position.
pub(super) const POSITION: HeaderName = HeaderName::from_static("shelf-position");

/// An item as central sees it
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Item, example = json!({
    "storeId": "store-1", "productId": "coffee", "name": "Coffee, 500 g", "quantity": 24, "reserved": 2,
    "allotted": 0, "available": 22, "discontinued": false, "lowAt": 6, "version": 4,
    "updatedAt": "2026-01-31T12:00:00.000Z", "pending": 1, "onlineAvailable": 21, "storeOnline": true,
    "asOf": "2026-01-31T12:00:05.000Z",
}))]
pub(super) struct ItemView {
    #[schema(value_type = schema::StoreId)]
    pub(super) store_id: StoreId,
    #[schema(value_type = schema::ProductId)]
    pub(super) product_id: ProductId,
    pub(super) name: String,
    /// Units on hand and not sold.
    pub(super) quantity: i64,
    /// Of these, held by open reservations.
    pub(super) reserved: i64,
    /// Of these, set aside for online sale.
    pub(super) allotted: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allotment_wanted: Option<i64>,
    /// What the store would sell at its till.
    pub(super) available: i64,
    /// No longer carried: tills sell what is left.
    pub(super) discontinued: bool,
    /// At so many available units it is low; `null`: never.
    pub(super) low_at: Option<i64>,
    /// Grows with each change.
    pub(super) version: i64,
    #[schema(value_type = schema::Time)]
    pub(super) updated_at: Millis,
    /// Units in purchases that the store has not answered.
    pub(super) pending: i64,
    /// What central would sell in one purchase now: what a shop may show.
    pub(super) online_available: i64,
    /// Whether central would send it a purchase.
    pub(super) store_online: bool,
    /// Everything that the store did up to then is in this.
    #[schema(value_type = schema::Time)]
    pub(super) as_of: Millis,
}

impl ItemView {
    /// `pending`: units on their way to being sold.
    pub(super) fn of(app: &App, store: &Standing, product: ProductId, item: &Item, pending: i64) -> Self {
        let online = !store.retired && app.presence.judge_shown(store).is_ok();
        Self {
            store_id: store.id.clone(),
            product_id: product,
            name: item.name.clone(),
            quantity: item.quantity,
            reserved: item.reserved,
            allotted: item.allotted,
            allotment_wanted: item.allotment_wanted,
            available: item.available(),
            discontinued: item.discontinued,
            low_at: item.low_at,
            version: item.version,
            updated_at: item.updated_at,
            pending,
            online_available: if online { items::online_available(item, pending) } else { 0 },
            store_online: online,
            as_of: as_of(app, &store.id, store.as_of),
        }
    }

    /// Weak: it says what may be shown, not the item's bytes.
    pub(super) fn etag(&self, epoch: Epoch) -> HeaderValue {
        let Self { version, pending, online_available, .. } = self;
        match self.store_online {
            true => header_value(format_args!("W/\"{epoch}-{version}-{pending}-{online_available}\"")),
            false => header_value(format_args!("W/\"{epoch}-{version}-{pending}-off\"")),
        }
    }
}

/// Central's time of the last look after which everything known of the store was applied.
pub(super) fn as_of(app: &App, store: &StoreId, noted: Millis) -> Millis {
    noted.max(app.presence.current_at(store))
}

/// A store that was asked for a purchase.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PurchaseAttempt)]
pub(super) struct Attempt {
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// What came of it; none yet: the store has not answered.
    code: Option<String>,
    #[schema(value_type = schema::Time)]
    at: Millis,
}

impl Attempt {
    /// In the order asked.
    pub(super) fn all_of(purchase: &Purchase) -> Vec<Self> {
        let refused = purchase.choice.as_ref().map_or(&[][..], |choice| &choice.refused);
        let refused = refused.iter().map(|one| (one.store.clone(), Some(one.code.clone()), one.at));
        let mut all: Vec<Self> = refused.map(|(store_id, code, at)| Self { store_id, code, at }).collect();
        let is_confirmed = purchase.status == Status::Confirmed;
        // Of one that ends while it seeks a store the last refusal is the last attempt.
        if is_confirmed || all.last().is_none_or(|last| last.store_id != purchase.store) {
            let code = if is_confirmed { Some("confirmed".to_owned()) } else { purchase.code.clone() };
            let at = purchase.settled_at.unwrap_or(purchase.created_at);
            all.push(Self { store_id: purchase.store.clone(), code, at });
        }
        all
    }
}

/// An online purchase
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Purchase, example = json!({
    "purchaseId": "0197a1b2-0000-7000-8000-000000000001", "status": "confirmed", "storeId": "store-1",
    "lines": [{"productId": "coffee", "quantity": 2}], "policy": "highest-available",
    "attempts": [{"storeId": "store-1", "code": "confirmed", "at": "2026-01-31T12:00:00.120Z"}],
    "reference": "order 17", "customerId": null, "createdAt": "2026-01-31T12:00:00.000Z",
    "expiresAt": "2026-01-31T12:01:00.000Z", "overdue": false, "cancelRequestedAt": null,
    "settledAt": "2026-01-31T12:00:00.120Z", "code": null, "picked": false,
    "position": "store-1:1769860800000-17",
}))]
pub(super) struct PurchaseView {
    #[schema(value_type = schema::Id)]
    purchase_id: String,
    /// `pending`, `confirmed`, `rejected`, `expired` or `cancelled`.
    status: &'static str,
    /// The store that was asked last.
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// Confirmed as a whole, or not at all.
    #[schema(value_type = schema::Lines)]
    lines: Lines,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// By what the store was chosen, if central chose it.
    #[schema(value_type = Option<String>)]
    policy: Option<Policy>,
    /// Who was asked, in order, and what came of it.
    attempts: Vec<Attempt>,
    reference: Option<String>,
    customer_id: Option<String>,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    /// From then on the store refuses it.
    #[schema(value_type = schema::Time)]
    expires_at: Millis,
    /// Whether it should have ended: the store is away.
    overdue: bool,
    /// From then on it never ends as `confirmed`, unless it had been.
    #[schema(value_type = Option<schema::Time>)]
    cancel_requested_at: Option<Millis>,
    #[schema(value_type = Option<schema::Time>)]
    settled_at: Option<Millis>,
    /// Why it was refused.
    code: Option<String>,
    /// Whether staff has it ready.
    picked: bool,
    /// The place of its event in the store's ledger.
    position: Option<String>,
}

impl PurchaseView {
    pub(super) fn of(purchase: &Purchase, now: Millis) -> Self {
        Self {
            purchase_id: purchase.id.to_string(),
            status: purchase.status.as_str(),
            store_id: purchase.store.clone(),
            lines: purchase.lines.clone(),
            policy: purchase.choice.as_ref().and_then(|choice| choice.policy),
            attempts: Attempt::all_of(purchase),
            reference: purchase.reference.clone(),
            customer_id: purchase.customer.clone(),
            created_at: purchase.created_at,
            expires_at: purchase.expires_at,
            overdue: purchase.status == Status::Pending && now > purchase.expires_at,
            cancel_requested_at: purchase.cancel_requested_at,
            settled_at: purchase.settled_at,
            code: purchase.code.clone(),
            picked: purchase.picked_at.is_some(),
            position: purchase.position.as_ref().map(ToString::to_string),
        }
    }
}

/// What a store was asked to do
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Command)]
pub(super) struct CommandView {
    command_id: String,
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    operation: String,
    product_id: Option<String>,
    /// `pending`, `done`, `refused` or `expired`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::StoreItem>)]
    item: Option<Item>,
    /// As it was then at the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, value_type = Option<StoreReservation<'static>>)]
    reservation: Option<Value>,
    /// As it was then at the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, value_type = Option<StoreTransfer<'static>>)]
    transfer: Option<Value>,
    /// Of a batch: what became of each line. Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<LineView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Why it was refused.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    #[schema(value_type = Option<schema::Time>)]
    settled_at: Option<Millis>,
    position: Option<String>,
}

impl CommandView {
    pub(super) fn of(request: &commands::Request) -> Self {
        let outcome = request.outcome.as_ref();
        let rejection = outcome.and_then(|outcome| outcome.became.rejection());
        let results = outcome.and_then(|outcome| outcome.became.results());
        let undone = results.filter(|results| results.undone).map(|_| Problem::new(Code::BatchRefused));
        let problem = rejection.map(Problem::from).or(undone);
        let reservation = outcome.and_then(|outcome| outcome.became.reservation());
        let transfer = outcome.and_then(|outcome| outcome.became.transfer());
        let shown = |value: serde_json::Result<Value>| value.expect("what a store shows serialises");
        Self {
            command_id: request.id.to_string(),
            store_id: request.store.clone(),
            operation: request.operation.clone(),
            product_id: request.product.clone(),
            status: request.status.as_str(),
            item: outcome.filter(|_| problem.is_none()).and_then(|outcome| outcome.became.item().cloned()),
            reservation: reservation.map(|one| shown(to_value(StoreReservation::of(&request.store, one)))),
            transfer: transfer.map(|one| shown(to_value(StoreTransfer::of(&request.store, one)))),
            results: results.map(LineView::all_of),
            problem: problem.map(|problem| Value::Object(problem.to_json())),
            created_at: request.created_at,
            settled_at: request.settled_at,
            position: request.position.as_ref().map(ToString::to_string),
        }
    }

    /// As one of many: without the lines of a batch.
    pub(super) fn in_list(request: &commands::Request) -> Self {
        Self { results: None, ..Self::of(request) }
    }
}

/// What became of a line
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OperationResult)]
pub(super) struct LineView {
    /// Of the line in `operations`, from 0.
    index: usize,
    /// `done`, `refused`, or `not_executed` because another line was refused.
    status: &'static str,
    /// Why not, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

impl LineView {
    /// One for each line.
    pub(super) fn all_of(results: &Results) -> Vec<Self> {
        let line = |(index, line)| {
            let (status, problem) = match line {
                LineResult::Done => ("done", None),
                LineResult::Refused(RefusedLine { product_id, rejection, .. }) => {
                    let problem = Problem::from(rejection);
                    let problem =
                        product_id.iter().fold(problem, |problem, product| problem.with("productId", product.as_str()));
                    ("refused", Some(problem.to_json().into()))
                }
                LineResult::NotExecuted => ("not_executed", None),
            };
            Self { index, status, problem }
        };
        results.each().enumerate().map(line).collect()
    }
}

/// The part of a list that a page is. `key` reads the key of the record after which it begins.
pub(super) fn slice<K>(page: &Page, key: impl FnOnce(&[String]) -> Result<K>) -> Result<Slice<K>> {
    let after = page.after.as_deref().map(key).transpose()?;
    // One record more than wanted tells whether there is a next page.
    Ok(Slice { after, offset: page.offset, limit: page.size + 1 })
}
