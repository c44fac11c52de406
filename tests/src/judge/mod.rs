//! The judge of the simulation. It writes down what was asked before it is sent ([`book`]), works out for itself what must
//! come of it ([`shop`], [`holds`], [`transfers`], [`allotments`], [`batches`],
//! [`reconciliations`], [`keys`]), and compares ([`oracle`]).

pub mod allotments;
pub mod batches;
pub mod book;
pub mod holds;
pub mod keys;
pub mod oracle;
pub mod reconciliations;
pub mod shop;
pub mod transfers;

#[cfg(test)]
mod tests;

pub use allotments::{Cover, Release, Rule};
pub use book::{Act, Acted, Asked, Batch, Book, Buy, By, Cancel, Hold, Lines, Name, Pick, Receipt, Transfer, Wish};
pub use holds::Held;
pub use keys::{Answer, Bound, BoundKeys, Buying, Cancelling, Due, Stands};
pub use oracle::{Oracle, Place};
pub use reconciliations::{Different, List, Report};
pub use shop::{Occasion, Shop, decide};
