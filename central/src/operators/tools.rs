//! What people run beside the daemon: restore, backup, verify, status.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use protocol::ids::StoreId;
use protocol::number::CommandEpoch;
use runtime::daemon::NEEDS_ATTENTION;
use runtime::redis::{Channel, Keys};
use runtime::say;

use crate::config::{Backup, Database, OneStore, Report, Restore, Status};
use crate::operators::restore as question;
use crate::operators::verify as auditor;
use crate::storage::files::{self, ToRestore};
use crate::storage::stores;

/// `central restore`: an older copy goes into service.
pub async fn restore(options: &Restore) -> anyhow::Result<()> {
    let client = runtime::redis::client(&options.redis)?;
    let now = runtime::clock::now();
    let (database, kept) = ToRestore::open(&options.database.database_path, options.from.as_deref(), now)?;
    if let Some(kept) = kept {
        say!("The database as it was is kept in {}.", kept.display());
    }
    let known: Vec<StoreId> = database.read(stores::all)?.into_iter().map(|store| store.id).collect();
    let acked = acknowledged(&client, &Keys::new(&options.key_prefix), &known).await;
    if acked.is_none() {
        say!("Redis does not answer: epochs go by this machine's clock, so be sure that it is right.");
    }
    let acked = acked.unwrap_or_default();
    let now = runtime::clock::now();
    let reopened = database.put_in_service(|connection| {
        question::reopen(connection, |store| acked.get(store).copied().unwrap_or_default(), now)
    })?;
    say!("{} stores get a new command epoch, and tell again what this copy does not know.", reopened.len());
    say!(
        "Forgotten are the purchases since the backup that no store has heard of, and all idempotency keys since then:"
    );
    say!("a shop looks for a purchase (GET /v1/purchases?reference=...) before it asks for it again.");
    say!("Done. Start central now.");
    Ok(())
}

/// The command epoch that each store has acknowledged last; `None`: Redis does not answer.
async fn acknowledged(
    client: &runtime::redis::Client,
    keys: &Keys,
    known: &[StoreId],
) -> Option<HashMap<StoreId, CommandEpoch>> {
    let mut connection = runtime::redis::connect(client).await.ok()?;
    let mut acked = HashMap::new();
    for store in known {
        let ack = Channel::commands(keys, store).read_ack(&mut connection).await.ok()?;
        acked.insert(store.clone(), ack.map_or(CommandEpoch::NONE, |ack| ack.cursor.epoch));
    }
    Some(acked)
}

/// `central backup`: one consistent copy, compact, on disk when this returns.
pub fn backup(options: &Backup) -> anyhow::Result<()> {
    files::back_up(&options.database.database_path, &options.to)?;
    say!("{} is written. It goes back only by `central restore --from`.", options.to.display());
    Ok(())
}

/// `central verify`: prints every difference; fails if there is one.
pub fn verify(database: &Database) -> anyhow::Result<()> {
    let report = files::read(&database.database_path, auditor::verify)?;
    for difference in &report.differences {
        say!("DIFFERENCE  {difference}");
    }
    say!(
        "{} entries of {} stores, {} items and {} purchases looked at.",
        report.entries,
        report.stores,
        report.items,
        report.purchases
    );
    if report.forgotten_pages > 0 {
        say!("{} pages of replaced states are forgotten: their hashes are taken as given.", report.forgotten_pages);
    }
    if report.differences.is_empty() {
        say!("All is well: view, totals, hashes, digests and purchases are what the ledgers add up to.");
        Ok(())
    } else {
        bail!("{} differences", report.differences.len())
    }
}

/// What a running central is asked with.
struct Central {
    client: reqwest::Client,
    stores: String,
}

impl Central {
    fn at(options: &Status) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5));
        let client = client.default_headers(options.secret.headers()?).build()?;
        Ok(Self { client, stores: format!("{}/v1/stores", options.url.trim_end_matches('/')) })
    }

    /// The status and the JSON of its answer. A problem is an error that says what is wrong.
    async fn ask(
        &self,
        method: reqwest::Method,
        url: &str,
    ) -> anyhow::Result<(reqwest::StatusCode, serde_json::Value)> {
        let answer = self.client.request(method, url).send().await;
        let answer = answer.with_context(|| format!("no central answers at {url}"))?;
        let status = answer.status();
        let json: serde_json::Value = answer.json().await.with_context(|| format!("{url} does not speak JSON"))?;
        if !status.is_success() {
            bail!("{}: {}", json["title"].as_str().unwrap_or(status.as_str()), json["detail"].as_str().unwrap_or("-"));
        }
        Ok((status, json))
    }

    /// All stores, and what the list says besides.
    async fn stores(&self) -> anyhow::Result<(Vec<serde_json::Value>, serde_json::Value)> {
        let mut stores = Vec::new();
        let mut cursor = String::new();
        loop {
            let url = format!("{}?size=1000{cursor}", self.stores);
            let (_, mut page) = self.ask(reqwest::Method::GET, &url).await?;
            stores.append(page["items"].as_array_mut().unwrap_or(&mut Vec::new()));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok((stores, page["newcomers"].take())),
            }
        }
    }
}

/// What was entered in Redis and is no store, in a line.
fn print_newcomers(newcomers: &serde_json::Value) {
    let names: Vec<&str> =
        newcomers["names"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
    if let Some(count @ 1..) = newcomers["count"].as_u64() {
        let more = if count > names.len() as u64 { ", ..." } else { "" };
        say!("{count} ids were entered in Redis and are no stores: {}{more}", names.join(", "));
    }
    if let Some(why) = newcomers["heldBack"].as_str() {
        say!("New stores wait: {why}");
    }
}

/// `central stores list`: ids, a line each.
pub async fn list_stores(options: &Status) -> anyhow::Result<()> {
    let (stores, newcomers) = Central::at(options)?.stores().await?;
    for store in &stores {
        say!("{:<20} {}", store["storeId"].as_str().unwrap_or("-"), store["status"].as_str().unwrap_or("-"));
    }
    print_newcomers(&newcomers);
    Ok(())
}

/// `central stores add`.
pub async fn add_store(options: &OneStore) -> anyhow::Result<()> {
    let (id, central) = (&options.store, Central::at(&options.central)?);
    let (status, _) = central.ask(reqwest::Method::PUT, &format!("{}/{id}", central.stores)).await?;
    let known = if status == reqwest::StatusCode::CREATED { "is known now" } else { "was known before" };
    say!("{id} {known}.");
    Ok(())
}

/// `central stores forget`.
pub async fn forget_store(options: &OneStore) -> anyhow::Result<()> {
    let (id, central) = (&options.store, Central::at(&options.central)?);
    central.ask(reqwest::Method::DELETE, &format!("{}/{id}", central.stores)).await?;
    say!("{id} is forgotten.");
    Ok(())
}

/// `central status`: a line a store, those that need somebody first, or JSON. The exit status tells whether all is well.
pub async fn status(options: &Report) -> anyhow::Result<ExitCode> {
    let (mut stores, newcomers) = Central::at(&options.central)?.stores().await?;
    stores.sort_by_key(is_well);
    let all_well = stores.iter().all(is_well) && newcomers["heldBack"].is_null();
    let code = if all_well { ExitCode::SUCCESS } else { NEEDS_ATTENTION.into() };
    if options.json {
        let told = serde_json::json!({"stores": stores, "newcomers": newcomers});
        say!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(code);
    }
    say!(
        "{:<20} {:<12} {:>12} {:>10} {:>8} {:>6}  digest",
        "store",
        "status",
        "heartbeat ms",
        "lag ms",
        "backlog",
        "open"
    );
    for store in &stores {
        let text = |name: &str| store[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| store[name].as_i64().map_or("-".to_owned(), |number| number.to_string());
        say!(
            "{:<20} {:<12} {:>12} {:>10} {:>8} {:>6}  {}",
            text("storeId"),
            text("status"),
            number("lastBeatAgeMs"),
            number("lagMs"),
            number("backlog"),
            number("openPurchases"),
            text("digest")
        );
        for warning in store["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning.as_str()) {
            say!("    {warning}");
        }
        for claim in store["claims"].as_array().into_iter().flatten() {
            match claim["items"].as_u64() {
                Some(items) => say!("    an agent claims epoch {}, with {items} items", claim["epoch"]),
                None => say!("    an agent has claimed epoch {}", claim["epoch"]),
            }
        }
    }
    print_newcomers(&newcomers);
    Ok(code)
}

/// Whether nobody has to look after a store: it sells, or somebody has decided that it does not.
fn is_well(store: &serde_json::Value) -> bool {
    let wanted = ["online", "paused", "retired"].iter().any(|status| store["status"] == *status);
    wanted && store["digest"] != "different" && store["warnings"].as_array().is_none_or(Vec::is_empty)
}
