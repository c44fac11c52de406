//! Recording the end of reservations whose time is over.

use std::sync::Arc;
use std::time::Duration;

use protocol::time::Millis;
use runtime::sqlite::{Abort, Db, Error, Weight};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::operations::reservations::sweep;

/// When the database has no room for it: sales go first.
const PAUSE_MS: u64 = 100;
/// The clock may be set meanwhile, so no sleep is longer.
const SLEEP_MS_MAX: u64 = 60_000;

/// Sleeps until the next reservation ends, and again. `changed`: one was made or is to end otherwise.
pub async fn run(db: Db, changed: Arc<Notify>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let now = runtime::clock::now();
        let swept = db
            .write_as(Weight::Background, move |connection| sweep(connection, now).map_err(Abort::<()>::Database))
            .await;
        let wait = match swept {
            Ok(Ok(next)) => next.map(|next| until(next, now)),
            Ok(Err(())) | Err(Error::Busy) => Some(PAUSE_MS),
            Err(error) => return Err(error.into()),
        };
        let sleep = Duration::from_millis(wait.unwrap_or(SLEEP_MS_MAX).min(SLEEP_MS_MAX));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = changed.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

fn until(next: Millis, now: Millis) -> u64 {
    u64::try_from(next.since(now)).unwrap_or(0)
}
