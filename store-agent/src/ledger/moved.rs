//! What items have moved since a position: for a count that was true there.
//!
//! **Guarantees.** What is added up beforehand, beside the writer, and what came behind it give the same as adding up all
//! entries behind the position at once: entries of an epoch are only appended, and what is kept has no holes.

use std::collections::{BTreeMap, HashMap};

use protocol::ids::ProductId;
use protocol::link::EntryId;
use runtime::sqlite::id_at;
use rusqlite::{Connection, params};

const ENTRIES: &str = "select epoch, seq, delta from ledger where product_id = ?1 and (epoch, seq) > (?2, ?3) \
     and type not in ('counted', 'item_created', 'shortage') order by epoch desc, seq desc";
const ITEMS_OF_ENTRIES: &str = "select epoch, seq, delta from ledger_item where product_id = ?1 \
     and (epoch, seq) > (?2, ?3) order by epoch desc, seq desc";
pub(super) const BEHIND: &str = "select (select coalesce(sum(delta), 0) from ledger \
       where product_id = ?1 and (epoch, seq) > (?2, ?3) and type not in ('counted', 'item_created', 'shortage')) \
     + (select coalesce(sum(delta), 0) from ledger_item where product_id = ?1 and (epoch, seq) > (?2, ?3))";

/// Sums that were added up beforehand: however long ago the positions are, a write has to add only what came behind.
#[derive(Debug, Clone, Default)]
pub struct Moved(HashMap<ProductId, Sums>);

/// What an item has moved.
#[derive(Debug, Clone, Default)]
struct Sums {
    /// Since each position, until the sums were made.
    since: BTreeMap<EntryId, i64>,
    /// From then on.
    behind: i64,
    /// The last entry that is in both.
    upto: EntryId,
}

impl Moved {
    /// Adds up for items and positions. It may take long, so the connection is one that reads. An item's entries are read
    /// once, however many positions it has.
    pub fn since_positions(
        connection: &Connection,
        positions: impl IntoIterator<Item = (ProductId, EntryId)>,
    ) -> rusqlite::Result<Self> {
        let (mut items, upto) = (HashMap::<ProductId, Sums>::new(), super::head::head(connection)?.cursor.id());
        for (product, at) in positions {
            // Of another epoch's positions no count is taken, and behind the head there is nothing yet.
            if at.epoch == upto.epoch && at <= upto {
                items.entry(product).or_default().since.insert(at, 0);
            }
        }
        for (product, sums) in &mut items {
            sums.upto = upto;
            add_up(connection, ENTRIES, product, &mut sums.since)?;
            add_up(connection, ITEMS_OF_ENTRIES, product, &mut sums.since)?;
        }
        Ok(Self(items))
    }

    /// Takes in what an item has moved up to the head, for a write that goes on: whatever is taken back later must have come
    /// behind it.
    pub fn catch_up(&mut self, connection: &Connection, product: &ProductId) -> rusqlite::Result<()> {
        if let Some(sums) = self.0.get_mut(product) {
            sums.behind += moved_behind(connection, product, sums.upto)?;
            sums.upto = super::head::head(connection)?.cursor.id();
        }
        Ok(())
    }

    /// Units of an item that came, less those that went, after an entry. A count finds out what was there already, what
    /// a product was created with has not come, and a shortage corrects the books alone: none of them moves anything. So the same
    /// count, entered twice, corrects once.
    pub fn since(&self, connection: &Connection, product: &ProductId, at: EntryId) -> rusqlite::Result<i64> {
        let sums = self.0.get(product);
        match sums.and_then(|sums| Some((sums, sums.since.get(&at)?))) {
            Some((sums, since)) => Ok(since + sums.behind + moved_behind(connection, product, sums.upto)?),
            None => moved_behind(connection, product, at),
        }
    }
}

fn moved_behind(connection: &Connection, product: &ProductId, at: EntryId) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(BEHIND)?
        .query_row(params![product.as_str(), at.epoch.get(), at.seq.get()], |row| row.get(0))
}

fn add_up(
    connection: &Connection,
    newest_first: &str,
    product: &ProductId,
    sums: &mut BTreeMap<EntryId, i64>,
) -> rusqlite::Result<()> {
    let Some((first, _)) = sums.first_key_value() else { return Ok(()) };
    let mut statement = connection.prepare_cached(newest_first)?;
    let mut rows = statement.query(params![product.as_str(), first.epoch.get(), first.seq.get()])?;
    let (mut waiting, mut behind) = (sums.iter_mut().rev().peekable(), 0);
    while let Some(row) = rows.next()? {
        let id = id_at(row, 0)?;
        while let Some((_, sum)) = waiting.next_if(|(at, _)| **at >= id) {
            *sum += behind;
        }
        behind += row.get::<_, i64>(2)?;
    }
    waiting.for_each(|(_, sum)| *sum += behind);
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Line, Lines, Operation};
    use protocol::ids::ReservationId;
    use protocol::link::Seq;
    use protocol::wire::About;

    use super::*;
    use crate::ledger;
    use crate::ledger::testing::{plan, steps};
    use crate::operations::reservations::{Asking, act, reserve};
    use crate::testing::{self, NOW, product, quantity};

    const NAMES: [&str; 3] = ["ale", "bun", "tea"];

    /// Numbers that look random, the same in each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % most
        }
    }

    /// Does so many things, each at least an entry: some about one item, some about all.
    fn go_on(connection: &Connection, random: &mut Random, many: u64) {
        for _ in 0..many {
            let id = format!("o{}", ledger::head(connection).expect("reads").cursor.seq);
            let name = NAMES[random.below(3) as usize];
            let units = random.below(9) as i64;
            let does = match random.below(4) {
                0 => Operation::Receive { quantity: quantity(units + 1) },
                1 => Operation::Count { quantity: units + 100, counted_at: None, count_ref: None },
                2 => Operation::Sell { quantity: quantity(1) },
                _ => {
                    let line = |name: &str| Line { product_id: product(name), quantity: quantity(1) };
                    let lines = Lines::new(NAMES.map(line)).expect("are lines");
                    let asking = Asking { operation: testing::operation(&id), about: About::default(), command: None };
                    let hold = ReservationId::of(&asking.operation);
                    reserve(connection, hold, &lines, 60_000, &asking, NOW).expect("there are enough");
                    let asking = Asking { operation: testing::operation(&format!("{id}-confirmed")), ..asking };
                    let confirm = protocol::domain::reservation::Act::Confirm { lines: None };
                    act(connection, hold, &confirm, &asking, NOW).expect("is open");
                    continue;
                }
            };
            testing::act(connection, &id, name, does, NOW);
        }
    }

    /// What it is by the entries themselves, one by one.
    fn by_hand(connection: &Connection, name: &str, at: EntryId) -> i64 {
        let sql = "select sum(delta) from (select delta from ledger where product_id = ?1 and epoch = ?2 and seq > ?3 \
             and type <> 'counted' and type <> 'item_created' and type <> 'shortage' \
             union all select delta from ledger_item where product_id = ?1 and epoch = ?2 and seq > ?3)";
        let sum =
            connection.query_row(sql, params![name, at.epoch.get(), at.seq.get()], |row| row.get::<_, Option<i64>>(0));
        sum.expect("reads").unwrap_or(0)
    }

    #[test]
    fn what_was_added_up_beforehand_and_what_came_behind_are_all_of_it() {
        let connection = testing::store(&[("ale", 500), ("bun", 500), ("tea", 500)]);
        let mut random = Random(7);
        for _ in 0..20 {
            go_on(&connection, &mut random, 20);
            let head = ledger::head(&connection).expect("reads").cursor.id();
            // Some that lie ahead: what is committed until the write may reach them.
            let any = |random: &mut Random| EntryId { seq: Seq::from(random.below(head.seq.get() + 5) as u32), ..head };
            let asked: Vec<(&str, EntryId)> =
                (0..9).map(|_| (NAMES[random.below(3) as usize], any(&mut random))).collect();
            let positions = asked.iter().map(|(name, at)| (product(name), *at));
            let mut moved = Moved::since_positions(&connection, positions).expect("reads");
            for more in [0, 1, 7] {
                go_on(&connection, &mut random, more);
                if random.below(2) == 0 {
                    moved.catch_up(&connection, &product(NAMES[random.below(3) as usize])).expect("reads");
                }
                for (name, at) in &asked {
                    let is = moved.since(&connection, &product(name), *at).expect("reads");
                    assert_eq!(is, by_hand(&connection, name, *at), "{name} since {at}");
                    let all = Moved::default().since(&connection, &product(name), *at).expect("reads");
                    assert_eq!(is, all, "{name} since {at}");
                }
            }
        }
    }

    #[test]
    fn a_write_looks_only_at_what_came_behind_the_sums() {
        let connection = testing::ledger(3_000);
        let head = ledger::head(&connection).expect("reads").cursor.id();
        let at = EntryId { seq: 3.into(), ..head };
        let looked = |moved: &Moved| {
            steps(&connection, BEHIND);
            moved.since(&connection, &product("tea"), at).expect("reads");
            steps(&connection, BEHIND)
        };
        let moved = Moved::since_positions(&connection, [(product("tea"), at)]).expect("reads");
        assert!(looked(&moved) < 100, "{} steps", looked(&moved));
        assert!(looked(&Moved::default()) > 3_000, "all of it: {} steps", looked(&Moved::default()));
    }

    #[test]
    fn entries_of_an_item_are_found_by_index() {
        let connection = testing::ledger(1);
        for (sql, index) in [
            (ENTRIES, "COVERING INDEX ledger_by_product"),
            (BEHIND, "COVERING INDEX ledger_by_product"),
            (ITEMS_OF_ENTRIES, "PRIMARY KEY"),
        ] {
            let plan = plan(&connection, sql);
            assert!(plan.contains(index) && plan.contains("(epoch,seq)>"), "{plan}");
            assert!(!plan.contains("SCAN ledger") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
