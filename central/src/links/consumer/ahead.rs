//! Reads what comes next of stores while the writer applies what came before.
//!
//! An early read is no more than one whose answer comes late: nobody has looked at the store's cursor yet. So what was read is
//! used only if the cursor, looked at later, stands where the read began. And only if it is as much as was asked for: else
//! it would pass for all that there is.

use std::collections::HashMap;

use protocol::ids::StoreId;
use runtime::redis::{Delivery, Keys, MultiplexedConnection, Range, Received, RedisResult};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of bodies that a round has at most for what follows them to be read early. What follows is a part of streams that were all
/// looked at in the same round, so it is no more than a round may read.
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

    /// Begins to read what comes next of stores that may have more than was just read.
    pub(super) fn begin(&mut self, keys: &Keys, next: Vec<Next>) {
        let ranges: Vec<Range> = next.iter().filter_map(|next| next.range.clone()).collect();
        if ranges.is_empty() || next.iter().map(|next| next.bytes).sum::<usize>() > BYTES {
            return;
        }
        let (mut connection, keys, wanted) = (self.connection.clone(), keys.clone(), ranges.clone());
        let read = tokio::spawn(async move { runtime::redis::read(&mut connection, &keys, &wanted).await });
        self.begun = Some(Begun { ranges, read: AbortOnDropHandle::new(read) });
    }

    /// What was read early of what is wanted now, and how many entries of each. All else is forgotten. How many are wanted depends
    /// on how many stores have something: more will do, or half as many. A read that has failed is one that fails now.
    pub(super) async fn take(&mut self, wanted: &[Range]) -> RedisResult<HashMap<StoreId, (Delivery, usize)>> {
        let wanted: HashMap<&StoreId, &Range> = wanted.iter().map(|range| (&range.store, range)).collect();
        let fits = |range: &Range| {
            let wanted = wanted.get(&range.store);
            wanted.is_some_and(|wanted| wanted.after == range.after && range.count >= wanted.count / 2)
        };
        let Some(begun) = self.begun.take().filter(|begun| begun.ranges.iter().any(fits)) else {
            return Ok(HashMap::new());
        };
        let Ok(deliveries) = begun.read.await else { return Ok(HashMap::new()) };
        let read = begun.ranges.into_iter().zip(deliveries?).filter(|(range, delivery)| {
            let is_full = matches!(delivery, Delivery::Entries(entries) if entries.len() == range.count);
            is_full && fits(range)
        });
        Ok(read.map(|(range, delivery)| (range.store, (delivery, range.count))).collect())
    }
}

/// What comes next of a store.
pub(super) struct Next {
    /// Where, unless the end of what was read cannot be read.
    range: Option<Range>,
    /// Bytes of the bodies that were read.
    bytes: usize,
}

impl Next {
    /// Behind these entries, so many.
    pub(super) fn behind(store: &StoreId, entries: &[Received], count: usize) -> Self {
        let last = entries.last().and_then(|last| last.as_ref().ok());
        let range = last.map(|last| Range { store: store.clone(), after: last.id, count });
        Self { range, bytes: entries.iter().flatten().map(|entry| entry.body.len()).sum() }
    }
}
