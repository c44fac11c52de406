//! Given requests and a log: the verdict.

use serde_json::{Value, json};

use super::shop::{Item, Reading, Told};
use super::*;

const STORE: &str = "s0";
const PURCHASE: &str = "purchase";
const ATTEMPT: &str = "purchase:1";
/// By Redis's clock.
const DEADLINE: i64 = 1_000;

fn name(text: &str) -> Name {
    text.into()
}

/// A book in which everything that these tests tell of was asked.
fn book() -> Book {
    let mut book = Book::default();
    for (operation, wish, by) in [
        ("create", Wish::Create { name: name("Ale"), quantity: 5, low_at: None }, By::Store),
        ("sale", Wish::Sell(4), By::Store),
        ("sale-2", Wish::Sell(2), By::Store),
        ("rename", Wish::Change { name: Some(name("Beer")), discontinued: Some(true), low_at: None }, By::Store),
        ("watch", Wish::Change { name: None, discontinued: None, low_at: Some(Some(2)) }, By::Store),
        ("command", Wish::Receive(3), By::Central),
        ("count", Wish::Count { units: 2, at: None }, By::Store),
        ("earlier", Wish::Count { units: 5, at: Some((1, 2)) }, By::Store),
        ("broken", Wish::Adjust(-4), By::Store),
    ] {
        book.items.insert(name(operation), Asked { store: name(STORE), product: name("ale"), wish, by });
    }
    for (command, atomic) in [("each", false), ("all", true)] {
        let sales = [2, 4, 3].map(|units| (name("ale"), Wish::Sell(units)));
        book.ask_batch(command, Batch { store: name(STORE), lines: 3, atomic }, sales);
    }
    let counts =
        [("ale", 4), ("bun", 2)].map(|(product, units)| (name(product), Wish::Count { units, at: Some((1, 1)) }));
    book.ask_batch("list", Batch { store: name(STORE), lines: 2, atomic: true }, counts);
    let (lines, attempts) = (vec![(name("ale"), 2)], [(name(STORE), name(ATTEMPT))].into());
    book.buys.insert(name(PURCHASE), Buy { lines, deadline: DEADLINE, is_chosen: false, attempts });
    let (lines, attempts) = (vec![(name("ale"), 2), (name("bun"), 1)], [(name(STORE), name("cart:1"))].into());
    book.buys.insert(name("cart"), Buy { lines, deadline: DEADLINE, is_chosen: false, attempts });
    book.cancels.insert(name("cancel-cart"), Cancel { store: name(STORE), purchase: name("cart"), forced: false });
    for (command, forced) in [("cancel", false), ("forced", true)] {
        book.cancels.insert(name(command), Cancel { store: name(STORE), purchase: name(PURCHASE), forced });
    }
    book.picks.insert(name("pick"), Pick { store: name(STORE), purchase: name(PURCHASE) });
    let (lines, deadline) = (vec![(name("ale"), 3)], DEADLINE);
    for (operation, by) in [("hold", By::Store), ("reserve", By::Central)] {
        let (store, reservation, lines) = (name(STORE), name("held"), lines.clone());
        book.holds.insert(name(operation), Hold { store, reservation, lines, ttl_ms: 1_000, by, deadline });
    }
    for (operation, act) in
        [("take", Act::Confirm(Some(vec![(name("ale"), 2)]))), ("free", Act::Cancel), ("extend", Act::Extend(2_000))]
    {
        let (store, reservation) = (name(STORE), name("held"));
        book.acts.insert(name(operation), Acted { store, reservation, act, by: By::Store });
    }
    book
}

fn item(quantity: i64) -> Value {
    json!({"name": "Ale", "quantity": quantity, "reserved": 0, "allotted": 0, "discontinued": false, "low": false})
}

/// An entry that changes ale by so many units, and leaves so many.
fn entry(kind: &str, operation: &str, delta: i64, left: i64) -> Told {
    let mut body = json!({"productId": "ale", "delta": delta, "item": item(left)});
    if kind.starts_with("purchase") || kind == "command_refused" {
        body["purchase"] = json!({"purchaseId": PURCHASE, "attempt": ATTEMPT, "productId": "ale", "quantity": 2});
    }
    Told {
        epoch: 1,
        seq: 2,
        kind: kind.into(),
        operation: operation.into(),
        body,
        moved: None,
        lines_moved: Vec::new(),
    }
}

fn with(mut told: Told, member: &str, value: Value) -> Told {
    told.body[member] = value;
    told
}

/// What a store with five ales comes to by these entries, or which promise is broken first.
fn follow(occasion: Occasion<'_>, entries: &[Told]) -> Result<Shop, String> {
    go_on(stocked(), occasion, entries)
}

fn stocked() -> Shop {
    let begun = go_on(Shop::default(), Occasion::Operation(&["create"]), &[entry("item_created", "create", 5, 5)]);
    begun.expect("an item may be created")
}

fn go_on(mut shop: Shop, occasion: Occasion<'_>, entries: &[Told]) -> Result<Shop, String> {
    let (book, mut reading) = (book(), Reading::default());
    for told in entries {
        shop.follow(STORE, told, &book, occasion, &mut reading)?;
    }
    reading.finish()?;
    Ok(shop)
}

fn units(shop: &Shop) -> i64 {
    shop.items["ale"].quantity
}

const IN_TIME: Occasion<'static> = Occasion::Commands { redis_now: DEADLINE, refuses: None };

#[test]
fn a_sale_is_what_was_asked_for_and_nothing_else() {
    let sold = |delta, left| follow(Occasion::Operation(&["sale"]), &[entry("sold", "sale", delta, left)]);
    assert_eq!(sold(-4, 1).map(|shop| units(&shop)), Ok(1));
    for (delta, left) in [(-3, 2), (-4, 2), (0, 5)] {
        assert!(sold(delta, left).is_err(), "{delta} units, {left} left");
    }
    assert!(follow(Occasion::Operation(&["sale"]), &[entry("received", "sale", -4, 1)]).is_err());
    assert!(follow(Occasion::Operation(&["sale"]), &[entry("sold", "nobody", -4, 1)]).is_err());
    assert!(follow(Occasion::Operation(&["sale-2"]), &[entry("sold", "sale", -4, 1)]).is_err(), "not now");
}

#[test]
fn nothing_happens_twice_and_nothing_is_oversold() {
    let twice = [entry("sold", "sale-2", -2, 3), entry("sold", "sale-2", -2, 1)];
    assert!(follow(Occasion::Operation(&["sale-2"]), &twice).is_err());
    let few =
        go_on(stocked(), Occasion::Operation(&["sale"]), &[entry("sold", "sale", -4, 1)]).expect("there are enough");
    assert!(go_on(few, Occasion::Operation(&["sale-2"]), &[entry("sold", "sale-2", -2, -1)]).is_err());
}

#[test]
fn a_change_reaches_the_item_and_a_notice_follows_little_stock() {
    let told = entry("item_changed", "rename", 0, 5);
    assert!(follow(Occasion::Operation(&["rename"]), std::slice::from_ref(&told)).is_err(), "it is still Ale");
    let mut after = item(5);
    (after["name"], after["discontinued"]) = ("Beer".into(), true.into());
    assert!(follow(Occasion::Operation(&["rename"]), &[with(told, "item", after)]).is_ok());
    let few = follow(Occasion::Operation(&["sale"]), &[entry("sold", "sale", -4, 1)]).expect("there are enough");
    let mut low = item(1);
    (low["lowAt"], low["low"]) = (2.into(), true.into());
    let change = with(entry("item_changed", "watch", 0, 1), "item", low);
    let notice = entry("low_stock", "watch", 0, 1);
    assert!(go_on(few.clone(), Occasion::Operation(&["watch"]), std::slice::from_ref(&change)).is_err());
    assert!(go_on(few, Occasion::Operation(&["watch"]), &[change, notice]).is_ok());
}

#[test]
fn a_purchase_is_confirmed_in_time_and_while_there_are_units() {
    let confirmed = [entry("purchase_confirmed", ATTEMPT, -2, 3)];
    let late = Occasion::Commands { redis_now: DEADLINE + 1, refuses: None };
    assert!(follow(IN_TIME, &confirmed).is_ok());
    assert!(follow(late, &confirmed).is_err());
    assert!(follow(late, &[entry("purchase_expired", ATTEMPT, 0, 5)]).is_ok());
    assert!(follow(IN_TIME, &[entry("purchase_expired", ATTEMPT, 0, 5)]).is_err(), "there was time");
    let rejected = with(entry("purchase_rejected", ATTEMPT, 0, 5), "rejection", json!({"code": "insufficient_stock"}));
    assert!(follow(IN_TIME, &[rejected]).is_err(), "there were units");
    assert!(follow(IN_TIME, &[entry("purchase_confirmed", ATTEMPT, -1, 4)]).is_err(), "all of it or nothing");
}

/// An entry about two ales and a bun: by how much each changes, and what is left.
fn of_cart(kind: &str, operation: &str, ale: (i64, i64), bun: (i64, i64)) -> Told {
    let lines = json!([{"productId": "ale", "quantity": 2}, {"productId": "bun", "quantity": 1}]);
    let named = json!({"purchaseId": "cart", "attempt": "cart:1", "lines": lines});
    let after = with(Told { body: item(bun.1), ..entry(kind, operation, 0, 0) }, "name", "Bun".into()).body;
    let more = json!([{"productId": "bun", "delta": bun.0, "item": after}]);
    with(with(entry(kind, operation, ale.0, ale.1), "purchase", named), "more", more)
}

fn with_buns(buns: i64) -> Shop {
    let mut shop = stocked();
    shop.items.insert(name("bun"), Item { name: name("Bun"), quantity: buns, ..Item::default() });
    shop
}

#[test]
fn of_a_purchase_all_lines_are_taken_or_none_and_all_come_back() {
    let taken = |ale, bun| go_on(with_buns(1), IN_TIME, &[of_cart("purchase_confirmed", "cart:1", ale, bun)]);
    let bought = taken((-2, 3), (-1, 0)).expect("there are enough");
    assert!(taken((-2, 3), (0, 1)).is_err() && taken((0, 5), (-1, 0)).is_err(), "in part");
    let back = |ale, bun| go_on(bought.clone(), IN_TIME, &[of_cart("purchase_cancelled", "cancel-cart", ale, bun)]);
    assert!(back((2, 5), (1, 1)).is_ok());
    assert!(back((2, 5), (0, 0)).is_err() && back((0, 3), (1, 1)).is_err(), "in part");

    let rejection = |short: &[&str]| {
        let lines: Vec<Value> = short.iter().map(|product| json!({"productId": product})).collect();
        json!({"code": "insufficient_stock", "lines": lines})
    };
    let rejected = |ale, bun, short| {
        let told = of_cart("purchase_rejected", "cart:1", ale, bun);
        go_on(with_buns(0), IN_TIME, &[with(told, "rejection", rejection(short))])
    };
    assert!(rejected((0, 5), (0, 0), &["bun"]).is_ok());
    assert!(rejected((-2, 3), (0, 0), &["bun"]).is_err(), "something was taken");
    assert!(rejected((0, 5), (0, 0), &["ale"]).is_err(), "it is not short");
    assert!(go_on(with_buns(0), IN_TIME, &[of_cart("purchase_confirmed", "cart:1", (-2, 3), (-1, -1))]).is_err());
}

#[test]
fn a_cancel_gives_back_what_was_taken_and_not_what_was_picked_unless_it_is_forced() {
    let taken = follow(IN_TIME, &[entry("purchase_confirmed", ATTEMPT, -2, 3)]).expect("there are enough");
    let cancelled = |by, delta, left| [entry("purchase_cancelled", by, delta, left)];
    assert_eq!(go_on(taken.clone(), IN_TIME, &cancelled("cancel", 2, 5)).map(|shop| units(&shop)), Ok(5));
    assert!(go_on(taken.clone(), IN_TIME, &cancelled("cancel", 0, 3)).is_err(), "units stay taken");
    assert!(go_on(taken.clone(), IN_TIME, &cancelled("nobody", 2, 5)).is_err(), "nobody asked");
    let pick = [entry("purchase_picked", "pick", 0, 3)];
    let picked = go_on(taken, Occasion::Operation(&["pick"]), &pick).expect("it is confirmed");
    assert!(go_on(picked.clone(), Occasion::Operation(&["pick"]), &pick).is_err(), "twice");
    assert!(go_on(picked.clone(), IN_TIME, &cancelled("cancel", 2, 5)).is_err(), "it was picked");
    assert!(go_on(picked, IN_TIME, &cancelled("forced", 2, 5)).is_ok());
    let first = follow(IN_TIME, &cancelled("cancel", 0, 5)).expect("it was never taken");
    assert!(go_on(first, IN_TIME, &[entry("purchase_confirmed", ATTEMPT, -2, 3)]).is_err(), "it never can be");
}

#[test]
fn what_is_said_again_is_what_was_said() {
    let taken = follow(IN_TIME, &[entry("purchase_confirmed", ATTEMPT, -2, 3)]).expect("there are enough");
    let again = |kind: &str, picked: bool| Told {
        body: json!({"command": ATTEMPT, "kind": kind, "picked": picked}),
        ..entry("outcome_repeated", ATTEMPT, 0, 3)
    };
    assert!(go_on(taken.clone(), IN_TIME, &[again("purchase_confirmed", false)]).is_ok());
    assert!(go_on(taken.clone(), IN_TIME, &[again("purchase_confirmed", true)]).is_err());
    assert!(go_on(taken, IN_TIME, &[again("purchase_rejected", false)]).is_err());
}

/// The answer to a batch of three lines.
fn answer(command: &str, undone: bool, refused: &[usize]) -> Told {
    let refused: Vec<Value> =
        refused.iter().map(|index| json!({"index": index, "rejection": {"code": "insufficient_stock"}})).collect();
    let results = json!({"lines": 3, "undone": undone, "refused": refused});
    Told {
        body: json!({"command": command, "kind": "batch", "at": time(HELD_AT), "results": results}),
        ..entry("outcome_repeated", command, 0, 0)
    }
}

#[test]
fn the_lines_of_a_batch_are_done_in_their_order_and_those_that_are_not_told_were_refused() {
    let (first, last) = (entry("sold", "each/0", -2, 3), entry("sold", "each/2", -3, 0));
    let told = |entries: &[&Told]| {
        let entries: Vec<Told> = entries.iter().map(|told| (*told).clone()).collect();
        follow(IN_TIME, &entries)
    };
    let answered = answer("each", false, &[1]);
    let done = told(&[&first, &last, &answered]).expect("five are enough for two and three");
    assert_eq!(units(&done), 0);
    assert!(go_on(done.clone(), IN_TIME, std::slice::from_ref(&answered)).is_ok(), "said again");
    assert!(go_on(done, IN_TIME, &[answer("each", false, &[])]).is_err(), "said otherwise");
    assert!(told(&[&first, &last]).is_err(), "no answer");
    assert!(told(&[&first, &answer("each", false, &[1, 2])]).is_err(), "there were three for the last line");
    assert!(told(&[&last, &answered]).is_err(), "there were two for the first line");
    assert!(told(&[&first, &last, &answer("each", false, &[0])]).is_err(), "another line was refused");
    assert!(told(&[&first, &last, &answer("each", true, &[1])]).is_err(), "it was done");
    assert!(told(&[&answered]).is_err(), "nothing was done");
}

#[test]
fn of_a_batch_that_is_atomic_all_is_done_or_nothing() {
    let (first, last) = (entry("sold", "all/0", -2, 3), entry("sold", "all/2", -3, 0));
    assert_eq!(follow(IN_TIME, &[answer("all", true, &[1])]).map(|shop| units(&shop)), Ok(5));
    for refused in [&[][..], &[0], &[1, 2]] {
        assert!(follow(IN_TIME, &[answer("all", true, refused)]).is_err(), "{refused:?}");
    }
    assert!(follow(IN_TIME, &[first.clone(), last.clone(), answer("all", false, &[1])]).is_err(), "in part");
    // A restore has brought back the first line: once all were done.
    let mut restored =
        go_on(stocked(), Occasion::Operation(&["sale-2"]), &[entry("sold", "sale-2", -2, 3)]).expect("is done");
    let first = restored.done.remove("sale-2").expect("is done");
    restored.done.insert(name("all/0"), first);
    assert!(go_on(restored, IN_TIME, &[last, answer("all", false, &[1])]).is_ok());
}

#[test]
fn a_list_keeps_what_has_moved_since_and_is_counted_as_a_whole_or_not_at_all() {
    let told = |moved: Option<i64>, told: Told| Told { moved, lines_moved: vec![Some(-1), Some(0)], ..told };
    let ale = told(Some(-1), entry("counted", "list/0", -2, 3));
    let mut bun = told(Some(0), with(entry("counted", "list/1", -1, 2), "productId", "bun".into()));
    bun.body["item"]["name"] = "Bun".into();
    let answer = |undone: bool, refused: &[usize]| {
        let refused: Vec<Value> =
            refused.iter().map(|index| json!({"index": index, "rejection": {"code": "unknown_position"}})).collect();
        let results = json!({"lines": 2, "undone": undone, "refused": refused});
        told(None, with(answer("list", undone, &[]), "results", results))
    };
    let counted = |entries: &[Told]| go_on(with_buns(3), IN_TIME, entries);
    let done = counted(&[ale.clone(), bun.clone(), answer(false, &[])]).expect("one ale was sold since");
    assert_eq!((done.items["ale"].quantity, done.items["bun"].quantity), (3, 2));
    let lost = told(Some(-1), entry("counted", "list/0", -1, 4));
    assert!(counted(&[lost, bun.clone(), answer(false, &[])]).is_err(), "the sale is lost");
    assert!(counted(&[ale.clone(), answer(false, &[])]).is_err(), "a line is left out");
    assert!(counted(&[ale, answer(false, &[1])]).is_err(), "in part");
    assert!(counted(&[answer(true, &[0, 1])]).is_err(), "the place is known");
    let unknown = Told { lines_moved: vec![None, None], ..answer(true, &[0, 1]) };
    assert!(counted(&[unknown]).is_ok(), "of another epoch");
}

#[test]
fn a_state_that_is_told_is_all_there_is() {
    let page = |quantity: i64, outcomes: Value| Told {
        body: json!({"items": [{"productId": "ale", "item": item(quantity)}], "outcomes": outcomes}),
        ..entry("snapshot_page", "snapshot", 0, 0)
    };
    let end = entry("snapshot_end", "snapshot", 0, 0);
    let taken = follow(IN_TIME, &[entry("purchase_confirmed", ATTEMPT, -2, 3)]).expect("there are enough");
    let kept = json!([{"command": ATTEMPT, "kind": "purchase_confirmed"}]);
    let told = |page: Told| go_on(taken.clone(), Occasion::Opening, &[page, end.clone()]);
    assert!(told(page(3, kept.clone())).is_ok());
    assert!(told(page(4, kept)).is_err(), "a unit too many");
    assert!(told(page(3, json!([]))).is_err(), "an outcome is left out");
    let other = json!([{"command": ATTEMPT, "kind": "purchase_confirmed"}, {"command": "x", "kind": "received"}]);
    assert!(told(page(3, other)).is_err(), "an outcome of nothing");
}

/// When units are held, ms after the beginning of time.
const HELD_AT: i64 = 5_000;

fn time(ms: i64) -> String {
    protocol::time::Millis(ms).to_string()
}

/// An entry at this time about the three ales that are held until then, which leaves so many, and so many of them held.
fn of_hold(kind: &str, operation: &str, at: i64, status: &str, until: i64, figures: (i64, i64, i64)) -> Told {
    let (delta, left, reserved) = figures;
    let lines = |quantity: i64| json!([{"productId": "ale", "quantity": quantity}]);
    let mut told = with(entry(kind, operation, delta, left), "recordedAt", time(at).into());
    told.body["item"]["reserved"] = reserved.into();
    let (made, until) = (time(HELD_AT), time(until));
    told.body["reservation"] =
        json!({"id": "held", "lines": lines(3), "createdAt": made, "expiresAt": until, "status": status});
    if status == "confirmed" {
        told.body["reservation"]["confirmedLines"] = lines(-delta);
    }
    told
}

fn reserved() -> Told {
    of_hold("reserved", "hold", HELD_AT, "open", HELD_AT + 1_000, (0, 5, 3))
}

fn held() -> Shop {
    follow(Occasion::Operation(&["hold"]), &[reserved()]).expect("there are enough")
}

fn cancelled(at: i64, reserved: i64) -> Told {
    of_hold("reservation_cancelled", "free", at, "cancelled", HELD_AT + 1_000, (0, 5, reserved))
}

#[test]
fn what_is_held_is_sold_to_nobody_else_until_its_time_is_over() {
    let sale = |at| with(entry("sold", "sale-2", -2, 3), "recordedAt", time(at).into());
    let few = |at, reserved: i64| {
        let mut told = sale(at);
        told.body["item"]["reserved"] = reserved.into();
        go_on(held(), Occasion::Operation(&["sale-2"]), &[told])
    };
    assert!(few(HELD_AT, 3).is_ok());
    assert!(few(HELD_AT, 0).is_err(), "they are still held");
    assert!(few(HELD_AT + 1_000, 3).is_err(), "they are no longer held");
    let four = with(entry("sold", "sale", -4, 1), "recordedAt", time(HELD_AT).into());
    assert!(go_on(held(), Occasion::Operation(&["sale"]), &[four]).is_err(), "two are free");
    let end = |at| of_hold("reservation_expired", "held:expired", at, "expired", HELD_AT + 1_000, (0, 5, 0));
    assert!(go_on(held(), Occasion::Sweep, &[end(HELD_AT + 999)]).is_err(), "it has time");
    let over = [end(HELD_AT + 1_000), sale(HELD_AT + 1_000)];
    assert_eq!(go_on(held(), Occasion::Operation(&["sale-2"]), &over).map(|shop| units(&shop)), Ok(3));
}

/// Two reservations of ale, of three units and of one; the second was made later.
fn held_twice() -> Shop {
    let mut shop = held();
    let second = Held { lines: vec![(name("ale"), 1)], made_at: HELD_AT + 1, ..shop.holds["held"].clone() };
    shop.holds.insert(name("second"), second);
    shop.items.get_mut("ale").expect("there is ale").reserved = 4;
    shop
}

/// A reservation ends for want of ale; so many of five are held then.
fn fallen(reservation: &str, reserved: i64) -> [Told; 2] {
    let mut ended = Told { operation: format!("{reservation}-ends").into(), ..cancelled(HELD_AT, reserved) };
    ended.body["reservation"]["id"] = reservation.into();
    if reservation == "second" {
        ended.body["reservation"]["createdAt"] = time(HELD_AT + 1).into();
        ended.body["reservation"]["lines"] = json!([{"productId": "ale", "quantity": 1}]);
    }
    let mut short = with(entry("shortage", &format!("{reservation}-short"), 0, 5), "reservationId", reservation.into());
    short.body["item"]["reserved"] = reserved.into();
    [ended, short]
}

#[test]
fn a_count_is_the_truth_and_ends_as_many_of_the_youngest_as_it_must() {
    let counted = |operation: &str, left: i64, reserved: i64| {
        let kind = if operation == "broken" { "adjusted" } else { "counted" };
        let mut told = with(entry(kind, operation, left - 5, left), "recordedAt", time(HELD_AT).into());
        told.body["item"]["reserved"] = reserved.into();
        told
    };
    let count = |ended: &[[Told; 2]], reserved| {
        let entries = [ended.concat(), vec![counted("count", 2, reserved)]].concat();
        go_on(held_twice(), Occasion::Operation(&["count"]), &entries)
    };
    let (young, old) = (fallen("second", 3), fallen("held", 0));
    let both = count(&[young.clone(), old.clone()], 0).expect("the youngest end first");
    assert_eq!((units(&both), both.items["ale"].available()), (2, 2));
    assert!(count(&[], 4).is_err(), "more is held than there is");
    assert!(count(std::slice::from_ref(&young), 3).is_err(), "it takes both");
    assert!(count(&[fallen("held", 1)], 1).is_err(), "the older one ends");
    let unnamed = [young[0].clone(), old[0].clone(), old[1].clone(), counted("count", 2, 0)];
    assert!(go_on(held_twice(), Occasion::Operation(&["count"]), &unnamed).is_err(), "one is not named");
    let names_other = [young[0].clone(), old[1].clone(), counted("count", 2, 0)];
    assert!(go_on(held_twice(), Occasion::Operation(&["count"]), &names_other).is_err());
    let few = |operation, ended: &[Told], left, reserved| {
        let entries = [ended.to_vec(), vec![counted(operation, left, reserved)]].concat();
        go_on(held(), Occasion::Operation(&[operation]), &entries)
    };
    assert!(few("broken", &old, 1, 0).is_ok(), "what is broken is told as well");
    let mut free = held();
    free.items.get_mut("ale").expect("there is ale").quantity = 9;
    let nothing_is_missing = [old.to_vec(), vec![counted("broken", 5, 0)]].concat();
    assert!(go_on(free, Occasion::Operation(&["broken"]), &nothing_is_missing).is_err(), "three are left for three");
    assert!(follow(Occasion::Operation(&["count"]), &young).is_err(), "nothing is held");
    assert!(go_on(held_twice(), Occasion::Operation(&["count"]), &young).is_err(), "no count follows");
}

#[test]
fn what_left_after_a_shelf_was_counted_is_counted_too() {
    let few = follow(Occasion::Operation(&["sale"]), &[entry("sold", "sale", -4, 1)]).expect("there are enough");
    let enter = |moved, delta, left| {
        let told = Told { moved, ..entry("counted", "earlier", delta, left) };
        go_on(few.clone(), Occasion::Operation(&["earlier"]), &[told])
    };
    assert!(enter(Some(-4), 0, 1).is_ok(), "it was counted rightly");
    assert!(enter(Some(-4), 4, 5).is_err(), "what was sold since comes back");
    assert!(enter(Some(-5), -1, 0).is_ok(), "one was missing");
    assert!(enter(None, 0, 1).is_err(), "the log has no such place");
}

#[test]
fn a_reservation_ends_once_and_in_time() {
    let took = |at, figures| of_hold("reservation_confirmed", "take", at, "confirmed", HELD_AT + 1_000, figures);
    let take = |at, figures| go_on(held(), Occasion::Operation(&["take"]), &[took(at, figures)]);
    let part = take(HELD_AT, (-2, 3, 0)).expect("two of three");
    assert!(take(HELD_AT, (-2, 3, 1)).is_err(), "the rest stays held");
    assert!(take(HELD_AT, (-3, 2, 0)).is_err(), "more than was asked for");
    assert!(take(HELD_AT + 1_000, (-2, 3, 0)).is_err(), "too late");
    assert!(go_on(held(), Occasion::Operation(&["free"]), &[cancelled(HELD_AT, 0)]).is_ok());
    assert!(go_on(held(), Occasion::Operation(&["free"]), &[cancelled(HELD_AT, -3)]).is_err(), "freed twice");
    assert!(go_on(part, Occasion::Operation(&["free"]), &[cancelled(HELD_AT, 0)]).is_err(), "it has ended");
    assert!(go_on(held(), Occasion::Operation(&["hold"]), &[reserved()]).is_err(), "it is held");
    let late = Occasion::Commands { redis_now: DEADLINE + 1, refuses: None };
    let asked = with(with(reserved(), "command", "reserve".into()), "recordedAt", time(HELD_AT).into());
    let asked = Told { operation: name("reserve"), ..asked };
    assert!(follow(IN_TIME, std::slice::from_ref(&asked)).is_ok());
    assert!(follow(late, &[asked]).is_err(), "the store heard of it too late");
}

#[test]
fn a_restore_holds_again_what_is_free_and_nothing_twice() {
    let again = |live: Shop, told: Told| go_on(live, Occasion::Restore { own: &held() }, &[told]);
    assert!(again(stocked(), reserved()).is_ok());
    assert!(again(stocked(), cancelled(HELD_AT, 0)).is_err(), "they are free");
    let few = follow(Occasion::Operation(&["sale"]), &[entry("sold", "sale", -4, 1)]).expect("there are enough");
    let mut ended = Told { operation: name("hold"), ..cancelled(HELD_AT, 0) };
    ended.body["item"] = Value::Null;
    assert!(again(few, ended).is_ok(), "one is left");
    let extended = |until| {
        let mut told = of_hold("reservation_extended", "extend", HELD_AT, "open", until, (0, 5, 3));
        told.body["item"] = Value::Null;
        told
    };
    let own = go_on(held(), Occasion::Operation(&["extend"]), &[extended(HELD_AT + 2_000)]).expect("it is open");
    let restored = |told| go_on(held(), Occasion::Restore { own: &own }, &[told]);
    assert!(restored(extended(HELD_AT + 2_000)).is_ok());
    assert!(restored(extended(HELD_AT + 1_000)).is_err(), "the extension is lost");
    let twice = of_hold("reserved", "extend", HELD_AT, "open", HELD_AT + 2_000, (0, 5, 6));
    assert!(restored(twice).is_err());
}

#[test]
fn a_state_names_what_is_held() {
    let mut stock = item(5);
    stock["reserved"] = 3.into();
    let told = |held: Value| {
        let body = json!({"items": [{"productId": "ale", "item": stock}], "reservations": held});
        let page = Told { body, ..entry("snapshot_page", "snapshot", 0, 0) };
        go_on(self::held(), Occasion::Opening, &[page, entry("snapshot_end", "snapshot", 0, 0)])
    };
    assert!(told(json!([reserved().body["reservation"]])).is_ok());
    assert!(told(json!([])).is_err());
}

/// A copy that sold four while the store itself sold two.
fn restored(entries: &[Told]) -> Result<Shop, String> {
    let own = follow(Occasion::Operation(&["sale"]), &[entry("sold", "sale", -4, 1)]).expect("there are enough");
    let live = follow(Occasion::Operation(&["sale-2"]), &[entry("sold", "sale-2", -2, 3)]).expect("there are enough");
    go_on(live, Occasion::Restore { own: &own }, entries)
}

#[test]
fn a_restore_records_again_what_happened_and_finds_what_is_missing() {
    let shortage = |units| entry("shortage", "short", units, 3 + units);
    let all = restored(&[shortage(1), entry("sold", "sale", -4, 0)]).expect("one was missing");
    assert_eq!((units(&all), all.done.len()), (0, 3));
    assert!(restored(&[entry("sold", "sale", -3, 0)]).is_err(), "what was missing is left out");
    assert!(restored(&[shortage(2), entry("sold", "sale", -4, 1)]).is_err(), "too much was missing");
    assert!(restored(&[shortage(1)]).is_err(), "and nobody wanted it");
    assert!(restored(&[entry("sold", "sale-2", -2, 1)]).is_err(), "central has it");
    let same = entry("shortage", "sale", 1, 4);
    assert!(restored(&[same, entry("sold", "sale", -4, 0)]).is_err(), "the two cannot be told apart");
    let nothing = restored(&[]).expect("nothing is recorded again");
    let own = follow(Occasion::Operation(&["sale"]), &[entry("sold", "sale", -4, 1)]).expect("there are enough");
    assert_eq!(nothing.lacks(&own).collect::<Vec<_>>(), [&name("sale")]);
}

#[test]
fn the_word_on_a_purchase_stands_but_for_its_cancel() {
    let taken = follow(IN_TIME, &[entry("purchase_confirmed", ATTEMPT, -2, 3)]).expect("there are enough");
    let cancelled = go_on(taken.clone(), IN_TIME, &[entry("purchase_cancelled", "cancel", 2, 5)]).expect("may be");
    assert_eq!(cancelled.unsays(&taken).count(), 0);
    assert_eq!(taken.unsays(&cancelled).count(), 1);
    assert_eq!(stocked().unsays(&taken).count(), 1);
}

/// Two ales of five go from this store to another one, and two come here.
fn transfers() -> Book {
    let mut book = book();
    for (transfer, from, to) in [("out", STORE, "s1"), ("in", "s1", STORE)] {
        let (from, to, lines) = (name(from), name(to), vec![(name("ale"), 2)]);
        book.transfers.insert(name(transfer), Transfer { from, to, lines, auto: false, deadline: DEADLINE });
    }
    book.ships.insert(name("ship"), name("out"));
    book.announces.insert(name("announce"), (name(STORE), name("in")));
    for (operation, lines) in [("whole", None), ("part", Some(1)), ("beyond", Some(3)), ("another", None)] {
        let lines = lines.map(|units| vec![(name("ale"), units)]);
        let (store, transfer) = (name(STORE), name("in"));
        book.receipts.insert(name(operation), Receipt { store, transfer, lines, by: By::Store });
    }
    book
}

fn of_transfer(transfer: &str, operation: &str, received: Option<i64>, delta: i64, left: i64) -> Told {
    let lines = |units: i64| json!([{"productId": "ale", "quantity": units}]);
    let mut body = json!({"id": transfer, "lines": lines(2), "status": "shipped"});
    if let Some(units) = received {
        (body["status"], body["receivedLines"]) = ("received".into(), lines(units));
    }
    let kind = if received.is_some() { "transfer_received" } else { "transfer_shipped" };
    with(entry(kind, operation, delta, left), "transfer", body)
}

#[test]
fn units_leave_in_time_and_arrive_once_and_never_more_of_them() {
    let follow = |mut shop: Shop, occasion: Occasion<'_>, told: Told| {
        let mut reading = Reading::default();
        shop.follow(STORE, &told, &transfers(), occasion, &mut reading)?;
        reading.finish().map(|()| shop)
    };
    let commands = |redis_now| Occasion::Commands { redis_now, refuses: None };
    let ship = |delta, left| with(of_transfer("out", "ship", None, delta, left), "command", "ship".into());
    let left = follow(stocked(), commands(DEADLINE), ship(-2, 3)).expect("in time");
    assert!(follow(left, commands(DEADLINE), ship(-2, 1)).is_err(), "twice");
    assert!(follow(stocked(), commands(DEADLINE + 1), ship(-2, 3)).is_err(), "too late");
    assert!(follow(stocked(), commands(DEADLINE), ship(-1, 4)).is_err(), "fewer than were asked for");

    let announced = {
        let body = json!({"command": "announce", "kind": "transfer_shipped", "transfer": of_transfer("in", "", None, 0, 0).body["transfer"]});
        let told = Told { body, ..entry("outcome_repeated", "announce", 0, 5) };
        follow(stocked(), commands(0), told).expect("nothing moves")
    };
    let book_in = |shop: &Shop, operation: &str, received, left| {
        let told = of_transfer("in", operation, Some(received), received, left);
        follow(shop.clone(), Occasion::Operation(&[operation]), told)
    };
    assert!(book_in(&stocked(), "whole", 2, 7).is_err(), "it was not announced");
    assert!(book_in(&announced, "whole", 1, 6).is_err(), "a part of what was said");
    assert!(book_in(&announced, "beyond", 3, 8).is_err(), "more than was shipped");
    assert!(book_in(&announced, "part", 1, 6).is_ok());
    let received = book_in(&announced, "whole", 2, 7).expect("is on its way");
    assert!(book_in(&received, "another", 2, 9).is_err(), "twice");
    // A restore records it again, unless that is known.
    let restored = |shop: &Shop, delta, left| {
        let told = of_transfer("in", "whole", Some(2), delta, left);
        follow(shop.clone(), Occasion::Restore { own: &received }, told)
    };
    assert!(restored(&announced, 2, 7).is_ok());
    let elsewhere = book_in(&announced, "another", 2, 7).expect("is on its way");
    assert!(restored(&elsewhere, 2, 9).is_err(), "another copy has booked it in");
}

#[test]
fn a_human_s_choice_excuses_the_transfers_of_which_it_has_forgotten_something_and_no_other() {
    let central = rusqlite::Connection::open_in_memory().expect("a database in memory");
    central.execute_batch("create table transfer (transfer_id text, status text, body text)").expect("is valid");
    let sent = Sent { lines: vec![(name("ale"), 2)], received: None };
    let shop = |known: &[&str]| {
        let sent = known.iter().map(|transfer| (name(transfer), sent.clone())).collect();
        std::rc::Rc::new(Shop { sent, ..Shop::default() })
    };
    // It is on its way to the other store, and has not left this one.
    let shops = std::collections::BTreeMap::from([(name(STORE), shop(&[])), (name("s1"), shop(&["out"]))]);
    central.execute("insert into transfer values ('out', 'shipped', '{}')", []).expect("writes");
    let mut oracle = Oracle::default();
    oracle.book = transfers();
    oracle.book.transfers.remove("in");
    oracle.choose(STORE, 7);
    let found = |oracle: &Oracle| {
        let mut found = Vec::new();
        oracle.conclude_transfers(&central, &shops, &mut found).expect("can be read");
        found
    };
    assert_eq!(found(&oracle).len(), 1, "nothing of it was forgotten");
    oracle.disown(&shop(&["out"]), &shop(&[]));
    assert_eq!(found(&oracle), [] as [String; 0], "it had left in the state that was given up");
}

#[test]
fn a_purchase_is_refused_for_a_reason_that_there_was_and_told_as_the_store_has_said() {
    let answer = |status: u16, code: &str, purchase: Option<&str>| {
        let body = json!({"code": code, "purchaseId": purchase});
        Answer { status, is_replay: false, position: None, etag: None, body }
    };
    let refusals = [name("insufficient_stock")];
    let buying = Buying {
        purchase: None,
        code: None,
        refusals: &refusals,
        is_other: false,
        is_replay: false,
        waited_ms: 0,
        patience_ms: 0,
    };
    assert!(buying.judge(&answer(409, "insufficient_stock", None)).is_ok());
    assert!(buying.judge(&answer(503, "store_unavailable", None)).is_err(), "the store could be asked");
    assert!(buying.judge(&answer(404, "insufficient_stock", None)).is_err(), "a code has one status");
    let told = |code| Buying { purchase: Some((PURCHASE, "rejected")), code: Some(code), ..buying };
    assert!(told("discontinued").judge(&answer(409, "discontinued", Some(PURCHASE))).is_ok());
    assert!(told("discontinued").judge(&answer(409, "insufficient_stock", Some(PURCHASE))).is_err());
}
