//! By which rule units are set aside for online sale. An option, which whoever changes the stock has to know: hence it stands
//! beside it.

use protocol::domain::allotment::Rule;
use rusqlite::{Connection, OptionalExtension, params};

/// The store's rule.
pub fn rule(connection: &Connection) -> rusqlite::Result<Rule> {
    let found = connection
        .prepare_cached("select percent, minimum from allotment_rule")?
        .query_row([], |row| Ok(Rule { percent: row.get(0)?, minimum: row.get(1)? }))
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// From now on it is this one.
pub fn set_rule(connection: &Connection, rule: &Rule) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into allotment_rule (id, percent, minimum) values (1, ?1, ?2) \
             on conflict (id) do update set percent = excluded.percent, minimum = excluded.minimum \
             where (percent, minimum) <> (excluded.percent, excluded.minimum)",
        )?
        .execute(params![rule.percent, rule.minimum])?;
    Ok(())
}
