//! The link and the purchase protocol, checked in every reachable state within bounds with `stateright`.
//!
//! **What is production code here**: [`protocol::link::Publisher`] with its judging of acks, window and audit,
//! [`protocol::link::receive`], [`protocol::link::accepts_epoch`], the chain hash, `domain::decide` and `apply`. What the daemons keep beside their SQL is
//! written again in the smallest form, in `till` (B1 to B6, L8). Redis (`redis`) is a value: each of its commands is
//! one step, as is each database transaction; a value that was read is used in a later step.
//!
//! Configurations, each exhaustive within its bounds:
//!
//! * `link`: one log, one receiver, all that can happen to Redis and to the two processes.
//! * `purchases`: the command link at full length; buyers, cancels, expiry, picking, a till; central put back.
//! * `epochs`: files put back, clones, empty agents, pruned logs. A call's pipeline is one step there. The restore by
//!   L10 is not here, but in the simulation.
//!
//! **Always**: what was applied is a prefix of the sender's log; stock is never negative; a purchase has one final
//! outcome (but confirmed may become cancelled), is never confirmed without the store's commit, and not after a cancel
//! was accepted while it was pending; and from *every* state a fair run without faults converges, with units taken =
//! units confirmed. **Sometimes**: every fault and every cure has really happened. The tests in `planted` put a bug in
//! and expect a counterexample.
//!
//! Run it: `cargo test -p protocol --test model -- --nocapture`.

mod epochs;
mod link;
mod publisher;
mod purchases;
mod receiver;
mod redis;
mod run;
mod till;

use epochs::Epochs;
use link::Link;
use publisher::Wiring;
use purchases::Purchases;

/// All configurations in one test, one after the other: each uses two threads.
#[test]
fn everything_within_bounds_holds() {
    let link = link::Bounds { entries: 3, faults: 2, ..Default::default() };
    let racing = purchases::Bounds { units: 1, purchases: 2, cancels: 1, sales: 1, faults: 1, ..Default::default() };
    let one = purchases::Bounds { units: 1, purchases: 1, cancels: 1, ..Default::default() };
    let expiring = purchases::Bounds { picks: 1, ticks: 1, faults: 1, ..one };
    let reopening = purchases::Bounds { faults: 2, ..one };
    let restoring = purchases::Bounds { faults: 1, operator: true, ..one };
    let copies = epochs::Bounds { sales: 1, faults: 1, copies: true, ..Default::default() };
    let collisions = epochs::Bounds { clocks_stand: true, ..copies };
    let cloned = epochs::Bounds { faults: 1, cloned: true, ..Default::default() };
    let pruned = epochs::Bounds { sales: 1, faults: 2, prunes: true, backups: true, ..Default::default() };
    // As many as there were when each configuration was last looked at: what makes a rule narrower, or a bound, must not
    // pass for a model that still covers the same.
    run::exhaust("link", 540_571, Link::new(link));
    run::exhaust("purchases, racing with a till", 823_905, Purchases::new(racing));
    run::exhaust("purchases, expiring and picked", 835_566, Purchases::new(expiring));
    run::exhaust("purchases, two faults", 1_064_518, Purchases::new(reopening));
    run::exhaust("purchases, central put back", 2_902_986, Purchases::new(restoring));
    run::exhaust("epochs, copies and clones", 796_913, Epochs::new(copies));
    run::exhaust("epochs, equal numbers", 87_286, Epochs::new(collisions));
    run::exhaust("epochs, pruned clones", 1_256_994, Epochs::new(cloned));
    run::exhaust("epochs, pruned logs", 390_665, Epochs::new(pruned));
}

const NOTHING_LOST: &str = "nothing acknowledged is lost, unless an operator says so";

mod planted {
    use super::*;

    const CONVERGES: &str = "a fair run converges";
    const PREFIX: &str = "applied is a prefix of the log, once each";

    fn link() -> link::Bounds {
        link::Bounds { entries: 3, faults: 2, ..link::Bounds::default() }
    }

    fn operated() -> purchases::Bounds {
        purchases::Bounds { units: 2, purchases: 1, cancels: 1, faults: 1, operator: true, ..Default::default() }
    }

    #[test]
    fn without_the_audit_a_lost_tail_is_never_found() {
        let wiring = Wiring { no_audit: true, ..Wiring::default() };
        run::refute(CONVERGES, Link::new(link::Bounds { wiring, ..link() }));
    }

    #[test]
    fn without_a_look_at_the_cursor_holes_are_applied() {
        run::refute(PREFIX, Link::new(link::Bounds { no_cursor_check: true, ..link() }));
    }

    #[test]
    fn with_the_cursor_in_its_own_transaction_entries_are_applied_twice() {
        run::refute(PREFIX, Link::new(link::Bounds { cursor_apart: true, ..link() }));
    }

    #[test]
    fn an_outcome_must_not_settle_twice() {
        let bounds = purchases::Bounds { settle_twice: true, ..operated() };
        run::refute("a purchase has one final outcome", Purchases::new(bounds));
    }

    #[test]
    fn without_kept_outcomes_a_command_has_its_effect_twice() {
        let bounds = purchases::Bounds { no_outcomes: true, ..operated() };
        run::refute("once settled, units taken are units confirmed", Purchases::new(bounds));
    }

    #[test]
    fn a_cancel_that_is_forgotten_is_found() {
        let bounds = purchases::Bounds { cancel_forgotten: true, ..operated() };
        run::refute("cancelled while pending is never confirmed", Purchases::new(bounds));
    }

    #[test]
    fn any_greater_epoch_would_do_away_with_what_was_acknowledged() {
        let bounds = epochs::Bounds { sales: 1, faults: 1, copies: true, any_epoch: true, ..Default::default() };
        run::refute(NOTHING_LOST, Epochs::new(bounds));
    }

    #[test]
    fn a_clone_that_trusts_the_hash_of_an_ack_does_not_stop() {
        let wiring = Wiring { ack_hash_ignored: true, ..Wiring::default() };
        let bounds = epochs::Bounds { sales: 1, faults: 1, copies: true, wiring, ..Default::default() };
        run::refute("a fair run ends: all is said, or the agent has stopped", Epochs::new(bounds));
    }

    /// Its log reads an ack of long ago, and opens an epoch for it; a later seq of central's own epoch in its lineage
    /// looks as if central were merely behind, though the two have forked below that.
    #[test]
    fn a_clone_with_a_pruned_log_passes_for_the_store() {
        let bounds = epochs::Bounds { faults: 1, cloned: true, kept_ignored: true, ..Default::default() };
        run::refute(NOTHING_LOST, Epochs::new(bounds));
    }
}
