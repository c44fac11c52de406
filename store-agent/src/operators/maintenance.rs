//! Forgetting what may be forgotten, every hour.

use std::time::Duration;

use protocol::time::Millis;
use runtime::clock::{Forgetting, Ticks};
use runtime::sqlite::{Abort, Connection, Db, Error, Weight};
use tokio_util::sync::CancellationToken;

use crate::ledger::{self, Kind};

const EVERY: Duration = Duration::from_secs(60 * 60);
/// Between two transactions: sales go first.
const PAUSE: Duration = Duration::from_millis(20);

/// Prunes until told to stop.
pub async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let ticks = Ticks::start();
    let mut forgetting = Forgetting::begin(runtime::clock::now());
    loop {
        let now = runtime::clock::now();
        if forgetting.may(now, ticks.ms()) {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                done = pass(&db, now) => done?,
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn pass(db: &Db, now: Millis) -> Result<(), Error> {
    for kind in Kind::ALL {
        while prune(db, kind, now).await? {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Whether there may be more.
async fn prune(db: &Db, kind: Kind, now: Millis) -> Result<bool, Error> {
    let job = move |connection: &Connection| ledger::prune(connection, kind, now).map_err(Abort::<()>::Database);
    match db.write_as(Weight::Background, job).await {
        Ok(pruned) => Ok(pruned.unwrap_or(false)),
        // There is too much else to write.
        Err(Error::Busy) => Ok(true),
        Err(error) => Err(error),
    }
}
