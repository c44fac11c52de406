//! What is done every hour: forgetting what may be forgotten, in small batches, so that nobody's write waits for it, and
//! looking whether the view's rows and the chain's totals are what they should be.

use std::time::Duration;

use protocol::ids::StoreId;
use protocol::time::Millis;
use runtime::clock::{Forgetting, Ticks};
use tokio_util::sync::CancellationToken;

use crate::projection::view;
use crate::storage::retention::{self, COMMANDS_MS};
use crate::storage::{Abort, Connection, Db, Error, JobResult, Weight, stores, totals};

const EVERY: Duration = Duration::from_secs(60 * 60);
/// The first time after the start: until then central catches up, and reading all items would slow that. One that is started
/// again and again still comes to it.
const FIRST: Duration = Duration::from_secs(10 * 60);

/// Does it ten minutes after the start, and every hour from then on, until told to stop.
pub async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    let ticks = Ticks::start();
    let mut forgetting = Forgetting::begin(runtime::clock::now());
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(std::mem::replace(&mut pause, EVERY)) => {}
        }
        let forgets = forgetting.may(runtime::clock::now(), ticks.ms());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            done = pass(&db, forgets) => done?,
        }
    }
}

async fn pass(db: &Db, forgets: bool) -> anyhow::Result<()> {
    let now = runtime::clock::now();
    while forgets && batch(db, move |connection| retention::prune(connection, now)).await? {}
    let before = Millis(now.0 - COMMANDS_MS);
    for store in db.scan(stores::all).await? {
        let id = store.id;
        let mut more = forgets && db.read(|connection| retention::has_old_commands(connection, &id, before)).await?;
        while more {
            let id = id.clone();
            more = batch(db, move |connection| retention::prune_commands_of(connection, &id, before)).await?;
        }
        inspect(db, id).await?;
    }
    let differences = db.scan(totals::differences).await?;
    if !differences.is_empty() {
        tracing::error!(count = differences.len(), "totals are not what the items add up to: they are summed anew");
        batch(db, |connection| totals::begin_recount(connection).map(|()| false)).await?;
    }
    Ok(())
}

/// Compares the rows of a store's view with its running digest, beside the writer; a store whose rows are not what they
/// should be is asked for its whole state.
async fn inspect(db: &Db, id: StoreId) -> anyhow::Result<()> {
    let inspected = id.clone();
    let Some(stock) = db.scan(move |connection| view::unsound(connection, &inspected)).await? else {
        return Ok(());
    };
    tracing::error!(store = %id, "the view's rows are not what its digest says: the store is asked for its whole state");
    let now = runtime::clock::now();
    batch(db, move |connection| view::distrust(connection, &id, stock, now)).await?;
    Ok(())
}

/// One short transaction. Says what the job says, or `false` if it was not done.
async fn batch(db: &Db, job: impl Fn(&Connection) -> JobResult<bool> + Send + 'static) -> anyhow::Result<bool> {
    match db.write_as(Weight::Background, move |connection| job(connection).map_err(Abort::<()>::Database)).await {
        Ok(done) => Ok(done.unwrap_or(false)),
        // When there is too much else to write it can wait for the next hour.
        Err(Error::Busy) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
