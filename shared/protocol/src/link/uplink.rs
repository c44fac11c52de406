//! The loop of an agent's publisher: its log, its connection, and what it says of itself (rules L3 to L6, L13).
//!
//! A heartbeat travels with each round; between rounds one is set when it is due, or when its key is gone. An agent that
//! publishes nothing sends no heartbeat: it claims instead, in a key of its own, since a heartbeat belongs to the agent that
//! central follows. So central finds a new store before its first word to it, and people see an agent that has stopped.

use super::publisher::{Excerpt, Needs, Pace, Publisher, Reply};
use super::sender::{Step, Stopped};
use crate::retry::Backoff;

/// Between two claims, ms: several within the life of their key.
const CLAIM_EVERY_MS: i64 = 4_000;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkStep {
    /// Open a new connection.
    Connect,
    /// Enter the store's name in the set of all stores. The set may have been wiped, so it is said again now and then.
    Announce,
    /// The log's own next step.
    Link(Step),
    /// Whether the heartbeat is still there.
    CheckHeartbeat,
    /// Set the heartbeat and ring.
    Heartbeat,
    /// Set the claim.
    Claim {
        /// `None`: central has not said anything yet.
        why: Option<Stopped>,
        /// For how long it has been so, ms.
        for_ms: i64,
    },
    /// Nothing until something is committed, or until this time (ms).
    Wait(i64),
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkReply {
    /// There is a connection.
    Connected,
    /// The set has the name, or is none of this agent's business.
    Announced,
    /// The log's step is done; [`Reply::Lost`] counts for the connection.
    Link(Reply),
    /// Whether the heartbeat's key is there.
    HeartbeatFound(bool),
    /// The heartbeat is set.
    HeartbeatSet,
    /// The claim is set, or may not be.
    Claimed,
    /// A call failed or timed out: the connection is gone, or there is none.
    Lost,
}

impl UplinkReply {
    /// Whether it shows that Redis takes what is published. It answers who reads and deletes also while it refuses that: without
    /// memory or rights.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Link(Reply::Round { .. }) | Self::HeartbeatSet | Self::Claimed)
    }
}

/// The loop's state.
#[derive(Debug, Clone)]
pub struct Uplink {
    publisher: Publisher,
    heartbeat_every_ms: i64,
    tick_ms: i64,
    is_connected: bool,
    announces: bool,
    heartbeat_is_gone: bool,
    heartbeat_at: i64,
    looked_at: i64,
    /// Since when nothing is published, while Redis answers.
    aside_since: Option<i64>,
    claimed_at: i64,
    backoff: Backoff,
    rests_until: i64,
}

impl Uplink {
    /// Not connected yet.
    pub fn new(pace: Pace, heartbeat_every_ms: i64) -> Self {
        let long_ago = i64::MIN / 2;
        Self {
            publisher: Publisher::new(pace),
            heartbeat_every_ms,
            tick_ms: pace.tick_ms,
            is_connected: false,
            announces: false,
            heartbeat_is_gone: false,
            heartbeat_at: long_ago,
            looked_at: long_ago,
            aside_since: None,
            claimed_at: long_ago,
            backoff: Backoff::new(pace.retry_first, pace.retry_most),
            rests_until: long_ago,
        }
    }

    /// What has to be read of the log for [`Uplink::next`].
    pub fn needs(&self) -> Needs {
        self.publisher.needs()
    }

    /// What to do now.
    pub fn next(&mut self, now: i64, log: &Excerpt) -> UplinkStep {
        if !self.is_connected {
            return if now < self.rests_until { UplinkStep::Wait(self.rests_until) } else { UplinkStep::Connect };
        }
        if self.announces {
            return UplinkStep::Announce;
        }
        let until = match self.publisher.next(now, log) {
            Step::Wait(until) => until,
            step => return UplinkStep::Link(step),
        };
        if !self.publisher.is_live() {
            let since = *self.aside_since.get_or_insert(now);
            let due = self.claimed_at.saturating_add(CLAIM_EVERY_MS);
            if now >= due {
                return UplinkStep::Claim { why: self.publisher.stopped(), for_ms: now - since };
            }
            return UplinkStep::Wait(until.min(due));
        }
        self.aside_since = None;
        let heartbeat_due = self.heartbeat_at + self.heartbeat_every_ms;
        if now >= heartbeat_due || self.heartbeat_is_gone {
            return UplinkStep::Heartbeat;
        }
        let look_due = self.looked_at + self.heartbeat_every_ms.min(self.tick_ms);
        if now >= look_due {
            return UplinkStep::CheckHeartbeat;
        }
        UplinkStep::Wait(until.min(heartbeat_due).min(look_due))
    }

    /// Takes the answer. `dice`: uniform over all of `u64`.
    pub fn reply(&mut self, now: i64, reply: UplinkReply, dice: u64) {
        match reply {
            UplinkReply::Connected => (self.is_connected, self.announces) = (true, true),
            UplinkReply::Announced => self.announces = false,
            UplinkReply::Link(Reply::Lost) | UplinkReply::Lost => {
                self.disconnect();
                let wait = i64::try_from(self.backoff.failed(dice).as_millis()).unwrap_or(i64::MAX);
                self.rests_until = now.saturating_add(wait);
                return;
            }
            UplinkReply::Link(reply) => {
                match reply {
                    // Redis and central may both have begun anew, which is how central hears of the store again.
                    Reply::Ack(None) => self.announces = true,
                    Reply::Round { .. } => self.heartbeat_at = now,
                    Reply::Ack(Some(_))
                    | Reply::Cleared
                    | Reply::Opened
                    | Reply::Stored(_)
                    | Reply::Refused
                    | Reply::Lost => {}
                }
                self.publisher.reply(now, reply, dice);
            }
            UplinkReply::HeartbeatFound(found) => {
                self.looked_at = now;
                self.heartbeat_is_gone = !found;
            }
            UplinkReply::HeartbeatSet => {
                self.heartbeat_at = now;
                // Who has lost the one key may have lost the other, too.
                self.announces |= std::mem::take(&mut self.heartbeat_is_gone);
            }
            UplinkReply::Claimed => self.claimed_at = now,
        }
        if reply.is_taken() {
            self.backoff.succeeded();
        }
    }

    /// Leaves the connection: it broke, or is not wanted.
    pub fn disconnect(&mut self) {
        self.is_connected = false;
        self.publisher.lost();
    }

    /// The publisher of the log.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::link::{Ack, Cursor, EntryId, Log, RoundReply, Seq};

    struct Opened;

    impl Log for Opened {
        fn head(&self) -> Cursor {
            Cursor { epoch: 7.into(), seq: 1.into(), hash: Hash([1; 16]) }
        }
        fn hash_at(&self, seq: Seq) -> Option<Hash> {
            (seq <= Seq::FIRST).then_some(Hash([seq.get() as u8; 16]))
        }
    }

    fn next(uplink: &mut Uplink, now: i64) -> UplinkStep {
        let needs = uplink.needs();
        uplink.next(now, &Excerpt::of(&Opened, &needs))
    }

    fn tell(uplink: &mut Uplink, now: i64, reply: UplinkReply) -> UplinkStep {
        uplink.reply(now, reply, 0);
        next(uplink, now)
    }

    fn connected() -> Uplink {
        let mut uplink = Uplink::new(Pace::default(), 10_000);
        assert_eq!(next(&mut uplink, 0), UplinkStep::Connect);
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Connected), UplinkStep::Announce);
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Announced), UplinkStep::Link(Step::ReadAck));
        uplink
    }

    fn live() -> Uplink {
        let mut uplink = connected();
        let ack = Some(Ack::default());
        let stored = UplinkStep::Link(Step::StoreAcked(EntryId { epoch: 7.into(), seq: 0.into() }));
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Link(Reply::Ack(ack))), stored);
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Link(Reply::Stored(true))), UplinkStep::Link(Step::Clear));
        assert!(matches!(tell(&mut uplink, 0, UplinkReply::Link(Reply::Cleared)), UplinkStep::Link(Step::Publish(_))));
        let reply = RoundReply { ack, stream: None };
        assert_eq!(
            tell(&mut uplink, 0, UplinkReply::Link(Reply::Round { added_to: 1.into(), reply })),
            UplinkStep::CheckHeartbeat
        );
        uplink
    }

    #[test]
    fn who_waits_for_the_first_word_claims_and_is_announced() {
        let mut uplink = connected();
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Link(Reply::Ack(None))), UplinkStep::Announce);
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Announced), UplinkStep::Claim { why: None, for_ms: 0 });
        assert_eq!(tell(&mut uplink, 0, UplinkReply::Claimed), UplinkStep::Wait(2_000));
        assert_eq!(next(&mut uplink, 2_000), UplinkStep::Link(Step::ReadAck));
    }

    #[test]
    fn a_claim_says_for_how_long_nobody_has_answered() {
        let mut uplink = connected();
        let silence = |uplink: &mut Uplink, now| {
            assert_eq!(tell(uplink, now, UplinkReply::Link(Reply::Ack(None))), UplinkStep::Announce);
            tell(uplink, now, UplinkReply::Announced)
        };
        assert_eq!(silence(&mut uplink, 1_000), UplinkStep::Claim { why: None, for_ms: 0 });
        uplink.reply(1_000, UplinkReply::Claimed, 0);
        assert_eq!(next(&mut uplink, 5_000), UplinkStep::Link(Step::ReadAck));
        assert_eq!(silence(&mut uplink, 5_000), UplinkStep::Claim { why: None, for_ms: 4_000 });
    }

    #[test]
    fn waits_grow_until_redis_has_taken_something() {
        let mut uplink = Uplink::new(Pace::default(), 10_000);
        let mut now = 0;
        let mut wait = |answers: &[UplinkReply]| {
            assert_eq!(next(&mut uplink, now), UplinkStep::Connect);
            answers.iter().for_each(|answer| uplink.reply(now, *answer, 0));
            let UplinkStep::Wait(until) = tell(&mut uplink, now, UplinkReply::Lost) else { panic!("rests") };
            let wait = until - now;
            now = until;
            wait
        };
        let (connected, announced) = (UplinkReply::Connected, UplinkReply::Announced);
        assert_eq!((wait(&[]), wait(&[connected]), wait(&[connected, announced])), (10, 20, 40));
        let (read, cleared) = (UplinkReply::Link(Reply::Ack(None)), UplinkReply::Link(Reply::Cleared));
        assert_eq!((wait(&[connected, announced, read]), wait(&[connected, announced, read, cleared])), (80, 160));
        assert_eq!(wait(&[connected, announced, UplinkReply::HeartbeatSet]), 10);
    }

    #[test]
    fn a_heartbeat_that_is_gone_is_set_at_once_and_the_store_announced() {
        let mut uplink = live();
        assert_eq!(tell(&mut uplink, 0, UplinkReply::HeartbeatFound(true)), UplinkStep::Wait(2_000));
        let mut uplink = live();
        assert_eq!(tell(&mut uplink, 0, UplinkReply::HeartbeatFound(false)), UplinkStep::Heartbeat);
        assert_eq!(tell(&mut uplink, 0, UplinkReply::HeartbeatSet), UplinkStep::Announce);
    }

    #[test]
    fn a_lost_connection_waits_and_starts_over() {
        let mut uplink = live();
        let UplinkStep::Wait(until) = tell(&mut uplink, 5, UplinkReply::Lost) else { panic!("rests") };
        assert!(until > 5 && !uplink.publisher().is_live());
        assert_eq!(next(&mut uplink, until), UplinkStep::Connect);
        assert_eq!(tell(&mut uplink, until, UplinkReply::Connected), UplinkStep::Announce);
        assert_eq!(tell(&mut uplink, until, UplinkReply::Announced), UplinkStep::Link(Step::ReadAck));
    }
}
