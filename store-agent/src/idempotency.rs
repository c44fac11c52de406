//! First answers by the caller's key, kept in the transaction of the effect.

use rusqlite::{Connection, OptionalExtension, params};
use shared::time::Millis;

/// A key and the request it came with.
#[derive(Debug, Clone)]
pub struct Key {
    /// As sent.
    pub key: String,
    /// Of method, path and body.
    pub fingerprint: [u8; 16],
    /// Method and path.
    pub route: String,
}

/// The first answer.
#[derive(Debug, Clone)]
pub struct Record {
    /// Of method, path and body.
    pub fingerprint: Vec<u8>,
    /// Method and path, for people.
    pub route: String,
    /// When.
    pub at: Millis,
    /// Its status.
    pub status: u16,
    /// Its JSON.
    pub body: String,
    /// Its `Shelf-Position`.
    pub position: String,
}

/// What is known of a key.
pub fn find(connection: &Connection, key: &str) -> rusqlite::Result<Option<Record>> {
    connection
        .prepare_cached("select fingerprint, route, at, status, body, position from idempotency where key = ?1")?
        .query_row([key], |row| {
            Ok(Record {
                fingerprint: row.get(0)?,
                route: row.get(1)?,
                at: Millis(row.get(2)?),
                status: row.get(3)?,
                body: row.get(4)?,
                position: row.get(5)?,
            })
        })
        .optional()
}

/// Keeps the first answer.
pub fn bind(
    connection: &Connection,
    key: &Key,
    status: u16,
    body: &str,
    position: &str,
    now: Millis,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into idempotency (key, fingerprint, route, at, status, body, position) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![key.key, key.fingerprint.as_slice(), key.route, now.0, status, body, position])?;
    Ok(())
}
