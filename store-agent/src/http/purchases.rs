//! Online purchases that staff has to pick.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::domain::Lines;
use protocol::ids::{PurchaseId, StoreId};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::http::openapi::schema;
use runtime::http::{
    Code, IdPath, List, OptionalBody, Page, PageNumber, PageSize, Problem, Query, Result, Text, Write, Written,
};
use runtime::sqlite::Abort;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Call, Done};
use super::{App, Shared};
use crate::ledger;
use crate::ledger::purchases::{self, Purchase};
use crate::operations::purchases::pick;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(one)).routes(routes!(picked))
}

/// An online purchase that this store has confirmed
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Purchase, example = json!({
    "purchaseId": "0197a1b2-0000-7000-8000-000000000001", "status": "confirmed", "storeId": "store-1",
    "lines": [{"productId": "coffee", "quantity": 2}], "reference": "order 17",
    "createdAt": "2026-01-31T12:00:00.000Z", "expiresAt": "2026-01-31T12:01:00.000Z",
    "settledAt": "2026-01-31T12:00:00.120Z", "picked": false, "pickedAt": null,
}))]
struct View<'a> {
    #[schema(value_type = schema::Id)]
    purchase_id: PurchaseId,
    /// `confirmed` or `cancelled`.
    status: &'static str,
    #[schema(value_type = schema::StoreId)]
    store_id: &'a StoreId,
    #[schema(value_type = schema::Lines)]
    lines: &'a Lines,
    reference: Option<&'a str>,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    #[schema(value_type = schema::Time)]
    expires_at: Millis,
    #[schema(value_type = schema::Time)]
    settled_at: Millis,
    /// Whether staff has it ready.
    picked: bool,
    #[schema(value_type = Option<schema::Time>)]
    picked_at: Option<Millis>,
}

type Purchases = List<View<'static>>;

impl<'a> View<'a> {
    fn of(store_id: &'a StoreId, purchase: &'a Purchase) -> Self {
        let reference = &purchase.reference;
        Self {
            purchase_id: reference.purchase_id,
            status: if purchase.is_cancelled { "cancelled" } else { "confirmed" },
            store_id,
            lines: &reference.lines,
            reference: reference.reference.as_deref(),
            created_at: reference.created_at,
            expires_at: reference.expires_at,
            settled_at: purchase.settled_at,
            picked: purchase.picked_at.is_some(),
            picked_at: purchase.picked_at,
        }
    }

    fn json(&self) -> Value {
        serde_json::to_value(self).expect("a purchase serialises")
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only those that are picked (`true`), or wait for it (`false`).
    picked: Option<bool>,
    status: Option<String>,
    /// Those with a line of this product.
    product_id: Option<String>,
    reference: Option<String>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

/// List online purchases
///
/// `picked=false`: what staff has to fetch from the shelf.
#[utoipa::path(
    get, path = "/purchases", operation_id = "listPurchases", tag = "Purchases", params(Filter),
    responses((status = 200, description = "Purchases, the newest first", body = Purchases)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let filter = purchases::Filter {
        picked: filter.picked,
        status: filter.status,
        product_id: filter.product_id,
        reference: filter.reference,
    };
    let (slice, store) = (page.by_number()?, app.store.clone());
    let list = app.db.scan(move |connection| {
        let list = List::from(purchases::list(connection, &filter, &slice)?);
        Ok(Written::json(&list.map(|purchase| View::of(&store, &purchase).json())))
    });
    Ok(list.await?)
}

/// Read an online purchase
#[utoipa::path(
    get, path = "/purchases/{id}", operation_id = "getPurchase", tag = "Purchases", params(IdPath),
    responses((status = 200, description = "The purchase", body = View)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Value>> {
    let unknown = || Problem::new(Code::UnknownId);
    let id: PurchaseId = id.parse().map_err(|_| unknown())?;
    let purchase = app.db.read(|connection| purchases::find(connection, id)).await?.ok_or_else(unknown)?;
    Ok(Json(View::of(&app.store, &purchase).json()))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PickPurchase, example = json!({"reference": "shelf 4"}))]
struct Pick {
    reference: Option<Text<0, 100>>,
}

/// Say that a purchase is picked
///
/// From then on it can no longer be cancelled.
#[utoipa::path(
    post, path = "/purchases/{id}/picked", operation_id = "pickPurchase", tag = "Purchases", params(IdPath, Write),
    request_body = Option<Pick>,
    responses((status = 200, description = "The purchase", body = View)),
    extensions(("x-problems" = json!(["unknown_id", "purchase_cancelled"]))),
)]
async fn picked(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    OptionalBody { value, json }: OptionalBody<Pick>,
) -> Result<Response> {
    let unknown = || Problem::new(Code::UnknownId);
    let id: PurchaseId = id.parse().map_err(|_| unknown())?;
    let about = About {
        reference: value.reference.map(|text| text.0),
        actor: write.actor.clone(),
        traceparent: Some(write.traceparent.clone()),
        ..About::default()
    };
    let store = app.store.clone();
    app.write(&write, &json, move |connection, Call { operation, now, .. }| {
        let picked = pick(connection, id, &operation, &about, now)?;
        let picked = picked.ok_or_else(|| Abort::Refused(unknown()))?;
        let position = match picked.position {
            Some(position) => position,
            None => ledger::head(connection)?.cursor.id(),
        };
        Ok(Done::new(StatusCode::OK, &View::of(&store, &picked.purchase), position))
    })
    .await
}
