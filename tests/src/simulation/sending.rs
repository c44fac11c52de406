//! Carries out a [`Sender`]'s steps over the simulated Redis, one command at a time: between any two of them anything
//! may happen.

use std::collections::VecDeque;

use protocol::link::{Ack, Cursor, Entry, Found, Log, RoundReply, Sender, Step};
use runtime::redis::Channel;

use super::redis::{Call, Redis, Reply};

/// A pipeline on its way.
struct Flight {
    step: Step,
    calls: VecDeque<Call>,
    ack: Option<Option<Ack>>,
    found: Option<Found>,
}

/// One sender with its connection.
pub(super) struct Sending {
    /// The production state machine.
    pub(super) sender: Sender,
    channel: Channel,
    flight: Option<Flight>,
}

/// What one step of the simulation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing to do.
    Idle,
    /// A command was carried out, or a step begun.
    Moved,
    /// The receiver's word has moved: to be stored.
    Acked(u64),
    /// The stream was not what had been published: the sender starts over.
    StartedOver,
    /// An epoch has to be opened.
    OpenEpoch(Option<Cursor>),
}

impl Sending {
    /// With a small window, so that it is full now and then.
    pub(super) fn new(channel: Channel, window: u64) -> Self {
        Self { sender: Sender::new(window, protocol::link::TICK_MS), channel, flight: None }
    }

    /// One command, or the beginning of a step. `beat` travels with each round.
    pub(super) fn advance(
        &mut self,
        redis: &mut Redis,
        log: &impl Log,
        entries: impl FnOnce(u64, u64) -> Vec<Entry>,
        beat: Option<Call>,
        now: i64,
    ) -> Progress {
        let Some(flight) = &mut self.flight else {
            return self.begin(log, entries, beat, now);
        };
        if let Some(call) = flight.calls.pop_front() {
            match redis.call(&call, now) {
                Reply::Ack(ack) => flight.ack = Some(ack),
                Reply::Found(found) => flight.found = Some(found),
                Reply::Done => {}
                // As any error: the connection is dropped.
                Reply::Refused => {
                    self.disconnect(false, redis);
                }
            }
            return Progress::Moved;
        }
        let Some(flight) = self.flight.take() else { return Progress::Idle };
        let moved = match flight.step {
            Step::ReadAck => self.sender.ack_read(now, flight.ack.flatten(), log),
            Step::Clear => {
                self.sender.cleared();
                None
            }
            Step::Publish(round) => {
                let reply = RoundReply { ack: flight.ack.flatten(), stream: flight.found };
                let moved = self.sender.round_done(now, &round, &reply, log);
                if !self.sender.is_live() && self.sender.stopped().is_none() {
                    return Progress::StartedOver;
                }
                moved
            }
            Step::OpenEpoch { .. } | Step::Wait(_) => None,
        };
        moved.map_or(Progress::Moved, Progress::Acked)
    }

    fn begin(
        &mut self,
        log: &impl Log,
        entries: impl FnOnce(u64, u64) -> Vec<Entry>,
        beat: Option<Call>,
        now: i64,
    ) -> Progress {
        let step = self.sender.next(now, log);
        let (stream, ack) = (self.channel.stream.clone(), self.channel.ack.clone());
        let mut calls = VecDeque::new();
        match step {
            Step::Wait(_) => return Progress::Idle,
            Step::OpenEpoch { proven } => return Progress::OpenEpoch(proven),
            Step::ReadAck => calls.push_back(Call::GetAck(ack)),
            Step::Clear => calls.push_back(Call::Delete(stream)),
            Step::Publish(round) => {
                // What is on its way and not acknowledged is bounded (L5).
                let acked = self.sender.acked();
                assert!(round.add_to <= acked + super::WINDOW, "{} published, {acked} acknowledged", round.add_to);
                if let Some(below) = round.trim_below {
                    assert!(below.seq <= acked + 1, "trims below {below}, {acked} acknowledged");
                    calls.push_back(Call::Trim(stream.clone(), below));
                }
                if round.add_to >= round.add_from {
                    let added = entries(round.add_from, round.add_to);
                    calls.extend(added.into_iter().map(|entry| Call::Add(stream.clone(), entry)));
                }
                calls.extend(beat);
                calls.push_back(Call::GetAck(ack));
                if round.audit {
                    calls.push_back(Call::Info(stream));
                }
            }
        }
        self.flight = Some(Flight { step, calls, ack: None, found: None });
        Progress::Moved
    }

    /// The connection breaks. What Redis had not carried out is lost, or read from the dead connection's socket later.
    pub(super) fn disconnect(&mut self, late: bool, redis: &mut Redis) -> bool {
        self.sender.failed();
        let Some(flight) = self.flight.take() else { return false };
        if late {
            redis.late.extend(flight.calls);
        }
        true
    }

    /// The process dies: its memory with it.
    pub(super) fn forget(&mut self, window: u64, late: bool, redis: &mut Redis) {
        self.disconnect(late, redis);
        self.sender = Sender::new(window, protocol::link::TICK_MS);
    }
}
