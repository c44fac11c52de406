//! The ledger as people read it: which entries there are, and what they say.

use protocol::link::{EntryId, Epoch};
use protocol::time::Millis;
use runtime::sqlite::id_at;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// An entry that a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub place: EntryId,
    /// `t` of the entry.
    pub kind: String,
    /// The operation's id.
    pub operation: String,
    /// The product it is about.
    pub product_id: Option<String>,
    /// Change of the quantity.
    pub delta: i64,
    pub recorded_at: Millis,
    /// The body; of a page of the whole state it is left out.
    pub body: String,
}

/// Entries that one list looks at, at most: one whose filter finds little does not hold a connection for long, and says
/// how far it has come.
const LOOK: usize = 100_000;

/// Which entries a list shows; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// About this product.
    pub product_id: Option<String>,
    /// Of this type, as it is recorded.
    pub kind: Option<String>,
    /// With this reference.
    pub reference: Option<String>,
    /// By this till or person.
    pub actor: Option<String>,
    /// Recorded at this time or later.
    pub since: Option<Millis>,
    /// Recorded before this time.
    pub until: Option<Millis>,
}

/// Where a list begins, and in which direction it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the newest, towards older ones.
    End,
    /// Before this entry, towards older ones.
    Before(EntryId),
    /// Behind this entry, towards newer ones. `0-0` is the beginning of what is kept.
    Behind(EntryId),
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Part {
    pub entries: Vec<Recorded>,
    /// Where the list goes on: before this entry or behind it, as it began. `None`: towards older ones there are no more.
    pub next: Option<EntryId>,
}

/// The oldest entry that is kept, if some that came behind this one are not.
pub fn lost_behind(connection: &Connection, place: EntryId) -> rusqlite::Result<Option<EntryId>> {
    if place.epoch == Epoch::NONE {
        return Ok(None);
    }
    Ok(oldest(connection)?.filter(|oldest| EntryId { seq: place.seq.next(), ..place } < *oldest))
}

const OLDEST: &str = "select epoch, seq from ledger order by epoch, seq limit 1";

fn oldest(connection: &Connection) -> rusqlite::Result<Option<EntryId>> {
    connection.prepare_cached(OLDEST)?.query_row([], |row| id_at(row, 0)).optional()
}

/// At most so many, and no more than some that are looked at. All of it is read from one state of the database.
pub fn list(connection: &Connection, filter: &Filter, start: Start, size: usize) -> rusqlite::Result<Part> {
    let last = super::head(connection)?.cursor.id();
    let (place, older) = match start {
        Start::End => (EntryId { seq: last.seq.next(), ..last }, true),
        Start::Before(place) => (place, true),
        Start::Behind(place) => (place, false),
    };
    let mut statement = connection.prepare_cached(&select(filter, older))?;
    let (epoch, seq) = (place.epoch.get(), place.seq.get());
    let mut rows = match &filter.product_id {
        Some(product) => statement.query(params![epoch, seq, product])?,
        None => statement.query(params![epoch, seq])?,
    };
    let mut entries: Vec<Recorded> = Vec::new();
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        if filter.finds(row)? {
            // Towards older ones one more tells whether there are any.
            if older && entries.len() == size {
                return Ok(Part { next: entries.last().map(|last| last.place), entries });
            }
            entries.push(read(row)?);
        }
        looked_at += 1;
        if looked_at == LOOK || (!older && entries.len() == size) {
            return Ok(Part { entries, next: Some(id_at(row, 0)?) });
        }
    }
    Ok(Part { entries, next: (!older).then(|| last.max(place)) })
}

/// Along the index of products if one is wanted; the other conditions are [`Filter::finds`]'s.
fn select(filter: &Filter, older: bool) -> String {
    let (comparison, order) = if older { ("<", "desc") } else { (">", "asc") };
    let mut sql = format!(
        "select epoch, seq, type, operation_id, product_id, delta, recorded_at, \
         case when type = 'snapshot_page' then '{{}}' else body end, reference, actor from ledger \
         where (epoch, seq) {comparison} (?1, ?2)"
    );
    if filter.product_id.is_some() {
        // Entries that are about it beside another one: two lists in their order make one in its order.
        sql.push_str(&format!(
            " and product_id = ?3 union all select epoch, seq, type, operation_id, ledger_item.product_id, \
             ledger_item.delta, recorded_at, body, reference, actor from ledger_item cross join ledger using (epoch, seq) \
             where (epoch, seq) {comparison} (?1, ?2) and ledger_item.product_id = ?3"
        ));
    }
    sql.push_str(&format!(" order by epoch {order}, seq {order}"));
    sql
}

impl Filter {
    /// Whether it finds an entry, whose product fits.
    fn finds(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        for (column, wanted) in [(2, &self.kind), (8, &self.reference), (9, &self.actor)] {
            if wanted.is_some() && row.get_ref(column)?.as_str_or_null()? != wanted.as_deref() {
                return Ok(false);
            }
        }
        let at = Millis(row.get(6)?);
        Ok(self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    Ok(Recorded {
        place: id_at(row, 0)?,
        kind: row.get(2)?,
        operation: row.get(3)?,
        product_id: row.get(4)?,
        delta: row.get(5)?,
        recorded_at: Millis(row.get(6)?),
        body: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::plan;
    use crate::testing;

    fn seqs(part: &Part) -> Vec<u64> {
        part.entries.iter().map(|entry| entry.place.seq.get()).collect()
    }

    #[test]
    fn a_list_leads_from_the_newest_to_the_first_and_from_any_place_to_the_newest() {
        let connection = testing::ledger(5);
        let all = Filter::default();
        let head = crate::ledger::head(&connection).expect("reads").cursor.id();
        let (mut start, mut seen) = (Start::End, Vec::new());
        loop {
            let part = list(&connection, &all, start, 3).expect("reads");
            seen.extend(seqs(&part));
            let Some(next) = part.next else { break };
            start = Start::Before(next);
        }
        assert_eq!(seen, (1..=head.seq.get()).rev().collect::<Vec<_>>());
        let (mut place, mut seen) = (EntryId::default(), Vec::new());
        loop {
            let part = list(&connection, &all, Start::Behind(place), 3).expect("reads");
            assert!(part.entries.len() <= 3);
            if part.entries.is_empty() {
                assert_eq!(part.next, Some(head), "what comes next is read from there");
                break;
            }
            seen.extend(seqs(&part));
            place = part.next.expect("forward there is always a next");
        }
        assert_eq!(seen, (1..=head.seq.get()).collect::<Vec<_>>());
        let beyond = EntryId { seq: head.seq + 5, ..head };
        assert_eq!(list(&connection, &all, Start::Behind(beyond), 3).expect("reads").next, Some(beyond));
    }

    #[test]
    fn a_filter_that_finds_nothing_new_moves_on_all_the_same() {
        let connection = testing::ledger(5);
        let head = crate::ledger::head(&connection).expect("reads").cursor.id();
        let milk = Filter { product_id: Some("milk".into()), ..Filter::default() };
        let part = list(&connection, &milk, Start::Behind(EntryId::default()), 3).expect("reads");
        assert_eq!((seqs(&part), part.next), (vec![], Some(head)));
        assert_eq!(list(&connection, &milk, Start::End, 3).expect("reads").next, None);
        // The last of them were received a millisecond apart.
        let one = Filter {
            product_id: Some("tea".into()),
            kind: Some("received".into()),
            since: Some(testing::NOW.plus(2)),
            until: Some(testing::NOW.plus(4)),
            ..Filter::default()
        };
        let part = list(&connection, &one, Start::End, 3).expect("reads");
        assert_eq!((seqs(&part), part.next), (vec![(head.seq - 1).get(), (head.seq - 2).get()], None));
    }

    #[test]
    fn a_filter_that_finds_little_says_how_far_it_has_looked() {
        let connection = testing::ledger(0);
        let many = "insert into ledger (epoch, seq, type, operation_id, body, digest, hash, recorded_at) \
                    with recursive behind (place) as (select 3 union all select place + 1 from behind where place <= ?1) \
                    select epoch, place, 'sold', '', '', digest, hash, 0 from meta, behind";
        connection.execute(many, [LOOK]).expect("writes");
        let none = Filter { kind: Some("counted".into()), ..Filter::default() };
        let part = list(&connection, &none, Start::Behind(EntryId::default()), 3).expect("reads");
        assert_eq!((seqs(&part), part.next.expect("goes on").seq.get()), (vec![], LOOK as u64));
    }

    #[test]
    fn what_is_no_longer_kept_is_missed_only_by_who_has_not_read_it() {
        let connection = testing::ledger(5);
        connection.execute("delete from ledger where seq <= 2", []).expect("deletes");
        let oldest = oldest(&connection).expect("reads").expect("is not empty");
        assert_eq!(oldest.seq.get(), 3);
        let at = |seq: u64| EntryId { seq: seq.try_into().expect("in range"), ..oldest };
        let lost = |seq| lost_behind(&connection, at(seq)).expect("reads");
        assert_eq!((lost(1), lost(2), lost(3)), (Some(oldest), None, None));
        assert_eq!(lost_behind(&connection, EntryId::default()).expect("reads"), None, "the beginning of what is kept");
        let back = list(&connection, &Filter::default(), Start::Before(at(2)), 3).expect("reads");
        assert_eq!((seqs(&back), back.next), (vec![], None));
    }

    #[test]
    fn no_list_sorts_or_leaves_its_index() {
        let connection = testing::ledger(1);
        let milk = Filter { product_id: Some("milk".into()), ..Filter::default() };
        let lists = [
            (Filter::default(), "PRIMARY KEY ((epoch,seq)"),
            (milk, "ledger_by_product (product_id=? AND (epoch,seq)"),
        ];
        for (filter, index) in lists {
            for (older, comparison) in [(true, "<"), (false, ">")] {
                let plan = plan(&connection, &select(&filter, older));
                assert!(plan.contains(&format!("{index}{comparison}")) && !plan.contains("TEMP"), "{plan}");
            }
        }
        assert!(!plan(&connection, OLDEST).contains("TEMP B-TREE"));
    }
}
