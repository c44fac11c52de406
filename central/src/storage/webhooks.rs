//! Webhooks: where events are sent, how far each has come, and what came of the attempts.
//!
//! **Guarantees.** What is kept of a webhook's progress is written by the deliveries that its row begot: an operator's word
//! moves the row's generation on, and what began before it changes nothing any more.

use std::collections::BTreeMap;

use protocol::time::Millis;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Attempts that are kept of each webhook, the newest.
const ATTEMPTS: usize = 1_000;

/// Whether a webhook gets what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It gets what happens.
    Active,
    /// Nothing was delivered for three days.
    Parked,
    /// Its endpoint has said that it wants no more.
    Disabled,
}

impl Status {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Parked => "parked",
            Self::Disabled => "disabled",
        }
    }

    /// Reads the stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Parked, Self::Disabled].into_iter().find(|status| status.as_str() == name)
    }
}

/// A store whose events are held back, behind one that failed or because there are many: what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its events up to this place of the chain are delivered.
    pub delivered_to: i64,
    /// Attempts that the next event has failed. 0: it is sent as soon as there is a place.
    pub failures: u32,
    pub next_at: Millis,
}

/// What is kept of a webhook's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub status: Status,
    /// Each event up to this place of the chain is delivered, or its store is held back.
    pub cursor: i64,
    /// When the first of the failures was since which nothing was delivered.
    pub failing_since: Option<Millis>,
    pub held: BTreeMap<String, Held>,
}

impl Progress {
    /// At a place of the chain, with nothing held back.
    pub fn at(cursor: i64) -> Self {
        Self { status: Status::Active, cursor, failing_since: None, held: BTreeMap::new() }
    }

    /// Everything up to this place is delivered.
    pub fn delivered_to(&self) -> i64 {
        self.held.values().map(|held| held.delivered_to).fold(self.cursor, i64::min)
    }

    /// Stores whose next event has failed. The others that are held back have more to tell than can be sent so fast.
    pub fn failing(&self) -> impl Iterator<Item = (&String, &Held)> {
        self.held.iter().filter(|(_, held)| held.failures > 0)
    }
}

/// What has changed of the progress since it was kept last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    pub status: Status,
    pub cursor: i64,
    pub failing_since: Option<Millis>,
    /// `None`: the store is held back no longer.
    pub held: Vec<(String, Option<Held>)>,
}

/// A webhook as it was registered, and how it is.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its row.
    pub number: i64,
    pub id: String,
    pub url: String,
    /// Types of events as clients name them; none: all.
    pub types: Vec<String>,
    /// Stores whose events it gets; none: all.
    pub stores: Vec<String>,
    pub secret: Vec<u8>,
    /// The secret before that, and until when it still signs.
    pub previous: Option<(Vec<u8>, Millis)>,
    /// Moves on with each of an operator's words.
    pub generation: i64,
    pub created_at: Millis,
    pub progress: Progress,
}

/// A webhook that is to be registered.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    pub id: String,
    pub url: String,
    pub types: Vec<String>,
    pub stores: Vec<String>,
    pub secret: Vec<u8>,
}

/// What came of an attempt.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// `None`: it was a test.
    pub event_id: Option<String>,
    /// The first is 1.
    pub attempt: u32,
    pub at: Millis,
    pub duration_ms: i64,
    /// What the endpoint answered, or why it did not.
    pub answer: Result<u16, String>,
}

/// An attempt that is kept.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub number: i64,
    pub attempted: Attempted,
}

const COLUMNS: &str = "number, webhook_id, url, types, stores, secret, previous_secret, previous_until, generation, \
     created_at, status, cursor, failing_since";

fn read(row: &Row<'_>) -> rusqlite::Result<Webhook> {
    let list = |column: usize| -> rusqlite::Result<Vec<String>> {
        let json = row.get_ref(column)?.as_str()?;
        serde_json::from_str(json).map_err(|error| refused(column, error))
    };
    let previous: Option<Vec<u8>> = row.get(6)?;
    let until: Option<i64> = row.get(7)?;
    let status: String = row.get(10)?;
    let status = Status::from_name(&status).ok_or_else(|| refused(10, format!("no status: {status}")))?;
    Ok(Webhook {
        number: row.get(0)?,
        id: row.get(1)?,
        url: row.get(2)?,
        types: list(3)?,
        stores: list(4)?,
        secret: row.get(5)?,
        previous: previous.zip(until.map(Millis)),
        generation: row.get(8)?,
        created_at: Millis(row.get(9)?),
        progress: Progress {
            status,
            cursor: row.get(11)?,
            failing_since: row.get::<_, Option<i64>>(12)?.map(Millis),
            held: BTreeMap::new(),
        },
    })
}

fn refused(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}

fn with_held(connection: &Connection, mut webhook: Webhook) -> rusqlite::Result<Webhook> {
    let mut statement = connection.prepare_cached(
        "select store_id, delivered_to, failures, next_at from webhook_held where webhook = ?1 order by store_id",
    )?;
    let held = statement.query_map([webhook.number], |row| {
        Ok((row.get(0)?, Held { delivered_to: row.get(1)?, failures: row.get(2)?, next_at: Millis(row.get(3)?) }))
    })?;
    webhook.progress.held = held.collect::<rusqlite::Result<_>>()?;
    Ok(webhook)
}

/// One webhook, with what is held back.
pub fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Webhook>> {
    let webhook = connection
        .prepare_cached(&format!("select {COLUMNS} from webhook where webhook_id = ?1"))?
        .query_row([id], read)
        .optional()?;
    webhook.map(|webhook| with_held(connection, webhook)).transpose()
}

/// All webhooks, the newest first, with what is held back.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Webhook>> {
    let webhooks: Vec<Webhook> = connection
        .prepare_cached(&format!("select {COLUMNS} from webhook order by number desc"))?
        .query_map([], read)?
        .collect::<rusqlite::Result<_>>()?;
    webhooks.into_iter().map(|webhook| with_held(connection, webhook)).collect()
}

/// Those that get what happens: row, id and generation of each.
pub fn active(connection: &Connection) -> rusqlite::Result<Vec<(i64, String, i64)>> {
    connection
        .prepare_cached("select number, webhook_id, generation from webhook where status = 'active' order by number")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// How many there are.
pub fn count(connection: &Connection) -> rusqlite::Result<usize> {
    connection.prepare_cached("select count(*) from webhook")?.query_row([], |row| row.get(0))
}

/// Registers one: it gets what happens from now on.
pub fn insert(connection: &Connection, new: &NewWebhook, now: Millis) -> rusqlite::Result<()> {
    let list = |texts: &[String]| serde_json::to_string(texts).expect("texts serialise");
    connection
        .prepare_cached(
            "insert into webhook (webhook_id, url, types, stores, secret, status, cursor, created_at) \
             values (?1, ?2, ?3, ?4, ?5, 'active', (select coalesce(max(chain_seq), 0) from event), ?6)",
        )?
        .execute(params![new.id, new.url, list(&new.types), list(&new.stores), new.secret, now.0])?;
    Ok(())
}

/// Takes one away, with all that is kept of it. Says whether it was there.
pub fn delete(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    let Some(webhook) = find(connection, id)? else { return Ok(false) };
    for sql in [
        "delete from webhook_delivery where webhook = ?1",
        "delete from webhook_held where webhook = ?1",
        "delete from webhook where number = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([webhook.number])?;
    }
    Ok(true)
}

/// Sends everything behind a place of the chain again, also if it was parked or disabled. Says whether there is such a
/// webhook.
pub fn replay(connection: &Connection, id: &str, after: i64) -> rusqlite::Result<bool> {
    let known = connection
        .prepare_cached(
            "update webhook set cursor = ?2, status = 'active', failing_since = null, generation = generation + 1 \
             where webhook_id = ?1",
        )?
        .execute(params![id, after])?
        > 0;
    connection
        .prepare_cached("delete from webhook_held where webhook = (select number from webhook where webhook_id = ?1)")?
        .execute([id])?;
    Ok(known)
}

/// Signs with another secret from now on; with the one before, too, until a time. Says whether there is such a webhook.
pub fn rotate(connection: &Connection, id: &str, secret: &[u8], until: Millis) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached(
            "update webhook set previous_secret = secret, previous_until = ?3, secret = ?2, \
             generation = generation + 1 where webhook_id = ?1",
        )?
        .execute(params![id, secret, until.0])?;
    Ok(changed > 0)
}

/// Keeps what attempts came to. `false`: an operator has decided something since; nothing was kept.
pub fn save(
    connection: &Connection,
    number: i64,
    generation: i64,
    changes: &Changes,
    attempted: &[Attempted],
) -> rusqlite::Result<bool> {
    let is_current = connection
        .prepare_cached(
            "update webhook set status = ?3, cursor = ?4, failing_since = ?5 where number = ?1 and generation = ?2",
        )?
        .execute(params![
            number,
            generation,
            changes.status.as_str(),
            changes.cursor,
            changes.failing_since.map(|since| since.0)
        ])?
        > 0;
    if !is_current {
        return Ok(false);
    }
    for (store, held) in &changes.held {
        match held {
            Some(Held { delivered_to, failures, next_at }) => connection
                .prepare_cached("insert or replace into webhook_held values (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![number, store, delivered_to, failures, next_at.0])?,
            None => connection
                .prepare_cached("delete from webhook_held where webhook = ?1 and store_id = ?2")?
                .execute(params![number, store])?,
        };
    }
    for one in attempted {
        log(connection, number, one)?;
    }
    Ok(true)
}

const OLD: &str = "select delivery_id from webhook_delivery where webhook = ?1 order by delivery_id desc \
     limit 1 offset ?2";

/// Keeps an attempt, and forgets the one that is one too many. Its number.
pub fn log(connection: &Connection, webhook: i64, attempted: &Attempted) -> rusqlite::Result<i64> {
    let Attempted { event_id, attempt, at, duration_ms, answer } = attempted;
    connection
        .prepare_cached(
            "insert into webhook_delivery (webhook, event_id, attempt, at, duration_ms, status_code, error) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![webhook, event_id, attempt, at.0, duration_ms, answer.as_ref().ok(), answer.as_ref().err()])?;
    let number = connection.last_insert_rowid();
    connection
        .prepare_cached(&format!("delete from webhook_delivery where webhook = ?1 and delivery_id <= ({OLD})"))?
        .execute(params![webhook, ATTEMPTS])?;
    Ok(number)
}

const DELIVERIES: &str = "select delivery_id, event_id, attempt, at, duration_ms, status_code, error \
     from webhook_delivery where webhook = ?1 and delivery_id < ?2 order by delivery_id desc limit ?3";

/// Attempts of one webhook before this number, the newest first.
pub fn deliveries(connection: &Connection, webhook: i64, before: i64, limit: usize) -> rusqlite::Result<Vec<Delivery>> {
    connection
        .prepare_cached(DELIVERIES)?
        .query_map(params![webhook, before, limit], |row| {
            let error: Option<String> = row.get(6)?;
            let answer = match error {
                Some(error) => Err(error),
                None => Ok(row.get(5)?),
            };
            let attempted = Attempted {
                event_id: row.get(1)?,
                attempt: row.get(2)?,
                at: Millis(row.get(3)?),
                duration_ms: row.get(4)?,
                answer,
            };
            Ok(Delivery { number: row.get(0)?, attempted })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, database, plan};

    fn registered(connection: &Connection, id: &str) -> Webhook {
        let new = NewWebhook {
            id: id.to_owned(),
            url: "https://shop.example/".to_owned(),
            types: vec!["sold".to_owned()],
            stores: Vec::new(),
            secret: vec![7; 32],
        };
        insert(connection, &new, NOW).expect("writes");
        find(connection, id).expect("reads").expect("is there")
    }

    fn attempted(attempt: u32) -> Attempted {
        let answer = if attempt.is_multiple_of(2) { Ok(200) } else { Err("no connection".to_owned()) };
        Attempted { event_id: Some("s1:7-1".to_owned()), attempt, at: NOW, duration_ms: 3, answer }
    }

    #[test]
    fn what_began_before_an_operators_word_changes_nothing_any_more() {
        let connection = database();
        let webhook = registered(&connection, "w");
        let held = Held { delivered_to: 3, failures: 2, next_at: NOW };
        let changes = Changes {
            status: Status::Active,
            cursor: 5,
            failing_since: Some(NOW),
            held: vec![("s1".to_owned(), Some(held)), ("s2".to_owned(), None)],
        };
        let save = |attempts: &[Attempted]| {
            save(&connection, webhook.number, webhook.generation, &changes, attempts).expect("writes")
        };
        let now = || find(&connection, "w").expect("reads").expect("is there");
        assert!(save(&[attempted(1)]));
        let kept = now();
        assert_eq!((kept.types.as_slice(), kept.progress.cursor), (["sold".to_owned()].as_slice(), 5));
        assert_eq!((kept.progress.delivered_to(), kept.progress.failing_since), (3, Some(NOW)));
        assert!(replay(&connection, "w", 1).expect("writes"));
        assert!(!save(&[attempted(2)]));
        assert_eq!(now().progress, Progress::at(1));
        assert_eq!(deliveries(&connection, webhook.number, i64::MAX, 9).expect("reads").len(), 1);
        assert!(rotate(&connection, "w", &[8; 32], NOW).expect("writes"));
        assert_eq!((now().secret, now().previous), (vec![8; 32], Some((vec![7; 32], NOW))));
        assert!(delete(&connection, "w").expect("writes"));
        assert!(!delete(&connection, "w").expect("reads") && !save(&[]));
        assert!(!replay(&connection, "w", 1).expect("writes"));
    }

    #[test]
    fn so_many_attempts_are_kept_and_no_more() {
        let connection = database();
        let (webhook, other) = (registered(&connection, "w").number, registered(&connection, "v").number);
        log(&connection, other, &attempted(1)).expect("writes");
        for attempt in 1..=1_100 {
            log(&connection, webhook, &attempted(attempt)).expect("writes");
        }
        let page = |before| -> Vec<u32> {
            let found = deliveries(&connection, webhook, before, 2_000).expect("reads");
            found.iter().map(|delivery| delivery.attempted.attempt).collect()
        };
        let all = page(i64::MAX);
        assert_eq!((all.len(), all.first(), all.last()), (ATTEMPTS, Some(&1_100), Some(&101)));
        assert_eq!(deliveries(&connection, other, i64::MAX, 9).expect("reads").len(), 1);
        for sql in [OLD, DELIVERIES] {
            let plan = plan(&connection, sql);
            assert!(plan.contains("webhook_delivery_by_webhook") && !plan.contains("TEMP"), "{plan}");
        }
    }
}
