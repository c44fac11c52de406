//! One round of a receiver of many streams (L2): look, read, apply, acknowledge.
//!
//! Ask [`Fetch::next`], carry out the step, tell [`Fetch::reply`] how it went. Nothing is read before its size was asked,
//! and nothing is acknowledged before it was committed. What is wrong with one stream is that stream's affair.

use crate::planted::{Bug, planted};
use std::collections::{BTreeMap, VecDeque};

use super::Ack;

/// How much one round may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all streams that are read, at most, unless the first alone has more.
    pub bytes: u64,
    /// A stream that has more is to be read apart.
    pub bytes_a_stream: u64,
    /// Entries of all streams, about.
    pub entries: usize,
    /// Entries of one stream, at least.
    pub entries_least: usize,
    /// Entries of one stream, at most.
    pub entries_most: usize,
}

impl Bounds {
    /// Entries to ask each of so many streams for.
    fn each(&self, streams: usize) -> usize {
        (self.entries / streams.max(1)).clamp(self.entries_least, self.entries_most.max(self.entries_least))
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchStep<K> {
    /// Ask how much these streams have.
    Size(Vec<K>),
    /// Read so many entries behind the cursor of each.
    Read(Vec<(K, usize)>),
    /// Apply what was read of these, in one transaction as far as it goes.
    Apply(Vec<K>),
    /// Tell how far these are applied.
    Acknowledge(Vec<(K, Ack)>),
    /// The round is over.
    Done,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sized {
    /// There is nothing to read, or nothing that can be.
    Nothing,
    /// So many bytes.
    Bytes(u64),
}

/// What became of one stream's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is committed up to here. `more`: not all that is known to be there.
    Committed {
        /// What is to be told.
        ack: Ack,
        /// Whether more is to be applied at once.
        more: bool,
    },
    /// The database refuses it: nothing of it is committed.
    Refused,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchReply<K> {
    /// What the look has found; who is no sender any more is missing.
    Sizes(Vec<(K, Sized)>),
    /// Those of which something was read.
    Read(Vec<K>),
    /// What was committed, or refused, in this transaction.
    Applied(Vec<(K, Taken)>),
    /// Nothing was committed: too much else waits.
    Busy,
    /// The acks are told, or refused one by one.
    Acknowledged,
    /// Reading took too long; the connection is gone.
    Slow,
    /// A call failed or timed out; the connection is gone.
    Lost,
}

#[derive(Debug, Clone)]
enum Phase<K> {
    Size(Vec<K>),
    Read(Vec<(K, usize)>),
    Apply(VecDeque<K>),
    Acknowledge,
    Done,
}

/// The round's state.
#[derive(Debug, Clone)]
pub struct Fetch<K> {
    bounds: Bounds,
    phase: Phase<K>,
    acks: Vec<(K, Ack)>,
    more: BTreeMap<K, bool>,
    unread: Vec<K>,
    apart: Vec<K>,
}

impl<K: Ord + Clone> Fetch<K> {
    /// A round over these streams.
    pub fn of(due: Vec<K>, bounds: Bounds) -> Self {
        Self::begin(Phase::Size(due), bounds)
    }

    /// A round that reads so many entries of a stream that was looked at.
    pub fn reading(key: K, count: usize, bounds: Bounds) -> Self {
        Self::begin(Phase::Read(vec![(key, count)]), bounds)
    }

    fn begin(phase: Phase<K>, bounds: Bounds) -> Self {
        Self { bounds, phase, acks: Vec::new(), more: BTreeMap::new(), unread: Vec::new(), apart: Vec::new() }
    }

    /// What to do now.
    #[expect(clippy::should_implement_trait, reason = "named as in all drivers")]
    pub fn next(&mut self) -> FetchStep<K> {
        loop {
            match &self.phase {
                Phase::Size(due) if due.is_empty() => self.phase = Phase::Done,
                Phase::Size(due) => return FetchStep::Size(due.clone()),
                Phase::Read(wanted) if wanted.is_empty() => self.phase = Phase::Done,
                Phase::Read(wanted) => return FetchStep::Read(wanted.clone()),
                Phase::Apply(left) if left.is_empty() => self.phase = Phase::Acknowledge,
                Phase::Apply(left) => return FetchStep::Apply(left.iter().cloned().collect()),
                Phase::Acknowledge if self.acks.is_empty() => self.phase = Phase::Done,
                Phase::Acknowledge => return FetchStep::Acknowledge(self.acks.clone()),
                Phase::Done => return FetchStep::Done,
            }
        }
    }

    /// Takes the answer. One that does not answer the step says as little as a lost connection.
    pub fn reply(&mut self, reply: FetchReply<K>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        self.phase = match (phase, reply) {
            (Phase::Size(_), FetchReply::Sizes(found)) => Phase::Read(self.choose(found)),
            (Phase::Read(_), FetchReply::Read(read)) => Phase::Apply(read.into()),
            (Phase::Read(wanted), FetchReply::Slow) => {
                // Whichever it was: alone they hold up nobody, and those that can be read come back.
                self.apart.extend(wanted.into_iter().map(|(key, _)| key));
                Phase::Done
            }
            (Phase::Apply(left), FetchReply::Applied(taken)) => self.applied(left, taken),
            (Phase::Apply(left), FetchReply::Busy) => {
                // What was committed before is told; the others are read again.
                self.unread.extend(left);
                Phase::Acknowledge
            }
            (
                _,
                FetchReply::Sizes(_)
                | FetchReply::Read(_)
                | FetchReply::Applied(_)
                | FetchReply::Busy
                | FetchReply::Acknowledged
                | FetchReply::Slow
                | FetchReply::Lost,
            ) => Phase::Done,
        };
    }

    fn choose(&mut self, found: Vec<(K, Sized)>) -> Vec<(K, usize)> {
        let (mut wanted, mut bytes) = (Vec::new(), 0_u64);
        for (key, sized) in found {
            match sized {
                Sized::Nothing => {}
                Sized::Bytes(size) if size > self.bounds.bytes_a_stream && planted(Bug::ApartForgotten) => {}
                Sized::Bytes(size) if size > self.bounds.bytes_a_stream => self.apart.push(key),
                Sized::Bytes(size) if bytes > 0 && bytes.saturating_add(size) > self.bounds.bytes => {
                    self.unread.push(key);
                }
                Sized::Bytes(size) => {
                    bytes = bytes.saturating_add(size);
                    wanted.push(key);
                }
            }
        }
        let count = self.bounds.each(wanted.len());
        wanted.into_iter().map(|key| (key, count)).collect()
    }

    fn applied(&mut self, mut left: VecDeque<K>, taken: Vec<(K, Taken)>) -> Phase<K> {
        if taken.is_empty() {
            // A transaction that takes nothing would be asked for ever.
            self.unread.extend(left);
            return Phase::Acknowledge;
        }
        for (key, taken) in taken {
            left.retain(|other| *other != key);
            match taken {
                Taken::Committed { ack, more } => {
                    self.more.insert(key.clone(), more);
                    self.acks.push((key, ack));
                }
                Taken::Refused => {}
            }
        }
        Phase::Apply(left)
    }

    /// Streams of which something was committed, and whether they have more to say.
    pub fn more(&self) -> &BTreeMap<K, bool> {
        &self.more
    }

    /// Streams that were not read or not applied: together with the others they had too much.
    pub fn unread(&self) -> &[K] {
        &self.unread
    }

    /// Streams to be read apart from all others.
    pub fn apart(&self) -> &[K] {
        &self.apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 100, bytes_a_stream: 60, entries: 10, entries_least: 2, entries_most: 8 };

    fn looked(fetch: &mut Fetch<&'static str>, found: &[(&'static str, u64)]) {
        let found = found.iter().map(|(key, bytes)| (*key, Sized::Bytes(*bytes))).collect();
        fetch.reply(FetchReply::Sizes(found));
    }

    fn committed(more: bool) -> Taken {
        Taken::Committed { ack: Ack::default(), more }
    }

    #[test]
    fn what_is_large_is_read_apart_and_what_is_too_much_later() {
        let mut fetch = Fetch::of(vec!["a", "b", "c", "d"], BOUNDS);
        assert_eq!(fetch.next(), FetchStep::Size(vec!["a", "b", "c", "d"]));
        looked(&mut fetch, &[("a", 61), ("b", 60), ("c", 50), ("d", 40)]);
        assert_eq!(fetch.next(), FetchStep::Read(vec![("b", 5), ("d", 5)]));
        assert_eq!((fetch.apart(), fetch.unread()), (&["a"][..], &["c"][..]));
        fetch.reply(FetchReply::Slow);
        assert_eq!(fetch.next(), FetchStep::Done);
        assert_eq!(fetch.apart(), ["a", "b", "d"]);
    }

    #[test]
    fn only_what_is_committed_is_told() {
        let mut fetch = Fetch::of(vec!["a", "b", "c", "d"], BOUNDS);
        looked(&mut fetch, &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        fetch.reply(FetchReply::Read(vec!["a", "b", "c"]));
        assert_eq!(fetch.next(), FetchStep::Apply(vec!["a", "b", "c"]));
        fetch.reply(FetchReply::Applied(vec![("a", committed(true)), ("b", Taken::Refused)]));
        assert_eq!(fetch.next(), FetchStep::Apply(vec!["c"]), "the next transaction");
        fetch.reply(FetchReply::Busy);
        assert_eq!(fetch.next(), FetchStep::Acknowledge(vec![("a", Ack::default())]));
        fetch.reply(FetchReply::Acknowledged);
        assert_eq!(fetch.next(), FetchStep::Done);
        assert_eq!((fetch.more()[&"a"], fetch.unread()), (true, &["c"][..]));
    }

    #[test]
    fn whatever_does_not_answer_ends_the_round() {
        for reply in [FetchReply::Acknowledged, FetchReply::Lost, FetchReply::Applied(Vec::new()), FetchReply::Busy] {
            let mut fetch = Fetch::of(vec!["a"], BOUNDS);
            fetch.reply(reply);
            assert_eq!(fetch.next(), FetchStep::Done);
        }
        let mut fetch = Fetch::reading("a", 3, BOUNDS);
        assert_eq!(fetch.next(), FetchStep::Read(vec![("a", 3)]));
        fetch.reply(FetchReply::Read(vec!["a"]));
        fetch.reply(FetchReply::Applied(Vec::new()));
        assert_eq!(fetch.next(), FetchStep::Done, "nothing is asked for ever");
    }
}
