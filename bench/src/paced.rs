//! One after the other on a schedule, and how long each took.

use std::time::{Duration, Instant};

/// Between two that a single caller makes, unless the one before takes longer: long enough that hardly one does, since what
/// is asked is how long one takes alone.
const INTERVAL: Duration = Duration::from_millis(10);
/// The same beside other work: the longest that a request may wait there.
const INTERVAL_BESIDE: Duration = Duration::from_millis(50);
/// Of the first ones no time is taken: connections, caches and statements are new. One in so many.
const WARM_UP_SHARE: u64 = 10;

/// Times, in order of length.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Of times in any order.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time, ms, that this share of them did not exceed; infinite if there is none.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.max(1) - 1).map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e3)
    }
}

/// Times `calls` of `call`, which gets the call's number. One that comes due while the one before still runs is timed from
/// when it was due.
pub(crate) fn paced(calls: u64, call: impl FnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<Latencies> {
    paced_every(INTERVAL, calls, call)
}

/// The same on another schedule.
pub(crate) fn paced_every(
    interval: Duration,
    calls: u64,
    call: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Latencies> {
    on_schedule(interval, 0..calls, calls / WARM_UP_SHARE, call)
}

/// The same for as long as something else goes on, once at least. The first call warms up. Much seldomer: beside work that
/// takes the processor a call lasts longer, and those behind it would tell of their own queue.
pub(crate) fn paced_while(
    goes_on: impl Fn() -> bool,
    call: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Latencies> {
    on_schedule(INTERVAL_BESIDE, (0..).take_while(|number| *number < 2 || goes_on()), 1, call)
}

fn on_schedule(
    interval: Duration,
    numbers: impl Iterator<Item = u64>,
    warm_up: u64,
    mut call: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Latencies> {
    let mut times = Vec::new();
    let mut due = Instant::now();
    for number in numbers {
        let early = due.saturating_duration_since(Instant::now());
        // A sleep that lasts too long is the caller's own fault, not that of whom it calls.
        let begin = if early.is_zero() {
            due
        } else {
            std::thread::sleep(early);
            Instant::now()
        };
        call(number)?;
        if number >= warm_up {
            times.push(begin.elapsed());
        }
        due += interval;
    }
    Ok(Latencies::of(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_time_that_was_seen() {
        let times = Latencies::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(times.quantile_ms(0.5), 50.0);
        assert_eq!(times.quantile_ms(0.99), 99.0);
        assert_eq!(times.quantile_ms(1.0), 100.0);
        assert_eq!(Latencies::of(Vec::new()).quantile_ms(0.5), f64::INFINITY);
    }

    #[test]
    fn who_had_to_wait_for_the_one_before_is_timed_from_when_it_was_due() {
        let slow = INTERVAL * 4;
        let times = paced(5, |number| {
            if number == 0 {
                std::thread::sleep(slow);
            }
            Ok(())
        })
        .expect("nothing fails");
        // The first takes 40 ms; the next were due after 10, 20 and 30 ms.
        assert!(times.quantile_ms(1.0) >= 40.0);
        assert!(times.quantile_ms(0.8) >= 30.0, "{}", times.quantile_ms(0.8));
    }
}
