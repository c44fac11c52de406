//! The ledger: what happened in this store, in order, and the stock it adds up to.
//!
//! **Guarantees.** An entry is appended in the transaction of its effect. Numbers are gapless within an epoch and
//! chained by hash; each entry carries the digest of the whole stock after it. Nothing here knows a clock.

pub mod allotment;
pub mod dead_letters;
mod epoch;
pub mod events;
mod head;
pub mod history;
pub mod idempotency;
mod items;
mod log;
mod moved;
pub mod outcomes;
pub mod purchases;
pub mod reservations;
mod retention;
pub mod seen;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod transfers;

pub(crate) use epoch::begin_epoch;
pub use epoch::{InitialiseError, claim, initialise, is_new, lineage, open_epoch};
pub use head::{Head, append, command_cursor, cursor, head, save_head, store_id};
pub use items::{ItemFilter, each_item, find_item, find_item_in_any_case, items_in_order, list_items, shown};
pub use log::{Backlog, Log, backlog, entries, entries_within, is_kept, store_acked, types_behind};
pub use moved::Moved;
pub use retention::{Kind, prune, prune_entries};

pub(crate) use head::save_command_cursor;
pub(crate) use items::put_item;

use runtime::sqlite::Schema;

/// Numbered migrations; `application_id` is "SHST".
pub const SCHEMA: Schema = Schema {
    application_id: 0x5348_5354,
    migrations: &[
        include_str!("../../migrations/0001_ledger.sql"),
        include_str!("../../migrations/0002_retention.sql"),
        include_str!("../../migrations/0003_reservations.sql"),
        include_str!("../../migrations/0004_search.sql"),
        include_str!("../../migrations/0005_moves.sql"),
        include_str!("../../migrations/0006_transfers.sql"),
        include_str!("../../migrations/0007_lines.sql"),
        include_str!("../../migrations/0008_allotment.sql"),
        include_str!("../../migrations/0009_transfer_references.sql"),
        include_str!("../../migrations/0010_named_since.sql"),
        include_str!("../../migrations/0011_state_asked.sql"),
        include_str!("../../migrations/0012_waiting_outcomes.sql"),
        include_str!("../../migrations/0013_references.sql"),
        include_str!("../../migrations/0014_names_told.sql"),
    ],
};
