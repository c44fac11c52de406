//! Tills, staff, online buyers and item commands.

use central::links::presence::{Presence, Reading as Seen};
use central::links::seeking::{self, Next, candidates};
use central::promises::purchases::{Begun, PurchaseRequest, begin, cancel, give_up};
use central::storage::commands as asked;
use central::storage::items;
use central::storage::purchases;
use central::storage::stores;
use protocol::domain::{Guard, Line, Lines, LowAt, Operation, Quantity, Reason, Rejection};
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::promise::policy::Policy;
use protocol::time::Millis;
use protocol::wire::{About, BatchLine, Command, Position};
use runtime::sqlite::{Abort, attempt};
use store_agent::ledger::Moved;
use store_agent::operations::till::{Request, counted, perform};

use super::holds::written;
use super::virtual_world::{Commit, VirtualWorld, commit};
use crate::history::{Bought, Told};
use crate::judge::{Asked, Batch, Buy, By, Cancel, Name, Occasion, Pick, Wish, decide};

/// What was on a shelf.
#[derive(Clone)]
pub(super) struct Shelf {
    position: Position,
    product: ProductId,
    units: i64,
    is_entered: bool,
}

/// A buyer has looked at a store's heartbeat and is about to buy.
pub(super) struct Look {
    store: StoreId,
    lines: Lines,
    ttl_ms: i64,
    seen: Seen,
    /// How the store was chosen.
    policy: Option<Policy>,
}

/// Central has looked at the heartbeat of a store, and is about to ask it for what another one has refused.
pub(super) struct Seek {
    purchase: PurchaseId,
    deadline: Millis,
    store: StoreId,
    seen: Seen,
    /// Whom it may ask after that.
    others: Vec<StoreId>,
}

impl VirtualWorld {
    pub(super) fn traffic(&mut self) {
        match self.dice.below(24) {
            0..=8 => self.at_the_till(),
            9..=11 => self.look(),
            12..=14 => self.buy(),
            15 => self.cancel(),
            16..=17 => self.pick(),
            18 if self.dice.chance(500) => self.batch(),
            18 => self.command(),
            19 if self.dice.chance(300) => self.count_shelf(),
            19 if self.dice.chance(500) => self.enter_shelf(),
            20..=23 => self.hold_traffic(),
            _ => self.watch(),
        }
    }

    fn operation(&mut self) -> Operation {
        match self.dice.below(12) {
            0..=4 => Operation::Sell { quantity: self.dice.units(1, 4) },
            5..=7 => Operation::Receive { quantity: self.dice.units(1, 6) },
            8 => Operation::Adjust { delta: -self.dice.between(1, 2), reason: Reason::Damage, note: None },
            9 => self.some_count(),
            10 => {
                let discontinued = self.dice.chance(300).then(|| self.dice.chance(400));
                let low_at = match self.dice.below(10) {
                    0..=1 => Some(LowAt::Units(self.dice.between(0, 4))),
                    2 => Some(LowAt::OFF),
                    _ => None,
                };
                let name = self.dice.chance(700).then(|| format!("n{}", self.dice.below(3)));
                Operation::Change { name, discontinued, low_at }
            }
            _ => Operation::Create { name: "new".into(), quantity: self.dice.between(0, 10), low_at: Some(2) },
        }
    }

    fn some_count(&mut self) -> Operation {
        Operation::Count { quantity: self.dice.between(0, 12), counted_at: None, count_ref: None }
    }

    /// Staff counts a shelf, and notes when. The books may be wrong.
    fn count_shelf(&mut self) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        let Some(product) = self.dice.pick(&self.products).cloned() else { return };
        let agent = &self.agents[number];
        let item = store_agent::ledger::find_item(&agent.file, &product).expect("stock can be read");
        let Some(item) = item else { return };
        let at = store_agent::ledger::head(&agent.file).expect("a ledger has a head").cursor.id();
        let units = if self.dice.chance(500) { item.quantity } else { (item.quantity - 2).max(0) };
        let position = Position { store: agent.store.clone(), at };
        self.shelves.push(Shelf { position, product, units, is_entered: false });
    }

    /// Staff enters what it has counted, whatever has left the shelf since; now and then the same once more.
    fn enter_shelf(&mut self) {
        if self.shelves.is_empty() {
            return;
        }
        let place = self.dice.below(self.shelves.len() as u64) as usize;
        let shelf = if self.dice.chance(300) {
            let entered = Shelf { is_entered: true, ..self.shelves[place].clone() };
            std::mem::replace(&mut self.shelves[place], entered)
        } else {
            self.shelves.swap_remove(place)
        };
        let of_store: Vec<usize> =
            (0..self.agents.len()).filter(|number| self.agents[*number].store == shelf.position.store).collect();
        let Some(number) = self.dice.pick(&of_store).copied().filter(|number| self.agents[*number].runs) else {
            return;
        };
        let count = Operation::Count { quantity: shelf.units, counted_at: Some(shelf.position), count_ref: None };
        if self.operate(number, shelf.product, count) {
            self.count(if shelf.is_entered { "shelves entered again" } else { "counts of an earlier shelf" });
        }
    }

    /// A sale never asks whether anything else is there.
    fn at_the_till(&mut self) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        let Some(product) = self.dice.pick(&self.products).cloned() else { return };
        if !self.agents[number].runs {
            return;
        }
        let known = store_agent::ledger::find_item(&self.agents[number].file, &product).expect("stock can be read");
        let operation = match known {
            None => Operation::Create { name: "first".into(), quantity: self.dice.between(0, 12), low_at: None },
            Some(_) => self.operation(),
        };
        self.operate(number, product, operation);
    }

    /// Whether it was done.
    pub(super) fn operate(&mut self, number: usize, product: ProductId, operation: Operation) -> bool {
        let known = store_agent::ledger::find_item(&self.agents[number].file, &product).expect("stock can be read");
        let id = format!("till-{}", self.name());
        // Now and then somebody has an old version in mind.
        let guard = match &known {
            Some(item) if self.dice.chance(40) => Guard { expected_version: Some(item.version - 1), if_match: None },
            _ => Guard::default(),
        };
        let request = Request {
            operation_id: OperationId::parse(&id).expect("a valid id"),
            product: product.clone(),
            operation: operation.clone(),
            guard: guard.clone(),
            about: About::default(),
            command: None,
        };
        let store = self.agents[number].store.clone();
        let name: Name = id.as_str().into();
        let wish = wish(&operation);
        let clock = self.agents[number].clock(self.now);
        let (before, shop) = (self.shop(number), self.shop(number).without_due([product.as_str()], clock.0));
        let ends = before.open_holds() - shop.open_holds();
        let asked = Asked { store: store.as_str().into(), product: product.as_str().into(), wish, by: By::Store };
        let moved = self.moved(number, &asked, ends);
        let expected = match decide(shop.items.get(product.as_str()), &asked.wish, moved) {
            Err("unknown_position") => Err("unknown_position"),
            _ if guard.expected_version.is_some() && !matches!(asked.wish, Wish::Create { .. }) => {
                Err("version_conflict")
            }
            decided => decided.map(drop),
        };
        self.oracle.book.items.insert(name, asked);
        let risk = self.risk();
        let moved = Moved::since_positions(&self.agents[number].file, counted(&product, &operation))
            .expect("a ledger can be read");
        let mut answer = Ok(0);
        let end = commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
            match attempt(connection, || perform(connection, &request, &moved, clock))? {
                Ok(performed) => answer = Ok(performed.delta),
                Err(Abort::Refused(rejection)) => answer = Err(rejection.code()),
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        if answer.map(drop) != expected {
            self.oracle.break_(format!("P4: {id}, {operation:?}, was answered {answer:?}, and must be {expected:?}"));
        }
        self.look_at(number, Occasion::Operation(&[&id]), None);
        let is_done = answer.is_ok() && end != Commit::Before;
        if let (Ok(delta), true) = (answer, is_done) {
            match operation {
                Operation::Sell { .. } => self.count("sales"),
                Operation::Count { .. } => self.count("counts"),
                _ => {}
            }
            self.say(|| format!("{store}/{number}: {id} {operation:?} of {product} ({delta:+})"));
            if end == Commit::Done {
                self.oracle.acked(&id);
            }
        }
        self.after_commit(number, end);
        is_done
    }

    /// B1, first half: the heartbeat is read.
    fn look(&mut self) {
        if !self.central.runs || !self.central.network {
            return;
        }
        let (Some(store), Some(product)) =
            (self.dice.pick(&self.stores).cloned(), self.dice.pick(&self.products).cloned())
        else {
            return;
        };
        let policies = [Policy::HighestAvailable, Policy::LowestLatency, Policy::RoundRobin];
        let policy = self.dice.chance(700).then(|| policies[self.dice.below(3) as usize]);
        // So many that a till may well be quicker, and another store has as many.
        let quantity = self.dice.units(1, if policy.is_some() { 6 } else { 3 });
        let (presence, file) = (self.presence(), &self.central.file);
        let can_be_had = |lines: &Lines| {
            let found = candidates(file, &presence, lines, Policy::HighestAvailable).expect("the view can be read");
            if policy.is_some() { !found.is_empty() } else { found.contains(&store) }
        };
        let lines = self.carts.fill(Line { product_id: product, quantity }, &self.products, can_be_had);
        let ttl_ms = if self.dice.chance(300) { 1_000 } else { 60_000 };
        let store = match policy {
            Some(policy) => {
                let found = candidates(&self.central.file, &self.presence(), &lines, policy);
                let Some(first) = found.expect("the view can be read").into_iter().next() else { return };
                first
            }
            None => store,
        };
        let seen = self.heartbeat(&store);
        self.looks.push(Look { store, lines, ttl_ms, seen, policy });
    }

    /// The same of a store and a product that a buyer has in mind. `was_silent`: for too long nothing was heard of it.
    /// The buyer buys at once or later, like others.
    pub(super) fn look_at_store(&mut self, store: StoreId, line: Line, policy: Option<Policy>, was_silent: bool) {
        if !self.central.runs || !self.central.network {
            return;
        }
        let file = &self.central.file;
        let aside = |line: &Line| {
            let item = items::find(file, &store, &line.product_id).expect("the view can be read");
            item.is_some_and(|item| item.allotted >= line.quantity.get())
        };
        let lines = self.carts.fill(line, &self.products, |lines: &Lines| lines.iter().all(aside));
        let mut seen = self.heartbeat(&store);
        if was_silent {
            seen.age_ms = seen.age_ms.max(60_000);
        }
        let look = Look { store, lines, ttl_ms: 60_000, seen, policy };
        if self.dice.chance(600) {
            return self.buy_as_looked(look);
        }
        self.looks.push(look);
    }

    /// What Redis says of a store's heartbeat.
    pub(super) fn heartbeat(&self, store: &StoreId) -> Seen {
        let redis_now = Millis(self.now);
        match self.redis.heartbeat(store, self.now) {
            Some((heartbeat, age_ms)) => Seen { heartbeat: Some(heartbeat), age_ms, redis_now },
            None => Seen { heartbeat: None, age_ms: 0, redis_now },
        }
    }

    /// What central knows of all heartbeats.
    fn presence(&self) -> Presence {
        let presence = Presence::new(std::time::Duration::from_secs(50));
        presence.note_redis(true);
        presence.note_swept();
        for store in &self.stores {
            presence.note(store, &self.heartbeat(store));
            presence.note_commands_stopped(store, self.central.is_stopped(store));
        }
        presence
    }

    /// One step of asking the next store for what another one has refused (B6): a look at a heartbeat, or a transaction.
    pub(super) fn seek(&mut self) {
        let Some(seek) = self.central.seek.take() else {
            let sought = purchases::seeking(&self.central.file, 0, 9).expect("the view can be read");
            for purchase in &sought {
                self.central.seeking.entry(purchase.id).or_insert(self.now);
            }
            let Some(purchase) = self.dice.pick(&sought) else { return };
            let sought_ms = self.now - self.central.seeking[&purchase.id];
            let time = seeking::Time { redis_now: Some(Millis(self.now)), sought_ms };
            let found = seeking::next(&self.central.file, &self.presence(), purchase, time);
            let deadline = purchase.choice.as_ref().expect("central has chosen its store").deadline;
            match found.expect("the view can be read") {
                Next::Ask(stores) => self.look_elsewhere(purchase.id, deadline, stores),
                Next::Wait => self.count("purchases that waited for word of a store"),
                // Some may be about to come back since Redis was lost.
                Next::Nobody if self.dice.chance(500) => self.count("purchases that waited for stores to come back"),
                Next::Nobody | Next::GiveUp => self.give_up(purchase.id),
            }
            return;
        };
        if seek.seen.redis_now > seek.deadline {
            return self.give_up(seek.purchase);
        }
        let allowed = self.may_ask_next(&seek);
        let name: Name = seek.purchase.to_string().into();
        let command = OperationId::attempt_at(&seek.purchase, &seek.store);
        let attempts = self.oracle.book.buys.get_mut(&name).map(|buy| &mut buy.attempts);
        let was_asked = attempts.and_then(|all| all.insert(seek.store.as_str().into(), command.as_str().into()));
        let (presence, clock, risk) = (self.presence(), self.central.clock(self.now), self.risk());
        let mut asked = Err(());
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let job = || seeking::ask(connection, &presence, seek.purchase, &seek.store, &seek.seen, clock);
            match attempt(connection, job)? {
                Ok(sought) => asked = Ok(sought),
                Err(Abort::Refused(())) => {}
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        if let (Ok(true), Err(broken)) = (asked, allowed) {
            self.oracle.break_(broken);
        }
        if let (None, Some(buy)) = (was_asked, self.oracle.book.buys.get_mut(&name))
            && (asked != Ok(true) || end == Commit::Before)
        {
            buy.attempts.remove(seek.store.as_str());
        }
        match asked {
            Ok(true) if end != Commit::Before => {
                self.central.settled(&[seek.purchase.to_string()]);
                self.count("purchases passed on to another store");
                self.say(|| format!("purchase {}: {} is asked next", seek.purchase, seek.store));
            }
            Ok(_) => {}
            Err(()) if end == Commit::Done => self.look_elsewhere(seek.purchase, seek.deadline, seek.others),
            Err(()) => {}
        }
        self.after_central_commit(end);
    }

    /// Whether the judge lets central ask this store next, too.
    fn may_ask_next(&self, seek: &Seek) -> Result<(), String> {
        let (purchase, store, file) = (seek.purchase.to_string(), seek.store.as_str(), &self.central.file);
        let cancelled = self.history.purchases.get(&purchase).is_some_and(|bought| bought.cancelled_while_pending);
        let redis_now = seek.seen.redis_now.0;
        let beat = seek.seen.heartbeat.as_ref().map(|beat| (beat.epoch.get(), seek.seen.age_ms));
        self.oracle.may_sell(file, store, beat).expect("the view can be read")?;
        let allowed = self.oracle.may_ask_next(file, &purchase, store, (redis_now, cancelled));
        allowed.expect("the view can be read")
    }

    fn look_elsewhere(&mut self, purchase: PurchaseId, deadline: Millis, mut stores: Vec<StoreId>) {
        if stores.is_empty() {
            return self.give_up(purchase);
        }
        let store = stores.remove(0);
        let seen = self.heartbeat(&store);
        self.central.seek = Some(Seek { purchase, deadline, store, seen, others: stores });
    }

    fn give_up(&mut self, purchase: PurchaseId) {
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let mut ended = false;
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            ended = give_up(connection, purchase, clock)?;
            Ok(())
        });
        if ended && end != Commit::Before {
            self.central.settled(&[purchase.to_string()]);
            self.count("purchases for which no store was left");
            self.say(|| format!("purchase {purchase}: no store is left"));
        }
        self.after_central_commit(end);
    }

    /// B1, second half: the transaction.
    fn buy(&mut self) {
        if self.looks.is_empty() || !self.central.runs {
            return;
        }
        let number = self.dice.below(self.looks.len() as u64) as usize;
        let look = self.looks.swap_remove(number);
        self.buy_as_looked(look);
    }

    fn buy_as_looked(&mut self, look: Look) {
        let Some(store) = stores::find(&self.central.file, &look.store).expect("the view can be read") else { return };
        let presence = Presence::new(std::time::Duration::from_secs(50)).selling_offline(self.allotting.sells_offline);
        presence.note_commands_stopped(&look.store, self.central.is_stopped(&look.store));
        let judged = presence.judge_sale(&store, &look.seen);
        if let Err(why) = judged {
            match why.as_str() {
                "offline" => self.count("purchases refused: store offline"),
                "catching_up" => self.count("purchases refused: store catching up"),
                _ => {}
            }
            return;
        }
        let id = PurchaseId::new(uuid::Uuid::from_u128(u128::from(self.name())));
        let ask = PurchaseRequest {
            id,
            lines: look.lines.clone(),
            customer: None,
            about: About::default(),
            ttl_ms: look.ttl_ms,
            redis_now: look.seen.redis_now,
            policy: look.policy,
        };
        let attempt = match look.policy {
            Some(_) => OperationId::attempt_at(&id, &look.store),
            None => OperationId::attempt(&id, 1),
        };
        let buy = Buy {
            lines: written(&look.lines),
            deadline: look.seen.redis_now.0 + look.ttl_ms,
            is_chosen: look.policy.is_some(),
            attempts: [(look.store.as_str().into(), attempt.as_str().into())].into(),
        };
        let name: Name = id.to_string().into();
        self.oracle.book.buys.insert(name.clone(), buy);
        let covered_only = judged == Ok(true);
        let beat = look.seen.heartbeat.as_ref().map(|beat| (beat.epoch.get(), look.seen.age_ms));
        let beat = if covered_only { Some((beat.map_or(store.cursor.epoch.get(), |beat| beat.0), 0)) } else { beat };
        let allowed =
            self.oracle.may_sell(&self.central.file, look.store.as_str(), beat).expect("the view can be read");
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let (mut begun, mut sold) = (false, false);
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(mut store) = stores::find(connection, &look.store)? else { return Ok(()) };
            if store.retired || store.is_settling() {
                return Ok(());
            }
            match begin(connection, &mut store, &ask, covered_only, clock) {
                Ok(become_) => {
                    begun = become_ != Begun::NotCovered;
                    sold = become_ == Begun::Sold;
                    Ok(())
                }
                Err(Abort::Refused(_)) => Ok(()),
                Err(Abort::Database(error)) => Err(error),
            }
        });
        if let (true, Err(broken)) = (begun, allowed) {
            self.oracle.break_(broken);
        }
        if !begun || end == Commit::Before {
            self.oracle.book.buys.remove(&name);
        }
        if begun && end != Commit::Before {
            self.told_at.insert(id.to_string(), self.step);
            let store = look.store.clone();
            self.say(|| format!("purchase {id}: {:?} at {store}, {:?}", written(&look.lines), look.policy));
            let told = if end == Commit::Done { Told::Done } else { Told::Nothing };
            let bought =
                Bought { store, told, seen: Vec::new(), cancelled_while_pending: false, may_be_forgotten: false };
            self.history.purchases.insert(id.to_string(), bought);
            if sold {
                self.count("purchases sold out of the allotment");
                self.saw(&id.to_string(), "confirmed");
            }
            if covered_only {
                self.count("purchases sold while the store was away");
            }
        }
        self.after_central_commit(end);
        if begun && look.policy.is_some() && self.dice.chance(500) {
            self.sell_out(&look.store, look.lines.first().product_id.clone());
        }
    }

    /// A till is quicker than the purchase: then another store has to be asked.
    fn sell_out(&mut self, store: &StoreId, product: ProductId) {
        let of_store = |agent: &super::agent::Agent| agent.store == *store && agent.runs;
        let Some(number) = self.agents.iter().position(of_store) else { return };
        let item = store_agent::ledger::find_item(&self.agents[number].file, &product).expect("stock can be read");
        if let Some(quantity) = item.and_then(|item| Quantity::try_from(item.available()).ok()) {
            self.operate(number, product, Operation::Sell { quantity });
        }
    }

    fn some_purchase(&mut self) -> Option<String> {
        let number = self.dice.below(self.history.purchases.len().max(1) as u64) as usize;
        self.history.purchases.keys().nth(number).cloned()
    }

    fn cancel(&mut self) {
        let Some(mut id) = self.some_purchase() else { return };
        if !self.central.runs {
            return;
        }
        let sought = purchases::seeking(&self.central.file, 0, 9).expect("the view can be read");
        if let Some(purchase) = self.dice.pick(&sought) {
            id = purchase.id.to_string();
        }
        let command = OperationId::parse(&format!("cancel-{}", self.name())).expect("a valid id");
        let sql = "select status, store_id from purchase where purchase_id = ?1";
        let known = self.central.file.query_row(sql, [&id], |row| Ok((row.get(0)?, row.get(1)?)));
        let Ok((status, store)): Result<(String, String), _> = known else { return };
        let asked = Cancel { store: store.into(), purchase: id.as_str().into(), forced: status == "pending" };
        if !self.is_cancel_open(&id) {
            self.oracle.book.cancels.insert(command.as_str().into(), asked);
        }
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let (mut was_pending, mut was_seeking) = (false, false);
        let mut picked = false;
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(purchase) = purchases::find(connection, id.parse().expect("an id"))? else { return Ok(()) };
            let Some(mut store) = stores::find(connection, &purchase.store)? else { return Ok(()) };
            match cancel(connection, &mut store, &purchase, command.clone(), &About::default(), clock) {
                Ok(_) => {
                    was_pending = purchase.status == protocol::promise::purchase::Status::Pending;
                    was_seeking = purchase.life().seeking;
                    Ok(())
                }
                Err(Abort::Refused(rejection)) => {
                    picked = rejection == Rejection::AlreadyPicked;
                    Ok(())
                }
                Err(Abort::Database(error)) => Err(error),
            }
        });
        if end == Commit::Done {
            self.central.settled(&[id.clone()]);
        }
        if picked {
            self.count("cancels refused: picked");
        }
        if was_seeking && end != Commit::Before {
            self.count("cancels of purchases that sought a store");
        }
        if was_pending && end == Commit::Done {
            self.count("cancels of pending purchases");
            self.say(|| format!("cancel of pending purchase {id}"));
            self.told_at.insert(id.clone(), self.step);
            if let Some(bought) = self.history.purchases.get_mut(&id) {
                bought.cancelled_while_pending = true;
            }
        }
        self.after_central_commit(end);
    }

    fn pick(&mut self) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        if !self.agents[number].runs {
            return;
        }
        // Now and then somebody takes a look at the wrong list.
        let anything = self.dice.chance(150);
        let waiting: Option<String> = self.agents[number]
            .file
            .query_row(
                "select purchase_id from purchase where ?1 or (status = 'confirmed' and picked_at is null) \
                 order by number desc limit 1",
                [anything],
                |row| row.get(0),
            )
            .ok();
        let Some(waiting) = waiting else { return };
        let id = format!("pick-{}", self.name());
        let operation = OperationId::parse(&id).expect("a valid id");
        let (clock, risk) = (self.agents[number].clock(self.now), self.risk());
        let purchase = waiting.parse().expect("an id");
        let store: Name = self.agents[number].store.as_str().into();
        let asked = Pick { store, purchase: waiting.as_str().into() };
        let known = self.shop(number).attempts.get(&asked.purchase).cloned();
        let expected = match known.as_ref().map(|attempt| (&*attempt.kind, attempt.picked)) {
            Some(("purchase_confirmed", picked)) => Ok(!picked),
            _ => Err("purchase_cancelled"),
        };
        self.oracle.book.picks.insert(id.as_str().into(), asked);
        let (mut is_picked, mut refused) = (false, None);
        let end = commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
            match store_agent::operations::purchases::pick(connection, purchase, &operation, &About::default(), clock) {
                Ok(picked) => is_picked = picked.is_some_and(|picked| picked.position.is_some()),
                Err(Abort::Refused(rejection)) => refused = Some(rejection.code()),
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        let answer = refused.map_or(Ok(is_picked), Err);
        if answer != expected {
            self.oracle.break_(format!("P5: {id} of {waiting} was answered {answer:?}, and must be {expected:?}"));
        }
        self.look_at(number, Occasion::Operation(&[&id]), None);
        if is_picked && end != Commit::Before {
            self.say(|| format!("agent {number}: picked {waiting}"));
            if end == Commit::Done {
                self.oracle.acked(&id);
            }
        }
        self.after_commit(number, end);
    }

    /// An item command of central.
    fn command(&mut self) {
        let (Some(store), Some(product)) =
            (self.dice.pick(&self.stores).cloned(), self.dice.pick(&self.products).cloned())
        else {
            return;
        };
        if !self.central.runs {
            return;
        }
        let operation = match self.operation() {
            Operation::Sell { quantity } => Operation::Receive { quantity },
            other => other,
        };
        self.command_of(store, product, operation);
    }

    /// Central asks a store for this.
    pub(super) fn command_of(&mut self, store: StoreId, product: ProductId, operation: Operation) {
        let creates = matches!(operation, Operation::Create { .. });
        let id = format!("command-{}", self.name());
        let name = OperationId::parse(&id).expect("a valid id");
        let asked = Asked {
            store: store.as_str().into(),
            product: product.as_str().into(),
            wish: wish(&operation),
            by: By::Central,
        };
        self.oracle.book.items.insert(id.as_str().into(), asked);
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let mut asked_for = false;
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(mut known) = stores::find(connection, &store)? else { return Ok(()) };
            if known.is_settling() || (!creates && items::find(connection, &store, &product)?.is_none()) {
                return Ok(());
            }
            let command = Command::Operate {
                product_id: product.clone(),
                operation: operation.clone(),
                guard: Guard::default(),
                about: About::default(),
            };
            asked_for = true;
            asked::append(connection, &mut known, &name, &command, clock)
        });
        if asked_for && end != Commit::Before {
            self.count("central's item commands");
        }
        self.after_central_commit(end);
    }

    /// Several operations by one command of central.
    fn batch(&mut self) {
        let Some(store) = self.dice.pick(&self.stores).cloned() else { return };
        if !self.central.runs {
            return;
        }
        let mut lines = Vec::new();
        for _ in 0..self.dice.between(1, 5) {
            let Some(product_id) = self.dice.pick(&self.products).cloned() else { return };
            let operation = match self.operation() {
                Operation::Change { .. } => Operation::Sell { quantity: self.dice.units(1, 4) },
                other => other,
            };
            lines.push(BatchLine { product_id, operation, expected_version: None, reference: None, occurred_at: None });
        }
        let (id, atomic) = (format!("batch-{}", self.name()), self.dice.chance(500));
        let name = OperationId::parse(&id).expect("a valid id");
        let asked = Batch { store: store.as_str().into(), lines: lines.len(), atomic };
        let wishes = lines.iter().map(|line| (line.product_id.as_str().into(), wish(&line.operation)));
        self.oracle.book.ask_batch(&id, asked, wishes);
        let command = Command::Batch { lines, atomic, about: About::default() };
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let mut asked_for = false;
        let end = commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(mut known) = stores::find(connection, &store)? else { return Ok(()) };
            if known.is_settling() || asked::is_full_of_batches(connection, &store)? {
                return Ok(());
            }
            asked_for = true;
            asked::append(connection, &mut known, &name, &command, clock)
        });
        if asked_for && end != Commit::Before {
            self.count("central's batches");
            self.say(|| format!("{id}: {command:?} at {store}"));
        }
        self.after_central_commit(end);
    }

    /// A buyer looks at a purchase.
    fn watch(&mut self) {
        let Some(id) = self.some_purchase() else { return };
        if !self.central.runs {
            return;
        }
        if let Some(purchase) =
            purchases::find(&self.central.file, id.parse().expect("an id")).expect("the view can be read")
        {
            self.saw(&id, purchase.status.as_str());
        }
    }
}

/// As the judge writes it down.
pub(super) fn wish(operation: &Operation) -> Wish {
    match operation {
        Operation::Create { name, quantity, low_at } => {
            Wish::Create { name: name.as_str().into(), quantity: *quantity, low_at: *low_at }
        }
        Operation::Sell { quantity } => Wish::Sell(quantity.get()),
        Operation::Receive { quantity } => Wish::Receive(quantity.get()),
        Operation::Adjust { delta, .. } => Wish::Adjust(*delta),
        Operation::Count { quantity, counted_at, .. } => {
            let at = counted_at.as_ref().map(|position| (position.at.epoch.get(), position.at.seq.get()));
            Wish::Count { units: *quantity, at }
        }
        Operation::Allot { quantity } => Wish::Allot(*quantity),
        Operation::Change { name, discontinued, low_at } => {
            let name = name.as_deref().map(Name::from);
            Wish::Change { name, discontinued: *discontinued, low_at: low_at.map(LowAt::units) }
        }
    }
}
