//! The publishing side as a process: the production loop ([`Driver`]), its connection, and what an old connection still
//! has on the way.
//!
//! A call is asked for in one step, which judges the reply before, and each of its Redis commands is another; the log,
//! Redis and the other side may move between any two of them. Time is two values: the loop is asked at [`LONG`]
//! ("whatever it waits for has passed") or at 0 ("it has not"), and every reply arrives at 0, so all orders of ticks and
//! commits are there without a clock in the state.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::link::{
    Ack, Cursor, Excerpt, Log, Pace, Publisher as Driver, Reply as Told, Round, RoundReply, Seq, Step, Stopped,
};

use crate::redis::{Cmd, Payload, Redis, Reply, Row};

/// Unacknowledged entries in the stream, at most.
pub(crate) const WINDOW: u64 = 2;
const TICK: i64 = 1;
/// Beyond everything that a sender waits for.
const LONG: i64 = TICK * protocol::link::IDLE_TICKS;

/// Nothing but the window and T bounds it: what else there is would only add states.
const PACE: Pace = Pace {
    window: WINDOW,
    tick_ms: TICK,
    acked_every_ms: 0,
    bytes_most: 1 << 20,
    bytes_least: 1 << 20,
    retry_first: Duration::ZERO,
    retry_most: Duration::ZERO,
};

/// A sender's log: what [`Log`] asks for, and the entries themselves.
pub(crate) trait Rows<P: Payload>: Log<P::Link> {
    /// The entry at a place of the present epoch, if it is kept.
    fn row(&self, seq: Seq) -> Option<&Row<P>>;
}

/// Bugs that can be planted in how the sender is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wiring {
    /// The stream is never looked at.
    pub(crate) no_audit: bool,
    /// What the ack says of the other end's hash is taken on trust.
    pub(crate) ack_hash_ignored: bool,
    /// No bug: Redis executes a whole pipeline in one step, where the model has too many other steps to explore.
    pub(crate) pipelines_whole: bool,
}

/// What a step of the process has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done<L> {
    /// There was nothing to do.
    Nothing,
    /// Something, and there may be more.
    Stepped,
    /// The reply moved the acknowledged place, which is to be stored beside the log.
    Acked(Seq),
    /// A round's reply sent it back to the start, though the ack was read.
    StartedOver,
    /// It asks for a new epoch: the owner opens it, then says so.
    OpenEpoch(Option<Cursor<L>>),
}

/// A call on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Call<P: Payload> {
    step: Step<P::Link>,
    left: VecDeque<Cmd<P>>,
    reply: RoundReply<P::Link>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Publisher<P: Payload> {
    driver: Driver<P::Link>,
    call: Option<Call<P>>,
    /// The last answer was that to a round, and had an ack.
    heard: bool,
    /// Commands of an old connection that Redis has not executed yet.
    pub(crate) late: VecDeque<Cmd<P>>,
}

impl<P: Payload> Publisher<P> {
    pub(crate) fn new() -> Self {
        Self { driver: Driver::new(PACE), call: None, heard: false, late: VecDeque::new() }
    }

    /// Whether a call is on its way.
    pub(crate) fn is_calling(&self) -> bool {
        self.call.is_some()
    }

    /// Why it has stopped itself.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.driver.stopped()
    }

    /// Whether commands that write would be left over if the connection broke now.
    pub(crate) fn would_be_late(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.left.iter().any(Cmd::writes))
    }

    /// Judges the reply and asks for the next step, or executes one Redis command. `tick`: whether T has passed.
    pub(crate) fn step(
        &mut self,
        tick: bool,
        log: &impl Rows<P>,
        redis: &mut Redis<P>,
        wiring: Wiring,
    ) -> Done<P::Link> {
        let Some(call) = &mut self.call else { return self.ask(if tick { LONG } else { 0 }, log) };
        while let Some(cmd) = call.left.pop_front() {
            match redis.execute(&cmd) {
                Reply::Done => {}
                Reply::Ack(ack) => call.reply.ack = ack,
                Reply::Found(found) => call.reply.stream = Some(found),
            }
            if !wiring.pipelines_whole {
                break;
            }
        }
        if call.left.is_empty() {
            self.answered(log, wiring);
        }
        Done::Stepped
    }

    fn ask(&mut self, now: i64, log: &impl Rows<P>) -> Done<P::Link> {
        let excerpt = Excerpt::of(log, &self.driver.needs());
        let step = self.driver.next(now, &excerpt);
        let left = match step {
            Step::StoreAcked(place) => {
                self.driver.reply(0, Told::Stored(true), 0);
                return Done::Acked(place.seq);
            }
            Step::Wait(_) => {
                self.heard = false;
                return Done::Nothing;
            }
            Step::OpenEpoch { proven, .. } => {
                self.heard = false;
                return Done::OpenEpoch(proven);
            }
            Step::ReadAck => VecDeque::from([Cmd::GetAck]),
            Step::Clear => VecDeque::from([Cmd::Delete]),
            Step::Publish(round) => pipeline(&round, log),
        };
        self.call = Some(Call { step, left, reply: RoundReply { ack: None, stream: None } });
        let started_over = std::mem::take(&mut self.heard) && step == Step::ReadAck;
        if started_over { Done::StartedOver } else { Done::Stepped }
    }

    fn answered(&mut self, log: &impl Rows<P>, wiring: Wiring) {
        let Some(mut call) = self.call.take() else { return };
        if let (true, Some(Ack { cursor, .. })) = (wiring.ack_hash_ignored, &mut call.reply.ack) {
            cursor.hash = log.hash_at(cursor.seq).unwrap_or(cursor.hash);
        }
        if wiring.no_audit {
            call.reply.stream = None;
        }
        self.heard = matches!(call.step, Step::Publish(_)) && call.reply.ack.is_some();
        let told = match call.step {
            Step::ReadAck => Told::Ack(call.reply.ack),
            Step::Publish(round) => Told::Round { added_to: round.add_to, reply: call.reply },
            Step::Clear => Told::Cleared,
            Step::OpenEpoch { .. } | Step::StoreAcked(_) | Step::Wait(_) => Told::Lost,
        };
        self.driver.reply(0, told, 0);
    }

    /// The epoch that it has asked for is in the log.
    pub(crate) fn epoch_opened(&mut self) {
        self.driver.reply(0, Told::Opened, 0);
    }

    /// The connection breaks, with a call on its way or none. With `late` Redis executes later what it has not yet.
    pub(crate) fn broken(&mut self, late: bool) {
        if let (Some(call), true) = (self.call.take(), late) {
            self.late.extend(call.left.into_iter().filter(Cmd::writes));
        }
        self.heard = false;
        self.driver.lost();
    }

    /// The process ends and starts again.
    pub(crate) fn crashed(&mut self, late: bool) {
        self.broken(late);
        self.driver = Driver::new(PACE);
    }
}

fn pipeline<P: Payload>(round: &Round<P::Link>, log: &impl Rows<P>) -> VecDeque<Cmd<P>> {
    let mut left = VecDeque::new();
    left.extend(round.trim_below.map(Cmd::TrimBelow));
    let places = (0..(round.add_to + 1) - round.add_from).map(|behind| round.add_from + behind);
    left.extend(places.filter_map(|seq| log.row(seq)).cloned().map(Cmd::Add));
    left.push_back(Cmd::GetAck);
    left.extend(round.audit.then_some(Cmd::Info));
    left
}
