//! The rests of a writer, in which readers may leave open what they have begun.
//!
//! **Guarantees.** Once a rest has ended, and before this writer writes, whatever was left open in it is closed, but for what is
//! being read at that moment: who reads closes that. A rest lasts a second at most, so what another process writes into the
//! file, which none should, is seen within that time.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Who leaves something open.
pub(super) trait Keeps: Send + Sync {
    /// Closes what is not in use.
    fn let_go(&self) -> rusqlite::Result<()>;
    /// Called every second: gives back the memory of what was not in use since the last call.
    fn give_back(&self) -> rusqlite::Result<()>;
}

/// Whether a writer rests. Cheap to clone; equal to another one of the same writer.
#[derive(Clone, Default)]
pub(super) struct Rest(Arc<State>);

#[derive(Default)]
struct State {
    /// Beginnings and ends of rests so far: an odd number while there is one.
    turns: AtomicU64,
    keepers: Mutex<Vec<Weak<dyn Keeps>>>,
}

impl PartialEq for Rest {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Rest {
    /// The rest that lasts now. What was committed before is there to be read, and nothing is written while it lasts.
    pub(super) fn lull(&self) -> Option<u64> {
        let turns = self.0.turns.load(Ordering::SeqCst);
        (turns % 2 == 1).then_some(turns)
    }

    /// This one is to let go at the end of each.
    pub(super) fn lets_go<K: Keeps + 'static>(&self, keeper: &Arc<K>) {
        let keeper: Weak<K> = Arc::downgrade(keeper);
        self.0.keepers.lock().push(keeper);
    }

    /// The writer rests while this lasts.
    pub(super) fn during<T>(&self, wait: impl FnOnce() -> T) -> rusqlite::Result<T> {
        self.0.turns.fetch_add(1, Ordering::SeqCst);
        let waited = wait();
        self.0.turns.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.each(|keeper| keeper.let_go()).map(|()| waited)
    }

    /// What nobody has used since the last call is given back.
    pub(super) fn give_back(&self) -> rusqlite::Result<()> {
        self.each(|keeper| keeper.give_back())
    }

    fn each(&self, act: impl Fn(&dyn Keeps) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let mut done = Ok(());
        self.0.keepers.lock().retain(|keeper| {
            let keeper = keeper.upgrade();
            if let Some(Err(error)) = keeper.as_deref().map(&act) {
                done = Err(error);
            }
            keeper.is_some()
        });
        done
    }
}
