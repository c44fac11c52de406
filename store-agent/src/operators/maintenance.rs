//! Forgetting what may be forgotten, every hour.

use std::time::Duration;

use protocol::time::Millis;
use runtime::clock::{Forgetting, Ticks};
use runtime::sqlite::{Abort, Db, Error};
use tokio_util::sync::CancellationToken;

use crate::ledger;

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Between two batches: sales go first.
const PAUSE: Duration = Duration::from_millis(20);

/// Prunes until told to stop.
pub async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let ticks = Ticks::start();
    let mut forgetting = Forgetting::begin(runtime::clock::now());
    loop {
        let now = runtime::clock::now();
        let more = forgetting.may(now, ticks.ms()) && prune(&db, now).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(if more { PAUSE } else { EVERY }) => {}
        }
    }
}

/// Whether there may be more. When there is too much else to write it can wait for the next hour.
async fn prune(db: &Db, now: Millis) -> Result<bool, Error> {
    match db.write(move |connection| ledger::prune(connection, now).map_err(Abort::<()>::Database)).await {
        Ok(pruned) => Ok(pruned.unwrap_or(false)),
        Err(Error::Busy) => Ok(false),
        Err(error) => Err(error),
    }
}
