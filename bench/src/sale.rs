//! A durable sale over HTTP, 64 connections, central stopped and central following.
//!
//! How many: limit is a `POST` echo on bare axum; beside it the smallest program that is as durable, the same echo behind a
//! group-committed SQLite transaction. How long: open load at half of what the store has just done, against that same
//! program at the same rate.

use std::sync::mpsc;
use std::thread;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::Effort;
use crate::database::{Database, Entry, Event};
use crate::row::{Reach, Row};
use crate::server::Server;
use crate::setup::{STORE, Setup, product_id};

const REACH: Reach = Reach::RatioAtLeast(0.38);
const REACH_P99_MS: Reach = Reach::ValueAtMost(20.0);
/// Sales of a commit, at most, like the agent's.
const GROUP: usize = 512;

/// What is measured of one state of central.
struct Rows {
    rate: Row,
    beside_commit: Row,
    p99: Row,
}

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("sale: {} items", effort.items);
    let mut setup = Setup::one_store(effort.items)?;
    let limits = Limits::start(&setup)?;
    let mut stopped = Rows {
        rate: Row::new("sale-alone", "req/s", "POST echo", REACH),
        beside_commit: Row::new("sale-alone-commit", "req/s", "group commit", Reach::Unset),
        p99: Row::new("sale-alone-p99", "ms", "group commit", REACH_P99_MS),
    };
    setup.stop_central();
    for _ in 0..effort.pairs {
        pair(&mut setup, &limits, effort, &mut stopped)?;
    }
    setup.start_central();
    setup.converge();
    let mut following = Rows {
        rate: Row::new("sale-followed", "req/s", "POST echo", REACH),
        beside_commit: Row::new("sale-followed-commit", "req/s", "group commit", Reach::Unset),
        p99: Row::new("sale-followed-p99", "ms", "group commit", REACH_P99_MS),
    };
    for _ in 0..effort.pairs {
        pair(&mut setup, &limits, effort, &mut following)?;
        // Central's catching up must not count against the next limit.
        setup.converge();
    }
    setup.check()?;
    Ok([stopped, following].into_iter().flat_map(|rows| [rows.rate, rows.beside_commit, rows.p99]).collect())
}

fn pair(setup: &mut Setup, limits: &Limits, effort: &Effort, rows: &mut Rows) -> anyhow::Result<()> {
    let (warm_up, time) = (effort.warm_up, effort.time);
    let echo = setup.sales(limits.echo.port()).closed(warm_up, time)?;
    let sale = setup.sales(setup.agent(STORE)).closed(warm_up, time)?;
    setup.sold(sale.answers)?;
    let commit = setup.sales(limits.commit.port()).closed(warm_up, time)?;
    rows.rate.add(sale.per_second, echo.per_second);
    rows.beside_commit.add(sale.per_second, commit.per_second);

    let rate = sale.per_second / 2.0;
    let sale = setup.sales(setup.agent(STORE)).open(rate, warm_up, time)?;
    setup.sold(sale.answers)?;
    let commit = setup.sales(limits.commit.port()).open(rate, warm_up, time)?;
    rows.p99.add(sale.latencies.quantile_ms(0.99), commit.latencies.quantile_ms(0.99));
    Ok(())
}

#[derive(Deserialize, Serialize)]
struct Sale {
    quantity: u32,
}

struct Limits {
    echo: Server,
    commit: Server,
}

impl Limits {
    fn start(setup: &Setup) -> anyhow::Result<Self> {
        let echo = Server::start(Router::new().route("/v1/purchase/{product}", post(echo)))?;
        let products = (0..setup.items()).map(product_id);
        let database = Database::create(&setup.dir().join("limit.db"), products)?;
        let (jobs, queue) = mpsc::channel();
        thread::Builder::new().name("limit-writer".to_owned()).spawn(move || write(database, &queue))?;
        let routes = Router::new().route("/v1/purchase/{product}", post(commit)).with_state(jobs);
        Ok(Self { echo, commit: Server::start(routes)? })
    }
}

async fn echo(Path(_): Path<String>, sale: Json<Sale>) -> Json<Sale> {
    sale
}

/// A sale that waits for its commit.
struct Job {
    product: String,
    committed: oneshot::Sender<()>,
}

async fn commit(
    State(jobs): State<mpsc::Sender<Job>>,
    Path(product): Path<String>,
    sale: Json<Sale>,
) -> Result<Json<Sale>, StatusCode> {
    let (committed, done) = oneshot::channel();
    // Neither can fail unless the writer has, which has then said why.
    jobs.send(Job { product, committed }).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    done.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(sale)
}

/// Commits what has queued, all at once, until nobody can ask any more.
fn write(mut database: Database, queue: &mpsc::Receiver<Job>) {
    let mut seq = 0;
    while let Ok(first) = queue.recv() {
        let group = std::iter::once(first).chain(queue.try_iter().take(GROUP - 1));
        let (products, waiting): (Vec<String>, Vec<oneshot::Sender<()>>) =
            group.map(|job| (job.product, job.committed)).unzip();
        let entries = products.into_iter().map(|product| {
            seq += 1;
            Entry::of(Event::sold(seq, product))
        });
        let entries: anyhow::Result<Vec<Entry>> = entries.collect();
        if let Err(error) = entries.and_then(|entries| database.record(&entries)) {
            eprintln!("the limit's writer: {error:#}");
            return;
        }
        for committed in waiting {
            // Who has gone away needs no answer.
            let _ = committed.send(());
        }
    }
}
