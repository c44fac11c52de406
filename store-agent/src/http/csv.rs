//! CSV as spreadsheets write it (RFC 4180), read record by record in constant memory.
//!
//! Every line of the file belongs to a record that is told with its physical line, or is blank: what is wrong with a record
//! is a [`fault`](Record::fault) of it, and never ends the reading.

use std::io::BufRead;

/// Bytes of one record, at most.
pub(super) const RECORD: usize = 64 << 10;

/// One record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    /// The line on which it ends.
    last: u64,
    /// None if there is a fault.
    pub(super) cells: Vec<Cell>,
    /// Why it cannot be read.
    pub(super) fault: Option<String>,
}

impl Record {
    /// For why it is not taken in: how far it goes, if it takes more than a line, as it does when a quote is one by mistake.
    pub(super) fn reach(&self) -> String {
        reach(self.line, self.last)
    }
}

fn reach(first: u64, last: u64) -> String {
    if last > first { format!("; it reaches to line {last}, and none of that was taken in") } else { String::new() }
}

/// One cell; what stood in quotes is taken as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    is_quoted: bool,
}

impl Cell {
    /// What is in it: without white space around it, and without the mark that keeps spreadsheets from running it.
    pub(super) fn value(&self) -> &str {
        let text = if self.is_quoted { &self.text } else { self.text.trim() };
        if text.starts_with('\'') && is_formula(text) { &text[1..] } else { text }
    }
}

/// Whether a spreadsheet would run it, were it not for the marks before it.
fn is_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// A line of cells that [`Records`] reads as they are, and a spreadsheet runs none of.
pub(super) fn line<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (number, cell) in cells.into_iter().enumerate() {
        if number > 0 {
            line.push(',');
        }
        let mark = if is_formula(cell) { "'" } else { "" };
        if cell.contains([',', ';', '\t', '"', '\r', '\n']) || cell.trim() != cell {
            line.push_str(&format!("\"{mark}{}\"", cell.replace('"', "\"\"")));
        } else {
            line.push_str(mark);
            line.push_str(cell);
        }
    }
    line.push_str("\r\n");
    line
}

/// Reads records.
pub(super) struct Records<R> {
    input: R,
    delimiter: u8,
    /// The line of the next byte.
    line: u64,
    blank: u64,
    /// The last byte was a carriage return that ended a line.
    after_return: bool,
}

fn ends_line(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n'
}

/// Where in a record a byte is.
#[derive(Clone, Copy)]
enum Place {
    /// Before the first byte of a cell.
    Begin,
    /// In a cell without quotes, where one is a character like others.
    Plain,
    /// Behind the quote that opens.
    Quoted,
    /// Behind a quote that closes, or is the first of two.
    Closed,
    /// Behind what makes no sense; up to the end of the line it belongs to the record.
    Lost,
}

/// A record as far as it has come.
struct Growing {
    line: u64,
    cells: Vec<(Vec<u8>, bool)>,
    cell: Vec<u8>,
    is_quoted: bool,
    place: Place,
    /// Where the last quote was opened.
    opened: u64,
    bytes: usize,
    /// What made it lost.
    fault: Option<String>,
}

impl Growing {
    fn new(line: u64) -> Self {
        let (cells, cell) = (Vec::new(), Vec::new());
        Self { line, cells, cell, is_quoted: false, place: Place::Begin, opened: line, bytes: 0, fault: None }
    }

    fn is_blank(&self) -> bool {
        matches!(self.place, Place::Begin) && self.cells.is_empty()
    }

    /// One byte more, the end of a cell included. Says whether the record is still one that is kept.
    fn grows(&mut self) -> bool {
        self.bytes += 1;
        if self.bytes == RECORD + 1 {
            (self.cells, self.cell) = (Vec::new(), Vec::new());
        }
        self.bytes <= RECORD
    }

    fn end_cell(&mut self) {
        let cell = (std::mem::take(&mut self.cell), std::mem::take(&mut self.is_quoted));
        // The first one is there in any case: a record is not blank.
        if self.grows() || self.cells.is_empty() {
            self.cells.push(cell);
        }
        self.place = Place::Begin;
    }

    fn keep(&mut self, byte: u8) {
        if self.grows() {
            self.cell.push(byte);
        }
    }

    /// It ends on this line. A quote that has gone wrong is told before the length, which comes of it.
    fn end(mut self, last: u64) -> Record {
        let fault = match self.place {
            Place::Quoted => {
                Some(format!("The quote that opens in line {} is not closed{}", self.opened, reach(self.line, last)))
            }
            Place::Lost => self.fault.take(),
            Place::Begin | Place::Plain | Place::Closed if self.bytes > RECORD => {
                Some(format!("A record has at most {RECORD} bytes{}", reach(self.line, last)))
            }
            Place::Begin | Place::Plain | Place::Closed => None,
        };
        self.cells.push((self.cell, self.is_quoted));
        let mut record = Record { line: self.line, last, cells: Vec::new(), fault };
        if record.fault.is_none() {
            for (text, is_quoted) in self.cells {
                match String::from_utf8(text) {
                    Ok(text) => record.cells.push(Cell { text, is_quoted }),
                    Err(_) => record.fault = Some("The record is not UTF-8".into()),
                }
            }
        }
        record
    }
}

impl<R: BufRead> Records<R> {
    pub(super) fn new(input: R, delimiter: u8) -> Self {
        Self { input, delimiter, line: 1, blank: 0, after_return: false }
    }

    /// Lines so far with nothing on them.
    pub(super) fn blank(&self) -> u64 {
        self.blank
    }

    /// The line that is being read.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next record; none: the file is at its end.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Record>> {
        let mut record = Growing::new(self.line);
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                // The last line may do without an end.
                let is_there = !record.is_blank();
                return Ok(is_there.then(|| record.end(self.line)));
            }
            let mut taken = 0;
            let mut has_ended = false;
            for &byte in buffer {
                taken += 1;
                // Both end one line.
                let is_second = std::mem::take(&mut self.after_return) && byte == b'\n';
                if is_second && !matches!(record.place, Place::Quoted) {
                    continue;
                }
                if Self::add(&mut record, byte, self.delimiter, self.line) {
                    if record.is_blank() {
                        self.blank += 1;
                        record.line += 1;
                    } else {
                        has_ended = true;
                    }
                }
                self.line += u64::from(ends_line(byte) && !is_second);
                self.after_return = byte == b'\r';
                if has_ended {
                    break;
                }
            }
            self.input.consume(taken);
            if has_ended {
                return Ok(Some(record.end(self.line - 1)));
            }
        }
    }

    /// Says whether the record, or a blank line, ends with this byte.
    fn add(record: &mut Growing, byte: u8, delimiter: u8, line: u64) -> bool {
        match record.place {
            Place::Quoted if byte == b'"' => record.place = Place::Closed,
            Place::Quoted => record.keep(byte),
            Place::Closed if byte == b'"' => {
                record.keep(byte);
                record.place = Place::Quoted;
            }
            _ if ends_line(byte) => return true,
            Place::Lost => {}
            _ if byte == delimiter => record.end_cell(),
            Place::Begin if byte == b'"' => {
                (record.place, record.is_quoted, record.opened) = (Place::Quoted, true, line);
            }
            Place::Begin | Place::Plain => {
                record.place = Place::Plain;
                record.keep(byte);
            }
            Place::Closed => {
                record.place = Place::Lost;
                let reach = reach(record.line, line);
                let fault = format!("The quote that opens in line {} closes inside a cell{reach}", record.opened);
                record.fault = Some(fault);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, and cells or fault, of each record; and blank lines.
    fn read(text: &str) -> (Vec<(u64, String)>, u64) {
        // A buffer of one byte cuts everywhere.
        let mut records = Records::new(std::io::BufReader::with_capacity(1, text.as_bytes()), b',');
        let mut found = Vec::new();
        while let Some(record) = records.next().expect("reads") {
            let cells: Vec<&str> = record.cells.iter().map(Cell::value).collect();
            found.push((record.line, record.fault.unwrap_or_else(|| cells.join("|"))));
        }
        (found, records.blank())
    }

    #[test]
    fn lines_are_counted_as_they_stand_in_the_file() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "", "", "c,\"d", "e\"", "f,", "\"\"", "g"].join(end);
            let (found, blank) = read(&text);
            let two = format!("c|d{end}e");
            let expected = [(1, "a|b"), (4, two.as_str()), (6, "f|"), (7, ""), (8, "g")];
            assert_eq!(found, expected.map(|(line, cells)| (line, cells.to_owned())), "{end:?}");
            assert_eq!(blank, 2);
        }
    }

    #[test]
    fn quotes_are_read_as_spreadsheets_write_them() {
        let (found, _) = read("\"a,\"\"b\"\"\",12\" pipe, x ,\" y \"\n");
        assert_eq!(found, [(1, "a,\"b\"|12\" pipe|x| y ".to_owned())]);
    }

    #[test]
    fn a_quote_that_is_not_closed_is_named_with_what_it_took() {
        let (found, _) = read("a,\"b\nc,d\ne,f");
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("opens in line 1 is not closed; it reaches to line 3"), "{}", found[0].1);
        let (found, _) = read("x,y\na,\"b\nc,\"d\"\ne,f\n");
        assert_eq!((found.len(), found[1].0, &found[2].1), (3, 2, &"e|f".to_owned()));
        assert!(found[1].1.contains("opens in line 2 closes inside a cell; it reaches to line 3"), "{}", found[1].1);
    }

    #[test]
    fn a_long_record_is_left_out_and_the_next_one_read() {
        let (found, _) = read(&format!("a,{}\nb,{}\nc,d", "x".repeat(RECORD - 2), "x".repeat(3 * RECORD)));
        assert_eq!((found.len(), found[0].1.len(), &found[2]), (3, RECORD, &(3, "c|d".to_owned())));
        assert!(found[1].1.contains("at most"), "{}", found[1].1);
    }

    #[test]
    fn a_quote_that_swallows_more_than_a_record_is_named_with_what_it_took() {
        let lines = "x,y\n".repeat(RECORD / 2);
        let last = RECORD / 2 + 1;
        for (behind, why) in [
            // It closes inside a cell, not at all, or where a cell may end.
            ("a,\"b\"c\n", "The quote that opens in line 1 closes inside a cell"),
            ("a,b\n", "The quote that opens in line 1 is not closed"),
            ("a,b\",c\n", "A record has at most 65536 bytes"),
        ] {
            let (found, _) = read(&format!("a,\"{lines}{behind}"));
            assert_eq!(found.len(), 1);
            let last = if why.ends_with("not closed") { last + 1 } else { last };
            let expected = format!("{why}; it reaches to line {last}, and none of that was taken in");
            assert_eq!(found[0], (1, expected));
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_runs() {
        let cells = ["=1+1", "+1", "-1", "@x", "'=x", "''-", "'x", "", " a ", "a\"b", "a,b;c", "x"];
        let line = line(cells);
        assert!(line.split(',').all(|cell| !cell.starts_with(['=', '+', '-', '@'])), "{line}");
        let mut records = Records::new(line.as_bytes(), b',');
        let record = records.next().expect("reads").expect("a record");
        assert_eq!(record.cells.iter().map(Cell::value).collect::<Vec<_>>(), cells);
    }
}
