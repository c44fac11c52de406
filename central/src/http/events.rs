//! `GET /events`: everything that happened in the chain, in the order in which central applied it.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use rusqlite::ToSql;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::http::{Page, Problem, Query, Result};
use shared::time::Millis;
use shared::wire::Event;

use super::{App, Shared};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/events", get(list))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    after: Option<i64>,
    store_id: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    since: Option<String>,
    until: Option<String>,
    size: Option<i64>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<Value>> {
    let page = Page::of(None, filter.size, None, 1)?;
    let mut sql = "select chain_seq, store_id, epoch, seq, type, operation_id, product_id, delta, received_at, \
                   case when type = 'snapshot_page' then '{}' else body end from event where true"
        .to_owned();
    let mut values: Vec<Box<dyn ToSql + Send>> = Vec::new();
    // Forward from `after`; without it the newest first, as records are.
    let forward = filter.after.is_some();
    if let Some(after) = filter.after {
        sql.push_str(" and chain_seq > ?");
        values.push(Box::new(after));
    }
    let columns = [
        ("store_id", filter.store_id),
        ("product_id", filter.product_id),
        ("type", filter.kind.map(|kind| if kind == "epoch_opened" { "opened".to_owned() } else { kind })),
        ("reference", filter.reference),
    ];
    for (column, wanted) in columns {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" and {column} = ?"));
            values.push(Box::new(wanted));
        }
    }
    for (name, comparison, bound) in [("since", ">=", filter.since), ("until", "<", filter.until)] {
        if let Some(bound) = bound {
            let time =
                Millis::parse(&bound).ok_or_else(|| Problem::invalid(format!("?{name}"), "a time is RFC 3339"))?;
            sql.push_str(&format!(" and received_at {comparison} ?"));
            values.push(Box::new(time.0));
        }
    }
    sql.push_str(&format!(" order by chain_seq {} limit {}", if forward { "asc" } else { "desc" }, page.size));
    let items: Vec<Value> = app
        .reader
        .scan(move |connection| {
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params_from_iter(values), view)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let next = if forward && items.len() == page.size {
        items.last().map(|event| event["chainSeq"].to_string())
    } else {
        None
    };
    Ok(Json(json!({"items": items, "nextCursor": next})))
}

fn view(row: &rusqlite::Row<'_>) -> rusqlite::Result<Value> {
    let (chain_seq, store): (i64, String) = (row.get(0)?, row.get(1)?);
    let (epoch, seq): (u64, u64) = (row.get(2)?, row.get(3)?);
    let (kind, operation): (String, String) = (row.get(4)?, row.get(5)?);
    let body: String = row.get(9)?;
    let mut event = json!({
        "eventId": format!("{store}:{epoch}-{seq}"),
        "storeId": store,
        "position": format!("{store}:{epoch}-{seq}"),
        "chainSeq": chain_seq,
        "type": if kind == "opened" { "epoch_opened" } else { &kind },
        "productId": row.get::<_, Option<String>>(6)?,
        "delta": row.get::<_, i64>(7)?,
        "operationId": operation,
        "receivedAt": Millis(row.get(8)?),
    });
    if let Ok(Event::Fact(_, fact)) = Event::decode(&kind, &body) {
        if let Some(item) = &fact.item {
            event["quantity"] = item.quantity.into();
            event["reserved"] = item.reserved.into();
            event["allotted"] = item.allotted.into();
            event["version"] = item.version.into();
        }
        event["cause"] = json!(if fact.command.is_some() { "command" } else { "store" });
        event["reason"] = json!(fact.reason);
        event["reference"] = json!(fact.about.reference);
        event["actor"] = json!(fact.about.actor);
        event["occurredAt"] = json!(fact.about.occurred_at.unwrap_or(fact.recorded_at));
        event["recordedAt"] = json!(fact.recorded_at);
        event["traceparent"] = json!(fact.about.traceparent);
        if let Some(purchase) = &fact.purchase {
            event["purchaseId"] = json!(purchase.purchase_id);
        }
    }
    Ok(event)
}
