//! The index of a write-ahead log, which the connections to one database share in memory, and its eight locks.

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

/// Locks of a shared index (`SQLITE_SHM_NLOCK`).
const LOCKS: usize = 8;

/// Another connection holds it.
#[derive(Debug)]
pub(crate) struct Busy;

/// Shared memory of one database. Gone with its last connection, and with the power.
#[derive(Default)]
pub(crate) struct Shm {
    // Atomic, because SQLite writes to it through a pointer from several threads. A region never moves.
    regions: Mutex<Vec<Box<[AtomicU64]>>>,
    // For each lock: how many share it, or -1.
    locks: Mutex<[i32; LOCKS]>,
}

/// What one connection holds of the locks: a bit for each.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Held {
    shared: u8,
    exclusive: u8,
}

impl Shm {
    /// Where a region is; none: it is not there, and `extend` was not said.
    pub(crate) fn map(&self, region: usize, size: usize, extend: bool) -> Option<*mut c_void> {
        let mut regions = self.regions.lock().expect("no thread panics");
        while extend && regions.len() <= region {
            regions.push((0..size / 8).map(|_| AtomicU64::new(0)).collect());
        }
        // The cells are made for being written to behind a shared reference.
        regions.get(region).map(|region| region.as_ptr().cast_mut().cast())
    }

    /// Takes or leaves `count` locks from `first` on.
    pub(crate) fn lock(&self, held: &mut Held, first: usize, count: usize, wanted: Wanted) -> Result<(), Busy> {
        let mut locks = self.locks.lock().expect("no thread panics");
        let range = first..(first + count).min(LOCKS);
        let mask = range.clone().fold(0_u8, |mask, lock| mask | (1 << lock));
        match wanted {
            Wanted::Nothing => {
                for lock in range {
                    let bit = 1 << lock;
                    if held.exclusive & bit != 0 {
                        locks[lock] = 0;
                    } else if held.shared & bit != 0 {
                        locks[lock] -= 1;
                    }
                }
                held.shared &= !mask;
                held.exclusive &= !mask;
            }
            Wanted::Shared if held.shared & mask == mask => {}
            Wanted::Shared if locks[range.clone()].iter().any(|lock| *lock < 0) => return Err(Busy),
            Wanted::Shared => {
                locks[range].iter_mut().for_each(|lock| *lock += 1);
                held.shared |= mask;
            }
            Wanted::Exclusive if held.exclusive & mask == mask => {}
            Wanted::Exclusive if locks[range.clone()].iter().any(|lock| *lock != 0) => return Err(Busy),
            Wanted::Exclusive => {
                locks[range].fill(-1);
                held.exclusive |= mask;
            }
        }
        Ok(())
    }
}

/// How a lock is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Not any more.
    Nothing,
    Shared,
    Exclusive,
}
