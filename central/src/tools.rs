//! What people run beside the daemon: restore, backup, verify, status.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::{Connection, OpenFlags};
use shared::ids::StoreId;
use shared::redis::{Channel, Keys};
use shared::sqlite::{copy, copy_aside};
use shared::time::Millis;

use crate::config::{Backup, Database, Restore, Status};
use crate::database::SCHEMA;
use crate::{restore as question, stores, verify as auditor};

/// `central restore`: an older copy goes into service.
pub async fn restore(options: &Restore) -> anyhow::Result<()> {
    let path = &options.database.database_path;
    if let Some(from) = &options.from {
        if path.exists() {
            let (connection, lock) = shared::sqlite::open(path, SCHEMA)?;
            let kept = copy_aside(&connection, path, Millis::now())?;
            println!("The database as it was is kept in {}.", kept.display());
            drop(connection);
            for suffix in ["", "-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                match std::fs::remove_file(&name) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
            }
            drop(lock);
        }
        let backup = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(|| format!("cannot open {}", from.display()))?;
        copy(&backup, path)?;
    } else if !path.exists() {
        bail!("{} does not exist: give --from with a backup", path.display());
    }
    let (connection, _lock) = shared::sqlite::open(path, SCHEMA)?;
    let known: Vec<StoreId> = stores::all(&connection)?.into_iter().map(|store| store.id).collect();
    let acked = acknowledged(options, &known).await;
    if acked.is_none() {
        println!("Redis does not answer: epochs go by this machine's clock, so be sure that it is right.");
    }
    let acked = acked.unwrap_or_default();
    let transaction = connection.unchecked_transaction()?;
    let reopened =
        question::reopen(&transaction, |store| acked.get(store).copied().unwrap_or_default(), Millis::now())?;
    transaction.commit()?;
    println!("{} stores get a new command epoch, and tell again what this copy does not know.", reopened.len());
    println!("Purchases and keys of after the backup that no store has heard of are forgotten.");
    println!("Done. Start central now.");
    Ok(())
}

/// The command epoch that each store has acknowledged last; `None`: Redis does not answer.
async fn acknowledged(options: &Restore, known: &[StoreId]) -> Option<HashMap<StoreId, u64>> {
    let keys = Keys::new(&options.key_prefix);
    let client = shared::redis::client(&options.redis_url).ok()?;
    let mut connection = shared::redis::connect(&client).await.ok()?;
    let mut acked = HashMap::new();
    for store in known {
        let ack = Channel::commands(&keys, store).read_ack(&mut connection).await.ok()?;
        acked.insert(store.clone(), ack.map_or(0, |ack| ack.cursor.epoch));
    }
    Some(acked)
}

fn open_to_read(database: &Database) -> anyhow::Result<Connection> {
    let path = &database.database_path;
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != SCHEMA.application_id {
        bail!("{} is not central's", path.display());
    }
    Ok(connection)
}

/// `central backup`: one consistent copy, compact, on disk when this returns.
pub fn backup(options: &Backup) -> anyhow::Result<()> {
    copy(&open_to_read(&options.database)?, &options.to)?;
    println!("{} is written. It goes back only by `central restore --from`.", options.to.display());
    Ok(())
}

/// `central verify`: prints every difference; fails if there is one.
pub fn verify(database: &Database) -> anyhow::Result<()> {
    let mut connection = open_to_read(database)?;
    let transaction = connection.transaction()?;
    let report = auditor::verify(&transaction)?;
    for difference in &report.differences {
        println!("DIFFERENCE  {difference}");
    }
    println!(
        "{} entries of {} stores, {} items and {} purchases looked at.",
        report.entries, report.stores, report.items, report.purchases
    );
    if report.differences.is_empty() {
        println!("All is well: view, totals, hashes, digests and purchases are what the ledgers add up to.");
        Ok(())
    } else {
        bail!("{} differences", report.differences.len())
    }
}

/// `central status`: a line a store, those that need somebody first.
pub async fn status(options: &Status) -> anyhow::Result<()> {
    let url = format!("{}/v1/stores", options.url.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let answer: serde_json::Value = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no central answers at {url}"))?
        .error_for_status()?
        .json()
        .await?;
    let mut stores: Vec<&serde_json::Value> =
        answer["items"].as_array().map_or(Vec::new(), |list| list.iter().collect());
    stores.sort_by_key(|store| store["status"] == "online");
    println!(
        "{:<20} {:<12} {:>10} {:>10} {:>8} {:>6}  digest",
        "store", "status", "beat ms", "lag ms", "backlog", "open"
    );
    for store in stores {
        let text = |name: &str| store[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| store[name].as_i64().map_or("-".to_owned(), |number| number.to_string());
        println!(
            "{:<20} {:<12} {:>10} {:>10} {:>8} {:>6}  {}",
            text("storeId"),
            text("status"),
            number("lastBeatAgeMs"),
            number("lagMs"),
            number("backlog"),
            number("openPurchases"),
            text("digest")
        );
    }
    Ok(())
}
