//! Forgetting what may be forgotten: keys after seven days, acknowledged commands after thirty.

use std::time::Duration;

use rusqlite::{Connection, params};
use shared::sqlite::{Abort, WriteError, Writer};
use shared::time::Millis;
use tokio_util::sync::CancellationToken;

use crate::idempotency;

/// How long an acknowledged command and its answer are kept, ms: thirty days (L1).
const COMMANDS_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
const EVERY: Duration = Duration::from_secs(60 * 60);

/// One pass.
pub fn prune(connection: &Connection, now: Millis) -> rusqlite::Result<()> {
    connection.execute("delete from idempotency where at < ?1", [now.0 - idempotency::RETENTION_MS])?;
    prune_commands(connection, Millis(now.0 - COMMANDS_MS))?;
    connection.execute(
        "delete from outcome where at < ?1 and not exists (select 1 from purchase \
         where purchase.attempt = outcome.command_id and purchase.status = 'confirmed' \
         and purchase.picked_at is null)",
        [now.0 - COMMANDS_MS],
    )?;
    connection
        .execute("delete from request where status <> 'pending' and settled_at < ?1", params![now.0 - COMMANDS_MS])?;
    Ok(())
}

/// Forgets commands appended before a time that lie below the acknowledged one. That one always stays: the next ack is
/// judged by it.
pub fn prune_commands(connection: &Connection, before: Millis) -> rusqlite::Result<()> {
    connection.execute(
        "delete from command where created_at < ?1 and exists (select 1 from store \
         where store.store_id = command.store_id and (command.epoch < store.command_epoch \
         or (command.epoch = store.command_epoch and command.seq < store.command_acked)))",
        [before.0],
    )?;
    Ok(())
}

/// Prunes every hour until told to stop.
pub async fn run(writer: Writer, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match writer.write(|connection| prune(connection, Millis::now()).map_err(Abort::<()>::Database)).await {
            // When there is too much else to write it can wait for the next hour.
            Ok(_) | Err(WriteError::Overloaded) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
