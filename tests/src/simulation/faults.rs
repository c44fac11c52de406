//! What goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use protocol::hash::Hash;
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::number::{CommandEpoch, Epoch};
use protocol::time::Millis;
use store_agent::ledger;
use store_agent::operators::restore::{Choice, Refusal, Report, carry_out};

use super::agent::{Agent, copy};
use super::humans;
use super::virtual_world::{Copy, VirtualWorld};
use crate::judge::{BoundKeys, Known, Name, Occasion, Place, Shop};
use crate::unknown::record_unknown;

/// Beyond anybody's clock, ms: all that is acknowledged may go.
const LONG_AGO: i64 = 24 * 60 * 60 * 1_000;

impl VirtualWorld {
    /// One fault. The rare kinds happen only in seeds that have drawn them.
    pub(super) fn fault(&mut self) {
        if self.has_many_copies && self.dice.chance(600) {
            return match self.dice.below(6) {
                0 => self.take_copy(),
                1 => self.set_back_store(),
                2 => self.clone_agent(),
                _ => humans::look_after(self),
            };
        }
        if self.dice.chance(550) {
            return self.common_fault();
        }
        let kind = self.dice.below(18);
        if self.allowed & (1 << kind) == 0 {
            return self.take_copy();
        }
        match kind {
            0 => {
                self.redis.wipe();
                self.happened("Redis wiped");
            }
            1 => {
                let lost = 1 + self.dice.below(4) as usize;
                self.in_a_stream("stream's tail lost", |redis, key, _| redis.lose_tail(key, lost));
            }
            2 => self.in_a_stream("stream's middle lost", |redis, key, dice| redis.punch(key, dice)),
            3 => self.in_a_stream("foreign entry in a stream", |redis, key, _| redis.intrude(key)),
            4 => self.in_a_stream("ack set back", |redis, key, dice| redis.set_back_ack(&format!("{key}:ack"), dice)),
            5 => {
                let skew = self.dice.between(-3_600_000, 3_600_000);
                let number = self.dice.below(self.agents.len() as u64 + 1) as usize;
                match self.agents.get_mut(number) {
                    Some(agent) => agent.skew = skew,
                    None => self.central.skew = skew,
                }
                self.happened("clock moved");
            }
            6 => self.prune(),
            7 => self.corrupt_view(),
            8 => self.unknown_event(),
            9 => self.set_back_store(),
            10 => self.clone_agent(),
            11 => self.lose_disk(),
            12 => self.empty_agent(),
            13 => {
                let number = self.dice.below(self.agents.len() as u64) as usize;
                self.restore(number);
            }
            14 => self.retire(),
            16 => self.usurp(),
            15 => self.in_a_stream("entry changed in place", |redis, key, dice| redis.corrupt(key, dice)),
            _ => self.set_back_central(),
        }
    }

    fn happened(&mut self, what: &'static str) {
        self.count(what);
        self.say(|| what.into());
    }

    fn common_fault(&mut self) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        let late = self.dice.chance(500);
        match self.dice.below(8) {
            0 => {
                self.agents[number].crash(late, &mut self.redis);
                self.happened("agent killed");
            }
            1 => {
                self.central.crash(late, &mut self.redis);
                self.happened("central killed");
            }
            2 | 3 => {
                if self.agents[number].disconnect(self.now, late, &mut self.redis) {
                    self.happened("connection broken in a pipeline");
                }
            }
            4 => {
                if self.central.disconnect(late, &mut self.redis) {
                    self.happened("connection broken in a pipeline");
                }
            }
            5 => {
                let network = !self.agents[number].network;
                self.agents[number].network = network;
                if !network {
                    self.agents[number].disconnect(self.now, late, &mut self.redis);
                    self.happened("agent cut off");
                }
            }
            6 => {
                self.central.network = !self.central.network;
                if !self.central.network {
                    self.central.disconnect(late, &mut self.redis);
                    self.happened("central cut off");
                }
            }
            // Not while a write waits for its transaction: it would be answered as one that took too long.
            _ if self.dice.chance(150) => self.now += if self.clients.is_writing() { 0 } else { 55_000 },
            _ => self.now += self.dice.between(500, 3_000),
        }
    }

    /// Something that is no stream in the place of one.
    pub(super) fn usurp(&mut self) {
        self.in_a_stream("foreign key in a stream's place", |redis, key, _| redis.usurp(key));
    }

    fn in_a_stream(&mut self, what: &'static str, does: impl FnOnce(&mut super::redis::Redis, &str, u64) -> bool) {
        let keys = self.redis.keys();
        let Some(key) = self.dice.pick(&keys).cloned() else { return };
        let dice = self.dice.roll();
        if does(&mut self.redis, &key, dice) {
            self.count(what);
            self.say(|| format!("{what}: {key}"));
        }
    }

    /// The calm begins: networks are whole, clocks right, processes run.
    pub(super) fn end_faults(&mut self) {
        self.central.network = true;
        self.central.runs = true;
        self.central.skew = 0;
        for agent in &mut self.agents {
            agent.network = true;
            agent.runs = is_open(agent);
            agent.skew = 0;
        }
    }

    fn prune(&mut self) {
        let later = Millis(self.now + LONG_AGO);
        let mut pruned = false;
        for agent in &mut self.agents {
            let before = entries(agent);
            // What goes is young here. In life no key can ask for it any more, and it need not be known.
            let (file, now) = (&agent.file, Millis(self.now));
            let epoch = ledger::head(file).expect("a ledger has a head").cursor.epoch;
            ledger::idempotency::remember_ended(file, epoch, now).expect("it can be kept");
            let since = "select named_since from meta";
            let since: i64 = file.query_row(since, [], |row| row.get(0)).expect("there is one");
            while ledger::prune_entries(file, later).expect("pruning works") {}
            file.execute("update meta set named_since = ?1", [since]).expect("all of them are known");
            let is_cut = entries(agent) < before;
            agent.pruned |= is_cut;
            pruned |= is_cut;
        }
        central::storage::retention::prune_commands(&self.central.file, later).expect("pruning works");
        if pruned {
            self.happened("log pruned up to the ack");
        }
    }

    /// Something changes central's view by itself. Either one row does, and running digest and totals know nothing of it;
    /// or they agree, and only the store's own digest can tell: of an item's units, or of an item that it never had.
    fn corrupt_view(&mut self) {
        let Some(id) = self.dice.pick(&self.stores).cloned() else { return };
        let file = &self.central.file;
        let stock = central::storage::items::of_store(file, &id).expect("the view can be read");
        let (Some((product, mut item)), Some(mut store)) =
            (self.dice.pick(&stock).cloned(), central::storage::stores::find(file, &id).expect("the view can be read"))
        else {
            return;
        };
        self.oracle.damage(id.as_str());
        if self.dice.chance(500) {
            let sql = "update item set quantity = quantity + 1 where stock = ?1 and product_id = ?2";
            file.execute(sql, rusqlite::params![store.stock, product.as_str()]).expect("the view can be written");
            return self.happened("view corrupted");
        }
        item.quantity += 1;
        let product = if self.dice.chance(500) { ProductId::parse("dud").expect("a valid id") } else { product };
        central::storage::stocks::put(file, &mut store, &product, &item).expect("the view can be written");
        store.save_events(file).expect("the view can be written");
        self.happened("view and its digest corrupted");
    }

    /// An operator takes a store out of the chain, although it may have come back since he looked.
    fn retire(&mut self) {
        let Some(id) = self.dice.pick(&self.stores).cloned() else { return };
        if !self.central.runs {
            return;
        }
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let mut ended = None;
        let end = super::virtual_world::commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(mut store) = central::storage::stores::find(connection, &id)? else { return Ok(()) };
            if !store.retired {
                ended = Some(central::promises::stores::retire(connection, &mut store, clock)?);
            }
            Ok(())
        });
        if let (Some(ended), true) = (ended, end != super::virtual_world::Commit::Before) {
            self.happened("store retired");
            self.oracle.retire(id.as_str());
            self.touched.insert(id.clone());
            let of_store = self.oracle.book.buys.iter().filter(|(_, buy)| buy.attempts.contains_key(id.as_str()));
            self.voided.extend(of_store.map(|(purchase, _)| purchase.to_string()));
            // The answer, if there is one, names what was ended.
            for purchase in ended.iter().filter(|_| end == super::virtual_world::Commit::Done) {
                self.saw(purchase, "cancelled");
            }
            self.central.settled(&ended);
        }
        self.after_central_commit(end);
    }

    /// The operator takes it back.
    pub(super) fn adopt(&mut self, id: &StoreId) {
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let (mut adopted, mut chosen) = (false, None);
        let end = super::virtual_world::commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
            let Some(mut store) = central::storage::stores::find(connection, id)?.filter(|store| store.retired) else {
                return Ok(());
            };
            if let Some(epoch) = store.claims().first() {
                chosen = (*epoch != store.cursor.epoch).then_some(epoch.get());
                adopted = central::promises::stores::adopt(connection, &mut store, *epoch, clock)?;
            }
            Ok(())
        });
        if adopted {
            self.happened("store adopted");
            if let Some(epoch) = chosen {
                self.oracle.choose(id.as_str(), epoch);
            } else if end != super::virtual_world::Commit::Before {
                self.oracle.known.readmit(id.as_str());
            }
        }
        self.after_central_commit(end);
    }

    /// A later version of the agent has recorded something that this central does not know.
    fn unknown_event(&mut self) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        let file = &self.agents[number].file;
        if ledger::head(file).expect("a ledger has a head").cursor.epoch == Epoch::NONE {
            return;
        }
        let operation = format!("news-{}", self.next_id);
        record_unknown(file, "teleported", "{}", &operation, Millis(self.now)).expect("the ledger can be written");
        self.look_at(number, Occasion::News, None);
        self.happened("unknown event");
    }

    fn take_copy(&mut self) {
        if self.copies.len() >= 4 || !self.dice.chance(300) {
            return;
        }
        let number = self.dice.below(self.agents.len() as u64 + 1) as usize;
        let copied = match self.agents.get(number) {
            Some(agent) => {
                let (of, bound) = (Some(agent.store.clone()), agent.bound.clone());
                let known = Known::default();
                Copy { of, file: copy(&agent.file), bound, known, pruned: agent.pruned, step: self.step }
            }
            None => {
                let (file, bound) = (copy(&self.central.file), self.central.bound.clone());
                Copy { of: None, file, bound, known: self.oracle.known.clone(), pruned: false, step: self.step }
            }
        };
        self.copies.push(copied);
    }

    fn some_copy(&mut self, of: Option<&StoreId>) -> Option<Copy> {
        let fitting: Vec<usize> =
            (0..self.copies.len()).filter(|number| self.copies[*number].of.as_ref() == of).collect();
        let chosen = &self.copies[*self.dice.pick(&fitting)?];
        let (of, bound, known) = (chosen.of.clone(), chosen.bound.clone(), chosen.known.clone());
        Some(Copy { of, file: copy(&chosen.file), bound, known, pruned: chosen.pruned, step: chosen.step })
    }

    /// What is in this file and, at this moment, neither at central nor in another file of the store, is lost with it.
    pub(super) fn mark_lost(&mut self, number: usize, kept: Option<&rusqlite::Connection>) {
        let store = self.agents[number].store.clone();
        let others = (0..self.agents.len()).filter(|other| *other != number && self.agents[*other].store == store);
        let logs: Vec<_> = others.clone().map(|other| &self.agents[other].file).chain(kept).collect();
        self.oracle
            .lose_log(store.as_str(), &self.agents[number].file, &logs, &self.central.file)
            .expect("the logs can be read");
        let mut left: Vec<Rc<Shop>> = others.map(|other| self.shop(other)).collect();
        left.push(self.view(&store));
        if let Some(kept) = kept {
            let place = Place::of_file(kept).expect("a ledger has a head");
            left.push(self.oracle.shop(store.as_str(), place));
        }
        let gone = self.shop(number);
        self.oracle.lose(&gone, &left);
        self.touched.insert(store);
    }

    /// A file is set back while nothing else happens.
    pub(super) fn set_back(&mut self) {
        let before = self.counts.clone();
        if self.dice.chance(500) {
            self.set_back_central()
        } else {
            self.set_back_store()
        }
        if self.counts != before {
            self.happened("file set back while all was idle");
        }
    }

    fn set_back_store(&mut self) {
        let number = self.dice.below(self.agents.len() as u64) as usize;
        let store = self.agents[number].store.clone();
        let Some(old) = self.some_copy(Some(&store)) else { return };
        self.mark_lost(number, Some(&old.file));
        let late = self.dice.chance(500);
        self.agents[number].crash(late, &mut self.redis);
        self.agents[number].noted = Place::of_file(&old.file).expect("a ledger has a head");
        self.agents[number].pruned = old.pruned;
        self.agents[number].file = old.file;
        self.agents[number].bound = old.bound;
        self.happened("store's file set back");
    }

    fn clone_agent(&mut self) {
        if self.agents.len() > self.stores.len() {
            return;
        }
        let number = self.dice.below(self.agents.len() as u64) as usize;
        if !is_open(&self.agents[number]) {
            // No agent serves with it, so a copy of it does nothing either.
            return;
        }
        let store = self.agents[number].store.clone();
        let file = copy(&self.agents[number].file);
        let process = self.dice.roll();
        let (noted, pruned) = (self.agents[number].noted, self.agents[number].pruned);
        let mut agent = Agent::start(&store, file, &self.keys, process);
        (agent.noted, agent.pruned) = (noted, pruned);
        agent.bound = self.agents[number].bound.clone();
        self.agents.push(agent);
        self.touched.insert(store);
        self.happened("store cloned");
    }

    fn empty_agent(&mut self) {
        if self.agents.len() > self.stores.len() {
            return;
        }
        let Some(store) = self.dice.pick(&self.stores).cloned() else { return };
        let agent = self.new_agent(&store);
        self.agents.push(agent);
        self.touched.insert(store);
        self.happened("empty agent with a known id");
    }

    /// The disk dies; a new machine takes over.
    fn lose_disk(&mut self) {
        if !self.central.runs {
            return;
        }
        let number = self.dice.below(self.agents.len() as u64) as usize;
        self.mark_lost(number, None);
        let late = self.dice.chance(500);
        self.agents[number].crash(late, &mut self.redis);
        let store = self.agents[number].store.clone();
        let file = super::agent::new_file(ledger::SCHEMA);
        self.give_rule(&store, &file);
        ledger::claim(&file, &store).expect("a new database becomes this store's");
        self.agents[number].file = file;
        self.agents[number].bound = BoundKeys::default();
        self.agents[number].noted = Place::default();
        self.agents[number].pruned = false;
        self.happened("store's disk lost");
        self.restore(number);
    }

    fn set_back_central(&mut self) {
        if self.agents.iter().any(|agent| !is_open(agent)) {
            return;
        }
        let Some(old) = self.some_copy(None) else { return };
        if self.dice.chance(300) {
            self.prune();
        }
        let late = self.dice.chance(500);
        self.central.crash(late, &mut self.redis);
        for (id, bought) in &mut self.history.purchases {
            if self.told_at.get(id).is_some_and(|told| *told >= old.step) {
                bought.may_be_forgotten = true;
                bought.cancelled_while_pending = false;
            }
        }
        let mut logs: BTreeMap<Name, Vec<_>> = BTreeMap::new();
        for agent in &self.agents {
            logs.entry(agent.store.as_str().into()).or_default().push((&agent.file, agent.noted));
        }
        self.oracle.set_back(&self.central.file, &old.file, &logs).expect("the view can be read");
        self.readers_set_back();
        self.touched.extend(self.stores.iter().cloned());
        self.central.file = old.file;
        self.central.bound = old.bound;
        self.oracle.known = old.known;
        self.happened("central set back");
        if self.dice.chance(600) {
            self.reopen_commands();
        }
    }

    pub(super) fn reopen_commands(&mut self) {
        let clock = self.central.clock(self.now);
        let (redis, keys) = (&mut self.redis, &self.keys);
        let now = self.now;
        let acked = |store: &StoreId| {
            let call = super::redis::Call::GetAck(keys.commands_ack(store));
            match redis.call(&call, now) {
                super::redis::Told::Ack(Some(ack)) => super::redis::ack(ack).cursor.epoch,
                _ => CommandEpoch::NONE,
            }
        };
        central::operators::restore::reopen(&self.central.file, acked, clock).expect("the view can be written");
        self.oracle.restored(&self.central.file).expect("the view can be read");
        self.say(|| "central restore".into());
    }

    /// `store-agent restore`: question and answer, each of which may be the last thing that happens.
    pub(super) fn restore(&mut self, number: usize) {
        let late = self.dice.chance(500);
        self.agents[number].crash(late, &mut self.redis);
        if !self.central.runs {
            return;
        }
        let store = self.agents[number].store.clone();
        self.touched.insert(store.clone());
        let known = central::storage::stores::find(&self.central.file, &store).expect("the view can be read");
        if known.is_some_and(|known| known.retired) {
            return self.happened("restore of a retired store refused");
        }
        if self.agents[number].network {
            self.redis.call(&super::redis::Call::Delete(self.keys.events(&store)), self.now);
        }
        let question =
            store_agent::operators::restore::question(&self.agents[number].file).expect("a ledger can be read");
        let times = if self.dice.chance(100) { 2 } else { 1 };
        let mut given = None;
        for _ in 0..times {
            let clock = self.central.clock(self.now);
            let risk = self.risk();
            let end = super::virtual_world::commit(&self.central.file, &mut self.dice, risk, &mut |connection| {
                match central::operators::restore::question(connection, &store, &question, clock) {
                    Ok(epoch) => given = Some(epoch),
                    Err(runtime::sqlite::Abort::Refused(_)) => given = None,
                    Err(runtime::sqlite::Abort::Database(error)) => return Err(error),
                }
                Ok(())
            });
            if let (Some(epoch), true) = (given, end != super::virtual_world::Commit::Before) {
                self.oracle.known.restore(store.as_str(), epoch.get());
            }
            self.after_central_commit(end);
            if end != super::virtual_world::Commit::Done {
                return self.happened("restore not carried out");
            }
        }
        if times == 2 {
            self.count("restore twice");
        }
        let Some(epoch) = given else {
            self.count("restore refused while a state is taken in");
            return self.happened("restore not carried out");
        };
        let answer = self.hear(&store, epoch, question);
        let place = Place::of_view(&self.central.file, store.as_str()).expect("the view can be read");
        if !self.calm && self.dice.chance(150) {
            return self.happened("restore not carried out");
        }
        self.answer(number, &answer, place);
    }

    /// Central tells the state line by line.
    fn hear(
        &self,
        store: &StoreId,
        epoch: Epoch,
        question: protocol::wire::restore::Question,
    ) -> protocol::wire::restore::Answer {
        let clock = self.central.clock(self.now);
        let mut writer = central::operators::restore::AnswerWriter::new(store.clone(), epoch, question, clock);
        let mut reader = protocol::wire::restore::AnswerReader::default();
        while !writer.is_over() {
            if let Some(line) = writer.next(&self.central.file).expect("nobody else asks") {
                reader.read_line(&serde_json::to_vec(&line).expect("a line serialises")).expect("a line can be read");
            }
        }
        reader.finish().expect("all was told")
    }

    fn answer(&mut self, number: usize, answer: &protocol::wire::restore::Answer, view: Place) {
        let clock = self.agents[number].clock(self.now);
        let mut choice = None;
        let mut replaces = false;
        loop {
            let risk = self.risk();
            let mut report = None;
            let mut refusal = None;
            let end =
                super::virtual_world::commit(&self.agents[number].file, &mut self.dice, risk, &mut |connection| {
                    match carry_out(connection, answer, choice, clock) {
                        Ok(done) => report = Some(done),
                        Err(runtime::sqlite::Abort::Refused(why)) => refusal = Some(why),
                        Err(runtime::sqlite::Abort::Database(error)) => return Err(error),
                    }
                    Ok(())
                });
            if let (Some(report), true) = (&report, end != super::virtual_world::Commit::Before) {
                self.judge_restore(number, report, choice.is_some(), replaces, (view, answer));
            }
            if end != super::virtual_world::Commit::Done {
                if end == super::virtual_world::Commit::Before {
                    self.happened("restore not carried out");
                }
                return self.after_commit(number, end);
            }
            match (report, refusal) {
                (Some(report), _) => {
                    self.count("restore carried out");
                    let of_entries: BTreeSet<&str> =
                        answer.entries.iter().map(|entry| entry.operation.as_str()).collect();
                    let is_alone = |named: &OperationId| !of_entries.contains(named.as_str());
                    if report.state == Choice::Central && answer.operations.iter().any(is_alone) {
                        self.count("restore told of operations by their names alone");
                    }
                    if answer.entries.iter().any(|entry| entry.given_up && entry.product_id.is_some()) {
                        self.count("restore told of what a human has given up");
                    }
                    if report.recorded_again > 0 {
                        self.count("restore recorded entries again");
                    }
                    if report.state == Choice::Own {
                        self.count("restore kept its own state");
                    }
                    self.say(|| format!("agent {number} is restored: {report:?}"));
                    self.agents[number].runs = true;
                    let store = self.agents[number].store.clone();
                    return self.came_back(&store);
                }
                (None, Some(why @ (Refusal::NeedsChoice { .. } | Refusal::CannotTell { .. }))) => {
                    self.count("restore asked a human");
                    self.say(|| format!("agent {number}: {why}"));
                    if self.dice.chance(300) {
                        self.count("restore chose its own state");
                        choice = Some(Choice::Own);
                        continue;
                    }
                    choice = Some(Choice::Central);
                    if matches!(why, Refusal::NeedsChoice { .. }) {
                        replaces = true;
                        self.mark_lost(number, None);
                        continue;
                    }
                    let store = self.agents[number].store.clone();
                    let (own, theirs) = (self.shop(number), self.oracle.shop(store.as_str(), view));
                    let file = &self.agents[number].file;
                    let looked = self.oracle.leave_out(&self.central.file, store.as_str(), file, &own, &theirs);
                    looked.expect("both logs can be read");
                }
                (None, _) => return self.happened("restore not carried out"),
            }
        }
    }

    /// What a restore has left. `replaces`: of this database nothing is wanted. `view`: where central's view stood when it
    /// answered.
    fn judge_restore(
        &mut self,
        number: usize,
        report: &Report,
        was_asked: bool,
        replaces: bool,
        (view, answer): (Place, &protocol::wire::restore::Answer),
    ) {
        let store = self.agents[number].store.clone();
        let (own, theirs) = (self.shop(number), self.oracle.shop(store.as_str(), view));
        if report.state == Choice::Central {
            let occasion = if replaces { Occasion::Replacement } else { Occasion::Restore { own: &own } };
            // What is on its way to the store is central's to say, and comes with the state.
            let transfers: Vec<serde_json::Value> = (answer.transfers.iter())
                .map(|transfer| serde_json::to_value(transfer).expect("a transfer serialises"))
                .collect();
            self.look_at(number, occasion, Some(Rc::new(theirs.knowing(&transfers))));
            if was_asked {
                let shared = report.shared.unwrap_or_default();
                self.agents[number].bound.forget_behind((shared.epoch.get(), shared.seq.get()));
            }
            return;
        }
        self.oracle.carry(&own);
        self.look_at(number, Occasion::Replacement, Some(own.clone()));
        if was_asked {
            self.oracle.disown(&theirs, &own);
            return self.oracle.choose(store.as_str(), self.agents[number].noted.epoch);
        }
        if let Some(lacks) = own.lacks(&theirs).chain(own.unsays(&theirs)).next() {
            self.oracle.break_(format!("P2: {store} keeps its own state, which lacks {lacks}"));
        }
        if view != Place::default() && !self.agents[number].pruned {
            self.oracle.break_(format!("P6: {store} keeps its own state, and its log was never cut"));
        }
    }
}

/// Whether an epoch is open: a restore of an empty database that was begun has none.
pub(super) fn is_open(agent: &Agent) -> bool {
    ledger::head(&agent.file).expect("a ledger has a head").cursor.hash != Hash::ZERO
}

fn entries(agent: &Agent) -> i64 {
    agent.file.query_row("select count(*) from ledger", [], |row| row.get(0)).expect("a ledger can be read")
}
