//! What people run beside the daemon: restore, backup, verify, status, import, export.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use protocol::ids::StoreId;
use protocol::number::Epoch;
use protocol::wire::Position;
use runtime::daemon::NEEDS_ATTENTION;
use runtime::redis::{Channel, Keys};
use runtime::say;
use runtime::sqlite::{
    Abort, Connection, OpenError, System, copy, copy_aside, in_transaction, open_file, prepare, replace,
};
use tokio_util::io::ReaderStream;

use crate::config::{Backup, Database, Export, Import, Restore, State, Status};
use crate::ledger;
use crate::operators::restore::ask::refused;
use crate::operators::restore::{self, Choice, Report};
use crate::operators::verify as auditor;

/// Items named in a report; more are only counted.
const NAMED: usize = 40;
/// Bytes of an import between two lines that say how far it has come.
const PROGRESS_EVERY: u64 = 16 << 20;

/// What a restore begins with.
enum Found {
    /// Nothing, or nothing that can be read.
    Nothing,
    /// This store's database, or a copy of it.
    Database(Connection),
    /// Whatever is there: this backup takes its place.
    Backup(Connection),
}

/// `store-agent restore`: looks at all that could stand in the way, then asks central, and carries out its answer in one
/// transaction. Before the question nothing is changed but that a backup, or a new database, takes its place.
pub async fn restore(options: &Restore) -> anyhow::Result<()> {
    let path = options.database.path();
    let _lock = runtime::sqlite::lock(&path)?;
    restore_at(&path, options).await.map_err(|error| {
        if options.from.is_none() && runtime::sqlite::note_damage(&path, error.chain()) {
            return error.context("the database is damaged: run this again, and it is put aside");
        }
        error
    })
}

/// The same, for one who holds the lock.
async fn restore_at(path: &Path, options: &Restore) -> anyhow::Result<()> {
    let client = runtime::redis::client(&options.redis)?;
    let found = match &options.from {
        Some(from) => Found::Backup(backup_to_restore(from, options)?),
        None => inspect(path, options)?,
    };
    let central = ask_central(options).await?;
    let connection = match found {
        Found::Database(connection) => {
            expect_choice(options, &connection, &central).await?;
            let now = ledger::cursor(&connection)?;
            let is_same = |kept: &Connection| Ok(ledger::cursor(kept)? == now);
            let kept = copy_aside(&connection, path, runtime::clock::now(), is_same)?;
            say!("The database as it was is kept in {}.", kept.display());
            connection
        }
        Found::Backup(backup) => {
            expect_choice(options, &backup, &central).await?;
            put_in_place(&backup, path)?
        }
        Found::Nothing => {
            central.expect_known(options)?;
            put_in_place(&new_database(options)?, path)?
        }
    };
    clear_stream(options, &client).await;
    let question = restore::question(&connection)?;
    let (store, headers) = (&options.database.store_id, options.secret.headers()?);
    let answer = restore::ask::ask(&options.central, headers, store, &question).await?;
    say!(
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
    let done = in_transaction(&connection, |connection| {
        let report = restore::carry_out(connection, &answer, choice, runtime::clock::now())?;
        runtime::sqlite::put_in_service(connection, ledger::SCHEMA)?;
        Ok(report)
    });
    match done {
        Ok(report) => {
            runtime::daemon::print(format_args!("{}", render(&report)));
            Ok(())
        }
        Err(Abort::Refused(refusal)) => bail!(
            "{refusal}.\nThe restore was begun and must be finished: from now on central waits for this one. \
             See docs/OPERATIONS.md, \"Backup and restore\""
        ),
        Err(Abort::Database(error)) => Err(error.into()),
    }
}

/// Opens what is there. The caller holds the lock.
fn inspect(path: &Path, options: &Restore) -> anyhow::Result<Found> {
    let is_there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    if !is_there {
        return Ok(Found::Nothing);
    }
    match runtime::sqlite::open_to_restore(&System, path, ledger::SCHEMA) {
        Err(OpenError::Corrupt { report, .. }) => {
            say!("The database is damaged ({}).", report.lines().next().unwrap_or_default());
            say!("What it had not sent cannot be read.");
            Ok(Found::Nothing)
        }
        Err(error) => Err(error.into()),
        Ok(connection) => {
            let is_new = ledger::is_new(&connection, &options.database.store_id)?;
            Ok(if is_new { Found::Nothing } else { Found::Database(connection) })
        }
    }
}

/// Puts a copy of a database in the place of what is at a path, which is kept. The caller holds the lock.
fn put_in_place(database: &Connection, path: &Path) -> anyhow::Result<Connection> {
    prepare(&System, database, path)?;
    if let Some(kept) = replace(&System, path, runtime::clock::now())? {
        say!("The database as it was is kept in {}.", kept.display());
    }
    Ok(runtime::sqlite::open_to_restore(&System, path, ledger::SCHEMA)?)
}

/// The backup that is to go into service: this store's, whole, and understood.
fn backup_to_restore(from: &Path, options: &Restore) -> anyhow::Result<Connection> {
    let same =
        from.canonicalize().is_ok_and(|from| options.database.path().canonicalize().is_ok_and(|path| path == from));
    if same {
        bail!("{} is the database itself: give --from a backup, or leave it out", from.display());
    }
    let store = &options.database.store_id;
    let backup = open_to_read(&Database { store_id: store.clone(), database_path: Some(from.into()) })?;
    runtime::sqlite::check(&backup, from, ledger::SCHEMA)
        .with_context(|| format!("{} cannot go into service", from.display()))?;
    Ok(backup)
}

/// A database that has nothing in it, and an epoch only once central has answered.
fn new_database(options: &Restore) -> anyhow::Result<Connection> {
    let connection = runtime::sqlite::memory(ledger::SCHEMA)?;
    ledger::claim(&connection, &options.database.store_id)?;
    Ok(connection)
}

/// What central says of the store before it is asked anything that changes something.
struct Central {
    address: String,
    client: reqwest::Client,
    /// `None`: it has never heard of it.
    store: Option<serde_json::Value>,
}

/// Whether central answers, is central, and lets this store be restored.
async fn ask_central(options: &Restore) -> anyhow::Result<Central> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30));
    let client = client.default_headers(options.secret.headers()?).build()?;
    let mut central = Central { address: options.central.trim_end_matches('/').to_owned(), client, store: None };
    let root = central.get("/").await?.unwrap_or_default();
    if root["service"] != "Central Server" {
        bail!("what answers at {} is not central", options.central);
    }
    let store = &options.database.store_id;
    central.store = central.get(&format!("/v1/stores/{store}")).await?;
    if central.store.as_ref().is_some_and(|known| known["status"] == "retired") {
        bail!("central has retired {store}: take it back there first (POST /v1/stores/{store}/adopt)");
    }
    Ok(central)
}

impl Central {
    async fn get(&self, path: &str) -> anyhow::Result<Option<serde_json::Value>> {
        let request = self.client.get(format!("{}{path}", self.address)).header("Accept", "application/json");
        let unreachable = || format!("central does not answer at {}: it must be reachable for a restore", self.address);
        let response = request.send().await.with_context(unreachable)?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let told = response.json().await;
        Ok(Some(told.with_context(|| format!("what answers at {} is not central", self.address))?))
    }

    /// A new database for a store that central has never heard of is no restore, but a name that was mistyped.
    fn expect_known(&self, options: &Restore) -> anyhow::Result<()> {
        if self.store.is_none() {
            let (address, store) = (&self.address, &options.database.store_id);
            bail!(
                "central at {address} does not know store {store}: a new store needs no restore, just start its agent"
            );
        }
        Ok(())
    }

    /// Epochs of the store that central's ledger has, the newest first.
    async fn epochs(&self, store: &StoreId) -> anyhow::Result<Vec<Epoch>> {
        let mut epochs = Vec::new();
        let first = format!("/v1/events?storeId={store}&type=epoch_opened&size=1000");
        let mut page = first.clone();
        loop {
            let list = self.get(&page).await?.unwrap_or_default();
            let positions =
                list["items"].as_array().into_iter().flatten().filter_map(|event| event["position"].as_str());
            epochs.extend(positions.filter_map(|text| Some(text.parse::<Position>().ok()?.at.epoch)));
            let Some(cursor) = list["nextCursor"].as_str() else { return Ok(epochs) };
            page = format!("{first}&cursor={cursor}");
        }
    }
}

/// If central knows nothing of this database a human must have chosen before central is asked. An epoch that both know is
/// enough to share something, and so is one that this database was said to continue; the answer itself has the last word.
async fn expect_choice(options: &Restore, own: &Connection, central: &Central) -> anyhow::Result<()> {
    let mut epochs = ledger::history::spans(own)?.iter().map(|span| span.epoch).collect::<Vec<_>>();
    if !epochs.is_empty() {
        epochs.extend(ledger::lineage(own)?.iter().map(|past| past.end.epoch));
    }
    let Some(store) = central.store.as_ref().filter(|_| options.state.is_none() && !epochs.is_empty()) else {
        return Ok(());
    };
    if epochs.iter().any(|epoch| store["epoch"] == epoch.get()) {
        return Ok(());
    }
    let known = central.epochs(&options.database.store_id).await?;
    if !known.is_empty() && known.iter().all(|epoch| !epochs.contains(epoch)) {
        let entries = ledger::history::count(own)?;
        bail!("{}.\nNothing was changed, and central was not asked yet", restore::Refusal::NeedsChoice { entries });
    }
    Ok(())
}

/// What this store still has in Redis must not be taken for what it says from now on. Central drops it anyway.
async fn clear_stream(options: &Restore, client: &runtime::redis::Client) {
    let keys = Keys::new(&options.key_prefix);
    let deleted = async {
        let mut connection = runtime::redis::connect(client).await?;
        Channel::events(&keys, &options.database.store_id).clear(&mut connection).await
    };
    if let Err(error) = deleted.await {
        say!("Redis does not answer ({error}); that is no hindrance.");
    }
}

fn render(report: &Report) -> String {
    let mut text = match report.state {
        Choice::Own => "This database's own state stands; central takes it over.\n".to_owned(),
        Choice::Central => format!(
            "The store's state is central's now. Of this database {} entries that central did not have were recorded \
             again, {} were left out.\n",
            report.recorded_again, report.left_out
        ),
    };
    if !report.recount.is_empty() {
        let names: Vec<&str> = report.recount.iter().take(NAMED).map(protocol::ids::ProductId::as_str).collect();
        let more = report.recount.len().saturating_sub(NAMED);
        text.push_str(&format!("Please count these {} items: {}", report.recount.len(), names.join(", ")));
        text.push_str(&if more > 0 { format!(" and {more} more.\n") } else { ".\n".to_owned() });
    }
    text.push_str("Done. Start the agent now.\n");
    text
}

fn open_to_read(database: &Database) -> anyhow::Result<Connection> {
    let path = database.path();
    let connection = open_file(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let store = ledger::store_id(&connection).with_context(|| format!("{} is not an agent's", path.display()))?;
    if store != database.store_id {
        bail!("{} belongs to store {store}, not to {}", path.display(), database.store_id);
    }
    Ok(connection)
}

/// `store-agent backup`: one consistent copy, compact, on disk when this returns.
pub fn backup(options: &Backup) -> anyhow::Result<()> {
    let connection = open_to_read(&options.database)?;
    copy(&System, &connection, &options.to)?;
    let head = ledger::cursor(&open_file(&options.to)?)?.id();
    say!("{} holds the store up to {head}. It goes back only by `store-agent restore --from`.", options.to.display());
    Ok(())
}

/// `store-agent verify`: prints every difference; fails if there is one.
pub fn verify(database: &Database) -> anyhow::Result<()> {
    let report = in_transaction(&open_to_read(database)?, auditor::verify)?;
    for difference in &report.differences {
        say!("DIFFERENCE  {difference}");
    }
    say!("{} entries and {} items of {} looked at.", report.entries, report.items, database.store_id);
    if report.unproven > 0 {
        say!("{} items lie before what is kept of the ledger: their stock is taken as it is.", report.unproven);
    }
    if report.not_understood > 0 {
        say!("{} entries were written by a later version.", report.not_understood);
    }
    if report.differences.is_empty() {
        say!("All is well: stock, sums, hashes and digest are what the ledger adds up to.");
        Ok(())
    } else {
        bail!("{} differences", report.differences.len())
    }
}

/// `store-agent status`: what `/status` says, a line each or as JSON. The exit status tells whether all is well.
pub async fn status(options: &Status) -> anyhow::Result<ExitCode> {
    let url = format!("{}/v1/status", options.url.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5));
    let client = client.default_headers(options.secret.headers()?).build()?;
    let answer: serde_json::Map<String, serde_json::Value> = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("no agent answers at {url}"))?
        .error_for_status()
        .with_context(|| format!("what answers at {} is no store's agent, or does not let you in", options.url))?
        .json()
        .await?;
    if options.json {
        say!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        for (name, value) in &answer {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => say!("{name:<16}{text}"),
                other => say!("{name:<16}{other}"),
            }
        }
    }
    let is_well = answer.get("link").is_some_and(|link| link == "up")
        && answer.get("deadLetters").is_some_and(|letters| letters == 0);
    Ok(if is_well { ExitCode::SUCCESS } else { NEEDS_ATTENTION.into() })
}

/// `store-agent import`: prints each refused line and the totals; fails if a line was refused.
pub async fn import(options: &Import) -> anyhow::Result<()> {
    let path = &options.file;
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata().await?.len();
    let (mut sent, mut told) = (0, 0);
    let pieces = ReaderStream::new(file).inspect_ok(move |piece| {
        sent += piece.len() as u64;
        if sent >= told + PROGRESS_EVERY {
            told = sent;
            eprintln!("{} of {} MiB", sent >> 20, size >> 20);
        }
    });
    let client = reqwest::Client::builder().default_headers(options.secret.headers()?).build()?;
    let address = options.url.trim_end_matches('/');
    let counted_at = match &options.counted_at {
        Some(position) => position.clone(),
        None => stands_at(&client, address).await?,
    };
    if !options.dry_run {
        // Before anything is sent: whatever ends this, it can be sent again.
        eprintln!("The counts are of {counted_at}. To send this file again: --counted-at {counted_at}");
    }
    let url = format!("{address}/v1/import?dryRun={}&countedAt={counted_at}", options.dry_run);
    let mut request = client.post(&url).header("content-type", "text/csv");
    if path.extension().is_some_and(|extension| extension == "gz") {
        request = request.header("content-encoding", "gzip");
    }
    let answer = request.body(reqwest::Body::wrap_stream(pieces)).send().await;
    let answer = answer.with_context(|| format!("no agent answers at {url}"))?;
    let is_done = answer.status().is_success();
    let report: serde_json::Value = answer.json().await.with_context(|| format!("no agent answers at {url}"))?;
    if !is_done {
        bail!("{}", report["detail"].as_str().unwrap_or("the file was refused"));
    }
    for line in report["lines"].as_array().into_iter().flatten().filter(|line| line["result"] == "refused") {
        say!("line {}: {}", line["line"], line["problem"]["detail"].as_str().unwrap_or_default());
    }
    let totals = |result: &str| report["totals"][result].as_u64().unwrap_or_default();
    let refused = totals("refused");
    say!(
        "{}{} created, {} updated, {} unchanged, {refused} refused.",
        if options.dry_run { "Nothing was changed. It would be: " } else { "" },
        totals("created"),
        totals("updated"),
        totals("unchanged"),
    );
    if refused > 0 {
        bail!("{refused} lines were refused");
    }
    Ok(())
}

/// Where the ledger of the agent at an address stands.
async fn stands_at(client: &reqwest::Client, address: &str) -> anyhow::Result<Position> {
    let answer = client.get(format!("{address}/v1/")).send().await;
    let answer = answer.with_context(|| format!("no agent answers at {address}"))?;
    let position = answer.headers().get("shelf-position").and_then(|position| position.to_str().ok()?.parse().ok());
    position.with_context(|| format!("what answers at {address} is no store's agent"))
}

/// `store-agent export`: the stock as CSV, which `import` takes again.
pub async fn export(options: &Export) -> anyhow::Result<()> {
    let url = format!("{}/v1/export", options.url.trim_end_matches('/'));
    let client = reqwest::Client::builder().default_headers(options.secret.headers()?).build()?;
    let answer = client.get(&url).send().await.with_context(|| format!("no agent answers at {url}"))?;
    let mut pieces = answer.error_for_status()?.bytes_stream();
    let mut to: Box<dyn Write> = match &options.to {
        Some(path) => {
            let file = std::fs::File::create_new(path);
            Box::new(file.with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => Box::new(std::io::stdout()),
    };
    while let Some(piece) = pieces.try_next().await.context("the agent went away in the middle of it")? {
        to.write_all(&piece)?;
    }
    to.flush()?;
    Ok(())
}
