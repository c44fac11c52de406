//! Bugs that tests may plant, to see that they are found: a check that has never been red proves nothing.
//!
//! Without the feature `planted`, which only `cargo xtask mutants` turns on, [`planted`] is a constant `false` and nothing
//! of this is in a binary. With it a thread has at most one bug.

/// One planted bug, by what it leaves out or gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Central acknowledges what it has rolled back.
    AckBeforeCommit,
    /// Central's cursor moves over a fact whose effect is left out.
    CursorWithoutEffect,
    /// A receiver takes an entry whose hash does not fit.
    HashNotChecked,
    /// A receiver applies what it has applied.
    CursorNotChecked,
    /// The sender removes an entry that is not acknowledged.
    TrimBeyondAck,
    /// The sender never looks at the stream.
    NoAudit,
    /// The sender compares places, neither hashes nor content.
    AuditWithoutHash,
    /// The sender does not see that an entry was changed in place.
    AuditWithoutContent,
    /// The sender takes an ack for its own by the place alone.
    AckHashNotJudged,
    /// The sender publishes all it has.
    WindowIgnored,
    /// A copy or clone that central does not know goes on publishing.
    DivergedGoesOn,
    /// A superseded database goes on publishing.
    SupersededGoesOn,
    /// The sender does not start over when the receiver was set back.
    LowerAckIgnored,
    /// A sender with nothing unacknowledged never reads the ack.
    IdleSenderSleeps,
    /// A sender with nothing unacknowledged never looks at the stream.
    IdleStreamNotLookedAt,
    /// A sender whose window is full waits until something is committed.
    FullWindowSleeps,
    /// Central accepts any epoch.
    LineageIgnored,
    /// An epoch opens without the state.
    OpeningWithoutState,
    /// An epoch opens without the kept outcomes.
    OutcomesLeftOut,
    /// Items that an opening does not name stay.
    UnnamedItemsStay,
    /// Central does not compare digests.
    DigestNotCompared,
    /// A new state's items do not reach the totals.
    TotalsNotMoved,
    /// Rows that had changed by themselves leave the totals wrong.
    TotalsNeverRecounted,
    /// Of the outcomes that came with a state only those of the first step are settled.
    OutcomesHalfSettled,
    /// The store executes a command again that it has executed.
    NoDedupeByCommand,
    /// The store executes commands of any command epoch.
    CommandEpochNameIgnored,
    /// The store takes a purchase whose deadline has passed.
    DeadlineIgnored,
    /// Central ends a pending purchase without asking the store.
    CancelOutOfOrder,
    /// Central calls a purchase expired whose time was over, whatever the store says.
    ExpiryByTimeAlone,
    /// A later answer replaces the outcome.
    SettleTwice,
    /// A confirmation settles a purchase whose cancel was accepted.
    ConfirmedAfterCancel,
    /// Central does not ask for the units back.
    NothingGivenBack,
    /// One unit more than there is may be sold.
    SellOneMore,
    /// A restore leaves out what only the old database knows.
    RestoreForgetsOwn,
    /// A restore records again what central has.
    RestoreRepeatsKnown,
    /// A restore does not take over what waits to be picked and what was answered.
    RestoreWithoutOutcomes,
    /// A restored ledger claims entries that left its log.
    RestoreClaimsAll,
    /// An opening's command epoch does not repeat what is unsettled.
    UnsettledNotRepeated,
    /// A purchase whose cancel was accepted asks another store.
    SoughtAfterCancel,
    /// Central notes which store it asks next, and does not ask it.
    NextStoreNotAsked,
}

/// All of them.
pub const BUGS: &[Bug] = &[
    Bug::AckBeforeCommit,
    Bug::CursorWithoutEffect,
    Bug::HashNotChecked,
    Bug::CursorNotChecked,
    Bug::TrimBeyondAck,
    Bug::NoAudit,
    Bug::AuditWithoutHash,
    Bug::AuditWithoutContent,
    Bug::AckHashNotJudged,
    Bug::WindowIgnored,
    Bug::DivergedGoesOn,
    Bug::SupersededGoesOn,
    Bug::LowerAckIgnored,
    Bug::IdleSenderSleeps,
    Bug::IdleStreamNotLookedAt,
    Bug::FullWindowSleeps,
    Bug::LineageIgnored,
    Bug::OpeningWithoutState,
    Bug::OutcomesLeftOut,
    Bug::UnnamedItemsStay,
    Bug::DigestNotCompared,
    Bug::TotalsNotMoved,
    Bug::TotalsNeverRecounted,
    Bug::OutcomesHalfSettled,
    Bug::NoDedupeByCommand,
    Bug::CommandEpochNameIgnored,
    Bug::DeadlineIgnored,
    Bug::CancelOutOfOrder,
    Bug::ExpiryByTimeAlone,
    Bug::SettleTwice,
    Bug::ConfirmedAfterCancel,
    Bug::NothingGivenBack,
    Bug::SellOneMore,
    Bug::RestoreForgetsOwn,
    Bug::RestoreRepeatsKnown,
    Bug::RestoreWithoutOutcomes,
    Bug::RestoreClaimsAll,
    Bug::UnsettledNotRepeated,
    Bug::SoughtAfterCancel,
    Bug::NextStoreNotAsked,
];

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this thread has the bug.
#[cfg(feature = "planted")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this thread has the bug: never.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn planted(_: Bug) -> bool {
    false
}
