//! `GET /events`: what happened in this store.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::ids::StoreId;
use protocol::link::EntryId;
use protocol::time::Millis;
use protocol::wire::Event;
use runtime::http::{Code, Page, Problem, Query, Result};
use rusqlite::ToSql;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Shared};

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/events", get(list))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Filter {
    after: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    until: Option<String>,
    size: Option<i64>,
}

async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Json<Value>> {
    let page = Page::of(None, filter.size, None, 1)?;
    let mut sql = "select epoch, seq, type, operation_id, product_id, delta, recorded_at, \
                   case when type = 'snapshot_page' then '{}' else body end from ledger where true"
        .to_owned();
    let mut values: Vec<Box<dyn ToSql + Send>> = Vec::new();
    // Forward from `after`; without it the newest first, as records are.
    let forward = filter.after.is_some();
    if let Some(after) = filter.after {
        let own = format!("{}:", app.store);
        let after: EntryId = after
            .strip_prefix(&own)
            .unwrap_or(&after)
            .parse()
            .map_err(|_| Problem::invalid("?after", "not a position of this store"))?;
        let oldest: Option<(u64, u64)> = app.reader.point(|connection| {
            use rusqlite::OptionalExtension;
            connection
                .prepare_cached("select epoch, seq from ledger order by epoch, seq limit 1")?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?;
        if let Some((epoch, seq)) = oldest
            && after.epoch != 0
            && (after.epoch, after.seq + 1) < (epoch, seq)
        {
            let oldest = format!("{}:{epoch}-{seq}", app.store);
            return Err(Problem::new(Code::CursorExpired).with("oldest", oldest));
        }
        sql.push_str(" and (epoch, seq) > (?, ?)");
        values.push(Box::new(after.epoch));
        values.push(Box::new(after.seq));
    }
    let columns = [
        ("product_id", filter.product_id),
        ("type", filter.kind.map(|kind| if kind == "epoch_opened" { "opened".to_owned() } else { kind })),
        ("reference", filter.reference),
        ("actor", filter.actor),
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
            sql.push_str(&format!(" and recorded_at {comparison} ?"));
            values.push(Box::new(time.0));
        }
    }
    let order = if forward { "asc" } else { "desc" };
    sql.push_str(&format!(" order by epoch {order}, seq {order} limit {}", page.size));
    let store = app.store.clone();
    let items: Vec<Value> = app
        .reader
        .scan(move |connection| {
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params_from_iter(values), |row| view(&store, row))?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let next =
        if forward && items.len() == page.size { items.last().map(|event| event["position"].clone()) } else { None };
    Ok(Json(json!({"items": items, "nextCursor": next})))
}

fn view(store: &StoreId, row: &rusqlite::Row<'_>) -> rusqlite::Result<Value> {
    let place = EntryId { epoch: row.get(0)?, seq: row.get(1)? };
    let (kind, operation, body): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(7)?);
    let mut event = json!({
        "eventId": format!("{store}:{place}"),
        "storeId": store,
        "position": format!("{store}:{place}"),
        "type": if kind == "opened" { "epoch_opened" } else { &kind },
        "productId": row.get::<_, Option<String>>(4)?,
        "delta": row.get::<_, i64>(5)?,
        "operationId": operation,
        "recordedAt": Millis(row.get(6)?),
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
        event["traceparent"] = json!(fact.about.traceparent);
        if let Some(purchase) = &fact.purchase {
            event["purchaseId"] = json!(purchase.purchase_id);
        }
    }
    Ok(event)
}
