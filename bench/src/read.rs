//! `GET` of an item at central and at a store, 64 connections. Limits: bare axum that answers the same JSON from memory, and
//! bare axum that reads the item from SQLite first, on the thread that serves.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::database::{Database, Reader};
use crate::load::Load;
use crate::row::{Reach, Row};
use crate::server::Server;
use crate::setup::{STORE, Setup, product, product_id};
use crate::{Effort, http};

const REACH: Reach = Reach::RatioAtLeast(0.75);

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("read: {} items", effort.items);
    let setup = Setup::one_store(effort.items)?;
    let limit = Server::start(Router::new().route("/v1/inventory/{store}/{product}", get(item)))?;
    let items = effort.items;
    let products = (0..effort.items).map(product_id);
    let file = setup.dir().join("limit.db");
    // Open as long as it is read, as a daemon has it.
    let _database = Database::create(&file, products)?;
    let routes = Router::new().route("/v1/inventory/{store}/{product}", get(item_of_database));
    let beside_database = Server::start(routes.with_state(Arc::new(file)))?;
    let at_central = |port| {
        Load::new(port, move |number, request| {
            http::get(request, format_args!("/v1/inventory/{STORE}/{}", product(number, items)));
        })
    };
    let at_store = Load::new(setup.agent(STORE), move |number, request| {
        http::get(request, format_args!("/v1/inventory/{}", product(number, items)));
    });
    let (limit, central) = (at_central(limit.port()), at_central(setup.central()));
    let beside_database = at_central(beside_database.port());
    let mut rows = [
        Row::new("read-central", "req/s", "bare axum GET", REACH),
        Row::new("read-central-sqlite", "req/s", "axum and SQLite", Reach::Unset),
        Row::new("read-store", "req/s", "bare axum GET", REACH),
        Row::new("read-store-sqlite", "req/s", "axum and SQLite", Reach::Unset),
    ];
    for _ in 0..effort.pairs {
        for (rows, load) in rows.chunks_mut(2).zip([&central, &at_store]) {
            let bare = limit.closed(effort.warm_up, effort.time)?;
            let seen = load.closed(effort.warm_up, effort.time)?;
            let with_database = beside_database.closed(effort.warm_up, effort.time)?;
            for (row, limit) in rows.iter_mut().zip([bare, with_database]) {
                row.add(seen.per_second, limit.per_second);
            }
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
    quantity: i64,
    reserved: u64,
    allotted: u64,
    available: i64,
    discontinued: bool,
    low_at: Option<u64>,
    version: i64,
    updated_at: &'static str,
    pending: u64,
    online_available: i64,
    store_online: bool,
    as_of: &'static str,
}

async fn item(Path((store_id, product_id)): Path<(String, String)>) -> Json<Item> {
    Json(answer(store_id, product_id, 1_000_000, 1))
}

thread_local! {
    static READER: RefCell<Option<Reader>> = const { RefCell::new(None) };
}

async fn item_of_database(
    State(file): State<Arc<PathBuf>>,
    Path((store_id, product_id)): Path<(String, String)>,
) -> Result<Json<Item>, StatusCode> {
    let found = READER.with_borrow_mut(|reader| match reader {
        Some(reader) => reader.item(&product_id),
        None => reader.insert(Reader::open(&file)?).item(&product_id),
    });
    let (quantity, version) = found.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Json(answer(store_id, product_id, quantity, version)))
}

fn answer(store_id: String, product_id: String, quantity: i64, version: i64) -> Item {
    Item {
        store_id,
        product_id,
        name: "product-000000",
        quantity,
        reserved: 0,
        allotted: 0,
        available: quantity,
        discontinued: false,
        low_at: None,
        version,
        updated_at: "2026-11-21T07:16:17.418Z",
        pending: 0,
        online_available: quantity,
        store_online: true,
        as_of: "2026-11-21T07:16:17.418Z",
    }
}
