//! Hears the bells, on a connection of its own: whatever is rung, and however often, costs reading and applying no more than the
//! hearing of it, on the thread that reads.
//!
//! A bell is a hint. Without any the sweeps find all that there is, a little later.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use protocol::ids::StoreId;
use protocol::retry::Backoff;
use runtime::redis::Keys;
use runtime::redis::MultiplexedConnection;
use runtime::redis::{Client, ErrorKind, RedisError, RedisResult};

use super::queue::Queue;

/// The own bell may be so late at least, however often is swept.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two checks of whether the own bell is late.
const LISTEN: Duration = Duration::from_millis(500);

/// What listening to the bells takes.
pub(super) struct Bells {
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) queue: Queue,
    pub(super) own: OwnBell,
}

impl Bells {
    /// Hears them for ever; never ends.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut warned = false;
        loop {
            let Err(error) = self.listen(&mut backoff, &mut warned).await;
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(%error, "the bells are not heard; stores are looked at when it is their turn");
            }
            tokio::time::sleep(backoff.failed(uuid::Uuid::new_v4().as_u64_pair().0)).await;
        }
    }

    async fn listen(&self, backoff: &mut Backoff, warned: &mut bool) -> RedisResult<Infallible> {
        let bells = runtime::redis::subscribe(&self.client, &self.keys.all_bells()).await?;
        self.own.begin();
        // What was rung meanwhile was not heard.
        self.queue.sweep_soon();
        let mut messages = bells.into_on_message();
        let mut look = tokio::time::interval(LISTEN);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = message.ok_or_else(|| lost("the bells' connection was lost"))?;
                    if let Some(id) = self.own.store_of(message.get_payload_bytes()) {
                        self.queue.ring(id);
                    } else if self.own.is_answered() {
                        backoff.succeeded();
                        *warned = false;
                    }
                }
                _ = look.tick() => {
                    if self.own.is_late() {
                        return Err(lost("central's own bell is not heard"));
                    }
                }
            }
        }
    }
}

fn lost(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, why))
}

/// The bell that central rings for itself: a connection that is dead at the other end says nothing, as one on which
/// nobody rings. Cheap to clone.
#[derive(Clone)]
pub(super) struct OwnBell {
    /// No store has this name.
    message: Arc<str>,
    patience: Duration,
    /// The first ring that was not heard.
    rung_at: Arc<Mutex<Option<Instant>>>,
}

impl OwnBell {
    pub(super) fn new(sweep_every: Duration) -> Self {
        let message = format!("#{}", uuid::Uuid::new_v4().simple()).into();
        Self { message, patience: (2 * sweep_every).max(PATIENCE), rung_at: Arc::default() }
    }

    /// A new subscription: what was rung before it is not to be heard.
    fn begin(&self) {
        *self.rung_at.lock() = None;
    }

    fn is_late(&self) -> bool {
        self.rung_at.lock().is_some_and(|at| at.elapsed() > self.patience)
    }

    fn is_answered(&self) -> bool {
        self.rung_at.lock().is_none()
    }

    pub(super) async fn ring(&self, connection: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<()> {
        // If it may not the sweeps must do.
        if runtime::redis::ring_for_oneself(connection, keys, &self.message).await? {
            self.rung_at.lock().get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// The store that a bell names, if it names one: anyone may ring, and say whatever they like.
    fn store_of(&self, message: &[u8]) -> Option<StoreId> {
        if message == self.message.as_bytes() {
            self.begin();
        }
        StoreId::parse(std::str::from_utf8(message).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_is_not_heard_tells_that_the_connection_is_dead() {
        let bell = OwnBell::new(Duration::from_secs(2));
        assert!(!bell.is_late());
        *bell.rung_at.lock() = Instant::now().checked_sub(Duration::from_secs(5));
        assert_eq!(bell.store_of(b"s1"), StoreId::parse("s1").ok());
        assert!(bell.is_late());
        let own = bell.message.clone();
        assert_eq!(bell.store_of(own.as_bytes()), None, "it means no store");
        assert!(!bell.is_late() && bell.is_answered());
    }

    #[test]
    fn a_bell_may_say_anything() {
        let bell = OwnBell::new(Duration::from_secs(2));
        for message in ["", "a b", "\u{fffd}", &"x".repeat(1 << 20)] {
            assert_eq!(bell.store_of(message.as_bytes()), None);
        }
        assert_eq!(bell.store_of(&[0xff, 0xfe]), None);
    }
}
