//! A request: something asked of a store. It outlives the command epochs in which it is sent (L8).

use crate::wire::Became;

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

    /// What an answer makes of the request.
    pub fn of(answer: &Became) -> Self {
        match answer {
            Became::Refused { .. } | Became::Rejected { .. } => Self::Refused,
            Became::Batch(results) if results.undone => Self::Refused,
            Became::Expired { .. } => Self::Expired,
            Became::Done { .. }
            | Became::Confirmed { .. }
            | Became::Cancelled { .. }
            | Became::Reservation(_)
            | Became::Transfer(_)
            | Became::Batch(_)
            | Became::Resynced => Self::Done,
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
