//! Entries that this version of central does not understand.

use protocol::link::{Entry, EntryId};
use protocol::time::Millis;
use runtime::sqlite::{DigestColumn, HashColumn};
use rusqlite::{Connection, params};
use store_agent::ledger;

/// Writes into a store's ledger, in the caller's transaction, what only a later version of the agent would.
pub fn record_unknown(
    file: &Connection,
    kind: &str,
    body: &str,
    operation: &str,
    now: Millis,
) -> rusqlite::Result<EntryId> {
    let mut head = ledger::head(file)?;
    let entry = Entry::follow(&head.cursor, kind, operation, body.to_owned(), Some(head.digest));
    file.execute(
        "insert into ledger (epoch, seq, type, operation_id, body, digest, hash, recorded_at) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            entry.id.epoch.get(),
            entry.id.seq.get(),
            entry.kind,
            entry.operation,
            entry.body,
            DigestColumn(head.digest),
            HashColumn(entry.hash),
            now.0
        ],
    )?;
    head.cursor = entry.cursor();
    ledger::save_head(file, &head)?;
    Ok(entry.id)
}
