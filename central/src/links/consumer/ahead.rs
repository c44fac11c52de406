//! Reads what comes next of a store while the writer applies what came before.
//!
//! An early read is no more than one whose answer comes late: nobody has looked at the store's cursor yet. So what was read is
//! used only if the cursor, looked at later, stands where the read began. And only if it is as much as was asked for: else
//! it would pass for all that there is.

use protocol::ids::StoreId;
use runtime::redis::{Delivery, Keys, MultiplexedConnection, Range, Received, RedisResult};
use tokio_util::task::AbortOnDropHandle;

use super::ENTRIES_AT_ONCE;

/// Bytes of bodies that a round has at most for what follows them to be read early: so much more is in memory.
const BYTES: usize = 8 << 20;

/// A read that was begun early, on a connection of its own: what comes over it keeps nobody else waiting.
pub(super) struct Ahead {
    connection: MultiplexedConnection,
    begun: Option<Begun>,
}

struct Begun {
    ranges: Vec<Range>,
    read: AbortOnDropHandle<RedisResult<Vec<Delivery>>>,
}

impl Ahead {
    pub(super) fn over(connection: MultiplexedConnection) -> Self {
        Self { connection, begun: None }
    }

    /// Nobody will ask for what was read early.
    pub(super) fn forget(&mut self) {
        self.begun = None;
    }

    /// Begins to read what follows these batches of stores that may have more. Of many stores at once each batch is smaller, and
    /// the next one of another size: that would be no answer to what is asked then.
    pub(super) fn begin<'a>(
        &mut self,
        keys: &Keys,
        batches: impl Iterator<Item = (&'a StoreId, &'a [Received])> + Clone,
    ) {
        let bodies = batches.clone().flat_map(|(_, entries)| entries).flatten().map(|entry| entry.body.len());
        let ranges: Vec<Range> = batches.filter_map(|(store, entries)| behind(store, entries)).collect();
        if ranges.is_empty() || bodies.sum::<usize>() > BYTES {
            return;
        }
        let (mut connection, keys, wanted) = (self.connection.clone(), keys.clone(), ranges.clone());
        let read = tokio::spawn(async move { runtime::redis::read(&mut connection, &keys, &wanted).await });
        self.begun = Some(Begun { ranges, read: AbortOnDropHandle::new(read) });
    }

    /// What was read early of what is wanted now. All else is forgotten, and so is a read that failed.
    pub(super) async fn take(&mut self, wanted: &[Range]) -> Vec<(StoreId, Delivery)> {
        let Some(begun) = self.begun.take().filter(|begun| begun.ranges.iter().any(|range| wanted.contains(range)))
        else {
            return Vec::new();
        };
        let Ok(Ok(deliveries)) = begun.read.await else { return Vec::new() };
        let read = begun.ranges.into_iter().zip(deliveries).filter(|(range, delivery)| {
            let is_full = matches!(delivery, Delivery::Entries(entries) if entries.len() == range.count);
            is_full && wanted.contains(range)
        });
        read.map(|(range, delivery)| (range.store, delivery)).collect()
    }
}

/// What follows a batch, unless its end cannot be read.
fn behind(store: &StoreId, entries: &[Received]) -> Option<Range> {
    let last = entries.last().filter(|_| entries.len() == ENTRIES_AT_ONCE)?.as_ref().ok()?;
    Some(Range { store: store.clone(), after: last.id, count: entries.len() })
}
