//! Units that stores set aside for online sale (B11): what of them is not sold goes back to the tills when fewer are wanted.
//!
//! **Guarantees.** What a store shows as set aside, less what unanswered commands take of it, is central's alone: nobody else
//! sells it. A store that wants fewer gets what is not sold, once; whatever is lost on the way is looked for again.

use protocol::domain::{Line, Lines, Quantity};
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::Command;

use crate::storage::allotments;
use crate::storage::items;
use crate::storage::stores::{self, Store};
use crate::storage::{Connection, JobResult, commands};

/// Items that are looked after in one transaction, and those of one store among them.
const ITEMS: usize = 500;
const ITEMS_OF_STORE: usize = 100;
/// A store that has so many requests to answer is told of releases later: buyers need the other places.
const UNANSWERED_MAX: usize = 500;

/// What whoever waits for it hears once as few units are set aside as are wanted, or no fewer are wanted any more.
pub fn settled(store: &StoreId, product: &ProductId) -> String {
    format!("allotment:{store}/{product}")
}

/// Releases what is not sold of an item of which fewer units are wanted than are set aside.
pub(crate) fn release(connection: &Connection, store: &mut Store, product: &ProductId, now: Millis) -> JobResult<()> {
    let Some(item) = items::of(connection, store.stock, product)? else { return Ok(()) };
    let Some(wanted) = item.allotment_wanted else { return Ok(()) };
    let taken = allotments::taken(connection, &store.id, product)?;
    let units = item.allotted - taken - wanted;
    // What is known to be wrong is not given away; it is looked for again.
    if units <= 0 || store.retired || !store.is_trusted() {
        return Ok(());
    }
    if commands::has_to_answer(connection, &store.id, UNANSWERED_MAX)? {
        return Ok(());
    }
    // One for each state of the item: if the store's version does not understand it, it is not asked again and again.
    let of = format!("{}:{}:{}:{product}", store.id, store.command_head.epoch, item.version);
    let id = OperationId::from_key("release", &of);
    if commands::asked(connection, &id)?.is_some() {
        return Ok(());
    }
    commands::append(connection, store, &id, &Command::Release { product_id: product.clone(), units }, now)
}

/// What of these lines a store has set aside, and no unanswered command takes. None: nothing.
pub(crate) fn cover(connection: &Connection, store: &Store, lines: &Lines) -> JobResult<Option<Lines>> {
    let mut covered = Vec::new();
    for Line { product_id, quantity } in lines.iter() {
        let Some(item) = items::of(connection, store.stock, product_id)? else { continue };
        let taken = allotments::taken(connection, &store.id, product_id)?;
        let taken = if planted(Bug::SoldTwice) { 0 } else { taken };
        let aside = if planted(Bug::SoldBeyondAllotment) { item.quantity } else { item.allotted - taken };
        if let Ok(quantity) = Quantity::try_from(aside.min(quantity.get())) {
            covered.push(Line { product_id: product_id.clone(), quantity });
        }
    }
    Ok(Lines::new(covered).ok())
}

/// On a sweep: what nobody was told of, because the items came with a whole state, or because a store was retired
/// meanwhile, was not to be believed, or had too much to answer. Says to which of these stores anything was released.
pub fn release_forgotten(connection: &Connection, lowered: &[StoreId], now: Millis) -> JobResult<Vec<StoreId>> {
    let (mut released, mut left) = (Vec::new(), ITEMS);
    for id in lowered.iter().filter(|_| !planted(Bug::LoweredIsForgotten)) {
        let may = |store: &Store| !(store.retired || store.opening || store.installing) && store.is_trusted();
        let Some(mut store) = stores::find(connection, id)?.filter(may) else { continue };
        if commands::has_to_answer(connection, id, UNANSWERED_MAX)? {
            continue;
        }
        let before = store.command_head;
        let items = allotments::unreleased(connection, &store, left.min(ITEMS_OF_STORE))?;
        left -= items.len();
        for product in items {
            release(connection, &mut store, &product, now)?;
        }
        if store.command_head != before {
            released.push(store.id);
        }
    }
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::purchases::{Begun, PurchaseRequest, begin};
    use crate::promises::stores::{adopt, retire};
    use crate::storage::purchases::{self, Purchase};
    use crate::testing::{Agent, NOW, database, product, purchase_id};
    use protocol::domain::{Action, Item};
    use protocol::promise::purchase::Status;
    use protocol::wire::{About, Became, Event, Fact, Happened, Outcome};

    /// A store with ten units of tea, of which so many are set aside, and so many are wanted to be.
    fn store(connection: &Connection, allotted: i64, wanted: Option<i64>) -> Agent {
        let mut agent = Agent::settled("s1", connection);
        let before = agent.item(&product("tea"));
        let after = Item { allotted, allotment_wanted: wanted, version: before.version + 1, ..before };
        tell(connection, &mut agent, after, None);
        agent
    }

    /// The store says how many it sets aside, by this command's wish if by any.
    fn tell(connection: &Connection, agent: &mut Agent, after: Item, command: Option<OperationId>) {
        let what = Happened::AllotmentChanged { item: agent.becomes(product("tea"), after), by: 0 };
        let told = agent.entry(&Event::Fact(Fact { command, ..Fact::new(what, NOW) }));
        agent.tell(connection, &[told]);
    }

    #[test]
    fn who_waits_for_fewer_units_to_be_set_aside_hears_of_that_item() {
        let connection = database();
        let mut agent = store(&connection, 6, Some(2));
        let before = agent.item(&product("tea"));
        let after = Item { allotted: 2, allotment_wanted: None, version: before.version + 1, ..before };
        let what = Happened::AllotmentChanged { item: agent.becomes(product("tea"), after), by: -4 };
        let told = agent.entry(&Event::Fact(Fact::new(what, NOW)));
        let heard = agent.tell(&connection, &[told]).saved.settled;
        assert_eq!(heard, [settled(&agent.id, &product("tea"))]);
        assert_ne!(settled(&agent.id, &product("tea")), settled(&agent.id, &product("milk")));
    }

    #[test]
    fn a_retired_store_is_not_asked_to_release_anything() {
        let connection = database();
        let agent = store(&connection, 6, Some(2));
        retire(&connection, &mut agent.store(&connection), NOW).expect("retires");
        let asked = release_forgotten(&connection, std::slice::from_ref(&agent.id), NOW).expect("looks");
        assert_eq!((asked, units(&connection, &agent)), (vec![], vec![]));
    }

    fn releases(connection: &Connection, agent: &Agent) -> Vec<(OperationId, i64)> {
        let asked = commands::unanswered(connection, &agent.id).expect("reads");
        let asked = asked.into_iter().filter(|asked| asked.kind == "release");
        let units = |asked: commands::Unanswered| match Command::decode(&asked.kind, &asked.body) {
            Ok(Command::Release { units, .. }) => (asked.id, units),
            other => panic!("{other:?}"),
        };
        asked.map(units).collect()
    }

    fn units(connection: &Connection, agent: &Agent) -> Vec<i64> {
        releases(connection, agent).into_iter().map(|(_, units)| units).collect()
    }

    fn buy(
        connection: &Connection,
        agent: &Agent,
        number: u128,
        quantity: i64,
        covered_only: bool,
    ) -> (Begun, Option<Purchase>) {
        let ask = PurchaseRequest {
            id: purchase_id(number),
            lines: Lines::one(product("tea"), Quantity::try_from(quantity).expect("in range")),
            customer: None,
            about: About::default(),
            ttl_ms: 60_000,
            redis_now: NOW,
            policy: None,
        };
        let begun = begin(connection, &mut agent.store(connection), &ask, covered_only, NOW).expect("begins");
        (begun, purchases::find(connection, ask.id).expect("reads"))
    }

    /// The store has executed an attempt.
    fn take(connection: &Connection, agent: &mut Agent, purchase: &Purchase) -> Purchase {
        let (tea, quantity) = (product("tea"), purchase.lines.first().quantity.get());
        let before = agent.item(&tea);
        let (quantity, allotted) = (before.quantity - quantity, (before.allotted - quantity).max(0));
        let item = agent.becomes(tea, Item { quantity, allotted, version: before.version + 1, ..before });
        let what = Happened::PurchaseConfirmed { purchase: purchase.attempt_ref(), items: vec![item] };
        let fact = Fact { command: Some(purchase.attempt.clone()), ..Fact::new(what, NOW) };
        let told = agent.entry(&Event::Fact(fact));
        agent.tell(connection, &[told]);
        purchases::find(connection, purchase.id).expect("reads").expect("is there")
    }

    #[test]
    fn what_is_not_sold_is_released_once() {
        let connection = database();
        let mut agent = store(&connection, 6, Some(2));
        assert_eq!(units(&connection, &agent), [4]);
        let lowered =
            |agent: &Agent| release_forgotten(&connection, std::slice::from_ref(&agent.id), NOW).expect("writes");
        assert!(lowered(&agent).is_empty() && allotments::unreleased_stores(&connection).expect("reads").is_empty());
        let [(id, _)] = &releases(&connection, &agent)[..] else { panic!("one") };
        let (id, after) = (id.clone(), agent.item(&product("tea")));
        tell(&connection, &mut agent, Item { allotted: 2, allotment_wanted: None, ..after }, Some(id));
        assert_eq!(units(&connection, &agent), [0; 0]);
        assert_eq!(allotments::taken(&connection, &agent.id, &product("tea")), Ok(0));
    }

    #[test]
    fn what_is_sold_is_confirmed_at_once_and_stays_taken_until_the_store_has_said_so() {
        let connection = database();
        let mut agent = store(&connection, 6, None);
        let (begun, sold) = buy(&connection, &agent, 1, 4, false);
        let sold = sold.expect("is there");
        assert_eq!(
            (begun, sold.status, sold.settled_at, &sold.position),
            (Begun::Sold, Status::Confirmed, Some(NOW), &None)
        );
        let pending = |agent: &Agent| items::pending(&connection, &agent.id, &product("tea")).expect("reads");
        assert_eq!(pending(&agent), 4);
        let Some(Command::Purchase { purchase, deadline, .. }) =
            commands::command(&connection, &sold.attempt).expect("reads")
        else {
            panic!("it was asked for");
        };
        assert_eq!((purchase.from_allotment(&product("tea")), deadline), (4, None));
        // Two are left; the store has the last word on a third.
        let (begun, none) = buy(&connection, &agent, 2, 3, true);
        assert!(begun == Begun::NotCovered && none.is_none());
        let (begun, asked) = buy(&connection, &agent, 2, 3, false);
        assert_eq!((begun, asked.expect("is there").status, pending(&agent)), (Begun::Asked, Status::Pending, 7));
        let taken = take(&connection, &mut agent, &sold);
        assert_eq!((taken.status, taken.settled_at, pending(&agent)), (Status::Confirmed, Some(NOW), 3));
        assert!(taken.position.is_some());
    }

    #[test]
    fn what_is_sold_is_not_released_and_what_the_store_refuses_is() {
        let connection = database();
        let mut agent = store(&connection, 6, None);
        let (_, sold) = buy(&connection, &agent, 1, 2, false);
        let (_, asked) = buy(&connection, &agent, 2, 5, false);
        let before = agent.item(&product("tea"));
        let after = Item { allotment_wanted: Some(0), version: before.version + 1, ..before };
        tell(&connection, &mut agent, after, None);
        assert_eq!(units(&connection, &agent), [0; 0], "all of it is taken");
        let asked = asked.expect("is there");
        let rejection = protocol::domain::Rejection::Discontinued;
        let what = Happened::PurchaseRejected { purchase: asked.attempt_ref(), rejection, items: Vec::new() };
        let told = agent.entry(&Event::Fact(Fact { command: Some(asked.attempt), ..Fact::new(what, NOW) }));
        agent.tell(&connection, &[told]);
        assert_eq!(units(&connection, &agent), [4]);
        take(&connection, &mut agent, &sold.expect("is there"));
        assert_eq!(units(&connection, &agent), [4], "it is asked");
    }

    #[test]
    fn what_nobody_was_told_of_is_found_later() {
        let connection = database();
        let mut agent = store(&connection, 6, Some(2));
        let (_, sold) = buy(&connection, &agent, 1, 1, false);
        assert_eq!(
            sold.map(|sold| sold.status),
            Some(Status::Confirmed),
            "two are left beside those that are released"
        );
        let ended = retire(&connection, &mut agent.store(&connection), NOW).expect("retires");
        assert!(ended.contains(&purchase_id(1).to_string()));
        assert_eq!(allotments::taken(&connection, &agent.id, &product("tea")), Ok(0));
        let lowered =
            |agent: &Agent| release_forgotten(&connection, std::slice::from_ref(&agent.id), NOW).expect("writes");
        assert!(lowered(&agent).is_empty(), "it is retired");
        let epoch = agent.head.epoch;
        assert!(adopt(&connection, &mut agent.store(&connection), epoch, NOW).expect("writes"));
        assert_eq!(allotments::unreleased_stores(&connection), Ok(vec![agent.id.clone()]));
        assert_eq!((lowered(&agent).len(), lowered(&agent).len()), (1, 0));
        assert_eq!(units(&connection, &agent), [4]);
        // A store that does not understand it is not asked again and again.
        let [(id, _)] = &releases(&connection, &agent)[..] else { panic!("one") };
        let became = Became::Refused {
            subject: protocol::wire::Subject::Product(product("tea")),
            rejection: protocol::domain::Rejection::UnsupportedByStore { entry: "1-1".into() },
            item: None,
        };
        let told = agent.entry(&Event::OutcomeRepeated(Outcome { command: id.clone(), at: NOW, became }));
        agent.tell(&connection, &[told]);
        assert!(lowered(&agent).is_empty());
        assert_eq!(Action::Allot.as_str(), "allot");
    }

    #[test]
    fn what_a_retired_store_was_not_told_of_is_void() {
        let connection = database();
        let agent = store(&connection, 6, None);
        let (_, sold) = buy(&connection, &agent, 1, 2, false);
        assert_eq!(sold.expect("is there").status, Status::Confirmed);
        let ended = retire(&connection, &mut agent.store(&connection), NOW).expect("retires");
        assert!(ended.contains(&purchase_id(1).to_string()));
        let voided = purchases::find(&connection, purchase_id(1)).expect("reads").expect("is there");
        assert_eq!((voided.status, voided.code.as_deref()), (Status::Cancelled, Some("store_retired")));
    }
}
