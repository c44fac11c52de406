//! An operator has central's view built anew. That happens in a part of the seeds and by dice of its own, so that the
//! others play as if there were no such thing.

use std::collections::BTreeSet;

use central::projection::rebuild;
use central::storage::rebuild as rebuilds;
use central::storage::rebuild::Reason;
use protocol::ids::StoreId;

use super::refusals::Refusal;
use super::virtual_world::{Commit, VirtualWorld, commit_while, known};
use crate::Dice;

/// The operator of one seed.
pub(super) struct Rebuilding {
    dice: Dice,
    /// Whether there is one.
    happens: bool,
    /// Stores of which the database has refused a row while they were rebuilt.
    refused: BTreeSet<StoreId>,
}

impl Rebuilding {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x7265_6275_696c_6473);
        let happens = dice.chance(250);
        Self { dice, happens, refused: BTreeSet::new() }
    }
}

impl VirtualWorld {
    /// One step of a rebuild; if none runs, one may be asked for.
    pub(super) fn rebuild(&mut self, is_asked: bool) {
        if !self.rebuilding.happens || !self.central.runs {
            return;
        }
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let (file, dice) = (&self.central.file, &mut self.rebuilding.dice);
        let running = rebuilds::find(file).expect("the view can be read").filter(|last| last.finished_at.is_none());
        if is_asked && dice.chance(8) {
            let (end, _) = commit_while(None, file, dice, risk, &mut |connection| rebuild::begin(connection, clock));
            self.count(if running.is_none() { "rebuild begun" } else { "rebuild asked for while one runs" });
            return self.after_central_commit(end);
        }
        let chance = if self.calm { 400 } else { 60 };
        let Some(running) = running.filter(|_| dice.chance(chance)) else { return };
        let at_work = running.at_work.map(|at_work| at_work.store);
        let rows = 1 + dice.below(12) as usize;
        let refuses = !self.calm && dice.chance(20);
        let refusal = dice.pick(&self.products).filter(|_| refuses).map(|product| Refusal::of_item(product.as_str()));
        self.rebuilding.refused.extend(at_work.clone().filter(|_| refuses));
        let before = known(file, &self.stores);
        let mut stepped = rebuild::Stepped::default();
        let (end, _) = commit_while(refusal.as_ref(), file, dice, risk, &mut |connection| {
            stepped = rebuild::step(connection, rows, clock)?;
            Ok(())
        });
        if end != Commit::Done {
            self.count("central killed in a rebuild");
        }
        if end != Commit::Before {
            let after = known(&self.central.file, &self.stores);
            let shown: Vec<StoreId> = (before.into_iter().zip(after))
                .filter_map(|pair| match pair {
                    (Some(before), Some(after)) => (before.stock != after.stock).then_some(after.id),
                    _ => None,
                })
                .collect();
            self.judge_rebuild(&shown, at_work.as_ref(), stepped.left_out);
        }
        self.after_central_commit(end);
    }

    fn judge_rebuild(&mut self, shown: &[StoreId], at_work: Option<&StoreId>, left_out: Option<(StoreId, Reason)>) {
        for store in shown {
            self.count("view rebuilt");
            self.say(|| format!("the view of {store} has been rebuilt"));
            self.oracle.look_at_rebuilt(&self.central.file, store.as_str()).expect("the view can be read");
        }
        match left_out {
            Some((store, reason)) => {
                let is_refused = self.rebuilding.refused.contains(&store);
                self.say(|| format!("the rebuild leaves {store} as it is: {reason:?}"));
                match reason {
                    Reason::Restoring => self.count("store left out of a rebuild: it is restored"),
                    Reason::DigestDiffers if is_refused => {
                        self.count("store left out of a rebuild: its digest differs")
                    }
                    Reason::DigestDiffers | Reason::LedgerIncomplete => self
                        .oracle
                        .break_(format!("P6: a rebuild leaves {store} as it is without a reason: {reason:?}")),
                }
            }
            None => {
                let is_at_work = rebuilds::find(&self.central.file).expect("the view can be read");
                let is_at_work = is_at_work.is_some_and(|rebuild| rebuild.at_work.is_some());
                if at_work.is_some() && !is_at_work && shown.is_empty() {
                    self.count("store's rebuild overtaken by its state");
                }
            }
        }
    }
}
