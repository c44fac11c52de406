//! What people run beside the daemon: restore, backup, verify, status.

use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::{Connection, OpenFlags};
use shared::redis::{Channel, Keys};
use shared::sqlite::{Abort, OpenError, copy, copy_aside, move_aside};
use shared::time::Millis;

use crate::config::{Backup, Database, Restore, State, Status};
use crate::restore::{self, Choice, Report};
use crate::{ledger, verify as auditor};

/// Items named in a report; more are only counted.
const NAMED: usize = 40;

/// `store-agent restore`: asks central, and carries out its answer in one transaction.
pub async fn restore(options: &Restore) -> anyhow::Result<()> {
    let path = options.database.path();
    let client = shared::redis::client(&options.redis)?;
    if !path.exists() {
        expect_known(options).await?;
    }
    let (connection, _lock) = match shared::sqlite::open(&path, ledger::SCHEMA) {
        Err(OpenError::Corrupt { report, .. }) => {
            let lock = shared::sqlite::lock(&path)?;
            let kept = move_aside(&path, Millis::now())?;
            println!("The database is damaged ({}).", report.lines().next().unwrap_or_default());
            println!("It is kept in {}; what it had not sent cannot be read.", kept.display());
            drop(lock);
            expect_known(options).await?;
            shared::sqlite::open(&path, ledger::SCHEMA)?
        }
        opened => opened?,
    };
    let is_new = ledger::claim(&connection, &options.database.store_id)?;
    if !is_new {
        let kept = copy_aside(&connection, &path, Millis::now())?;
        println!("The database as it was is kept in {}.", kept.display());
    }
    take_back(options, &client).await;
    let question = restore::question(&connection)?;
    let answer = restore::ask::ask(&options.central, &options.database.store_id, &question).await?;
    println!(
        "Central gave out epoch {}. {}",
        answer.epoch,
        if answer.complete {
            format!("Its state stands at {}: {} items.", answer.state.id(), answer.items.len())
        } else {
            "It has never had this store's whole state.".to_owned()
        }
    );
    let choice = options.state.map(|state| match state {
        State::Own => Choice::Own,
        State::Central => Choice::Central,
    });
    let transaction = connection.unchecked_transaction()?;
    match restore::carry_out(&transaction, &answer, choice, Millis::now()) {
        Ok(report) => {
            transaction.commit()?;
            print!("{}", told(&report));
            Ok(())
        }
        Err(Abort::Refused(refusal)) => bail!(
            "{refusal}.\nThe restore was begun and must be finished: from now on central waits for this one. \
             See docs/OPERATIONS.md, \"Backup and restore\""
        ),
        Err(Abort::Database(error)) => Err(error.into()),
    }
}

/// A new database for a store that central has never heard of is no restore, but a name that was mistyped.
async fn expect_known(options: &Restore) -> anyhow::Result<()> {
    let store = &options.database.store_id;
    let url = format!("{}/v1/stores/{store}", options.central.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let answer = client.get(&url).send().await;
    let answer = answer.with_context(|| format!("central does not answer at {}", options.central))?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        bail!(
            "central at {} does not know store {store}: a new store needs no restore, just start its agent",
            options.central
        );
    }
    Ok(())
}

/// What this store still has in Redis must not be taken for what it says from now on. Central drops it anyway.
async fn take_back(options: &Restore, client: &redis::Client) {
    let keys = Keys::new(&options.key_prefix);
    let deleted = async {
        let mut connection = shared::redis::connect(client).await?;
        Channel::events(&keys, &options.database.store_id).clear(&mut connection).await
    };
    if let Err(error) = deleted.await {
        println!("Redis does not answer ({error}); that is no hindrance.");
    }
}

fn told(report: &Report) -> String {
    let mut text = match report.state {
        Choice::Own => "This database's own state stands; central takes it over.\n".to_owned(),
        Choice::Central => format!(
            "The store's state is central's now. Of this database {} entries that central did not have were recorded \
             again, {} were left out.\n",
            report.recorded_again, report.left_out
        ),
    };
    if !report.recount.is_empty() {
        let names: Vec<&str> = report.recount.iter().take(NAMED).map(shared::ids::ProductId::as_str).collect();
        let more = report.recount.len().saturating_sub(NAMED);
        text.push_str(&format!("Please count these {} items: {}", report.recount.len(), names.join(", ")));
        text.push_str(&if more > 0 { format!(" and {more} more.\n") } else { ".\n".to_owned() });
    }
    text.push_str("Done. Start the agent now.\n");
    text
}

fn open_to_read(database: &Database) -> anyhow::Result<Connection> {
    let path = database.path();
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let store = ledger::store_id(&connection).with_context(|| format!("{} is not an agent's", path.display()))?;
    if store != database.store_id {
        bail!("{} belongs to store {store}, not to {}", path.display(), database.store_id);
    }
    Ok(connection)
}

/// `store-agent backup`: one consistent copy, compact, on disk when this returns.
pub fn backup(options: &Backup) -> anyhow::Result<()> {
    let connection = open_to_read(&options.database)?;
    copy(&connection, &options.to)?;
    let copied = Connection::open_with_flags(&options.to, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let head = ledger::head(&copied)?.cursor.id();
    println!("{} holds the store up to {head}. It goes back only by `store-agent restore`.", options.to.display());
    Ok(())
}

/// `store-agent verify`: prints every difference; fails if there is one.
pub fn verify(database: &Database) -> anyhow::Result<()> {
    let mut connection = open_to_read(database)?;
    let transaction = connection.transaction()?;
    let report = auditor::verify(&transaction)?;
    for difference in &report.differences {
        println!("DIFFERENCE  {difference}");
    }
    println!("{} entries and {} items of {} looked at.", report.entries, report.items, database.store_id);
    if report.unproven > 0 {
        println!("{} items lie before what is kept of the ledger: their stock is taken as it is.", report.unproven);
    }
    if report.not_understood > 0 {
        println!("{} entries were written by a later version.", report.not_understood);
    }
    if report.differences.is_empty() {
        println!("All is well: stock, sums, hashes and digest are what the ledger adds up to.");
        Ok(())
    } else {
        bail!("{} differences", report.differences.len())
    }
}

/// `store-agent status`: what `/status` says, a line each.
pub async fn status(options: &Status) -> anyhow::Result<()> {
    let url = format!("{}/v1/status", options.url.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let answer: serde_json::Map<String, serde_json::Value> = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no agent answers at {url}"))?
        .error_for_status()?
        .json()
        .await?;
    for (name, value) in &answer {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => println!("{name:<16}{text}"),
            other => println!("{name:<16}{other}"),
        }
    }
    Ok(())
}
