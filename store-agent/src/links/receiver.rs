//! Reads the store's command stream and executes it (L2, B2): the driver of a [`Follower`].

use std::sync::Arc;
use std::time::Duration;

use protocol::ids::StoreId;
use protocol::link::{Commands, FollowStep, Followed, Follower, TICK_MS};
use protocol::retry::Backoff;
use protocol::time::Millis;
use runtime::clock::Ticks;
use runtime::redis::MultiplexedConnection;
use runtime::redis::{Channel, Keys, Received};
use runtime::redis::{Client, RedisResult};
use runtime::sqlite::{Abort, Connection, Db, Error};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ledger::{self, Moved};
use crate::links::connectivity::Connectivity;
use crate::operations::commands::{self, Executed};

/// How long a read waits for a command.
const BLOCK: Duration = Duration::from_millis(TICK_MS as u64);
/// Commands in one transaction, at most.
const BATCH: usize = 200;

/// What the receiver works with.
pub struct Receiver {
    /// Where Redis is.
    pub client: Client,
    /// How its keys are named.
    pub keys: Keys,
    pub store: StoreId,
    pub db: Db,
    /// Whether to talk to central at all.
    pub connectivity: Connectivity,
    /// Rings when a reservation may have been made, or may end otherwise.
    pub expiry: Arc<Notify>,
    /// Rings when a command was executed that asks for the whole state.
    pub telling: Arc<Notify>,
    /// Rings for all who wait when commands were executed.
    pub executed: Arc<Notify>,
}

/// What it holds between two steps.
#[derive(Default)]
struct Held {
    connection: Option<MultiplexedConnection>,
    batch: Vec<Received<Commands>>,
}

impl Receiver {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let clock = Ticks::start();
        let mut follower = Follower::new(Backoff::new(Duration::from_millis(100), Duration::from_secs(2)));
        let mut held = Held::default();
        let mut link = self.connectivity.watch_link();
        loop {
            // Commands are executed only while central's word is known and says that this is the store (L6).
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                up = link.wait_for(|link| link.up) => drop(up?),
            }
            let mut down = link.clone();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                down = down.wait_for(|link| !link.up) => {
                    drop(down?);
                    held = Held::default();
                    follower.disconnect();
                }
                stepped = self.step(&clock, &mut follower, &mut held) => stepped?,
            }
        }
    }

    async fn step(&self, clock: &Ticks, follower: &mut Follower, held: &mut Held) -> anyhow::Result<()> {
        let cursor = self.db.read(ledger::command_cursor).await?.0;
        let step = follower.next(clock.ms(), cursor);
        if let FollowStep::Wait(until) = step {
            let pause = u64::try_from(until.saturating_sub(clock.ms())).unwrap_or(0).max(1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            return Ok(());
        }
        let reply = match step {
            FollowStep::Execute { redis_now } => {
                let (batch, now) = (std::mem::take(&mut held.batch), runtime::clock::now());
                match self.execute(batch, redis_now, now).await {
                    Ok(Ok(executed)) => {
                        if executed.commands == 0 {
                            tracing::debug!(why = executed.stuck, "commands wait");
                        }
                        Followed::Executed { new: executed.commands }
                    }
                    Ok(Err(())) | Err(Error::Busy) => Followed::Busy,
                    Err(error) => return Err(error.into()),
                }
            }
            FollowStep::Connect
            | FollowStep::Acknowledge(_)
            | FollowStep::Read(_)
            | FollowStep::AskTime
            | FollowStep::Wait(_) => self.ask(step, held).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "reading commands waits for Redis");
                held.connection = None;
                Followed::Lost
            }),
        };
        follower.reply(clock.ms(), reply, uuid::Uuid::new_v4().as_u64_pair().0);
        Ok(())
    }

    async fn execute(
        &self,
        batch: Vec<Received<Commands>>,
        redis_now: Millis,
        now: Millis,
    ) -> Result<Result<Executed, ()>, Error> {
        let asked = Ticks::start();
        let weight = commands::weight(&batch);
        let ring = self.bells(&batch);
        let counts = commands::counted(&batch);
        let moved = match counts.is_empty() {
            true => Moved::default(),
            false => self.db.scan(move |connection| Moved::since_positions(connection, counts.clone())).await?,
        };
        let execute = move |connection: &Connection| {
            // Adding up, and waiting for the writer, take a while.
            let redis_now = redis_now.plus(asked.ms());
            commands::receive(connection, &batch, &moved, redis_now, now).map_err(Abort::Database)
        };
        // The link may go down meanwhile, and this be dropped: what was executed then is not read again.
        self.db.write_then(weight, execute, move |_| ring()).await
    }

    /// Tells whom it concerns that these were executed.
    fn bells(&self, batch: &[Received<Commands>]) -> impl FnOnce() + Send + use<> {
        let expiry = commands::moves_an_end(batch).then(|| self.expiry.clone());
        let telling = commands::asks_for_state(batch).then(|| self.telling.clone());
        let executed = self.executed.clone();
        move || {
            expiry.into_iter().chain(telling).for_each(|concerned| concerned.notify_one());
            executed.notify_waiters();
        }
    }

    /// A step over Redis.
    async fn ask(&self, step: FollowStep, held: &mut Held) -> RedisResult<Followed> {
        if step == FollowStep::Connect {
            held.connection = Some(runtime::redis::connect_blocking(&self.client, BLOCK).await?);
            return Ok(Followed::Connected);
        }
        let Some(connection) = &mut held.connection else { return Ok(Followed::Lost) };
        let channel = Channel::commands(&self.keys, &self.store);
        Ok(match step {
            FollowStep::Acknowledge(ack) => {
                channel.set_ack(connection, &ack).await?;
                Followed::Acknowledged
            }
            FollowStep::Read(cursor) => {
                let read = runtime::redis::wait_for_entries(connection, &channel, cursor.id(), BATCH, BLOCK);
                held.batch = read.await?;
                Followed::Read(held.batch.len())
            }
            FollowStep::AskTime => Followed::Time(runtime::redis::time(connection).await?),
            FollowStep::Connect | FollowStep::Execute { .. } | FollowStep::Wait(_) => Followed::Lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use protocol::link::{Cursor, Entry};
    use protocol::wire::Command;
    use runtime::redis::Options;
    use runtime::sqlite::{Reader, Writer};

    use super::*;
    use crate::ledger::SCHEMA;

    #[tokio::test]
    async fn what_was_executed_is_told_though_the_link_has_gone_down_meanwhile() {
        let store: StoreId = "s1".parse().expect("valid");
        let connection = runtime::sqlite::memory(SCHEMA).expect("opens");
        ledger::initialise(&connection, &store, Millis(1)).expect("writes");
        let (writer, mut queue) = Writer::queue();
        let reader = Reader::alone(Connection::open_in_memory().expect("opens"));
        let bell = Notify::new;
        let receiver = Receiver {
            client: runtime::redis::client(&Options::at("redis://127.0.0.1:1")).expect("is an address"),
            keys: Keys::new("test"),
            store,
            db: Db::new(reader, writer),
            connectivity: Connectivity::new(Millis(1)),
            expiry: Arc::new(bell()),
            telling: Arc::new(bell()),
            executed: Arc::new(bell()),
        };
        let resync = Entry::follow(&Cursor::default(), Command::Resync.kind(), "c", Command::Resync.encode(), None);
        {
            let mut executing = Box::pin(receiver.execute(vec![Ok(resync)], Millis(2), Millis(2)));
            assert!(futures_util::poll!(executing.as_mut()).is_pending());
        }
        let group = queue.run(&connection).expect("runs").expect("it has queued");
        connection.execute_batch("commit").expect("commits");
        group.answer();
        let told = tokio::time::timeout(Duration::from_secs(20), receiver.telling.notified());
        told.await.expect("else nobody tells the state");
    }
}
