//! The index of what products are called: tables `label`, a row for each id with each of its names, and `label_gram`, the
//! full-text index of their [grams](crate::search).
//!
//! **Guarantees.** Whoever writes an item with a new name calls [`add`], which is one short row; the index takes it in
//! later ([`index_step`]), some at a time, and is not touched by anything else that happens to an item. A search finds what
//! is not in it yet all the same. Its cost does not grow with the number of labels.

use protocol::ids::ProductId;
use rusqlite::{Connection, OptionalExtension, Row, Rows, params};

use super::parsed;
use crate::search::{Found, Searched, Words, grams_of};

/// Labels that a search looks at, at most.
pub const LOOKED_AT: usize = 2_000;
/// Rows of a list that a search goes through, at most.
const SIFTED: usize = 40_000;
/// Labels that the index takes in in one transaction.
const STEP: i64 = 200;
/// Pages of the index that are merged in one transaction, about: more than a step makes, on all levels together.
const MERGED: i64 = 64;

/// Makes a product known under a name. Says how many rows that was.
pub fn add(connection: &Connection, product: &str, name: &str) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("insert or ignore into label (product_id, name) values (?1, ?2)")?
        .execute([product, name])
}

/// Forgets a name of a product, if it has been known under it.
pub fn remove(connection: &Connection, product: &str, name: &str) -> rusqlite::Result<()> {
    let gone: Option<i64> = connection
        .prepare_cached("delete from label where product_id = ?1 and name = ?2 returning label")?
        .query_row([product, name], |row| row.get(0))
        .optional()?;
    match gone {
        Some(label) if label <= indexed_upto(connection)? => {
            connection.prepare_cached("delete from label_gram where rowid = ?1")?.execute([label])?;
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

/// Forgets all names of all products.
pub fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("delete from label", [])?;
    connection.execute("insert into label_gram (label_gram) values ('delete-all')", [])?;
    Ok(())
}

/// The labels up to this one are in the index. Numbers are given out once, in order.
fn indexed_upto(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("select upto from label_indexed")?.query_row([], |row| row.get(0))
}

/// Whether the index lacks any.
pub fn are_to_index(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select exists (select 1 from label where label > (select upto from label_indexed))")?
        .query_row([], |row| row.get(0))
}

/// Takes the next labels into the index. Says whether there were any.
pub fn index_step(connection: &Connection) -> rusqlite::Result<bool> {
    let next: Vec<(i64, String, String)> = connection
        .prepare_cached("select label, product_id, name from label where label > ?1 order by label limit ?2")?
        .query_map([indexed_upto(connection)?, STEP], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let Some((last, ..)) = next.last() else { return Ok(false) };
    let mut insert = connection.prepare_cached("insert into label_gram (rowid, grams) values (?1, ?2)")?;
    for (label, product, name) in &next {
        let grams: Vec<String> = grams_of(product, name).into_iter().collect();
        insert.execute(params![label, grams.join(" ")])?;
    }
    connection.prepare_cached("insert into label_gram (label_gram, rank) values ('merge', ?1)")?.execute([MERGED])?;
    connection.prepare_cached("update label_indexed set upto = ?1")?.execute([last])?;
    Ok(true)
}

/// What a search came upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Ids with names in which all words are, by id and name.
    pub labels: Vec<(ProductId, String)>,
    /// Whether these are all.
    pub are_all: bool,
}

/// Labels in which all words are. Of too many that could be it says the first it comes upon.
pub fn search(connection: &Connection, words: &Words) -> rusqlite::Result<Labels> {
    let mut found = Labels { labels: Vec::new(), are_all: true };
    let mut look = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            looked_at += 1;
            if looked_at > LOOKED_AT {
                found.are_all = false;
                break;
            }
            let (product, name) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
            if words.find_in(product, name) {
                found.labels.push((parsed(row, 0)?, name.to_owned()));
            }
        }
        Ok::<_, rusqlite::Error>(())
    };
    look(NOT_INDEXED, &[&(LOOKED_AT + 1)])?;
    let wanted: Vec<String> = words.grams().iter().map(|gram| format!("\"{gram}\"")).collect();
    look(INDEXED, &[&wanted.join(" "), &(LOOKED_AT + 1)])?;
    found.labels.sort_unstable();
    Ok(found)
}

/// Part of a list that is searched.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Behind so many that are found.
    pub offset: usize,
    /// At most so many.
    pub limit: usize,
}

/// What is found, in order, as the rows of a list; `found_all`: these are all.
pub fn cut<T>(found: Vec<T>, found_all: bool, is_behind: impl Fn(&T) -> bool, part: Part) -> Searched<T> {
    let count = Found { found: found.len(), found_all };
    let rows = found.into_iter().filter(is_behind).skip(part.offset).take(part.limit).collect();
    Searched { rows, found: count, reached: None }
}

/// Goes through the rows of a list in its order and picks those that are meant: for words that are in so many labels that
/// a part of the list is met before long.
pub fn sift<T>(
    mut rows: Rows<'_>,
    found: Found,
    part: Part,
    is_meant: impl Fn(&Row<'_>) -> rusqlite::Result<bool>,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Searched<T>> {
    let mut picked = Searched { rows: Vec::new(), found, reached: None };
    let (mut to_skip, mut looked_at) = (part.offset, 0);
    while picked.rows.len() < part.limit
        && let Some(row) = rows.next()?
    {
        looked_at += 1;
        match (is_meant(row)?, to_skip) {
            (false, _) => {}
            (true, 0) => picked.rows.push(read(row)?),
            (true, _) => to_skip -= 1,
        }
        if looked_at == SIFTED && picked.rows.len() < part.limit {
            picked.reached = Some(read(row)?);
            break;
        }
    }
    Ok(picked)
}

const NOT_INDEXED: &str = "select product_id, name from label where label > (select upto from label_indexed) limit ?1";
const INDEXED: &str = "select product_id, name from label_gram cross join label on label.label = label_gram.rowid \
     where label_gram match ?1 limit ?2";

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "
        create table label (
          label      integer primary key autoincrement,
          product_id text    not null,
          name       text    not null,
          unique (product_id, name)
        ) strict;
        create table label_indexed (upto integer not null) strict;
        insert into label_indexed (upto) values (0);
        create virtual table label_gram using fts5 (
          grams, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
        );
        insert into label_gram (label_gram, rank) values ('automerge', 0);";

    fn labels(known: &[(&str, &str)]) -> Connection {
        let connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch(SCHEMA).expect("creates");
        for (product, name) in known {
            add(&connection, product, name).expect("writes");
        }
        connection
    }

    fn found(connection: &Connection, q: &str) -> Vec<String> {
        let labels = search(connection, &Words::parse(q).expect("words")).expect("reads");
        assert!(labels.are_all);
        labels.labels.into_iter().map(|(product, _)| product.to_string()).collect()
    }

    #[test]
    fn a_label_is_found_before_and_after_it_is_indexed_and_not_once_it_is_removed() {
        let connection = labels(&[("p2", "POTATOES RUSSET 5 LB"), ("p1", "Potatoes 5 kg"), ("p1", "Spuds, five")]);
        for round in 0..2 {
            assert_eq!(found(&connection, "potatoes 5 lb"), ["p2"], "{round}");
            assert_eq!(found(&connection, "tatoes"), ["p1", "p2"], "{round}");
            assert_eq!(found(&connection, "p1"), ["p1", "p1"], "{round}");
            assert_eq!(index_step(&connection).expect("writes"), round == 0);
        }
        remove(&connection, "p1", "Potatoes 5 kg").expect("writes");
        assert_eq!(found(&connection, "tatoes"), ["p2"]);
        assert_eq!(found(&connection, "p1"), ["p1"]);
        add(&connection, "p3", "Tatoes").expect("writes");
        remove(&connection, "p3", "Tatoes").expect("writes");
        add(&connection, "p2", "POTATOES RUSSET 5 LB").expect("known already");
        assert_eq!(found(&connection, "tatoes"), ["p2"]);
    }

    #[test]
    fn of_very_many_some_are_looked_at() {
        let connection = labels(&[]);
        let many = |from: usize| {
            for number in from..from + LOOKED_AT {
                add(&connection, &format!("p{number}"), "Tea").expect("writes");
            }
        };
        let all = || search(&connection, &Words::parse("tea").expect("a word")).expect("reads");
        many(0);
        assert_eq!((all().labels.len(), all().are_all), (LOOKED_AT, true));
        while index_step(&connection).expect("writes") {}
        assert_eq!((all().labels.len(), all().are_all), (LOOKED_AT, true));
        add(&connection, "q", "Tea").expect("writes");
        assert_eq!((all().labels.len(), all().are_all), (LOOKED_AT + 1, true));
        index_step(&connection).expect("writes");
        assert_eq!((all().labels.len(), all().are_all), (LOOKED_AT, false));
        many(LOOKED_AT);
        add(&connection, "r", "Tea").expect("writes");
        assert_eq!((all().labels.len(), all().are_all), (2 * LOOKED_AT, false));
    }

    #[test]
    fn a_search_reads_no_table_from_end_to_end() {
        let connection = labels(&[("p", "Tea")]);
        for sql in [NOT_INDEXED, INDEXED] {
            let plan: Vec<String> = connection
                .prepare(&format!("explain query plan {sql}"))
                .expect("prepares")
                .query_map(rusqlite::params_from_iter((0..sql.matches('?').count()).map(|_| "x")), |row| row.get(3))
                .expect("explains")
                .collect::<rusqlite::Result<_>>()
                .expect("reads");
            let plan = plan.join("; ");
            assert!(plan.contains("SEARCH label USING INTEGER PRIMARY KEY"), "{plan}");
        }
    }
}
