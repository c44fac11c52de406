//! Central goes on from an earlier copy.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use rusqlite::OptionalExtension;

use super::Plan;
use super::people::operations;
use super::people::read;
use super::people::run;
use super::people::some_copy;
use crate::chaos::rig::{Rig, Who};

/// Central's machine dies; it goes on from an earlier copy.
pub(super) async fn central_older_copy(rig: &Rig, plan: &mut Plan) -> anyhow::Result<String> {
    // Nobody restores the victim meanwhile: first the store, then central, as everywhere.
    let _victim = rig.stores[rig.victim].hold().await;
    let mut slot = rig.central.hold().await;
    let old = some_copy(rig, Who::Central, &mut plan.dice).context("there is no copy yet")?;
    slot.process.take().context("it runs")?.kill();
    let result = async {
        allow_for_set_back(rig, &old)?;
        let args = [
            "restore".to_owned(),
            format!("--from={}", old.display()),
            format!("--database-path={}", rig.central.database.display()),
            format!("--redis-url={}", Rig::redis_url(&rig.central)),
        ];
        let (done, said) = run(&Rig::program(Who::Central), &args).await?;
        ensure!(done, "central restore: {said}");
        Ok(format!("{}", old.file_name().unwrap_or_default().display()))
    }
    .await;
    slot.environment.clear();
    rig.start_daemon(&rig.central, &mut slot);
    result
}

/// Purchases that the copy does not know as they are now may be forgotten, and of the victim, whose ledger may not
/// reach back, operations.
pub(super) fn allow_for_set_back(rig: &Rig, old_path: &Path) -> anyhow::Result<()> {
    let (old, now) = (read(old_path)?, read(&rig.central.database)?);
    let row = "select status || coalesce(cancel_requested_at, '') from purchase where purchase_id = ?1";
    let mut ids = now.prepare("select purchase_id, status || coalesce(cancel_requested_at, '') from purchase")?;
    let ids: Vec<(String, String)> =
        ids.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut records = rig.records.lock().expect("no thread panics");
    for (id, present) in ids {
        let before: Option<String> = old.query_row(row, [&id], |row| row.get(0)).optional()?;
        if before.as_ref() != Some(&present) {
            records.forget(id);
        }
    }
    let store = &rig.ids[rig.victim];
    let mut kept = operations(&rig.stores[rig.victim].database, "select operation_id from ledger")?;
    let of_store = format!("select operation_id from event where store_id = '{store}'");
    kept.extend(operations(old_path, &of_store)?);
    let gone: Vec<String> = {
        let of_victim = records.history.operations.iter().filter(|operation| operation.store == *store);
        let gone = of_victim.filter(|operation| !records.names(&operation.id).any(|id| kept.contains(id)));
        gone.map(|operation| operation.id.clone()).collect()
    };
    records.lost.extend(gone);
    if rig.restored.lock().expect("no thread panics")[rig.victim] > 0 {
        records.history.stores_without_entries.insert(store.clone());
    }
    rig.central_set_back.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
