//! Attacks on a small chain: hostile clients, a hostile store, hostile contents of Redis, and too much of everything.
//!
//! [`play`] goes through the cases, each in a world of its own: Redis, central, two stores. While an attack goes on a till
//! sells at the store that is attacked, a buyer buys at another one, and memory and descriptors of both processes are
//! watched (`probes`). A case is bounded in number and time and ends by itself; afterwards everything must be well again:
//! service, memory, and central equal to the stores. All of it stays on 127.0.0.0/8; tills and buyers come from 127.0.0.1,
//! the attack from other addresses, so that a limit for each peer can tell them apart.

mod arena;
mod connections;
mod discovery;
mod files;
mod mutated;
mod mutations;
mod probes;
mod report;
mod requests;
mod seeds;
mod stopping;
mod uploads;
mod values;
mod wire;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use anyhow::ensure;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use arena::{Arena, Form};
use report::{Log, Row};

/// How it is played.
#[derive(Debug, Clone)]
pub struct Options {
    /// Smaller attacks and wider bounds, for every change.
    pub quick: bool,
    /// Decides the mutated requests.
    pub seed: u64,
    /// Only cases whose name contains this.
    pub only: String,
    /// Only this one of the mutated requests, with what is sent and answered.
    pub request: Option<u64>,
}

/// Attacks at a time in the quick form, each in its own world.
const LANES: usize = 4;

type Play = for<'a> fn(&'a mut Arena) -> LocalBoxFuture<'a, anyhow::Result<()>>;

struct Case {
    name: &'static str,
    about: &'static str,
    play: Play,
}

macro_rules! cases {
    ($($name:literal $play:path: $about:literal;)+) => {
        const CASES: &[Case] = &[$(Case { name: $name, about: $about, play: |arena| Box::pin($play(arena)) }),+];
    };
}

cases! {
    "ids" discovery::ids: "unknown ids in the set of stores, then taken out again";
    "bells" discovery::bells: "bells of unknown ids, as fast as Redis takes them";
    "heartbeat" values::heartbeat: "a heartbeat of hundreds of megabytes, and buyers who ask for its store";
    "ack" values::ack: "an acknowledgement of that size";
    "entry" values::entry: "one stream entry of 200 MB";
    "types" values::types: "every key of one store has a wrong type";
    "changing" values::changing: "every key of one store changes type all the time";
    "denied" values::denied: "Redis refuses central one store's acknowledgement (NOPERM)";
    "suspect" values::suspect: "a store announces entries, goes on with heartbeats, and executes nothing";
    "frozen" values::frozen: "Redis is stopped and goes on later";
    "descriptors" connections::descriptors: "1,100 idle connections where 1,024 descriptors are allowed";
    "idle" connections::idle: "thousands of idle connections on both servers";
    "half-sent" connections::half_sent: "thousands of requests that never end, a byte now and then, on both servers";
    "listing" connections::listing: "400 connections list events, 1,000 at a time, on both servers";
    "slow-readers" connections::slow_readers: "clients that ask for large answers and do not read them";
    "stalled" uploads::stalled: "1,100 bodies that do not arrive, on both servers";
    "imports" uploads::imports: "520 imports that drip";
    "more-imports" uploads::more_imports: "1,040 imports that drip";
    "parameters" requests::parameters: "requests with 9,500 parameters";
    "rules" requests::rules: "hosts, origins, headers and texts that must be refused";
    "database-deleted" files::deleted: "the database file is deleted under the running process";
    "database-replaced" files::replaced: "the database file is replaced by a copy of it";
    "wal-deleted" files::wal_deleted: "the write-ahead log is deleted";
    "stopping" stopping::stopping: "SIGTERM while clients drip, stall and do not read";
    "mutated" mutated::mutated: "valid requests of every route, mutated";
}

/// Goes through the cases. Whether all bounds were held; an error is one of this program or this machine.
pub async fn play(options: &Options) -> anyhow::Result<bool> {
    ensure!(cfg!(target_os = "linux"), "the attack needs Linux: /proc, and all of 127.0.0.0/8");
    let log = Log::default();
    let form = if options.quick { Form::Quick } else { Form::Full };
    let only = if options.request.is_some() { "mutated" } else { &options.only };
    let cases: Vec<&Case> = CASES.iter().filter(|case| case.name.contains(only)).collect();
    ensure!(!cases.is_empty(), "no case has {only:?} in its name: {:?}", names());
    connections::raise_limit()?;
    let rows = cases.into_iter().enumerate().map(async |(place, case)| {
        log.say(case.name, case.about);
        let began = Instant::now();
        // A world that does not come up panics with its logs: a case that could not be played, the others go on.
        let played = AssertUnwindSafe(play_case(case, form, options, log)).catch_unwind().await;
        let row = match played {
            Ok(Ok(arena)) => Row::of(case.name, arena),
            Ok(Err(error)) => Row::failed(case.name, format!("{error:#}")),
            Err(_) => Row::failed(case.name, "panicked, see above".into()),
        };
        log.say(case.name, &format!("{} s: {}", began.elapsed().as_secs(), row.summary()));
        row.findings.iter().for_each(|finding| println!("{:>30}{finding}", ""));
        (place, row)
    });
    // Times in milliseconds need a machine of their own; conditions do not.
    let mut rows: Vec<(usize, Row)> = stream::iter(rows).buffer_unordered(form.of(1, LANES)).collect().await;
    rows.sort_by_key(|(place, _)| *place);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    report::print(&rows);
    Ok(rows.iter().all(|row| row.findings.is_empty()))
}

async fn play_case(case: &Case, form: Form, options: &Options, log: Log) -> anyhow::Result<Arena> {
    let mut arena = Arena::start(case.name, form, options, log).await?;
    if let Err(error) = (case.play)(&mut arena).await {
        arena.find(format!("{error:#}"));
    }
    arena.recover().await;
    arena.find_panics()?;
    Ok(arena)
}

fn names() -> Vec<&'static str> {
    CASES.iter().map(|case| case.name).collect()
}
