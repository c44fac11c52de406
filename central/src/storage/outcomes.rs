//! Outcomes of commands as the stores keep them (B2): the copy that a restored store gets back.

use protocol::ids::{OperationId, StoreId};
use protocol::time::Millis;
use protocol::wire::Outcome;
use rusqlite::{Connection, OptionalExtension, params};

/// Keeps what a store says of a command.
pub fn keep(connection: &Connection, store: &StoreId, outcome: &Outcome, now: Millis) -> rusqlite::Result<()> {
    let body = serde_json::to_string(outcome).expect("an outcome serialises");
    connection
        .prepare_cached("insert or replace into outcome (store_id, command_id, body, at) values (?1, ?2, ?3, ?4)")?
        .execute(params![store.as_str(), outcome.command.as_str(), body, now.0])?;
    Ok(())
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
