//! `GET` of an item at central and at a store, 64 connections. Limit: bare axum that answers the same JSON from memory.

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::load::Load;
use crate::row::{Reach, Row};
use crate::server::Server;
use crate::setup::{STORE, Setup, product};
use crate::{Effort, http};

const REACH: Reach = Reach::RatioAtLeast(0.75);

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("read: {} items", effort.items);
    let setup = Setup::one_store(effort.items)?;
    let limit = Server::start(Router::new().route("/v1/inventory/{store}/{product}", get(item)))?;
    let items = effort.items;
    let at_central = |port| {
        Load::new(port, move |number, request| {
            http::get(request, format_args!("/v1/inventory/{STORE}/{}", product(number, items)));
        })
    };
    let at_store = Load::new(setup.agent(STORE), move |number, request| {
        http::get(request, format_args!("/v1/inventory/{}", product(number, items)));
    });
    let (limit, central) = (at_central(limit.port()), at_central(setup.central()));
    let mut rows = [
        Row::new("read-central", "req/s", "bare axum GET", REACH),
        Row::new("read-store", "req/s", "bare axum GET", REACH),
    ];
    for _ in 0..effort.pairs {
        for (row, load) in rows.iter_mut().zip([&central, &at_store]) {
            let seen = load.closed(effort.warm_up, effort.time)?;
            row.add(seen.per_second, limit.closed(effort.warm_up, effort.time)?.per_second);
        }
    }
    setup.check()?;
    Ok(rows.into())
}

/// What central answers, by names and length.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    store_id: String,
    product_id: String,
    name: &'static str,
    quantity: u64,
    reserved: u64,
    allotted: u64,
    available: u64,
    discontinued: bool,
    low_at: Option<u64>,
    version: u64,
    updated_at: &'static str,
    pending: u64,
    online_available: u64,
    store_online: bool,
    as_of: &'static str,
}

async fn item(Path((store_id, product_id)): Path<(String, String)>) -> Json<Item> {
    Json(Item {
        store_id,
        product_id,
        name: "product-000000",
        quantity: 1_000_000,
        reserved: 0,
        allotted: 0,
        available: 1_000_000,
        discontinued: false,
        low_at: None,
        version: 1,
        updated_at: "2026-11-21T07:16:17.418Z",
        pending: 0,
        online_available: 1_000_000,
        store_online: true,
        as_of: "2026-11-21T07:16:17.418Z",
    })
}
