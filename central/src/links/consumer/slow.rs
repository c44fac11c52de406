//! The slow lane: stores that are read alone, each in a bounded time, by tasks that nobody waits for.
//!
//! A store comes here because its stream is large, or because a round that it was part of took too long. One that can be
//! read goes back; one whose next entry alone cannot be read in time, or is larger than any that an agent writes, is
//! quarantined and tried again now and then.

use std::time::{Duration, Instant};

use protocol::ids::StoreId;
use protocol::link::{Bounds, Fetch};
use protocol::retry::Backoff;
use runtime::redis::Client;
use runtime::redis::MultiplexedConnection;

use super::queue::{Care, Queue};
use super::round::Rounds;
use super::{BUSY_PAUSE, BYTES_A_STORE, ENTRIES_A_ROUND, Failure, fatal};
use crate::storage::stores;

/// Tasks of this lane.
pub(super) const WORKERS: usize = 4;
/// Bytes read of one store at once, unless one entry alone has more.
const BYTES_A_VISIT: u64 = 4 << 20;
/// One store alone, whatever it has: how much is read of it is said for each visit.
const BOUNDS: Bounds = Bounds {
    bytes: u64::MAX,
    bytes_a_stream: u64::MAX,
    entries: ENTRIES_A_ROUND,
    entries_least: 1,
    entries_most: ENTRIES_A_ROUND,
};
/// How long a store is left alone whose next entry alone could not be read in time.
const REST: Duration = Duration::from_secs(60);

pub(super) struct SlowLane {
    pub(super) client: Client,
    pub(super) queue: Queue,
    pub(super) rounds: Rounds,
}

/// What a visit has come to.
enum Visit {
    /// It may go back to all others. `more`: it has more to say.
    Fits { more: bool },
    /// It stays. `more`: it has more to say that can be read.
    Stays { more: bool },
}

impl SlowLane {
    /// Visits stores for ever; an error of the database ends it.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut connection = None;
        loop {
            let (id, care) = self.queue.next_apart().await;
            match self.visit(&mut connection, &id, care).await {
                Ok(Visit::Fits { more }) => {
                    backoff.succeeded();
                    self.queue.goes_back(&id, more);
                }
                Ok(Visit::Stays { more }) => {
                    backoff.succeeded();
                    let rests = care.rests_until.filter(|until| Instant::now() < *until);
                    self.queue.stays_apart(&id, Care { singly: care.singly, rests_until: rests }, more);
                }
                Err(Failure::Busy) => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                    self.queue.stays_apart(&id, care, true);
                }
                Err(Failure::Slow) => {
                    connection = None;
                    let care = self.judge_slow(&id, care).await;
                    self.queue.stays_apart(&id, care, true);
                }
                Err(Failure::Redis(error)) => {
                    tracing::debug!(store = %id, %error, "a visit waits for Redis");
                    connection = None;
                    self.queue.stays_apart(&id, care, false);
                    tokio::time::sleep(backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0)).await;
                }
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Reading it took too long. First less is read; then it is its own affair, if Redis answers anybody.
    async fn judge_slow(&self, id: &StoreId, care: Care) -> Care {
        if !care.singly {
            return Care { singly: true, rests_until: None };
        }
        if runtime::redis::connect(&self.client).await.is_err() {
            return care;
        }
        self.rounds.cannot_be_read(id, "its next entry alone cannot be read in time");
        Care { singly: true, rests_until: Some(Instant::now() + REST) }
    }

    async fn visit(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        id: &StoreId,
        care: Care,
    ) -> Result<Visit, Failure> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(runtime::redis::connect(&self.client).await?),
        };
        let Some(store) = self.rounds.db.read(|connection| stores::find(connection, id)).await.map_err(fatal)? else {
            return Ok(Visit::Fits { more: false });
        };
        self.rounds.repeat_acks(connection, &[(id.clone(), store.ack())]).await?;
        let read_at = runtime::clock::now();
        let Some(found) = self.rounds.read_stores(connection, std::slice::from_ref(id)).await?.pop() else {
            return Ok(Visit::Fits { more: false });
        };
        let size = match &found.size {
            Ok(size) => *size,
            Err(why) => {
                self.rounds.cannot_be_read(id, why);
                return Ok(Visit::Fits { more: false });
            }
        };
        if let Some(why) = size.why_implausible() {
            self.rounds.cannot_be_read(id, &why);
            return Ok(Visit::Stays { more: false });
        }
        if size.entries == 0 {
            self.rounds.has_nothing(id, found.cursor, &found.reading, read_at);
            return Ok(Visit::Fits { more: false });
        }
        if care.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(Visit::Stays { more: false });
        }
        let count = if care.singly { 1 } else { size.entries_in(BYTES_A_VISIT).min(ENTRIES_A_ROUND) };
        let mut fetch = Fetch::reading(id.clone(), count, BOUNDS);
        self.rounds.carry_out(connection, &mut fetch, vec![found], read_at, None).await?;
        let more = fetch.more().get(id).copied().unwrap_or(false);
        Ok(if size.bytes > BYTES_A_STORE || care.singly && more { Visit::Stays { more } } else { Visit::Fits { more } })
    }
}
