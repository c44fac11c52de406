//! Takes new names into the index of search, some at a time.

use std::time::Duration;

use runtime::sqlite::{Abort, Db, Error, Weight, labels};
use tokio_util::sync::CancellationToken;

/// A name that is not in the index is found all the same, so nothing waits for this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two steps: sales go first.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs until told to stop; an error of the database ends it.
pub async fn run(db: Db, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let indexed = if db.read(labels::are_to_index).await? {
            match db
                .write_as(Weight::Background, |connection| {
                    labels::index_step(connection).map_err(Abort::<()>::Database)
                })
                .await
            {
                Ok(done) => done.unwrap_or_default(),
                Err(Error::Busy) => true,
                Err(error) => return Err(error.into()),
            }
        } else {
            false
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(if indexed { PAUSE } else { LOOK_EVERY }) => {}
        }
    }
}
