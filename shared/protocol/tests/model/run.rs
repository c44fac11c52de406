//! Running a configuration to its end, and what is remembered while it runs.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// What has happened in some transition, as bits: for "sometimes", since it is steps that are asked for, not states.
#[derive(Default)]
pub(crate) struct Seen(AtomicU64);

impl Seen {
    pub(crate) fn note(&self, what: u8) {
        let bit = 1 << what;
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn has(&self, what: u8) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << what) != 0
    }
}

/// States from which a fair run is known to converge. A fair run is a function of the state it starts from, so all
/// that lie on one that converges do, too.
pub(crate) struct Converging {
    known: [Mutex<HashSet<u64>>; 16],
    hasher: BuildHasherDefault<DefaultHasher>,
}

impl Default for Converging {
    fn default() -> Self {
        Self { known: std::array::from_fn(|_| Mutex::default()), hasher: BuildHasherDefault::default() }
    }
}

impl Converging {
    /// Whether `state`, driven by `cycle`, is `settled` within so many cycles.
    pub(crate) fn check<S: Clone + Hash>(
        &self,
        state: &S,
        cycles_max: usize,
        cycle: impl Fn(&mut S),
        settled: impl Fn(&S) -> bool,
    ) -> bool {
        let mut at = state.clone();
        let mut path = Vec::new();
        for _ in 0..=cycles_max {
            let key = self.hasher.hash_one(&at);
            if self.shard(key).lock().expect("no panic inside").contains(&key) || settled(&at) {
                path.push(key);
                for key in path {
                    self.shard(key).lock().expect("no panic inside").insert(key);
                }
                return true;
            }
            path.push(key);
            cycle(&mut at);
        }
        false
    }

    fn shard(&self, key: u64) -> &Mutex<HashSet<u64>> {
        &self.known[(key % 16) as usize]
    }
}

/// Explores everything within the bound; panics if a property fails, a "sometimes" never happens, or there are not so
/// many unique states.
pub(crate) fn exhaust<M>(name: &str, states: usize, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq + 'static,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    #[expect(clippy::disallowed_methods, reason = "for people, who see how long it took")]
    let started = Instant::now();
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} unique states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), states, "{name}");
}

/// Explores about so many unique states, nearest first; panics if a property fails in one of them.
pub(crate) fn look_at<M>(name: &str, states: usize, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq + 'static,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    // The checker counts a state as often as it comes to it.
    let checker = checker.target_state_count(4 * states).spawn_bfs().join();
    println!("{name}: {} unique states, depth {}", checker.unique_state_count(), checker.max_depth());
    for property in checker.model().properties() {
        if property.expectation == Expectation::Always {
            checker.assert_no_discovery(property.name);
        }
    }
}

/// Explores until the named property fails; panics if it holds everywhere.
pub(crate) fn refute<M>(property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq + 'static,
    M::Action: std::fmt::Debug + Clone + PartialEq + Send + Sync,
{
    let wanted = HasDiscoveries::AnyOf(std::collections::BTreeSet::from([property]));
    let checker = model.checker().threads(2).finish_when(wanted).spawn_bfs().join();
    let path = checker.assert_any_discovery(property);
    println!("counterexample: {property:?} fails after {} steps", path.into_actions().len());
}
