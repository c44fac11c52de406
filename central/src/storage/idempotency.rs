//! What a caller's key stands for. Kept in the transaction of the effect; what is kept is the effect, so that a
//! repetition tells its present state.

use protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension, params};

/// How long a key is remembered, ms: seven days.
pub const RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// What kind of effect it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Purchase,
    /// A command to a store.
    Command,
    /// A purchase's cancellation.
    Cancel,
    /// An operator's change of a store.
    Store,
    /// An operator's word about a webhook.
    Webhook,
    /// An operator's word about a projection.
    Projection,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::Command => "command",
            Self::Cancel => "cancel",
            Self::Store => "store",
            Self::Webhook => "webhook",
            Self::Projection => "projection",
        }
    }
}

impl std::str::FromStr for Effect {
    type Err = protocol::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Purchase, Self::Command, Self::Cancel, Self::Store, Self::Webhook, Self::Projection]
            .into_iter()
            .find(|effect| effect.as_str() == text)
            .ok_or_else(|| protocol::ids::Invalid(format!("no effect {text:?}")))
    }
}

/// A remembered key.
#[derive(Debug, Clone)]
pub struct Record {
    /// Of method, path and body.
    pub fingerprint: Vec<u8>,
    /// Method and path, for people.
    pub route: String,
    pub at: Millis,
    /// What kind of effect.
    pub effect: Effect,
    /// The purchase's, command's, store's or webhook's id, or the projection's name.
    pub target: String,
}

/// A key and the request it came with.
#[derive(Debug, Clone)]
pub struct Key {
    pub key: String,
    /// Of method, path and body.
    pub fingerprint: [u8; 16],
    /// Method and path.
    pub route: String,
}

/// What is known of a key.
pub fn find(connection: &Connection, key: &str) -> rusqlite::Result<Option<Record>> {
    connection
        .prepare_cached("select fingerprint, route, at, kind, target from idempotency where key = ?1")?
        .query_row([key], |row| {
            Ok(Record {
                fingerprint: row.get(0)?,
                route: row.get(1)?,
                at: Millis(row.get(2)?),
                effect: runtime::sqlite::parsed(row, 3)?,
                target: row.get(4)?,
            })
        })
        .optional()
}

/// Binds a key to its effect.
pub fn bind(connection: &Connection, key: &Key, effect: Effect, target: &str, now: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into idempotency (key, fingerprint, route, at, kind, target) values (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![key.key, key.fingerprint.as_slice(), key.route, now.0, effect.as_str(), target])?;
    Ok(())
}
