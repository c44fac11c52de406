//! The loop that publishes one log.
//!
//! Ask [`Publisher::needs`], read that of the log, hand it to [`Publisher::next`], carry out the step, tell
//! [`Publisher::reply`] how it went. One step is in flight at a time. An answer is judged at the next `next`, on what the
//! log is then: between an answer and its judgement the log may move.

use std::time::Duration;

use super::sender::{Log, Round, RoundReply, Sender, Step, Stopped};
use super::{Ack, Cursor, EntryId, Events, Found, Link, Seq, TICK_MS, WINDOW};
use crate::hash::Hash;
use crate::retry::Backoff;

/// Bounds and times of a [`Publisher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    /// W: entries published and not acknowledged, at most.
    pub window: u64,
    /// T, ms.
    pub tick_ms: i64,
    /// Between two writes of how far the receiver has acknowledged, ms. It only decides what may be pruned, and what a
    /// restart begins with.
    pub acked_every_ms: i64,
    /// Body bytes of one round, at most: a round must be through within the time-out of its answer.
    pub bytes_most: usize,
    /// By so much the next round may carry more after one that went well; after one that did not it carries half. So a
    /// connection of any speed makes progress, as long as this much gets through in time.
    pub bytes_least: usize,
    /// The first wait after a refusal.
    pub retry_first: Duration,
    /// The longest one.
    pub retry_most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: WINDOW,
            tick_ms: TICK_MS,
            acked_every_ms: 1_000,
            bytes_most: 512 << 10,
            bytes_least: 16 << 10,
            retry_first: Duration::from_millis(100),
            retry_most: Duration::from_secs(2),
        }
    }
}

/// What must be known of the log's present epoch before the next step can be said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Needs<L = Events> {
    /// Places whose chain hash is needed.
    pub hashes: Vec<Seq>,
    /// The entry whose content is needed.
    pub content: Option<Seq>,
    /// Whether [`Log::continues`] this place is needed.
    pub continues: Option<Cursor<L>>,
}

/// What was read of a log at one moment: all that a judgement may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt<L = Events> {
    head: Cursor<L>,
    hashes: Vec<(Seq, Option<Hash>)>,
    content: Option<(Seq, Option<Hash>)>,
    continues: Option<(Cursor<L>, bool)>,
}

impl<L: Link> Excerpt<L> {
    /// Reads what is needed, and the head.
    pub fn of(log: &impl Log<L>, needs: &Needs<L>) -> Self {
        Self {
            head: log.head(),
            hashes: needs.hashes.iter().map(|seq| (*seq, log.hash_at(*seq))).collect(),
            content: needs.content.map(|seq| (seq, log.content_at(seq))),
            continues: needs.continues.map(|place| (place, log.continues(&place))),
        }
    }
}

impl<L: Link> Log<L> for Excerpt<L> {
    fn head(&self) -> Cursor<L> {
        self.head
    }

    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        let found = self.hashes.iter().find(|(place, _)| *place == seq);
        // A place that was not read must not pass for one that was pruned.
        found.unwrap_or_else(|| panic!("place {seq} is judged and was not read")).1
    }

    fn content_at(&self, seq: Seq) -> Option<Hash> {
        self.content.filter(|(place, _)| *place == seq).and_then(|(_, content)| content)
    }

    fn continues(&self, receiver: &Cursor<L>) -> bool {
        self.continues.is_some_and(|(place, continues)| place == *receiver && continues)
    }
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply<L = Events> {
    /// What stands in the ack's place: none also if that is no ack.
    Ack(Option<Ack<L>>),
    /// The stream was deleted.
    Cleared,
    /// A round was answered in full. `added_to`: the last entry that it had, below `add_from` if it had none.
    Round {
        /// The last entry that the round had.
        added_to: Seq,
        /// What it brought back.
        reply: RoundReply<L>,
    },
    /// The epoch is in the log; or the log had moved, which is judged anew.
    Opened,
    /// The acknowledged place is stored, or could not be now.
    Stored(bool),
    /// Redis answered all that was sent, and refused some of it: nothing of it can come late, so the connection stays.
    Refused,
    /// A call failed or timed out, wholly or half: its effect is unknown, the connection is gone.
    Lost,
}

/// The loop's state. Forgets everything when its process ends, and loses nothing by that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Publisher<L = Events> {
    sender: Sender<L>,
    pace: Pace,
    flight: Option<Step<L>>,
    /// An answer that waits to be judged, the step it answers, and when it came.
    answer: Option<(i64, Step<L>, Reply<L>)>,
    /// Body bytes that the next round may carry.
    bytes: usize,
    acked: Option<EntryId<L>>,
    unsaved: Option<EntryId<L>>,
    saved_at: i64,
    backoff: Backoff,
    rests_until: i64,
}

impl<L: Link> Publisher<L> {
    /// One that has not yet spoken to Redis.
    pub fn new(pace: Pace) -> Self {
        Self {
            sender: Sender::new(pace.window, pace.tick_ms),
            flight: None,
            answer: None,
            bytes: pace.bytes_most,
            acked: None,
            unsaved: None,
            saved_at: i64::MIN / 2,
            backoff: Backoff::new(pace.retry_first, pace.retry_most),
            rests_until: i64::MIN / 2,
            pace,
        }
    }

    /// What has to be read of the log for [`Publisher::next`].
    pub fn needs(&self) -> Needs<L> {
        let (ack, stream) = match self.answer {
            Some((_, _, Reply::Ack(Some(ack)))) => (ack, None),
            Some((_, _, Reply::Round { reply: RoundReply { ack: Some(ack), stream }, .. })) => (ack, stream),
            _ => return Needs::default(),
        };
        let epoch = self.sender.epoch();
        let from = if ack.cursor.epoch == epoch { ack.cursor.seq } else { Seq::ZERO };
        let mut needs = Needs {
            hashes: vec![from, from.next()],
            content: None,
            continues: (ack.fenced == epoch).then_some(ack.cursor),
        };
        if let Some(Found::Entries(ends)) = stream {
            needs.hashes.extend([ends.first.0.seq, ends.last.0.seq]);
            needs.content = Some(ends.first.0.seq);
        }
        needs
    }

    /// Judges the last answer, and says what to do now. `log` holds what [`Publisher::needs`] has named.
    pub fn next(&mut self, now: i64, log: &Excerpt<L>) -> Step<L> {
        if let Some((at, step, reply)) = self.answer.take() {
            self.judge(at, step, reply, log);
        }
        debug_assert!(self.flight.is_none(), "one step at a time");
        if let Some(place) = self.unsaved.filter(|_| now - self.saved_at >= self.pace.acked_every_ms) {
            return self.begin(Step::StoreAcked(place));
        }
        if now < self.rests_until {
            return Step::Wait(self.until(self.rests_until));
        }
        match self.sender.next(now, log.head()) {
            Step::Wait(until) => Step::Wait(self.until(until)),
            Step::Publish(round) => self.begin(Step::Publish(Round { bytes: self.bytes, ..round })),
            step @ (Step::ReadAck | Step::Clear | Step::OpenEpoch { .. } | Step::StoreAcked(_)) => self.begin(step),
        }
    }

    fn begin(&mut self, step: Step<L>) -> Step<L> {
        self.flight = Some(step);
        step
    }

    fn until(&self, until: i64) -> i64 {
        self.unsaved.map_or(until, |_| until.min(self.saved_at + self.pace.acked_every_ms))
    }

    /// Takes the answer to the step in flight. One that does not answer it says as little as a lost connection. `dice`:
    /// uniform over all of `u64`.
    pub fn reply(&mut self, now: i64, reply: Reply<L>, dice: u64) {
        let step = self.flight.take();
        match (step, reply) {
            (Some(step @ Step::ReadAck), Reply::Ack(_)) => self.answer = Some((now, step, reply)),
            (Some(step @ Step::Publish(_)), Reply::Round { .. }) => {
                self.bytes = (self.bytes + self.pace.bytes_least).min(self.pace.bytes_most);
                self.backoff.succeeded();
                self.answer = Some((now, step, reply));
            }
            (Some(Step::Clear), Reply::Cleared) => self.sender.cleared(),
            (Some(Step::OpenEpoch { .. }), Reply::Opened) => self.sender.epoch_opened(),
            (Some(Step::StoreAcked(place)), Reply::Stored(stored)) => {
                self.saved_at = now;
                if stored && self.unsaved == Some(place) {
                    self.unsaved = None;
                }
            }
            (step, Reply::Refused) => {
                self.failed(step);
                let wait = i64::try_from(self.backoff.failed(dice).as_millis()).unwrap_or(i64::MAX);
                self.rests_until = now.saturating_add(wait);
            }
            (
                step,
                Reply::Ack(_) | Reply::Cleared | Reply::Round { .. } | Reply::Opened | Reply::Stored(_) | Reply::Lost,
            ) => self.failed(step),
        }
    }

    fn failed(&mut self, step: Option<Step<L>>) {
        if let Some(Step::Publish(_)) = step {
            self.bytes = (self.bytes / 2).max(self.pace.bytes_least);
        }
        self.answer = None;
        self.sender.failed();
    }

    /// The connection is gone, with a step in flight or none.
    pub fn lost(&mut self) {
        let step = self.flight.take();
        self.failed(step);
    }

    fn judge(&mut self, at: i64, step: Step<L>, reply: Reply<L>, log: &Excerpt<L>) {
        let moved = match (step, reply) {
            (_, Reply::Ack(ack)) => self.sender.ack_read(at, ack, log),
            (Step::Publish(round), Reply::Round { added_to, reply }) => {
                self.sender.round_done(at, &Round { add_to: added_to, ..round }, &reply, log)
            }
            // The others are not judged: they need nothing of the log.
            (
                Step::ReadAck
                | Step::Clear
                | Step::Publish(_)
                | Step::OpenEpoch { .. }
                | Step::StoreAcked(_)
                | Step::Wait(_),
                _,
            ) => None,
        };
        if let Some(seq) = moved {
            let place = EntryId { epoch: log.head().epoch, seq };
            (self.acked, self.unsaved) = (Some(place), Some(place));
        }
    }

    /// Whether a step is being carried out.
    pub fn is_busy(&self) -> bool {
        self.flight.is_some()
    }

    /// What the receiver has acknowledged, as far as this process knows.
    pub fn acked(&self) -> Option<EntryId<L>> {
        self.acked
    }

    /// Why it has stopped itself, if it has.
    pub fn stopped(&self) -> Option<Stopped> {
        self.sender.stopped()
    }

    /// Whether the receiver's word was read and accepted on this connection.
    pub fn is_live(&self) -> bool {
        self.sender.is_live()
    }

    /// Whether more is to be published than the window lets through.
    pub fn is_window_full(&self, head: Seq) -> bool {
        self.sender.is_window_full(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log with two entries.
    struct Two;

    impl Log for Two {
        fn head(&self) -> Cursor {
            Cursor { epoch: 7.into(), seq: 2.into(), hash: Hash([2; 16]) }
        }
        fn hash_at(&self, seq: Seq) -> Option<Hash> {
            (seq <= Seq::from(2)).then_some(Hash([seq.get() as u8; 16]))
        }
        fn continues(&self, receiver: &Cursor) -> bool {
            receiver.epoch == 5.into()
        }
    }

    fn next(publisher: &mut Publisher, now: i64) -> Step {
        let needs = publisher.needs();
        publisher.next(now, &Excerpt::of(&Two, &needs))
    }

    fn place(seq: u32) -> EntryId {
        EntryId { epoch: 7.into(), seq: seq.into() }
    }

    /// The next round, whatever comes before it.
    fn round(publisher: &mut Publisher, now: i64) -> Round {
        loop {
            let reply = match next(publisher, now) {
                Step::Publish(round) => return round,
                Step::ReadAck => Reply::Ack(Some(Ack::default())),
                Step::Clear => Reply::Cleared,
                Step::StoreAcked(_) => Reply::Stored(true),
                step @ (Step::OpenEpoch { .. } | Step::Wait(_)) => panic!("{step:?}"),
            };
            publisher.reply(now, reply, 0);
        }
    }

    fn answer(publisher: &mut Publisher, now: i64, acked: u32) {
        let cursor = Cursor { epoch: 7.into(), seq: acked.into(), hash: Hash([acked as u8; 16]) };
        let reply = RoundReply { ack: Some(Ack { cursor, fenced: 0.into() }), stream: None };
        publisher.reply(now, Reply::Round { added_to: 2.into(), reply }, 0);
    }

    #[test]
    fn a_refused_epoch_is_followed_by_another_if_the_log_goes_on_from_the_receiver() {
        for (epoch, goes_on) in [(5, true), (6, false)] {
            let mut publisher = Publisher::new(Pace::default());
            assert_eq!(next(&mut publisher, 0), Step::ReadAck);
            let cursor = Cursor { epoch: epoch.into(), ..Cursor::default() };
            publisher.reply(0, Reply::Ack(Some(Ack { cursor, fenced: 7.into() })), 0);
            let opens = Step::OpenEpoch { judged: Two.head(), proven: Some(cursor) };
            assert_eq!(next(&mut publisher, 0) == opens, goes_on);
            assert_eq!(publisher.stopped(), (!goes_on).then_some(Stopped::Fenced));
        }
    }

    #[test]
    fn a_round_that_is_lost_halves_the_next_and_one_that_is_answered_lets_it_grow() {
        let mut publisher = Publisher::new(Pace::default());
        let kib = |publisher: &mut Publisher, now| round(publisher, now).bytes >> 10;
        for (lost, expected) in (0..).zip([512, 256, 128, 64, 32, 16, 16]) {
            assert_eq!(kib(&mut publisher, lost * 10_000), expected);
            publisher.reply(lost * 10_000, Reply::Lost, 0);
        }
        for (answered, expected) in (8..).zip([16, 32, 48]) {
            assert_eq!(kib(&mut publisher, answered * 10_000), expected);
            answer(&mut publisher, answered * 10_000, 0);
        }
        for answered in 11..50 {
            round(&mut publisher, answered * 10_000);
            answer(&mut publisher, answered * 10_000, 0);
        }
        assert_eq!(kib(&mut publisher, 500_000), 512, "and no further");
    }

    #[test]
    fn an_ack_is_stored_when_the_last_was_stored_long_enough_ago() {
        let mut publisher = Publisher::new(Pace::default());
        assert_eq!(publisher.acked(), None);
        round(&mut publisher, 5_000);
        assert_eq!(publisher.acked(), Some(place(0)), "stored at 5,000");
        answer(&mut publisher, 5_100, 1);
        round(&mut publisher, 5_100);
        answer(&mut publisher, 5_200, 1);
        assert_eq!((next(&mut publisher, 5_200), publisher.acked()), (Step::Wait(6_000), Some(place(1))));
        assert_eq!(next(&mut publisher, 6_000), Step::StoreAcked(place(1)));
        publisher.reply(6_000, Reply::Stored(false), 0);
        assert_eq!(next(&mut publisher, 6_999), Step::Wait(7_000));
        assert_eq!(next(&mut publisher, 7_000), Step::StoreAcked(place(1)), "it could not be");
        publisher.reply(7_000, Reply::Stored(true), 0);
        assert!(!matches!(next(&mut publisher, 8_000), Step::StoreAcked(_)));
    }

    #[test]
    fn a_window_is_full_of_what_is_not_acknowledged() {
        let mut publisher = Publisher::new(Pace { window: 1, ..Pace::default() });
        assert_eq!(round(&mut publisher, 0).add_to, Seq::from(1));
        let reply = RoundReply { ack: Some(Ack::default()), stream: None };
        publisher.reply(0, Reply::Round { added_to: 1.into(), reply }, 0);
        next(&mut publisher, 0);
        assert!(publisher.is_window_full(2.into()) && !publisher.is_window_full(1.into()));
    }
}
