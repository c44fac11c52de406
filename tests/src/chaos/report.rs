//! What is printed: a line a fault, a summary now and then, a table at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::faults::Kind;
use super::traffic::Totals;

/// How long a till may wait for an agent that runs, whatever has happened to central, to Redis and to other stores (P1).
/// Whoever waits for Redis or for central waits for 2 s at least: the time for which the agent's reading of commands blocks,
/// and less than it waits for an answer. A sale itself takes milliseconds; the rest is for a machine that is busy.
const SALE_WITHIN: Duration = Duration::from_millis(1_500);
/// What 99 in a hundred may wait. Beside compilers it is less than 30 ms; some that are slow are not hidden by many that are not.
const SALES_WITHIN: Duration = Duration::from_millis(250);

/// Lines with the time since the start.
#[derive(Debug, Clone, Copy)]
pub struct Log(Instant);

impl Default for Log {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Log {
    /// Prints a line.
    pub fn say(&self, text: &str) {
        println!("{:>7.1} s  {text}", self.0.elapsed().as_secs_f64());
    }
}

/// What happened under one kind of fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// How often it happened.
    pub count: u64,
    /// Operations answered while it lasted.
    pub operations: u64,
    /// Purchases answered while it lasted.
    pub purchases: u64,
    /// A promise was seen to be broken while it lasted.
    pub broken: bool,
}

/// What one world went through.
#[derive(Debug, Default)]
pub struct Outcome {
    pub faults: BTreeMap<Kind, Row>,
    /// Why a kind could not happen here.
    pub skipped: BTreeMap<Kind, String>,
    pub operations: u64,
    /// Operations without an answer.
    pub unanswered: u64,
    pub purchases: u64,
    /// How long healing took.
    pub healed_in: Duration,
    /// How long tills waited for agents that ran, ms, sorted.
    pub waits: Vec<u32>,
    /// Promises broken. Empty: all was well.
    pub violations: Vec<String>,
}

impl Outcome {
    pub(super) fn count(&mut self, kind: Kind, before: &Totals, after: &Totals, broken: bool) {
        let row = self.faults.entry(kind).or_default();
        row.count += 1;
        row.operations += after.operations - before.operations;
        row.purchases += after.purchases - before.purchases;
        row.broken |= broken;
    }

    /// Adds another world's.
    pub fn add(&mut self, other: Self) {
        for (kind, row) in other.faults {
            let sum = self.faults.entry(kind).or_default();
            sum.count += row.count;
            sum.operations += row.operations;
            sum.purchases += row.purchases;
            sum.broken |= row.broken;
        }
        self.skipped.extend(other.skipped);
        self.operations += other.operations;
        self.unanswered += other.unanswered;
        self.purchases += other.purchases;
        self.healed_in = self.healed_in.max(other.healed_in);
        self.waits.extend(other.waits);
        self.waits.sort_unstable();
        self.violations.extend(other.violations);
    }

    /// What so many in a hundred tills waited at most, ms.
    pub fn wait(&self, percent: usize) -> u32 {
        let last = self.waits.len().saturating_sub(1);
        self.waits.get(self.waits.len() * percent / 100).or(self.waits.get(last)).copied().unwrap_or(0)
    }

    /// Whether tills waited for longer than one may, or nobody has seen one wait (P1).
    pub(super) fn overdue(&self) -> Option<String> {
        let (worst, p99) = (self.wait(100), self.wait(99));
        let within = |wait: u32, limit: Duration| Duration::from_millis(wait.into()) <= limit;
        let well = !self.waits.is_empty() && within(worst, SALE_WITHIN) && within(p99, SALES_WITHIN);
        let tills = self.waits.len();
        (!well).then(|| {
            format!("P1: of {tills} tills at agents that ran one waited {worst} ms, and one in a hundred {p99} ms")
        })
    }

    /// Kinds that never happened and could have.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = |kind: &&Kind| !self.faults.contains_key(kind) && !self.skipped.contains_key(kind);
        Kind::ALL.iter().filter(never).map(|kind| kind.name()).collect()
    }

    pub fn print(&self) {
        println!("\n{:<46} {:>5} {:>10} {:>9}  verdict", "fault", "count", "operations", "purchases");
        for kind in Kind::ALL {
            let row = self.faults.get(kind).copied().unwrap_or_default();
            let verdict = match self.skipped.get(kind) {
                Some(why) if row.count == 0 => format!("skipped: {why}"),
                _ if row.count == 0 => "never happened".to_owned(),
                _ if row.broken => "BROKEN while it lasted".to_owned(),
                _ if self.violations.is_empty() => "kept".to_owned(),
                _ => "nothing seen while it lasted".to_owned(),
            };
            println!("{:<46} {:>5} {:>10} {:>9}  {verdict}", kind.name(), row.count, row.operations, row.purchases);
        }
        let count: u64 = self.faults.values().map(|row| row.count).sum();
        println!("\n{} kinds, {count} faults (operations and purchases: answered while the fault lasted)", {
            self.faults.len()
        });
        println!(
            "{} operations answered, {} without an answer, {} purchases; healed within {:.1} s",
            self.operations,
            self.unanswered,
            self.purchases,
            self.healed_in.as_secs_f64()
        );
        println!(
            "{} waits of tills for an agent that ran: p99 {} ms, worst {} ms",
            self.waits.len(),
            self.wait(99),
            self.wait(100)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tills_that_wait_too_long_break_the_promise() {
        let told = |waits: &[(usize, u32)]| {
            let waits = waits.iter().flat_map(|(tills, wait)| std::iter::repeat_n(*wait, *tills)).collect();
            Outcome { waits, ..Outcome::default() }.overdue()
        };
        assert_eq!(told(&[(985, 3), (10, 250), (5, 1_500)]), None);
        assert!(told(&[]).is_some(), "nobody has looked");
        let one = told(&[(999, 3), (1, 1_501)]).expect("waited for central, or for Redis");
        assert!(one.contains("1501"), "{one}");
        assert!(told(&[(98, 3), (2, 251)]).is_some());
    }
}
