//! Which stores are to be looked at, and in which lane.
//!
//! **Guarantees.** A store is in one lane at a time, so that its acks never overtake each other. Only ids of known stores
//! are remembered, whoever rings. Nobody waits for ever: stores are taken in turn, wherever bells ring most.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use protocol::ids::StoreId;
use tokio::sync::Notify;

/// Both lanes' work. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Queue {
    state: Arc<Mutex<State>>,
    main: Arc<Notify>,
    slow: Arc<Notify>,
    sweep: Arc<Notify>,
}

struct State {
    /// `None`: not told yet.
    known: Option<Arc<HashSet<StoreId>>>,
    due: BTreeSet<StoreId>,
    /// Whose turn it is in the main lane.
    turn: Bound<StoreId>,
    slow: BTreeMap<StoreId, Slow>,
    last_slow: Option<StoreId>,
}

impl Default for State {
    fn default() -> Self {
        Self { known: None, due: BTreeSet::new(), turn: Unbounded, slow: BTreeMap::new(), last_slow: None }
    }
}

/// A store in the slow lane.
#[derive(Debug, Clone, Default)]
struct Slow {
    due: bool,
    at_work: bool,
    care: Care,
}

/// How a store in the slow lane is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Care {
    /// One entry at a time.
    pub(super) singly: bool,
    /// Not before then.
    pub(super) rests_until: Option<Instant>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// These are all stores.
    pub(super) fn set_known(&self, known: HashSet<StoreId>) {
        let mut state = self.lock();
        state.due.retain(|id| known.contains(id));
        state.slow.retain(|id, slow| slow.at_work || known.contains(id));
        state.known = Some(Arc::new(known));
    }

    /// All stores, once they were told.
    pub(super) fn known(&self) -> Option<Arc<HashSet<StoreId>>> {
        self.lock().known.clone()
    }

    /// Somebody says that there is news of a store: true or not, it costs one look at most.
    pub(super) fn ring(&self, id: StoreId) {
        let mut state = self.lock();
        if !state.known.as_ref().is_some_and(|known| known.contains(&id)) {
            return;
        }
        match state.slow.get_mut(&id) {
            Some(slow) => {
                slow.due = true;
                self.slow.notify_one();
            }
            None => {
                state.due.insert(id);
                self.main.notify_one();
            }
        }
    }

    /// All stores are due, each in its lane.
    pub(super) fn ring_all(&self) {
        let mut state = self.lock();
        let known = state.known.clone().unwrap_or_default();
        let State { due, slow, .. } = &mut *state;
        due.extend(known.iter().filter(|id| !slow.contains_key(*id)).cloned());
        slow.values_mut().for_each(|slow| slow.due = true);
        self.slow.notify_one();
    }

    /// Up to so many stores of the main lane, in turn.
    pub(super) fn take(&self, most: usize) -> Vec<StoreId> {
        let mut state = self.lock();
        let from = state.turn.clone();
        let behind: Vec<StoreId> = state.due.range((from, Unbounded)).take(most).cloned().collect();
        let mut taken = behind;
        let rest = most - taken.len();
        let before: Vec<StoreId> = state.due.iter().take(rest).filter(|id| !taken.contains(id)).cloned().collect();
        taken.extend(before);
        for id in &taken {
            state.due.remove(id);
        }
        if let Some(last) = taken.last() {
            state.turn = Excluded(last.clone());
        }
        taken
    }

    /// These were taken and had to wait, in this order: they are due, and the first of them comes first.
    pub(super) fn put_back(&self, waiting: Vec<StoreId>) {
        let Some(first) = waiting.first().cloned() else { return };
        waiting.into_iter().for_each(|id| self.ring(id));
        self.lock().turn = Included(first);
    }

    /// Whether the main lane has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().due.is_empty()
    }

    /// Stores that are due in the main lane.
    pub(super) fn due(&self) -> usize {
        self.lock().due.len()
    }

    /// Waits until somebody rings for the main lane.
    pub(super) async fn rung(&self) {
        self.main.notified().await;
    }

    /// A sweep is wanted before its time.
    pub(super) fn sweep_soon(&self) {
        self.sweep.notify_one();
    }

    /// Waits until one is.
    pub(super) async fn sweep_wanted(&self) {
        self.sweep.notified().await;
    }

    /// From now on a store of the main lane is read apart from all others.
    pub(super) fn set_apart(&self, id: &StoreId) {
        let mut state = self.lock();
        state.due.remove(id);
        state.slow.entry(id.clone()).or_default().due = true;
        self.slow.notify_one();
    }

    /// Whether a store is read apart.
    pub(super) fn is_apart(&self, id: &StoreId) -> bool {
        self.lock().slow.contains_key(id)
    }

    /// The next store of the slow lane.
    pub(super) async fn next_apart(&self) -> (StoreId, Care) {
        loop {
            if let Some(found) = self.take_apart() {
                // There may be work for another one, too.
                self.slow.notify_one();
                return found;
            }
            self.slow.notified().await;
        }
    }

    fn take_apart(&self) -> Option<(StoreId, Care)> {
        let mut state = self.lock();
        let waits = |(_, slow): &(&StoreId, &Slow)| slow.due && !slow.at_work;
        let from = state.last_slow.clone().map_or(Unbounded, Excluded);
        let id = state.slow.range((from, Unbounded)).find(waits).or_else(|| state.slow.iter().find(waits))?.0.clone();
        state.last_slow = Some(id.clone());
        let slow = state.slow.get_mut(&id)?;
        (slow.due, slow.at_work) = (false, true);
        Some((id, slow.care))
    }

    /// A visit in the slow lane is over; the store stays there. `again`: at once.
    pub(super) fn stays_apart(&self, id: &StoreId, care: Care, again: bool) {
        let mut state = self.lock();
        if let Some(slow) = state.slow.get_mut(id) {
            slow.at_work = false;
            slow.care = care;
            slow.due |= again;
            self.slow.notify_one();
        }
    }

    /// A visit in the slow lane is over, and the store goes back to all others. `again`: at once.
    pub(super) fn goes_back(&self, id: &StoreId, again: bool) {
        let mut state = self.lock();
        if state.slow.remove(id).is_some_and(|slow| slow.due || again) {
            state.due.insert(id.clone());
            self.main.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> StoreId {
        StoreId::parse(name).expect("valid")
    }

    fn queue(names: &[&str]) -> Queue {
        let queue = Queue::default();
        queue.set_known(names.iter().map(|name| id(name)).collect());
        queue
    }

    #[test]
    fn bells_of_unknown_ids_leave_nothing_behind() {
        let queue = Queue::default();
        queue.ring(id("s1"));
        assert!(queue.is_idle(), "before the first sweep nobody is known");
        queue.set_known([id("s1")].into());
        for number in 0..1_000 {
            queue.ring(id(&format!("x{number}")));
        }
        queue.ring(id("s1"));
        assert_eq!(queue.take(256), [id("s1")]);
        queue.ring(id("s1"));
        queue.set_known(HashSet::new());
        assert!(queue.is_idle(), "what was forgotten is due no longer");
    }

    #[test]
    fn who_rings_all_the_time_keeps_nobody_waiting() {
        let queue = queue(&["a", "b", "c", "d"]);
        queue.ring_all();
        let mut looked_at = BTreeSet::new();
        for _ in 0..4 {
            looked_at.extend(queue.take(1));
            queue.ring(id("a"));
            queue.ring(id("b"));
        }
        assert_eq!(looked_at.len(), 4, "{looked_at:?}");
    }

    #[test]
    fn who_had_to_wait_comes_first_in_the_next_round() {
        let queue = queue(&["a", "b", "c", "d"]);
        let mut read = Vec::new();
        for _ in 0..2 {
            // All have news all the time, and a round has room for two of them.
            queue.ring_all();
            let mut taken = queue.take(256);
            let waiting = taken.split_off(2);
            read.extend(taken);
            queue.put_back(waiting);
        }
        assert_eq!(read, ["a", "b", "c", "d"].map(id));
    }

    #[tokio::test]
    async fn a_store_is_in_one_lane_at_a_time() {
        let queue = queue(&["a", "b"]);
        queue.ring_all();
        queue.set_apart(&id("a"));
        queue.ring(id("a"));
        assert_eq!(queue.take(9), [id("b")]);
        let (taken, care) = queue.next_apart().await;
        assert_eq!((taken, care), (id("a"), Care::default()));
        queue.ring(id("a"));
        assert!(queue.take_apart().is_none() && queue.is_idle(), "somebody is at work on it");
        let care = Care { singly: true, rests_until: None };
        queue.stays_apart(&id("a"), care, false);
        assert_eq!(queue.take_apart(), Some((id("a"), care)), "it rang meanwhile");
        queue.goes_back(&id("a"), false);
        assert!(queue.is_idle() && !queue.is_apart(&id("a")));
        queue.ring(id("a"));
        assert_eq!(queue.take(9), [id("a")]);
    }
}
