//! Telling central the whole state because it has asked for it (L9, L12): in steps, each of which is one transaction. The
//! items go by number; the last step has all that is no item.

use protocol::domain::Rejection;
use protocol::time::Millis;
use protocol::wire::{Became, Subject};
use runtime::sqlite::{Connection, JobResult, in_savepoint, is_fatal};

use super::effect::{Items, answered, record};
use crate::ledger::{self, state};

/// Tells the next of it, in the caller's transaction: `most` items, or what as many entries have changed. With the end come
/// the answers to those who have asked. Says whether there is more. What the database refuses is refused to them (L11).
pub fn step(connection: &Connection, most: usize, now: Millis) -> JobResult<bool> {
    if !state::is_asked(connection)? {
        return Ok(false);
    }
    let mut head = ledger::head(connection)?;
    let told = in_savepoint(connection, || {
        let mut after = head;
        let is_whole = state::tell(connection, &mut after, most, now)?;
        Ok((after, is_whole))
    });
    let refused = match told {
        Ok((after, is_whole)) => {
            head = after;
            if !is_whole {
                ledger::save_head(connection, &head)?;
                return Ok(true);
            }
            false
        }
        Err(error) if is_fatal(&error) => return Err(error),
        Err(error) => {
            tracing::error!(%error, "the whole state cannot be told");
            true
        }
    };
    for asked in state::take_asked(connection)? {
        let became = if refused {
            let rejection = Rejection::UnsupportedByStore { entry: asked.entry.to_string() };
            Became::Refused { subject: Subject::Store, rejection, item: None }
        } else {
            Became::Resynced
        };
        let effect = answered(&asked.command, became, now);
        record(connection, &mut head, &asked.command, &mut Items::new(), effect, now)?;
    }
    ledger::save_head(connection, &head)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use protocol::domain::Operation;
    use protocol::ids::OperationId;
    use protocol::link::EntryId;
    use protocol::stock::Stock;
    use protocol::wire::Event;

    use super::*;
    use crate::ledger::state::Asked;
    use crate::ledger::testing::{last, tamper};
    use crate::testing::{NOW, act, quantity, store};

    fn ask(connection: &Connection, command: &str) {
        let command = OperationId::parse(command).expect("valid");
        let head = ledger::head(connection).expect("reads");
        state::ask(connection, &head, &Asked { command, entry: EntryId { epoch: 7.into(), seq: 3.into() } })
            .expect("writes");
    }

    fn step_of(connection: &Connection, most: usize) -> bool {
        step(connection, most, NOW).expect("tells")
    }

    fn sell(connection: &Connection, id: &str, product: &str) {
        act(connection, id, product, Operation::Sell { quantity: quantity(1) }, NOW);
    }

    /// What the present epoch's entries add up to is what they themselves say: after the last whole state, each.
    fn adds_up(connection: &Connection) -> usize {
        let (mut stock, mut states) = (Stock::default(), 0);
        let head = ledger::head(connection).expect("reads");
        let sql = "select type, body from ledger join meta using (epoch) order by ledger.seq";
        let mut statement = connection.prepare(sql).expect("is valid");
        let mut rows = statement.query([]).expect("runs");
        while let Some(row) = rows.next().expect("reads") {
            let (kind, body): (String, String) = (row.get(0).expect("a text"), row.get(1).expect("a text"));
            let event = Event::decode(&kind, &body).expect("is understood");
            assert_eq!(stock.apply(&event), [], "{kind} {body}");
            states += usize::from(kind == "snapshot_end");
        }
        assert_eq!(stock.digest(), Some(head.digest));
        states
    }

    fn answers(connection: &Connection) -> Vec<String> {
        let sql = "select operation_id from ledger where type = 'outcome_repeated' order by seq";
        let mut statement = connection.prepare(sql).expect("is valid");
        let ids = statement.query_map([], |row| row.get(0)).expect("runs");
        ids.collect::<rusqlite::Result<_>>().expect("reads")
    }

    #[test]
    fn what_changes_while_it_is_told_is_told_as_it_is_at_the_end() {
        let connection = store(&[("bun", 5), ("milk", 5), ("tea", 5)]);
        assert!(!step_of(&connection, 1), "nobody has asked");
        ask(&connection, "first");
        for (number, product) in ["tea", "bun", "bun", "milk", "bun"].into_iter().enumerate() {
            assert!(step_of(&connection, 1));
            sell(&connection, &format!("sale-{number}"), product);
            ask(&connection, if number == 2 { "second" } else { "first" });
        }
        act(&connection, "new", "ale", Operation::Create { name: "Ale".into(), quantity: 1, low_at: None }, NOW);
        let mut steps = 0;
        while step_of(&connection, 2) {
            steps += 1;
        }
        assert_eq!((steps > 1, adds_up(&connection)), (true, 2), "the opening's, and this");
        assert_eq!(answers(&connection), ["first", "second"]);
        assert!(!state::is_asked(&connection).expect("reads"));
        // The next one begins from its first item.
        ask(&connection, "third");
        while step_of(&connection, 2) {}
        assert_eq!((adds_up(&connection), answers(&connection).len()), (3, 3));
    }

    #[test]
    fn names_are_told_some_at_a_time() {
        let connection = store(&[("tea", 5)]);
        let names = ["a", "b", "c", "d", "e"];
        ledger::idempotency::remember_known(&connection, names, NOW).expect("writes");
        ask(&connection, "first");
        let before = ledger::head(&connection).expect("reads").cursor.seq.get();
        let (mut told, mut steps) = (Vec::new(), 0);
        while step_of(&connection, 2) {
            steps += 1;
            let sql =
                "select body from ledger join meta using (epoch) where ledger.seq > ?1 and type = 'snapshot_page'";
            let mut pages = connection.prepare(sql).expect("is valid");
            let pages = pages.query_map([before], |row| row.get::<_, String>(0)).expect("runs");
            told = pages
                .flat_map(|body| match Event::decode("snapshot_page", &body.expect("reads")) {
                    Ok(Event::SnapshotPage(page)) => page.operations,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert!(told.len() <= 2 * (steps - 1), "one is of items");
        }
        assert_eq!(told.iter().map(OperationId::as_str).collect::<Vec<_>>(), names);
        assert_eq!((steps, adds_up(&connection)), (5, 2));
    }

    #[test]
    fn a_step_tells_what_so_many_lines_have_changed() {
        let connection = store(&[("bun", 5), ("milk", 5), ("tea", 5)]);
        ask(&connection, "first");
        assert!(step_of(&connection, 10) && step_of(&connection, 10), "items; names, of which there are none");
        for sale in ["one", "two"] {
            sell(&connection, sale, "tea");
            tamper(
                &connection,
                "insert into ledger_item select item.product_id, epoch, seq, 0 from meta, item where product_id <> 'tea'",
            );
        }
        assert!(step_of(&connection, 2), "what the first has changed");
        assert!(!step_of(&connection, 2));
        assert_eq!(adds_up(&connection), 2);
    }

    #[test]
    fn an_epoch_that_opens_meanwhile_has_the_state_and_ends_the_telling() {
        let connection = store(&[("milk", 5), ("tea", 5)]);
        ask(&connection, "first");
        assert!(step_of(&connection, 1));
        ledger::open_epoch(&connection, None, NOW.plus(1)).expect("opens");
        assert!(!state::is_asked(&connection).expect("reads") && !step_of(&connection, 1));
        assert_eq!((adds_up(&connection), answers(&connection).len()), (1, 0));
        // It comes again in the command epoch that names this one.
        ask(&connection, "first");
        while step_of(&connection, 1) {}
        assert_eq!((adds_up(&connection), answers(&connection).len()), (2, 1));
    }

    #[test]
    fn what_cannot_be_told_is_refused_and_what_was_told_of_it_belongs_to_the_next() {
        let connection = store(&[("milk", 5), ("tea", 5)]);
        ask(&connection, "first");
        assert!(step_of(&connection, 1));
        tamper(&connection, "update item set product_id = 'te a' where product_id = 'tea'");
        assert!(!step_of(&connection, 1) && last(&connection).1.contains("unsupported_by_store"));
        let pages = || {
            let sql = "select count(*) from ledger join meta using (epoch) where type = 'snapshot_page'";
            connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("reads")
        };
        let told = pages();
        ask(&connection, "again");
        assert!(!step_of(&connection, 1));
        assert_eq!(pages(), told, "what was told is not told with each try");
        tamper(&connection, "update item set product_id = 'tea' where product_id = 'te a'");
        ask(&connection, "second");
        while step_of(&connection, 1) {}
        assert_eq!(
            (adds_up(&connection), answers(&connection)),
            (2, ["first", "again", "second"].map(String::from).to_vec())
        );
    }

    #[test]
    fn what_was_told_of_a_refused_state_is_told_anew_once_the_log_cannot_say_what_has_changed_since() {
        let connection = store(&[("milk", 5), ("tea", 5)]);
        ask(&connection, "first");
        assert!(step_of(&connection, 1));
        tamper(&connection, "update item set product_id = 'te a' where product_id = 'tea'");
        assert!(!step_of(&connection, 1));
        tamper(&connection, "update item set product_id = 'tea' where product_id = 'te a'");
        sell(&connection, "unseen", "milk");
        tamper(&connection, "delete from ledger where seq < (select seq from meta)");
        ask(&connection, "second");
        while step_of(&connection, 1) {}
        let sql = "select count(*) from ledger where type = 'snapshot_page' and body like '%milk%'";
        assert_eq!(connection.query_row(sql, [], |row| row.get::<_, i64>(0)), Ok(1), "as it is now");
    }
}
