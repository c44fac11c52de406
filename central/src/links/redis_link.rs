//! The connection to Redis that central's tasks share.
//!
//! A call that fails leaves the connection's state unknown, so it is dropped for everybody: each connection has a
//! number, and a sender that finds a new number starts over (rules L3, L4).

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::ids::StoreId;
use runtime::redis::{Client, ErrorKind, RedisError, RedisResult};
use runtime::redis::{Keys, MultiplexedConnection, Reading};
use tokio::sync::Mutex;
use tokio::time::timeout_at;

/// After connecting has failed, others fail at once for this long instead of queueing up to try.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a purchase waits for a heartbeat from Redis, which has it within a millisecond: one that accepts and does not
/// answer must not hold up who wants to buy.
pub const LOOK_TIMEOUT: Duration = Duration::from_millis(500);

type Read = Pin<Box<dyn Future<Output = Option<Reading>> + Send>>;

/// Reads a store's heartbeat, if Redis tells it in time. Cheap to clone.
#[derive(Clone)]
pub struct Heartbeats(Arc<dyn Fn(StoreId) -> Read + Send + Sync>);

impl Heartbeats {
    /// Reads them like this.
    pub fn new<F: Future<Output = Option<Reading>> + Send + 'static>(
        read: impl Fn(StoreId) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |id| Box::pin(read(id))))
    }

    /// From this Redis.
    pub fn of(redis: RedisLink, keys: Keys) -> Self {
        Self::new(move |id| {
            let (redis, keys) = (redis.clone(), keys.clone());
            async move { redis.read_store(&keys, &id).await }
        })
    }

    /// A store's; `None`: Redis did not say it in time.
    pub async fn read(&self, id: &StoreId) -> Option<Reading> {
        (self.0)(id.clone()).await
    }
}

/// A shared connection that is opened when needed. Cheap to clone.
#[derive(Clone)]
pub struct RedisLink {
    client: Client,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    number: u64,
    connection: Option<MultiplexedConnection>,
    failed_at: Option<Instant>,
}

impl RedisLink {
    /// Not connected yet.
    pub fn new(client: Client) -> Self {
        Self { client, state: Arc::default() }
    }

    /// The present connection and its number.
    pub async fn get(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.number, connection.clone()));
        }
        if state.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(RedisError::from((ErrorKind::Io, "Redis could not be reached a moment ago")));
        }
        match runtime::redis::connect(&self.client).await {
            Ok(connection) => {
                state.number += 1;
                state.failed_at = None;
                state.connection = Some(connection.clone());
                Ok((state.number, connection))
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Reads a store's heartbeat. `None`: Redis did not say it in time.
    pub async fn read_store(&self, keys: &Keys, id: &StoreId) -> Option<Reading> {
        let deadline = tokio::time::Instant::now() + LOOK_TIMEOUT;
        let (number, mut connection) = timeout_at(deadline, self.get()).await.ok()?.ok()?;
        match timeout_at(deadline, Reading::read(&mut connection, keys, id)).await {
            Ok(Ok(reading)) => Some(reading),
            failed => {
                tracing::debug!(?failed, "a heartbeat cannot be read");
                self.broken(number).await;
                None
            }
        }
    }

    /// A call on this connection failed: nobody is to use it again.
    pub async fn broken(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.number == number {
            state.connection = None;
        }
    }
}
