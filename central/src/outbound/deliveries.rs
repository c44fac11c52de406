//! What a webhook has delivered and what is to be done next: a pure machine with the time as an argument. The loop in
//! [`webhooks`](crate::outbound::webhooks) carries out its steps.
//!
//! **Guarantees.** Events of one store are delivered one by one and in order: one that fails holds back the store's next,
//! and no other store's. Nothing is passed over: each event up to the cursor is delivered, or its store is held back, and
//! then the place is kept up to which that store's are. What is in memory is bounded, however far behind the webhook is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use protocol::time::Millis;

use crate::storage::webhooks::{Changes, Held, Progress, Status};

/// Between a failure and the next attempt, ms; the last one for all that follow.
const RETRIES_MS: [i64; 6] = [5_000, 30_000, 2 * 60_000, 10 * 60_000, 60 * 60_000, 6 * 60 * 60_000];
/// A webhook that nothing was delivered to for so long since its first failure is parked, ms: three days.
const PARKED_AFTER_MS: i64 = 3 * 24 * 60 * 60_000;
/// Deliveries under way at once.
const AT_ONCE: usize = 8;
/// More events are read when fewer than so many wait.
const FEW: usize = 32;
/// Events that nobody wants are passed over without a write, up to so many.
const UNSAVED: i64 = 1_000;

/// An event on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its place in the chain.
    pub chain_seq: i64,
    pub store: String,
    pub event_id: String,
    /// What is sent: the same bytes at each attempt.
    pub body: String,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Taken,
    Failed,
    /// The endpoint wants nothing any more (410).
    Gone,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this; so many attempts have failed before.
    Deliver(Arc<Outgoing>, u32),
    /// Read what comes next in the chain behind this place.
    Read { after: i64 },
    /// Read what comes next of one store, behind one place and up to another.
    ReadHeld { store: String, after: i64, to: i64 },
    /// Keep the progress.
    Save,
    /// Wait for an answer, for news in the chain, or for this time.
    Rest { until: Option<Millis> },
}

/// Events of one store.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Arc<Outgoing>>,
    is_busy: bool,
    held: Option<Held>,
}

impl Lane {
    fn is_due(&self, now: Millis) -> bool {
        // A time further off than any retry is a clock that was set back.
        let longest = RETRIES_MS[RETRIES_MS.len() - 1];
        !self.is_busy && self.held.is_none_or(|held| held.next_at <= now || held.next_at > now.plus(longest))
    }
}

/// The progress of one webhook while it runs.
#[derive(Debug)]
pub struct Deliveries {
    status: Status,
    failing_since: Option<Millis>,
    /// Taken up from the chain up to here.
    read_to: i64,
    /// There is nothing behind it.
    at_end: bool,
    lanes: BTreeMap<String, Lane>,
    /// The store that was served last: the others come first.
    last: String,
    saved_cursor: i64,
    /// Stores of which what is held back has to be kept anew.
    unsaved: BTreeSet<String>,
}

impl Deliveries {
    /// Goes on from what was kept.
    pub fn new(progress: Progress) -> Self {
        let lane = |held| Lane { held: Some(held), ..Lane::default() };
        Self {
            status: progress.status,
            failing_since: progress.failing_since,
            read_to: progress.cursor,
            at_end: false,
            lanes: progress.held.into_iter().map(|(store, held)| (store, lane(held))).collect(),
            last: String::new(),
            saved_cursor: progress.cursor,
            unsaved: BTreeSet::new(),
        }
    }

    /// Whether it gets anything.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// What to do now.
    pub fn next(&mut self, now: Millis) -> Step {
        if !self.is_active() {
            return Step::Rest { until: None };
        }
        if self.under_way() < AT_ONCE
            && let Some(step) = self.serve(now)
        {
            return step;
        }
        if !self.unsaved.is_empty() || self.cursor() - self.saved_cursor >= UNSAVED {
            return Step::Save;
        }
        if !self.at_end && self.waiting() < FEW {
            return Step::Read { after: self.read_to };
        }
        let held = self.lanes.values().filter(|lane| !lane.is_busy).filter_map(|lane| lane.held);
        let until = if self.under_way() < AT_ONCE { held.map(|held| held.next_at).min() } else { None };
        Step::Rest { until }
    }

    /// A delivery, or a read that leads to one, for the next store that has something due.
    fn serve(&mut self, now: Millis) -> Option<Step> {
        let is_due = |lane: &Lane| lane.is_due(now) && (lane.held.is_some() || !lane.queue.is_empty());
        let behind = (Bound::Excluded(self.last.clone()), Bound::Unbounded);
        let due = self.lanes.range(behind).chain(&self.lanes).find(|(_, lane)| is_due(lane));
        let store = due.map(|(store, _)| store.clone())?;
        let lane = self.lanes.get_mut(&store)?;
        let failures = lane.held.map_or(0, |held| held.failures);
        match (lane.queue.front(), lane.held) {
            (Some(next), _) => {
                lane.is_busy = true;
                let next = next.clone();
                self.last = store;
                Some(Step::Deliver(next, failures))
            }
            (None, Some(held)) => Some(Step::ReadHeld { store, after: held.delivered_to, to: self.read_to }),
            (None, None) => None,
        }
    }

    /// What was read of the chain: those that are wanted, up to where it was read, and whether that is its end.
    pub fn read(&mut self, wanted: Vec<Outgoing>, to: i64, at_end: bool) {
        for event in wanted {
            let lane = self.lanes.entry(event.store.clone()).or_default();
            // What is held back is read again when its turn comes.
            if lane.held.is_none() {
                lane.queue.push_back(Arc::new(event));
            }
        }
        self.read_to = self.read_to.max(to);
        self.at_end = at_end;
    }

    /// What was read of a store that is held back: those that are wanted, up to where it was read.
    pub fn read_held(&mut self, store: &str, wanted: Vec<Outgoing>, to: i64) {
        let read_to = self.read_to;
        let Some(lane) = self.lanes.get_mut(store) else { return };
        let Some(held) = &mut lane.held else { return };
        lane.queue.extend(wanted.into_iter().map(Arc::new));
        if lane.queue.is_empty() {
            held.delivered_to = held.delivered_to.max(to);
            self.unsaved.insert(store.to_owned());
            if to >= read_to {
                // It has caught up: what comes next is taken from the chain again.
                self.lanes.remove(store);
            }
        }
    }

    /// There may be more in the chain.
    pub fn woken(&mut self) {
        self.at_end = false;
    }

    /// An attempt for a store has ended.
    pub fn answered(&mut self, store: &str, answer: Answer, now: Millis) {
        let Some(lane) = self.lanes.get_mut(store).filter(|lane| lane.is_busy) else { return };
        lane.is_busy = false;
        match answer {
            Answer::Taken => {
                self.failing_since = None;
                let sent = lane.queue.pop_front();
                match (&mut lane.held, sent) {
                    (Some(held), Some(sent)) => {
                        *held = Held { delivered_to: sent.chain_seq, failures: 0, next_at: now };
                        self.unsaved.insert(store.to_owned());
                    }
                    _ if lane.queue.is_empty() => drop(self.lanes.remove(store)),
                    _ => {}
                }
            }
            Answer::Failed | Answer::Gone => {
                let failed = lane.queue.front().map_or(0, |event| event.chain_seq - 1);
                let before = lane.held.unwrap_or(Held { delivered_to: failed, failures: 0, next_at: now });
                let wait = RETRIES_MS[(before.failures as usize).min(RETRIES_MS.len() - 1)];
                lane.held = Some(Held { failures: before.failures + 1, next_at: now.plus(wait), ..before });
                lane.queue.clear();
                self.unsaved.insert(store.to_owned());
                let since = *self.failing_since.get_or_insert(now);
                if answer == Answer::Gone {
                    self.status = Status::Disabled;
                } else if now.since(since) >= PARKED_AFTER_MS && before.failures as usize >= RETRIES_MS.len() {
                    // Not by a clock that was set forward.
                    self.status = Status::Parked;
                }
            }
        }
    }

    /// What is to be kept, in one transaction; it counts as kept from now on.
    pub fn changes(&mut self) -> Changes {
        self.saved_cursor = self.cursor();
        let held = std::mem::take(&mut self.unsaved).into_iter();
        let held = held.map(|store| {
            let held = self.lanes.get(&store).and_then(|lane| lane.held);
            (store, held)
        });
        Changes {
            held: held.collect(),
            status: self.status,
            cursor: self.saved_cursor,
            failing_since: self.failing_since,
        }
    }

    fn cursor(&self) -> i64 {
        let fresh = self.lanes.values().filter(|lane| lane.held.is_none());
        fresh.filter_map(|lane| lane.queue.front()).map(|next| next.chain_seq - 1).fold(self.read_to, i64::min)
    }

    fn under_way(&self) -> usize {
        self.lanes.values().filter(|lane| lane.is_busy).count()
    }

    fn waiting(&self) -> usize {
        self.lanes.values().filter(|lane| lane.held.is_none()).map(|lane| lane.queue.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);
    const HOUR: i64 = 60 * 60_000;

    fn event(chain_seq: i64, store: &str) -> Outgoing {
        let (event_id, body) = (format!("{store}:1-{chain_seq}"), format!("body {chain_seq}"));
        Outgoing { chain_seq, store: store.to_owned(), event_id, body }
    }

    /// A chain, a webhook, and what is on disk of it.
    struct World {
        chain: Vec<Outgoing>,
        machine: Deliveries,
        kept: Progress,
        now: Millis,
        /// What the endpoint has taken, in order.
        taken: Vec<i64>,
        under_way: VecDeque<Arc<Outgoing>>,
    }

    impl World {
        fn given(stores: &[&str]) -> Self {
            let chain = stores.iter().enumerate().map(|(at, store)| event(at as i64 + 1, store)).collect();
            let machine = Deliveries::new(Progress::at(0));
            Self { chain, machine, kept: Progress::at(0), now: NOW, taken: Vec::new(), under_way: VecDeque::new() }
        }

        /// Carries out steps until the machine rests; says until when.
        fn run(&mut self) -> Option<Millis> {
            loop {
                match self.machine.next(self.now) {
                    Step::Deliver(event, _) => self.under_way.push_back(event),
                    Step::Read { after } => {
                        let found: Vec<_> = self.chain.iter().filter(|event| event.chain_seq > after).collect();
                        let read: Vec<_> = found.iter().take(16).map(|event| (*event).clone()).collect();
                        let to = read.last().map_or(after, |event| event.chain_seq);
                        self.machine.read(read, to, found.len() <= 16);
                    }
                    Step::ReadHeld { store, after, to } => {
                        let of = |event: &&Outgoing| event.store == store && event.chain_seq > after;
                        let read: Vec<_> = self.chain.iter().filter(of).take(2).cloned().collect();
                        let to = read.last().map_or(to, |event| event.chain_seq);
                        self.machine.read_held(&store, read, to);
                    }
                    Step::Save => self.save(),
                    Step::Rest { until } => return until,
                }
            }
        }

        fn save(&mut self) {
            let changes = self.machine.changes();
            (self.kept.status, self.kept.cursor) = (changes.status, changes.cursor);
            self.kept.failing_since = changes.failing_since;
            for (store, held) in changes.held {
                match held {
                    Some(held) => drop(self.kept.held.insert(store, held)),
                    None => drop(self.kept.held.remove(&store)),
                }
            }
        }

        /// The oldest that is under way is answered, and that is kept.
        fn answer(&mut self, answer: Answer) {
            let event = self.under_way.pop_front().expect("one is under way");
            if answer == Answer::Taken {
                self.taken.push(event.chain_seq);
            }
            self.machine.answered(&event.store, answer, self.now);
            self.save();
        }

        /// Answers all that comes, as said for each, until nothing is under way.
        fn settle(&mut self, answer: impl Fn(&Outgoing) -> Answer) -> Option<Millis> {
            loop {
                let until = self.run();
                let Some(event) = self.under_way.front().cloned() else { return until };
                self.answer(answer(&event));
            }
        }

        /// The process dies, and goes on from what was kept.
        fn crash(&mut self) {
            self.under_way.clear();
            self.machine = Deliveries::new(self.kept.clone());
        }
    }

    fn fails_for(store: &'static str) -> impl Fn(&Outgoing) -> Answer {
        move |event| if event.store == store { Answer::Failed } else { Answer::Taken }
    }

    #[test]
    fn all_is_delivered_and_the_cursor_stands_behind_the_last() {
        let mut world = World::given(&["a", "b", "a", "c", "a"]);
        assert_eq!(world.settle(|_| Answer::Taken), None);
        world.taken.sort_unstable();
        assert_eq!(world.taken, [1, 2, 3, 4, 5]);
        assert_eq!(world.kept, Progress::at(5));
    }

    #[test]
    fn one_store_is_served_one_by_one_and_several_at_once() {
        let mut world = World::given(&["a", "a", "b", "c", "c"]);
        world.run();
        let under_way: Vec<i64> = world.under_way.iter().map(|event| event.chain_seq).collect();
        assert_eq!(under_way, [1, 3, 4]);
        let many: Vec<String> = (0..20).map(|number| format!("s{number:02}")).collect();
        let mut world = World::given(&many.iter().map(String::as_str).collect::<Vec<_>>());
        world.run();
        assert_eq!(world.under_way.len(), AT_ONCE);
    }

    #[test]
    fn a_failure_holds_back_its_own_store_alone() {
        let mut world = World::given(&["a", "b", "a", "b", "a", "c"]);
        assert_eq!(world.settle(fails_for("a")), Some(NOW.plus(5_000)));
        world.taken.sort_unstable();
        assert_eq!(world.taken, [2, 4, 6]);
        assert_eq!((world.kept.cursor, world.kept.delivered_to()), (6, 0));
        assert_eq!(world.kept.held["a"], Held { delivered_to: 0, failures: 1, next_at: NOW.plus(5_000) });
        // What happens meanwhile waits behind it.
        world.chain.push(event(7, "a"));
        world.chain.push(event(8, "b"));
        world.machine.woken();
        world.settle(fails_for("a"));
        assert_eq!(world.taken, [2, 4, 6, 8]);
        world.now = NOW.plus(5_000);
        assert_eq!(world.settle(|_| Answer::Taken), None);
        assert_eq!(world.taken, [2, 4, 6, 8, 1, 3, 5, 7]);
        assert_eq!(world.kept, Progress::at(8));
    }

    #[test]
    fn retries_come_later_and_later() {
        let mut world = World::given(&["a"]);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let until = world.settle(|_| Answer::Failed).expect("it is tried again");
            waits.push(until.since(world.now) / 1_000);
            world.now = Millis(until.0 - 1);
            world.run();
            assert!(world.under_way.is_empty(), "not before its time");
            world.now = until;
        }
        assert_eq!(waits, [5, 30, 120, 600, 3_600, 21_600, 21_600, 21_600]);
        assert_eq!(world.kept.held["a"].failures, 8);
    }

    #[test]
    fn three_days_without_success_park_it_and_one_success_begins_them_anew() {
        let mut world = World::given(&["a", "b"]);
        let mut rounds = 0;
        while world.machine.is_active() {
            let until = world.settle(fails_for("a"));
            world.now = until.unwrap_or(world.now);
            rounds += 1;
            if rounds == 10 {
                // Another store's event gets through.
                world.chain.push(event(3, "b"));
                world.machine.woken();
            }
        }
        assert_eq!(world.kept.status, Status::Parked);
        let begun_again = 1 + 5 + 30 + 120 + 600 + 3_600;
        assert!(world.now.since(NOW) > PARKED_AFTER_MS + begun_again, "{}", world.now.since(NOW));
        assert_eq!(world.machine.next(world.now), Step::Rest { until: None });
        assert_eq!((world.kept.delivered_to(), world.taken.as_slice()), (0, [2, 3].as_slice()));
    }

    #[test]
    fn a_clock_that_was_set_forward_parks_nothing() {
        let mut world = World::given(&["a"]);
        let again = world.settle(fails_for("a")).expect("it is tried again");
        world.now = again.plus(PARKED_AFTER_MS);
        world.settle(fails_for("a"));
        assert!(world.machine.is_active());
    }

    #[test]
    fn whoever_wants_no_more_gets_no_more() {
        let mut world = World::given(&["a", "b", "a"]);
        world.run();
        world.answer(Answer::Gone);
        assert_eq!(world.kept.status, Status::Disabled);
        assert_eq!(world.run(), None);
        // What was under way is answered nevertheless.
        world.answer(Answer::Taken);
        assert_eq!((world.kept.status, world.kept.delivered_to()), (Status::Disabled, 0));
    }

    #[test]
    fn what_was_answered_and_not_kept_is_delivered_again_and_nothing_is_lost() {
        let stores: Vec<&str> = (0..60).map(|number| ["a", "b", "c", "d"][number * 7 % 4]).collect();
        for crashes in 1..25_usize {
            let mut world = World::given(&stores);
            let mut answers = 0;
            loop {
                let until = world.run();
                let Some(event) = world.under_way.front().cloned() else {
                    let Some(until) = until else { break };
                    world.now = until;
                    continue;
                };
                answers += 1;
                if answers % crashes == 0 && answers < 200 {
                    // The endpoint has it; this process dies before that is on disk.
                    world.taken.push(event.chain_seq);
                    world.crash();
                } else {
                    world.answer(if answers % 5 == 0 { Answer::Failed } else { Answer::Taken });
                }
            }
            let all: BTreeSet<i64> = world.taken.iter().copied().collect();
            assert_eq!(all.len(), 60, "crash at each {crashes}.");
            for store in ["a", "b", "c", "d"] {
                let of_store = world.chain.iter().filter(|event| event.store == store).map(|event| event.chain_seq);
                let mut seen = 0;
                for expected in of_store {
                    let first = world.taken.iter().position(|taken| *taken == expected).expect("is delivered");
                    assert!(first >= seen, "{store} out of order");
                    seen = first;
                }
            }
            assert_eq!(world.kept, Progress::at(60));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_holds_up_nothing() {
        let mut world = World::given(&["a"]);
        world.settle(|_| Answer::Failed);
        world.now = Millis(NOW.0 - 48 * HOUR);
        world.settle(|_| Answer::Taken);
        assert_eq!(world.taken, [1]);
    }

    #[test]
    fn what_waits_in_memory_is_bounded() {
        let mut world = World::given(&["a"; 5_000]);
        world.run();
        assert!(world.machine.waiting() <= FEW + 16, "{}", world.machine.waiting());
        world.answer(Answer::Failed);
        world.run();
        assert_eq!((world.machine.waiting(), world.machine.cursor()), (0, 5_000));
        assert!(world.kept.cursor > 4_000, "{}", world.kept.cursor);
    }

    #[test]
    fn what_nobody_wants_is_kept_now_and_then() {
        let mut machine = Deliveries::new(Progress::at(0));
        assert_eq!(machine.next(NOW), Step::Read { after: 0 });
        machine.read(Vec::new(), 999, true);
        assert_eq!(machine.next(NOW), Step::Rest { until: None });
        machine.woken();
        machine.read(Vec::new(), 1_000, true);
        assert_eq!(machine.next(NOW), Step::Save);
        assert_eq!(machine.changes().cursor, 1_000);
        assert_eq!(machine.next(NOW), Step::Rest { until: None });
    }
}
