//! A store's agent as the unit tests need it: it makes entries as the real one does, and hands them to the view.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::domain::reservation::{Reservation, State};
use protocol::domain::{Item, Lines, Quantity};
use protocol::hash::Digest;
use protocol::ids::{OperationId, ProductId, PurchaseId, ReservationId, StoreId};
use protocol::link::{Cursor, Entry, Epoch, Past};
use protocol::time::Millis;
use protocol::wire::{
    About, Event, Fact, Happened, ItemAfter, Named, Outcome, ReservationStep, SnapshotEnd, SnapshotPage,
};
use runtime::redis::Received;
use runtime::sqlite::newest::Newest;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::projection::steps;
use crate::projection::view::{self, Applied, Budget};
use crate::promises::purchases;
use crate::storage::Db;
use crate::storage::database;
use crate::storage::stores::{self, Store};
use crate::storage::totals;

/// Items or outcomes on a page of an agent's, at most.
const PAGE: usize = 200;

pub(crate) const NOW: Millis = Millis(1_800_000_000_000);

pub(crate) fn database() -> Connection {
    runtime::sqlite::memory(database::SCHEMA).expect("a database in memory")
}

pub(crate) fn product(name: &str) -> ProductId {
    ProductId::parse(name).expect("valid")
}

pub(crate) fn purchase_id(number: u128) -> PurchaseId {
    PurchaseId::new(uuid::Uuid::from_u128(number))
}

/// A unit of tea that is held, and the event that says so.
pub(crate) fn held() -> (Reservation, Event) {
    let held = Reservation {
        id: ReservationId::new(uuid::Uuid::from_u128(1)),
        lines: Lines::one(product("tea"), Quantity::ONE),
        expires_at: NOW.plus(60_000),
        created_at: NOW,
        reference: None,
        state: State::Open,
    };
    let what = Happened::Reservation { step: ReservationStep::Reserved, reservation: held.clone(), items: Vec::new() };
    (held, Event::Fact(Fact::new(what, NOW)))
}

pub(crate) struct Agent {
    pub(crate) id: StoreId,
    pub(crate) head: Cursor,
    stock: BTreeMap<ProductId, Item>,
    digest: Digest,
    /// Operations that its states name.
    pub(crate) operations: Vec<OperationId>,
    /// Since when its state names all of them.
    pub(crate) named_since: Option<Millis>,
}

impl Agent {
    pub(crate) fn new(id: &str) -> Self {
        let id = StoreId::parse(id).expect("valid");
        Self {
            id,
            head: Cursor::default(),
            stock: BTreeMap::new(),
            digest: Digest::default(),
            operations: Vec::new(),
            named_since: None,
        }
    }

    /// With ten units of tea, known to central and ready for commands.
    pub(crate) fn settled(id: &str, connection: &Connection) -> Self {
        let mut agent = Self::new(id);
        agent.stock.insert(product("tea"), Item { name: "Tea".into(), quantity: 10, version: 1, ..Item::default() });
        agent.sum_up();
        let opening = agent.open(7, &[]);
        agent.tell(connection, &opening);
        agent.get_ready(connection);
        agent
    }

    /// Has so many more products, a few units of each.
    pub(crate) fn stock_up(&mut self, products: usize) {
        for number in 0..products {
            let item = Item { name: "Thing".into(), quantity: 3 + number as i64 % 5, version: 1, ..Item::default() };
            self.stock.insert(product(&format!("p-{number:05}")), item);
        }
        self.sum_up();
    }

    /// No longer has a product.
    pub(crate) fn lose(&mut self, name: &str) {
        self.stock.remove(&product(name));
        self.sum_up();
    }

    fn sum_up(&mut self) {
        let add = |sum: Digest, (product, item): (&ProductId, &Item)| sum.replace(product, None, Some(item));
        self.digest = self.stock.iter().fold(Digest::default(), add);
    }

    /// Entries that open an epoch with the whole stock.
    pub(crate) fn open(&mut self, epoch: impl Into<Epoch>, lineage: &[Cursor]) -> Vec<Received> {
        self.head = Cursor { epoch: epoch.into(), ..Cursor::default() };
        let opened = Event::Opened { lineage: lineage.iter().copied().map(Past::ended).collect() };
        let opened = self.entry(&opened);
        [opened].into_iter().chain(self.state(Vec::new())).collect()
    }

    /// Entries that tell the whole state.
    pub(crate) fn state(&mut self, outcomes: Vec<Outcome>) -> Vec<Received> {
        let items: Vec<Named> = self
            .stock
            .iter()
            .map(|(product_id, item)| Named { product_id: product_id.clone(), item: item.clone() })
            .collect();
        let count = items.len() as u64;
        let items = items.chunks(PAGE).map(|items| SnapshotPage { items: items.to_vec(), ..SnapshotPage::default() });
        let outcomes =
            outcomes.chunks(PAGE).map(|page| SnapshotPage { outcomes: page.to_vec(), ..SnapshotPage::default() });
        let names: Vec<_> = self.operations.chunks(PAGE).map(<[_]>::to_vec).collect();
        let names = names.into_iter().map(|operations| SnapshotPage { operations, ..SnapshotPage::default() });
        let mut state: Vec<Event> = items.chain(outcomes).chain(names).map(Event::SnapshotPage).collect();
        state.push(Event::SnapshotEnd(SnapshotEnd { pages: state.len() as u64, count, named_since: self.named_since }));
        state.iter().map(|event| self.entry(event)).collect()
    }

    pub(crate) fn entry(&mut self, event: &Event) -> Received {
        let operation = format!("op-{}-{}", self.head.epoch, self.head.seq);
        let entry = Entry::follow(&self.head, event.kind(), &operation, event.encode(), Some(self.digest));
        self.head = entry.cursor();
        Ok(entry)
    }

    /// An item as the store has it.
    pub(crate) fn item(&self, product: &ProductId) -> Item {
        self.stock[product].clone()
    }

    /// An item becomes this.
    pub(crate) fn becomes(&mut self, product: ProductId, after: Item) -> ItemAfter {
        let before = self.stock.insert(product.clone(), after.clone());
        self.digest = self.digest.replace(&product, before.as_ref(), Some(&after));
        ItemAfter::new(product, before.as_ref(), after)
    }

    /// A unit of tea is taken.
    pub(crate) fn take_one(&mut self) -> ItemAfter {
        let tea = product("tea");
        let before = self.stock[&tea].clone();
        let after = Item { quantity: before.quantity - 1, version: before.version + 1, ..before.clone() };
        self.digest = self.digest.replace(&tea, Some(&before), Some(&after));
        self.stock.insert(tea.clone(), after.clone());
        ItemAfter::new(tea, Some(&before), after)
    }

    /// A till sells one.
    pub(crate) fn sale(&mut self) -> Received {
        let sold = Happened::Sold(self.take_one());
        self.entry(&Event::Fact(Fact::new(sold, NOW)))
    }

    /// What only a later version would record.
    pub(crate) fn unknown(&mut self) -> Received {
        let entry = Entry::follow(&self.head, "teleported", "op-unknown", "{}".into(), Some(self.digest));
        self.head = entry.cursor();
        Ok(entry)
    }

    /// Says that it is ready for central's present command epoch.
    pub(crate) fn get_ready(&mut self, connection: &Connection) {
        let command_epoch = self.store(connection).command_head.epoch;
        let ready = self.entry(&Event::Ready { command_epoch });
        self.tell(connection, &[ready]);
    }

    pub(crate) fn tell(&self, connection: &Connection, batch: &[Received]) -> Applied {
        let mut budget = Budget::new(u64::MAX);
        view::receive(connection, &self.id, batch, NOW, &mut budget).expect("can be applied")
    }

    /// Does all that is left to be done in steps.
    pub(crate) fn settle_in(&self, connection: &Connection) {
        while self.store(connection).steps {
            steps::step(connection, &self.id, steps::ROWS, NOW).expect("can be done");
        }
        while totals::recount_step(connection, steps::ROWS).expect("can be done") {}
    }

    /// Central has received all up to there at this time.
    pub(crate) fn was_heard(&self, connection: &Connection, upto: Cursor, at: Millis) {
        let sql = "update event set received_at = ?1 where store_id = ?2 and (epoch, seq) <= (?3, ?4)";
        let params = rusqlite::params![at.0, self.id.as_str(), upto.epoch.get(), upto.seq.get()];
        connection.execute(sql, params).expect("writes");
    }

    /// A row of the view changes by itself.
    pub(crate) fn damage(&self, connection: &Connection, product: &str) {
        let sql = "update item set quantity = quantity + 1 where store_id = ?1 and product_id = ?2";
        connection.execute(sql, [self.id.as_str(), product]).expect("writes");
    }

    pub(crate) fn store(&self, connection: &Connection) -> Store {
        stores::find(connection, &self.id).expect("can be read").expect("is known")
    }

    /// Begins a purchase of one unit of tea.
    pub(crate) fn buy(&self, connection: &Connection, number: u128) -> OperationId {
        self.buy_some(connection, number, 1)
    }

    /// Begins a purchase of some tea.
    pub(crate) fn buy_some(&self, connection: &Connection, number: u128, quantity: i64) -> OperationId {
        let mut store = self.store(connection);
        let ask = purchases::PurchaseRequest {
            id: purchase_id(number),
            lines: Lines::one(product("tea"), Quantity::try_from(quantity).expect("in range")),
            customer: None,
            about: About::default(),
            ttl_ms: 60_000,
            redis_now: NOW,
            policy: None,
        };
        purchases::begin(connection, &mut store, &ask, false, NOW).expect("begins");
        OperationId::attempt(&ask.id, 1)
    }
}

/// Keeps all places for scans of a database for as long as it lives.
pub(crate) struct Busy(Arc<AtomicBool>);

impl Busy {
    pub(crate) async fn all_scans_of(db: &Db) -> Self {
        let busy = Arc::new(AtomicBool::new(true));
        loop {
            let (db, held, (told, mut taken)) = (db.clone(), busy.clone(), mpsc::channel(1));
            let job = move |_: &Connection| {
                told.blocking_send(()).expect("is waited for");
                while held.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            };
            tokio::spawn(async move { db.scan_within(Duration::ZERO, job).await });
            if taken.recv().await.is_none() {
                // There was no place for it.
                return Self(busy);
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// The ways that SQLite goes to find a list's rows, of all rows and of a page behind others alike: the table, and up to
/// where its index compares with a value. No list is sorted.
pub(crate) fn ways(connection: &Connection, list: &Newest) -> Vec<String> {
    let [all, behind] = [false, true].map(|is_behind| plan(connection, &list.sql(is_behind)));
    let of = |plan: &str| -> Vec<String> {
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        let steps = plan.lines().filter_map(|step| step.strip_prefix("SEARCH ").or(step.strip_prefix("SCAN ")));
        let steps = steps.filter(|step| !step.starts_with("json_each ") && !step.starts_with("store "));
        let way = |step: &str| match step.split_once("=?") {
            Some((way, _)) => format!("{way}=?"),
            None => step.replace(" USING INTEGER PRIMARY KEY", "").split(" (").take(1).collect(),
        };
        steps.map(way).collect()
    };
    assert_eq!(of(&all), of(&behind));
    of(&all)
}

/// All choices of some out of these.
pub(crate) fn all_of<const N: usize>(texts: [&str; N]) -> impl Iterator<Item = [Option<String>; N]> {
    (0..1 << N).map(move |choice| std::array::from_fn(|at| (choice >> at & 1 == 1).then(|| texts[at].to_owned())))
}

/// How SQLite would answer a query, one line a step.
pub(crate) fn plan(connection: &Connection, sql: &str) -> String {
    let mut statement = connection.prepare(&format!("explain query plan {sql}")).expect("is valid");
    let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
    let steps = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get::<_, String>(3)).expect("runs");
    steps.collect::<rusqlite::Result<Vec<_>>>().expect("reads").join("\n")
}
