//! The loop that publishes many logs over one connection, in batches: central's, for commands.
//!
//! Take those that have something to do, read what they need of their logs in one go, ask each for its step, carry all
//! steps out together, tell each how its own went. A refusal is that log's own affair; a lost connection is everybody's.
//! Whoever is woken or due first comes first, so that nobody waits for ever.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::publisher::{Excerpt, Needs, Pace, Publisher, Reply};
use super::sender::{Log, Step};
use super::{Commands, Epoch};

/// All logs of one owner, by key.
#[derive(Debug, Clone)]
pub struct Publishers<K> {
    pace: Pace,
    logs: BTreeMap<K, Member>,
    /// Those with something to do now.
    queue: VecDeque<K>,
    /// Those that want to be asked at a time.
    due: BTreeSet<(i64, K)>,
    /// Number of the present connection.
    connection: u64,
}

#[derive(Debug, Clone)]
struct Member {
    publisher: Publisher<Commands>,
    /// On which connection it has spoken last.
    connection: u64,
    queued: bool,
    due: Option<i64>,
}

impl<K: Ord + Clone> Publishers<K> {
    /// No log yet.
    pub fn new(pace: Pace) -> Self {
        Self { pace, logs: BTreeMap::new(), queue: VecDeque::new(), due: BTreeSet::new(), connection: 0 }
    }

    /// Something was committed to this log.
    pub fn wake(&mut self, key: &K) {
        let (pace, connection) = (self.pace, self.connection);
        let new = || Member { publisher: Publisher::new(pace), connection, queued: false, due: None };
        let member = self.logs.entry(key.clone()).or_insert_with(new);
        // One whose step is being carried out is asked again after it.
        if !member.queued && !member.publisher.is_busy() {
            member.queued = true;
            self.queue.push_back(key.clone());
        }
    }

    /// Up to so many logs that have something to do, and what each needs to be known of it.
    pub fn take(&mut self, now: i64, most: usize) -> Vec<(K, Needs<Commands>)> {
        while let Some((at, _)) = self.due.first()
            && *at <= now
            && let Some((_, key)) = self.due.pop_first()
        {
            if let Some(member) = self.logs.get_mut(&key) {
                member.due = None;
            }
            self.wake(&key);
        }
        let taken: Vec<K> = self.queue.drain(..most.min(self.queue.len())).collect();
        taken
            .into_iter()
            .filter_map(|key| {
                let member = self.logs.get_mut(&key)?;
                member.queued = false;
                if member.connection != self.connection {
                    member.connection = self.connection;
                    member.publisher.lost();
                }
                Some((key, member.publisher.needs()))
            })
            .collect()
    }

    /// The earliest time at which a log wants to be asked, if none is woken.
    pub fn next_due(&self) -> Option<i64> {
        if self.queue.is_empty() { self.due.first().map(|(at, _)| *at) } else { Some(i64::MIN) }
    }

    /// What to do now for one that was taken. A log without an epoch has nothing to publish and is forgotten.
    pub fn next(&mut self, now: i64, key: &K, log: &Excerpt<Commands>) -> Step<Commands> {
        let Some(member) = self.logs.get_mut(key) else { return Step::Wait(i64::MAX) };
        if let Some(at) = member.due.take() {
            self.due.remove(&(at, key.clone()));
        }
        if log.head().epoch == Epoch::NONE {
            self.logs.remove(key);
            return Step::Wait(i64::MAX);
        }
        let step = member.publisher.next(now, log);
        if let Step::Wait(until) = step {
            member.due = Some(until);
            self.due.insert((until, key.clone()));
        }
        step
    }

    /// How one log's step went.
    pub fn reply(&mut self, now: i64, key: &K, reply: Reply<Commands>, dice: u64) {
        if let Some(member) = self.logs.get_mut(key) {
            member.publisher.reply(now, reply, dice);
            self.wake(key);
        }
    }

    /// The connection is gone: every step in flight has failed, and everybody starts over on the next one.
    pub fn lost(&mut self) {
        self.connection += 1;
        let busy: Vec<K> =
            self.logs.iter().filter(|(_, member)| member.publisher.is_busy()).map(|(key, _)| key.clone()).collect();
        for key in busy {
            if let Some(member) = self.logs.get_mut(&key) {
                member.connection = self.connection;
                member.publisher.lost();
            }
            self.wake(&key);
        }
    }

    /// The publisher of a log, if it has one.
    pub fn of(&self, key: &K) -> Option<&Publisher<Commands>> {
        self.logs.get(key).map(|member| &member.publisher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::link::{Ack, Cursor, EntryId, RoundReply, Seq};

    struct Empty(Cursor<Commands>);

    impl Log<Commands> for Empty {
        fn head(&self) -> Cursor<Commands> {
            self.0
        }
        fn hash_at(&self, seq: Seq) -> Option<Hash> {
            (seq <= self.0.seq).then_some(if seq == Seq::ZERO { Hash::ZERO } else { self.0.hash })
        }
    }

    fn log() -> Empty {
        Empty(Cursor { epoch: 7.into(), seq: 1.into(), hash: Hash([1; 16]) })
    }

    fn steps(logs: &mut Publishers<&'static str>, now: i64) -> Vec<(&'static str, Step<Commands>)> {
        let taken = logs.take(now, 9);
        taken.iter().map(|(key, needs)| (*key, logs.next(now, key, &Excerpt::of(&log(), needs)))).collect()
    }

    fn goes_live(logs: &mut Publishers<&'static str>, key: &'static str) {
        logs.wake(&key);
        assert_eq!(steps(logs, 0), [(key, Step::ReadAck)]);
        logs.reply(0, &key, Reply::Ack(Some(Ack::default())), 0);
        assert_eq!(steps(logs, 0), [(key, Step::StoreAcked(EntryId { epoch: 7.into(), seq: 0.into() }))]);
        logs.reply(0, &key, Reply::Stored(true), 0);
        assert_eq!(steps(logs, 0), [(key, Step::Clear)]);
        logs.reply(0, &key, Reply::Cleared, 0);
    }

    #[test]
    fn ones_refusal_is_its_own_affair() {
        let mut logs = Publishers::new(Pace::default());
        goes_live(&mut logs, "a");
        logs.wake(&"b");
        let [("a", Step::Publish(_)), ("b", Step::ReadAck)] = steps(&mut logs, 0)[..] else { panic!("both go on") };
        logs.reply(0, &"b", Reply::Refused, 0);
        let reply = RoundReply { ack: Some(Ack::default()), stream: None };
        logs.reply(0, &"a", Reply::Round { added_to: 1.into(), reply }, 0);
        let said = steps(&mut logs, 0);
        assert!(matches!(said[..], [("b", Step::Wait(1..)), ("a", Step::Wait(1..))]), "{said:?}");
        assert!(logs.logs["a"].publisher.is_live());
        let ("b", Step::Wait(first)) = said[0] else { panic!("{said:?}") };
        assert_eq!(logs.next_due(), Some(first));
        let said = steps(&mut logs, 200);
        assert_eq!(said, [("b", Step::ReadAck)], "it tries again");
    }

    #[test]
    fn all_start_over_on_a_new_connection() {
        let mut logs = Publishers::new(Pace::default());
        goes_live(&mut logs, "a");
        assert!(matches!(steps(&mut logs, 0)[..], [("a", Step::Publish(_))]));
        logs.wake(&"a");
        logs.wake(&"b");
        assert_eq!(steps(&mut logs, 0), [("b", Step::ReadAck)], "one step at a time");
        logs.lost();
        assert_eq!(steps(&mut logs, 0), [("a", Step::ReadAck), ("b", Step::ReadAck)]);
        logs.reply(0, &"a", Reply::Cleared, 0);
        assert_eq!(steps(&mut logs, 0), [("a", Step::ReadAck)], "no answer to this");
    }

    #[test]
    fn a_log_without_an_epoch_is_forgotten() {
        let mut logs = Publishers::new(Pace::default());
        logs.wake(&"a");
        for (key, needs) in logs.take(0, 9) {
            let log = Excerpt::of(&Empty(Cursor::default()), &needs);
            assert_eq!(logs.next(0, &key, &log), Step::Wait(i64::MAX));
        }
        assert_eq!((logs.next_due(), logs.logs.len()), (None, 0));
    }
}
