//! Reads what comes next of stores while the writer applies what came before.
//!
//! An early read is no more than one whose answer comes late: nobody has looked at the store's cursor yet. So what was read is
//! used only if the cursor, looked at later, stands where the read began. And only if it is as much as was asked for: else
//! it would pass for all that there is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::ids::StoreId;
use runtime::redis::{Client, Delivery, Keys, MultiplexedConnection, Range, Received, RedisResult};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of bodies that a round has at most for what follows them to be read early: with what an agent may add meanwhile it stays about
/// what a round may read.
const BYTES: usize = 8 << 20;
/// A connection that was not used for so long is made anew: somebody between may have dropped it, and it may never say so.
const RESTED: Duration = Duration::from_secs(10);

/// A read that was begun early, on a connection of its own: what comes over it keeps nobody else waiting.
pub(super) struct Ahead {
    client: Client,
    /// What the last read came over, and when.
    connection: Option<(MultiplexedConnection, Instant)>,
    begun: Option<Begun>,
    /// When reading early has failed last: for [`RESTED`] it is not tried again, which would hold up what works.
    failed_at: Option<Instant>,
}

struct Begun {
    ranges: Vec<Range>,
    read: AbortOnDropHandle<RedisResult<(MultiplexedConnection, Vec<Delivery>)>>,
}

impl Ahead {
    pub(super) fn with(client: &Client) -> Self {
        Self { client: client.clone(), connection: None, begun: None, failed_at: None }
    }

    /// Nobody will ask for what was read early.
    pub(super) fn forget(&mut self) {
        self.begun = None;
    }

    /// Begins to read what comes next of stores that may have more than was just read.
    pub(super) fn begin(&mut self, keys: &Keys, next: Vec<Next>) {
        let ranges: Vec<Range> = next.iter().filter_map(|next| next.range.clone()).collect();
        let has_failed = self.failed_at.is_some_and(|at| at.elapsed() < RESTED);
        if has_failed || ranges.is_empty() || next.iter().map(|next| next.bytes).sum::<usize>() > BYTES {
            return;
        }
        let (client, keys, wanted) = (self.client.clone(), keys.clone(), ranges.clone());
        let connection = self.connection.take().filter(|(_, used_at)| used_at.elapsed() < RESTED);
        let read = tokio::spawn(async move {
            let mut connection = match connection {
                Some((connection, _)) => connection,
                None => runtime::redis::connect(&client).await?,
            };
            let deliveries = runtime::redis::read(&mut connection, &keys, &wanted).await?;
            Ok((connection, deliveries))
        });
        self.begun = Some(Begun { ranges, read: AbortOnDropHandle::new(read) });
    }

    /// What was read early of what is wanted now, and how many entries of each. All else is forgotten. A read that has failed tells of
    /// its own connection alone: whether Redis answers is for the one to say over which all is read that was not read early.
    pub(super) async fn take(&mut self, wanted: &[Range]) -> HashMap<StoreId, (Delivery, usize)> {
        let wanted = &by_store(wanted);
        let begun = self.begun.take().filter(|begun| begun.ranges.iter().any(|range| fits(range, wanted)));
        let Some(Begun { ranges, read }) = begun else { return HashMap::new() };
        let read = async { anyhow::Ok(read.await??) };
        let (connection, deliveries) = match read.await {
            Ok(read) => read,
            Err(error) => {
                tracing::info!(%error, "what comes next cannot be read early");
                self.failed_at = Some(Instant::now());
                return HashMap::new();
            }
        };
        self.connection = Some((connection, Instant::now()));
        fitting(ranges, deliveries, wanted)
    }
}

fn by_store(wanted: &[Range]) -> HashMap<&StoreId, &Range> {
    wanted.iter().map(|range| (&range.store, range)).collect()
}

/// Of what was read early what is wanted now.
fn fitting(
    ranges: Vec<Range>,
    deliveries: Vec<Delivery>,
    wanted: &HashMap<&StoreId, &Range>,
) -> HashMap<StoreId, (Delivery, usize)> {
    let read = ranges.into_iter().zip(deliveries).filter(|(range, delivery)| {
        let is_full = matches!(delivery, Delivery::Entries(entries) if entries.len() == range.count);
        is_full && fits(range, wanted)
    });
    read.map(|(range, delivery)| (range.store, (delivery, range.count))).collect()
}

/// How many are wanted depends on how many stores have something: more will do, or half as many.
fn fits(range: &Range, wanted: &HashMap<&StoreId, &Range>) -> bool {
    let wanted = wanted.get(&range.store);
    wanted.is_some_and(|wanted| wanted.after == range.after && range.count >= wanted.count / 2)
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
    use runtime::redis::{Garbage, Options};

    use super::*;

    fn range(store: &str, seq: u64, count: usize) -> Range {
        let after = EntryId { epoch: 7.into(), seq: Seq::ZERO + seq };
        Range { store: store.parse().expect("an id"), after, count }
    }

    fn entries(many: usize) -> Delivery {
        let entry = || Err(Garbage { id: String::new(), why: String::new() });
        Delivery::Entries((0..many).map(|_| entry()).collect())
    }

    #[test]
    fn what_was_read_early_is_used_only_where_it_is_what_is_wanted_now() {
        let ranges = ["exact", "more", "fewer", "elsewhere", "not-all", "broken", "nobody"];
        let ranges = ranges.map(|store| range(store, 5, 64)).to_vec();
        let mut deliveries: Vec<Delivery> = ranges.iter().map(|range| entries(range.count)).collect();
        deliveries[4] = entries(63);
        deliveries[5] = Delivery::Unreadable("it is none".into());
        let wanted = [
            range("exact", 5, 64),
            range("more", 5, 129),
            range("fewer", 5, 130),
            range("elsewhere", 6, 64),
            range("not-all", 5, 64),
            range("broken", 5, 64),
            range("new", 5, 64),
        ];
        let taken = fitting(ranges, deliveries, &by_store(&wanted));
        let mut taken: Vec<_> = taken.iter().map(|(store, (_, count))| (store.as_str(), *count)).collect();
        taken.sort_unstable();
        assert_eq!(taken, [("exact", 64), ("more", 64)]);
    }

    #[tokio::test]
    async fn a_read_that_has_failed_says_nothing_and_is_not_tried_again_soon() {
        let nobody = runtime::redis::client(&Options::at("redis://127.0.0.1:1")).expect("an address");
        let mut ahead = Ahead::with(&nobody);
        let next = |bytes| vec![Next { range: Some(range("s1", 5, 64)), bytes }];
        ahead.begin(&Keys::new("test"), next(BYTES + 1));
        assert!(ahead.begun.is_none(), "too much was read");
        ahead.begin(&Keys::new("test"), next(BYTES));
        assert!(ahead.begun.is_some());
        assert!(ahead.take(&[range("s1", 5, 64)]).await.is_empty());
        ahead.begin(&Keys::new("test"), next(1));
        assert!(ahead.begun.is_none(), "not so soon again");
        ahead.failed_at = None;
        ahead.begin(&Keys::new("test"), next(1));
        assert!(ahead.begun.is_some() && ahead.connection.is_none());
    }
}
