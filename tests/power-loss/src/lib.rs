//! Power loss: what was answered is on disk.
//!
//! **How it is shown.** Both daemons' production code (opening, the group-committing writer, the operations) runs over a
//! [`Disk`] that keeps apart what was synced and what was only written. At a random step the power goes: nothing that
//! was not synced need be there afterwards, in any combination, sectors torn. Then the database is opened again in the
//! production way, and [`machine`] compares it with what had been answered.
//!
//! **It can fail.** The same runs over a disk whose syncs lie, and with `synchronous` at `off` and `normal`, must find
//! losses; the tests assert that they do.

pub mod agent;
pub mod central;
mod disk;
pub mod machine;
mod shm;
mod vfs;

pub use disk::{Disk, Syncs};
pub use tests::Dice;
pub use vfs::Mount;
