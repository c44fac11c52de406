//! Several operations, one after the other, in one transaction: for whoever asks at the store, and for central's command.
//!
//! **Guarantees.** Each line is an operation of its own, named after the batch and its index, judged behind those before it.
//! If all or nothing is asked for, one refusal undoes all. What a restore brought back of a batch is not done again.
//!
//! A savepoint for each line costs more than the lines themselves, and hardly one writes and is refused nevertheless. So all
//! go without, and only when one has done that they are taken back and done again, each in a savepoint of its own.

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
    let all = |careful| perform_all(connection, batch, &is_known, now, careful);
    match all(false)? {
        Some(judged) => Ok(judged),
        None => Ok(all(true)?.expect("what was refused leaves nothing")),
    }
}

/// Why the lines that were done are undone.
enum Undo {
    OneIsRefused,
    OneHasWritten,
}

/// Does the lines; `careful`: each in a savepoint of its own. `None`, and nothing is done: one had written and was refused.
fn perform_all(
    connection: &Connection,
    batch: &Batch<'_>,
    is_known: &impl Fn(usize) -> JobResult<bool>,
    now: Millis,
    careful: bool,
) -> JobResult<Option<Judged>> {
    let (mut lines, mut moved) = (Vec::with_capacity(batch.lines.len()), batch.moved.clone());
    let all_or_nothing = attempt(connection, || {
        for (index, line) in batch.lines.iter().enumerate() {
            // Here, since a line that is refused is taken back.
            moved.catch_up(connection, &line.product_id)?;
            let before = connection.total_changes();
            let line = perform_line(connection, batch, &moved, (index, line), is_known, now, careful)?;
            if !careful && matches!(line, Line::Refused(_)) && connection.total_changes() != before {
                return Err(Abort::Refused(Undo::OneHasWritten));
            }
            lines.push(line);
        }
        // What a restore brought back of it stays: once all of it was done.
        let is_begun = lines.iter().any(|line| matches!(line, Line::Known(_)));
        let is_refused = lines.iter().any(|line| matches!(line, Line::Refused(_)));
        if batch.atomic && is_refused && !is_begun && !planted(Bug::AtomicBatchHalfDone) {
            return Err(Abort::Refused(Undo::OneIsRefused));
        }
        Ok(())
    })?;
    match all_or_nothing {
        Ok(()) => Ok(Some(Judged { lines, undone: false })),
        Err(Abort::Refused(Undo::OneIsRefused)) => Ok(Some(Judged { lines, undone: true })),
        Err(Abort::Refused(Undo::OneHasWritten)) => Ok(None),
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
    careful: bool,
) -> Result<Line, Abort<Undo>> {
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
    let perform = || till::perform(connection, &request, moved, now);
    // What it wrote before it was refused is taken back; the lines before it stay.
    match if careful { attempt(connection, perform)? } else { perform() } {
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

#[cfg(test)]
mod tests {
    use protocol::domain::{self, Lines, Operation};
    use protocol::ids::ReservationId;

    use super::*;
    use crate::operations::reservations::{Asking, reserve};
    use crate::testing::{self, NOW, operation, product, quantity};

    fn sell(name: &str, units: i64) -> BatchLine {
        BatchLine {
            product_id: product(name),
            operation: Operation::Sell { quantity: quantity(units) },
            expected_version: None,
            reference: None,
            occurred_at: None,
        }
    }

    #[test]
    fn a_line_that_writes_before_it_is_refused_leaves_nothing_and_the_others_stay() {
        let connection = testing::store(&[("ale", 5), ("tea", 5)]);
        let asking = Asking { operation: operation("hold"), about: About::default(), command: None };
        let held = Lines::new([domain::Line { product_id: product("tea"), quantity: quantity(2) }]).expect("are lines");
        let id = ReservationId::new(uuid::Uuid::from_u128(1));
        reserve(&connection, id, &held, 1_000, &asking, NOW).expect("holds");
        let head = |connection: &Connection| ledger::head(connection).expect("reads").cursor.seq;
        let before = head(&connection);
        // The end of the hold, which is due, is recorded before the sale is refused.
        let lines = [sell("ale", 1), sell("tea", 9), sell("ale", 2)];
        let about = About::default();
        let moved = Moved::default();
        let batch = Batch { id: &operation("b"), lines: &lines, atomic: false, about: &about, moved: &moved };
        let judged = perform(&connection, &batch, |_| Ok(false), NOW.plus(1_001)).expect("is done");
        assert!(matches!(judged.lines[..], [Line::Done(_), Line::Refused(_), Line::Done(_)]) && !judged.undone);
        assert_eq!(head(&connection) - before, 2, "the sales of ale");
        let units = |name| ledger::find_item(&connection, &product(name)).expect("reads").expect("is there");
        assert_eq!((units("ale").quantity, units("tea").quantity, units("tea").reserved), (2, 5, 2));
    }
}
