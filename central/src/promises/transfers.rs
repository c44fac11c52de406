//! Units that go from one store to another: a saga over the words of both.
//!
//! **Guarantees.** The source alone decides whether they leave, the destination alone what has arrived. In the transaction
//! that applies the source's word the destination is asked to expect them; until it has said that it knows of them, it is
//! asked again whenever its whole state does not name them. What was begun so long ago that a store may have received and
//! forgotten it is not announced because of what a state names or leaves out: units would arrive twice.

use protocol::domain::transfer::{State, Transfer as Reported};
use protocol::domain::{Line, Lines, Rejection};
use protocol::ids::{OperationId, StoreId, TransferId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Command, Position};
use runtime::sqlite::Abort;

use crate::storage::retention::COMMANDS_MS;
use crate::storage::stores::{self, Store};
use crate::storage::transfers::{self, Status, Transfer};
use crate::storage::{Connection, JobResult, commands, items};

/// How long the source may take to hear of it, ms.
pub const SHIP_WITHIN_MS: i64 = 60_000;

/// What a client asks for, and what was read before the transaction.
#[derive(Debug, Clone)]
pub struct TransferRequest {
    /// As it is once it was shipped.
    pub transfer: Reported,
    /// Who asked.
    pub about: About,
    /// Redis's clock, read with the source's heartbeat (B1).
    pub redis_now: Millis,
}

impl TransferRequest {
    /// The command that asks for it.
    pub fn command(&self) -> OperationId {
        OperationId::parse(&format!("{}:ship", self.transfer.id)).expect("an id and letters")
    }
}

/// The transfer and its command to the source, in one transaction, if the view has as much.
pub fn begin(
    connection: &Connection,
    source: &mut Store,
    ask: &TransferRequest,
    now: Millis,
) -> Result<(), Abort<Rejection>> {
    let known = items::of_lines(connection, &source.id, &ask.transfer.lines)?;
    let has = |line: &Line| {
        let (item, pending) = known.get(&line.product_id).ok_or(Rejection::UnknownProduct)?;
        let (requested, available) = (line.quantity.get(), item.available() - pending);
        if requested <= available || planted(Bug::SentWithoutLook) {
            Ok(())
        } else {
            Err(Rejection::insufficient(item, requested, available.max(0)))
        }
    };
    ask.transfer.lines.each(has).map_err(Abort::Refused)?;
    transfers::save(
        connection,
        &Transfer {
            number: 0,
            transfer: ask.transfer.clone(),
            status: Status::Requested,
            code: None,
            settled_at: None,
            position: None,
            stock: 0,
            is_destination_retired: false,
        },
    )?;
    let command = Command::Ship {
        transfer: ask.transfer.clone(),
        deadline: ask.redis_now.plus(SHIP_WITHIN_MS),
        about: ask.about.clone(),
    };
    commands::append(connection, source, &ask.command(), &command, now)?;
    Ok(())
}

/// Asks the destination to book in what has arrived.
pub fn receive(
    connection: &Connection,
    destination: &mut Store,
    transfer: &Transfer,
    (command, lines, about): (&OperationId, Option<&Lines>, &About),
    now: Millis,
) -> Result<(), Abort<Rejection>> {
    match transfer.status {
        Status::Shipped => {}
        Status::Requested | Status::Received | Status::Rejected => {
            let state = transfer.status.as_str().to_owned();
            return Err(Abort::Refused(Rejection::TransferClosed { state }));
        }
    }
    let asked =
        Command::ReceiveTransfer { transfer_id: transfer.transfer.id, lines: lines.cloned(), about: about.clone() };
    commands::append(connection, destination, command, &asked, now)?;
    Ok(())
}

/// What a transfer is once a store has said of it. The source's word makes it be on its way, the destination's is what it
/// is. `None`: that is no news. `stock`: the store's generation.
pub(crate) fn reported(
    before: Option<&Transfer>,
    store: &StoreId,
    said: &Reported,
    position: &Position,
    stock: i64,
    now: Millis,
) -> Option<Transfer> {
    let is_it = before.is_none_or(|Transfer { transfer, .. }| (&transfer.from, &transfer.to) == (&said.from, &said.to));
    let is_destination = said.to == *store;
    if !is_it || !(is_destination || said.from == *store) {
        // It is none of this store's business.
        return None;
    }
    let has_left = before.is_some_and(|before| matches!(before.status, Status::Shipped | Status::Received));
    if !is_destination && has_left {
        return None;
    }
    let status = if is_destination { Status::of(&said.state) } else { Status::Shipped };
    let settled_at = before.filter(|before| before.status == status).and_then(|before| before.settled_at);
    Some(Transfer {
        number: before.map_or(0, |before| before.number),
        transfer: said.clone(),
        status,
        code: None,
        settled_at: status.has_ended().then(|| settled_at.unwrap_or(now)),
        position: Some(position.clone()),
        stock: if is_destination { stock } else { before.map_or(0, |before| before.stock) },
        is_destination_retired: before.is_some_and(|before| before.is_destination_retired),
    })
}

/// Nothing has left the source. `position`: where it said so; none: it is retired.
pub(crate) fn rejected(before: &Transfer, rejection: &Rejection, position: Option<&Position>, now: Millis) -> Transfer {
    Transfer {
        status: Status::Rejected,
        code: Some(rejection.code().to_owned()),
        settled_at: Some(now),
        position: position.cloned(),
        ..before.clone()
    }
}

/// Asks the destination to expect a transfer, unless it was asked and has not answered. Says whether it was asked now.
pub(crate) fn announce(connection: &Connection, transfer: &Reported, now: Millis) -> JobResult<bool> {
    let Some(mut destination) = stores::find(connection, &transfer.to)?.filter(|store| !store.retired) else {
        // It hears of it when it comes back.
        return Ok(false);
    };
    if transfers::is_announced(connection, transfer.id)? || planted(Bug::ShippedNotAnnounced) {
        return Ok(false);
    }
    let command = Command::Announce { transfer: Reported { state: State::Shipped, ..transfer.clone() } };
    let id = next_announcement(transfer.id, &destination);
    commands::append(connection, &mut destination, &id, &command, now)?;
    Ok(true)
}

/// One store may be asked more than once: its state may forget what it has answered.
fn next_announcement(id: TransferId, destination: &Store) -> OperationId {
    let place = destination.command_head.id();
    OperationId::parse(&format!("{id}:announce:{place}")).expect("an id, letters and a place")
}

/// Whether it may be over and forgotten, by central's clock, which has stamped it: a destination knows what it has received
/// for longer.
pub(crate) fn may_be_forgotten(transfer: &Reported, now: Millis) -> bool {
    transfer.created_at.plus(COMMANDS_MS) < now
}

/// Whether a state names what has left its store, and what central would know if it were not long over.
pub(crate) fn is_long_over(connection: &Connection, store: &StoreId, said: &Reported, now: Millis) -> JobResult<bool> {
    Ok(said.from == *store && may_be_forgotten(said, now) && transfers::find(connection, said.id)?.is_none())
}

/// Announces what is on its way to a store and not named by the stock of this generation, of so many lines about. Says
/// how many they had. Moves the store's command head.
pub(crate) fn announce_unnamed(
    connection: &Connection,
    store: &mut Store,
    rows: usize,
    now: Millis,
) -> JobResult<usize> {
    let mut spent = 0;
    for transfer in transfers::unnamed(connection, &store.id, store.generation, rows)? {
        if spent >= rows {
            break;
        }
        spent += transfer.transfer.lines.iter().len();
        if !may_be_forgotten(&transfer.transfer, now) {
            announce(connection, &transfer.transfer, now)?;
        }
        transfers::save(connection, &Transfer { stock: store.generation, ..transfer })?;
    }
    store.command_head = commands::head(connection, &store.id)?;
    Ok(spent)
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Lines, Quantity};
    use protocol::wire::{Event, Fact, Happened, ItemAfter, SnapshotEnd, SnapshotPage, Subject};

    use super::*;
    use crate::promises::stores::{adopt, retire};
    use crate::storage::queries::Slice;
    use crate::storage::queries::transfers::{Filter, list};
    use crate::testing::{Agent, NOW, database, product};

    fn id() -> TransferId {
        TransferId::new(uuid::Uuid::from_u128(1))
    }

    /// Two stores, and a transfer of two units of tea from the first to the second that was asked for.
    fn asked() -> (Connection, Agent, Agent, TransferRequest) {
        let connection = database();
        let (source, destination) = (Agent::settled("s1", &connection), Agent::settled("s2", &connection));
        let transfer = Reported {
            id: id(),
            from: source.id.clone(),
            to: destination.id.clone(),
            lines: Lines::one(product("tea"), Quantity::try_from(2).expect("in range")),
            names: Default::default(),
            auto_receive: false,
            reference: None,
            created_at: NOW,
            state: State::Shipped,
        };
        let ask = TransferRequest { transfer, about: About::default(), redis_now: NOW };
        begin(&connection, &mut source.store(&connection), &ask, NOW).expect("begins");
        (connection, source, destination, ask)
    }

    fn said(transfer: &Reported, command: Option<OperationId>, items: Vec<ItemAfter>) -> Event {
        let what = Happened::Transfer { transfer: transfer.clone(), items };
        Event::Fact(Fact { command, ..Fact::new(what, NOW) })
    }

    fn ship(connection: &Connection, source: &mut Agent, ask: &TransferRequest) {
        let items = vec![source.take_one()];
        let shipped = source.entry(&said(&ask.transfer, Some(ask.command()), items));
        source.tell(connection, &[shipped]);
    }

    fn known(connection: &Connection) -> (Status, i64) {
        let transfer = transfers::find(connection, id()).expect("reads").expect("is known");
        (transfer.status, transfers::in_transit(connection, &product("tea")).expect("reads"))
    }

    /// Commands of this kind that a store was sent, in this epoch or an earlier one.
    fn asked_for(connection: &Connection, store: &Agent, kind: &str) -> i64 {
        let sql = "select count(*) from request where store_id = ?1 and type = ?2";
        connection.query_row(sql, [store.id.as_str(), kind], |row| row.get(0)).expect("reads")
    }

    #[test]
    fn what_has_left_is_announced_in_the_same_transaction_and_once() {
        let (connection, mut source, mut destination, ask) = asked();
        assert_eq!(known(&connection), (Status::Requested, 0));
        ship(&connection, &mut source, &ask);
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Shipped, 2), 1));
        // The source says it once more.
        let again = source.entry(&said(&ask.transfer, None, Vec::new()));
        source.tell(&connection, &[again]);
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Shipped, 2), 1));
        let received =
            Reported { state: State::Received { received_lines: ask.transfer.lines.clone() }, ..ask.transfer };
        let booked = destination.entry(&said(&received, None, Vec::new()));
        destination.tell(&connection, &[booked]);
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Received, 0), 1));
    }

    #[test]
    fn whoever_speaks_first_what_was_received_stays_received() {
        let (connection, mut source, mut destination, ask) = asked();
        let part = Lines::one(product("tea"), Quantity::ONE);
        let received = Reported { state: State::Received { received_lines: part }, ..ask.transfer.clone() };
        let booked = destination.entry(&said(&received, None, Vec::new()));
        destination.tell(&connection, &[booked]);
        ship(&connection, &mut source, &ask);
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Received, 0), 0));
        let told = transfers::behind(&connection, &source.id, 0, 9).expect("reads");
        assert_eq!(told[0].1.state, State::Shipped, "as the source is to know it");
        let told = transfers::behind(&connection, &destination.id, 0, 9).expect("reads");
        assert_eq!(told[0].1, received);
    }

    #[test]
    fn what_the_source_refuses_is_rejected_and_what_it_never_heard_of_ends_with_it() {
        let (connection, mut source, destination, ask) = asked();
        let subject = Subject::Transfer(id());
        let what = Happened::CommandRefused { subject, rejection: Rejection::UnknownProduct, items: Vec::new() };
        let refused = Event::Fact(Fact { command: Some(ask.command()), ..Fact::new(what, NOW) });
        let refused = source.entry(&refused);
        source.tell(&connection, &[refused]);
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Rejected, 0), 0));
        let rejected = transfers::find(&connection, id()).expect("reads").expect("is known");
        assert_eq!((rejected.code.as_deref(), rejected.settled_at), (Some("unknown_product"), Some(NOW)));

        let (connection, mut source, destination, ask) = asked();
        retire(&connection, &mut source.store(&connection), NOW).expect("retires");
        assert_eq!(known(&connection), (Status::Rejected, 0));
        // It had shipped it, and comes back: whoever asks is told the truth in the end.
        let epoch = source.head.epoch;
        assert!(adopt(&connection, &mut source.store(&connection), epoch, NOW).expect("adopts"));
        ship(&connection, &mut source, &ask);
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Shipped, 2), 1));
    }

    #[test]
    fn a_state_that_does_not_name_what_is_on_its_way_hears_of_it_again() {
        let (connection, mut source, mut destination, ask) = asked();
        ship(&connection, &mut source, &ask);
        tell_state(&connection, &mut destination, Vec::new());
        assert_eq!(asked_for(&connection, &destination, "announce"), 1, "it has not answered");
        connection.execute("update request set status = 'done' where type = 'announce'", []).expect("writes");
        tell_state(&connection, &mut destination, vec![ask.transfer.clone()]);
        assert_eq!(asked_for(&connection, &destination, "announce"), 1, "it knows");
        tell_state(&connection, &mut destination, Vec::new());
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Shipped, 2), 2));
    }

    /// A store tells its whole state, which names these transfers.
    fn tell_state(connection: &Connection, agent: &mut Agent, named: Vec<Reported>) {
        let mut state = agent.state(Vec::new());
        state.pop();
        agent.head = state.last().expect("a page").as_ref().expect("an entry").cursor();
        let page = SnapshotPage { transfers: named, ..SnapshotPage::default() };
        state.push(agent.entry(&Event::SnapshotPage(page)));
        state.push(agent.entry(&Event::SnapshotEnd(SnapshotEnd { pages: 2, count: 1, named_since: None })));
        agent.tell(connection, &state);
        agent.tell(connection, &[]);
        agent.settle_in(connection);
    }

    #[test]
    fn what_a_store_may_have_received_and_forgotten_is_not_announced_by_a_state() {
        let (connection, mut source, mut destination, ask) = asked();
        let begun = |age_ms: i64, number: u128| Reported {
            id: TransferId::new(uuid::Uuid::from_u128(number)),
            created_at: NOW.plus(-age_ms),
            ..ask.transfer.clone()
        };
        // Central, and the destination, have forgotten the one, and the source has not.
        tell_state(&connection, &mut source, vec![begun(COMMANDS_MS + 1, 2), begun(COMMANDS_MS, 3)]);
        let find = |number| transfers::find(&connection, TransferId::new(uuid::Uuid::from_u128(number)));
        assert_eq!(find(2).expect("reads"), None);
        assert_eq!(find(3).expect("reads").map(|known| known.status), Some(Status::Shipped));
        assert_eq!(asked_for(&connection, &destination, "announce"), 1);
        // Central was set back to before they were received.
        let shipped = |age_ms, number| {
            let mut transfer = find(3).expect("reads").expect("is known");
            (transfer.number, transfer.transfer) = (0, begun(age_ms, number));
            transfers::save(&connection, &transfer).expect("writes");
        };
        shipped(COMMANDS_MS + 1, 4);
        shipped(COMMANDS_MS, 5);
        tell_state(&connection, &mut destination, Vec::new());
        assert_eq!(asked_for(&connection, &destination, "announce"), 2, "the younger one of these");
        // What the source says only now is news, however long it was away.
        let said_late = begun(COMMANDS_MS + 1, 6);
        let items = vec![source.take_one()];
        let shipped = source.entry(&said(&said_late, None, items));
        source.tell(&connection, &[shipped]);
        assert_eq!(asked_for(&connection, &destination, "announce"), 3);
    }

    #[test]
    fn units_on_their_way_to_a_retired_store_are_in_nobodys_total_until_it_comes_back() {
        let (connection, mut source, destination, ask) = asked();
        ship(&connection, &mut source, &ask);
        retire(&connection, &mut destination.store(&connection), NOW).expect("retires");
        assert_eq!(known(&connection), (Status::Shipped, 0));
        assert!(transfers::find(&connection, id()).expect("reads").expect("is").is_destination_retired);
        let listed = |status: &str| {
            let filter = Filter { status: Some(status.into()), ..Filter::default() };
            list(&connection, &filter, &Slice { after: None, offset: 0, limit: 9 }).expect("reads").rows.len()
        };
        assert_eq!((listed("shipped"), listed("received")), (0, 1), "by the status that is shown");
        let epoch = destination.head.epoch;
        assert!(adopt(&connection, &mut destination.store(&connection), epoch, NOW).expect("adopts"));
        assert_eq!((known(&connection), asked_for(&connection, &destination, "announce")), ((Status::Shipped, 2), 2));
        assert_eq!((listed("shipped"), listed("received")), (1, 0));
    }

    #[test]
    fn what_a_purchase_waits_for_does_not_leave_for_another_store() {
        let (connection, source, _, ask) = asked();
        source.buy_some(&connection, 1, 7);
        let lines = Lines::one(product("tea"), Quantity::try_from(4).expect("in range"));
        let transfer = Reported { id: TransferId::new(uuid::Uuid::from_u128(2)), lines, ..ask.transfer };
        let refused = begin(&connection, &mut source.store(&connection), &TransferRequest { transfer, ..ask }, NOW);
        assert!(matches!(refused, Err(Abort::Refused(Rejection::InsufficientStock { requested: 4, .. }))));
    }

    #[test]
    fn only_what_is_on_its_way_is_asked_to_be_received() {
        let (connection, mut source, destination, ask) = asked();
        let command = OperationId::parse("receive").expect("valid");
        let receive = || {
            let transfer = transfers::find(&connection, id()).expect("reads").expect("is known");
            let mut store = destination.store(&connection);
            super::receive(&connection, &mut store, &transfer, (&command, None, &About::default()), NOW)
        };
        assert!(matches!(receive(), Err(Abort::Refused(Rejection::TransferClosed { .. }))));
        ship(&connection, &mut source, &ask);
        receive().expect("is on its way");
        assert_eq!(transfers::unanswered(&connection, id()).expect("reads"), Some(command.clone()));
        let more = Lines::one(product("tea"), Quantity::try_from(11).expect("in range"));
        let too_many = TransferRequest { transfer: Reported { lines: more, ..ask.transfer }, ..ask };
        let refused = begin(&connection, &mut source.store(&connection), &too_many, NOW);
        assert!(matches!(refused, Err(Abort::Refused(Rejection::InsufficientStock { .. }))));
    }
}
