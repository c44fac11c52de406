//! `GET /events`: everything that happened in the chain, in the order in which central applied it.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use protocol::time::Millis;
use protocol::wire::Event;
use runtime::http::{Page, Problem, Query, Result};
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
    let forward = filter.after.is_some();
    let time = |name: &str, bound: &Option<String>| match bound {
        Some(text) => Millis::parse(text).map(Some).ok_or_else(|| Problem::invalid(name, "a time is RFC 3339")),
        None => Ok(None),
    };
    let (since, until) = (time("?since", &filter.since)?, time("?until", &filter.until)?);
    let size = page.size;
    let items: Vec<Value> = app
        .reader
        .scan(move |connection| {
            let from = since.map(|since| place_at(connection, since)).transpose()?;
            let to = until.map(|until| place_at(connection, until)).transpose()?;
            let (sql, values) = select(filter, from, to, size);
            connection
                .prepare_cached(&sql)?
                .query_map(rusqlite::params_from_iter(values), view)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .await?;
    let next =
        if forward && items.len() == size { items.last().map(|event| event["chainSeq"].to_string()) } else { None };
    Ok(Json(json!({"items": items, "nextCursor": next})))
}

/// The place in the chain of the first entry that was received at this time or later: entries are received in the
/// chain's order, but for a clock that was set back.
fn place_at(connection: &rusqlite::Connection, at: Millis) -> rusqlite::Result<i64> {
    let mut low = 1;
    let mut high: i64 = connection
        .prepare_cached("select coalesce(max(chain_seq), 0) + 1 from event")?
        .query_row([], |row| row.get(0))?;
    let mut received =
        connection.prepare_cached("select received_at from event where chain_seq >= ?1 order by chain_seq limit 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        if received.query_row([middle], |row| row.get::<_, i64>(0))? >= at.0 {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

fn select(filter: Filter, from: Option<i64>, to: Option<i64>, size: usize) -> (String, Vec<Box<dyn ToSql + Send>>) {
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
    for (comparison, bound) in [(">=", from), ("<", to)] {
        if let Some(place) = bound {
            sql.push_str(&format!(" and chain_seq {comparison} ?"));
            values.push(Box::new(place));
        }
    }
    sql.push_str(&format!(" order by chain_seq {} limit {size}", if forward { "asc" } else { "desc" }));
    (sql, values)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan};

    #[test]
    fn a_time_is_found_in_the_chain_without_reading_all_of_it() {
        let connection = database();
        assert_eq!(place_at(&connection, NOW).expect("reads"), 1, "nothing yet");
        let mut agent = Agent::settled("s1", &connection);
        for _ in 0..5 {
            let sale = agent.sale();
            agent.tell(&connection, &[sale]);
        }
        connection.execute("update event set received_at = chain_seq * 10", []).expect("writes");
        let last: i64 = connection.query_row("select max(chain_seq) from event", [], |row| row.get(0)).expect("reads");
        for (at, place) in [(0, 0), (30, 3), (31, 4), (last * 10, last), (last * 10 + 1, last + 1)] {
            let found = place_at(&connection, Millis(at)).expect("reads");
            assert_eq!(found.max(1), place.max(1), "{at}");
        }
    }

    #[test]
    fn no_list_of_one_store_product_or_time_reads_all_events() {
        let connection = database();
        let text = || Some("x".to_owned());
        let filters = [
            (Filter { store_id: text(), ..Filter::default() }, None),
            (Filter { store_id: text(), ..Filter::default() }, Some(5)),
            (Filter { product_id: text(), after: Some(3), ..Filter::default() }, None),
            (Filter { reference: text(), ..Filter::default() }, None),
            (Filter::default(), Some(5)),
        ];
        for (filter, from) in filters {
            let (sql, _) = select(filter, from, from, 50);
            let plan = plan(&connection, &sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
