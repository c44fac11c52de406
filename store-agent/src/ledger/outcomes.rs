//! Answers to commands, by the command's id: one that comes again gets its answer again and has no effect.

use protocol::ids::OperationId;
use protocol::wire::{Became, Outcome};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};

/// The outcome kept for a command.
pub fn find(connection: &Connection, command: &OperationId) -> rusqlite::Result<Option<Outcome>> {
    let body: Option<String> = connection
        .prepare_cached("select body from outcome where command_id = ?1")?
        .query_row([command.as_str()], |row| row.get(0))
        .optional()?;
    body.map(|body| read(&body)).transpose()
}

/// All of them, by the commands' ids.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Outcome>> {
    connection
        .prepare_cached("select body from outcome order by command_id")?
        .query_map([], |row| row.get::<_, String>(0))?
        .map(|body| read(&body?))
        .collect()
}

fn read(body: &str) -> rusqlite::Result<Outcome> {
    serde_json::from_str(body)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

/// Keeps an outcome; it takes the place of an earlier one of the same command.
pub(crate) fn keep(connection: &Connection, outcome: &Outcome) -> rusqlite::Result<()> {
    let body = serde_json::to_string(outcome).expect("an outcome serialises");
    let waits = matches!(&outcome.became, Became::Confirmed { purchase, picked: false, .. } if purchase.attempt == outcome.command);
    connection
        .prepare_cached(
            "insert into outcome (command_id, body, at, waits) values (?1, ?2, ?3, ?4) \
             on conflict (command_id) do update set body = excluded.body, at = excluded.at, waits = excluded.waits",
        )?
        .execute(params![outcome.command.as_str(), body, outcome.at.0, waits])?;
    Ok(())
}
