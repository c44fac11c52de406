//! The auditor: recomputes what the database says of itself.
//!
//! It checks the file, the ledger's chain of hashes and its gaplessness, that every entry's difference leads from the
//! item before to the item after, and that items, head and digest are what the ledger adds up to.

use protocol::hash::{Digest, Hash, chain};
use protocol::link::{Cursor, EntryId, Seq};
use protocol::stock::Stock;
use protocol::wire::Event;
use runtime::sqlite::{Connection, JobResult};

use crate::ledger::history::{self, Kept};
use crate::ledger::{self, Head};

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries of the ledger.
    pub entries: u64,
    pub items: u64,
    /// Items whose stock could not be recomputed, because nothing that is kept of the ledger names them.
    pub unproven: u64,
    /// Entries that this version does not understand: a later one wrote them.
    pub not_understood: u64,
    /// Differences, for people. Empty: all is well.
    pub differences: Vec<String>,
}

/// Audits a database in one read transaction of the caller's.
pub fn verify(connection: &Connection) -> JobResult<Report> {
    let mut report = Report::default();
    report.differences.extend(history::damage(connection)?.map(|damage| format!("the file is damaged: {damage}")));
    let head = ledger::head(connection)?;
    let mut audit = Audit { report, before: None, stock: Stock::default(), last_digest: None };
    history::walk(connection, EntryId::default(), |kept| audit.see(&kept))?;
    let (mut report, stock) = audit.finish(&head);
    let mut digest = Digest::default();
    ledger::each_item(connection, |product, item| {
        report.items += 1;
        digest = digest.replace(&product, None, Some(&item));
        match stock.item(&product) {
            Some(proven) if *proven != item => report.differences.push(format!(
                "item {product}: the ledger adds up to {} units (version {}), the stock says {} (version {})",
                proven.quantity, proven.version, item.quantity, item.version
            )),
            Some(_) => {}
            None => report.unproven += 1,
        }
    })?;
    for (product, _) in stock.items() {
        if ledger::find_item(connection, product)?.is_none() {
            report.differences.push(format!("item {product}: in the ledger, not in the stock"));
        }
    }
    for (product, reserved, held) in ledger::reservations::unbalanced(connection)? {
        let difference = format!("item {product}: {reserved} units are reserved, open reservations hold {held}");
        report.differences.push(difference);
    }
    if digest != head.digest {
        report.differences.push(format!("digest: the stock's is {digest}, the head says {}", head.digest));
    }
    Ok(report)
}

/// A walk through the ledger.
struct Audit {
    report: Report,
    /// The entry before.
    before: Option<Cursor>,
    /// What the entries add up to.
    stock: Stock,
    last_digest: Option<Digest>,
}

impl Audit {
    fn see(&mut self, Kept { entry, digest, product, delta }: &Kept) {
        self.report.entries += 1;
        let at = entry.id;
        let same_epoch = self.before.filter(|before| before.epoch == at.epoch);
        let known_before = match same_epoch {
            Some(before) if at.seq != before.seq.next() => {
                self.differ(format!("entry {at}: does not follow {}", before.id()));
                None
            }
            Some(before) => Some(before.hash),
            None if at.seq == Seq::FIRST => Some(Hash::ZERO),
            // The first entry that is kept: what lay before it was pruned.
            None => None,
        };
        let hash = |before| chain(before, at, &entry.kind, &entry.operation, &entry.body, Some(*digest));
        if known_before.is_some_and(|before| hash(before) != entry.hash) {
            self.differ(format!("entry {at}: its hash does not fit its content"));
        }
        if same_epoch.is_none() {
            self.stock.open();
        }
        self.before = Some(entry.cursor());
        self.last_digest = Some(*digest);
        let Ok(event) = Event::decode(&entry.kind, &entry.body) else {
            self.report.not_understood += 1;
            self.stock.skip();
            return;
        };
        for difference in self.stock.apply(&event) {
            self.differ(format!("entry {at}: {difference}"));
        }
        if self.stock.digest().is_some_and(|adds_up| adds_up != *digest) {
            self.differ(format!("entry {at}: its digest is not that of the stock after it"));
        }
        let filed = match &event {
            Event::Fact(fact) => (Some(fact.filed_under()), fact.filed_delta()),
            Event::OutcomeRepeated(_)
            | Event::Opened { .. }
            | Event::SnapshotPage(_)
            | Event::SnapshotEnd(_)
            | Event::Ready { .. } => (None, 0),
        };
        if filed != (product.clone(), *delta) {
            self.differ(format!("entry {at}: its product or its difference is not that of its body"));
        }
    }

    fn finish(mut self, head: &Head) -> (Report, Stock) {
        let end = self.before.unwrap_or_default();
        if end != head.cursor {
            self.differ(format!("the ledger ends at {}, its head is {}", end.id(), head.cursor.id()));
        }
        if self.last_digest.is_some_and(|digest| digest != head.digest) {
            self.differ("the last entry's digest is not the head's".into());
        }
        (self.report, self.stock)
    }

    fn differ(&mut self, difference: String) {
        self.report.differences.push(difference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::tamper;
    use crate::testing;

    fn found(sql: &str) -> Vec<String> {
        let connection = testing::ledger(4);
        tamper(&connection, sql);
        verify(&connection).expect("reads").differences
    }

    #[test]
    fn each_lie_of_the_tables_is_found() {
        assert_eq!(found(""), [""; 0]);
        for (sql, what) in [
            ("update item set quantity = 7", "the ledger adds up to"),
            ("delete from item", "in the ledger, not in the stock"),
            ("update ledger set delta = 9 where seq = 4", "is not that of its body"),
            ("update ledger set body = replace(body, '\"delta\":1', '\"delta\":2') where seq = 4", "do not make"),
            ("update ledger set operation_id = 'x' where seq = 4", "its hash does not fit"),
            (
                "update ledger set digest = (select digest from ledger where seq = 1) where seq = 4",
                "digest is not that of",
            ),
            ("delete from ledger where seq = 4", "does not follow"),
            ("update meta set seq = 9", "the ledger ends at"),
            (
                "pragma ignore_check_constraints = on; update item set quantity = -1; pragma ignore_check_constraints = off",
                "the file is damaged",
            ),
        ] {
            let found = found(sql);
            assert!(found.iter().any(|difference| difference.contains(what)), "{sql}: {found:?}");
        }
    }
}
