//! What a webhook has delivered and what is to be done next: a pure machine with the time as an argument. The loop in
//! [`webhooks`](crate::outbound::webhooks) carries out its steps.
//!
//! **Guarantees.** Events of one store are delivered one by one and in order: one that fails holds back the store's next,
//! and no other store's. A store that has more to tell than the others is held back as well, with no failure, so that the
//! chain is read on for them: nothing more of it is read only while every place is taken. Nothing is passed over: each event up
//! to the cursor is delivered, or its store is held back, and then the place is kept up to which that store's are. What is in
//! memory is bounded, however far behind the webhook is: some events of the chain, and of each store that is held back a few.

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
/// So many of one store may wait while more are to be read. Where none has more and [`FEW`] wait, all places are taken.
const SHARE: usize = FEW / AT_ONCE;
/// Events of a store that is held back, read at once, and so many of them in memory at most.
pub const HELD_PAGE: usize = 16;
/// The same of all that are held back, about: each has one at least.
const HELD_IN_ALL: usize = 512;
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
        let has_come = |held: Held| held.next_at <= now || held.next_at > now.plus(longest);
        !self.is_busy && self.held.is_none_or(|held| held.failures == 0 || has_come(held))
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
        // Others than those that are held back may have something in the chain, so it is read on before these are.
        let chain_first = !self.at_end && self.waiting() < FEW;
        if self.under_way() < AT_ONCE
            && let Some(step) = self.serve(now).filter(|step| !(chain_first && matches!(step, Step::ReadHeld { .. })))
        {
            return step;
        }
        if !self.at_end && self.waiting() >= FEW {
            self.hold_back_the_long(now);
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

    /// Stores that have more to tell than their share are served from the ledger from now on: the chain can be read on.
    fn hold_back_the_long(&mut self, now: Millis) {
        let most = self.held_page();
        for (store, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.held.is_none()) {
            if let Some(next) = lane.queue.front().filter(|_| lane.queue.len() > SHARE) {
                lane.held = Some(Held { delivered_to: next.chain_seq - 1, failures: 0, next_at: now });
                lane.queue.truncate(most);
                self.unsaved.insert(store.clone());
            }
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
        let (read_to, most) = (self.read_to, self.held_page());
        let Some(lane) = self.lanes.get_mut(store) else { return };
        let Some(held) = &mut lane.held else { return };
        lane.queue.extend(wanted.into_iter().take(most).map(Arc::new));
        if lane.queue.is_empty() {
            held.delivered_to = held.delivered_to.max(to);
            self.unsaved.insert(store.to_owned());
            // However much of it nobody wants, the others come first.
            store.clone_into(&mut self.last);
            if to >= read_to {
                // It has caught up: what comes next is taken from the chain again.
                self.lanes.remove(store);
            }
        }
    }

    /// Events of one store that is held back, in memory at most: the more there are, the fewer of each.
    fn held_page(&self) -> usize {
        let held = self.lanes.values().filter(|lane| lane.held.is_some()).count();
        (HELD_IN_ALL / held.max(1)).clamp(1, HELD_PAGE)
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
        /// Times that something was kept with no answer.
        saves: usize,
        steps: usize,
        /// Instead of each so manieth step the process dies, a hundred times at most. 0: never.
        dies_each: usize,
    }

    impl World {
        fn given(stores: &[&str]) -> Self {
            let chain = stores.iter().enumerate().map(|(at, store)| event(at as i64 + 1, store)).collect();
            let machine = Deliveries::new(Progress::at(0));
            Self {
                chain,
                machine,
                kept: Progress::at(0),
                now: NOW,
                taken: Vec::new(),
                under_way: VecDeque::new(),
                saves: 0,
                steps: 0,
                dies_each: 0,
            }
        }

        /// Carries out steps until the machine rests; says until when.
        fn run(&mut self) -> Option<Millis> {
            loop {
                let step = self.machine.next(self.now);
                self.steps += 1;
                if self.dies_each > 0 && self.steps.is_multiple_of(self.dies_each) && self.steps < 100 * self.dies_each
                {
                    // The endpoint has what was under way.
                    self.taken.extend(self.under_way.iter().map(|event| event.chain_seq));
                    self.crash();
                    continue;
                }
                if let Some(until) = self.carry_out(step) {
                    return until;
                }
            }
        }

        /// `Some`: the machine rests.
        fn carry_out(&mut self, step: Step) -> Option<Option<Millis>> {
            match step {
                Step::Deliver(event, _) => self.under_way.push_back(event),
                Step::Read { after } => {
                    let found: Vec<_> = self.chain.iter().filter(|event| event.chain_seq > after).collect();
                    let read: Vec<_> = found.iter().take(16).map(|event| (*event).clone()).collect();
                    let to = read.last().map_or(after, |event| event.chain_seq);
                    self.machine.read(read, to, found.len() <= 16);
                }
                Step::ReadHeld { store, after, to } => {
                    let of =
                        |event: &&Outgoing| event.store == store && event.chain_seq > after && event.chain_seq <= to;
                    let read: Vec<_> = self.chain.iter().filter(of).take(HELD_PAGE).cloned().collect();
                    let to = read.last().map_or(to, |event| event.chain_seq);
                    self.machine.read_held(&store, read, to);
                }
                Step::Save => {
                    self.saves += 1;
                    self.save();
                }
                Step::Rest { until } => return Some(until),
            }
            None
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

        /// The same of one store alone: what was sent of the others is not answered.
        fn settle_only(&mut self, store: &str) {
            loop {
                self.run();
                let Some(at) = self.under_way.iter().position(|event| event.store == store) else { return };
                self.under_way.rotate_left(at);
                self.answer(Answer::Taken);
            }
        }

        /// Each event was taken, and each store's for the first time in their order.
        fn assert_all_taken_in_order(&self, case: &str) {
            let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
            let mut first = vec![usize::MAX; self.chain.len() + 1];
            self.taken.iter().enumerate().rev().for_each(|(at, taken)| first[*taken as usize] = at);
            for event in &self.chain {
                let at = first[event.chain_seq as usize];
                assert!(at < usize::MAX, "{case}: {} is lost", event.event_id);
                let before = seen.insert(&event.store, at);
                assert!(before.is_none_or(|before| before < at), "{case}: {} is out of order", event.event_id);
            }
            assert_eq!(self.kept, Progress::at(self.chain.len() as i64), "{case}");
        }

        fn in_memory(&self) -> usize {
            self.machine.lanes.values().map(|lane| lane.queue.len()).sum()
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
            world.assert_all_taken_in_order(&format!("crash at each {crashes}."));
        }
    }

    #[test]
    fn a_store_with_much_to_tell_delays_no_other() {
        let store = |place: usize| if place.is_multiple_of(100) { "b" } else { ["a", "c", "d"][place % 3] };
        let mut world = World::given(&(1..=3_000).map(store).collect::<Vec<_>>());
        world.settle_only("b");
        assert_eq!(world.taken, (1..=30).map(|hundred| hundred * 100).collect::<Vec<_>>());
        let mut under_way: Vec<i64> = world.under_way.iter().map(|event| event.chain_seq).collect();
        under_way.sort_unstable();
        assert_eq!(under_way, [1, 2, 3], "one by one");
        assert_eq!((world.kept.cursor, world.kept.delivered_to()), (3_000, 0));
        world.settle(|_| Answer::Taken);
        world.assert_all_taken_in_order("long ones");
    }

    #[test]
    fn nor_do_more_of_them_than_are_served_at_once() {
        let long: Vec<String> = (0..=AT_ONCE).map(|number| format!("long-{number}")).collect();
        let store = |place: usize| if place.is_multiple_of(50) { "z" } else { &long[place % long.len()] };
        let mut world = World::given(&(1..=4_000).map(store).collect::<Vec<_>>());
        world.settle(|_| Answer::Taken);
        let last = world.taken.iter().position(|taken| *taken == 4_000).expect("is taken");
        assert!(last < 80 * (long.len() + 2), "behind {last} others");
        world.assert_all_taken_in_order("nine long ones");
    }

    #[test]
    fn who_is_held_back_keeps_nobody_from_the_chain_however_fast_the_endpoint_is() {
        let stores: Vec<String> = (0..6_000).map(|place| format!("s{}", place % 300)).collect();
        let mut world = World::given(&stores.iter().map(String::as_str).collect::<Vec<_>>());
        world.settle(|_| Answer::Failed);
        world.chain.push(event(6_001, "z"));
        world.machine.woken();
        world.now = world.now.plus(HOUR);
        while !world.taken.contains(&6_001) {
            let step = world.machine.next(world.now);
            assert!(world.carry_out(step).is_none(), "there is much to do");
            // Answered before anything else is done.
            while !world.under_way.is_empty() {
                world.answer(Answer::Taken);
            }
        }
        assert!(world.taken.len() <= 300, "one turn of those that are held back, and not behind {}", world.taken.len());
        world.settle(|_| Answer::Taken);
        world.assert_all_taken_in_order("held back");
    }

    #[test]
    fn what_is_held_back_for_its_length_is_lost_in_no_crash() {
        let stores: Vec<&str> = (0..240).map(|place| ["a", "a", "b", "a", "a", "c", "a"][place % 7]).collect();
        for dies_each in 5..60 {
            let mut world = World::given(&stores);
            world.dies_each = dies_each;
            let mut answers = 0;
            loop {
                let until = world.run();
                if world.under_way.is_empty() {
                    let Some(until) = until else { break };
                    world.now = until;
                    continue;
                }
                answers += 1;
                world.answer(if answers % 11 == 0 { Answer::Failed } else { Answer::Taken });
            }
            world.assert_all_taken_in_order(&format!("dies instead of each {dies_each}."));
        }
    }

    #[test]
    fn to_hold_back_the_long_costs_few_writes() {
        let mut world = World::given(&["a"; 5_000]);
        world.settle(|_| Answer::Taken);
        // Of the cursor each thousand, one when it is held back, one when it has caught up.
        assert!(world.saves <= 7, "{}", world.saves);
        let stores: Vec<String> = (0..5_000).map(|place| format!("s{}", place / 12 % 40)).collect();
        let mut world = World::given(&stores.iter().map(String::as_str).collect::<Vec<_>>());
        world.settle(|_| Answer::Taken);
        world.assert_all_taken_in_order("many");
        assert!(world.saves <= 50, "{}", world.saves);
    }

    #[test]
    fn who_has_only_much_to_tell_waits_for_no_clock() {
        let mut world = World::given(&["a"; 200]);
        world.run();
        world.answer(Answer::Taken);
        assert_eq!(world.kept.held["a"].failures, 0);
        world.now = NOW.plus(-HOUR);
        world.settle(|_| Answer::Taken);
        world.assert_all_taken_in_order("set back");
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
        assert!(world.in_memory() <= FEW + 16, "{}", world.in_memory());
        world.answer(Answer::Failed);
        world.run();
        assert_eq!((world.in_memory(), world.machine.cursor()), (0, 5_000));
        assert!(world.kept.cursor > 4_000, "{}", world.kept.cursor);
        // A thousand stores with a day's work each, one behind the other.
        let stores: Vec<String> = (0..20_000).map(|place| format!("s{}", place / 20)).collect();
        let mut world = World::given(&stores.iter().map(String::as_str).collect::<Vec<_>>());
        let mut most = 0;
        while {
            world.run();
            !world.under_way.is_empty()
        } {
            most = most.max(world.in_memory());
            world.answer(Answer::Taken);
        }
        assert!(most <= 3_000, "{most}");
        world.assert_all_taken_in_order("many long ones");
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
