//! The auditor: recomputes what the database says of itself.
//!
//! It checks the file, the ledger's chain of hashes and its gaplessness, that every entry's difference leads from the
//! item before to the item after, and that items, head and digest are what the ledger adds up to.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::hash::{Digest, Hash, chain};
use protocol::ids::ProductId;
use protocol::link::{Cursor, EntryId};
use protocol::wire::Event;
use runtime::sqlite::{DigestColumn, HashColumn};
use rusqlite::Connection;

use crate::ledger;

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries of the ledger.
    pub entries: u64,
    /// Items.
    pub items: u64,
    /// Items whose stock could not be recomputed, because nothing that is kept of the ledger names them.
    pub unproven: u64,
    /// Entries that this version does not understand: a later one wrote them.
    pub not_understood: u64,
    /// Differences, for people. Empty: all is well.
    pub differences: Vec<String>,
}

/// Audits a database in one read transaction of the caller's.
pub fn verify(connection: &Connection) -> rusqlite::Result<Report> {
    let mut report = Report::default();
    let check: String = connection.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    if check != "ok" {
        report.differences.push(format!("the file is damaged: {check}"));
    }
    let head = ledger::head(connection)?;
    let stock = walk(connection, &head, &mut report)?;
    let mut digest = Digest::default();
    for (product, item) in ledger::all_items(connection)? {
        report.items += 1;
        digest = digest.replace(&product, None, Some(&item));
        match stock.get(&product) {
            Some(proven) if *proven != item => report.differences.push(format!(
                "item {product}: the ledger adds up to {} units (version {}), the stock says {} (version {})",
                proven.quantity, proven.version, item.quantity, item.version
            )),
            Some(_) => {}
            None => report.unproven += 1,
        }
    }
    for product in stock.keys() {
        if ledger::find_item(connection, product)?.is_none() {
            report.differences.push(format!("item {product}: in the ledger, not in the stock"));
        }
    }
    if digest != head.digest {
        report.differences.push(format!("digest: the stock's is {digest}, the head says {}", head.digest));
    }
    Ok(report)
}

/// Walks the ledger and returns the stock that the present epoch adds up to.
fn walk(
    connection: &Connection,
    head: &ledger::Head,
    report: &mut Report,
) -> rusqlite::Result<BTreeMap<ProductId, Item>> {
    let mut statement = connection
        .prepare("select epoch, seq, type, operation_id, body, digest, hash, delta from ledger order by epoch, seq")?;
    let mut rows = statement.query([])?;
    let mut before: Option<Cursor> = None;
    let mut stock = BTreeMap::new();
    let mut laid_aside: BTreeMap<ProductId, Item> = BTreeMap::new();
    let mut is_whole = false;
    let mut last_digest = None;
    while let Some(row) = rows.next()? {
        report.entries += 1;
        let at = EntryId { epoch: row.get(0)?, seq: row.get(1)? };
        let (kind, operation, body): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let (digest, hash) = (row.get::<_, DigestColumn>(5)?.0, row.get::<_, HashColumn>(6)?.0);
        let same_epoch = before.filter(|before| before.epoch == at.epoch);
        let known_before = match same_epoch {
            Some(before) if at.seq != before.seq + 1 => {
                report.differences.push(format!("entry {at}: does not follow {}", before.id()));
                None
            }
            Some(before) => Some(before.hash),
            None if at.seq == 1 => Some(Hash::ZERO),
            // The first entry that is kept: what lay before it was pruned.
            None => None,
        };
        if let Some(before) = known_before
            && chain(before, at.epoch, at.seq, &kind, &operation, &body, Some(digest)) != hash
        {
            report.differences.push(format!("entry {at}: its hash does not fit its content"));
        }
        if same_epoch.is_none() {
            stock = BTreeMap::new();
            laid_aside = BTreeMap::new();
            is_whole = at.seq == 1;
        }
        before = Some(Cursor { epoch: at.epoch, seq: at.seq, hash });
        last_digest = Some(digest);
        match Event::decode(&kind, &body) {
            Ok(Event::Fact(_, fact)) => {
                let Some(after) = fact.item else { continue };
                let expected = stock.get(&fact.product_id).map(|item: &Item| item.quantity).or(is_whole.then_some(0));
                if expected.is_some_and(|expected| expected + fact.delta != after.quantity) {
                    report.differences.push(format!(
                        "entry {at}: {} units of {} and a difference of {} do not make {}",
                        expected.unwrap_or_default(),
                        fact.product_id,
                        fact.delta,
                        after.quantity
                    ));
                }
                if fact.delta != row.get::<_, i64>(7)? {
                    report.differences.push(format!("entry {at}: its difference is not that of its body"));
                }
                stock.insert(fact.product_id, after);
            }
            Ok(Event::SnapshotPage(page)) => {
                laid_aside.extend(page.items.into_iter().map(|named| (named.product_id, named.item)));
            }
            Ok(Event::SnapshotEnd(_)) => {
                // The first one is what the epoch opens with; a later one repeats what the entries before it say.
                if at.seq > 1 && stock.is_empty() && is_whole {
                    stock = std::mem::take(&mut laid_aside);
                } else {
                    for (product, item) in std::mem::take(&mut laid_aside) {
                        if stock.insert(product.clone(), item.clone()).is_some_and(|known| known != item) {
                            report.differences.push(format!("entry {at}: says otherwise of {product} than the ledger"));
                        }
                    }
                }
            }
            Ok(_) => {}
            Err(_) => report.not_understood += 1,
        }
    }
    let end = before.unwrap_or_default();
    if end != head.cursor {
        report.differences.push(format!("the ledger ends at {}, its head is {}", end.id(), head.cursor.id()));
    }
    if last_digest.is_some_and(|digest| digest != head.digest) {
        report.differences.push("the last entry's digest is not the head's".into());
    }
    Ok(stock)
}
