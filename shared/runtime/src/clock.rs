//! The clocks. What decides something gets the time as an argument; only the daemons' edge reads it here.

use std::time::Instant;

use chrono::Utc;
use protocol::time::Millis;
use uuid::Uuid;

/// The wall clock.
pub fn now() -> Millis {
    Millis(Utc::now().timestamp_millis())
}

/// Where a server's requests have the time and new ids from.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    now: fn() -> Millis,
    id: fn() -> Uuid,
}

impl Source {
    /// From these.
    pub fn new(now: fn() -> Millis, id: fn() -> Uuid) -> Self {
        Self { now, id }
    }

    /// The wall clock, and ids in the order in which they were given.
    pub fn system() -> Self {
        Self::new(now, Uuid::now_v7)
    }

    /// The time.
    pub fn now(self) -> Millis {
        (self.now)()
    }

    /// An id that nothing else has.
    pub fn id(self) -> Uuid {
        (self.id)()
    }
}

/// A clock that knows no date and is never set: for intervals. One that is measured by the wall clock lasts an hour
/// longer when that is set back by an hour.
#[derive(Debug, Clone, Copy)]
pub struct Ticks(Instant);

impl Ticks {
    /// Before any tick: whatever was last done then is due.
    pub const LONG_AGO: i64 = i64::MIN / 2;

    /// Begins at 0.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start.
    pub fn ms(self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// When what is old by the wall clock may be forgotten. That clock may have been wrong: once it is set, what was recorded
/// before looks old, however young it is, and somebody may still ask for it.
#[derive(Debug)]
pub struct Forgetting {
    wall: Millis,
    ticks: i64,
    not_before: i64,
}

impl Forgetting {
    /// After the start, ms: by then the clock of a machine that has no battery for it is set.
    const FIRST_MS: i64 = 60 * 60 * 1_000;
    /// Further ahead than time went on, ms, is a clock that was set. What sleeps at night is not.
    const STEP_MS: i64 = 24 * 60 * 60 * 1_000;
    /// After that, ms.
    const PAUSE_MS: i64 = 24 * 60 * 60 * 1_000;

    /// From the process's start on, which is tick 0.
    pub fn begin(wall: Millis) -> Self {
        Self { wall, ticks: 0, not_before: Self::FIRST_MS }
    }

    /// Whether something may be forgotten now. To be asked every hour at least.
    pub fn may(&mut self, wall: Millis, ticks: i64) -> bool {
        let ahead = wall.since(self.wall) - (ticks - self.ticks);
        (self.wall, self.ticks) = (wall, ticks);
        if ahead > Self::STEP_MS {
            tracing::warn!(hours = ahead / 3_600_000, "the clock was set ahead: nothing is forgotten for a day");
            self.not_before = ticks + Self::PAUSE_MS;
        }
        ticks >= self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_old_since_the_clock_was_set_is_kept_for_a_day() {
        const HOUR: i64 = 60 * 60 * 1_000;
        let (boot, day) = (Millis(1_577_836_800_000), 24 * HOUR);
        let mut forgetting = Forgetting::begin(boot);
        assert!(!forgetting.may(boot, 0), "not before the clock had time to be set");
        let set = boot.plus(5 * 365 * day);
        assert!(!forgetting.may(set, HOUR), "it was");
        assert!(!forgetting.may(set.plus(day - 1), HOUR + day - 1));
        assert!(forgetting.may(set.plus(day), HOUR + day));
        assert!(forgetting.may(set.plus(day + 13 * HOUR), 2 * HOUR + day), "slept for 12 hours");
        assert!(forgetting.may(boot, 3 * HOUR + day), "was set back");
    }

    #[test]
    fn what_was_last_done_long_ago_is_due() {
        assert!(Ticks::start().ms() - Ticks::LONG_AGO > 1_000_000_000);
    }
}
