//! Online purchases: asked by the shop, settled by the store (rules B1 to B6).
//!
//! A purchase is `pending` until the store's answer is applied, then has one outcome for ever, but that a confirmed
//! one may be cancelled until it is picked. While it is pending its units are left out of `onlineAvailable`. What an
//! answer, a cancel or retiring a store makes of it is [`protocol::promise::purchase`]'s to say.

use protocol::domain::{Item, Line, Lines, Rejection};
use protocol::ids::{OperationId, PurchaseId, StoreId};
use protocol::link::{Commands, EntryId};
use protocol::planted::{Bug, planted};
use protocol::promise::policy::Policy;
use protocol::promise::purchase::{Cancelling, Status, Transition};
use protocol::time::Millis;
use protocol::wire::{About, Became, Command, Outcome, Position, PurchaseRef};
use runtime::sqlite::Abort;

use crate::promises::allotments;
use crate::storage::commands;
use crate::storage::items;
use crate::storage::purchases::{self, Attempt, Choice, Purchase};
use crate::storage::retention::COMMANDS_MS;
use crate::storage::stores::Store;
use crate::storage::{Connection, JobResult};

/// What the shop asks for, and what was read before the transaction.
#[derive(Debug, Clone)]
pub struct PurchaseRequest {
    /// The new purchase's id.
    pub id: PurchaseId,
    /// All of it, or nothing.
    pub lines: Lines,
    /// The shop's customer.
    pub customer: Option<String>,
    /// Who asked, and the shop's order number.
    pub about: About,
    /// Time to live, ms.
    pub ttl_ms: i64,
    /// Redis's clock, read with the store's heartbeat (B1).
    pub redis_now: Millis,
    /// How the store was chosen; none: the shop named it.
    pub policy: Option<Policy>,
}

/// What has become of a purchase that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The store decides.
    Asked,
    /// Central has confirmed it: the store has set aside all of it for that (B11).
    Sold,
    /// Not all of it is set aside, and the store was not to be asked for anything else.
    NotCovered,
}

/// B1, B11: the purchase and its command, in one transaction. `covered_only`: the store cannot be asked, so nothing happens
/// unless what it has set aside covers all of it.
pub fn begin(
    connection: &Connection,
    store: &mut Store,
    ask: &PurchaseRequest,
    covered_only: bool,
    now: Millis,
) -> Result<Begun, Abort<Rejection>> {
    judge(connection, &store.id, &ask.lines)?.map_err(Abort::Refused)?;
    let covered = allotments::cover(connection, store, &ask.lines)?;
    let is_sold = store.is_trusted() && covered.as_ref() == Some(&ask.lines);
    if covered_only && !is_sold {
        return Ok(Begun::NotCovered);
    }
    let (mut purchase, command) = asked(&store.id, ask, covered, is_sold, now);
    if is_sold {
        change(&mut purchase, Transition::Sold, &Basis::NONE, now);
    }
    purchases::insert(connection, &purchase)?;
    commands::append(connection, store, &purchase.attempt, &command, now)?;
    note_turn(connection, &purchase, now)?;
    Ok(if is_sold { Begun::Sold } else { Begun::Asked })
}

fn note_turn(connection: &Connection, purchase: &Purchase, now: Millis) -> JobResult<()> {
    match purchase.choice.as_ref().and_then(|choice| choice.policy) {
        Some(Policy::RoundRobin) => purchases::save_turn(connection, &purchase.lines, &purchase.store, now),
        Some(Policy::HighestAvailable | Policy::LowestLatency) | None => Ok(()),
    }
}

/// B6: the next attempt of a purchase that seeks a store, in one transaction: whoever looks finds it with the one store or
/// with the other. `false`: it no longer seeks one, or this one has refused.
pub fn ask_elsewhere(
    connection: &Connection,
    store: &mut Store,
    id: PurchaseId,
    now: Millis,
) -> Result<bool, Abort<Rejection>> {
    let Some(mut purchase) = purchases::find(connection, id)? else { return Ok(false) };
    let Some(choice) = purchase.choice.as_ref().filter(|choice| choice.seeking) else { return Ok(false) };
    if choice.refused.iter().any(|refused| refused.store == store.id) {
        return Ok(false);
    }
    judge(connection, &store.id, &purchase.lines)?.map_err(Abort::Refused)?;
    let about = asked_about(connection, &purchase)?;
    let deadline = choice.deadline;
    if !planted(Bug::NextStoreNotNoted) {
        purchase.attempt = OperationId::attempt_at(&id, &store.id);
        purchase.store = store.id.clone();
    }
    change(&mut purchase, Transition::AskedElsewhere, &Basis::NONE, now);
    let from_allotment = allotments::cover(connection, store, &purchase.lines)?;
    let is_sold = store.is_trusted() && from_allotment.as_ref() == Some(&purchase.lines);
    if is_sold {
        change(&mut purchase, Transition::Sold, &Basis::NONE, now);
    }
    purchases::save_transition(connection, &purchase)?;
    let attempt = OperationId::attempt_at(&id, &store.id);
    let attempt = PurchaseRef { attempt, from_allotment, ..purchase.attempt_ref() };
    let deadline = (!is_sold).then_some(deadline);
    if !planted(Bug::NextStoreNotAsked) {
        let command = Command::Purchase { purchase: attempt.clone(), deadline, about };
        commands::append(connection, store, &attempt.attempt, &command, now)?;
    }
    note_turn(connection, &purchase, now)?;
    Ok(true)
}

/// Who asked for it, and in which trace.
fn asked_about(connection: &Connection, purchase: &Purchase) -> JobResult<About> {
    Ok(match commands::command(connection, &purchase.attempt)? {
        Some(Command::Purchase { about, .. }) => about,
        // The request is forgotten sooner than the purchase.
        Some(_) | None => About { reference: purchase.reference.clone(), ..About::default() },
    })
}

/// L10: the state that the store has now does not know of this outcome, by which it had taken units for a buyer. While they
/// wait to be picked it is asked to take them, under the same name, so that it does so once whichever of its states it has; it
/// does not refuse that (B11). What is as old as what a store forgets by itself may have been picked at one that central has
/// not heard of.
pub(crate) fn ask_again(connection: &Connection, store: &mut Store, forgotten: &Outcome, now: Millis) -> JobResult<()> {
    let Became::Confirmed { purchase, .. } = &forgotten.became else { return Ok(()) };
    let Some(mut purchase) = purchases::find(connection, purchase.purchase_id)? else { return Ok(()) };
    let is_present = purchase.store == store.id && purchase.attempt == forgotten.command;
    let transition = purchase.life().on_forgotten();
    if !is_present || transition == Transition::Stands || forgotten.at.plus(COMMANDS_MS) < now {
        return Ok(());
    }
    let about = asked_about(connection, &purchase)?;
    change(&mut purchase, transition, &Basis::NONE, now);
    if store.retired {
        // It is told nothing.
        let transition = purchase.life().on_retire();
        change(&mut purchase, transition, &Basis::NONE, now);
        return purchases::save_transition(connection, &purchase);
    }
    purchases::save_transition(connection, &purchase)?;
    let from_allotment = allotments::cover(connection, store, &purchase.lines)?;
    let purchase = PurchaseRef { from_allotment, ..purchase.attempt_ref() };
    let attempt = purchase.attempt.clone();
    commands::forget(connection, &attempt)?;
    commands::append(connection, store, &attempt, &Command::Purchase { purchase, deadline: None, about }, now)
}

/// B6: no other store can be asked: the last refusal is the answer. Says whether it still sought one.
pub fn give_up(connection: &Connection, id: PurchaseId, now: Millis) -> JobResult<bool> {
    let Some(mut purchase) = purchases::find(connection, id)?.filter(|purchase| purchase.life().seeking) else {
        return Ok(false);
    };
    let rejected = Transition::Settled { status: Status::Rejected, picked: false };
    change(&mut purchase, rejected, &Basis::NONE, now);
    purchases::save_transition(connection, &purchase)?;
    Ok(true)
}

/// The purchase and the command that asks for it. `covered`: what the store has set aside for it; `is_sold`: it is confirmed
/// by that.
fn asked(
    store: &StoreId,
    ask: &PurchaseRequest,
    covered: Option<Lines>,
    is_sold: bool,
    now: Millis,
) -> (Purchase, Command) {
    let asked = PurchaseRef {
        purchase_id: ask.id,
        attempt: match ask.policy {
            Some(_) => OperationId::attempt_at(&ask.id, store),
            None => OperationId::attempt(&ask.id, 1),
        },
        lines: ask.lines.clone(),
        from_allotment: covered,
        reference: ask.about.reference.clone(),
        created_at: now,
        expires_at: now.plus(ask.ttl_ms),
    };
    let asked_at = if planted(Bug::DeadlineByOwnClock) { now } else { ask.redis_now };
    let deadline = asked_at.plus(ask.ttl_ms);
    let choice =
        ask.policy.map(|policy| Choice { policy: Some(policy), deadline, refused: Vec::new(), seeking: false });
    let purchase = Purchase { customer: ask.customer.clone(), choice, ..pending_one(store, &asked) };
    let deadline = (!is_sold || planted(Bug::SoldHasDeadline)).then_some(deadline);
    (purchase, Command::Purchase { purchase: asked, deadline, about: ask.about.clone() })
}

/// Whether central has as much of each line to promise.
pub(crate) fn judge(connection: &Connection, store: &StoreId, lines: &Lines) -> JobResult<Result<(), Rejection>> {
    let known = items::of_lines(connection, store, lines)?;
    Ok(lines.each(|line| would_sell(line, known.get(&line.product_id))).map(drop))
}

/// Whether central has as much of one line to promise. `known`: the store's item, and what is pending of it.
pub(crate) fn would_sell(line: &Line, known: Option<&(Item, i64)>) -> Result<(), Rejection> {
    let (item, pending) = known.ok_or(Rejection::UnknownProduct)?;
    if item.discontinued {
        return Err(Rejection::Discontinued);
    }
    let (requested, available) = (line.quantity.get(), items::online_available(item, *pending));
    match requested <= available {
        true => Ok(()),
        false if planted(Bug::ShortCalledDiscontinued) => Err(Rejection::Discontinued),
        false => Err(Rejection::insufficient(item, requested, available)),
    }
}

/// As B3 makes it known again. If central had chosen the store, others may have been asked: one that took the units says so
/// within a while, and no more are asked.
pub(crate) fn known_again(store: &StoreId, asked: &PurchaseRef) -> Purchase {
    let choice = Choice { policy: None, deadline: asked.expires_at, refused: Vec::new(), seeking: false };
    Purchase { choice: asked.attempt.is_of_chosen_store().then_some(choice), ..pending_one(store, asked) }
}

/// As it begins.
fn pending_one(store: &StoreId, asked: &PurchaseRef) -> Purchase {
    Purchase {
        number: 0,
        id: asked.purchase_id,
        store: store.clone(),
        lines: asked.lines.clone(),
        attempt: asked.attempt.clone(),
        status: Status::Pending,
        code: None,
        reference: asked.reference.clone(),
        customer: None,
        created_at: asked.created_at,
        expires_at: asked.expires_at,
        cancel_requested_at: None,
        settled_at: None,
        picked_at: None,
        position: None,
        choice: None,
    }
}

/// What a refusal says that does not say why.
const NO_STOCK: &str = "insufficient_stock";

/// What a cancel did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// The store was asked, now or before, under this command.
    Asked(OperationId),
    /// It had ended before; nothing to do.
    Ended,
}

/// B5: asks the purchase's store to cancel, in order. From now on a pending purchase can never end `confirmed`.
pub fn cancel(
    connection: &Connection,
    store: &mut Store,
    purchase: &Purchase,
    id: OperationId,
    about: &About,
    now: Millis,
) -> Result<Cancelled, Abort<Rejection>> {
    // Another store may have been asked for units that it took besides.
    let asked = commands::unanswered_cancels(connection, &store.id, purchase.id)?.into_iter().next();
    let forced = match purchase
        .life()
        .on_cancel(store.retired, asked.is_some() && !planted(Bug::CancelAskedAgain))
        .map_err(Abort::Refused)?
    {
        Cancelling::Ended => return Ok(Cancelled::Ended),
        Cancelling::AtOnce => {
            let mut purchase = purchase.clone();
            let cancelled = Transition::Settled { status: Status::Cancelled, picked: false };
            change(&mut purchase, cancelled, &Basis::NONE, now);
            if !planted(Bug::CancelWhileSeekingForgotten) {
                purchases::save_transition(connection, &purchase)?;
            }
            return Ok(Cancelled::Ended);
        }
        Cancelling::Asked => return Ok(asked.map_or(Cancelled::Ended, Cancelled::Asked)),
        Cancelling::Ask { forced } => forced,
    };
    let mut purchase = purchase.clone();
    let out_of_order = forced && planted(Bug::CancelOutOfOrder);
    let ended = Transition::Settled { status: Status::Cancelled, picked: false };
    let transition = if out_of_order { ended } else { Transition::CancelRequested };
    change(&mut purchase, transition, &Basis::NONE, now);
    purchases::save_transition(connection, &purchase)?;
    if !out_of_order && !planted(Bug::CancelForgotten) {
        let command = Command::Cancel { purchase: purchase.attempt_ref(), forced, about: about.clone() };
        commands::append(connection, store, &id, &command, now)?;
    }
    Ok(Cancelled::Asked(id))
}

/// What a transition rests upon: the store's reply, if it was one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Basis<'a> {
    /// Where the reply stands.
    pub(crate) position: Option<&'a Position>,
    /// Why not, if it gave a reason.
    pub(crate) rejection: Option<&'a Rejection>,
}

impl Basis<'_> {
    /// Central's own decision.
    pub(crate) const NONE: Self = Self { position: None, rejection: None };
}

/// Makes of a purchase what a transition says. The caller saves it, and sees to the units that are to be given back.
pub(crate) fn change(purchase: &mut Purchase, transition: Transition, basis: &Basis<'_>, now: Millis) {
    let life = purchase.life().after(transition);
    match transition {
        Transition::Stands | Transition::Compensate => return,
        Transition::Settled { status, .. } => {
            purchase.code = match status {
                Status::Pending | Status::Confirmed => None,
                Status::Rejected => {
                    let said = basis.rejection.map(|rejection| rejection.code().to_owned());
                    // One for which no other store is found says what the last one said.
                    let last = purchase.choice.as_ref().and_then(|choice| choice.refused.last());
                    said.or_else(|| last.map(|last| last.code.clone())).or_else(|| Some(NO_STOCK.to_owned()))
                }
                Status::Expired => Some("purchase_expired".to_owned()),
                Status::Cancelled => Some("purchase_cancelled".to_owned()),
            };
            purchase.settled_at = Some(now);
            // What central ends itself ends with what the last store said.
            purchase.position = basis.position.cloned().or(purchase.position.take());
        }
        Transition::CancelEnded { confirmed: true } => {
            (purchase.code, purchase.settled_at, purchase.position) = (None, Some(now), basis.position.cloned());
        }
        Transition::Seeks => {
            let code = basis.rejection.map_or(NO_STOCK, Rejection::code).to_owned();
            let refused = Attempt { store: purchase.store.clone(), code, at: now };
            purchase.choice.iter_mut().for_each(|choice| choice.refused.push(refused.clone()));
            purchase.position = basis.position.cloned();
        }
        Transition::AskedElsewhere => purchase.position = None,
        Transition::Sold => (purchase.code, purchase.settled_at, purchase.position) = (None, Some(now), None),
        Transition::Taken { .. } => purchase.position = basis.position.cloned(),
        Transition::AskedAgain => purchase.position = None,
        Transition::Failed => {
            purchase.code = basis.rejection.map(|rejection| rejection.code().to_owned());
            (purchase.settled_at, purchase.position) = (Some(now), basis.position.cloned());
        }
        Transition::Proven => purchase.position = basis.position.cloned(),
        Transition::Voided => (purchase.code, purchase.settled_at) = (Some("store_retired".to_owned()), Some(now)),
        Transition::Picked | Transition::CancelRequested | Transition::CancelEnded { confirmed: false } => {}
    }
    purchase.status = life.status;
    if let Some(choice) = &mut purchase.choice {
        choice.seeking = life.seeking;
    }
    purchase.cancel_requested_at = match transition {
        Transition::CancelRequested => Some(now),
        _ => purchase.cancel_requested_at.filter(|_| life.cancel_requested),
    };
    purchase.picked_at = purchase.picked_at.or(life.picked.then_some(now));
}

/// B6: the cancel that asks for the units of an attempt back. One for each time the store says that it took them: named
/// by where it stands in the command log, `at`, hence never twice. `None`: no id can be made of these.
pub(crate) fn compensation(attempt: &PurchaseRef, at: EntryId<Commands>) -> Option<(OperationId, Command)> {
    let id = OperationId::parse(&format!("{}:back:{at}", attempt.attempt)).ok()?;
    Some((id, Command::Cancel { purchase: attempt.clone(), forced: true, about: About::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::restore::reopen;
    use crate::promises::stores::retire;
    use crate::testing::{Agent, NOW, database, product, purchase_id};
    use protocol::domain::Quantity;
    use protocol::number::CommandEpoch;
    use protocol::wire::{Event, Fact, Happened, ItemAfter, Subject};

    /// Two stores, each with ten units of tea.
    fn stores(connection: &Connection) -> [Agent; 2] {
        ["s1", "s2"].map(|id| Agent::settled(id, connection))
    }

    fn tea() -> Lines {
        Lines::one(product("tea"), Quantity::ONE)
    }

    fn found(connection: &Connection) -> Purchase {
        purchases::find(connection, purchase_id(1)).expect("reads").expect("is there")
    }

    /// Begins a purchase of a unit of tea, for which central has chosen this store.
    fn begin_at(connection: &Connection, agent: &Agent) -> Purchase {
        let ask = PurchaseRequest {
            id: purchase_id(1),
            lines: tea(),
            customer: Some("ada".into()),
            about: About { reference: Some("order-1".into()), actor: Some("shop".into()), ..About::default() },
            ttl_ms: 60_000,
            redis_now: NOW.plus(7),
            policy: Some(Policy::RoundRobin),
        };
        begin(connection, &mut agent.store(connection), &ask, false, NOW).expect("begins");
        found(connection)
    }

    fn attempt_at(agent: &Agent, purchase: &Purchase) -> PurchaseRef {
        PurchaseRef { attempt: OperationId::attempt_at(&purchase.id, &agent.id), ..purchase.attempt_ref() }
    }

    fn say(connection: &Connection, agent: &mut Agent, what: Happened) -> Purchase {
        let entry = agent.entry(&Event::Fact(Fact::new(what, NOW)));
        agent.tell(connection, &[entry]);
        found(connection)
    }

    fn refusal(agent: &Agent, purchase: &Purchase) -> Happened {
        let (purchase, rejection) = (attempt_at(agent, purchase), Rejection::Discontinued);
        Happened::PurchaseRejected { purchase, rejection, items: Vec::new() }
    }

    fn refuse(connection: &Connection, agent: &mut Agent, purchase: &Purchase) -> Purchase {
        let refusal = refusal(agent, purchase);
        say(connection, agent, refusal)
    }

    fn take(connection: &Connection, agent: &mut Agent, purchase: &Purchase) -> Purchase {
        let (purchase, items) = (attempt_at(agent, purchase), vec![agent.take_one()]);
        say(connection, agent, Happened::PurchaseConfirmed { purchase, items })
    }

    fn ask_next(connection: &Connection, agent: &Agent) -> bool {
        ask_elsewhere(connection, &mut agent.store(connection), purchase_id(1), NOW).expect("is not refused")
    }

    fn units_asked_back(connection: &Connection, agent: &Agent) -> usize {
        commands::unanswered_cancels(connection, &agent.id, purchase_id(1)).expect("reads").len()
    }

    #[test]
    fn the_next_store_is_asked_for_the_same_once_one_has_refused() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        let asked = begin_at(&connection, &one);
        assert_eq!(asked.attempt, OperationId::attempt_at(&asked.id, &one.id));
        assert_eq!(asked.customer.as_deref(), Some("ada"));
        assert!(!ask_next(&connection, &two), "the first has not answered");
        let no = Event::Fact(Fact::new(refusal(&one, &asked), NOW));
        let no = one.entry(&no);
        assert!(one.tell(&connection, &[no]).saved.seeks, "whoever asks the next one is told");
        let seeking = found(&connection);
        assert!((seeking.life().seeking, seeking.status, seeking.code) == (true, Status::Pending, None));
        assert!(!ask_next(&connection, &one), "it has refused");

        assert!(ask_next(&connection, &two));
        let next = found(&connection);
        assert_eq!((&next.store, next.life().seeking), (&two.id, false));
        let [first, second] =
            [&asked, &next].map(|of| commands::command(&connection, &of.attempt).expect("reads").expect("was sent"));
        let (Command::Purchase { deadline, about, .. }, Command::Purchase { purchase, .. }) = (&first, &second) else {
            panic!("{first:?}, {second:?}")
        };
        let same = Command::Purchase { purchase: purchase.clone(), deadline: *deadline, about: about.clone() };
        assert_eq!((second.clone(), *deadline), (same, Some(NOW.plus(60_007))), "the same words, and no more time");
        assert_eq!(purchases::last_turn(&connection, &tea()).expect("reads"), Some(two.id.clone()));

        let bought = take(&connection, &mut two, &next);
        assert_eq!((bought.status, &bought.store), (Status::Confirmed, &two.id));
        let refused = bought.choice.expect("central has chosen").refused;
        assert_eq!(
            refused.iter().map(|one| (&one.store, one.code.as_str())).collect::<Vec<_>>(),
            [(&one.id, "discontinued")]
        );
    }

    #[test]
    fn what_finds_no_store_ends_with_the_last_refusal_once() {
        let connection = database();
        let [mut one, two] = stores(&connection);
        let asked = begin_at(&connection, &one);
        assert!(!give_up(&connection, asked.id, NOW).expect("writes"), "the store has not answered");
        refuse(&connection, &mut one, &asked);
        assert!(give_up(&connection, asked.id, NOW).expect("writes"));
        let ended = found(&connection);
        assert_eq!((ended.status, ended.code.as_deref()), (Status::Rejected, Some("discontinued")));
        assert!(!give_up(&connection, asked.id, NOW).expect("writes") && !ask_next(&connection, &two));
    }

    #[test]
    fn of_two_stores_that_took_a_unit_the_later_gives_it_back_and_a_cancel_goes_to_the_other() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        let asked = begin_at(&connection, &one);
        refuse(&connection, &mut one, &asked);
        ask_next(&connection, &two);
        let bought = take(&connection, &mut two, &asked);
        let bought_twice = take(&connection, &mut one, &bought);
        assert_eq!((bought_twice.status, &bought_twice.store), (Status::Confirmed, &two.id));
        assert_eq!((units_asked_back(&connection, &one), units_asked_back(&connection, &two)), (1, 0));

        // What the one is asked for is no cancel of the purchase, and ends with the one.
        retire(&connection, &mut one.store(&connection), NOW).expect("retires");
        assert_eq!(found(&connection).status, Status::Confirmed);
        let id = OperationId::parse("cancel").expect("valid");
        let mut store = two.store(&connection);
        let asked = cancel(&connection, &mut store, &found(&connection), id.clone(), &About::default(), NOW);
        assert!(matches!(asked, Ok(Cancelled::Asked(asked)) if asked == id));
        assert_eq!(units_asked_back(&connection, &two), 1);
    }

    #[test]
    fn a_store_that_took_a_unit_after_all_has_the_purchase_while_no_other_one_has() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        let asked = begin_at(&connection, &one);
        refuse(&connection, &mut one, &asked);
        ask_next(&connection, &two);
        let bought = take(&connection, &mut one, &asked);
        assert_eq!((bought.status, &bought.store), (Status::Confirmed, &one.id));
        let bought = take(&connection, &mut two, &bought);
        assert_eq!((bought.status, &bought.store), (Status::Confirmed, &one.id));
        assert_eq!((units_asked_back(&connection, &one), units_asked_back(&connection, &two)), (0, 1));
    }

    #[test]
    fn what_seeks_a_store_is_cancelled_at_once_and_survives_the_end_of_a_store() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        let asked = begin_at(&connection, &one);
        refuse(&connection, &mut one, &asked);
        let ended = retire(&connection, &mut one.store(&connection), NOW).expect("retires");
        assert!(!ended.contains(&asked.id.to_string()), "{ended:?}");
        assert!(found(&connection).life().seeking, "it waits for nothing of that store");
        let id = OperationId::parse("cancel").expect("valid");
        let mut store = one.store(&connection);
        let ended = cancel(&connection, &mut store, &found(&connection), id, &About::default(), NOW);
        assert!(matches!(ended, Ok(Cancelled::Ended)));
        let cancelled = found(&connection);
        assert_eq!((cancelled.status, cancelled.code.as_deref()), (Status::Cancelled, Some("purchase_cancelled")));
        assert!(!ask_next(&connection, &two));
        take(&connection, &mut two, &asked);
        assert_eq!((found(&connection).status, units_asked_back(&connection, &two)), (Status::Cancelled, 1));
    }

    #[test]
    fn a_central_that_was_set_back_asks_nobody_else() {
        let connection = database();
        let [mut one, _] = stores(&connection);
        let asked = begin_at(&connection, &one);
        reopen(&connection, |_| CommandEpoch::NONE, NOW).expect("reopens");
        one.get_ready(&connection);
        let alone = refuse(&connection, &mut one, &asked).choice.expect("central has chosen");
        assert_eq!((alone.policy, alone.seeking), (None, true));
    }

    #[test]
    fn a_refusal_of_what_was_forgotten_waits_for_the_store_that_took_the_unit() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        let forgotten = {
            let connection = database();
            begin_at(&connection, &Agent::settled("s1", &connection))
        };
        let known = refuse(&connection, &mut one, &forgotten);
        assert!((known.status, known.life().seeking) == (Status::Pending, true));
        assert_eq!(known.choice.expect("central had chosen").policy, None);
        let bought = take(&connection, &mut two, &forgotten);
        assert_eq!((bought.status, &bought.store), (Status::Confirmed, &two.id));
    }

    /// A unit of tea was bought, taken, and picked if that is said; by the store's clock at this time.
    fn bought(connection: &Connection, agent: &mut Agent, number: u128, picked: bool, at: Millis) -> Purchase {
        begin(connection, &mut agent.store(connection), &ask(number, tea(), None), false, NOW).expect("begins");
        let find = || purchases::find(connection, purchase_id(number)).expect("reads").expect("is there");
        let purchase = find().attempt_ref();
        let taken = Happened::PurchaseConfirmed { purchase: purchase.clone(), items: vec![agent.take_one()] };
        let taken = Fact { command: Some(purchase.attempt.clone()), ..Fact::new(taken, at) };
        let mut told = vec![agent.entry(&Event::Fact(taken))];
        if picked {
            let picked = Happened::PurchasePicked { purchase, items: Vec::new() };
            told.push(agent.entry(&Event::Fact(Fact::new(picked, at))));
        }
        agent.tell(connection, &told);
        find()
    }

    /// An epoch with the store's stock, and these outcomes, as after a human's choice.
    fn choose(connection: &Connection, agent: &mut Agent, outcomes: Vec<Outcome>) {
        let (epoch, lineage) = (agent.head.epoch.next(NOW), [agent.head]);
        let opened = agent.open(epoch, &lineage).remove(0);
        agent.head = opened.as_ref().expect("an entry").cursor();
        let state: Vec<_> = [opened].into_iter().chain(agent.state(outcomes)).collect();
        agent.tell(connection, &state);
        agent.settle_in(connection);
        agent.get_ready(connection);
    }

    /// What the store was asked and has not answered, of purchases: which, and what of it comes out of the allotment.
    fn asked_again(connection: &Connection, agent: &Agent) -> Vec<(PurchaseId, Option<Lines>)> {
        let unanswered = commands::unanswered(connection, &agent.id).expect("reads");
        let purchase = |asked: commands::Unanswered| match Command::decode(&asked.kind, &asked.body) {
            Ok(Command::Purchase { purchase, deadline: None, about }) => {
                assert_eq!((&purchase.attempt, about.actor.as_deref()), (&asked.id, None));
                (purchase.purchase_id, purchase.from_allotment)
            }
            other => panic!("{other:?}"),
        };
        unanswered.into_iter().filter(|asked| asked.kind == "purchase").map(purchase).collect()
    }

    #[test]
    fn what_a_chosen_state_has_forgotten_is_asked_for_again_until_it_is_taken() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let old = NOW.plus(-COMMANDS_MS - 1);
        let waits = bought(&connection, &mut agent, 1, false, NOW);
        bought(&connection, &mut agent, 2, true, NOW);
        bought(&connection, &mut agent, 3, false, old);
        let named = bought(&connection, &mut agent, 4, false, NOW);
        let item = Some(agent.item(&product("tea")));
        let became = Became::Confirmed { purchase: named.attempt_ref(), item, picked: false };
        let named = Outcome { command: named.attempt, at: NOW, became };
        for _ in 0..2 {
            choose(&connection, &mut agent, vec![named.clone()]);
            assert_eq!(asked_again(&connection, &agent), [(waits.id, None)], "once, however often it is forgotten");
            let asked = found(&connection);
            assert!((asked.status, asked.life().sold) == (Status::Confirmed, true), "{asked:?}");
            assert_eq!((asked.settled_at, asked.position), (waits.settled_at, None));
        }
        let taken = take_again(&connection, &mut agent, &waits);
        assert!(taken.life() == waits.life() && taken.position != waits.position, "{taken:?}");
        assert_eq!(asked_again(&connection, &agent), []);
        choose(&connection, &mut agent, vec![named]);
        assert_eq!(asked_again(&connection, &agent), [(waits.id, None)], "another choice has forgotten that, too");
    }

    /// The store has taken what it was asked for again.
    fn take_again(connection: &Connection, agent: &mut Agent, purchase: &Purchase) -> Purchase {
        let (command, purchase) = (Some(purchase.attempt.clone()), purchase.attempt_ref());
        let what = Happened::PurchaseConfirmed { purchase, items: vec![agent.take_one()] };
        let told = agent.entry(&Event::Fact(Fact { command, ..Fact::new(what, NOW) }));
        agent.tell(connection, &[told]);
        found(connection)
    }

    #[test]
    fn what_is_asked_for_again_may_be_cancelled_behind_that_and_ends_with_its_store() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let waits = bought(&connection, &mut agent, 1, false, NOW);
        choose(&connection, &mut agent, Vec::new());
        let id = OperationId::parse("cancel").expect("valid");
        let mut store = agent.store(&connection);
        let asked = cancel(&connection, &mut store, &found(&connection), id.clone(), &About::default(), NOW);
        assert!(matches!(asked, Ok(Cancelled::Asked(_))));
        let unanswered = || commands::unanswered(&connection, &agent.id).expect("reads");
        assert_eq!(unanswered().iter().map(|one| one.id.clone()).collect::<Vec<_>>(), [waits.attempt.clone(), id]);
        retire(&connection, &mut agent.store(&connection), NOW).expect("retires");
        let ended = found(&connection);
        assert!((ended.status, ended.life().voided) == (Status::Cancelled, true), "{ended:?}");
        assert!(unanswered().is_empty());
    }

    #[test]
    fn what_a_state_has_forgotten_of_a_store_that_was_retired_meanwhile_ends() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        bought(&connection, &mut agent, 1, false, NOW);
        let lineage = [agent.head];
        let opening = agent.open(9, &lineage);
        agent.tell(&connection, &opening);
        retire(&connection, &mut agent.store(&connection), NOW).expect("retires");
        agent.settle_in(&connection);
        let ended = found(&connection);
        assert!((ended.status, ended.life().voided) == (Status::Cancelled, true), "{ended:?}");
        assert_eq!(asked_again(&connection, &agent), []);
    }

    #[test]
    fn what_is_asked_for_again_comes_out_of_what_is_set_aside() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        bought(&connection, &mut agent, 1, false, NOW);
        let other = bought(&connection, &mut agent, 2, false, NOW);
        let before = agent.item(&product("tea"));
        agent.becomes(product("tea"), Item { allotted: 1, ..before });
        choose(&connection, &mut agent, Vec::new());
        let covered: Vec<_> = asked_again(&connection, &agent).into_iter().map(|(_, lines)| lines).collect();
        assert_eq!(covered, [Some(tea()), None], "as far as nobody else has it");
        let id = agent.id.clone();
        let pending = || items::pending(&connection, &id, &product("tea"));
        assert_eq!(pending(), Ok(2), "both are sold, set aside or not");
        take_again(&connection, &mut agent, &other);
        assert_eq!(pending(), Ok(1));
    }

    #[test]
    fn what_the_database_refuses_of_asking_again_is_asked_with_the_next_state() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        bought(&connection, &mut agent, 1, false, NOW);
        let refusal =
            "create temp trigger refusal before update on main.purchase begin select raise(abort, 'refused'); end";
        connection.execute_batch(refusal).expect("a trigger is created");
        choose(&connection, &mut agent, Vec::new());
        assert!(agent.store(&connection).wants_resync() && asked_again(&connection, &agent).is_empty());
        connection.execute_batch("drop trigger temp.refusal").expect("a trigger is dropped");
        let state = agent.state(Vec::new());
        agent.tell(&connection, &state);
        agent.settle_in(&connection);
        assert_eq!(asked_again(&connection, &agent).len(), 1);
    }

    fn cart(of: &[(&str, i64)]) -> Lines {
        let line = |(name, units): &(&str, i64)| Line {
            product_id: product(name),
            quantity: Quantity::try_from(*units).expect("in range"),
        };
        Lines::new(of.iter().map(line)).expect("are lines")
    }

    fn ask(number: u128, lines: Lines, policy: Option<Policy>) -> PurchaseRequest {
        PurchaseRequest {
            id: purchase_id(number),
            lines,
            customer: None,
            about: About::default(),
            ttl_ms: 60_000,
            redis_now: NOW,
            policy,
        }
    }

    fn some_milk(connection: &Connection, agent: &mut Agent, quantity: i64) {
        let item = Item { name: "Milk".into(), quantity, version: 1, ..Item::default() };
        let created = Happened::ItemCreated(ItemAfter { product_id: product("milk"), delta: quantity, item });
        let entry = agent.entry(&Event::Fact(Fact::new(created, NOW)));
        agent.tell(connection, &[entry]);
    }

    #[test]
    fn all_lines_are_judged_and_pending_and_each_that_is_short_is_named() {
        let connection = database();
        let [mut one, _] = stores(&connection);
        some_milk(&connection, &mut one, 4);
        let mut store = one.store(&connection);
        let mut begin =
            |number, of: &[(&str, i64)]| begin(&connection, &mut store, &ask(number, cart(of), None), false, NOW);
        let pending =
            || ["milk", "tea"].map(|name| items::pending(&connection, &one.id, &product(name)).expect("reads"));
        begin(1, &[("milk", 3), ("tea", 7)]).expect("there are enough");
        assert_eq!(pending(), [3, 7]);
        let Err(Abort::Refused(Rejection::InsufficientStock { requested: 2, available: 1, lines, .. })) =
            begin(2, &[("milk", 2), ("tea", 4)])
        else {
            panic!("both are short")
        };
        assert_eq!(lines.iter().map(|line| line.product_id.as_str()).collect::<Vec<_>>(), ["milk", "tea"]);
        let unknown = begin(3, &[("jam", 1), ("tea", 1)]);
        assert!(matches!(unknown, Err(Abort::Refused(Rejection::UnknownProduct))));
        begin(4, &[("milk", 1), ("tea", 3)]).expect("as many are left");
        assert_eq!(pending(), [4, 10]);
    }

    #[test]
    fn what_was_forgotten_is_known_again_with_all_of_its_lines() {
        let connection = database();
        let [mut one, _] = stores(&connection);
        let lines = cart(&[("milk", 3), ("tea", 1)]);
        let forgotten =
            pending_one(&one.id, &asked(&one.id, &ask(1, lines.clone(), None), None, false, NOW).0.attempt_ref());
        let milk = Item { name: "Milk".into(), quantity: 1, version: 2, ..Item::default() };
        let milk = ItemAfter { product_id: product("milk"), delta: -3, item: milk };
        let items = vec![milk, one.take_one()];
        let known =
            say(&connection, &mut one, Happened::PurchaseConfirmed { purchase: forgotten.attempt_ref(), items });
        assert_eq!((known.status, &known.lines), (Status::Confirmed, &lines));
        let milk = items::find(&connection, &one.id, &product("milk")).expect("reads").expect("is shown");
        assert_eq!(milk.quantity, 1);
    }

    #[test]
    fn a_store_that_does_not_understand_several_lines_has_refused_them_and_the_next_one_is_asked() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        for agent in [&mut one, &mut two] {
            some_milk(&connection, agent, 4);
        }
        let chosen = ask(1, cart(&[("milk", 1), ("tea", 1)]), Some(Policy::HighestAvailable));
        begin(&connection, &mut one.store(&connection), &chosen, false, NOW).expect("begins");
        // As an agent of the version before answers: it cannot read what the command is about.
        let what = Happened::CommandRefused {
            subject: Subject::Store,
            rejection: Rejection::UnsupportedByStore { entry: "7-2".into() },
            items: Vec::new(),
        };
        let refused = Fact { command: Some(found(&connection).attempt), ..Fact::new(what, NOW) };
        let entry = one.entry(&Event::Fact(refused));
        one.tell(&connection, &[entry]);
        let choice = found(&connection).choice.expect("central has chosen");
        assert_eq!((choice.seeking, choice.refused[0].code.as_str()), (true, "unsupported_by_store"));
        assert!(ask_next(&connection, &two));
        assert_eq!(found(&connection).store, two.id);
    }

    #[test]
    fn turns_are_taken_for_a_set_of_products() {
        let connection = database();
        let [mut one, mut two] = stores(&connection);
        for agent in [&mut one, &mut two] {
            some_milk(&connection, agent, 4);
        }
        let both = cart(&[("milk", 1), ("tea", 1)]);
        let by_turns = ask(1, both, Some(Policy::RoundRobin));
        begin(&connection, &mut two.store(&connection), &by_turns, false, NOW).expect("begins");
        let last = |of: &[(&str, i64)]| purchases::last_turn(&connection, &cart(of)).expect("reads");
        assert_eq!((last(&[("tea", 2), ("milk", 2)]), last(&[("tea", 1)])), (Some(two.id.clone()), None));
    }
}
