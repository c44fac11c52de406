//! Command epochs: when a store's command log begins anew, and with what (L8).

use protocol::ids::StoreId;
use protocol::number::{CommandEpoch, Epoch};
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
    for_epoch: Epoch,
    beyond: CommandEpoch,
    now: Millis,
) -> JobResult<()> {
    let unsettled =
        if planted(Bug::UnsettledNotRepeated) { Vec::new() } else { commands::unanswered(connection, &store.id)? };
    let epoch = store.command_head.epoch.max(beyond).next(now);
    let opened = Command::Opened { for_epoch };
    let opened = (format!("opened:{epoch}"), opened.kind().to_owned(), opened.encode());
    let again = unsettled.into_iter().map(|request| (request.id.into(), request.kind, request.body));
    commands::begin_epoch(connection, store, epoch, [opened].into_iter().chain(again), now)
}

/// Opens a command epoch for the event epoch that central knows. `beyond`: the greatest command epoch that the store is
/// known to have seen.
pub fn reopen(connection: &Connection, id: &StoreId, beyond: CommandEpoch, now: Millis) -> JobResult<()> {
    let Some(mut store) = stores::find(connection, id)? else { return Ok(()) };
    let (for_epoch, beyond) = (store.cursor.epoch, beyond.max(store.ready_epoch));
    open_epoch(connection, &mut store, for_epoch, beyond, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database};

    #[test]
    fn a_command_epoch_is_greater_than_any_that_was_seen() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let own = agent.store(&connection).command_head.epoch;
        let reopened = |beyond| {
            reopen(&connection, &agent.id, beyond, NOW).expect("opens");
            agent.store(&connection).command_head.epoch
        };
        let again = reopened(CommandEpoch::NONE);
        assert!(again > own, "by this database");
        let seen = again.next(NOW.plus(3_600_000));
        assert!(reopened(seen) > seen, "by the store, which a newer database than this one told of it");
    }
}
