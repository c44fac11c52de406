//! Batches as the judge works them out: what becomes of each line, and what must be answered.
//!
//! The log tells the lines that were done, in order, and then the answer. Whatever it leaves out must have been refused as
//! the stock was at that line.

use serde_json::Value;

use super::book::{Batch, Book, By, Name, Wish};
use super::holds::time;
use super::shop::{Broken, Reading, Shop, Told, decide, must};

/// A batch of which the log has told some lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Running {
    command: Name,
    /// The first line that was not looked at.
    next: usize,
    /// Lines that were refused, and why.
    refused: Refused,
    /// Lines that the log had already.
    known: usize,
}

/// Lines that were refused, and why.
pub type Refused = Vec<(usize, Name)>;

/// The name of a line in the log.
pub fn line(command: &str, index: usize) -> Name {
    format!("{command}/{index}").into()
}

/// What a command came to, as one word: the outcome's kind, and of a batch all that it says.
pub(super) fn word(outcome: &Value) -> Option<Name> {
    let kind = outcome["kind"].as_str()?;
    if kind != "batch" {
        return Some(kind.into());
    }
    let (lines, undone, refused) = results(outcome);
    Some(format!("batch of {lines}, undone {undone}, refused {refused:?}").into())
}

/// Number of lines, whether none was done because some were refused, and those.
pub(super) fn results(outcome: &Value) -> (usize, bool, Refused) {
    let results = &outcome["results"];
    let refused = |line: &Value| {
        (line["index"].as_u64().unwrap_or(u64::MAX) as usize, line["rejection"]["code"].as_str().unwrap_or("").into())
    };
    let lines = results["lines"].as_u64().unwrap_or(0) as usize;
    let refused = results["refused"].as_array().into_iter().flatten().map(refused).collect();
    (lines, results["undone"].as_bool().unwrap_or(false), refused)
}

impl Told {
    /// Of a line that counts an earlier shelf: what has moved since.
    fn line_moved(&self, index: usize) -> Option<i64> {
        self.lines_moved.get(index).copied().flatten()
    }
}

impl Reading {
    /// Takes up the batch that a line or an answer is of.
    fn running(&mut self, command: &str) -> Result<Running, Broken> {
        match self.batch.take() {
            None => Ok(Running { command: command.into(), ..Running::default() }),
            Some(running) if *running.command == *command => Ok(running),
            Some(other) => Err(format!("P3: {} is not answered, and {command} goes on", other.command)),
        }
    }
}

impl Shop {
    /// A line is told: those before it that are not were refused.
    pub(super) fn line_told(&self, told: &Told, book: &Book, reading: &mut Reading) -> Result<(), Broken> {
        let operation = &told.operation;
        let place = Book::batch_of(operation).zip(operation.rsplit_once('/').and_then(|(_, index)| index.parse().ok()));
        let Some((command, index)) = place else { return Err(format!("P3: {operation} is no line of a batch")) };
        must(&*told.kind != "command_refused", || format!("P3: {operation} is told as refused by itself"))?;
        must(!self.answers.contains_key(command), || format!("P3: {operation} is done, and {command} was answered"))?;
        let mut running = reading.running(command)?;
        self.look_at_lines(&mut running, index, (told, time(&told.body["recordedAt"])), book, reading)?;
        running.next = index + 1;
        reading.batch = Some(running);
        Ok(())
    }

    /// Looks at the lines up to `end`, none of which the log tells here.
    fn look_at_lines(
        &self,
        running: &mut Running,
        end: usize,
        (told, clock): (&Told, Option<i64>),
        book: &Book,
        reading: &Reading,
    ) -> Result<(), Broken> {
        // Of reservations that have ended for want of units, and are told already, the next line is the cause.
        let cut = reading.cut.as_ref().map(|cut| &cut.before);
        let shop = cut.or(reading.fallen.as_ref().map(|fallen| &fallen.before)).unwrap_or(self);
        for index in running.next..end {
            let name = line(&running.command, index);
            if shop.done.contains_key(&name) {
                running.known += 1;
                continue;
            }
            let asked = book.items.get(&name).ok_or_else(|| format!("P3: nobody asked for {name}"))?;
            let free = shop.without_due([&*asked.product], clock.unwrap_or(i64::MIN));
            match decide(free.items.get(&asked.product), &asked.wish, told.line_moved(index)) {
                Err(code) => running.refused.push((index, code.into())),
                Ok(_) => return Err(format!("P4: {name}, {:?}, must be done, and is not told", asked.wish)),
            }
        }
        running.next = running.next.max(end);
        Ok(())
    }

    /// A batch is answered for the first time.
    pub(super) fn batch_answered(
        &mut self,
        told: &Told,
        asked: &Batch,
        book: &Book,
        reading: &mut Reading,
    ) -> Result<(), Broken> {
        let (command, clock) = (told.operation.clone(), time(&told.body["at"]));
        must(told.body["command"] == *command, || format!("P3: {command} answers for {}", told.body["command"]))?;
        let (lines, undone, refused) = results(&told.body);
        must(lines == asked.lines, || format!("P3: {command} has {} lines, and is told as of {lines}", asked.lines))?;
        let is_told = reading.batch.is_some();
        let mut running = reading.running(&command)?;
        if undone {
            let is_known = (0..lines).any(|index| self.done.contains_key(&line(&command, index)));
            must(asked.atomic && !is_told && !is_known && !refused.is_empty(), || {
                format!("P4: {command}, {asked:?}, is told as not done at all, and {refused:?} as refused")
            })?;
            self.would_be_refused(told, lines, clock.unwrap_or(i64::MIN), book, &refused)?;
        } else {
            self.look_at_lines(&mut running, lines, (told, clock), book, reading)?;
            let Running { refused: must_be, known, .. } = running;
            must(refused == must_be, || format!("P4: {command} refuses {refused:?}, and must refuse {must_be:?}"))?;
            // What a restore brought back of it was done as a whole with the rest.
            must(!asked.atomic || refused.is_empty() || known > 0, || {
                format!("P4: {command} was to be done as a whole or not at all, and {refused:?} were refused")
            })?;
        }
        let word = word(&told.body).unwrap_or_default();
        self.answers.insert(command, word);
        Ok(())
    }

    /// Of a batch that was taken back: which lines are refused, each judged behind those before it.
    fn would_be_refused(
        &self,
        told: &Told,
        lines: usize,
        clock: i64,
        book: &Book,
        refused: &Refused,
    ) -> Result<(), Broken> {
        let codes = self.foresee(&told.operation, lines, |index| told.line_moved(index), clock, book)?;
        for (index, code) in codes.into_iter().enumerate() {
            let said = refused.iter().find(|(of, _)| *of == index).map(|(_, code)| &**code);
            must(said == code, || {
                format!("P4: line {index} of {} is refused as {said:?}, and must be as {code:?}", told.operation)
            })?;
        }
        Ok(())
    }

    /// What the lines of a batch would come to, each behind those before it: none, or the code of its refusal. Fewer of them
    /// than there are if reservations would end for want of units, and free those of other products, which only a log tells.
    pub fn foresee(
        &self,
        command: &str,
        lines: usize,
        moved: impl Fn(usize) -> Option<i64>,
        clock: i64,
        book: &Book,
    ) -> Result<Vec<Option<&'static str>>, Broken> {
        let (mut shop, mut codes) = (self.clone(), Vec::new());
        for index in 0..lines {
            let name = line(command, index);
            let asked = book.items.get(&name).ok_or_else(|| format!("P3: nobody asked for {name}"))?;
            shop = shop.without_due([&*asked.product], clock);
            codes.push(match decide(shop.items.get(&asked.product), &asked.wish, moved(index)) {
                Ok(after) if after.cut().available() < 0 => return Ok(codes),
                Ok(after) => {
                    shop.items.insert(asked.product.clone(), after.cut());
                    if matches!(asked.wish, Wish::Receive(_) | Wish::Count { .. })
                        && let Some(item) = shop.items.get(&asked.product).cloned()
                    {
                        let by = item.wants_more(book.rules.get(&asked.store));
                        shop.items.insert(asked.product.clone(), item.raised(by));
                    }
                    None
                }
                Err(code) => Some(code),
            });
        }
        Ok(codes)
    }

    /// The database took nothing away, by a fault: nothing of the batch is done.
    pub(super) fn batch_parked(
        &mut self,
        told: &Told,
        book: &Book,
        asked: &Batch,
        refuses: Option<&str>,
    ) -> Result<(), Broken> {
        let lines = (0..asked.lines).filter_map(|index| book.items.get(&line(&told.operation, index)));
        let is_hit = refuses.is_some_and(|product| lines.into_iter().any(|asked| *asked.product == *product));
        must(is_hit, || format!("P7: {} is refused as a whole, and nothing was wrong", told.operation))?;
        must(!self.answers.contains_key(&told.operation), || format!("P3: {} was carried out twice", told.operation))?;
        self.parked(told)
    }
}

impl Book {
    /// Writes down a batch with its lines.
    pub fn ask_batch(&mut self, command: &str, asked: Batch, lines: impl IntoIterator<Item = (Name, super::Wish)>) {
        for (index, (product, wish)) in lines.into_iter().enumerate() {
            let store = asked.store.clone();
            self.items.insert(line(command, index), super::Asked { store, product, wish, by: By::Batch });
        }
        self.batches.insert(command.into(), asked);
    }

    /// The batch that an operation is a line of.
    pub fn batch_of(operation: &str) -> Option<&str> {
        operation.rsplit_once('/').map(|(command, _)| command)
    }
}
