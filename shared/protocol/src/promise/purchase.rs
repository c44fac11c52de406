//! An online purchase's life at central (B3, B5, B6).
//!
//! **Guarantees.** Only the store's reply settles a purchase, once: `pending` becomes `confirmed`, `rejected`, `expired` or
//! `cancelled`, and only `confirmed` may change again, to `cancelled`, until it is picked. A purchase whose cancel was
//! accepted while it was pending never becomes `confirmed`. Units that a store takes for a purchase that is settled
//! otherwise, or elsewhere, are asked back. A purchase whose store central chooses asks another one once the one before has
//! said no, and not before. Between the two it is *seeking*, and no store has anything of it. Were central or a store set
//! back, two stores may have taken units all the same: the first `confirmed` that central applies stands.

use crate::domain::Rejection;
use crate::planted::{Bug, planted};
use crate::wire::{Became, PurchaseRef};

/// Where a purchase is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The store has not answered.
    Pending,
    /// The store took the units.
    Confirmed,
    /// The store could not.
    Rejected,
    /// The store heard of it too late.
    Expired,
    /// Cancelled; units that were taken are back.
    Cancelled,
}

impl Status {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = crate::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Confirmed, Self::Rejected, Self::Expired, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| crate::ids::Invalid(format!("no purchase status {text:?}")))
    }
}

/// What the store says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It took the units.
    Confirmed {
        /// Staff has picked them since: an outcome that is repeated says so.
        picked: bool,
    },
    /// It could not.
    Rejected,
    /// It heard of it too late.
    Expired,
    /// It holds nothing of it, and never will.
    Cancelled,
    /// Staff has picked it.
    Picked,
}

impl Reply {
    /// What an answer says of a purchase, and of which. `None`: it says nothing of a purchase's life. The refusal of a
    /// cancel ends the cancel alone.
    pub fn of(answer: &Became) -> Option<(Self, &PurchaseRef)> {
        match answer {
            Became::Confirmed { purchase, picked, .. } => Some((Self::Confirmed { picked: *picked }, purchase)),
            Became::Rejected { purchase, .. } => Some((Self::Rejected, purchase)),
            Became::Expired { purchase, .. } => Some((Self::Expired, purchase)),
            Became::Cancelled { purchase, .. } => Some((Self::Cancelled, purchase)),
            Became::Done { .. }
            | Became::Refused { .. }
            | Became::Reservation(_)
            | Became::Transfer(_)
            | Became::Batch(_)
            | Became::Resynced => None,
        }
    }

    fn settled(self) -> Transition {
        let (status, picked) = match self {
            Self::Confirmed { picked } => (Status::Confirmed, picked),
            Self::Picked => (Status::Confirmed, true),
            Self::Rejected => (Status::Rejected, false),
            Self::Expired => (Status::Expired, false),
            Self::Cancelled => (Status::Cancelled, false),
        };
        Transition::Settled { status, picked }
    }
}

/// What decides about a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life {
    /// Where it is.
    pub status: Status,
    /// A cancel was accepted, and was neither executed nor refused.
    pub cancel_requested: bool,
    /// Staff has picked it.
    pub picked: bool,
    /// Retiring its store has ended it, and the store has not said since that it holds nothing of it.
    pub voided: bool,
    /// Central chooses its store: if one refuses, another may be asked.
    pub is_chosen: bool,
    /// The store has refused, and no other one is asked yet.
    pub seeking: bool,
    /// The store is asked for units that the buyer was promised: central has confirmed it out of the allotment, or a state of
    /// the store has forgotten that they were taken. It has not said yet that they are.
    pub sold: bool,
}

/// What becomes of a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// Nothing.
    Stands,
    /// The store's reply settles it.
    Settled {
        /// How.
        status: Status,
        /// Staff has picked it already.
        picked: bool,
    },
    /// The store has refused: another one is to be asked.
    Seeks,
    /// Another store is asked.
    AskedElsewhere,
    /// Central confirms it out of a store's allotment.
    Sold,
    /// The store has said that it took what central had sold.
    Taken {
        /// Staff has picked it already.
        picked: bool,
    },
    /// The store cannot do what central has sold: its version or its database does not take it.
    Failed,
    /// The store's state no longer has the units as taken: it is asked to take them, as if central had sold them.
    AskedAgain,
    /// Staff has picked it.
    Picked,
    /// Retiring the store had ended it; the store has said now that it holds nothing of it.
    Proven,
    /// B6: it stands, and the store shall give back what it took.
    Compensate,
    /// A cancel was accepted.
    CancelRequested,
    /// The cancel was refused, or ended without an answer: another may be asked for.
    CancelEnded {
        /// The store's `confirmed` had waited for the cancel's answer: it settles the purchase now.
        confirmed: bool,
    },
    /// Retiring its store ends it.
    Voided,
}

/// What a cancel comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// The store is to be asked.
    Ask {
        /// Give the units back even if they were picked: the buyer was told that it never will be confirmed.
        forced: bool,
    },
    /// No store has anything of it: it is cancelled with that.
    AtOnce,
    /// It was asked before, and has not answered.
    Asked,
    /// It had ended before; nothing to do.
    Ended,
}

/// What the store refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The purchase itself: the store's version does not understand it.
    Purchase,
    /// A cancel: it was picked, or the store's version does not understand the cancel.
    Cancel {
        /// The last that the store said of the attempt is `confirmed`.
        is_confirmed: bool,
    },
}

impl Life {
    /// As it begins (B1).
    pub const PENDING: Self = Self {
        status: Status::Pending,
        cancel_requested: false,
        picked: false,
        voided: false,
        is_chosen: false,
        seeking: false,
        sold: false,
    };

    /// B3: what a reply makes of a purchase that central does not know (any more). It begins as [`Life::PENDING`], and
    /// `is_chosen` says whether central had chosen the store: then the refusal of one may not have been the end of it.
    pub fn on_first_reply(reply: Reply, is_chosen: bool) -> Transition {
        if reply == Reply::Rejected && is_chosen { Transition::Seeks } else { reply.settled() }
    }

    /// B3, B5, B6: what a reply makes of it. `is_present`: it is about the present attempt, and comes from its store.
    pub fn on_reply(&self, reply: Reply, is_present: bool) -> Transition {
        let compensate = if planted(Bug::NothingGivenBack) { Transition::Stands } else { Transition::Compensate };
        let is_pending = self.status == Status::Pending;
        match (reply, self.status) {
            (Reply::Picked, _) if is_present && !planted(Bug::PickedIgnored) => Transition::Picked,
            (Reply::Confirmed { picked }, Status::Confirmed) if is_present && self.sold => Transition::Taken { picked },
            (Reply::Rejected | Reply::Expired, Status::Confirmed) if is_present && self.sold => Transition::Failed,
            (Reply::Cancelled, Status::Confirmed) if planted(Bug::CancelledIgnored) => Transition::Stands,
            // The cancel follows in order: its answer ends the purchase, not this.
            (Reply::Confirmed { .. }, Status::Pending)
                if is_present && self.cancel_requested && !planted(Bug::ConfirmedAfterCancel) =>
            {
                Transition::Stands
            }
            (Reply::Rejected, Status::Pending)
                if is_present && self.is_chosen && (!self.cancel_requested || planted(Bug::SoughtAfterCancel)) =>
            {
                if self.seeking {
                    Transition::Stands
                } else {
                    Transition::Seeks
                }
            }
            (reply, _) if planted(Bug::SettleTwice) && reply != Reply::Picked => reply.settled(),
            (_, Status::Pending) | (Reply::Cancelled, Status::Confirmed) if is_present && reply != Reply::Picked => {
                reply.settled()
            }
            // Another store than the one that is asked: central has forgotten, or a store has, what came after its refusal.
            // It has taken the units, or was the last to be asked.
            (Reply::Confirmed { .. } | Reply::Expired | Reply::Cancelled, _)
                if is_pending && self.is_chosen && !self.cancel_requested =>
            {
                reply.settled()
            }
            // The entry that said so was refused by the database; a whole state says it again.
            (Reply::Confirmed { picked: true }, Status::Confirmed) if is_present && !self.picked => Transition::Picked,
            (Reply::Confirmed { .. }, Status::Confirmed) if is_present => Transition::Stands,
            (Reply::Rejected | Reply::Expired | Reply::Cancelled, _) if is_present && self.voided => Transition::Proven,
            (Reply::Confirmed { .. }, _) => compensate,
            (Reply::Rejected | Reply::Expired | Reply::Cancelled | Reply::Picked, _) => Transition::Stands,
        }
    }

    /// What the refusal of a command makes of it that was about its present attempt.
    pub fn on_refusal(&self, refused: Refused) -> Transition {
        match refused {
            Refused::Purchase if self.status == Status::Pending => self.on_reply(Reply::Rejected, true),
            Refused::Purchase if self.sold => Transition::Failed,
            Refused::Purchase => Transition::Stands,
            Refused::Cancel { is_confirmed } => {
                Transition::CancelEnded { confirmed: is_confirmed && self.status == Status::Pending }
            }
        }
    }

    /// B5: whether the store is to be asked to cancel. From then on a pending purchase can never end `confirmed`.
    /// `has_pending_cancel`: a cancel of it is unanswered.
    pub fn on_cancel(&self, is_retired: bool, has_pending_cancel: bool) -> Result<Cancelling, Rejection> {
        let forced = match self.status {
            Status::Pending if self.seeking => return Ok(Cancelling::AtOnce),
            Status::Pending => !planted(Bug::CancelNotForced),
            Status::Confirmed if self.picked => return Err(Rejection::AlreadyPicked),
            Status::Confirmed => false,
            Status::Rejected | Status::Expired | Status::Cancelled => return Ok(Cancelling::Ended),
        };
        if is_retired {
            return Err(Rejection::StoreRetired);
        }
        Ok(if has_pending_cancel { Cancelling::Asked } else { Cancelling::Ask { forced } })
    }

    /// L10: a human has chosen a state of its store that does not know what the store had said of it.
    pub fn on_forgotten(&self) -> Transition {
        match self.status {
            Status::Confirmed if !self.picked && !self.sold => Transition::AskedAgain,
            // What was picked has left with its buyer, as what a till sold.
            Status::Confirmed | Status::Pending | Status::Rejected | Status::Expired | Status::Cancelled => {
                Transition::Stands
            }
        }
    }

    /// B5: its store is retired; every request that is open with it ends without an answer.
    pub fn on_retire(&self) -> Transition {
        match self.status {
            // It waits for no answer of this store.
            Status::Pending if self.seeking => Transition::Stands,
            Status::Pending => Transition::Voided,
            // Nobody can know whether the store will ever hear of it.
            Status::Confirmed if self.sold && !planted(Bug::RetiringLeavesSold) => Transition::Voided,
            Status::Confirmed if self.cancel_requested => Transition::CancelEnded { confirmed: false },
            Status::Confirmed | Status::Rejected | Status::Expired | Status::Cancelled => Transition::Stands,
        }
    }

    /// Its store is taken back: it may have taken units, and the `confirmed` that said so may have come before, waiting
    /// for the answer to a cancel that was ended, too.
    pub fn on_readmit(&self) -> Transition {
        if self.voided && !planted(Bug::NothingGivenBack) { Transition::Compensate } else { Transition::Stands }
    }

    /// The life after a transition.
    #[must_use]
    pub fn after(self, transition: Transition) -> Self {
        match transition {
            Transition::Stands | Transition::Compensate => self,
            Transition::Settled { status, picked } => {
                Self { status, picked: self.picked || picked, voided: false, seeking: false, sold: false, ..self }
            }
            Transition::Seeks => Self { seeking: true, ..self },
            Transition::AskedElsewhere => Self { seeking: false, ..self },
            Transition::Sold => Self { status: Status::Confirmed, sold: true, seeking: false, ..self },
            Transition::Taken { picked } => Self { sold: false, picked: self.picked || picked, ..self },
            Transition::Failed => Self { status: Status::Cancelled, sold: false, ..self },
            Transition::AskedAgain => Self { sold: true, ..self },
            Transition::Picked => Self { picked: true, ..self },
            Transition::Proven => Self { voided: false, ..self },
            Transition::CancelRequested => Self { cancel_requested: true, ..self },
            Transition::CancelEnded { confirmed } => Self {
                status: if confirmed { Status::Confirmed } else { self.status },
                cancel_requested: false,
                ..self
            },
            Transition::Voided => Self { status: Status::Cancelled, voided: true, sold: false, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIRMED: Life = Life { status: Status::Confirmed, ..Life::PENDING };
    const TAKEN: Reply = Reply::Confirmed { picked: false };

    fn settled(status: Status) -> Transition {
        Transition::Settled { status, picked: false }
    }

    #[test]
    fn the_first_reply_settles_a_pending_purchase() {
        for (reply, status) in [
            (TAKEN, Status::Confirmed),
            (Reply::Rejected, Status::Rejected),
            (Reply::Expired, Status::Expired),
            (Reply::Cancelled, Status::Cancelled),
        ] {
            assert_eq!(Life::PENDING.on_reply(reply, true), settled(status));
            assert_eq!(Life::on_first_reply(reply, false), settled(status), "nor does central have to know it");
        }
        let picked = Transition::Settled { status: Status::Confirmed, picked: true };
        assert_eq!(Life::PENDING.on_reply(Reply::Confirmed { picked: true }, true), picked);
        assert_eq!(Life::on_first_reply(Reply::Picked, false), picked);
    }

    #[test]
    fn a_pick_that_was_missed_is_learnt_from_an_outcome_that_is_repeated() {
        let repeated = Reply::Confirmed { picked: true };
        assert_eq!(CONFIRMED.on_reply(repeated, true), Transition::Picked);
        let picked = CONFIRMED.after(Transition::Picked);
        assert_eq!(picked.on_reply(repeated, true), Transition::Stands, "it is known");
        assert_eq!(CONFIRMED.on_reply(repeated, false), Transition::Compensate, "another attempt");
    }

    #[test]
    fn what_another_attempt_says_of_a_pick_changes_nothing() {
        for life in [Life::PENDING, CONFIRMED] {
            assert_eq!(life.on_reply(Reply::Picked, true), Transition::Picked);
            assert_eq!(life.on_reply(Reply::Picked, false), Transition::Stands);
        }
        let sold = Life::PENDING.after(Transition::Sold);
        assert_eq!(sold.after(Transition::Taken { picked: true }), CONFIRMED.after(Transition::Picked));
    }

    #[test]
    fn who_has_taken_the_units_does_not_lose_them_to_a_refusal() {
        for refused in [Reply::Rejected, Reply::Expired] {
            assert_eq!(CONFIRMED.on_reply(refused, true), Transition::Stands);
        }
    }

    #[test]
    fn a_confirmation_waits_for_the_cancel_that_follows_it() {
        let cancelling = Life { cancel_requested: true, ..Life::PENDING };
        assert_eq!(cancelling.on_reply(TAKEN, true), Transition::Stands);
        assert_eq!(cancelling.on_reply(Reply::Cancelled, true), settled(Status::Cancelled));
        let refused = cancelling.on_refusal(Refused::Cancel { is_confirmed: true });
        assert_eq!(cancelling.after(refused), CONFIRMED, "the cancel was not understood: the confirmation stands");
        let unknown = cancelling.on_refusal(Refused::Cancel { is_confirmed: false });
        assert_eq!(cancelling.after(unknown), Life::PENDING);
    }

    #[test]
    fn units_taken_for_what_is_settled_otherwise_or_elsewhere_are_asked_back() {
        for status in [Status::Rejected, Status::Expired, Status::Cancelled] {
            assert_eq!(Life { status, ..Life::PENDING }.on_reply(TAKEN, true), Transition::Compensate);
        }
        assert_eq!(CONFIRMED.on_reply(TAKEN, true), Transition::Stands);
        for life in [Life::PENDING, CONFIRMED] {
            assert_eq!(life.on_reply(TAKEN, false), Transition::Compensate, "another attempt");
        }
    }

    #[test]
    fn what_central_has_sold_is_taken_once_or_fails_openly() {
        let sold = Life::PENDING.after(Transition::Sold);
        assert_eq!(sold, Life { sold: true, ..CONFIRMED });
        assert_eq!(sold.on_reply(TAKEN, true), Transition::Taken { picked: false });
        let taken = sold.after(Transition::Taken { picked: false });
        assert_eq!((taken, taken.on_reply(TAKEN, true)), (CONFIRMED, Transition::Stands));
        for refused in [sold.on_reply(Reply::Rejected, true), sold.on_refusal(Refused::Purchase)] {
            assert_eq!(refused, Transition::Failed);
        }
        assert_eq!(sold.after(Transition::Failed), Life { status: Status::Cancelled, ..Life::PENDING });
        assert_eq!(sold.on_cancel(false, false), Ok(Cancelling::Ask { forced: false }));
        assert_eq!(sold.after(sold.on_reply(Reply::Cancelled, true)).status, Status::Cancelled);
        let voided = sold.after(sold.on_retire());
        assert_eq!((voided.status, voided.voided, voided.sold), (Status::Cancelled, true, false));
        assert_eq!(voided.on_reply(TAKEN, true), Transition::Compensate, "the store had heard of it");
        assert_eq!(CONFIRMED.on_retire(), Transition::Stands, "the store has the units");
    }

    #[test]
    fn what_a_state_has_forgotten_is_taken_again_unless_it_was_picked() {
        let cancelling = Life { cancel_requested: true, ..CONFIRMED };
        for life in [CONFIRMED, cancelling] {
            let again = life.after(life.on_forgotten());
            assert_eq!(again, Life { sold: true, ..life });
            assert_eq!(again.after(again.on_reply(TAKEN, true)), life);
            assert_eq!(again.after(again.on_reply(Reply::Cancelled, true)).status, Status::Cancelled);
            assert_eq!(again.on_forgotten(), Transition::Stands, "it is asked");
        }
        let ended = [Status::Pending, Status::Rejected, Status::Expired, Status::Cancelled];
        let others = ended.map(|status| Life { status, ..Life::PENDING });
        for life in others.into_iter().chain([Life { picked: true, ..CONFIRMED }]) {
            assert_eq!(life.on_forgotten(), Transition::Stands);
        }
    }

    #[test]
    fn a_cancel_is_asked_once_and_not_of_what_was_picked() {
        assert_eq!(Life::PENDING.on_cancel(false, false), Ok(Cancelling::Ask { forced: true }));
        assert_eq!(CONFIRMED.on_cancel(false, false), Ok(Cancelling::Ask { forced: false }));
        assert_eq!(CONFIRMED.on_cancel(false, true), Ok(Cancelling::Asked));
        assert_eq!(CONFIRMED.on_cancel(true, false), Err(Rejection::StoreRetired));
        assert_eq!(Life { picked: true, ..CONFIRMED }.on_cancel(false, false), Err(Rejection::AlreadyPicked));
        let ended = Life { status: Status::Expired, ..Life::PENDING };
        assert_eq!(ended.on_cancel(true, false), Ok(Cancelling::Ended));
    }

    /// Central has chosen the store that it waits for.
    const ASKED: Life = Life { is_chosen: true, ..Life::PENDING };
    /// That store has refused.
    const SEEKING: Life = Life { seeking: true, ..ASKED };

    #[test]
    fn what_central_has_chosen_seeks_another_store_once_the_present_one_has_said_no() {
        for transition in [ASKED.on_reply(Reply::Rejected, true), ASKED.on_refusal(Refused::Purchase)] {
            assert_eq!(transition, Transition::Seeks);
        }
        assert_eq!(ASKED.after(Transition::Seeks), SEEKING);
        assert_eq!(SEEKING.after(Transition::AskedElsewhere), ASKED);
        assert_eq!(SEEKING.on_reply(Reply::Rejected, true), Transition::Stands, "that is known");
        assert_eq!(SEEKING.on_retire(), Transition::Stands, "it waits for nobody");
        assert_eq!(ASKED.on_reply(Reply::Rejected, false), Transition::Stands, "another one's no");
        assert_eq!(ASKED.on_reply(Reply::Expired, true), settled(Status::Expired), "its time is over everywhere");
        assert_eq!(
            Life::PENDING.on_reply(Reply::Rejected, true),
            settled(Status::Rejected),
            "the shop named the store"
        );
    }

    #[test]
    fn what_shall_be_cancelled_seeks_no_store() {
        let cancelling = Life { cancel_requested: true, ..ASKED };
        assert_eq!(cancelling.on_reply(Reply::Rejected, true), settled(Status::Rejected));
        assert_eq!(cancelling.on_reply(TAKEN, false), Transition::Compensate, "nor does it take what another one has");
        for nothing in [Reply::Rejected, Reply::Expired, Reply::Cancelled] {
            assert_eq!(cancelling.on_reply(nothing, false), Transition::Stands);
        }
        for is_retired in [false, true] {
            assert_eq!(SEEKING.on_cancel(is_retired, false), Ok(Cancelling::AtOnce));
        }
        let cancelled = SEEKING.after(settled(Status::Cancelled));
        assert_eq!(cancelled, Life { status: Status::Cancelled, ..ASKED });
        assert_eq!(cancelled.on_reply(TAKEN, true), Transition::Compensate);
    }

    #[test]
    fn of_two_stores_that_took_units_the_first_that_is_heard_of_keeps_them() {
        for life in [ASKED, SEEKING] {
            for is_present in [true, false] {
                let confirmed = life.after(life.on_reply(TAKEN, is_present));
                assert_eq!(confirmed, Life { is_chosen: true, ..CONFIRMED });
                assert_eq!(confirmed.on_reply(TAKEN, false), Transition::Compensate);
                assert_eq!(confirmed.on_reply(TAKEN, true), Transition::Stands);
                assert_eq!(confirmed.on_reply(Reply::Cancelled, false), Transition::Stands, "it has given them back");
            }
            for (last, status) in [(Reply::Expired, Status::Expired), (Reply::Cancelled, Status::Cancelled)] {
                assert_eq!(life.on_reply(last, false), settled(status), "nobody was asked after that");
            }
        }
    }

    #[test]
    fn a_refusal_may_not_have_been_the_end_of_what_is_forgotten() {
        assert_eq!(Life::on_first_reply(Reply::Rejected, true), Transition::Seeks);
        assert_eq!(Life::on_first_reply(Reply::Rejected, false), settled(Status::Rejected));
        assert_eq!(Life::on_first_reply(TAKEN, true), settled(Status::Confirmed));
    }

    #[test]
    fn retiring_ends_what_is_pending_until_the_store_tells_the_truth() {
        let voided = Life::PENDING.after(Life::PENDING.on_retire());
        assert_eq!((voided.status, voided.voided), (Status::Cancelled, true));
        assert_eq!(voided.on_readmit(), Transition::Compensate);
        assert_eq!(voided.on_reply(TAKEN, true), Transition::Compensate);
        for nothing in [Reply::Rejected, Reply::Expired, Reply::Cancelled] {
            assert_eq!(voided.on_reply(nothing, true), Transition::Proven);
        }
        let proven = voided.after(Transition::Proven);
        assert_eq!((proven.status, proven.on_readmit()), (Status::Cancelled, Transition::Stands));
        let cancelling = Life { cancel_requested: true, ..CONFIRMED };
        assert_eq!(cancelling.after(cancelling.on_retire()), CONFIRMED, "it stands, and may be cancelled again");
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Reply(Reply, bool),
        Refused(Refused),
        Cancel,
        Retire,
        AskElsewhere,
        GiveUp,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let reply = prop_oneof![
            any::<bool>().prop_map(|picked| Reply::Confirmed { picked }),
            Just(Reply::Rejected),
            Just(Reply::Expired),
            Just(Reply::Cancelled),
            Just(Reply::Picked),
        ];
        let refused = prop_oneof![
            Just(Refused::Purchase),
            // One that is not understood may leave it confirmed: the test above.
            Just(Refused::Cancel { is_confirmed: false }),
        ];
        let step = prop_oneof![
            6 => (reply, any::<bool>()).prop_map(|(reply, present)| Step::Reply(reply, present)),
            1 => refused.prop_map(Step::Refused),
            2 => Just(Step::Cancel),
            1 => Just(Step::Retire),
            1 => Just(Step::AskElsewhere),
            1 => Just(Step::GiveUp),
        ];
        proptest::collection::vec(step, 0..30)
    }

    proptest! {
        #[test]
        fn a_purchase_has_one_outcome(is_chosen in any::<bool>(), steps in steps()) {
            let mut life = Life { is_chosen, ..Life::PENDING };
            for step in steps {
                let before = life;
                let transition = match step {
                    Step::Reply(reply, is_present) => life.on_reply(reply, is_present),
                    Step::Refused(refused) => life.on_refusal(refused),
                    Step::Cancel => match life.on_cancel(false, false) {
                        Ok(Cancelling::Ask { .. }) => Transition::CancelRequested,
                        Ok(Cancelling::AtOnce) => settled(Status::Cancelled),
                        Ok(Cancelling::Asked | Cancelling::Ended) | Err(_) => Transition::Stands,
                    },
                    Step::Retire => life.on_retire(),
                    Step::AskElsewhere if life.seeking => Transition::AskedElsewhere,
                    Step::GiveUp if life.seeking => settled(Status::Rejected),
                    Step::AskElsewhere | Step::GiveUp => Transition::Stands,
                };
                life = life.after(transition);
                let settled_again = before.status != Status::Pending && before.status != life.status;
                prop_assert!(
                    !settled_again || (before.status, life.status) == (Status::Confirmed, Status::Cancelled),
                    "{before:?} became {life:?}"
                );
                let confirmed = before.status == Status::Pending && life.status == Status::Confirmed;
                prop_assert!(!(confirmed && before.cancel_requested), "a cancel was accepted before");
                prop_assert!(!before.picked || life.picked);
                prop_assert!(!life.voided || life.status == Status::Cancelled);
                prop_assert!(!life.seeking || life.is_chosen && life.status == Status::Pending);
            }
        }
    }
}
