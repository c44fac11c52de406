//! Entries that this version of central, or of the agent, does not understand, or would not have written.

use central::storage::stores;
use protocol::ids::StoreId;
use protocol::link::{Cursor, Entry, EntryId};
use protocol::number::Commands;
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

/// Asks a store, in central's log and in the caller's transaction, for what only a later version of central would.
pub fn ask_unknown(file: &Connection, store: &str, kind: &str, body: &str, operation: &str) -> rusqlite::Result<()> {
    let store = StoreId::parse(store).expect("a store's id");
    let store = stores::find(file, &store)?.expect("central knows it");
    let entry = Entry::follow(&store.command_head, kind, operation, body.to_owned(), None);
    file.execute(
        "insert into command (store_id, epoch, seq, command_id, type, body, hash, created_at) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
        params![
            store.id.as_str(),
            entry.id.epoch.get(),
            entry.id.seq.get(),
            entry.operation,
            entry.kind,
            entry.body,
            HashColumn(entry.hash)
        ],
    )?;
    file.execute(
        "update store set command_seq = ?2, command_hash = ?3 where store_id = ?1",
        params![store.id.as_str(), entry.id.seq.get(), HashColumn(entry.hash)],
    )?;
    Ok(())
}

/// Where central's log of commands for a store ends.
pub fn command_head(file: &Connection, store: &str) -> rusqlite::Result<Cursor<Commands>> {
    let store = StoreId::parse(store).expect("a store's id");
    Ok(stores::find(file, &store)?.expect("central knows it").command_head)
}

/// Has central's log ask a store, behind a place, for something else than central did: kind and body.
pub fn rewrite_commands(
    file: &Connection,
    store: &str,
    mut behind: Cursor<Commands>,
    rewrite: impl Fn(String, String) -> (String, String),
) -> rusqlite::Result<()> {
    let asked = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?));
    let asked: Vec<(String, String, String)> = file
        .prepare(
            "select command_id, type, body from command where store_id = ?1 and epoch = ?2 and seq > ?3 order by seq",
        )?
        .query_map(params![store, behind.epoch.get(), behind.seq.get()], asked)?
        .collect::<Result<_, _>>()?;
    for (operation, kind, body) in asked {
        let (kind, body) = rewrite(kind, body);
        let entry = Entry::follow(&behind, &kind, &operation, body, None);
        file.execute(
            "update command set type = ?4, body = ?5, hash = ?6 where store_id = ?1 and epoch = ?2 and seq = ?3",
            params![store, entry.id.epoch.get(), entry.id.seq.get(), entry.kind, entry.body, HashColumn(entry.hash)],
        )?;
        behind = entry.cursor();
    }
    file.execute("update store set command_hash = ?2 where store_id = ?1", params![store, HashColumn(behind.hash)])?;
    Ok(())
}
