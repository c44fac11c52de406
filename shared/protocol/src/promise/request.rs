//! A request: something asked of a store. It outlives the command epochs in which it is sent (L8).

use crate::wire::Kind;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The store has not answered.
    Pending,
    /// Done.
    Done,
    /// Refused.
    Refused,
    /// Heard of too late.
    Expired,
}

impl Status {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }

    /// What an answer of this kind makes of the request.
    pub fn of(answer: Kind) -> Self {
        match answer {
            Kind::CommandRefused | Kind::PurchaseRejected => Self::Refused,
            Kind::PurchaseExpired => Self::Expired,
            Kind::ItemCreated
            | Kind::ItemChanged
            | Kind::Received
            | Kind::Sold
            | Kind::Adjusted
            | Kind::Counted
            | Kind::PurchaseConfirmed
            | Kind::PurchaseCancelled
            | Kind::PurchasePicked
            | Kind::Shortage
            | Kind::LowStock => Self::Done,
        }
    }

    /// Whether it still takes an answer: while it waits for one, and after it was ended without one because its store was
    /// retired. Whoever asks gets the truth once it is known (B3).
    pub fn takes_answer(self, is_answered: bool) -> bool {
        self == Self::Pending || !is_answered
    }
}

impl std::str::FromStr for Status {
    type Err = crate::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Done, Self::Refused, Self::Expired]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| crate::ids::Invalid(format!("no command status {text:?}")))
    }
}
