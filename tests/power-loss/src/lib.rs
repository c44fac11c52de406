//! Power loss: what was answered is on disk.
//!
//! **How it is shown.** Both daemons' production code (opening, the group-committing writer, the operations) runs over a
//! [`Disk`] that keeps apart what was synced and what was only written. At a random step the power goes: nothing that
//! was not synced need be there afterwards, in any combination, sectors torn. Then the database is opened again in the
//! production way, and [`machine`] compares it with what had been answered. In other runs the process is killed instead,
//! the disk is full, or a sync fails and loses what it was to keep, and the power goes later.
//!
//! **It can fail.** The same runs over a disk whose syncs lie, with `synchronous` at `off` and `normal`, and with a log that
//! is taken as it is found, must find losses; the tests assert that they do.

pub mod agent;
pub mod central;
pub mod copies;
mod disk;
mod files;
pub mod machine;
mod shm;
mod vfs;

pub use disk::{Disk, Fault, Syncs};
pub use tests::Dice;
pub use vfs::Mount;
