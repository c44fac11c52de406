//! Reads the store's command stream and executes it (L2, B2).

use std::time::Duration;

use protocol::ids::StoreId;
use protocol::link::{Ack, Cursor, TICK_MS};
use protocol::retry::Backoff;
use protocol::time::Millis;
use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, RedisResult, Value};
use runtime::redis::{Channel, Keys, Received, decode_entry};
use runtime::sqlite::{Abort, Reader, WriteError, Writer};
use tokio_util::sync::CancellationToken;

use crate::ledger;
use crate::links::connectivity::Connectivity;
use crate::operations::commands;

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
    /// Whose commands.
    pub store: StoreId,
    /// Executes.
    pub writer: Writer,
    /// Knows the cursor.
    pub reader: Reader,
    /// Whether to talk to central at all.
    pub connectivity: Connectivity,
}

impl Receiver {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut link = self.connectivity.watch_link();
        loop {
            // Commands are executed only while central's word is known and says that this is the store (L6).
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                up = link.wait_for(|link| link.up) => drop(up?),
            }
            let mut down = link.clone();
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                down = down.wait_for(|link| !link.up) => {
                    drop(down?);
                    continue;
                }
                ended = self.follow(&mut backoff) => ended?,
            };
            tracing::debug!(error = %ended, "reading commands waits for Redis");
            let wait = backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Follows the stream on one connection until Redis fails; that is what it returns. Its error is the database's.
    async fn follow(&self, backoff: &mut Backoff) -> anyhow::Result<redis::RedisError> {
        let mut connection = match runtime::redis::connect_blocking(&self.client, BLOCK).await {
            Ok(connection) => connection,
            Err(error) => return Ok(error),
        };
        let channel = Channel::commands(&self.keys, &self.store);
        let mut cursor = self.reader.point(ledger::command_cursor)?.0;
        loop {
            if let Err(error) = self.set_ack(&mut connection, &channel, cursor).await {
                return Ok(error);
            }
            let (batch, redis_now) = match self.read(&mut connection, &channel, cursor).await {
                Ok(read) => read,
                Err(error) => return Ok(error),
            };
            backoff.succeeded();
            if batch.is_empty() {
                cursor = self.reader.point(ledger::command_cursor)?.0;
                continue;
            }
            let now = runtime::clock::now();
            let executed = self
                .writer
                .write(move |connection| {
                    commands::receive(connection, &batch, redis_now, now).map_err(Abort::<()>::Database)
                })
                .await;
            let executed = match executed {
                Ok(Ok(executed)) => executed,
                Ok(Err(())) | Err(WriteError::Overloaded) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            cursor = executed.cursor;
            if executed.commands == 0 {
                // Nothing that may be executed yet: an epoch has to open first, on this side or the other.
                tracing::debug!(why = executed.stuck, "commands wait");
                self.set_ack_and_wait(&mut connection, &channel, cursor).await;
            }
        }
    }

    async fn set_ack_and_wait(&self, connection: &mut MultiplexedConnection, channel: &Channel, cursor: Cursor) {
        // An error shows at the next call, which is on the same connection.
        let _ = self.set_ack(connection, channel, cursor).await;
        tokio::time::sleep(Duration::from_millis(TICK_MS as u64 / 10)).await;
    }

    async fn set_ack(
        &self,
        connection: &mut MultiplexedConnection,
        channel: &Channel,
        cursor: Cursor,
    ) -> RedisResult<()> {
        let ack = Ack { cursor, fenced: 0 };
        redis::cmd("SET").arg(&channel.ack).arg(ack.to_string()).query_async(connection).await
    }

    /// Waits for commands, then asks Redis's clock. Not in one pipeline: there `TIME` would run when the command came,
    /// and an agent that was suspended in between would take a purchase for fresh that has long expired.
    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        channel: &Channel,
        cursor: Cursor,
    ) -> RedisResult<(Vec<Received>, Millis)> {
        let block = u64::try_from(BLOCK.as_millis()).unwrap_or(0);
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(BATCH).arg("BLOCK").arg(block);
        read.arg("STREAMS").arg(&channel.stream).arg(cursor.id().to_string());
        let batch = entries(read.query_async(connection).await?);
        if batch.is_empty() {
            return Ok((batch, Millis::default()));
        }
        let time = redis::cmd("TIME").query_async(connection).await?;
        Ok((batch, runtime::redis::time(time)))
    }
}

/// The entries in the reply of an `XREAD` of one stream.
fn entries(reply: Value) -> Vec<Received> {
    let stream = match reply {
        Value::Array(mut streams) if !streams.is_empty() => streams.swap_remove(0),
        Value::Map(mut streams) if !streams.is_empty() => {
            let (name, entries) = streams.swap_remove(0);
            Value::Array(vec![name, entries])
        }
        _ => return Vec::new(),
    };
    match <(Value, Vec<Value>)>::from_redis_value(stream) {
        Ok((_, entries)) => entries.into_iter().map(decode_entry).collect(),
        Err(_) => Vec::new(),
    }
}
