//! The ledger as people read it: which entries there are, and what they say.

use protocol::link::EntryId;
use protocol::time::Millis;
use runtime::sqlite::id_at;
use rusqlite::{Connection, OptionalExtension, ToSql, params_from_iter};

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

/// Which entries a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Forward from here; without it the newest first.
    pub after: Option<EntryId>,
    /// About this product.
    pub product_id: Option<String>,
    /// Of this type.
    pub kind: Option<String>,
    /// With this reference.
    pub reference: Option<String>,
    /// By this till or person.
    pub actor: Option<String>,
    /// Recorded at this time or later.
    pub since: Option<Millis>,
    /// Recorded before this time.
    pub until: Option<Millis>,
    /// At most so many.
    pub limit: usize,
}

/// The oldest entry that is kept.
pub fn oldest(connection: &Connection) -> rusqlite::Result<Option<EntryId>> {
    connection
        .prepare_cached("select epoch, seq from ledger order by epoch, seq limit 1")?
        .query_row([], |row| id_at(row, 0))
        .optional()
}

/// Entries in their order, or the newest first.
pub fn list(connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Recorded>> {
    let mut sql = "select epoch, seq, type, operation_id, product_id, delta, recorded_at, \
                   case when type = 'snapshot_page' then '{}' else body end from ledger where true"
        .to_owned();
    let mut values: Vec<&dyn ToSql> = Vec::new();
    let after = filter.after.map(|after| [after.epoch.get(), after.seq.get()]);
    if let Some([epoch, seq]) = &after {
        sql.push_str(" and (epoch, seq) > (?, ?)");
        values.push(epoch);
        values.push(seq);
    }
    let columns = [
        ("product_id", &filter.product_id),
        ("type", &filter.kind),
        ("reference", &filter.reference),
        ("actor", &filter.actor),
    ];
    for (column, wanted) in columns {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" and {column} = ?"));
            values.push(wanted);
        }
    }
    for (comparison, bound) in [(">=", &filter.since), ("<", &filter.until)] {
        if let Some(bound) = bound {
            sql.push_str(&format!(" and recorded_at {comparison} ?"));
            values.push(&bound.0);
        }
    }
    let order = if filter.after.is_some() { "asc" } else { "desc" };
    sql.push_str(&format!(" order by epoch {order}, seq {order} limit {}", filter.limit));
    connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), |row| {
            Ok(Recorded {
                place: id_at(row, 0)?,
                kind: row.get(2)?,
                operation: row.get(3)?,
                product_id: row.get(4)?,
                delta: row.get(5)?,
                recorded_at: Millis(row.get(6)?),
                body: row.get(7)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::plan;
    use crate::testing;

    #[test]
    fn a_list_goes_forward_from_a_place_or_back_from_the_end() {
        let connection = testing::ledger(4);
        let seqs = |filter: &Filter| {
            let found = list(&connection, filter).expect("reads");
            found.iter().map(|entry| entry.place.seq.get()).collect::<Vec<_>>()
        };
        let newest = Filter { limit: 2, ..Filter::default() };
        let back = seqs(&newest);
        let oldest = oldest(&connection).expect("reads").expect("is not empty");
        assert_eq!((oldest.seq.get(), back[0], back[1]), (1, back[1] + 1, back[0] - 1));
        assert_eq!(seqs(&Filter { after: Some(oldest), ..newest.clone() }), [2, 3]);
        assert_eq!(seqs(&Filter { product_id: Some("milk".into()), ..newest }), [0; 0]);
    }

    #[test]
    fn the_oldest_entry_is_found_without_reading_the_others() {
        let plan = plan(&testing::ledger(1), "select epoch, seq from ledger order by epoch, seq limit 1");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
