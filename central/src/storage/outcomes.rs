//! Outcomes of commands as the stores keep them (B2): the copy that a restored store gets back.

use protocol::ids::{OperationId, StoreId};
use protocol::time::Millis;
use protocol::wire::Outcome;
use rusqlite::{Connection, OptionalExtension, params};

const UNNAMED: &str = "select command_id, body from outcome where store_id = ?1 and stock < ?2 limit ?3";

/// Keeps what a store says of a command, with the stock of this generation or since.
pub fn keep(
    connection: &Connection,
    store: &StoreId,
    generation: i64,
    outcome: &Outcome,
    now: Millis,
) -> rusqlite::Result<()> {
    let body = serde_json::to_string(outcome).expect("an outcome serialises");
    connection
        .prepare_cached(
            "insert or replace into outcome (store_id, command_id, body, at, stock) values (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![store.as_str(), outcome.command.as_str(), body, now.0, generation])?;
    Ok(())
}

/// Those of older generations, at most so many: the state that came since does not name them. What cannot be read any more is
/// named alone.
pub fn unnamed(
    connection: &Connection,
    store: &StoreId,
    generation: i64,
    rows: usize,
) -> rusqlite::Result<Vec<(String, Option<Outcome>)>> {
    connection
        .prepare_cached(UNNAMED)?
        .query_map(params![store.as_str(), generation, rows], |row| {
            Ok((row.get(0)?, serde_json::from_str(row.get_ref(1)?.as_str()?).ok()))
        })?
        .collect()
}

/// Forgets what a store has said of a command.
pub fn forget(connection: &Connection, store: &StoreId, command: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("delete from outcome where store_id = ?1 and command_id = ?2")?
        .execute([store.as_str(), command])?;
    Ok(())
}

/// Whether there are any of older generations.
pub fn has_older(connection: &Connection, store: &StoreId, generation: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select exists (select 1 from outcome where store_id = ?1 and stock < ?2)")?
        .query_row(params![store.as_str(), generation], |row| row.get(0))
}

/// What a store has said of a command.
pub fn find(connection: &Connection, store: &StoreId, command: &OperationId) -> rusqlite::Result<Option<Outcome>> {
    let body: Option<String> = connection
        .prepare_cached("select body from outcome where store_id = ?1 and command_id = ?2")?
        .query_row(params![store.as_str(), command.as_str()], |row| row.get(0))
        .optional()?;
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

/// Those kept for a store whose command's id is greater, in order, at most so many.
pub fn behind(connection: &Connection, store: &StoreId, command: &str, rows: usize) -> rusqlite::Result<Vec<Outcome>> {
    connection
        .prepare_cached(
            "select body from outcome where store_id = ?1 and command_id > ?2 order by command_id limit ?3",
        )?
        .query_map(params![store.as_str(), command, rows], |row| row.get::<_, String>(0))?
        .map(|body| {
            serde_json::from_str(&body?).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
            })
        })
        .collect()
}
