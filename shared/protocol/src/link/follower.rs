//! The loop of a receiver that blocks on its one stream: an agent's, for commands (L2, B2).
//!
//! Ask [`Follower::next`], carry out the step, tell [`Follower::reply`] how it went.

use super::{Ack, Commands, Cursor, Epoch, TICK_MS};
use crate::retry::Backoff;
use crate::time::Millis;

/// How long it waits when nothing of what it has read may be executed yet, ms: an epoch has to open first, on this side
/// or the other.
const STUCK_MS: i64 = TICK_MS / 10;
/// How long it waits when too much else is to be written, ms.
const BUSY_MS: i64 = 50;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowStep {
    /// Open a new connection.
    Connect,
    /// Set the ack.
    Acknowledge(Ack<Commands>),
    /// Wait for entries behind this place, and read them.
    Read(Cursor<Commands>),
    /// Ask Redis's clock. After the read, not with it: there it would run when the commands came, and an agent that was
    /// suspended in between would take a purchase for fresh that has long expired.
    AskTime,
    /// Execute what was read, in one transaction.
    Execute {
        /// Redis's clock, which decides what has expired.
        redis_now: Millis,
    },
    /// Nothing until this time (ms).
    Wait(i64),
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// There is a connection.
    Connected,
    /// The ack is set.
    Acknowledged,
    /// So many entries were read, readable or not.
    Read(usize),
    /// What Redis's clock says.
    Time(Millis),
    /// The transaction is on disk. `new`: how many of the commands were.
    Executed {
        /// Commands that were executed or refused.
        new: u64,
    },
    /// Nothing was executed: too much else waits.
    Busy,
    /// A call failed or timed out: the connection is gone, or there is none.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Apart,
    Acknowledging { stuck: bool },
    Reading,
    Asking,
    Executing(Millis),
}

/// The loop's state.
#[derive(Debug, Clone)]
pub struct Follower {
    phase: Phase,
    backoff: Backoff,
    rests_until: i64,
}

impl Follower {
    /// Not connected yet. `backoff` paces its attempts to be.
    pub fn new(backoff: Backoff) -> Self {
        Self { phase: Phase::Apart, backoff, rests_until: i64::MIN / 2 }
    }

    /// What to do now. `cursor`: how far the commands are executed, as the database has it.
    pub fn next(&mut self, now: i64, cursor: Cursor<Commands>) -> FollowStep {
        if now < self.rests_until {
            return FollowStep::Wait(self.rests_until);
        }
        match self.phase {
            Phase::Apart => FollowStep::Connect,
            Phase::Acknowledging { .. } => FollowStep::Acknowledge(Ack { cursor, fenced: Epoch::NONE }),
            Phase::Reading => FollowStep::Read(cursor),
            Phase::Asking => FollowStep::AskTime,
            Phase::Executing(redis_now) => FollowStep::Execute { redis_now },
        }
    }

    /// Takes the answer. One that does not answer the step says as little as a lost connection. `dice`: uniform over all
    /// of `u64`.
    pub fn reply(&mut self, now: i64, reply: Followed, dice: u64) {
        let anew = Phase::Acknowledging { stuck: false };
        self.phase = match (self.phase, reply) {
            (Phase::Apart, Followed::Connected) => anew,
            (Phase::Acknowledging { stuck }, Followed::Acknowledged) => {
                if stuck {
                    self.rests_until = now.saturating_add(STUCK_MS);
                }
                Phase::Reading
            }
            (Phase::Reading, Followed::Read(0)) => {
                self.backoff.succeeded();
                anew
            }
            (Phase::Reading, Followed::Read(_)) => Phase::Asking,
            (Phase::Asking, Followed::Time(redis_now)) => {
                self.backoff.succeeded();
                Phase::Executing(redis_now)
            }
            (Phase::Executing(_), Followed::Executed { new }) => Phase::Acknowledging { stuck: new == 0 },
            (Phase::Executing(_), Followed::Busy) => {
                // It is read again, and the clock asked again.
                self.rests_until = now.saturating_add(BUSY_MS);
                anew
            }
            (
                _,
                Followed::Connected
                | Followed::Acknowledged
                | Followed::Read(_)
                | Followed::Time(_)
                | Followed::Executed { .. }
                | Followed::Busy
                | Followed::Lost,
            ) => {
                let wait = i64::try_from(self.backoff.failed(dice).as_millis()).unwrap_or(i64::MAX);
                self.rests_until = now.saturating_add(wait);
                Phase::Apart
            }
        };
    }

    /// Leaves the connection: it is not wanted, because central's word is not known or says that this is not the store.
    pub fn disconnect(&mut self) {
        self.phase = Phase::Apart;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn connected() -> Follower {
        let mut follower = Follower::new(Backoff::new(Duration::from_millis(100), Duration::from_secs(2)));
        assert_eq!(follower.next(0, Cursor::default()), FollowStep::Connect);
        follower.reply(0, Followed::Connected, 0);
        follower
    }

    fn tell(follower: &mut Follower, reply: Followed) -> FollowStep {
        follower.reply(0, reply, 0);
        follower.next(0, Cursor::default())
    }

    #[test]
    fn the_ack_is_told_before_each_read_and_the_clock_asked_after_it() {
        let mut follower = connected();
        for _ in 0..2 {
            assert_eq!(follower.next(0, Cursor::default()), FollowStep::Acknowledge(Ack::default()));
            assert_eq!(tell(&mut follower, Followed::Acknowledged), FollowStep::Read(Cursor::default()));
            assert_eq!(tell(&mut follower, Followed::Read(2)), FollowStep::AskTime);
            let redis_now = Millis(7);
            assert_eq!(tell(&mut follower, Followed::Time(redis_now)), FollowStep::Execute { redis_now });
            tell(&mut follower, Followed::Executed { new: 2 });
        }
        tell(&mut follower, Followed::Acknowledged);
        assert_eq!(tell(&mut follower, Followed::Read(0)), FollowStep::Acknowledge(Ack::default()));
    }

    #[test]
    fn what_may_not_be_executed_yet_is_told_and_waited_for() {
        let mut follower = connected();
        tell(&mut follower, Followed::Acknowledged);
        tell(&mut follower, Followed::Read(1));
        tell(&mut follower, Followed::Time(Millis(7)));
        assert_eq!(tell(&mut follower, Followed::Executed { new: 0 }), FollowStep::Acknowledge(Ack::default()));
        assert_eq!(tell(&mut follower, Followed::Acknowledged), FollowStep::Wait(200));
        assert_eq!(follower.next(200, Cursor::default()), FollowStep::Read(Cursor::default()));
    }

    #[test]
    fn what_is_no_answer_drops_the_connection() {
        let replies = [Followed::Lost, Followed::Connected, Followed::Busy, Followed::Executed { new: 1 }];
        for reply in replies {
            let mut follower = connected();
            let FollowStep::Wait(until) = tell(&mut follower, reply) else { panic!("rests after {reply:?}") };
            assert_eq!(follower.next(until, Cursor::default()), FollowStep::Connect);
        }
    }
}
