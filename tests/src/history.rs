//! What clients were told, and the judge of it: for chaos with real processes, and for what the simulation has in common
//! with it. What only the simulation can know is for [`crate::judge`].
//!
//! The history is recorded beside the system under test. When all has healed, [`judge`] compares it with what the
//! databases say: promises P2 to P6.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::ids::{ProductId, StoreId};
use protocol::wire::{Became, Outcome};
use rusqlite::{Connection, params};

/// What a client knows of something it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was answered: done.
    Done,
    /// No answer came: it may have happened.
    Nothing,
}

/// A till's or staff's operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its name in the ledger.
    pub id: String,
    pub store: StoreId,
    pub product: ProductId,
    /// By how many units, as answered.
    pub delta: i64,
    /// What the client knows.
    pub told: Told,
    /// The disk that had it died before central did: nobody promised more.
    pub may_be_lost: bool,
}

/// An online purchase.
#[derive(Debug, Clone)]
pub struct Bought {
    pub store: StoreId,
    /// What the client knows.
    pub told: Told,
    /// Statuses in the order in which they were seen.
    pub seen: Vec<String>,
    /// Its cancel was accepted while it was pending.
    pub cancelled_while_pending: bool,
    /// Central was set back to before it.
    pub may_be_forgotten: bool,
}

#[derive(Debug, Clone, Default)]
pub struct History {
    /// Tills and staff.
    pub operations: Vec<Operation>,
    /// Online buyers, by purchase.
    pub purchases: BTreeMap<String, Bought>,
    /// Stores whose database was set back, cloned or replaced: a shortage may come of it.
    pub forked_stores: BTreeSet<StoreId>,
    /// Stores of which an effect may stand without its entry in central's ledger: it came with an opening's state, because
    /// the store's log did not reach back (L9, L10), or because central's database was set back.
    pub stores_without_entries: BTreeSet<StoreId>,
    /// Stores for which a human chose one of two states: what the other had is not in the stock.
    pub chosen: BTreeSet<StoreId>,
    /// What was seen on the way and must not be.
    pub violations: Vec<String>,
}

impl History {
    fn is_forked(&self, store: &StoreId) -> bool {
        self.forked_stores.contains(store)
    }

    fn may_lack_entries(&self, store: &StoreId) -> bool {
        self.stores_without_entries.contains(store)
    }

    /// A client has seen a purchase's status.
    pub fn saw(&mut self, id: &str, status: &str) {
        let Some(bought) = self.purchases.get_mut(id) else { return };
        let last = bought.seen.last().map_or("pending", String::as_str);
        if last == status {
            return;
        }
        let may_follow = last == "pending" || (last == "confirmed" && status == "cancelled");
        if !may_follow && !bought.may_be_forgotten {
            self.violations.push(format!("P5: purchase {id} was {last}, then {status}"));
        }
        if status == "confirmed" && bought.cancelled_while_pending && !bought.may_be_forgotten {
            self.violations.push(format!("P5: purchase {id} was cancelled while pending, then confirmed"));
        }
        bought.seen.push(status.to_owned());
    }
}

/// Differences in central's ledger that tell of operations, by store, operation and product.
fn recorded(central: &Connection) -> rusqlite::Result<HashMap<(String, String, String), Vec<i64>>> {
    let mut statement = central.prepare(
        "select store_id, operation_id, product_id, delta from event \
         where product_id is not null and type not in ('low_stock', 'shortage') \
         union all select store_id, operation_id, event_item.product_id, event_item.delta \
         from event_item join event using (chain_seq)",
    )?;
    let mut rows = statement.query([])?;
    let mut recorded: HashMap<(String, String, String), Vec<i64>> = HashMap::new();
    while let Some(row) = rows.next()? {
        recorded.entry((row.get(0)?, row.get(1)?, row.get(2)?)).or_default().push(row.get(3)?);
    }
    Ok(recorded)
}

/// Judges a history against central's database and the stores' that are in service. Empty: every promise was kept.
pub fn judge(
    history: &History,
    central: &Connection,
    stores: &[(StoreId, &Connection)],
) -> rusqlite::Result<Vec<String>> {
    let mut found = history.violations.clone();
    found.extend(
        central::operators::verify::verify(central)?.differences.into_iter().map(|text| format!("P6: central: {text}")),
    );
    for (store, connection) in stores {
        let audit = store_agent::operators::verify::verify(connection)?;
        found.extend(audit.differences.into_iter().map(|text| format!("P6: {store}: {text}")));
        found.extend(compare(store, connection, central)?);
    }
    found.extend(compare_totals(central)?);
    found.extend(judge_operations(history, central, stores)?);
    found.extend(judge_purchases(history, central)?);
    Ok(found)
}

/// P6: the view is the store's stock, to the last member.
fn compare(store: &StoreId, connection: &Connection, central: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut found = Vec::new();
    let head = store_agent::ledger::head(connection)?;
    let Some(seen) = central::storage::stores::find(central, store)? else {
        return Ok(vec![format!("P6: central does not know {store}")]);
    };
    if seen.cursor != head.cursor {
        found.push(format!("P6: {store} is at {}, central has applied {}", head.cursor.id(), seen.cursor.id()));
    }
    if seen.digest != head.digest {
        found.push(format!("P6: {store}: digests differ"));
    }
    let open: i64 = central.query_row(
        "select (select count(*) from request where store_id = ?1 and status = 'pending') \
         + (select count(*) from purchase where store_id = ?1 and status = 'pending')",
        [store.as_str()],
        |row| row.get(0),
    )?;
    if open > 0 {
        found.push(format!("P5: {open} purchases or commands of {store} never ended"));
    }
    // What was ended without an answer because the store was retired, and took effect all the same.
    let mut executed = connection.prepare("select body from outcome")?;
    let mut told = central
        .prepare("select 1 from request where command_id = ?1 and type = 'operation' and status = 'refused' and position is null")?;
    let mut rows = executed.query([])?;
    while let Some(row) = rows.next()? {
        let Ok(outcome) = serde_json::from_str::<Outcome>(row.get_ref(0)?.as_str()?) else { continue };
        if !matches!(outcome.became, Became::Refused { .. }) && told.exists([outcome.command.as_str()])? {
            found.push(format!("P5: {} took effect at {store} and was told as refused", outcome.command));
        }
    }
    Ok(found)
}

/// P6: at rest the chain's totals are the sums over all stores but the retired ones.
fn compare_totals(central: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = central.prepare(
        "select product_id, product.quantity, coalesce(sum(item.quantity) filter (where store.stock is not null), 0) \
         from product left join item using (product_id) \
         left join store on store.stock = item.stock and store.retired = 0 \
         group by product_id having product.quantity <> coalesce(sum(item.quantity) filter \
         (where store.stock is not null), 0) and not exists (select 1 from store where steps = 1) \
         and not exists (select 1 from recount)",
    )?;
    let rows = statement.query_map([], |row| {
        let (product, total, sum): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("P6: the stores have {sum} units of {product}, the chain's total says {total}"))
    })?;
    rows.collect()
}

/// P2, P3, P4: what was answered is in central's ledger once, and each item is what its operations add up to.
fn judge_operations(
    history: &History,
    central: &Connection,
    stores: &[(StoreId, &Connection)],
) -> rusqlite::Result<Vec<String>> {
    let mut found = Vec::new();
    let recorded = recorded(central)?;
    let mut sums: BTreeMap<(StoreId, ProductId), Option<i64>> = BTreeMap::new();
    for operation in &history.operations {
        let id = (operation.store.to_string(), operation.id.clone(), operation.product.to_string());
        let entries = recorded.get(&id).map_or(&[] as &[i64], Vec::as_slice);
        let certain = operation.told == Told::Done && !operation.may_be_lost;
        if entries.len() > 1 {
            found.push(format!("P3: operation {} stands {} times in central's ledger", operation.id, entries.len()));
        }
        if let (Told::Done, [delta]) = (operation.told, entries)
            && *delta != operation.delta
            // On an older copy an operation that was repeated may have been done once more, and left out by the restore.
            && !history.is_forked(&operation.store)
        {
            let answered = operation.delta;
            found.push(format!("P2: operation {} was answered as {answered:+}, recorded as {delta:+}", operation.id));
        }
        if entries.is_empty() && certain && !history.may_lack_entries(&operation.store) {
            found.push(format!("P2: operation {} was answered and is not in central's ledger", operation.id));
        }
        let sum = sums.entry((operation.store.clone(), operation.product.clone())).or_insert(Some(0));
        *sum = match (entries.first(), certain) {
            (Some(delta), _) => sum.map(|sum| sum + delta),
            (None, true) => sum.map(|sum| sum + operation.delta),
            // It may have come with an opening's state: then nothing can be said of the sum.
            (None, false) if history.may_lack_entries(&operation.store) => None,
            (None, false) => *sum,
        };
    }
    for ((store, product), sum) in sums {
        let Some((_, connection)) = stores.iter().find(|(id, _)| *id == store) else { continue };
        let taken =
            |sql: &str| central.query_row(sql, params![store.as_str(), product.as_str()], |row| row.get::<_, i64>(0));
        let sold = taken(
            "select coalesce(sum(coalesce(line.value ->> 'quantity', quantity)), 0) \
             from purchase left join json_each(purchase.lines) as line on true \
             where store_id = ?1 and coalesce(line.value ->> 'productId', product_id) = ?2 and status = 'confirmed'",
        )?;
        let short = taken(
            "select coalesce(sum(delta), 0) from event where store_id = ?1 and product_id = ?2 and type = 'shortage'",
        )?;
        if short != 0 && !history.is_forked(&store) {
            found.push(format!("P4: {store} ran {short} units of {product} short"));
        }
        let units = store_agent::ledger::find_item(connection, &product)?.map_or(0, |item| item.quantity);
        if let (Some(sum), false) = (sum, history.chosen.contains(&store))
            && units != sum - sold + short
        {
            found.push(format!(
                "P4: {store} has {units} units of {product}; its operations make {sum}, {sold} were sold online, \
                 {short} were short"
            ));
        }
    }
    Ok(found)
}

/// P5: each purchase that was answered ended once, and legally.
fn judge_purchases(history: &History, central: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut history = history.clone();
    let known_violations = history.violations.len();
    let mut statement = central.prepare("select status from purchase where purchase_id = ?1")?;
    let ids: Vec<String> = history.purchases.keys().cloned().collect();
    let mut found = Vec::new();
    for id in ids {
        let mut rows = statement.query([&id])?;
        let status: Option<String> = rows.next()?.map(|row| row.get(0)).transpose()?;
        let bought = &history.purchases[&id];
        match status {
            Some(status) => history.saw(&id, &status),
            None if bought.told == Told::Done && !bought.may_be_forgotten => {
                found.push(format!("P2: purchase {id} was answered and central does not know it"));
            }
            None => {}
        }
    }
    found.extend(history.violations.drain(known_violations..));
    Ok(found)
}
