//! A database that refuses rows: while a refusal stands, no row of one product is saved, be the entry that would save it as
//! sound as any other. Who asked is to park that entry, and nothing else (P7).

use rusqlite::Connection;

/// What is refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    product: String,
    row: Row,
}

#[derive(Debug, Clone, Copy)]
enum Row {
    Item,
    Answer,
    Hold,
    Taking,
}

impl Refusal {
    /// Central cannot save an item of this product.
    pub(super) fn of_item(product: &str) -> Self {
        Self { product: product.to_owned(), row: Row::Item }
    }

    /// Central cannot save what became of a purchase of this product. No digest shows that it is missing.
    pub(super) fn of_answer(product: &str) -> Self {
        Self { product: product.to_owned(), row: Row::Answer }
    }

    /// Central cannot save a reservation that holds units of this product.
    pub(super) fn of_hold(product: &str) -> Self {
        Self { product: product.to_owned(), row: Row::Hold }
    }

    /// A store cannot take units of this product. It can give them back: the refusal of a cancel that a buyer was promised
    /// would break that promise, and no simulation makes it good.
    pub(super) fn of_taking(product: &str) -> Self {
        Self { product: product.to_owned(), row: Row::Taking }
    }

    /// The product whose rows are refused.
    pub(super) fn product(&self) -> &str {
        &self.product
    }

    /// Runs a job while it stands. Says how many entries were parked because of it.
    pub(super) fn during<T>(&self, file: &Connection, job: impl FnOnce() -> T) -> (T, u64) {
        let product = format!("new.product_id = '{}'", self.product);
        let (events, condition): (&[_], _) = match self.row {
            Row::Item => (&["insert on main.item", "update on main.item"], product),
            Row::Answer => (&["update on main.purchase"], product),
            Row::Hold => (&["insert on main.reservation"], format!("new.lines like '%\"{}\"%'", self.product)),
            Row::Taking => (&["update on main.item"], format!("{product} and new.quantity < old.quantity")),
        };
        let parked = || -> u64 {
            let count = "select count(*) from dead_letter where reason like 'it cannot be %'";
            file.query_row(count, [], |row| row.get(0)).expect("dead letters can be counted")
        };
        let before = parked();
        for (number, event) in events.iter().enumerate() {
            let create = format!(
                "create temp trigger refusal_{number} before {event} when {condition} \
                 begin select raise(abort, 'refused'); end"
            );
            file.execute_batch(&create).expect("a trigger is created");
        }
        let done = job();
        for number in 0..events.len() {
            file.execute_batch(&format!("drop trigger temp.refusal_{number}")).expect("a trigger is dropped");
        }
        (done, parked() - before)
    }
}
