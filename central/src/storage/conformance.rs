//! What storage means, whatever engine keeps it: each topic is a function that gets an empty database, speaks the functions
//! of this floor alone, and is called once for each engine.

use protocol::domain::{Action, Guard, Item, Line, Lines, Operation, Quantity};
use protocol::hash::Digest;
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::link::{Cursor, Entry, EntryId, Link, Past, Seq};
use protocol::number::Epoch;
use protocol::promise::policy::Policy;
use protocol::promise::{purchase, request};
use protocol::time::Millis;
use protocol::wire::restore::Span;
use protocol::wire::{
    About, Became, Command, Fact, Happened, ItemAfter, Named, Outcome, Position, PurchaseRef, SnapshotEnd, SnapshotPage,
};
use runtime::search::Words;

use super::idempotency::{Effect, Key};
use super::purchases::{Choice, Purchase};
use super::queries::events::{self, Start};
use super::queries::{self, Slice, dead_letters, offers};
use super::rebuild::{self, AtWork, Reason};
use super::stores::{DigestState, Store};
use super::{
    Connection, allotments, commands, idempotency, items, ledger, operations, outcomes, purchases, retention, stocks,
    stores, totals,
};

const NOW: Millis = Millis(1_800_000_000_000);
const DAY: i64 = 24 * 60 * 60 * 1_000;

macro_rules! conforms {
    ($engine:ident, $open:expr, $($topic:ident),+) => {
        mod $engine {
            $(
                #[test]
                fn $topic() {
                    super::$topic(&$open);
                }
            )+
        }
    };
}

conforms!(
    sqlite,
    runtime::sqlite::memory(crate::storage::database::SCHEMA).expect("a database in memory"),
    a_store_is_known_once_and_found_by_its_id,
    a_narrow_update_of_a_store_leaves_the_rest_alone,
    a_lineage_is_replaced_as_a_whole,
    items_are_found_as_they_were_written,
    a_state_is_shown_as_a_whole_or_not_at_all,
    a_new_product_goes_where_fewest_units_are,
    a_ledger_is_read_in_its_order,
    lists_of_events_hold_what_was_asked_for,
    a_log_of_commands_begins_anew_in_each_epoch,
    requests_are_answered_one_by_one,
    no_more_requests_wait_than_may,
    purchases_are_listed_the_newest_first,
    a_transition_of_a_purchase_leaves_the_rest_alone,
    what_central_has_chosen_is_found_while_it_seeks,
    the_lines_of_a_purchase_are_pending_at_the_store_that_is_asked,
    what_commands_take_of_an_allotment_is_free_once_they_are_answered,
    the_last_outcome_of_a_command_is_kept,
    a_key_is_bound_once,
    totals_are_what_the_shown_stocks_add_up_to,
    what_is_old_is_forgotten_and_what_is_needed_stays,
    dead_letters_stay_until_they_are_removed,
    a_list_of_dead_letters_ends_at_a_thousand,
    a_rebuild_is_as_it_was_saved,
    a_stock_that_is_built_aside_is_shown_at_once,
    what_a_state_has_named_goes_with_it
);

fn store_id(id: &str) -> StoreId {
    StoreId::parse(id).expect("valid")
}

fn product(id: &str) -> ProductId {
    ProductId::parse(id).expect("valid")
}

fn operation(id: &str) -> OperationId {
    OperationId::parse(id).expect("valid")
}

fn purchase_id(number: u128) -> PurchaseId {
    PurchaseId::new(uuid::Uuid::from_u128(number))
}

fn place<L: Link>(epoch: u32, seq: u32) -> EntryId<L> {
    EntryId { epoch: epoch.into(), seq: seq.into() }
}

fn cursor(epoch: u32, seq: u32) -> Cursor {
    Cursor { epoch: epoch.into(), seq: seq.into(), ..Cursor::default() }
}

fn item(name: &str, quantity: i64) -> Item {
    Item { name: name.into(), quantity, version: 1, updated_at: NOW, ..Item::default() }
}

fn find(connection: &Connection, id: &str) -> Store {
    stores::find(connection, &store_id(id)).expect("reads").expect("is known")
}

fn discovered(connection: &Connection, id: &str) -> Store {
    stores::discover(connection, &store_id(id), NOW).expect("writes");
    find(connection, id)
}

/// That a row is `expected`, member by member.
fn assert_is(connection: &Connection, expected: &Store) {
    assert_eq!(format!("{:?}", find(connection, expected.id.as_str())), format!("{expected:?}"));
}

fn a_store_is_known_once_and_found_by_its_id(connection: &Connection) {
    assert!(stores::find(connection, &store_id("b")).expect("reads").is_none());
    let store = discovered(connection, "b");
    assert_eq!(
        (store.cursor, store.first_seen_at, store.online_sale, store.retired),
        (Cursor::default(), NOW, true, false)
    );
    stores::discover(connection, &store_id("b"), NOW.plus(1)).expect("writes");
    assert_is(connection, &store);
    discovered(connection, "a");
    discovered(connection, "c");
    let ids = |stores: Vec<Store>| stores.into_iter().map(|store| store.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(stores::all(connection).expect("reads")), ["a", "b", "c"]);
    let after = |behind, offset, limit| {
        ids(stores::after(connection, behind, offset, limit, |store| store.id.as_str() != "b").expect("reads"))
    };
    assert_eq!(after(None, 0, 9), ["a", "c"], "those that are wanted");
    assert_eq!(
        (after(Some("a"), 0, 9), after(None, 1, 9), after(None, 0, 1)),
        (vec!["c".into()], vec!["c".into()], vec!["a".into()])
    );
    assert_eq!(stores::other_case(connection, &store_id("B")).expect("reads"), Some(store_id("b")));
    assert_eq!(stores::other_case(connection, &store_id("b")).expect("reads"), None);

    let mut opened = find(connection, "a");
    opened.cursor = cursor(7, 1);
    opened.save_events(connection).expect("writes");
    assert_eq!(stores::count_unopened(connection).expect("reads"), 2);
    assert!(!stores::forget(connection, &opened.id).expect("can be judged"), "it has sent something");
    assert!(stores::forget(connection, &store_id("b")).expect("is forgotten"));
    assert_eq!(ids(stores::all(connection).expect("reads")), ["a", "c"]);
}

fn a_narrow_update_of_a_store_leaves_the_rest_alone(connection: &Connection) {
    let other = discovered(connection, "s2");
    let mut store = discovered(connection, "s1");
    (store.cursor, store.state) = (cursor(7, 9), cursor(7, 8));
    (store.fenced, store.ready_epoch, store.opening, store.complete) = (3.into(), 5.into(), true, true);
    (store.suspect, store.digest_state, store.steps) = (true, DigestState::Equal, true);
    (store.base, store.installing) = (place(7, 2), true);
    store.save_events(connection).expect("writes");
    assert_is(connection, &store);
    store.steps = false;
    store.save_events(connection).expect("writes");
    store.steps = true;
    assert_is(connection, &store);
    assert_eq!(stores::with_steps(connection).expect("reads"), [store.id.clone()]);

    stores::note_as_of(connection, &store.id, NOW).expect("writes");
    store.as_of = NOW;
    assert_is(connection, &store);
    let updates: [fn(&Connection, &mut Store) -> super::JobResult<()>; 8] = [
        |connection, store| stores::set_online_sale(connection, store, false),
        |connection, store| stores::set_adopt(connection, store, Some(9.into())),
        |connection, store| stores::lift_fence(connection, store, 4.into()),
        |connection, store| stores::lift_fence(connection, store, 3.into()),
        stores::mark_different,
        |connection, store| stores::set_resync_at(connection, store, Some(NOW)),
        stores::take_out,
        stores::readmit,
    ];
    for update in updates {
        update(connection, &mut store).expect("writes");
        assert_is(connection, &store);
    }
    stores::steps_done(connection, &store.id).expect("writes");
    store.steps = false;
    assert_is(connection, &store);
    assert_eq!(stores::with_steps(connection).expect("reads"), []);
    assert_is(connection, &other);
}

fn a_lineage_is_replaced_as_a_whole(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    store.cursor = cursor(9, 4);
    store.save_events(connection).expect("writes");
    stores::add_to_lineage(connection, &store.id, &cursor(8, 1)).expect("writes");
    stores::add_to_lineage(connection, &store.id, &cursor(8, 2)).expect("writes");
    assert_eq!(stores::lineage(connection, &store.id).expect("reads"), [cursor(8, 2)], "one end for an epoch");
    let told = [Past::ended(cursor(7, 3)), Past::ended(cursor(5, 1))];
    stores::set_lineage(connection, &store.id, &told).expect("writes");
    assert_eq!(stores::lineage(connection, &store.id).expect("reads"), [cursor(5, 1), cursor(7, 3)]);
    ledger::append(connection, &store.id, &Entry::follow(&cursor(6, 0), "sold", "o", "{}".into(), None), None, NOW)
        .expect("writes");
    let mut known = stores::known(connection, &store).expect("reads");
    known.epochs.sort_unstable();
    known.epochs.dedup();
    assert_eq!(
        (known.cursor, known.epochs),
        (store.cursor, [5, 6, 7, 9].map(Epoch::from).to_vec()),
        "of ledger, lineage and cursor"
    );
}

fn items_are_found_as_they_were_written(connection: &Connection) {
    let (mut store, other) = (discovered(connection, "s1"), discovered(connection, "s2"));
    assert!(!items::any(connection, &store.id).expect("reads"));
    let full = Item {
        reserved: 1,
        allotted: 2,
        allotment_wanted: Some(3),
        discontinued: true,
        low_at: Some(4),
        low: true,
        version: 5,
        ..item("Tea", 10)
    };
    for (id, item) in
        [("tea", &full), ("Tea", &item("Tea", 1)), ("milk", &item("Milk 100%", 2)), ("rye", &item("Rye", 0))]
    {
        stocks::put(connection, &mut store, &product(id), item).expect("writes");
    }
    assert_eq!(items::find(connection, &store.id, &product("tea")).expect("reads"), Some(full.clone()));
    assert_eq!(items::of(connection, store.stock, &product("tea")).expect("reads"), Some(full.clone()));
    assert_eq!(items::find(connection, &other.id, &product("tea")).expect("reads"), None, "another store's");
    let all = |id: &StoreId| items::of_store(connection, id).expect("reads");
    let names = |items: Vec<(ProductId, Item)>| items.into_iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
    assert_eq!(names(all(&store.id)), ["Tea", "milk", "rye", "tea"], "by the bytes of the id");
    assert_eq!(all(&other.id), []);
    let between =
        |after: &str, to: &str, rows| names(items::between(connection, store.stock, after, to, rows).expect("reads"));
    assert_eq!(between("milk", "tea", 9), ["rye", "tea"], "without the first, with the last");
    assert_eq!(between("", "~", 2), ["Tea", "milk"]);
    let other_case = queries::items::other_case(connection, &store.id, &product("MILK")).expect("reads");
    assert_eq!(other_case.as_deref(), Some("milk"));
    assert_eq!(items::digest(connection, store.stock).expect("reads"), store.digest);

    stocks::put(connection, &mut store, &product("tea"), &item("Green tea", 4)).expect("writes");
    assert_eq!(items::find(connection, &store.id, &product("tea")).expect("reads"), Some(item("Green tea", 4)));
    assert_eq!(items::digest(connection, store.stock).expect("reads"), store.digest);
    assert_ne!(store.digest, Digest::default());

    let list = |filter: queries::items::Filter, after: Option<(&str, &str)>, offset, limit| {
        let after = after.map(|(store, product)| (store.to_owned(), product.to_owned()));
        let listed = queries::items::list(connection, &filter, &Slice { after, offset, limit }).expect("reads");
        listed.rows.into_iter().map(|listed| format!("{}/{}", listed.store, listed.product)).collect::<Vec<_>>()
    };
    let mut second = other;
    stocks::put(connection, &mut second, &product("rye"), &item("Rye", 3)).expect("writes");
    let any = queries::items::Filter { discontinued: true, retired: true, ..Default::default() };
    assert_eq!(list(any.clone(), None, 0, 9), ["s1/Tea", "s1/milk", "s1/rye", "s1/tea", "s2/rye"]);
    assert_eq!(list(any.clone(), Some(("s1", "rye")), 0, 9), ["s1/tea", "s2/rye"], "a page begins behind a record");
    assert_eq!(list(any.clone(), None, 1, 2), ["s1/milk", "s1/rye"]);
    let of = |q: &str| list(queries::items::Filter { words: Words::parse(q), ..any.clone() }, None, 0, 9);
    assert_eq!((of("green"), of("100%")), (vec!["s1/tea".to_owned()], vec!["s1/milk".to_owned()]));
    assert_eq!(of("gr%n"), [""; 0], "a sign is a sign");
    stores::take_out(connection, &mut second).expect("writes");
    let rye = queries::items::Filter { product: Some(product("rye")), ..Default::default() };
    assert_eq!(list(rye, None, 0, 9), ["s1/rye"], "not of a store that is retired");
    let offers = queries::offers::of_product(connection, &product("rye")).expect("reads");
    assert_eq!(offers.iter().map(|offer| offer.store.id.as_str()).collect::<Vec<_>>(), ["s1"]);
}

fn page(ids: &[&str]) -> SnapshotPage {
    let items = ids.iter().map(|id| Named { product_id: product(id), item: item(id, 5) }).collect();
    SnapshotPage { items, ..SnapshotPage::default() }
}

fn a_state_is_shown_as_a_whole_or_not_at_all(connection: &Connection) {
    let at = |seq| place(7, seq);
    let mut store = discovered(connection, "s1");
    stocks::put(connection, &mut store, &product("old"), &item("Old", 1)).expect("writes");
    let shown = |store: &Store| {
        let items = items::of_store(connection, &store.id).expect("reads");
        items.into_iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>()
    };
    stocks::stage(connection, &mut store, at(2), &page(&["a", "b"])).expect("writes");
    store.save_events(connection).expect("writes");
    assert_eq!(shown(&store), ["old"]);
    let missing = SnapshotEnd { pages: 2, count: 3, named_since: None };
    assert!(!stocks::switch(connection, &mut store, at(3), &missing).expect("can be judged"), "a page is missing");
    store.save_events(connection).expect("writes");
    assert_eq!((shown(&store), store.staged), (vec!["old".to_owned()], 0));

    let said = [outcome("c1"), outcome("c2"), outcome("c3")];
    stocks::stage(connection, &mut store, at(4), &page(&["b", "c"])).expect("writes");
    let second = SnapshotPage { outcomes: said.to_vec(), ..page(&["d"]) };
    assert_eq!(
        stocks::stage(connection, &mut store, at(5), &second).expect("writes"),
        5,
        "rows written, a name among them"
    );
    assert!(
        stocks::switch(connection, &mut store, at(6), &SnapshotEnd { pages: 2, count: 3, named_since: None })
            .expect("is shown")
    );
    store.save_events(connection).expect("writes");
    assert_eq!(shown(&store), ["b", "c", "d"], "nothing of the old one, nothing of the one that was given up");
    assert_eq!((store.base, store.digest), (at(4), items::digest(connection, store.stock).expect("reads")));
    assert!(store.installing && store.steps);

    let left = |rows| stocks::outcomes(connection, store.stock, rows).expect("reads");
    assert_eq!(
        left(2).into_iter().map(|(_, said)| said).collect::<Vec<_>>(),
        [Some(said[0].clone()), Some(said[1].clone())]
    );
    stocks::forget_outcome(connection, store.stock, left(1)[0].0).expect("writes");
    assert_eq!(
        left(9).into_iter().map(|(_, said)| said).collect::<Vec<_>>(),
        [Some(said[1].clone()), Some(said[2].clone())]
    );

    while totals::step(connection, &store, 1).expect("can be done") {}
    while stocks::remove_step(connection, &store.id, 1).expect("can be done") {}
    assert_eq!(shown(&store), ["b", "c", "d"]);
    assert_eq!(left(9).len(), 2, "what came with the state that is shown stays");
    assert_eq!(totals::differences(connection).expect("reads"), []);
}

fn a_new_product_goes_where_fewest_units_are(connection: &Connection) {
    let order =
        || -> Vec<String> { stores::by_units(connection).expect("reads").iter().map(ToString::to_string).collect() };
    for (id, tea, milk) in [("s3", 4, 1), ("s1", 3, 2), ("s2", 9, 0)] {
        let mut store = discovered(connection, id);
        stocks::put(connection, &mut store, &product("tea"), &item("Tea", tea)).expect("writes");
        stocks::put(connection, &mut store, &product("milk"), &item("Milk", milk + 7)).expect("writes");
        stocks::put(connection, &mut store, &product("milk"), &item("Milk", milk)).expect("writes");
        store.save_events(connection).expect("writes");
    }
    assert_eq!(order(), ["s1", "s3", "s2"], "5, 5 and 9 units");
    let mut store = find(connection, "s2");
    stocks::stage(connection, &mut store, place(7, 2), &page(&["a", "b"])).expect("writes");
    stocks::stage(connection, &mut store, place(7, 3), &page(&["b"])).expect("writes");
    store.save_events(connection).expect("writes");
    assert_eq!(order(), ["s1", "s3", "s2"], "what arrives is not shown yet");
    let with = |id| offers::a_store_with(connection, &product(id)).expect("reads").map(|store| store.to_string());
    assert_eq!((with("a"), with("tea")), (None, Some("s1".to_owned())));
    stocks::switch(connection, &mut store, place(7, 4), &SnapshotEnd { pages: 2, count: 3, named_since: None })
        .expect("is shown");
    store.save_events(connection).expect("writes");
    let units: i64 = items::of_store(connection, &store.id).expect("reads").iter().map(|(_, item)| item.quantity).sum();
    assert_eq!((find(connection, "s2").units, with("a")), (units, Some("s2".to_owned())));
    stores::take_out(connection, &mut find(connection, "s1")).expect("writes");
    assert_eq!(with("tea"), Some("s3".to_owned()), "s1 is retired, s2 no longer has it");
    assert!(!order().contains(&"s1".to_owned()));

    let operation_of = |quantity| Operation::Create { name: "Ale".into(), quantity, low_at: None };
    let creates = Command::Operate {
        product_id: product("ale"),
        operation: operation_of(1),
        guard: Guard::default(),
        about: About::default(),
    };
    let creating = || commands::creating(connection, &product("ale")).expect("reads");
    commands::append(connection, &mut store, &operation("r"), &receive(), NOW).expect("writes");
    assert_eq!(creating(), None);
    commands::append(connection, &mut store, &operation("c"), &creates, NOW).expect("writes");
    assert_eq!(creating(), Some((operation("c"), store_id("s2"))));
    commands::save_answer(connection, &operation("c"), request::Status::Refused, &outcome("c"), None, NOW)
        .expect("writes");
    assert_eq!(creating(), None);
}

/// So many entries of an epoch, the first an opening, received a second apart.
fn log(connection: &Connection, store: &StoreId, epoch: u32, many: u64) -> Vec<Entry> {
    let mut at = cursor(epoch, 0);
    (1..=many)
        .map(|number| {
            let (kind, fact) = match number {
                1 => ("opened", None),
                2 => ("snapshot_page", None),
                _ => ("sold", Some(sale(if number % 2 == 0 { "tea" } else { "milk" }, -(number as i64)))),
            };
            let digest = Digest::default().replace(&product("tea"), None, Some(&item("Tea", number as i64)));
            let entry =
                Entry::follow(&at, kind, &format!("op-{epoch}-{number}"), format!("{{\"n\":{number}}}"), Some(digest));
            ledger::append(connection, store, &entry, fact.as_ref(), NOW.plus(number as i64 * 1_000)).expect("writes");
            at = entry.cursor();
            entry
        })
        .collect()
}

fn sale(id: &str, delta: i64) -> Fact {
    let about = About { reference: Some(format!("receipt{delta}")), ..About::default() };
    let after = ItemAfter { product_id: product(id), delta, item: item("Tea", 5) };
    Fact { about, ..Fact::new(Happened::Sold(after), NOW) }
}

fn a_ledger_is_read_in_its_order(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    let entries = log(connection, &store.id, 7, 6);
    log(connection, &store.id, 8, 1);
    let at = |seq| place(7, seq);
    assert_eq!(ledger::digest_at(connection, &store.id, at(3)).expect("reads"), entries[2].digest);
    assert_eq!(ledger::digest_at(connection, &store.id, at(9)).expect("reads"), None);
    assert_eq!(events::opening(connection, &store.id, 7.into()).expect("reads"), entries[0].body);
    let last = |epoch: u32| events::last(connection, &store.id, epoch.into()).expect("reads");
    assert_eq!((last(7), last(8), last(9)), (Some(6.into()), Some(Seq::FIRST), None));
    let since = |ms| events::first_since(connection, &store.id, 7.into(), 6.into(), NOW.plus(ms)).expect("reads").get();
    assert_eq!((since(0), since(2_000), since(2_001), since(6_001)), (1, 2, 3, 7));
    let span = Span { epoch: 7.into(), first: 3.into(), last: 5.into() };
    let known = events::known(connection, &store, &span, 2).expect("reads");
    let places: Vec<_> = known.iter().map(|entry| (entry.seq.get(), entry.hash, entry.product_id.clone())).collect();
    assert_eq!(places, [(3, entries[2].hash, Some(product("milk"))), (4, entries[3].hash, Some(product("tea")))]);
    let delta = |seq| events::delta(connection, &Position { store: store.id.clone(), at: at(seq) }).expect("reads");
    assert_eq!((delta(4), delta(1), delta(9)), (Some(-4), Some(0), None));

    (store.state, store.base) = (cursor(7, 5), at(3));
    let mut read = Vec::new();
    ledger::since_base(connection, &store, |kind, body, _| read.push((kind.to_owned(), body.to_owned())))
        .expect("reads");
    let said: Vec<_> = entries[2..5].iter().map(|entry| (entry.kind.clone(), entry.body.clone())).collect();
    assert_eq!(read, said, "up to the state's cursor");
    assert!(ledger::forget_pages(connection, &store, 9).expect("writes"));
    assert!(!ledger::forget_pages(connection, &store, 9).expect("writes"), "each is forgotten once");
    let span = Span { epoch: 7.into(), first: 2.into(), last: 2.into() };
    let page = events::known(connection, &store, &span, 9).expect("reads");
    assert_eq!(page[0].hash, entries[1].hash, "place and hash of a page stay");

    let double = ledger::append(connection, &store.id, &entries[3], None, NOW);
    assert!(double.is_err(), "a place is taken once");
}

fn lists_of_events_hold_what_was_asked_for(connection: &Connection) {
    let (one, two) = (discovered(connection, "s1").id, discovered(connection, "s2").id);
    log(connection, &one, 7, 5);
    log(connection, &two, 7, 3);
    let read = |filter: &events::Filter, start, size| events::list(connection, filter, start, size).expect("reads");
    let names = |part: events::Part| {
        part.events.into_iter().map(|entry| format!("{}-{}", entry.store, entry.at.seq)).collect::<Vec<_>>()
    };
    let list = |filter: events::Filter, size| names(read(&filter, Start::End, size));
    let any = events::Filter::default();
    assert_eq!(list(any.clone(), 2), ["s2-3", "s2-2"], "the newest first");
    assert_eq!(names(read(&any, Start::Behind(0), 2)), ["s1-1", "s1-2"], "or forward");
    let mut newest = read(&any, Start::End, 1);
    assert_eq!(newest.next, Some(newest.events[0].chain_seq), "there are older ones");
    let newest = newest.events.remove(0);
    assert_eq!(names(read(&any, Start::Behind(newest.chain_seq), 9)), [] as [&str; 0]);
    assert_eq!(names(read(&any, Start::Before(newest.chain_seq), 1)), ["s2-2"]);
    assert_eq!((newest.kind.as_str(), newest.product.as_deref(), newest.delta), ("sold", Some("milk"), -3));
    let of = |store: &str| events::Filter { store: Some(store.into()), ..any.clone() };
    assert_eq!(list(events::Filter { product: Some("milk".into()), ..of("s1") }, 9), ["s1-5", "s1-3"]);
    assert_eq!(list(events::Filter { kind: Some("opened".into()), ..any.clone() }, 9), ["s2-1", "s1-1"]);
    assert_eq!(list(events::Filter { reference: Some("receipt-4".into()), ..any.clone() }, 9), ["s1-4"]);
    let within = events::Filter { since: Some(NOW.plus(2_000)), until: Some(NOW.plus(4_000)), ..of("s1") };
    assert_eq!(list(within, 9), ["s1-3", "s1-2"], "the end does not belong to it");
    let page = read(&events::Filter { kind: Some("snapshot_page".into()), ..of("s1") }, Start::End, 1);
    assert_eq!(page.events[0].body, "{}", "a page may be long");
    let at = |seq: u32| Position { store: one.clone(), at: EntryId { epoch: 7.into(), seq: seq.into() } };
    let place = |seq| events::place_of(connection, &at(seq)).expect("reads");
    assert_eq!((place(0), place(2), place(5), place(6)), (Some(0), Some(2), Some(5), None));
    assert_eq!(events::last_place(connection).expect("reads"), newest.chain_seq);
}

fn receive() -> Command {
    Command::Operate {
        product_id: product("tea"),
        operation: Operation::Receive { quantity: Quantity::ONE },
        guard: Guard::default(),
        about: About::default(),
    }
}

fn outcome(command: &str) -> Outcome {
    Outcome {
        command: operation(command),
        at: NOW,
        became: Became::Done {
            action: Action::Receive,
            product_id: product("tea"),
            item: Item { version: 1, ..Item::default() },
        },
    }
}

fn a_log_of_commands_begins_anew_in_each_epoch(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    let other = discovered(connection, "s2");
    let opened = |epoch: u32| (format!("opened:{epoch}"), "opened".to_owned(), "{}".to_owned());
    commands::begin_epoch(connection, &mut store, 3.into(), [opened(3)], NOW).expect("writes");
    for id in ["a", "b", "c"] {
        commands::append(connection, &mut store, &operation(id), &receive(), NOW).expect("writes");
    }
    assert_is(connection, &store);
    assert_eq!(store.command_head.id(), place(3, 4));
    assert_eq!(commands::head(connection, &store.id).expect("reads"), store.command_head);
    let entries =
        |from: u32, to: u32| commands::entries(connection, &store.id, 3.into(), from.into(), to.into()).expect("reads");
    let all = entries(1, 9);
    assert_eq!(all.iter().map(|entry| entry.operation.as_str()).collect::<Vec<_>>(), ["opened:3", "a", "b", "c"]);
    assert_eq!(all[3].hash, store.command_head.hash, "a chain");
    assert_eq!(entries(2, 3), all[1..3]);

    stores::store_command_acked(connection, &store.id, place(3, 2)).expect("writes");
    stores::store_command_acked(connection, &store.id, place(2, 4)).expect("writes");
    store.command_acked = 2.into();
    assert_is(connection, &store);
    commands::begin_epoch(connection, &mut store, 5.into(), [opened(5)], NOW).expect("writes");
    store.command_acked = Seq::ZERO;
    assert_is(connection, &store);
    assert_eq!(entries_of(connection, &store.id, 5), ["opened:5"]);
    assert_eq!(entries_of(connection, &store.id, 3).len(), 4, "the epoch before is kept");
    assert_is(connection, &other);
}

fn entries_of(connection: &Connection, store: &StoreId, epoch: u32) -> Vec<String> {
    let entries = commands::entries(connection, store, epoch.into(), Seq::FIRST, 99.into()).expect("reads");
    entries.into_iter().map(|entry| entry.operation).collect()
}

fn requests_are_answered_one_by_one(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    let cancel = Command::Cancel { purchase: attempt_of(&asked(1, "s1")), forced: false, about: About::default() };
    let asked = [("a", receive()), ("z", Command::Resync), ("m", cancel)];
    for (id, command) in &asked {
        commands::append(connection, &mut store, &operation(id), command, NOW).expect("writes");
    }
    let again = commands::append(connection, &mut find(connection, "s1"), &operation("a"), &receive(), NOW);
    assert!(again.is_err(), "an id is taken once");
    let waiting = || {
        let waiting = commands::unanswered(connection, &store.id).expect("reads");
        waiting.into_iter().map(|request| request.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(waiting(), ["a", "z", "m"], "in the order asked");
    assert!(commands::is_resync_asked(connection, &store.id).expect("reads"));
    assert!(!commands::is_resync_asked(connection, &store_id("s2")).expect("reads"));
    let cancels =
        |store: &str| commands::unanswered_cancels(connection, &store_id(store), purchase_id(1)).expect("reads");
    assert_eq!((cancels("s1"), cancels("s2")), (vec![operation("m")], Vec::new()));
    let known = commands::asked(connection, &operation("m")).expect("reads").expect("is there");
    assert_eq!(
        (known.kind.as_str(), known.purchase, known.status),
        ("cancel", Some(purchase_id(1)), request::Status::Pending)
    );

    let before = commands::find(connection, "a").expect("reads").expect("is there");
    let position = Position { store: store.id.clone(), at: place(7, 5) };
    let (said, later) = (outcome("z"), NOW.plus(1));
    commands::save_answer(connection, &operation("z"), request::Status::Done, &said, Some(&position), later)
        .expect("writes");
    assert_eq!(waiting(), ["a", "m"]);
    assert!(!commands::is_resync_asked(connection, &store.id).expect("reads"));
    let answered = commands::find(connection, "z").expect("reads").expect("is there");
    assert_eq!((answered.status, answered.settled_at), (request::Status::Done, Some(later)));
    assert_eq!((answered.outcome, answered.position), (Some(said), Some(position)));
    let after = commands::find(connection, "a").expect("reads").expect("is there");
    assert_eq!(format!("{before:?}"), format!("{after:?}"), "its neighbour");
    assert!(commands::find(connection, "nobody's").expect("reads").is_none());

    let list = |filter, after| {
        let listed =
            queries::commands::list(connection, &filter, &Slice { after, offset: 0, limit: 3 }).expect("reads");
        listed.rows.into_iter().map(|request| (request.id.to_string(), request.number)).collect::<Vec<_>>()
    };
    let newest = list(queries::commands::Filter::default(), None);
    assert_eq!(newest.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["m", "z"]);
    assert_eq!(list(queries::commands::Filter::default(), Some(newest[1].1))[0].0, "a", "the next page");
    let pending = queries::commands::Filter { status: Some("pending".into()), store: Some("s1".into()) };
    assert_eq!(list(pending, None).iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["m", "a"]);
}

fn no_more_requests_wait_than_may(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    let mut asked = 0;
    while !commands::is_full(connection, &store.id).expect("reads") {
        asked += 1;
        commands::append(connection, &mut store, &operation(&format!("c{asked}")), &receive(), NOW).expect("writes");
    }
    assert_eq!(asked, 2_000);
    commands::save_answer(connection, &operation("c7"), request::Status::Done, &outcome("c7"), None, NOW)
        .expect("writes");
    assert!(!commands::is_full(connection, &store.id).expect("reads"), "an answer makes room");
    assert!(!commands::is_full(connection, &store_id("s2")).expect("reads"));
}

fn asked(number: u128, store: &str) -> Purchase {
    let id = purchase_id(number);
    Purchase {
        number: 0,
        id,
        store: store_id(store),
        lines: of(&[("tea", 2)]),
        attempt: OperationId::attempt(&id, 1),
        status: purchase::Status::Pending,
        code: None,
        reference: Some(format!("order-{number}")),
        customer: Some(format!("customer-{}", number % 2)),
        created_at: NOW.plus(number as i64),
        expires_at: NOW.plus(60_000),
        cancel_requested_at: None,
        settled_at: None,
        picked_at: None,
        position: None,
        choice: None,
    }
}

fn of(lines: &[(&str, i64)]) -> Lines {
    let line = |(name, units): &(&str, i64)| Line {
        product_id: product(name),
        quantity: Quantity::try_from(*units).expect("in range"),
    };
    Lines::new(lines.iter().map(line)).expect("are lines")
}

fn attempt_of(purchase: &Purchase) -> PurchaseRef {
    purchase.attempt_ref()
}

fn purchases_are_listed_the_newest_first(connection: &Connection) {
    for store in ["s1", "s2"] {
        discovered(connection, store);
    }
    for (number, store) in [(5, "s1"), (2, "s2"), (9, "s1"), (4, "s1")] {
        purchases::insert(connection, &asked(number, store)).expect("writes");
    }
    assert!(purchases::insert(connection, &asked(5, "s2")).is_err(), "an id is taken once");
    let list = |filter: queries::purchases::Filter, after, offset, limit: usize| {
        let listed = queries::purchases::list(connection, &filter, &Slice { after, offset, limit: limit + 1 });
        let listed = listed.expect("reads");
        listed.rows.into_iter().map(|purchase| (purchase.id, purchase.number)).collect::<Vec<_>>()
    };
    let ids = |listed: Vec<(PurchaseId, i64)>| listed.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    let any = queries::purchases::Filter::default();
    let [first, second] = list(any.clone(), None, 0, 2)[..] else { panic!("a page has two") };
    assert_eq!((first.0, second.0), (purchase_id(4), purchase_id(9)));
    assert_eq!(ids(list(any.clone(), Some(second.1), 0, 9)), [purchase_id(2), purchase_id(5)]);
    assert_eq!(ids(list(any.clone(), None, 3, 9)), [purchase_id(5)]);
    let of = |store: &str| queries::purchases::Filter { store: Some(store.into()), ..any.clone() };
    assert_eq!(ids(list(of("s2"), None, 0, 9)), [purchase_id(2)]);
    let since =
        queries::purchases::Filter { since: Some(NOW.plus(5)), customer: Some("customer-1".into()), ..of("s1") };
    assert_eq!(ids(list(since, None, 0, 9)), [purchase_id(9), purchase_id(5)]);
    let order = queries::purchases::Filter { reference: Some("order-4".into()), ..any.clone() };
    assert_eq!(ids(list(order, None, 0, 9)), [purchase_id(4)]);

    let open = |store: &str, now| purchases::open(connection, &store_id(store), now).expect("reads");
    assert_eq!((open("s1", NOW), open("s1", NOW.plus(60_001)), open("s2", NOW)), ((3, 0), (3, 3), (1, 0)));
    let tea = items::pending(connection, &store_id("s1"), &product("tea")).expect("reads");
    assert_eq!(tea, 6, "units on their way");
}

fn a_transition_of_a_purchase_leaves_the_rest_alone(connection: &Connection) {
    let store = discovered(connection, "s1").id;
    for number in 1..=3 {
        purchases::insert(connection, &asked(number, "s1")).expect("writes");
    }
    let find = |number| purchases::find(connection, purchase_id(number)).expect("reads").expect("is there");
    let assert_is = |expected: &Purchase| {
        let found = purchases::find(connection, expected.id).expect("reads").expect("is there");
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    };
    let (mut one, mut two, three) = (find(1), find(2), find(3));
    assert_is(&Purchase { number: one.number, ..asked(1, "s1") });
    (one.status, one.settled_at, one.picked_at) = (purchase::Status::Confirmed, Some(NOW), Some(NOW.plus(9)));
    one.position = Some(Position { store: store.clone(), at: place(7, 5) });
    purchases::save_transition(connection, &one).expect("writes");
    (two.status, two.code) = (purchase::Status::Cancelled, Some("store_retired".into()));
    (two.settled_at, two.cancel_requested_at) = (Some(NOW), Some(NOW));
    purchases::save_transition(connection, &two).expect("writes");
    for purchase in [&one, &two, &three] {
        assert_is(purchase);
    }
    // Whatever else the caller's copy says is not a transition.
    purchases::save_transition(connection, &Purchase { lines: of(&[("tea", 1)]), customer: None, ..one.clone() })
        .expect("writes");
    assert_is(&one);
    let ids = |purchases: Vec<Purchase>| purchases.into_iter().map(|purchase| purchase.id).collect::<Vec<_>>();
    assert_eq!(ids(purchases::pending(connection, &store).expect("reads")), [purchase_id(3)]);
    assert_eq!(ids(purchases::voided(connection, &store).expect("reads")), [purchase_id(2)]);
    assert!(purchases::find(connection, purchase_id(4)).expect("reads").is_none());
}

fn what_central_has_chosen_is_found_while_it_seeks(connection: &Connection) {
    discovered(connection, "s1");
    discovered(connection, "s2");
    let choice =
        Choice { policy: Some(Policy::LowestLatency), deadline: NOW.plus(60_000), refused: Vec::new(), seeking: false };
    for number in 1..=3 {
        let purchase = Purchase { choice: Some(choice.clone()), ..asked(number, "s1") };
        purchases::insert(connection, &purchase).expect("writes");
    }
    let find = |number| purchases::find(connection, purchase_id(number)).expect("reads").expect("is there");
    let seeking = |behind| {
        let found = purchases::seeking(connection, behind, 9).expect("reads");
        found.into_iter().map(|purchase| purchase.id).collect::<Vec<_>>()
    };
    assert_eq!((find(1).choice, seeking(0)), (Some(choice.clone()), vec![]));
    let refused = purchases::Attempt { store: store_id("s1"), code: "insufficient_stock".into(), at: NOW };
    for number in [3, 1] {
        let choice = Choice { refused: vec![refused.clone()], seeking: true, ..choice.clone() };
        let moved = Purchase { store: store_id("s2"), attempt: operation("a"), choice: Some(choice), ..find(number) };
        purchases::save_transition(connection, &moved).expect("writes");
        let found = find(number);
        assert_eq!((found.store, found.attempt, found.choice), (moved.store, moved.attempt, moved.choice));
    }
    assert_eq!(seeking(0), [purchase_id(1), purchase_id(3)], "in the order asked");
    assert_eq!(seeking(find(1).number), [purchase_id(3)]);
    purchases::ask_nobody_else(connection).expect("writes");
    let alone = Choice { policy: None, ..choice };
    assert_eq!((find(2).choice, seeking(0).len()), (Some(alone), 2));

    let last = |lines: &[(&str, i64)]| purchases::last_turn(connection, &of(lines)).expect("reads");
    for store in ["s1", "s2"] {
        purchases::save_turn(connection, &of(&[("tea", 1)]), &store_id(store), NOW).expect("writes");
    }
    purchases::save_turn(connection, &of(&[("jam", 2), ("tea", 1)]), &store_id("s1"), NOW.plus(DAY)).expect("writes");
    assert_eq!((last(&[("tea", 9)]), last(&[("jam", 1)])), (Some(store_id("s2")), None));
    assert_eq!(last(&[("tea", 3), ("jam", 3)]), Some(store_id("s1")), "of the same products");
    retention::prune(connection, NOW.plus(retention::COMMANDS_MS + 1)).expect("prunes");
    assert_eq!((last(&[("tea", 1)]), last(&[("jam", 1), ("tea", 1)])), (None, Some(store_id("s1"))));
}

fn the_lines_of_a_purchase_are_pending_at_the_store_that_is_asked(connection: &Connection) {
    for store in ["s1", "s2"] {
        discovered(connection, store);
    }
    let bought = of(&[("jam", 1), ("milk", 4), ("tea", 3)]);
    let choice = Choice { policy: Some(Policy::LowestLatency), deadline: NOW, refused: Vec::new(), seeking: false };
    let mut purchase = Purchase { lines: bought.clone(), choice: Some(choice), ..asked(1, "s1") };
    purchases::insert(connection, &purchase).expect("writes");
    purchases::insert(connection, &asked(2, "s1")).expect("writes");
    let found = purchases::find(connection, purchase_id(1)).expect("reads").expect("is there");
    assert_eq!((&found.lines, &found.attempt_ref().lines), (&bought, &bought));
    let pending = |store: &str| {
        ["jam", "milk", "tea"].map(|name| items::pending(connection, &store_id(store), &product(name)).expect("reads"))
    };
    assert_eq!((pending("s1"), pending("s2")), ([1, 4, 5], [0, 0, 0]));
    purchase.store = store_id("s2");
    purchases::save_transition(connection, &purchase).expect("writes");
    assert_eq!((pending("s1"), pending("s2")), ([0, 0, 2], [1, 4, 3]));
    let listed = |name: &str| {
        let filter = queries::purchases::Filter { product: Some(name.into()), ..Default::default() };
        let slice = Slice { after: None, offset: 0, limit: 9 };
        queries::purchases::list(connection, &filter, &slice).expect("reads").rows.len()
    };
    assert_eq!((listed("jam"), listed("milk"), listed("tea"), listed("ale")), (1, 1, 2, 0));
    purchase.status = purchase::Status::Rejected;
    purchases::save_transition(connection, &purchase).expect("writes");
    assert_eq!((pending("s1"), pending("s2")), ([0, 0, 2], [0, 0, 0]));
}

fn what_commands_take_of_an_allotment_is_free_once_they_are_answered(connection: &Connection) {
    let mut one = discovered(connection, "s1");
    discovered(connection, "s2");
    let taken = |name: &str| allotments::taken(connection, &store_id("s1"), &product(name)).expect("reads");
    let pending = |name: &str| items::pending(connection, &store_id("s1"), &product(name)).expect("reads");
    let release = |name: &str, units| Command::Release { product_id: product(name), units };
    commands::append(connection, &mut one, &operation("r1"), &release("tea", 4), NOW).expect("writes");
    commands::append(connection, &mut one, &operation("r2"), &release("jam", 1), NOW).expect("writes");
    let line =
        |name: &str, units: i64| Line { product_id: product(name), quantity: units.try_into().expect("in range") };
    let lines = Lines::new([line("tea", 2), line("jam", 3)]).expect("are lines");
    let purchase = PurchaseRef { from_allotment: Some(lines.clone()), lines, ..attempt_of(&asked(1, "s1")) };
    let (id, about) = (purchase.attempt.clone(), About::default());
    let sold = Command::Purchase { purchase, deadline: None, about };
    commands::append(connection, &mut one, &id, &sold, NOW).expect("writes");
    assert_eq!([taken("tea"), taken("jam"), taken("milk")], [6, 4, 0]);
    assert_eq!(
        [pending("tea"), pending("jam"), pending("milk")],
        [2, 3, 0],
        "what is sold, until the store has said so"
    );
    let answer = |id: &OperationId| {
        let outcome = Outcome { command: id.clone(), at: NOW, became: Became::Resynced };
        commands::save_answer(connection, id, request::Status::Done, &outcome, None, NOW).expect("writes")
    };
    assert_eq!(answer(&id), [product("jam"), product("tea")]);
    assert_eq!((answer(&id).len(), taken("tea"), taken("jam"), pending("tea")), (0, 4, 1, 0));
    assert_eq!((answer(&operation("r1")), taken("tea")), (vec![product("tea")], 0));
    assert_eq!(allotments::taken(connection, &store_id("s2"), &product("jam")), Ok(0));

    let lowered =
        |units| Item { allotted: units, allotment_wanted: Some(1), version: 1, quantity: 9, ..Item::default() };
    for (name, units) in [("tea", 3), ("jam", 2)] {
        stocks::put(connection, &mut one, &product(name), &lowered(units)).expect("writes");
    }
    assert_eq!(
        allotments::unreleased(connection, &one, 9),
        Ok(vec![product("tea")]),
        "what is to be released of jam is"
    );
    assert_eq!(allotments::unreleased_stores(connection), Ok(vec![store_id("s1")]));
}

fn the_last_outcome_of_a_command_is_kept(connection: &Connection) {
    let (one, two) = (discovered(connection, "s1").id, discovered(connection, "s2").id);
    let found = |store: &StoreId, command: &str| outcomes::find(connection, store, &operation(command)).expect("reads");
    assert_eq!(found(&one, "a"), None);
    for command in ["b", "a", "c"] {
        outcomes::keep(connection, &one, 1, &outcome(command), NOW).expect("writes");
    }
    outcomes::keep(connection, &two, 1, &outcome("a"), NOW).expect("writes");
    let later = Outcome { at: NOW.plus(1), ..outcome("a") };
    outcomes::keep(connection, &one, 2, &later, NOW).expect("writes");
    assert_eq!((found(&one, "a"), found(&two, "a")), (Some(later), Some(outcome("a"))));
    assert_eq!(found(&one, "b"), Some(outcome("b")));
    let behind = |command, rows| {
        let behind = outcomes::behind(connection, &one, command, rows).expect("reads");
        behind.into_iter().map(|outcome| outcome.command.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((behind("", 2), behind("a", 9)), (vec!["a".to_owned(), "b".into()], vec!["b".to_owned(), "c".into()]));
    // Those that were not said again since the second stock.
    let has_older = || outcomes::has_older(connection, &one, 2).expect("reads");
    let unnamed = |rows| {
        let unnamed = outcomes::unnamed(connection, &one, 2, rows).expect("reads");
        unnamed.into_iter().map(|(command, said)| (said == Some(outcome(&command)), command)).collect::<Vec<_>>()
    };
    assert_eq!((unnamed(9), unnamed(1).len()), (vec![(true, "b".to_owned()), (true, "c".into())], 1));
    for left in [true, false] {
        outcomes::forget(connection, &one, &unnamed(1)[0].1).expect("writes");
        assert_eq!(has_older(), left);
    }
    assert_eq!((behind("", 9), found(&two, "a")), (vec!["a".to_owned()], Some(outcome("a"))));
}

fn key(key: &str) -> Key {
    Key { key: key.into(), fingerprint: [7; 16], route: "POST /x".into() }
}

fn a_key_is_bound_once(connection: &Connection) {
    let found = |key: &str| idempotency::find(connection, key).expect("reads");
    assert!(found("k").is_none());
    idempotency::bind(connection, &key("k"), Effect::Cancel, "p1", NOW).expect("writes");
    let record = found("k").expect("is there");
    assert_eq!((record.fingerprint.as_slice(), record.route.as_str()), ([7; 16].as_slice(), "POST /x"));
    assert_eq!((record.at, record.effect, record.target.as_str()), (NOW, Effect::Cancel, "p1"));
    assert!(idempotency::bind(connection, &key("k"), Effect::Cancel, "p2", NOW).is_err());
    assert_eq!(found("k").expect("is there").target, "p1");
    assert!(found("K").is_none(), "case counts");
}

fn totals_are_what_the_shown_stocks_add_up_to(connection: &Connection) {
    let (mut one, mut two) = (discovered(connection, "s1"), discovered(connection, "s2"));
    let put = |store: &mut Store, id: &str, item: &Item| {
        stocks::put(connection, store, &product(id), item).expect("writes");
        store.save_events(connection).expect("writes");
    };
    put(&mut one, "tea", &Item { reserved: 1, allotted: 2, ..item("Tea", 10) });
    put(&mut two, "tea", &item("Green tea", 5));
    put(&mut two, "milk", &item("Milk", 1));
    let list = |q: Option<&str>, after: Option<&str>, limit| {
        let slice = Slice { after: after.map(str::to_owned), offset: 0, limit };
        let words = q.and_then(Words::parse);
        let totals = queries::products::list(connection, words.as_ref(), &slice).expect("reads");
        let line = |total: &queries::products::Total| {
            let figures = [total.quantity, total.reserved, total.allotted, total.stores];
            (total.product.clone(), total.name.clone(), figures)
        };
        totals.rows.iter().map(line).collect::<Vec<_>>()
    };
    let tea = |name: &str, figures| ("tea".to_owned(), name.to_owned(), figures);
    let milk = ("milk".to_owned(), "Milk".to_owned(), [1, 0, 0, 1]);
    assert_eq!(list(None, None, 9), [milk.clone(), tea("Green tea", [15, 1, 2, 2])], "the name that was given last");
    assert_eq!(list(None, Some("milk"), 9), [tea("Green tea", [15, 1, 2, 2])]);
    assert_eq!((list(None, None, 1), list(Some("GREEN"), None, 9).len()), (vec![milk.clone()], 1));
    put(&mut one, "tea", &item("Tea", 8));
    assert_eq!(list(Some("tea"), None, 9), [tea("Green tea", [13, 0, 0, 2])], "it was not renamed");

    stores::take_out(connection, &mut two).expect("writes");
    while totals::step(connection, &two, 1).expect("can be done") {}
    assert_eq!(list(None, None, 9), [tea("Green tea", [8, 0, 0, 1])], "a retired store is not counted");
    put(&mut two, "tea", &item("Green tea", 50));
    assert_eq!(list(Some("tea"), None, 9)[0].2[0], 8, "and what it says meanwhile is not either");
    stores::readmit(connection, &mut two).expect("writes");
    while totals::step(connection, &two, 1).expect("can be done") {}
    assert_eq!(list(Some("tea"), None, 9)[0].2, [58, 0, 0, 2]);
    assert_eq!(totals::differences(connection).expect("reads"), []);

    // A row that changed by itself.
    items::write(connection, &one.id, one.stock, &product("tea"), &item("Tea", 9)).expect("writes");
    let found = totals::differences(connection).expect("reads");
    assert_eq!(
        found.iter().map(|found| (found.product.as_str(), found.total, found.sum)).collect::<Vec<_>>(),
        [("tea", 58, 59)]
    );
    totals::begin_recount(connection).expect("writes");
    assert!(totals::is_recounting(connection).expect("reads"));
    while totals::recount_step(connection, 1).expect("can be done") {}
    assert!(!totals::is_recounting(connection).expect("reads"));
    assert_eq!((totals::differences(connection).expect("reads"), list(Some("tea"), None, 9)[0].2[0]), (Vec::new(), 59));
}

fn what_is_old_is_forgotten_and_what_is_needed_stays(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    let prune = |days: i64| while retention::prune(connection, NOW.plus(days * DAY + 1)).expect("can be done") {};
    idempotency::bind(connection, &key("k"), Effect::Purchase, "p", NOW).expect("writes");
    commands::begin_epoch(connection, &mut store, 3.into(), [], NOW).expect("writes");
    for id in ["answered", "waits"] {
        commands::append(connection, &mut store, &operation(id), &receive(), NOW).expect("writes");
    }
    let (done, said) = (operation("answered"), outcome("answered"));
    commands::save_answer(connection, &done, request::Status::Done, &said, None, NOW).expect("writes");
    outcomes::keep(connection, &store.id, store.generation, &said, NOW).expect("writes");
    for (number, status, picked_at) in [
        (1, purchase::Status::Rejected, None),
        (2, purchase::Status::Confirmed, None),
        (3, purchase::Status::Confirmed, Some(NOW)),
        (4, purchase::Status::Pending, None),
    ] {
        let settled_at = (status != purchase::Status::Pending).then_some(NOW);
        let purchase = Purchase { status, picked_at, settled_at, ..asked(number, "s1") };
        purchases::insert(connection, &purchase).expect("writes");
        let attempt = Outcome { command: purchase.attempt, ..outcome("x") };
        outcomes::keep(connection, &store.id, store.generation, &attempt, NOW).expect("writes");
    }
    let entry = log(connection, &store.id, 7, 1).remove(0);
    ledger::park(connection, &store.id, &entry, "unknown", NOW).expect("writes");

    let key_is_there = || idempotency::find(connection, "k").expect("reads").is_some();
    prune(6);
    assert!(key_is_there());
    prune(7);
    assert!(!key_is_there());
    let request_is_there = |id: &str| commands::find(connection, id).expect("reads").is_some();
    let outcome_is_there = |id: &OperationId| outcomes::find(connection, &store.id, id).expect("reads").is_some();
    let attempt_is_there = |number| outcome_is_there(&OperationId::attempt(&purchase_id(number), 1));
    prune(29);
    assert!(request_is_there("answered") && outcome_is_there(&done) && attempt_is_there(1));
    prune(30);
    assert!(!request_is_there("answered") && !outcome_is_there(&done) && !attempt_is_there(1));
    assert!(request_is_there("waits"), "it has no answer");
    assert_eq!([2, 3, 4].map(attempt_is_there), [true, false, true], "of what is not over");
    let letters = || dead_letters::count(connection).expect("reads");
    prune(89);
    assert_eq!(letters(), 1);
    prune(90);
    assert_eq!(
        (letters(), events::last(connection, &store.id, 7.into()).expect("reads")),
        (0, Some(Seq::FIRST)),
        "its entry stays"
    );
    let purchase_is_there = |number| purchases::find(connection, purchase_id(number)).expect("reads").is_some();
    prune(399);
    assert_eq!([1, 2, 3, 4].map(purchase_is_there), [true; 4]);
    prune(400);
    assert_eq!([1, 2, 3, 4].map(purchase_is_there), [false, true, false, true], "what is not over, and not picked");

    let old = NOW.plus(1);
    assert!(retention::has_old_commands(connection, &store.id, old).expect("reads"));
    assert!(!retention::has_old_commands(connection, &store.id, NOW).expect("reads"));
    retention::prune_commands(connection, old).expect("writes");
    assert_eq!(entries_of(connection, &store.id, 3), ["answered", "waits"], "none is acknowledged");
    stores::store_command_acked(connection, &store.id, place(3, 2)).expect("writes");
    retention::prune_commands(connection, NOW).expect("writes");
    assert_eq!(entries_of(connection, &store.id, 3).len(), 2, "they are young");
    retention::prune_commands(connection, old).expect("writes");
    assert_eq!(entries_of(connection, &store.id, 3), ["waits"], "the acknowledged one stays");
}

fn dead_letters_stay_until_they_are_removed(connection: &Connection) {
    let (one, two) = (store_id("s1"), store_id("s2"));
    let long = "ä".repeat(2_000);
    for (store, seq, body) in [(&one, 1, "{}"), (&two, 1, "{}"), (&one, 2, long.as_str())] {
        let before = cursor(7, seq - 1);
        let entry = Entry::follow(&before, "teleported", "op", body.into(), None);
        ledger::park(connection, store, &entry, "unknown type", NOW).expect("writes");
    }
    let letters = |store: Option<&str>| {
        let letters = dead_letters::list(connection, store).expect("reads");
        letters.into_iter().map(|letter| (letter.store, letter.entry)).collect::<Vec<_>>()
    };
    let letter = |store: &str, entry: &str| (store.to_owned(), entry.to_owned());
    assert_eq!(letters(None), [letter("s1", "7-2"), letter("s2", "7-1"), letter("s1", "7-1")], "the newest first");
    assert_eq!(letters(Some("s1")), [letter("s1", "7-2"), letter("s1", "7-1")]);
    let mut all = Vec::new();
    let mut behind = |behind, most| {
        let last = dead_letters::last(connection).expect("reads");
        dead_letters::each_behind(connection, behind, last, most, |letter| all.push(letter)).expect("reads")
    };
    let second = behind(0, 2);
    assert!(second < behind(second, 2), "up to the last one");
    assert_eq!(
        all.iter().map(|letter| letter.entry.as_str()).collect::<Vec<_>>(),
        ["7-1", "7-1", "7-2"],
        "as they came"
    );
    let shown = &dead_letters::list(connection, None).expect("reads")[0];
    assert_eq!((shown.body.chars().count(), all[2].body == long), (1_000, true), "a list shows the beginning");
    assert_eq!((shown.kind.as_str(), shown.reason.as_str(), shown.received_at), ("teleported", "unknown type", NOW));
    assert!(dead_letters::remove(connection, all[0].id).expect("writes"));
    assert!(!dead_letters::remove(connection, all[0].id).expect("writes"), "it is gone");
    assert_eq!(letters(Some("s1")), [letter("s1", "7-2")]);
}

fn a_list_of_dead_letters_ends_at_a_thousand(connection: &Connection) {
    for seq in 1..=1_001 {
        let entry = Entry::follow(&cursor(7, seq - 1), "teleported", "op", "{}".into(), None);
        ledger::park(connection, &store_id("s1"), &entry, "unknown type", NOW).expect("writes");
    }
    let listed = dead_letters::list(connection, None).expect("reads");
    assert_eq!((listed.len(), listed[0].entry.as_str()), (1_000, "7-1001"), "the newest");
    assert_eq!(dead_letters::count(connection).expect("reads"), 1_001);
}

fn a_rebuild_is_as_it_was_saved(connection: &Connection) {
    assert_eq!(rebuild::find(connection).expect("reads"), None);
    assert!(!rebuild::is_running(connection).expect("reads"));
    let mut sum = Digest::default();
    for (id, base, state) in [("a", 2, 9), ("b", 0, 0), ("c", 5, 5)] {
        let mut store = discovered(connection, id);
        (store.base, store.state, store.digest) = (place(7, base), cursor(7, state), Digest(u128::MAX - 1));
        store.save_events(connection).expect("writes");
        sum = Digest(sum.0.wrapping_add(store.digest.0));
    }
    assert_eq!(rebuild::digest(connection).expect("reads"), sum);
    let next = |behind| rebuild::next_store(connection, behind).expect("reads").map(|id| id.to_string());
    assert_eq!((next("").as_deref(), next("a").as_deref(), next("c")), (Some("a"), Some("b"), None));

    rebuild::begin(connection, NOW).expect("writes");
    let mut running = rebuild::find(connection).expect("reads").expect("is there");
    assert_eq!((running.started_at, running.finished_at, running.total), (NOW, None, 9), "8 entries and 1");
    assert_eq!((running.applied, running.done_to.as_str(), &running.at_work), (0, "", &None));
    assert!(rebuild::is_running(connection).expect("reads"));
    let at_work = AtWork {
        store: store_id("c"),
        stock: 4,
        staged: 5,
        digest: Digest(7),
        units: 8,
        base: place(7, 5),
        seq: 6.into(),
    };
    (running.applied, running.done_to, running.at_work) = (3, "b".into(), Some(at_work));
    rebuild::save(connection, &running).expect("writes");
    assert_eq!(rebuild::find(connection).expect("reads"), Some(running.clone()));
    for (id, reason) in [("c", Reason::Restoring), ("a", Reason::DigestDiffers)] {
        rebuild::leave_out(connection, &store_id(id), reason).expect("writes");
    }
    let left_out = |most| rebuild::left_out(connection, most).expect("reads");
    assert_eq!(left_out(1), (vec![("a".to_owned(), "digest_differs".to_owned())], 2));
    (running.finished_at, running.at_work) = (Some(NOW.plus(1)), None);
    rebuild::save(connection, &running).expect("writes");
    assert_eq!(rebuild::find(connection).expect("reads"), Some(running));
    assert!(!rebuild::is_running(connection).expect("reads"));
    rebuild::begin(connection, NOW.plus(2)).expect("writes");
    assert_eq!(left_out(9), (Vec::new(), 0), "of the one before");
}

fn a_stock_that_is_built_aside_is_shown_at_once(connection: &Connection) {
    let mut store = discovered(connection, "s1");
    stocks::put(connection, &mut store, &product("old"), &item("Old", 3)).expect("writes");
    store.save_events(connection).expect("writes");
    let before = store.clone();
    let aside = stocks::aside(connection, &store.id).expect("writes");
    let mut built = Store { stock: aside, digest: Digest::default(), units: 0, ..store.clone() };
    stocks::stage(connection, &mut built, place(7, 2), &page(&["a", "b"])).expect("writes");
    assert!(
        stocks::switch(connection, &mut built, place(7, 3), &SnapshotEnd { pages: 1, count: 2, named_since: None })
            .expect("is whole")
    );
    stocks::hide(connection, built.stock).expect("writes");
    let shown = || {
        let items = items::of_store(connection, &before.id).expect("reads");
        items.into_iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(shown(), ["old"]);
    assert_eq!(totals::differences(connection).expect("reads"), []);
    stocks::show(connection, &mut store, &built).expect("writes");
    store.save_events(connection).expect("writes");
    assert_eq!((shown(), store.generation, store.units), (vec!["a".into(), "b".into()], before.generation, 10));
    while totals::step(connection, &store, 1).expect("can be done") {}
    while stocks::remove_step(connection, &store.id, 1).expect("can be done") {}
    assert_eq!(totals::differences(connection).expect("reads"), []);
    assert_eq!(
        (shown(), store.digest),
        (vec!["a".into(), "b".into()], items::digest(connection, store.stock).expect("reads"))
    );
}

fn what_a_state_has_named_goes_with_it(connection: &Connection) {
    let store = discovered(connection, "s1");
    let (shown, other) = (store.generation, store.generation + 1);
    for stock in [shown, other] {
        operations::name(connection, stock, &["c", "a", "b", "a"].map(operation), NOW).expect("writes");
    }
    let named = |stock, behind, rows| operations::behind(connection, stock, behind, rows).expect("reads");
    assert_eq!(named(other, "", 2), ["a", "b"].map(operation));
    assert_eq!(named(other, "b", 2), ["c"].map(operation));
    let forget = |stock| operations::forget_step(connection, &store.id, stock, 2).expect("writes");
    assert_eq!([forget(other), forget(other), forget(other), forget(shown)], [true, true, false, false]);
    assert_eq!((named(other, "", 9).len(), named(shown, "", 9).len()), (0, 3), "those of the state that is shown stay");
}
