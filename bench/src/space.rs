//! Where it is kept: Redis's memory for a store, databases' growth by an event, and the logs of the databases while they are
//! written to without a pause.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, OpenFlags};

use crate::Effort;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup};

/// More than a window.
const UNSENT: u64 = 3_000;
/// Sixteen times as much as SQLite lets it become before it makes it part of the database.
const LOG_MIB: Reach = Reach::ValueAtMost(64.0);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("space: {} items", effort.items);
    let mut setup = Setup::one_store(effort.items)?;
    let mut rows = Vec::new();
    let mut alone = |name: &str, unit, reach, value| {
        let mut row = Row::alone(format!("space-{name}"), unit, reach);
        row.observe(value);
        rows.push(row);
    };
    alone("redis-store", "KiB", Reach::Unset, setup.redis_bytes_of(STORE)? as f64 / 1_024.0);
    setup.stop_central();
    setup.sales(setup.agent(STORE)).exactly(UNSENT)?;
    setup.sold(UNSENT)?;
    let full = setup.redis_bytes_of(STORE)?;
    alone("redis-store-window-full", "KiB", Reach::Unset, full as f64 / 1_024.0);
    setup.start_central();
    setup.converge();

    let files = [("agent", setup.dir().join(format!("{STORE}.db"))), ("central", setup.dir().join("central.db"))];
    let before: Vec<u64> = files.iter().map(|(_, file)| size(file)).collect::<anyhow::Result<_>>()?;
    let events = effort.backlog.min(effort.requests * 2);
    setup.sales(setup.agent(STORE)).exactly(events)?;
    setup.sold(events)?;
    setup.converge();
    for ((name, file), before) in files.iter().zip(before) {
        let grown = size(file)?.saturating_sub(before);
        alone(&format!("{name}-event"), "bytes", Reach::Unset, grown as f64 / events as f64);
    }

    let logs = files.each_ref().map(|(name, file)| (*name, file.with_extension("db-wal")));
    let sales = setup.sales(setup.agent(STORE));
    let over = AtomicBool::new(false);
    let (answers, most) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = [0; 2];
            while !over.load(Ordering::Relaxed) {
                for ((_, log), most) in logs.iter().zip(&mut most) {
                    *most = (*most).max(log.metadata().map_or(0, |file| file.len()));
                }
                thread::sleep(LOOK_EVERY);
            }
            most
        });
        let sold = sales.closed(Duration::ZERO, effort.time);
        over.store(true, Ordering::Relaxed);
        let most = watching.join().map_err(|_| anyhow::anyhow!("who looks at the files panicked"))?;
        anyhow::Ok((sold?.answers, most))
    })?;
    setup.sold(answers)?;
    for ((name, _), most) in logs.iter().zip(most) {
        alone(&format!("{name}-log"), "MiB", LOG_MIB, most as f64 / f64::from(1 << 20));
    }
    setup.check()?;
    Ok(rows)
}

/// Of a database, what is still in its log included, bytes.
fn size(file: &Path) -> anyhow::Result<u64> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| file.display().to_string())?;
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok((number("page_count")? - number("freelist_count")?) * number("page_size")?)
}
