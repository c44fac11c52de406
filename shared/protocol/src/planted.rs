//! Bugs that tests may plant, to see that they are found: a check that has never been red proves nothing.
//!
//! Without debug assertions, as in every release build, [`planted`] is a constant `false` and nothing of this is in a
//! binary. With them a thread has at most one bug, and only `cargo xtask mutants` plants any: so simulation and planted bugs
//! are one build.

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
    /// What has changed while a state was told is not told again.
    ChangedNotToldAgain,
    /// An epoch opens without the kept outcomes.
    OutcomesLeftOut,
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
    /// The store forgets what became of a batch.
    BatchOutcomeNotKept,
    /// Of a transfer one line leaves the source.
    ShippedInPart,
    /// Of a purchase one line is taken, and all of it is confirmed.
    OneLineTaken,
    /// Of a purchase that is rejected the lines are taken that there are.
    RejectedInPart,
    /// The cancel of a purchase gives one line back.
    OneLineGivenBack,
    /// The lines of a purchase that has ended are still left out of what is sold.
    PendingLinesLeft,
    /// A transfer's units leave the source however late it hears of that.
    ShipDeadlineIgnored,
    /// A transfer may be received again.
    ReceivedTwice,
    /// More may be received than was shipped.
    MoreReceivedThanShipped,
    /// Central does not announce what was shipped.
    ShippedNotAnnounced,
    /// A whole state leaves out transfers.
    TransfersLeftOut,
    /// A restore does not take over the transfers that central knows.
    RestoreWithoutTransfers,
    /// Units are given back to the tills before central has said that they are not sold.
    AllotmentLoweredAtOnce,
    /// A release that comes late lowers what has been raised again.
    ReleasedThoughNotWanted,
    /// A release takes more than is wanted.
    ReleasedBelowWanted,
    /// A loss ends reservations before it touches what is set aside.
    HoldsCutFirst,
    /// What is set aside of an item that is no longer carried stays so.
    DiscontinuedStaysAllotted,
    /// What is set aside because of an operation has the operation's name.
    AllotmentSharesId,
    /// A restore records again that units were set aside, and does not set them aside.
    RestoredAllotmentForgotten,
    /// A store that wants fewer units set aside is heard once, and not looked after.
    LoweredIsForgotten,
    /// What central has sold out of the allotment is taken off the shelf.
    SoldOffTheShelf,
    /// Retiring a store leaves confirmed what it has not been told of.
    RetiringLeavesSold,
    /// Central sells units of an allotment that an unanswered command takes.
    SoldTwice,
    /// A store refuses what central has confirmed, if the units are not there.
    SoldIsRefused,
    /// Central confirms at once more than is set aside, as long as the till has it.
    SoldBeyondAllotment,
    /// What central has sold expires at the store.
    SoldHasDeadline,
    /// What was sold and is not there is entered without a word.
    SoldShortageNotNamed,
    /// A batch that was to be done as a whole or not at all is done in part.
    AtomicBatchHalfDone,
    /// A batch that comes again after a restore is done again, with what the restore has brought back of it.
    BatchLineRepeated,
    /// A batch that comes again after a restore is done again, with what the restore has recorded again of it.
    BatchLineForgotten,
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
    /// A restore keeps the answers to what it leaves out.
    LeftOutAnswered,
    /// A whole state does not name the operations that are in it.
    OperationsNotNamed,
    /// The state that a restore opens with names what is recorded again behind it.
    RepeatedNamed,
    /// A restore records again what central knows by its name alone.
    NamedRecordedAgain,
    /// A restore takes for shared what came before the end of an epoch, whether its log has that end or not.
    RestoreIgnoresForks,
    /// A restore does not take over what waits to be picked and what was answered.
    RestoreWithoutOutcomes,
    /// A restored ledger claims entries that left its log.
    RestoreClaimsAll,
    /// An opening's command epoch does not repeat what is unsettled.
    UnsettledNotRepeated,
    /// A purchase whose cancel was accepted asks another store.
    SoughtAfterCancel,
    /// Central does not note which store it asks next.
    NextStoreNotNoted,
    /// Central notes which store it asks next, and does not ask it.
    NextStoreNotAsked,
    /// A purchase for which no store is left goes on seeking.
    NeverGivesUp,
    /// A cancel of a purchase that seeks a store is answered, and forgotten.
    CancelWhileSeekingForgotten,
    /// A store takes units of a discontinued item for an online purchase.
    SoldOnlineThoughDiscontinued,
    /// A discontinued item is received.
    ReceivedThoughDiscontinued,
    /// The notice of little stock is repeated.
    LowStockRepeated,
    /// The version that a caller expects is not compared.
    GuardIgnored,
    /// A new name does not reach the item.
    NameNotChanged,
    /// Whether an item is discontinued does not reach it.
    DiscontinuedNotChanged,
    /// A change that does not name the threshold takes it away.
    ThresholdForgotten,
    /// A count is added.
    CountByDifference,
    /// An entry tells of no difference.
    DifferenceNotTold,
    /// A cancel gives units back that were picked.
    PickedIsCancelled,
    /// A cancel that must give picked units back is refused.
    ForcedCancelRefused,
    /// A cancel that comes first does not keep the purchase from being executed.
    CancelNotRemembered,
    /// A cancel gives nothing back.
    CancelledWithoutUnits,
    /// A cancelled attempt's own outcome stays confirmed.
    CancelledStaysConfirmed,
    /// The outcome of a command that was refused is not kept.
    RefusalNotKept,
    /// The cursor over the commands stays where it is.
    CommandCursorNotMoved,
    /// The store does not say that it is ready for commands.
    ReadyNotSaid,
    /// Staff picks a purchase that was cancelled.
    CancelledIsPicked,
    /// The outcome of a purchase does not say that it was picked.
    PickNotInOutcome,
    /// What was picked is picked again.
    PickedTwice,
    /// A confirmed purchase is not on staff's list.
    NotOnTheList,
    /// A cancelled purchase stays on staff's list.
    CancelledStaysOnTheList,
    /// Entries are pruned that are not acknowledged.
    PrunedBeyondAck,
    /// A change of an item does not reach the store's digest.
    DigestNotMoved,
    /// A restore forgets what was picked.
    RestoreForgetsPicks,
    /// A restore puts cancelled purchases back on staff's list.
    RestoreRevivesCancelled,
    /// Of two states of which neither continues the other the restore takes one by itself.
    RestoreAsksNobody,
    /// Of a sale that a restore records again no more is recorded than there are units.
    ShortageClipped,
    /// A shortage has the id of the operation behind it.
    ShortageSharesId,
    /// A restore records a notice of little stock again.
    NoticeRecordedAgain,
    /// A pick that a restore records again is not in the outcome.
    RestoredPickForgotten,
    /// A change of name that a restore records again changes nothing.
    RestoredChangeForgotten,
    /// The answer to a command that a restore records again is not kept.
    RestoredOutcomeForgotten,
    /// Central sells for a store that was not heard of for too long.
    StaleHeartbeatAccepted,
    /// Central sells for a store whose heart beats in another epoch than it knows.
    OtherEpochSoldFor,
    /// Central sells for a store that is not ready for its commands.
    SettlingSoldFor,
    /// Entries overtake the outcomes that came with a state.
    EntriesOvertakeOutcomes,
    /// Central does not tell an epoch that it was refused.
    FenceNotSaid,
    /// A store that still differs is not asked again.
    DifferingNotAskedAgain,
    /// Central opens no command epoch for an epoch that it accepts.
    OpenedWithoutCommands,
    /// A retired store opens an epoch by itself.
    RetiredOpens,
    /// The answer to a command does not settle it.
    AnswerNotSettled,
    /// Central does not keep what a store answered.
    OutcomeNotKept,
    /// Central keeps the outcome of an attempt as it was before its cancel.
    CancelNotKept,
    /// Central does not keep that a purchase was picked.
    PickNotKept,
    /// A purchase's deadline is in central's clock.
    DeadlineByOwnClock,
    /// A cancel that was accepted is not sent.
    CancelForgotten,
    /// Retiring a store leaves its purchases pending.
    RetiringLeavesPending,
    /// A restore is told the rows of a view that is damaged.
    DamagedViewHandedOut,
    /// A confirmed purchase stays confirmed when the store has cancelled it.
    CancelledIgnored,
    /// The cancel of a pending purchase is not forced.
    CancelNotForced,
    /// Central does not learn that a purchase was picked.
    PickedIgnored,
    /// The sender looks at the stream 200 times more rarely.
    RareAudit,
    /// A sender that was refused goes on.
    FenceIgnored,
    /// The sender does not mind what stands in its stream's place.
    ForeignKeyIgnored,
    /// A stream that is too large for a round is never read.
    ApartForgotten,
    /// A restore holds the units of a reservation again that is held.
    HoldCountedTwice,
    /// A reservation whose time is over still keeps units from others.
    ExpiredHoldCounts,
    /// A reservation whose time is over is confirmed.
    ConfirmedAfterExpiry,
    /// The end of a reservation frees twice what it held.
    CancelFreesTwice,
    /// Of a reservation that is confirmed in part the rest stays held.
    PartKeepsTheRest,
    /// A restore forgets that a reservation was extended.
    ExtensionLost,
    /// The store holds units of which it heard too late.
    HoldDeadlineIgnored,
    /// A state is told without its reservations.
    HoldsLeftOut,
    /// A restore does not take over what is held.
    RestoreWithoutHolds,
    /// Central keeps of an entry that its database refuses only that it was there.
    RefusedFactForgotten,
    /// An equal digest ends that a whole state is wanted.
    DifferenceEndsByItself,
    /// A restore is told what is shown of a suspect store.
    SuspectViewHandedOut,
    /// A count that leaves fewer units than are held is refused.
    CountBelowHeldRefused,
    /// A count that leaves too few units ends the oldest reservations.
    OldestHoldEnds,
    /// A count that leaves too few units ends a reservation for which there are enough.
    OneHoldTooManyEnds,
    /// A count that leaves too few units ends reservations for as many as are missing but one.
    OneUnitTooFewFreed,
    /// A reservation that a count ends keeps its units of other products.
    FallenHoldKeepsOthers,
    /// A reservation that a count ends stays open.
    FallenHoldStaysOpen,
    /// Nobody is told that units for a reservation are missing.
    FallenHoldNotNamed,
    /// A restore does not tell again for which reservation units were missing.
    RestoreForgetsWhoFellShort,
    /// A count of an earlier shelf takes it for the present one.
    EarlierShelfIsNow,
    /// A count may be of a shelf of an earlier epoch.
    EarlierEpochCounted,
    /// What has moved since a list was counted is a difference.
    MovedSinceListIsDifference,
    /// Of what has moved several products since a list was counted only the first is known.
    OneProductMovesList,
    /// A list of an earlier epoch is compared.
    ListOfAnotherEpochCompared,
    /// What has moved since a list was compared is lost.
    ListCountedWhenDone,
    /// What a list corrects is corrected in part, if the store refuses some of it.
    ListCorrectedInPart,
    /// What a list leaves out is taken for gone.
    MissingIsEmptied,
    /// A list is corrected though something was counted since it was compared, or may yet be.
    ReconciliationsOverlap,
    /// A rebuild shows what is not what the store said.
    RebuildUnproven,
    /// A rebuild ends a store's turn before it has read all that came meanwhile.
    RebuildMissesNews,
    /// A rebuild goes on beside a state that has come meanwhile.
    RebuildMissesState,
    /// A rebuild makes reservations those of an older state.
    RebuildAgesHolds,
    /// A store does not keep what a key stands for.
    KeyNotKept,
    /// After a restore a store does once more what had been done under a key.
    KnownDoneAgain,
    /// Who asks for something else under a used key is answered as who used it.
    OtherRequestAnswered,
    /// A store forgets that a request is for one version of an item.
    TagIgnored,
    /// Central does not keep what a key stands for.
    KeyOfPurchaseNotKept,
    /// Central looks for a key before it writes, and not while it does.
    KeyLookedForTooEarly,
    /// Central's answer to who has asked before does not say so.
    RepetitionNotNamed,
    /// Who waits for a store's word is answered at once.
    NotWaitedFor,
    /// Who waits for a store's word is not told when it has come.
    WaitingNotTold,
    /// Who waits for a store's word is told what was known before it came.
    WaitingToldOfBefore,
    /// A store does not keep what a key of a reservation stands for.
    KeyOfReservationNotKept,
    /// A store does not keep what a key of a batch stands for.
    KeyOfBatchNotKept,
    /// A store keeps a refusal under its key, and repeats it.
    RefusalKept,
    /// A store says of a line of a batch that it was done, and it was refused.
    RefusedLineDone,
    /// A store says of a batch of which nothing is done that it was done.
    UndoneBatchDone,
    /// Who asks again for a reservation is told how it was first.
    FirstReservationRepeated,
    /// A reservation of which a part is confirmed is confirmed as a whole.
    PartConfirmedAsWhole,
    /// Central does not keep what a key of a command stands for.
    KeyOfCommandNotKept,
    /// Central says of a reservation that its store has not answered that it was made.
    PendingReservationMade,
    /// Who waits for the answer to a command is answered at once.
    CommandNotWaitedFor,
    /// A transfer that is to be booked in by its announcement is not.
    AutoReceiveForgotten,
    /// The cursor of a page of events leads past the one that comes next.
    EventPassedOver,
    /// The cursor of a page of events leads back to its last one.
    EventToldAgain,
    /// Central asks a store for a cancel that it has asked for, and that is not answered.
    CancelAskedAgain,
    /// Central refuses a purchase for want of units as one of what is not carried any more.
    ShortCalledDiscontinued,
    /// The tag of an item is that of the version before.
    TagOfBefore,
    /// A store does not show what is set aside of an item.
    AllottedNotShown,
    /// Central keeps of each refusal of a command that the store did not know what was asked.
    RefusalReasonLost,
    /// Central says of an answer that it stands at the entry before.
    AnswerPlacedBefore,
    /// Central asks a store to do something about a reservation that was cancelled.
    CancelledHoldAskedAbout,
    /// Central asks a store to hold whatever somebody wants.
    HeldWithoutLook,
    /// Central asks a store to send units that it does not have.
    SentWithoutLook,
    /// Units that wait for one store are left out of what all others sell.
    PendingOfAllStores,
    /// A store that has one batch to answer gets no more of them.
    OneBatchAtOnce,
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
    Bug::ChangedNotToldAgain,
    Bug::OutcomesLeftOut,
    Bug::DigestNotCompared,
    Bug::TotalsNotMoved,
    Bug::TotalsNeverRecounted,
    Bug::OutcomesHalfSettled,
    Bug::NoDedupeByCommand,
    Bug::BatchOutcomeNotKept,
    Bug::AtomicBatchHalfDone,
    Bug::BatchLineRepeated,
    Bug::BatchLineForgotten,
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
    Bug::LeftOutAnswered,
    Bug::OperationsNotNamed,
    Bug::RepeatedNamed,
    Bug::NamedRecordedAgain,
    Bug::RestoreIgnoresForks,
    Bug::RestoreWithoutOutcomes,
    Bug::RestoreClaimsAll,
    Bug::UnsettledNotRepeated,
    Bug::SoughtAfterCancel,
    Bug::NextStoreNotNoted,
    Bug::NextStoreNotAsked,
    Bug::NeverGivesUp,
    Bug::CancelWhileSeekingForgotten,
    Bug::SoldOnlineThoughDiscontinued,
    Bug::ReceivedThoughDiscontinued,
    Bug::LowStockRepeated,
    Bug::GuardIgnored,
    Bug::NameNotChanged,
    Bug::DiscontinuedNotChanged,
    Bug::ThresholdForgotten,
    Bug::CountByDifference,
    Bug::DifferenceNotTold,
    Bug::PickedIsCancelled,
    Bug::ForcedCancelRefused,
    Bug::CancelNotRemembered,
    Bug::CancelledWithoutUnits,
    Bug::CancelledStaysConfirmed,
    Bug::RefusalNotKept,
    Bug::CommandCursorNotMoved,
    Bug::ReadyNotSaid,
    Bug::CancelledIsPicked,
    Bug::PickNotInOutcome,
    Bug::PickedTwice,
    Bug::NotOnTheList,
    Bug::CancelledStaysOnTheList,
    Bug::PrunedBeyondAck,
    Bug::DigestNotMoved,
    Bug::RestoreForgetsPicks,
    Bug::RestoreRevivesCancelled,
    Bug::RestoreAsksNobody,
    Bug::ShortageClipped,
    Bug::ShortageSharesId,
    Bug::NoticeRecordedAgain,
    Bug::RestoredPickForgotten,
    Bug::RestoredChangeForgotten,
    Bug::RestoredOutcomeForgotten,
    Bug::StaleHeartbeatAccepted,
    Bug::OtherEpochSoldFor,
    Bug::SettlingSoldFor,
    Bug::EntriesOvertakeOutcomes,
    Bug::FenceNotSaid,
    Bug::DifferingNotAskedAgain,
    Bug::OpenedWithoutCommands,
    Bug::RetiredOpens,
    Bug::AnswerNotSettled,
    Bug::OutcomeNotKept,
    Bug::CancelNotKept,
    Bug::PickNotKept,
    Bug::DeadlineByOwnClock,
    Bug::CancelForgotten,
    Bug::RetiringLeavesPending,
    Bug::DamagedViewHandedOut,
    Bug::CancelledIgnored,
    Bug::CancelNotForced,
    Bug::PickedIgnored,
    Bug::RareAudit,
    Bug::FenceIgnored,
    Bug::ForeignKeyIgnored,
    Bug::ApartForgotten,
    Bug::HoldCountedTwice,
    Bug::ExpiredHoldCounts,
    Bug::ConfirmedAfterExpiry,
    Bug::CancelFreesTwice,
    Bug::PartKeepsTheRest,
    Bug::ExtensionLost,
    Bug::HoldDeadlineIgnored,
    Bug::HoldsLeftOut,
    Bug::RestoreWithoutHolds,
    Bug::RefusedFactForgotten,
    Bug::DifferenceEndsByItself,
    Bug::SuspectViewHandedOut,
    Bug::CountBelowHeldRefused,
    Bug::OldestHoldEnds,
    Bug::OneHoldTooManyEnds,
    Bug::OneUnitTooFewFreed,
    Bug::FallenHoldKeepsOthers,
    Bug::FallenHoldStaysOpen,
    Bug::FallenHoldNotNamed,
    Bug::RestoreForgetsWhoFellShort,
    Bug::EarlierShelfIsNow,
    Bug::EarlierEpochCounted,
    Bug::MovedSinceListIsDifference,
    Bug::OneProductMovesList,
    Bug::ListOfAnotherEpochCompared,
    Bug::ListCountedWhenDone,
    Bug::ListCorrectedInPart,
    Bug::MissingIsEmptied,
    Bug::ReconciliationsOverlap,
    Bug::RebuildUnproven,
    Bug::RebuildMissesNews,
    Bug::RebuildMissesState,
    Bug::RebuildAgesHolds,
    Bug::ShippedInPart,
    Bug::OneLineTaken,
    Bug::RejectedInPart,
    Bug::OneLineGivenBack,
    Bug::PendingLinesLeft,
    Bug::ShipDeadlineIgnored,
    Bug::ReceivedTwice,
    Bug::MoreReceivedThanShipped,
    Bug::ShippedNotAnnounced,
    Bug::TransfersLeftOut,
    Bug::RestoreWithoutTransfers,
    Bug::AllotmentLoweredAtOnce,
    Bug::ReleasedThoughNotWanted,
    Bug::ReleasedBelowWanted,
    Bug::HoldsCutFirst,
    Bug::DiscontinuedStaysAllotted,
    Bug::AllotmentSharesId,
    Bug::RestoredAllotmentForgotten,
    Bug::LoweredIsForgotten,
    Bug::SoldOffTheShelf,
    Bug::RetiringLeavesSold,
    Bug::SoldTwice,
    Bug::SoldIsRefused,
    Bug::SoldBeyondAllotment,
    Bug::SoldHasDeadline,
    Bug::SoldShortageNotNamed,
    Bug::KeyNotKept,
    Bug::KnownDoneAgain,
    Bug::OtherRequestAnswered,
    Bug::TagIgnored,
    Bug::KeyOfPurchaseNotKept,
    Bug::KeyLookedForTooEarly,
    Bug::RepetitionNotNamed,
    Bug::NotWaitedFor,
    Bug::WaitingNotTold,
    Bug::WaitingToldOfBefore,
    Bug::KeyOfReservationNotKept,
    Bug::KeyOfBatchNotKept,
    Bug::RefusalKept,
    Bug::RefusedLineDone,
    Bug::UndoneBatchDone,
    Bug::FirstReservationRepeated,
    Bug::PartConfirmedAsWhole,
    Bug::KeyOfCommandNotKept,
    Bug::PendingReservationMade,
    Bug::CommandNotWaitedFor,
    Bug::AutoReceiveForgotten,
    Bug::EventPassedOver,
    Bug::EventToldAgain,
    Bug::CancelAskedAgain,
    Bug::ShortCalledDiscontinued,
    Bug::TagOfBefore,
    Bug::AllottedNotShown,
    Bug::RefusalReasonLost,
    Bug::AnswerPlacedBefore,
    Bug::CancelledHoldAskedAbout,
    Bug::HeldWithoutLook,
    Bug::SentWithoutLook,
    Bug::PendingOfAllStores,
    Bug::OneBatchAtOnce,
];

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it out.
#[cfg(debug_assertions)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this thread has the bug.
#[cfg(debug_assertions)]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this thread has the bug: never.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn planted(_: Bug) -> bool {
    false
}
