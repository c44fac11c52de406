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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_last_done_long_ago_is_due() {
        assert!(Ticks::start().ms() - Ticks::LONG_AGO > 1_000_000_000);
    }
}
