//! Forgetting what may be forgotten, every hour.

use std::time::Duration;

use runtime::sqlite::{Abort, WriteError, Writer};
use tokio_util::sync::CancellationToken;

use crate::ledger;

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Between two batches: sales go first.
const PAUSE: Duration = Duration::from_millis(20);

/// Prunes until told to stop.
pub async fn run(writer: Writer, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let pruned = writer
            .write(|connection| ledger::prune(connection, runtime::clock::now()).map_err(Abort::<()>::Database))
            .await;
        let wait = match pruned {
            Ok(Ok(true)) => PAUSE,
            // When there is too much else to write it can wait for the next hour.
            Ok(_) | Err(WriteError::Overloaded) => EVERY,
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
