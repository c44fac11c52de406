//! Forgetting what may be forgotten, every hour.

use std::time::Duration;

use runtime::sqlite::{Abort, Db, Error};
use tokio_util::sync::CancellationToken;

use crate::ledger;

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Between two batches: sales go first.
const PAUSE: Duration = Duration::from_millis(20);

/// Prunes until told to stop.
pub async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let now = runtime::clock::now();
        let pruned = db.write(move |connection| ledger::prune(connection, now).map_err(Abort::<()>::Database)).await;
        let wait = match pruned {
            Ok(Ok(true)) => PAUSE,
            // When there is too much else to write it can wait for the next hour.
            Ok(_) | Err(Error::Busy) => EVERY,
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
