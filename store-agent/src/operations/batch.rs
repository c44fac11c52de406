//! Several operations, one after the other, in one transaction: for whoever asks at the store, and for central's command.
//!
//! **Guarantees.** Each line is an operation of its own, named after the batch and its index, judged behind those before it.
//! If all or nothing is asked for, one refusal undoes all. What a restore brought back of a batch is not done again.

use protocol::domain::{Guard, Item, Rejection};
use protocol::ids::OperationId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, BatchLine, RefusedLine, Results};
use runtime::sqlite::{Abort, Connection, JobResult, attempt};

use super::till::{self, Performed, Request};
use crate::ledger::{self, Moved};

/// What is asked.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Its name for ever.
    pub id: &'a OperationId,
    pub lines: &'a [BatchLine],
    /// All of it or nothing.
    pub atomic: bool,
    /// Who asked, and what for unless a line says that itself.
    pub about: &'a About,
    /// Sums for the lines that are [counted](till::counted).
    pub moved: &'a Moved,
}

/// What became of a line, if not all of them were undone.
#[derive(Debug)]
pub enum Line {
    Done(Performed),
    /// It was done before a restore. The item as it is now.
    Known(Item),
    Refused(Rejection),
}

/// What became of a batch.
#[derive(Debug)]
pub struct Judged {
    /// In the order asked.
    pub lines: Vec<Line>,
    /// Nothing of it was done, because of those that were refused.
    pub undone: bool,
}

/// Judges each line, and does it if it can be done. `is_known`: whether a line was done before a restore.
pub fn perform(
    connection: &Connection,
    batch: &Batch<'_>,
    is_known: impl Fn(usize) -> JobResult<bool>,
    now: Millis,
) -> JobResult<Judged> {
    let (mut lines, mut moved) = (Vec::with_capacity(batch.lines.len()), batch.moved.clone());
    let all_or_nothing = attempt(connection, || {
        for (index, line) in batch.lines.iter().enumerate() {
            // Here, since a line that is refused is taken back.
            moved.catch_up(connection, &line.product_id)?;
            lines.push(perform_line(connection, batch, &moved, (index, line), &is_known, now)?);
        }
        // What a restore brought back of it stays: once all of it was done.
        let is_begun = lines.iter().any(|line| matches!(line, Line::Known(_)));
        let is_refused = lines.iter().any(|line| matches!(line, Line::Refused(_)));
        if batch.atomic && is_refused && !is_begun && !planted(Bug::AtomicBatchHalfDone) {
            return Err(Abort::Refused(()));
        }
        Ok(())
    })?;
    match all_or_nothing {
        Ok(()) => Ok(Judged { lines, undone: false }),
        Err(Abort::Refused(())) => Ok(Judged { lines, undone: true }),
        Err(Abort::Database(error)) => Err(error),
    }
}

fn perform_line(
    connection: &Connection,
    batch: &Batch<'_>,
    moved: &Moved,
    (index, line): (usize, &BatchLine),
    is_known: impl Fn(usize) -> JobResult<bool>,
    now: Millis,
) -> Result<Line, Abort<()>> {
    if is_known(index)?
        && let Some(item) = ledger::find_item(connection, &line.product_id)?
    {
        return Ok(Line::Known(item));
    }
    let reference = line.reference.clone().or_else(|| batch.about.reference.clone());
    let request = Request {
        operation_id: OperationId::line(batch.id, index),
        product: line.product_id.clone(),
        operation: line.operation.clone(),
        guard: Guard { expected_version: line.expected_version, if_match: None },
        about: About { reference, occurred_at: line.occurred_at, ..batch.about.clone() },
        command: None,
    };
    // What it wrote before it was refused is taken back; the lines before it stay.
    match attempt(connection, || till::perform(connection, &request, moved, now))? {
        Ok(performed) => Ok(Line::Done(performed)),
        Err(Abort::Refused(rejection)) => Ok(Line::Refused(rejection)),
        Err(Abort::Database(error)) => Err(error.into()),
    }
}

impl Judged {
    /// As it is told to central.
    pub fn results(self, asked: &[BatchLine]) -> Results {
        let refused = |(index, (line, asked)): (usize, (Line, &BatchLine))| match line {
            Line::Refused(rejection) => {
                Some(RefusedLine { index, product_id: Some(asked.product_id.clone()), rejection })
            }
            Line::Done(_) | Line::Known(_) => None,
        };
        let (lines, undone) = (self.lines.len(), self.undone);
        let judged = self.lines.into_iter().zip(asked).enumerate();
        Results { lines, undone, refused: judged.filter_map(refused).collect() }
    }
}
