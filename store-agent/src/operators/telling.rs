//! Tells central the whole state when it has asked for it, some of it at a time: a sale waits for one step at most.

use std::sync::Arc;
use std::time::Duration;

use runtime::sqlite::{Abort, Connection, Db, Error, Weight};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ledger::state::{self, STEP};
use crate::operations::resync;

/// Between two steps, and when there is too much else to write: sales go first.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs until told to stop; an error of the database ends it. `asked`: central has asked.
pub async fn run(db: Db, asked: Arc<Notify>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let more = db.read(state::is_asked).await? && step(&db).await?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = asked.notified(), if !more => {}
            () = tokio::time::sleep(PAUSE), if more => {}
        }
    }
}

async fn step(db: &Db) -> Result<bool, Error> {
    let now = runtime::clock::now();
    let job = move |connection: &Connection| resync::step(connection, STEP, now).map_err(Abort::<()>::Database);
    match db.write_as(Weight::Background, job).await {
        Ok(Ok(more)) => Ok(more),
        Ok(Err(())) | Err(Error::Busy) => Ok(true),
        Err(error) => Err(error),
    }
}
