//! What clients see of items, purchases, commands and stores.

use axum::http::{HeaderName, HeaderValue};
use protocol::domain::reservation::Reservation;
use protocol::domain::{Item, Quantity};
use protocol::ids::{ProductId, StoreId};
use protocol::number::Epoch;
use protocol::promise::policy::Policy;
use protocol::promise::purchase::Status;
use protocol::time::Millis;
use runtime::http::{Page, Problem, Result};
use serde::Serialize;
use serde_json::Value;

use super::App;
use crate::storage::commands;
use crate::storage::items;
use crate::storage::purchases::Purchase;
use crate::storage::queries::Slice;
use crate::storage::stores::Store;

/// Header of every read of the view: age of the oldest entry known to exist and not applied.
pub(super) const LAG: HeaderName = HeaderName::from_static("x-projection-lag-ms");
/// Header of every answer of a store: its position.
pub(super) const POSITION: HeaderName = HeaderName::from_static("shelf-position");

/// An item as clients see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ItemView {
    pub(super) store_id: StoreId,
    pub(super) product_id: ProductId,
    pub(super) name: String,
    pub(super) quantity: i64,
    pub(super) reserved: i64,
    pub(super) allotted: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allotment_wanted: Option<i64>,
    pub(super) available: i64,
    pub(super) discontinued: bool,
    pub(super) low_at: Option<i64>,
    pub(super) version: i64,
    pub(super) updated_at: Millis,
    pub(super) pending: i64,
    pub(super) online_available: i64,
    pub(super) store_online: bool,
    pub(super) as_of: Millis,
}

impl ItemView {
    /// `pending`: units on their way to being sold.
    pub(super) fn of(app: &App, store: &Store, product: ProductId, item: &Item, pending: i64) -> Self {
        let online = !store.retired && app.presence.judge_remembered(store).is_ok();
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
            as_of: as_of(app, store),
        }
    }

    /// Weak: it says what may be shown, not the item's bytes.
    pub(super) fn etag(&self, epoch: Epoch) -> String {
        format!("W/\"{epoch}-{}-{}-{}\"", self.version, self.pending, self.online_available)
    }
}

/// Central's time of the last look after which everything known of the store was applied.
pub(super) fn as_of(app: &App, store: &Store) -> Millis {
    store.as_of.max(app.presence.report(&store.id).current_at)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    product_id: ProductId,
    quantity: Quantity,
}

/// A store that was asked for a purchase.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attempt {
    store_id: StoreId,
    /// What came of it; none yet: the store has not answered.
    code: Option<String>,
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

/// A purchase as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PurchaseView {
    purchase_id: String,
    status: &'static str,
    store_id: StoreId,
    lines: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    attempts: Vec<Attempt>,
    reference: Option<String>,
    customer_id: Option<String>,
    created_at: Millis,
    expires_at: Millis,
    overdue: bool,
    cancel_requested_at: Option<Millis>,
    settled_at: Option<Millis>,
    code: Option<String>,
    picked: bool,
    position: Option<String>,
}

impl PurchaseView {
    pub(super) fn of(purchase: &Purchase, now: Millis) -> Self {
        Self {
            purchase_id: purchase.id.to_string(),
            status: purchase.status.as_str(),
            store_id: purchase.store.clone(),
            lines: vec![Line { product_id: purchase.product.clone(), quantity: purchase.quantity }],
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

/// A command as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandView {
    command_id: String,
    store_id: StoreId,
    operation: String,
    product_id: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
    /// As it was then.
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<Reservation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
    created_at: Millis,
    settled_at: Option<Millis>,
    position: Option<String>,
}

impl CommandView {
    pub(super) fn of(request: &commands::Request) -> Self {
        let outcome = request.outcome.as_ref();
        let problem = outcome.and_then(|outcome| outcome.became.rejection());
        Self {
            command_id: request.id.to_string(),
            store_id: request.store.clone(),
            operation: request.operation.clone(),
            product_id: request.product.clone(),
            status: request.status.as_str(),
            item: outcome.filter(|_| problem.is_none()).and_then(|outcome| outcome.became.item().cloned()),
            reservation: outcome.and_then(|outcome| outcome.became.reservation().cloned()),
            problem: problem.map(|rejection| Value::Object(Problem::from(rejection).to_json())),
            created_at: request.created_at,
            settled_at: request.settled_at,
            position: request.position.as_ref().map(ToString::to_string),
        }
    }
}

/// A header whose value is made of text that cannot break it.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// The part of a list that a page is. `key` reads the key of the record after which it begins.
pub(super) fn slice<K>(page: &Page, key: impl FnOnce(&[String]) -> Result<K>) -> Result<Slice<K>> {
    let after = page.after.as_deref().map(key).transpose()?;
    // One record more than wanted tells whether there is a next page.
    Ok(Slice { after, offset: page.offset, limit: page.size + 1 })
}

/// The same of a list whose records have numbers.
pub(super) fn behind_number(page: &Page) -> Result<Slice<i64>> {
    slice(page, |after| after[0].parse().map_err(|_| Problem::invalid("?cursor", "must be a nextCursor of this list")))
}
