//! How slow a client may be: only the time counts that is spent waiting for it.

use std::time::Duration;

/// Bytes of each second of waiting, at least.
const RATE: u64 = 1 << 10;

/// Measures a client over windows of waiting.
#[derive(Debug)]
pub struct Patience {
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Patience {
    /// Judges whenever it was waited for so long in all.
    pub fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, bytes: 0 }
    }

    /// How long it may be waited until it is judged.
    pub fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// So many bytes went through.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// It was waited for so long. Says whether the client is too slow.
    #[must_use]
    pub fn waited(&mut self, time: Duration) -> bool {
        self.waited += time;
        if self.waited < self.window {
            return false;
        }
        let is_slow = u128::from(self.bytes) < u128::from(RATE) * self.window.as_millis() / 1_000;
        *self = Self::new(self.window);
        is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_needs_a_rate_and_not_only_a_sign_of_life() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(10 * second);
        for (bytes, is_slow) in [(1 << 10, false), (1, true), (100 << 10, false)] {
            for _ in 0..9 {
                patience.moved(bytes);
                assert!(!patience.waited(second));
            }
            patience.moved(bytes);
            assert_eq!(patience.waited(second), is_slow, "{bytes}");
        }
        assert_eq!(patience.left(), 10 * second);
    }
}
