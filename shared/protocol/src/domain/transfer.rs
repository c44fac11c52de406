//! A transfer: units of several products that go from one store to another.
//!
//! **Guarantees.** All of its lines leave the source, or none. It is on its way, then received once, by the destination: all
//! of it, or a part, which closes it as well. Never more arrives than has left.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, Item, Line, Lines, Rejection, TOTAL_MAX, insufficient};
use crate::ids::{ProductId, StoreId, TransferId};
use crate::planted::{Bug, planted};
use crate::time::Millis;

/// Units that go from one store to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// The same at both stores and at central.
    pub id: TransferId,
    /// The source.
    pub from: StoreId,
    /// The destination.
    pub to: StoreId,
    /// What leaves the source.
    pub lines: Lines,
    /// What the source calls its products: the name of one that is new to the destination.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<ProductId, String>,
    /// It is received as a whole as soon as the destination hears of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_receive: bool,
    /// The order that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// By central's clock.
    pub created_at: Millis,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: State,
}

/// Where a transfer is in its life, as its stores know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum State {
    /// Its units have left the source.
    Shipped,
    /// These have arrived; what is missing is a discrepancy.
    Received {
        /// All of its lines, or a part.
        received_lines: Lines,
    },
}

impl State {
    /// Stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Received { .. } => "received",
        }
    }
}

/// What becomes of a transfer, and of the items of one of its stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The transfer after it.
    pub after: Transfer,
    /// Each product once, in the order of product ids.
    pub changes: Vec<(ProductId, Change)>,
}

impl Transfer {
    /// Whether its units can leave the source now, and what that changes. A product that is no longer carried may go where
    /// it is.
    pub fn ship<'a>(&self, item: impl Fn(&ProductId) -> Option<&'a Item>) -> Result<Decided, Rejection> {
        let mut names = BTreeMap::new();
        let one = |line: &Line| {
            let item = item(&line.product_id).ok_or(Rejection::UnknownProduct)?;
            if line.quantity.get() > item.available() {
                return Err(insufficient(item, line.quantity.get()));
            }
            names.insert(line.product_id.clone(), item.name.clone());
            Ok((line.product_id.clone(), Change::Moved(-line.quantity.get())))
        };
        let mut changes = self.lines.each(one)?;
        if planted(Bug::ShippedInPart) {
            changes.truncate(1);
        }
        Ok(Decided { after: Self { names, state: State::Shipped, ..self.clone() }, changes })
    }

    /// Whether these units, or all that was shipped, can be received now, and what that changes. They are in the house:
    /// that a product is no longer carried, or new here, does not keep them out.
    pub fn receive<'a>(
        &self,
        lines: Option<&Lines>,
        item: impl Fn(&ProductId) -> Option<&'a Item>,
    ) -> Result<Decided, Rejection> {
        if self.state != State::Shipped && !planted(Bug::ReceivedTwice) {
            return Err(Rejection::TransferClosed { state: self.state.as_str().to_owned() });
        }
        let received_lines = lines.unwrap_or(&self.lines).clone();
        let one = |line: &Line| {
            let shipped = self.lines.quantity_of(&line.product_id);
            if line.quantity.get() > shipped && (shipped == 0 || !planted(Bug::MoreReceivedThanShipped)) {
                return Err(Rejection::BeyondTransfer { product_id: line.product_id.clone(), shipped });
            }
            let quantity = line.quantity.get();
            let change = match item(&line.product_id) {
                Some(item) if item.quantity + quantity > TOTAL_MAX => {
                    return Err(Rejection::LimitExceeded { product_id: None });
                }
                Some(_) => Change::Moved(quantity),
                None => Change::Created { name: self.name_of(&line.product_id), quantity, low_at: None },
            };
            Ok((line.product_id.clone(), change))
        };
        let changes = received_lines.iter().map(one).collect::<Result<_, _>>()?;
        Ok(Decided { after: Self { state: State::Received { received_lines }, ..self.clone() }, changes })
    }

    /// What the source calls a product.
    pub fn name_of(&self, product: &ProductId) -> String {
        self.names.get(product).cloned().unwrap_or_else(|| product.to_string())
    }

    /// Units of a product that have arrived, if any may have.
    pub fn received(&self, product: &ProductId) -> Option<i64> {
        match &self.state {
            State::Shipped => None,
            State::Received { received_lines } => Some(received_lines.quantity_of(product)),
        }
    }

    /// Whether it was closed with less than was shipped.
    pub fn has_discrepancy(&self) -> bool {
        matches!(&self.state, State::Received { received_lines } if *received_lines != self.lines)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Quantity, apply};

    const NOW: Millis = Millis(1_000);

    type Stock = BTreeMap<ProductId, Item>;

    fn product(name: &str) -> ProductId {
        ProductId::parse(name).expect("valid")
    }

    fn lines(of: &[(&str, i64)]) -> Lines {
        Lines::new(of.iter().map(|(name, quantity)| Line {
            product_id: product(name),
            quantity: Quantity::try_from(*quantity).expect("in range"),
        }))
        .expect("are lines")
    }

    fn stock(of: &[(&str, i64)]) -> Stock {
        let item = |name: &str, quantity| Item { name: name.to_uppercase(), quantity, version: 1, ..Item::default() };
        of.iter().map(|(name, quantity)| (product(name), item(name, *quantity))).collect()
    }

    fn transfer(of: &[(&str, i64)]) -> Transfer {
        Transfer {
            id: TransferId::new(uuid::Uuid::from_u128(1)),
            from: StoreId::parse("s1").expect("valid"),
            to: StoreId::parse("s2").expect("valid"),
            lines: lines(of),
            names: BTreeMap::new(),
            auto_receive: false,
            reference: None,
            created_at: NOW,
            state: State::Shipped,
        }
    }

    fn happen(stock: &mut Stock, decided: Decided) -> Transfer {
        for (product, change) in decided.changes {
            let after = apply(stock.get(&product), &change, NOW);
            stock.insert(product, after);
        }
        decided.after
    }

    fn shipped(stock: &mut Stock, of: &[(&str, i64)]) -> Result<Transfer, Rejection> {
        let decided = transfer(of).ship(|product| stock.get(product))?;
        Ok(happen(stock, decided))
    }

    fn received(stock: &mut Stock, transfer: &Transfer, of: Option<&[(&str, i64)]>) -> Result<Transfer, Rejection> {
        let decided = transfer.receive(of.map(lines).as_ref(), |product| stock.get(product))?;
        Ok(happen(stock, decided))
    }

    fn units(stock: &Stock, name: &str) -> i64 {
        stock.get(&product(name)).map_or(0, |item| item.quantity)
    }

    #[test]
    fn all_lines_leave_or_none() {
        let mut source = stock(&[("ale", 5), ("tea", 2)]);
        let refused = shipped(&mut source, &[("ale", 1), ("tea", 3)]);
        assert!(matches!(refused, Err(Rejection::InsufficientStock { requested: 3, available: 2, .. })));
        assert_eq!(shipped(&mut source, &[("bun", 1)]), Err(Rejection::UnknownProduct));
        source.get_mut(&product("ale")).expect("an ale").reserved = 2;
        assert!(shipped(&mut source, &[("ale", 4)]).is_err(), "what is held stays");
        shipped(&mut source, &[("ale", 3), ("tea", 2)]).expect("there are enough");
        assert_eq!((units(&source, "ale"), units(&source, "tea")), (2, 0));
    }

    #[test]
    fn what_is_new_to_the_destination_has_the_name_that_the_source_gave_it() {
        let (mut source, mut there) = (stock(&[("ale", 5), ("tea", 2)]), stock(&[("ale", 1)]));
        there.get_mut(&product("ale")).expect("an ale").discontinued = true;
        let sent = shipped(&mut source, &[("ale", 2), ("tea", 1)]).expect("there are enough");
        let closed = received(&mut there, &sent, None).expect("is on its way");
        assert_eq!((units(&there, "ale"), units(&there, "tea")), (3, 1));
        assert_eq!((there[&product("tea")].name.as_str(), there[&product("tea")].version), ("TEA", 1));
        assert!(!closed.has_discrepancy());
        let again = received(&mut there, &closed, None);
        assert_eq!(again, Err(Rejection::TransferClosed { state: "received".into() }));
    }

    #[test]
    fn a_part_closes_it_and_more_than_was_shipped_does_not() {
        let (mut source, mut there) = (stock(&[("ale", 5), ("tea", 2)]), stock(&[]));
        let sent = shipped(&mut source, &[("ale", 4), ("tea", 2)]).expect("there are enough");
        for beyond in [[("ale", 5)], [("bun", 1)]] {
            let refused = received(&mut there, &sent, Some(&beyond));
            assert!(matches!(refused, Err(Rejection::BeyondTransfer { .. })), "{refused:?}");
        }
        let closed = received(&mut there, &sent, Some(&[("ale", 3)])).expect("is on its way");
        assert_eq!((units(&there, "ale"), units(&there, "tea")), (3, 0));
        assert!(closed.has_discrepancy());
        let arrived = ["ale", "tea"].map(|name| (sent.received(&product(name)), closed.received(&product(name))));
        assert_eq!(arrived, [(None, Some(3)), (None, Some(0))]);
        let text = serde_json::to_string(&closed).expect("serialises");
        assert_eq!(serde_json::from_str::<Transfer>(&text).expect("reads"), closed, "{text}");
    }

    #[test]
    fn no_total_goes_beyond_its_limit() {
        let mut there = stock(&[("ale", TOTAL_MAX - 1)]);
        assert_eq!(
            received(&mut there, &transfer(&[("ale", 2)]), None),
            Err(Rejection::LimitExceeded { product_id: None })
        );
    }

    proptest! {
        /// However transfers are shipped and received, units are in one of both stores, on their way, or missed for good.
        #[test]
        fn units_are_in_one_place(steps in prop::collection::vec((any::<bool>(), 0..6_usize, 1..5_i64, 1..5_i64), 1..60)) {
            let (mut source, mut there) = (stock(&[("ale", 30), ("tea", 20)]), stock(&[]));
            let mut all: Vec<Transfer> = Vec::new();
            let mut missed = 0;
            for (ships, which, ale, tea) in steps {
                if ships {
                    all.extend(shipped(&mut source, &[("ale", ale), ("tea", tea)]).ok());
                } else if let Some(transfer) = all.get_mut(which)
                    && let Ok(after) = received(&mut there, transfer, Some(&[("ale", ale)]))
                {
                    missed += transfer.lines.quantity_of(&product("ale")) - ale;
                    *transfer = after;
                }
                let way = all.iter().filter(|transfer| transfer.state == State::Shipped);
                let on_its_way: i64 = way.map(|transfer| transfer.lines.quantity_of(&product("ale"))).sum();
                prop_assert_eq!(units(&source, "ale") + units(&there, "ale") + on_its_way + missed, 30);
                prop_assert!(missed >= 0);
            }
        }
    }
}
