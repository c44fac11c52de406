//! Online purchases: ask, read, cancel.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::domain::Rejection;
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::http::{
    Body, Bounded, Code, IdPath, ItemPath, List, OptionalBody, Page, Prefer, Problem, Quantity, Query, Result, Text,
    Write, encode_cursor,
};
use runtime::sqlite::Abort;
use rusqlite::ToSql;
use serde::Deserialize;
use serde_json::{Value, json};

use super::idempotency::{key_of, known};
use super::views::{ItemView, POSITION, PurchaseView, value};
use super::{App, Shared};
use crate::promises::commands;
use crate::promises::purchases::{self, Cancelled, Purchase, Status};
use crate::storage::idempotency::{self, Effect};
use crate::storage::items;
use crate::storage::stores;

/// Time to live of a purchase when nothing is said, s.
const TTL_SECONDS: i64 = 60;
/// Stores named in a refusal, at most.
const ALTERNATIVES: usize = 10;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/purchase/{storeId}/{productId}", post(buy))
        .route("/purchases", get(list))
        .route("/purchases/{id}", get(one))
        .route("/purchases/{id}/cancel", post(cancel))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Buy {
    quantity: Quantity,
    customer_id: Option<Text<0, 100>>,
    ttl_seconds: Option<Bounded<1, 3_600>>,
    reference: Option<Text<0, 100>>,
}

async fn buy(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Buy>,
) -> Result<Response> {
    refuse_if_match(&write)?;
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref())? {
        return bought(&app, &record.target, &prefer, true).await;
    }
    let (_, look) = app.sellable(&store_id).await?;
    let ask = purchases::Ask {
        id: PurchaseId::new(uuid::Uuid::now_v7()),
        product: product_id,
        quantity: value.quantity.0,
        customer: value.customer_id.map(|text| text.0),
        about: About {
            reference: value.reference.map(|text| text.0),
            actor: write.actor,
            traceparent: Some(write.traceparent),
            occurred_at: None,
        },
        ttl_ms: value.ttl_seconds.map_or(TTL_SECONDS, |ttl| ttl.0) * 1_000,
        redis_now: look.redis_now,
    };
    let now = runtime::clock::now();
    let begun = {
        let (judge, ask, store_id) = (app.clone(), ask.clone(), store_id.clone());
        app.writer.write(move |connection| {
            if let Some(record) = known(connection, key.as_ref())? {
                return Ok((record.target, true));
            }
            let found = stores::find(connection, &store_id)?;
            let mut store = found.ok_or_else(|| Abort::Refused(Problem::new(Code::UnknownStore)))?;
            judge.still_sellable(&store, &look).map_err(Abort::Refused)?;
            if commands::is_full(connection, &store.id)? {
                return Err(Abort::Refused(Problem::new(Code::Overloaded)));
            }
            purchases::begin(connection, &mut store, &ask, now).map_err(refused)?;
            store.save(connection)?;
            if let Some(key) = &key {
                idempotency::bind(connection, key, Effect::Purchase, &ask.id.to_string(), now)?;
            }
            judge.wakes.mark(&store_id);
            Ok((ask.id.to_string(), false))
        })
    }
    .await?;
    match begun {
        Ok((id, replayed)) => bought(&app, &id, &prefer, replayed).await,
        Err(problem) if problem.code() == Code::InsufficientStock => {
            let others = app.alternatives(&store_id, &ask.product, ask.quantity)?;
            Err(problem.with("storeId", store_id.as_str()).with("alternatives", others))
        }
        Err(problem) if problem.code() == Code::UnknownProduct => {
            Err(app.unknown_product(&app.known(&store_id)?, &ask.product))
        }
        Err(problem) => Err(problem),
    }
}

/// A purchase takes units whatever the item's version, and stores judge no version for it.
fn refuse_if_match(write: &Write) -> Result<()> {
    match write.if_match {
        Some(_) => Err(Problem::invalid("If-Match", "purchases depend on no version: leave the header out")),
        None => Ok(()),
    }
}

fn refused(abort: Abort<Rejection>) -> Abort<Problem> {
    match abort {
        Abort::Refused(rejection) => Abort::Refused(rejection.into()),
        Abort::Database(error) => Abort::Database(error),
    }
}

/// Waits for a purchase's outcome and says it, with the item after it.
async fn bought(app: &App, id: &str, prefer: &Prefer, replayed: bool) -> Result<Response> {
    let purchase = app.await_purchase(id, prefer, |purchase| purchase.status != Status::Pending).await?;
    let mut headers: Vec<(HeaderName, HeaderValue)> = prefer.applied().into_iter().collect();
    if replayed {
        headers.push((HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true")));
    }
    if let Some(position) = &purchase.position {
        headers.push((POSITION, value(&position.to_string())));
    }
    headers.push((header::LOCATION, value(&format!("/v1/purchases/{id}"))));
    let mut response = match purchase.status {
        Status::Confirmed => (StatusCode::OK, Json(app.item_of(&purchase)?)).into_response(),
        Status::Pending => {
            headers.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
            (StatusCode::ACCEPTED, Json(app.item_of(&purchase)?)).into_response()
        }
        Status::Rejected | Status::Expired | Status::Cancelled => app.why_not(&purchase)?.into_response(),
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

impl App {
    /// A purchase, once it is as wanted or the wait is over.
    async fn await_purchase(&self, id: &str, prefer: &Prefer, wanted: impl Fn(&Purchase) -> bool) -> Result<Purchase> {
        let unknown = || Problem::new(Code::UnknownId);
        let key: PurchaseId = id.parse().map_err(|_| unknown())?;
        let look = || self.reader.point(|connection| purchases::find(connection, key))?.ok_or_else(unknown);
        self.waiting.until(&key.to_string(), || prefer.wait(), look, wanted).await
    }

    /// The item of the store's reply, or of the view while there is none, and the purchase.
    fn item_of(&self, purchase: &Purchase) -> Result<Value> {
        let found = self.reader.point(|connection| {
            let request = commands::find(connection, purchase.attempt.as_str())?;
            let replied = request.and_then(|request| request.outcome).and_then(|outcome| outcome.item);
            let item = match replied.filter(|_| purchase.status == Status::Confirmed) {
                Some(item) => Some(item),
                None => items::find(connection, &purchase.store, &purchase.product)?,
            };
            let store = stores::find(connection, &purchase.store)?;
            let pending = items::pending(connection, &purchase.store, &purchase.product)?;
            Ok(store.zip(item).map(|(store, item)| (store, item, pending)))
        })?;
        let mut json = match found {
            Some((store, item, pending)) => {
                let view = ItemView::of(self, &store, purchase.product.clone(), &item, pending);
                serde_json::to_value(view).map_err(Problem::internal)?
            }
            None => json!({"storeId": purchase.store, "productId": purchase.product}),
        };
        json["purchase"] =
            serde_json::to_value(PurchaseView::of(purchase, runtime::clock::now())).map_err(Problem::internal)?;
        Ok(json)
    }

    /// The problem that a purchase ended with.
    fn why_not(&self, purchase: &Purchase) -> Result<Problem> {
        let request = self.reader.point(|connection| commands::find(connection, purchase.attempt.as_str()))?;
        let rejection = request.and_then(|request| request.outcome).and_then(|outcome| outcome.rejection);
        let code = match purchase.status {
            Status::Expired => Code::PurchaseExpired,
            Status::Rejected => purchase.code.as_deref().and_then(Code::from_name).unwrap_or(Code::InsufficientStock),
            // Also `store_retired`: an operator ended it.
            _ => purchase.code.as_deref().and_then(Code::from_name).unwrap_or(Code::PurchaseCancelled),
        };
        let problem = match rejection.filter(|rejection| rejection.code() == code.as_str()) {
            Some(rejection) => Problem::from(rejection),
            None => Problem::new(code),
        };
        let problem = problem.with("purchaseId", purchase.id.to_string()).with("storeId", purchase.store.as_str());
        if code != Code::InsufficientStock {
            return Ok(problem);
        }
        let others = self.alternatives(&purchase.store, &purchase.product, purchase.quantity)?;
        Ok(problem.with("alternatives", others))
    }

    /// Other stores that would sell so many now, those with most first.
    fn alternatives(&self, except: &StoreId, product: &ProductId, quantity: i64) -> Result<Value> {
        let mut found = Vec::new();
        let offers = self.reader.point(|connection| super::availability::offers(connection, product))?;
        for (store, item, pending) in offers {
            let view = ItemView::of(self, &store, product.clone(), &item, pending);
            if store.id != *except && view.online_available >= quantity {
                found.push((view.online_available, store.id));
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        found.truncate(ALTERNATIVES);
        Ok(found.into_iter().map(|(units, store)| json!({"storeId": store, "onlineAvailable": units})).collect())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    store_id: Option<String>,
    status: Option<String>,
    customer_id: Option<String>,
    reference: Option<String>,
    product_id: Option<String>,
    since: Option<String>,
    page: Option<i64>,
    size: Option<i64>,
    cursor: Option<String>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<List<PurchaseView>>> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let (sql, values) = select(filter, &page)?;
    let rows = app
        .reader
        .scan(move |connection| {
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params_from_iter(values), Purchase::read)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let List { items, next_cursor } =
        List::cut(rows, &page, |purchase: &Purchase| encode_cursor(&[&purchase.number.to_string()]));
    let now = runtime::clock::now();
    Ok(Json(List { items: items.iter().map(|purchase| PurchaseView::of(purchase, now)).collect(), next_cursor }))
}

fn select(filter: Filter, page: &Page) -> Result<(String, Vec<Box<dyn ToSql + Send>>)> {
    let mut sql = format!("select {} from purchase where true", purchases::COLUMNS);
    let mut values: Vec<Box<dyn ToSql + Send>> = Vec::new();
    let columns = [
        ("store_id", filter.store_id),
        ("status", filter.status),
        ("customer_id", filter.customer_id),
        ("reference", filter.reference),
        ("product_id", filter.product_id),
    ];
    for (column, wanted) in columns {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" and {column} = ?"));
            values.push(Box::new(wanted));
        }
    }
    if let Some(since) = filter.since {
        let since = Millis::parse(&since).ok_or_else(|| Problem::invalid("?since", "a time is RFC 3339"))?;
        sql.push_str(" and created_at >= ?");
        values.push(Box::new(since.0));
    }
    if let Some(after) = &page.after {
        let number: i64 = after[0].parse().map_err(|_| Problem::invalid("?cursor", "not a cursor of this list"))?;
        sql.push_str(" and number < ?");
        values.push(Box::new(number));
    }
    sql.push_str(&format!(" order by number desc limit {} offset {}", page.limit(), page.offset));
    Ok((sql, values))
}

async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Response> {
    let purchase = app.await_purchase(&id, &prefer.only_if_asked(), |found| found.status != Status::Pending).await?;
    Ok(said(&purchase, StatusCode::OK, prefer))
}

fn said(purchase: &Purchase, status: StatusCode, prefer: Prefer) -> Response {
    let mut response = (status, Json(PurchaseView::of(purchase, runtime::clock::now()))).into_response();
    response.headers_mut().extend(prefer.applied());
    if status == StatusCode::ACCEPTED {
        let headers = response.headers_mut();
        headers.insert(header::LOCATION, value(&format!("/v1/purchases/{}", purchase.id)));
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Cancel {
    reason: Option<Text<0, 100>>,
    reference: Option<Text<0, 100>>,
}

async fn cancel(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    prefer: Prefer,
    OptionalBody { value, json }: OptionalBody<Cancel>,
) -> Result<Response> {
    refuse_if_match(&write)?;
    let key = key_of(&write, &json);
    app.replay(key.as_ref())?;
    let unknown = || Problem::new(Code::UnknownId);
    let purchase_id: PurchaseId = id.parse().map_err(|_| unknown())?;
    let about = About {
        reference: value.reference.or(value.reason).map(|text| text.0),
        actor: write.actor,
        traceparent: Some(write.traceparent),
        occurred_at: None,
    };
    let command = OperationId::from_uuid(uuid::Uuid::now_v7());
    let wakes = app.wakes.clone();
    let now = runtime::clock::now();
    let (asked, replayed) = app
        .writer
        .write(move |connection| {
            let bound = known(connection, key.as_ref())?;
            let found = purchases::find(connection, purchase_id)?;
            let purchase = found.ok_or_else(|| Abort::Refused(unknown()))?;
            let found = stores::find(connection, &purchase.store)?;
            let mut store = found.ok_or_else(|| Abort::Refused(Problem::new(Code::UnknownStore)))?;
            let cancelled = purchases::cancel(connection, &mut store, &purchase, command, &about, now);
            let cancelled = cancelled.map_err(refused)?;
            store.save(connection)?;
            if let (Some(key), None) = (&key, &bound) {
                idempotency::bind(connection, key, Effect::Cancel, &purchase_id.to_string(), now)?;
            }
            wakes.mark(&store.id);
            Ok::<_, Abort<Problem>>((cancelled, bound.is_some()))
        })
        .await??;
    if let Cancelled::Asked(command) = asked {
        let request = app.await_command(command.as_str(), &prefer).await?;
        let rejection = request.outcome.as_ref().and_then(|outcome| outcome.rejection.as_ref());
        // Retiring the store has ended a pending purchase, too: then the cancel has its way.
        let purchase = app.reader.point(|connection| purchases::find(connection, purchase_id))?;
        let confirmed = purchase.is_some_and(|purchase| purchase.status == Status::Confirmed);
        if let (true, Some(rejection @ (Rejection::AlreadyPicked | Rejection::StoreRetired))) = (confirmed, rejection) {
            return Err(Problem::from(rejection).with("purchaseId", id));
        }
    }
    let purchase = app.reader.point(|connection| purchases::find(connection, purchase_id))?;
    let purchase = purchase.ok_or_else(|| Problem::new(Code::UnknownId))?;
    let open = matches!(purchase.status, Status::Pending | Status::Confirmed);
    let mut response = said(&purchase, if open { StatusCode::ACCEPTED } else { StatusCode::OK }, prefer);
    if replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{database, plan};

    #[test]
    fn no_list_of_one_store_status_or_customer_reads_all_purchases() {
        let connection = database();
        let text = || Some("pending".to_owned());
        let filters = [
            Filter { status: text(), ..Filter::default() },
            Filter { status: text(), store_id: text(), ..Filter::default() },
            Filter { customer_id: text(), ..Filter::default() },
            Filter { reference: text(), ..Filter::default() },
        ];
        for filter in filters {
            let page = Page::of(None, None, None, 1).expect("valid");
            let (sql, _) = select(filter, &page).expect("valid");
            let plan = plan(&connection, &sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
