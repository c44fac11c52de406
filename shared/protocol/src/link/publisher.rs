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
