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

    /// What was read early of what is wanted now, and how many entries of each. All else is forgotten. A read that has failed is
    /// one that fails now.
    pub(super) async fn take(&mut self, wanted: &[Range]) -> RedisResult<HashMap<StoreId, (Delivery, usize)>> {
        match self.begun.take() {
            Some(begun) => begun.end(wanted).await,
            None => Ok(HashMap::new()),
        }
    }
}

impl Begun {
    /// How many are wanted depends on how many stores have something: more will do, or half as many.
    async fn end(self, wanted: &[Range]) -> RedisResult<HashMap<StoreId, (Delivery, usize)>> {
        let wanted: HashMap<&StoreId, &Range> = wanted.iter().map(|range| (&range.store, range)).collect();
        let fits = |range: &Range| {
            let wanted = wanted.get(&range.store);
            wanted.is_some_and(|wanted| wanted.after == range.after && range.count >= wanted.count / 2)
        };
        if !self.ranges.iter().any(fits) {
            return Ok(HashMap::new());
        }
        let Ok(deliveries) = self.read.await else { return Ok(HashMap::new()) };
        let read = self.ranges.into_iter().zip(deliveries?).filter(|(range, delivery)| {
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

#[cfg(test)]
mod tests {
    use protocol::link::{EntryId, Seq};
    use runtime::redis::Garbage;

    use super::*;

    fn range(store: &str, seq: u64, count: usize) -> Range {
        let after = EntryId { epoch: 7.into(), seq: Seq::ZERO + seq };
        Range { store: store.parse().expect("an id"), after, count }
    }

    fn entries(many: usize) -> Delivery {
        let entry = || Err(Garbage { id: String::new(), why: String::new() });
        Delivery::Entries((0..many).map(|_| entry()).collect())
    }

    fn begun(ranges: Vec<Range>, read: impl Future<Output = RedisResult<Vec<Delivery>>> + Send + 'static) -> Begun {
        Begun { ranges, read: AbortOnDropHandle::new(tokio::spawn(read)) }
    }

    #[tokio::test]
    async fn what_was_read_early_is_used_only_where_it_is_what_is_wanted_now() {
        let ranges =
            ["exact", "more", "fewer", "elsewhere", "not-all", "broken", "nobody"].map(|store| range(store, 5, 64));
        let mut deliveries: Vec<Delivery> = ranges.iter().map(|range| entries(range.count)).collect();
        deliveries[4] = entries(63);
        deliveries[5] = Delivery::Unreadable("it is none".into());
        let begun = begun(ranges.to_vec(), async { Ok(deliveries) });
        let wanted = [
            range("exact", 5, 64),
            range("more", 5, 129),
            range("fewer", 5, 130),
            range("elsewhere", 6, 64),
            range("not-all", 5, 64),
            range("broken", 5, 64),
            range("new", 5, 64),
        ];
        let taken = begun.end(&wanted).await.expect("works");
        let mut taken: Vec<_> = taken.iter().map(|(store, (_, count))| (store.as_str(), *count)).collect();
        taken.sort_unstable();
        assert_eq!(taken, [("exact", 64), ("more", 64)]);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_read_of_which_nothing_is_wanted_and_one_that_fails_fails_now() {
        let never = begun(vec![range("s1", 5, 64)], std::future::pending());
        assert!(never.end(&[range("s1", 6, 64)]).await.expect("works").is_empty());
        let failed = || std::io::Error::other("no answer");
        let fails = begun(vec![range("s1", 5, 64)], async move { Err(failed().into()) });
        assert!(fails.end(&[range("s1", 5, 64)]).await.is_err());
    }
}
