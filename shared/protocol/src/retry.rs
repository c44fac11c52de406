//! Waiting between attempts: full jitter, doubling up to a bound. Dice are an argument, so the simulator can roll them.

use std::time::Duration;

/// How long to wait before the next attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits up to `first` after the first failure, then twice as long each time, never over `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The wait after one more failure; `dice` is uniform over all of `u64`. At least a tenth of the bound, so that
    /// a run of small numbers cannot become a busy loop.
    pub fn failed(&mut self, dice: u64) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        if bound < self.most {
            self.failures += 1;
        }
        let least = bound / 10;
        let span = (bound - least).as_micros() as u64;
        least + Duration::from_micros(if span == 0 { 0 } else { dice % span })
    }

    /// Something worked: the next failure waits as little as the first.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        assert!(backoff.failed(u64::MAX) <= Duration::from_millis(100));
        for dice in 0..20 {
            let wait = backoff.failed(dice * 7_919_000_001);
            assert!(wait >= Duration::from_millis(20) && wait <= Duration::from_secs(2));
        }
        backoff.succeeded();
        assert!(backoff.failed(u64::MAX) <= Duration::from_millis(100));
    }

    #[test]
    fn the_dice_say_how_long_within_the_bound() {
        let wait = |dice| Backoff::new(Duration::from_millis(100), Duration::from_secs(2)).failed(dice);
        assert_eq!((wait(0), wait(45_000)), (Duration::from_millis(10), Duration::from_millis(55)));
        assert_eq!(Backoff::new(Duration::ZERO, Duration::ZERO).failed(1), Duration::ZERO, "there may be no wait");
    }
}
