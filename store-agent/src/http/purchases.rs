//! Online purchases that staff has to pick.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::ids::{PurchaseId, StoreId};
use protocol::wire::About;
use runtime::http::{
    Code, IdPath, List, OptionalBody, Page, Problem, Query, Result, Text, Write, Written, encode_cursor,
};
use runtime::sqlite::Abort;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Call, Done};
use super::{App, Shared};
use crate::ledger;
use crate::ledger::purchases::{self, Purchase};
use crate::operations::purchases::pick;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/purchases", get(list))
        .route("/purchases/{id}", get(one))
        .route("/purchases/{id}/picked", post(picked))
}

fn view(store: &StoreId, purchase: &Purchase) -> Value {
    json!({
        "purchaseId": purchase.reference.purchase_id,
        "status": if purchase.is_cancelled { "cancelled" } else { "confirmed" },
        "storeId": store,
        "lines": [{"productId": purchase.reference.product_id, "quantity": purchase.reference.quantity}],
        "reference": purchase.reference.reference,
        "createdAt": purchase.reference.created_at,
        "expiresAt": purchase.reference.expires_at,
        "settledAt": purchase.settled_at,
        "picked": purchase.picked_at.is_some(),
        "pickedAt": purchase.picked_at,
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    picked: Option<bool>,
    status: Option<String>,
    product_id: Option<String>,
    reference: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
    cursor: Option<String>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let before = page.after.as_ref().map(|after| {
        after[0].parse::<i64>().map_err(|_| Problem::invalid("?cursor", "must be a nextCursor of this list"))
    });
    let filter = purchases::Filter {
        picked: filter.picked,
        status: filter.status,
        product_id: filter.product_id,
        reference: filter.reference,
        before: before.transpose()?,
        limit: page.limit(),
        offset: page.offset,
    };
    let store = app.store.clone();
    let list = app.db.scan(move |connection| {
        let rows = purchases::list(connection, &filter)?;
        let list = List::cut(rows, &page, |purchase: &Purchase| encode_cursor(&[&purchase.number.to_string()]));
        Ok(Written::json(&list.map(|purchase| view(&store, &purchase))))
    });
    Ok(list.await?)
}

async fn one(State(app): Shared, IdPath(id): IdPath) -> Result<Json<Value>> {
    let unknown = || Problem::new(Code::UnknownId);
    let id: PurchaseId = id.parse().map_err(|_| unknown())?;
    let purchase = app.db.read(|connection| purchases::find(connection, id)).await?.ok_or_else(unknown)?;
    Ok(Json(view(&app.store, &purchase)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Pick {
    reference: Option<Text<0, 100>>,
}

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
        occurred_at: None,
    };
    let store = app.store.clone();
    app.write(&write, &json, move |connection, Call { operation, now, .. }| {
        let picked = pick(connection, id, &operation, &about, now)?;
        let picked = picked.ok_or_else(|| Abort::Refused(unknown()))?;
        let position = match picked.position {
            Some(position) => position,
            None => ledger::head(connection)?.cursor.id(),
        };
        Ok(Done { status: StatusCode::OK, body: view(&store, &picked.purchase), position: position.to_string() })
    })
    .await
}
