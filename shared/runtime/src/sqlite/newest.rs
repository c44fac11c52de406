//! Lists of a table's rows by their number, the newest first.
//!
//! **Guarantees.** A list reads a bounded number of rows, whatever its filter compares: it goes along an index that its
//! table names, never one that SQLite chooses, and what that does not find is passed over row by row. A list that has
//! passed over too many says how far it has come.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

/// Rows that one list passes over, at most: one whose filter finds little does not hold a connection for long.
pub const PASSED_OVER: usize = 100_000;

/// Which part of a list is read.
#[derive(Debug, Clone)]
pub struct Slice<K> {
    /// Key of the record after which it begins.
    pub after: Option<K>,
    /// Records to pass over first.
    pub offset: usize,
    /// Records, at most.
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug)]
pub struct Part<T> {
    /// The newest first.
    pub rows: Vec<T>,
    /// The list goes on behind this number. `None`: there are no more.
    pub next: Option<i64>,
}

/// Which rows of a table a list has, and along which index it finds them. The text of its query depends on which members
/// a filter has, never on what they say.
#[derive(Debug)]
pub struct Newest {
    table: &'static str,
    columns: &'static str,
    along: Vec<Along>,
    wanted: String,
    values: Vec<Value>,
    passed_over: usize,
}

#[derive(Debug)]
struct Along {
    index: &'static str,
    condition: &'static str,
    values: Vec<Value>,
}

impl Newest {
    /// All rows of a table. The first of the columns is its `number`.
    pub fn of(table: &'static str, columns: &'static str) -> Self {
        Self {
            table,
            columns,
            along: Vec::new(),
            wanted: "true".to_owned(),
            values: Vec::new(),
            passed_over: PASSED_OVER,
        }
    }

    /// Goes along an index, in which the rows of this condition stand in the order of their numbers. Several ways make one
    /// list: no row may be on two of them.
    pub fn along<const N: usize>(mut self, index: &'static str, condition: &'static str, values: [&str; N]) -> Self {
        let values = values.map(|value| Value::from(value.to_owned())).into();
        self.along.push(Along { index, condition, values });
        self
    }

    /// Those of this condition alone, whichever index is gone along: each row is looked at.
    pub fn and<const N: usize>(mut self, condition: &str, values: [Value; N]) -> Self {
        self.wanted.push_str(" and ");
        self.wanted.push_str(condition);
        self.values.extend(values);
        self
    }

    /// Those with this in a column; what is not given is not compared.
    pub fn and_equal(self, column: &str, wanted: Option<&str>) -> Self {
        match wanted {
            Some(wanted) => self.and(&format!("{column} = ?"), [wanted.to_owned().into()]),
            None => self,
        }
    }

    /// Passes over fewer than [`PASSED_OVER`], so that a test need not fill a table.
    pub fn passing_over(mut self, most: usize) -> Self {
        self.passed_over = most;
        self
    }

    /// The rows of a part, one less than the slice's limit: the one more tells whether there are any.
    pub fn list<T>(
        &self,
        connection: &Connection,
        slice: &Slice<i64>,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Part<T>> {
        let mut statement = connection.prepare_cached(&self.sql(slice.after.is_some()))?;
        let is_wanted = statement.column_count() - 1;
        let mut rows = statement.query(params_from_iter(self.values(slice.after)))?;
        let (mut found, mut last, mut offset, mut passed_over) = (Vec::new(), None, slice.offset, 0);
        while let Some(row) = rows.next()? {
            let number = Some(row.get(0)?);
            if !row.get::<_, bool>(is_wanted)? {
                passed_over += 1;
                if passed_over == self.passed_over {
                    return Ok(Part { rows: found, next: number });
                }
            } else if offset > 0 {
                offset -= 1;
            } else if found.len() + 1 == slice.limit {
                return Ok(Part { rows: found, next: last });
            } else {
                found.push(read(row)?);
                last = number;
            }
        }
        Ok(Part { rows: found, next: None })
    }

    /// The query, of all rows or of those behind a number.
    pub fn sql(&self, is_behind: bool) -> String {
        let Self { table, columns, wanted, .. } = self;
        let select = |way: &str| {
            let behind = if is_behind { " and number < ?" } else { "" };
            format!("select {columns}, ({wanted}) is true from {table}{way}{behind}")
        };
        let along = self.along.iter();
        let ways: Vec<_> = along
            .map(|Along { index, condition, .. }| select(&format!(" indexed by {index} where {condition}")))
            .collect();
        let all = if ways.is_empty() { select(" where true") } else { ways.join(" union all ") };
        all + " order by number desc"
    }

    fn values(&self, behind: Option<i64>) -> Vec<Value> {
        let all = [Vec::new()];
        let ways: Vec<&Vec<Value>> = match &self.along[..] {
            [] => all.iter().collect(),
            ways => ways.iter().map(|way| &way.values).collect(),
        };
        let of = |way: &Vec<Value>| {
            let values = self.values.iter().chain(way).cloned();
            values.chain(behind.map(Value::from)).collect::<Vec<_>>()
        };
        ways.into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten letters of two hands: 1, 5 and 10 are long, the third one says nothing.
    fn letters() -> Connection {
        let connection = Connection::open_in_memory().expect("opens");
        let sql = "create table letter (number integer primary key, hand text not null, reader text, text text) strict; \
             create index letter_by_hand on letter (hand, number); \
             create index letter_by_reader on letter (reader, number); \
             insert into letter with recursive n(i) as (select 1 union all select i + 1 from n where i < 10) \
             select i, iif(i % 3 = 0, 'left', 'right'), iif(i % 2 = 0, 'ann', 'bob'), iif(i in (1, 5, 10), 'long', 'short') \
             from n; \
             update letter set text = null where number = 3";
        connection.execute_batch(sql).expect("fills");
        connection
    }

    fn all() -> Newest {
        Newest::of("letter", "number").passing_over(4)
    }

    fn numbers(list: &Newest, after: Option<i64>, offset: usize, limit: usize) -> (Vec<i64>, Option<i64>) {
        let slice = Slice { after, offset, limit: limit + 1 };
        let part = list.list(&letters(), &slice, |row| row.get(0)).expect("reads");
        (part.rows, part.next)
    }

    #[test]
    fn a_list_passes_over_so_many_and_says_how_far_it_has_come() {
        let long = || all().and_equal("text", Some("long"));
        assert_eq!(numbers(&long(), None, 0, 8), (vec![10], Some(6)));
        assert_eq!(numbers(&long(), Some(6), 0, 8), (vec![5, 1], None), "what says nothing is not long");
        assert_eq!(numbers(&long(), Some(6), 0, 1), (vec![5], Some(5)));
        assert_eq!(numbers(&long(), None, 1, 8), (vec![], Some(6)), "a place in the list is none to be passed over");
        assert_eq!(numbers(&all().and_equal("text", None), None, 7, 2), (vec![3, 2], Some(2)));
        assert_eq!(numbers(&all(), None, 8, 2), (vec![2, 1], None));
    }

    #[test]
    fn only_what_is_on_the_way_is_passed_over() {
        let left = || all().along("letter_by_hand", "hand = ?", ["left"]);
        assert_eq!(numbers(&left(), None, 0, 8), (vec![9, 6, 3], None));
        assert_eq!(numbers(&left().and_equal("reader", Some("bob")), Some(9), 0, 8), (vec![3], None));
        let both = || left().along("letter_by_reader", "reader = ? and hand <> ?", ["bob", "left"]);
        assert_eq!(numbers(&both(), None, 0, 8), (vec![9, 7, 6, 5, 3, 1], None), "two ways, one list");
        assert_eq!(numbers(&both(), Some(7), 1, 2), (vec![5, 3], Some(3)));
        assert_eq!(numbers(&both().and_equal("text", Some("long")), None, 0, 8), (vec![5], Some(3)));
    }
}
