//! Carries out what is left to be done after a store's state has changed as a whole, in
//! [steps](crate::projection::steps) of one short transaction each, takes new names into the index of search, and
//! [rebuilds](crate::projection::rebuild) the view if an operator has asked for that.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::links::publisher::Wakes;
use crate::links::waiting::Waiting;
use crate::projection::rebuild;
use crate::projection::steps::{ROWS, step};
use crate::storage::stores;
use crate::storage::totals;
use crate::storage::{Abort, Connection, Db, Error, JobResult, Weight, labels, rebuild as rebuilds};

/// How often is looked even when nobody says that there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When too many writes are waiting.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What the steps work with.
pub struct Steps {
    pub db: Db,
    /// Hears what was settled.
    pub waiting: Waiting,
    /// Hears of commands that settling has made, and says when there is something to do.
    pub wakes: Wakes,
}

impl Steps {
    /// Runs until told to stop; an error of the database ends it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let woken: Arc<Notify> = self.wakes.steps();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                done = self.round() => if done? { continue },
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = woken.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// One step for each store that has something to do, one of summing totals, and one of the rebuild. Says whether
    /// there was any.
    async fn round(&self) -> anyhow::Result<bool> {
        let (due, recounts, rebuilding) = self
            .db
            .read(|connection| {
                let due = stores::with_steps(connection)?;
                Ok((due, totals::is_recounting(connection)?, rebuilds::is_running(connection)?))
            })
            .await?;
        for id in &due {
            let store = id.clone();
            let stepped = self.write(move |connection| step(connection, &store, ROWS, runtime::clock::now())).await?;
            if stepped.has_commands {
                self.wakes.wake(id);
            }
            stepped.saved.asked.iter().for_each(|other| self.wakes.wake(other));
            if stepped.saved.seeks {
                self.wakes.seeking().notify_one();
            }
            self.waiting.settled(&stepped.saved.settled);
        }
        if recounts {
            self.write(|connection| totals::recount_step(connection, ROWS)).await?;
        }
        if rebuilding {
            let stepped = self.write(|connection| rebuild::step(connection, ROWS, runtime::clock::now())).await?;
            if let Some((store, reason)) = stepped.left_out {
                tracing::warn!(%store, reason = reason.as_str(), "the rebuild leaves this store's view as it is");
            }
            if stepped.is_over {
                tracing::info!("the view has been rebuilt");
            }
        }
        let indexes = self.db.read(labels::are_to_index).await? && self.write(labels::index_step).await?;
        Ok(recounts || rebuilding || indexes || !due.is_empty())
    }

    /// Everything can wait while there is too much else to write.
    async fn write<T: Default + Send + 'static>(
        &self,
        job: impl Fn(&Connection) -> JobResult<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        match self
            .db
            .write_as(Weight::Background, move |connection| job(connection).map_err(Abort::<()>::Database))
            .await
        {
            Ok(done) => Ok(done.unwrap_or_default()),
            Err(Error::Busy) => {
                tokio::time::sleep(BUSY_PAUSE).await;
                Ok(T::default())
            }
            Err(error) => Err(error.into()),
        }
    }
}
