//! Carries out publishers' steps over the simulated Redis, as `runtime::redis::carry_out` does, but one command at a time:
//! between any two of them anything may happen.

use std::collections::VecDeque;

use protocol::link::{Ack, Entry, EntryId, Found, Link, Reply, RoundReply, Seq, Step};
use runtime::redis::Channel;

use super::redis::{self, Call, Redis, Told};

/// One publisher's step on its way.
struct Part<K, L> {
    key: K,
    step: Step<L>,
    added_to: Seq,
    ack: Option<Ack<L>>,
    found: Option<Found<L>>,
    refused: bool,
}

/// A pipeline on its way, and the looks at streams that follow it.
pub(super) struct Flight<K, L> {
    parts: Vec<Part<K, L>>,
    calls: VecDeque<(usize, Call)>,
    looks: VecDeque<(usize, Call)>,
}

impl<K: Clone, L: Link> Flight<K, L> {
    /// Nothing to carry out yet.
    pub(super) fn new() -> Self {
        Self { parts: Vec::new(), calls: VecDeque::new(), looks: VecDeque::new() }
    }

    /// Whether nobody's step is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Adds a step. `acked`: what its publisher takes for acknowledged; `heartbeat` travels with a round.
    pub(super) fn add(
        &mut self,
        key: K,
        channel: &Channel<L>,
        step: Step<L>,
        acked: Option<EntryId<L>>,
        entries: Vec<Entry<L>>,
        heartbeat: Option<Call>,
    ) {
        let part = self.parts.len();
        let mut added_to = Seq::ZERO;
        match step {
            Step::ReadAck => self.calls.push_back((part, Call::GetAck(channel.ack.clone()))),
            Step::Clear => self.calls.push_back((part, Call::Delete(channel.stream.clone()))),
            Step::Publish(round) => {
                // What is on its way and not acknowledged is bounded (L5).
                let acked = acked.filter(|place| place.epoch == round.epoch).map_or(Seq::ZERO, |place| place.seq);
                assert!(round.add_to <= acked + super::WINDOW, "{} published, {acked} acknowledged", round.add_to);
                added_to = entries.last().map_or(round.add_from - 1, |last| last.id.seq);
                if let Some(below) = round.trim_below {
                    assert!(below.seq <= acked.next(), "trims below {below}, {acked} acknowledged");
                    self.calls.push_back((part, Call::Trim(channel.stream.clone(), redis::id(below))));
                }
                let adds =
                    entries.into_iter().map(|entry| (part, Call::Add(channel.stream.clone(), redis::entry(entry))));
                self.calls.extend(adds);
                self.calls.extend(heartbeat.map(|heartbeat| (part, heartbeat)));
                self.calls.push_back((part, Call::GetAck(channel.ack.clone())));
                if round.audit {
                    self.looks.push_back((part, Call::Info(channel.stream.clone())));
                }
            }
            Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_) => {}
        }
        self.parts.push(Part { key, step, added_to, ack: None, found: None, refused: false });
    }

    /// Carries out one command. All answers, once all are there.
    pub(super) fn advance(&mut self, redis: &mut Redis, now: i64) -> Option<Vec<(K, Reply<L>)>> {
        let Some((part, call)) = self.calls.pop_front().or_else(|| self.looks.pop_front()) else {
            return Some(self.parts.drain(..).map(|part| (part.key.clone(), part.reply())).collect());
        };
        let part = &mut self.parts[part];
        match redis.call(&call, now) {
            Told::Ack(ack) => part.ack = ack.map(redis::ack),
            Told::Found(found) => part.found = Some(redis::found(found)),
            Told::Done => {}
            Told::Refused => part.refused = true,
        }
        None
    }

    /// The connection breaks. What Redis had not carried out is lost, or read from the dead connection's socket later.
    pub(super) fn cut(self, late: bool, redis: &mut Redis) {
        if late {
            redis.late.extend(self.calls.into_iter().map(|(_, call)| call));
        }
    }
}

impl<K, L: Link> Part<K, L> {
    fn reply(&self) -> Reply<L> {
        if self.refused {
            return Reply::Refused;
        }
        match self.step {
            Step::ReadAck => Reply::Ack(self.ack),
            Step::Clear => Reply::Cleared,
            Step::Publish(_) => {
                Reply::Round { added_to: self.added_to, reply: RoundReply { ack: self.ack, stream: self.found } }
            }
            Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_) => Reply::Lost,
        }
    }
}
