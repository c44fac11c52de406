//! How slow a client may be: only the time counts that is spent waiting for it.

use std::time::Duration;

/// Bytes of each second of waiting, at least.
const RATE: u64 = 1 << 10;

/// Measures a client by its pace, over windows of waiting, and by how long it stands still: what it took at once, and what
/// the system has taken for it, earns it no more waiting.
#[derive(Debug)]
pub struct Patience {
    window: Duration,
    /// In this window.
    waited: Duration,
    /// In this window.
    bytes: u64,
    /// Since the last byte.
    still: Duration,
}

impl Patience {
    /// Judges its pace whenever it was waited for so long in all; without a byte it is not waited for any longer.
    pub fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, bytes: 0, still: Duration::ZERO }
    }

    /// How long it may be waited until it is judged.
    pub fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited.max(self.still))
    }

    /// It was waited for so long, and then so many bytes went through, perhaps none. Says whether the client is too slow.
    #[must_use]
    pub fn waited(&mut self, time: Duration, bytes: usize) -> bool {
        self.waited += time;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.still = if bytes == 0 { self.still + time } else { Duration::ZERO };
        if self.still >= self.window {
            return true;
        }
        if self.waited < self.window {
            return false;
        }
        let is_slow = u128::from(self.bytes) < u128::from(RATE) * self.window.as_millis() / 1_000;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_client_needs_a_rate_and_not_only_a_sign_of_life() {
        let mut patience = Patience::new(10 * SECOND);
        for (bytes, is_slow) in [(1 << 10, false), (1, true), (100 << 10, false)] {
            for _ in 0..9 {
                assert!(!patience.waited(SECOND, bytes));
            }
            assert_eq!(patience.waited(SECOND, bytes), is_slow, "{bytes}");
        }
        assert_eq!(patience.left(), 10 * SECOND);
    }

    #[test]
    fn who_stands_still_is_waited_for_once_whatever_went_before() {
        let mut patience = Patience::new(10 * SECOND);
        assert!(!patience.waited(4 * SECOND, 100 << 20));
        assert_eq!(patience.left(), 6 * SECOND);
        assert!(!patience.waited(6 * SECOND, 0), "its pace was good");
        assert_eq!(patience.left(), 4 * SECOND);
        assert!(patience.waited(4 * SECOND, 0), "not a byte for 10 s");
    }
}
