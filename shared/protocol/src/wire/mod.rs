//! What travels on the link: events from a store to central, commands from central to a store.
//!
//! An entry's type (`t`) and body (`b`) make an [`Event`] or a [`Command`]. Unknown members of a body are ignored, so
//! that old and new may talk; an unknown type or a body that breaks the rules is [`NotUnderstood`] and goes to the
//! dead letters (rule L11).

mod batch;
mod body;
mod command;
mod event;
mod fact;
mod outcome;
mod purchase;
pub mod restore;

pub use batch::{BATCH_MAX, BatchLine, LineResult, RefusedLine, Results};
pub use command::{About, BATCH, Command, RESERVATION, RESERVE, RESYNC};
pub use event::{Event, Named, SnapshotEnd, SnapshotPage};
pub use fact::{Fact, Happened, ItemAfter, ReservationStep, Subject};
pub use outcome::{Became, Outcome};
pub use purchase::PurchaseRef;

use serde::Serialize;

pub use crate::position::Position;

/// `v` of every entry written by this version.
pub const FORMAT: u32 = 1;

/// Why an entry's type or body means nothing to this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotUnderstood(pub String);

impl From<serde_json::Error> for NotUnderstood {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire types have text keys and serialise")
}
