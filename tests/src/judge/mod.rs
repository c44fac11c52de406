//! The judge of the simulation. It writes down what was asked before it is sent ([`book`]), works out for itself what must
//! come of it ([`shop`], [`holds`], [`transfers`], [`allotments`], [`batches`],
//! [`reconciliations`], [`keys`], [`events`], [`central`]), and compares ([`oracle`]).

pub mod allotments;
pub mod batches;
pub mod book;
pub mod central;
pub mod events;
pub mod holds;
pub mod keys;
pub mod oracle;
pub mod reconciliations;
pub mod shop;
pub mod transfers;

#[cfg(test)]
mod tests;

pub use allotments::{Cover, Release, Rule};
pub use batches::line;
pub use book::{Act, Acted, Asked, Batch, Book, Buy, By, Cancel, Hold, Lines, Name, Pick, Receipt, Transfer, Wish};
pub use central::{Known, Moving, Reserved, Status};
pub use events::Reader;
pub use holds::{Held, State};
pub use keys::{Answer, Bound, BoundKeys, Buying, Cancelling, Due, Left, Line, Ordering, Says, Stands, code_of};
pub use oracle::{Oracle, Place};
pub use reconciliations::{Different, List, Report};
pub use shop::{Occasion, Shop, decide};
pub use transfers::Sent;
