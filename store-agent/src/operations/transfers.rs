//! Units that go to another store, or come from one. What may become of a transfer is [`protocol::domain::transfer`]'s to say.
//!
//! **Guarantees.** A shipment, and a receipt, is one entry of the ledger with all of its items. A transfer that this store
//! has received is never on its way to it again, however often it is announced.

use protocol::domain::transfer::{Decided, State, Transfer};
use protocol::domain::{Lines, Rejection};
use protocol::ids::TransferId;
use protocol::link::EntryId;
use protocol::time::Millis;
use protocol::wire::{Fact, Happened};
use runtime::sqlite::{Abort, Connection};

use super::effect::{self, Effect, Items};
use super::reservations::{self, Asking};
use crate::ledger::{self, transfers};

/// What was done.
#[derive(Debug, Clone)]
pub struct Done {
    /// The transfer after it.
    pub transfer: Transfer,
    /// Where it is recorded.
    pub position: EntryId,
}

/// Books in what has arrived. `lines`: these; none: all of it.
pub fn receive(
    connection: &Connection,
    id: TransferId,
    lines: Option<&Lines>,
    asking: &Asking,
    now: Millis,
) -> Result<Done, Abort<Rejection>> {
    let Some(transfer) = transfers::find_incoming(connection, id)? else {
        return Err(Abort::Refused(Rejection::UnknownTransfer));
    };
    let mut head = ledger::head(connection)?;
    reservations::expire_due(connection, &mut head, transfer.lines.iter().map(|line| &line.product_id), now)?;
    let mut items = reservations::loaded(connection, &transfer.lines)?;
    let effect = decide_receive(&transfer, lines, &items, asking, now).map_err(Abort::Refused)?;
    let transfer = effect.transfer.clone().expect("a receipt's effect has its transfer");
    let position = effect::record(connection, &mut head, &asking.operation, &mut items, effect, now)?;
    ledger::save_head(connection, &head)?;
    Ok(Done { transfer, position })
}

/// Whether it can leave, and what is recorded then.
pub(super) fn decide_ship(
    transfer: &Transfer,
    items: &Items,
    asking: &Asking,
    now: Millis,
) -> Result<Effect, Rejection> {
    Ok(effect_of(transfer.ship(|product| items.get(product))?, items, asking, now))
}

/// Whether it can be received, and what is recorded then.
pub(super) fn decide_receive(
    transfer: &Transfer,
    lines: Option<&Lines>,
    items: &Items,
    asking: &Asking,
    now: Millis,
) -> Result<Effect, Rejection> {
    Ok(effect_of(transfer.receive(lines, |product| items.get(product))?, items, asking, now))
}

/// A transfer is on its way here. `known`: it was announced before, and this has become of it. The error: no item changes, and
/// this is what the store knows of it then.
pub(super) fn decide_announce(
    transfer: Transfer,
    known: Option<&Transfer>,
    items: &Items,
    asking: &Asking,
    now: Millis,
) -> Result<Effect, Box<Transfer>> {
    let transfer = known.cloned().unwrap_or(transfer);
    if transfer.auto_receive
        && transfer.state == State::Shipped
        && let Ok(effect) = decide_receive(&transfer, None, items, asking, now)
    {
        return Ok(effect);
    }
    Err(Box::new(transfer))
}

fn effect_of(decided: Decided, items: &Items, asking: &Asking, now: Millis) -> Effect {
    let Decided { after: transfer, changes } = decided;
    let after = effect::changed(changes, items, now);
    let fact = Fact {
        about: asking.about.clone(),
        command: asking.command.clone(),
        ..Fact::new(Happened::Transfer { transfer: transfer.clone(), items: after }, now)
    };
    Effect { transfer: Some(transfer), ..Effect::of(fact, items) }
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Line, LowAt, Operation};
    use protocol::ids::{OperationId, StoreId};
    use protocol::link::{Commands, Cursor, Entry};
    use protocol::wire::{About, Command};
    use runtime::sqlite::newest::Slice;

    use super::*;
    use crate::operations::commands;
    use crate::operators::verify::verify;
    use crate::testing::{self, NOW, operation, product, quantity, store};

    fn lines(of: &[(&str, i64)]) -> Lines {
        let line = |(name, units): &(&str, i64)| Line { product_id: product(name), quantity: quantity(*units) };
        Lines::new(of.iter().map(line)).expect("are lines")
    }

    /// From s1, which the tests' store is, or to it.
    fn transfer(goes_out: bool, of: &[(&str, i64)]) -> Transfer {
        let (here, there) = (StoreId::parse("s1").expect("valid"), StoreId::parse("s2").expect("valid"));
        let (from, to) = if goes_out { (here, there) } else { (there, here) };
        Transfer {
            id: TransferId::new(uuid::Uuid::from_u128(1)),
            from,
            to,
            lines: lines(of),
            names: [(product("bun"), "Bun".to_owned())].into(),
            auto_receive: false,
            reference: None,
            created_at: NOW,
            state: State::Shipped,
        }
    }

    /// A store, and the commands of central's that it was sent.
    struct World {
        connection: Connection,
        sent: Cursor<Commands>,
    }

    impl World {
        fn new(items: &[(&str, i64)]) -> Self {
            let connection = store(items);
            let for_epoch = ledger::head(&connection).expect("reads").cursor.epoch;
            let mut world = Self { connection, sent: Cursor { epoch: 7.into(), ..Cursor::default() } };
            world.send("opened", &Command::Opened { for_epoch });
            world
        }

        /// Sends a command, and returns the name of the ledger's last entry.
        fn send(&mut self, id: &str, command: &Command) -> String {
            let entry = Entry::follow(&self.sent, command.kind(), id, command.encode(), None);
            self.sent = entry.cursor();
            commands::receive(&self.connection, &[Ok(entry)], &Default::default(), NOW, NOW).expect("executes");
            let audit = verify(&self.connection).expect("reads");
            assert!(audit.differences.is_empty(), "{:?}", audit.differences);
            ledger::testing::last(&self.connection).0
        }

        fn ship(&mut self, id: &str, of: &[(&str, i64)], deadline: Millis) -> String {
            let transfer = transfer(true, of);
            self.send(id, &Command::Ship { transfer, deadline, about: About::default() })
        }

        fn announce(&mut self, id: &str, auto_receive: bool) -> String {
            let transfer = Transfer { auto_receive, ..transfer(false, &[("ale", 2), ("bun", 3)]) };
            self.send(id, &Command::Announce { transfer })
        }

        fn receive(&self, name: &str, of: Option<&[(&str, i64)]>) -> Result<Done, Abort<Rejection>> {
            let asking = Asking { operation: operation(name), about: About::default(), command: None };
            let id = TransferId::new(uuid::Uuid::from_u128(1));
            receive(&self.connection, id, of.map(lines).as_ref(), &asking, NOW)
        }

        fn units(&self, name: &str) -> Option<i64> {
            ledger::find_item(&self.connection, &product(name)).expect("reads").map(|item| item.quantity)
        }

        fn known(&self) -> Option<Transfer> {
            transfers::find(&self.connection, TransferId::new(uuid::Uuid::from_u128(1))).expect("reads")
        }
    }

    #[test]
    fn units_leave_together_and_once() {
        let mut world = World::new(&[("ale", 5), ("bun", 2)]);
        let head = |world: &World| ledger::head(&world.connection).expect("reads").cursor.seq;
        let before = head(&world);
        assert_eq!(world.ship("ship", &[("ale", 4), ("bun", 2)], NOW), "transfer_shipped");
        assert_eq!((world.units("ale"), world.units("bun")), (Some(1), Some(0)));
        assert_eq!(head(&world), before + 1);
        let names = world.known().expect("is known").names;
        assert_eq!(
            names[&product("ale")],
            ledger::find_item(&world.connection, &product("ale")).unwrap().unwrap().name
        );
        assert_eq!(world.ship("ship", &[("ale", 4), ("bun", 2)], NOW), "outcome_repeated");
        // The outcome may be forgotten, what has left is not.
        ledger::testing::tamper(&world.connection, "delete from outcome");
        assert_eq!(world.ship("ship", &[("ale", 4), ("bun", 2)], NOW), "outcome_repeated");
        assert_eq!((world.units("ale"), world.units("bun")), (Some(1), Some(0)));
        assert!(matches!(world.receive("r", None), Err(Abort::Refused(Rejection::UnknownTransfer))), "it goes out");
    }

    #[test]
    fn what_is_refused_or_too_late_leaves_nothing_behind() {
        let mut world = World::new(&[("ale", 5), ("bun", 2)]);
        assert_eq!(world.ship("a", &[("ale", 4), ("bun", 3)], NOW), "command_refused");
        assert_eq!(world.ship("b", &[("ale", 1), ("cod", 1)], NOW), "command_refused");
        assert_eq!(world.ship("c", &[("ale", 1)], NOW.plus(-1)), "command_refused");
        let body = ledger::testing::last(&world.connection).1;
        assert!(body.contains("transfer_closed") && body.contains("transferId"), "{body}");
        assert_eq!((world.units("ale"), world.units("bun"), world.known()), (Some(5), Some(2), None));
    }

    #[test]
    fn what_is_announced_is_received_once_and_a_new_product_is_created() {
        let mut world = World::new(&[("ale", 5)]);
        testing::act(
            &world.connection,
            "off",
            "ale",
            Operation::Change { name: None, discontinued: Some(true), low_at: Some(LowAt::OFF) },
            NOW,
        );
        assert!(matches!(world.receive("r", None), Err(Abort::Refused(Rejection::UnknownTransfer))));
        assert_eq!(world.announce("announce", false), "outcome_repeated");
        assert_eq!((world.units("ale"), world.units("bun")), (Some(5), None));
        let beyond = world.receive("r", Some(&[("ale", 3)]));
        assert!(matches!(beyond, Err(Abort::Refused(Rejection::BeyondTransfer { shipped: 2, .. }))));
        let done = world.receive("r", Some(&[("bun", 3), ("ale", 1)])).expect("is on its way");
        assert!(done.transfer.has_discrepancy());
        assert_eq!((world.units("ale"), world.units("bun")), (Some(6), Some(3)));
        let bun = ledger::find_item(&world.connection, &product("bun")).expect("reads").expect("is new");
        assert_eq!(bun.name, "Bun");
        for again in ["announce", "another", "auto"] {
            assert_eq!(world.announce(again, again == "auto"), "outcome_repeated");
            assert!(matches!(world.receive("s", None), Err(Abort::Refused(Rejection::TransferClosed { .. }))));
        }
        assert_eq!((world.units("ale"), world.known()), (Some(6), Some(done.transfer)));
    }

    #[test]
    fn it_may_be_booked_in_by_its_announcement_or_by_central() {
        let mut world = World::new(&[("ale", 5)]);
        assert_eq!(world.announce("announce", true), "transfer_received");
        assert_eq!((world.units("ale"), world.units("bun")), (Some(7), Some(3)));
        let mut world = World::new(&[("ale", 5)]);
        let transfer_id = TransferId::new(uuid::Uuid::from_u128(1));
        let receive = Command::ReceiveTransfer { transfer_id, lines: None, about: About::default() };
        assert_eq!(world.send("early", &receive), "command_refused");
        world.announce("announce", false);
        assert_eq!(world.send("receive", &receive), "transfer_received");
        assert_eq!(world.send("receive", &receive), "outcome_repeated");
        assert_eq!(world.send("again", &receive), "command_refused");
        assert_eq!((world.units("ale"), world.units("bun")), (Some(7), Some(3)));
    }

    #[test]
    fn lists_are_found_by_index_and_tell_both_directions() {
        let mut world = World::new(&[("ale", 5)]);
        world.announce("announce", false);
        let other = Transfer { id: TransferId::new(uuid::Uuid::from_u128(2)), ..transfer(true, &[("ale", 1)]) };
        world.send("ship", &Command::Ship { transfer: other, deadline: NOW, about: About::default() });
        let list = |direction: Option<&str>, status: Option<&str>| {
            let filter = transfers::Filter {
                direction: direction.map(str::to_owned),
                status: status.map(str::to_owned),
                reference: None,
            };
            let slice = Slice { after: None, offset: 0, limit: 9 };
            transfers::list(&world.connection, &filter, &slice).expect("reads").rows.len()
        };
        assert_eq!((list(None, None), list(Some("in"), None), list(Some("out"), Some("shipped"))), (2, 1, 1));
        assert_eq!((list(Some("in"), Some("received")), list(Some("up"), None)), (0, 0));
        let asked = OperationId::parse("ship").expect("valid");
        assert!(ledger::outcomes::find(&world.connection, &asked).expect("reads").is_some());
    }
}
