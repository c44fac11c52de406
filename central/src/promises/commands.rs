//! Command epochs: when a store's command log begins anew, and with what (L8).

use protocol::ids::StoreId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::Command;

use crate::storage::commands;
use crate::storage::stores::{self, Store};
use crate::storage::{Connection, JobResult};

/// L8: opens a command epoch for an event epoch, with every unsettled request again, in its old order, under its old
/// id. `beyond`: the greatest command epoch that the store is known to have seen.
pub fn open_epoch(
    connection: &Connection,
    store: &mut Store,
    for_epoch: u64,
    beyond: u64,
    now: Millis,
) -> JobResult<()> {
    let unsettled =
        if planted(Bug::UnsettledNotRepeated) { Vec::new() } else { commands::unanswered(connection, &store.id)? };
    let epoch = next_epoch(store.command_head.epoch, beyond, now);
    let opened = Command::Opened { for_epoch };
    let opened = (format!("opened:{epoch}"), opened.kind().to_owned(), opened.encode());
    let again = unsettled.into_iter().map(|request| (request.id.into(), request.kind, request.body));
    commands::begin_epoch(connection, store, epoch, [opened].into_iter().chain(again), now)
}

/// The wall clock, kept from going back by what is known.
fn next_epoch(last: u64, beyond: u64, now: Millis) -> u64 {
    u64::try_from(now.0).unwrap_or(1).max(last + 1).max(beyond.saturating_add(1))
}

/// Opens a command epoch for the event epoch that central knows. `beyond`: the greatest command epoch that the store is
/// known to have seen.
pub fn reopen(connection: &Connection, id: &StoreId, beyond: u64, now: Millis) -> JobResult<()> {
    let Some(mut store) = stores::find(connection, id)? else { return Ok(()) };
    let (for_epoch, beyond) = (store.cursor.epoch, beyond.max(store.ready_epoch));
    open_epoch(connection, &mut store, for_epoch, beyond, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_epoch_is_greater_than_any_that_was_seen() {
        assert_eq!(next_epoch(5, 0, Millis(1_000)), 1_000);
        assert_eq!(next_epoch(1_000, 0, Millis(1_000)), 1_001);
        assert_eq!(next_epoch(5, 2_000, Millis(1_000)), 2_001, "the clock was set back");
        assert_eq!(next_epoch(5, 0, Millis(-1)), 6);
    }
}
