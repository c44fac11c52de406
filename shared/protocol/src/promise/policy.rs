//! Which store is asked first when the shop leaves the choice to central (B6).
//!
//! Pure: what is known of the stores is an argument. The choice is recorded with the purchase; nothing of it is kept in
//! memory alone.

use serde::{Deserialize, Serialize};

use crate::ids::StoreId;

/// Stores that one purchase asks, at most.
pub const ATTEMPTS_MAX: usize = 5;

/// By what a store is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Who would sell most.
    HighestAvailable,
    /// Who has answered soonest of late.
    LowestLatency,
    /// The next one after the last that was asked for these products.
    RoundRobin,
}

impl Policy {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HighestAvailable => "highest-available",
            Self::LowestLatency => "lowest-latency",
            Self::RoundRobin => "round-robin",
        }
    }
}

impl std::str::FromStr for Policy {
    type Err = crate::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::HighestAvailable, Self::LowestLatency, Self::RoundRobin]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| crate::ids::Invalid(format!("no policy {text:?}")))
    }
}

/// A store that would sell what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub store: StoreId,
    /// Units that it would have left to sell online of the scarcest product.
    pub left: i64,
    /// Median round trip of its last commands, ms; none: it has answered none.
    pub latency_ms: Option<i64>,
}

/// The stores in the order in which they are asked; of equal ones the smaller id first. `last`: who was asked last for the
/// products by turns.
pub fn order(policy: Policy, mut candidates: Vec<Candidate>, last: Option<&StoreId>) -> Vec<StoreId> {
    candidates.sort_by(|a, b| {
        let by_policy = match policy {
            Policy::HighestAvailable => b.left.cmp(&a.left),
            Policy::LowestLatency => a.latency_ms.unwrap_or(i64::MAX).cmp(&b.latency_ms.unwrap_or(i64::MAX)),
            Policy::RoundRobin => {
                (last.is_some_and(|last| a.store <= *last)).cmp(&last.is_some_and(|last| b.store <= *last))
            }
        };
        by_policy.then_with(|| a.store.cmp(&b.store))
    });
    candidates.into_iter().map(|candidate| candidate.store).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> StoreId {
        StoreId::parse(name).expect("valid")
    }

    fn ordered(policy: Policy, last: Option<&str>) -> Vec<String> {
        let known = [("c", 5, Some(9)), ("a", 2, None), ("d", 9, Some(30)), ("b", 5, Some(9))];
        let candidates = known.map(|(name, left, latency_ms)| Candidate { store: id(name), left, latency_ms });
        let last = last.map(id);
        order(policy, candidates.into(), last.as_ref()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_policy_has_its_order_and_ids_break_ties() {
        assert_eq!(ordered(Policy::HighestAvailable, None), ["d", "b", "c", "a"]);
        assert_eq!(ordered(Policy::LowestLatency, None), ["b", "c", "d", "a"]);
        assert_eq!(ordered(Policy::RoundRobin, None), ["a", "b", "c", "d"]);
        assert_eq!(ordered(Policy::RoundRobin, Some("b")), ["c", "d", "a", "b"]);
        assert_eq!(ordered(Policy::RoundRobin, Some("d")), ["a", "b", "c", "d"]);
        assert_eq!(ordered(Policy::RoundRobin, Some("bb")), ["c", "d", "a", "b"], "it need not be a candidate");
    }

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for policy in [Policy::HighestAvailable, Policy::LowestLatency, Policy::RoundRobin] {
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        assert!("cheapest".parse::<Policy>().is_err());
    }
}
