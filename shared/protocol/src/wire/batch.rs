//! A batch: several operations on items that central asks for by one command, and what became of each.

use serde::{Deserialize, Serialize};

use super::NotUnderstood;
use crate::domain::{Operation, Rejection};
use crate::ids::ProductId;
use crate::time::Millis;

/// Lines of a batch, at most.
pub const BATCH_MAX: usize = 1_000;

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchLine {
    /// Of which product.
    pub product_id: ProductId,
    /// What.
    pub operation: Operation,
    /// The version that the item must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<i64>,
    /// Receipt, order or delivery note; up to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// When it happened, if the caller said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Millis>,
}

/// What became of a batch: only what was refused is told line by line, so that one that was done takes no more room than
/// that of an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Number of lines.
    pub lines: usize,
    /// None was done, because some were refused and all or nothing was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undone: bool,
    /// Lines that were refused, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedLine>,
}

/// A line that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedLine {
    /// Which, from 0.
    pub index: usize,
    /// Of which product; an agent of 0.1.0 does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
    /// Why.
    pub rejection: Rejection,
}

/// What became of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineResult<'a> {
    /// It was done.
    Done,
    /// It was refused.
    Refused(&'a RefusedLine),
    /// It was not, because another line was refused.
    NotExecuted,
}

impl Results {
    /// Number of lines that were done.
    pub fn applied(&self) -> usize {
        if self.undone { 0 } else { self.lines.saturating_sub(self.refused.len()) }
    }

    /// What became of each line, in their order.
    pub fn each(&self) -> impl Iterator<Item = LineResult<'_>> {
        let mut refused = self.refused.iter().peekable();
        let other = if self.undone { LineResult::NotExecuted } else { LineResult::Done };
        (0..self.lines).map(move |index| {
            let refused = refused.next_if(|line| line.index == index);
            refused.map_or(other, LineResult::Refused)
        })
    }

    /// What the types cannot say.
    pub(super) fn check(&self) -> Result<(), NotUnderstood> {
        check_length(self.lines)?;
        let in_order = self.refused.windows(2).all(|two| two[0].index < two[1].index);
        if in_order && self.refused.last().is_none_or(|last| last.index < self.lines) {
            Ok(())
        } else {
            Err(NotUnderstood("the refused lines of a batch are not in their order".into()))
        }
    }
}

/// A batch has one line at least, and not too many.
pub(super) fn check_length(lines: usize) -> Result<(), NotUnderstood> {
    if (1..=BATCH_MAX).contains(&lines) {
        Ok(())
    } else {
        Err(NotUnderstood(format!("a batch has 1 to {BATCH_MAX} lines, not {lines}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_each_line_follows_from_what_was_refused() {
        let refused = |index| RefusedLine { index, product_id: None, rejection: Rejection::UnknownProduct };
        let results = Results { lines: 3, undone: false, refused: vec![refused(1)] };
        let line = refused(1);
        let why = LineResult::Refused(&line);
        assert_eq!(results.each().collect::<Vec<_>>(), [LineResult::Done, why, LineResult::Done]);
        assert_eq!((results.applied(), results.check()), (2, Ok(())));
        let two = Results { lines: 3, undone: false, refused: vec![refused(0), refused(2)] };
        assert_eq!((two.applied(), two.check()), (1, Ok(())));
        let of_an_earlier_agent = r#"{"lines":3,"refused":[{"index":1,"rejection":{"code":"unknown_product"}}]}"#;
        assert_eq!(serde_json::from_str::<Results>(of_an_earlier_agent).expect("reads"), results);
        let undone = Results { undone: true, ..results };
        assert_eq!(undone.each().collect::<Vec<_>>(), [LineResult::NotExecuted, why, LineResult::NotExecuted]);
        assert_eq!(undone.applied(), 0);
        let twice = vec![refused(1), refused(1)];
        let backwards = vec![refused(1), refused(0)];
        for (lines, refused) in [(0, vec![]), (1_001, vec![]), (2, vec![refused(2)]), (3, backwards), (3, twice)] {
            assert!(Results { lines, undone: false, refused }.check().is_err());
        }
    }
}
