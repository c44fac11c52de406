//! What is done every hour: forgetting what may be forgotten (keys after seven days, acknowledged commands after thirty, in
//! small batches, so that nobody's write waits for it), and looking whether the view's rows are what its digests say.

use std::time::Duration;

use rusqlite::{Connection, params};
use shared::ids::StoreId;
use shared::sqlite::{Abort, Reader, WriteError, Writer};
use shared::time::Millis;
use tokio_util::sync::CancellationToken;

use crate::{idempotency, stores, view};

/// How long an acknowledged command and its answer are kept, ms: thirty days (L1).
const COMMANDS_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
const EVERY: Duration = Duration::from_secs(60 * 60);
/// Rows of a table looked at in one transaction.
const BATCH: usize = 500;

const KEYS: &str = "delete from idempotency where key in (select key from idempotency where at < ?1 limit ?2)";
const OUTCOMES: &str = "delete from outcome where (store_id, command_id) in (select store_id, command_id from outcome \
     where at < ?1 and not exists (select 1 from purchase where purchase.attempt = outcome.command_id \
     and purchase.status = 'confirmed' and purchase.picked_at is null) limit ?2)";
const REQUESTS: &str = "delete from request where number in (select number from request \
     where settled_at < ?1 and status <> 'pending' limit ?2)";
// The oldest first: behind the first one that is too young there is none to forget.
const COMMANDS: &str = "delete from command where store_id = ?1 and (epoch, seq) in (select epoch, seq from \
     (select epoch, seq, created_at from command where store_id = ?1 and (epoch, seq) < (?2, ?3) \
     order by epoch, seq limit ?5) where created_at < ?4)";

/// One batch of keys, answers and requests. Says whether there may be more.
pub fn prune(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let mut more = false;
    for (sql, kept_ms) in [(KEYS, idempotency::RETENTION_MS), (OUTCOMES, COMMANDS_MS), (REQUESTS, COMMANDS_MS)] {
        more |= connection.prepare_cached(sql)?.execute(params![now.0 - kept_ms, BATCH])? == BATCH;
    }
    Ok(more)
}

/// One batch of a store's commands that were appended before a time and lie below the acknowledged one. That one always
/// stays: the next ack is judged by it. Says whether there may be more.
fn prune_commands_of(connection: &Connection, id: &StoreId, before: Millis) -> rusqlite::Result<bool> {
    let Some(store) = stores::find(connection, id)? else { return Ok(false) };
    let forgotten = connection.prepare_cached(COMMANDS)?.execute(params![
        id.as_str(),
        store.command_head.epoch,
        store.command_acked,
        before.0,
        BATCH,
    ])?;
    Ok(forgotten == BATCH)
}

/// Forgets all stores' acknowledged commands that were appended before a time.
pub fn prune_commands(connection: &Connection, before: Millis) -> rusqlite::Result<()> {
    for store in stores::all(connection)? {
        while prune_commands_of(connection, &store.id, before)? {}
    }
    Ok(())
}

/// Prunes every hour until told to stop.
pub async fn run(writer: Writer, reader: Reader, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            pruned = pass(&writer, &reader) => pruned?,
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn pass(writer: &Writer, reader: &Reader) -> anyhow::Result<()> {
    let now = Millis::now();
    while batch(writer, move |connection| prune(connection, now)).await? {}
    let before = Millis(now.0 - COMMANDS_MS);
    for store in reader.scan(stores::all).await? {
        let id = store.id;
        let old = reader.point(|connection| {
            connection
                .prepare_cached("select created_at < ?2 from command where store_id = ?1 order by epoch, seq limit 1")?
                .query_map(params![id.as_str(), before.0], |row| row.get::<_, bool>(0))?
                .next()
                .unwrap_or(Ok(false))
        })?;
        let mut more = old;
        while more {
            let id = id.clone();
            more = batch(writer, move |connection| prune_commands_of(connection, &id, before)).await?;
        }
        inspect(writer, reader, id).await?;
    }
    Ok(())
}

/// Compares the rows of a store's view with its running digest, beside the writer; a store whose rows are not what they
/// should be is asked for its whole state.
async fn inspect(writer: &Writer, reader: &Reader, id: StoreId) -> anyhow::Result<()> {
    let inspected = id.clone();
    if reader.scan(move |connection| view::is_sound(connection, &inspected)).await? {
        return Ok(());
    }
    tracing::error!(store = %id, "the view's rows are not what its digest says: the store is asked for its whole state");
    let now = Millis::now();
    batch(writer, move |connection| view::distrust(connection, &id, now)).await?;
    Ok(())
}

async fn batch(
    writer: &Writer,
    job: impl FnOnce(&Connection) -> rusqlite::Result<bool> + Send + 'static,
) -> anyhow::Result<bool> {
    match writer.write(|connection| job(connection).map_err(Abort::<()>::Database)).await {
        Ok(done) => Ok(done.unwrap_or(false)),
        // When there is too much else to write it can wait for the next hour.
        Err(WriteError::Overloaded) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan};

    #[test]
    fn a_batch_reads_no_whole_table() {
        let connection = database();
        for sql in [KEYS, OUTCOMES, REQUESTS, COMMANDS] {
            let plan = plan(&connection, sql);
            for table in ["idempotency", "outcome", "request", "command", "purchase"] {
                assert!(!plan.contains(&format!("SCAN {table}")), "{sql}: {plan}");
            }
        }
    }

    #[test]
    fn commands_go_in_batches_up_to_the_acknowledged_one() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        for number in 0..10 {
            agent.buy(&connection, number);
        }
        let store = agent.store(&connection);
        let left =
            || connection.query_row("select count(*) from command", [], |row| row.get::<_, i64>(0)).expect("reads");
        assert_eq!(left(), 11);
        prune_commands(&connection, NOW.plus(1)).expect("prunes");
        assert_eq!(left(), 11, "nothing is acknowledged");
        stores::store_command_acked(&connection, &agent.id, store.command_head.epoch, 8).expect("writes");
        prune_commands(&connection, NOW).expect("prunes");
        assert_eq!(left(), 11, "all are young");
        prune_commands(&connection, NOW.plus(1)).expect("prunes");
        assert_eq!(left(), 4, "the acknowledged one stays");
        assert!(!prune(&connection, NOW).expect("prunes"));
    }
}
