//! How many requests a second one caller may make.
//!
//! **Guarantees.** A caller never waits for another's requests, and gets its rate whatever others do. Whoever has rested for
//! a second may make a second's requests at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};
use parking_lot::Mutex;

use super::{Code, Problem};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// What a caller may have in store: the requests of so long a time.
const WINDOW: Duration = Duration::from_secs(1);
/// So many callers are kept in mind before those are looked for that have rested.
const CALLERS: usize = 4_096;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// The token of this name.
    Named(Arc<str>),
    /// Without a token: an IPv4 address, or the network of an IPv6 customer.
    At(IpAddr),
}

/// The limit, and how far each caller is.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: NonZeroU32,
    /// When each caller will have its whole store again. Whoever is not here has it.
    full_at: Mutex<HashMap<Who, Instant>>,
}

/// How far a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    limit: u32,
    remaining: u32,
    /// Until it has all again, s, rounded up.
    reset: u64,
}

impl Left {
    /// Says so in an answer.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, self.limit.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, self.reset.into());
    }
}

impl Rate {
    /// So many requests a second and caller.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { per_second, full_at: Mutex::default() }
    }

    /// Counts a request; an error if it is one too many, which is not counted.
    pub(super) fn count(&self, who: Who, now: Instant) -> (Left, Result<(), Problem>) {
        let limit = self.per_second.get();
        let each = WINDOW / limit;
        let mut callers = self.full_at.lock();
        if callers.len() >= CALLERS {
            callers.retain(|_, full_at| *full_at > now);
        }
        let missing = callers.get(&who).map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let fits = missing + each <= WINDOW;
        let missing = if fits { missing + each } else { missing };
        callers.insert(who, now + missing);
        let remaining = (WINDOW - missing).as_nanos() / each.as_nanos();
        let left = Left { limit, remaining: remaining as u32, reset: missing.as_secs_f64().ceil() as u64 };
        let refused = || Problem::new(Code::RateLimited).detail(format!("{limit} requests a second are allowed"));
        (left, if fits { Ok(()) } else { Err(refused()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u8) -> Who {
        Who::At([127, 0, 0, number].into())
    }

    #[test]
    fn a_caller_gets_its_rate_and_no_more() {
        let rate = Rate::new(NonZeroU32::new(4).expect("is not zero"));
        let begun = Instant::now();
        let ask = |who: Who, ms: u64| {
            let (left, counted) = rate.count(who, begun + Duration::from_millis(ms));
            (left.remaining, left.reset, counted.is_ok())
        };
        let seen: Vec<_> = (0..5).map(|_| ask(at(1), 0)).collect();
        assert_eq!(seen, [(3, 1, true), (2, 1, true), (1, 1, true), (0, 1, true), (0, 1, false)]);
        assert_eq!(ask(at(2), 0), (3, 1, true), "another caller");
        assert_eq!(ask(at(1), 249), (0, 1, false));
        assert_eq!(ask(at(1), 250), (0, 1, true), "what was refused did not count");
        let through = (251..=10_250).filter(|ms| ask(at(1), *ms).2).count();
        assert_eq!(through, 40, "in ten seconds");
        assert_eq!(ask(at(1), 60_000), (3, 1, true), "a rest fills up to one second's, not more");
    }

    #[test]
    fn who_has_rested_is_forgotten() {
        let rate = Rate::new(NonZeroU32::new(1_000).expect("is not zero"));
        let begun = Instant::now();
        for number in 0..u32::try_from(CALLERS).expect("fits") {
            rate.count(Who::At(number.to_be_bytes().into()), begun).1.expect("is its first");
        }
        rate.count(at(1), begun + WINDOW).1.expect("is its first");
        assert_eq!(rate.full_at.lock().len(), 1);
    }
}
