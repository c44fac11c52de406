//! What is asked for together: so many units of each of several products, all or none.

use serde::{Deserialize, Serialize};

use super::{Quantity, Rejection, ShortLine};
use crate::ids::ProductId;

/// Lines of one request, at most: all of them, with the items after it, are one entry of the link.
pub const LINES_MAX: usize = 200;

/// So many units of a product.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Which.
    pub product_id: ProductId,
    /// Units.
    pub quantity: Quantity,
}

/// One to [`LINES_MAX`] lines, each product once, in the order of product ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Line>", into = "Vec<Line>")]
pub struct Lines(Vec<Line>);

/// Why these are no lines of one request, as what they have to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLines {
    /// None at all.
    #[error("must have at least one line")]
    None,
    /// Too many.
    #[error("must be about {LINES_MAX} products at most")]
    TooMany,
    /// The quantities of a product's lines add up to more than a [`Quantity`] can be.
    #[error("must ask for 1,000,000 units of {0} at most, all of its lines together")]
    Quantity(ProductId),
}

impl Lines {
    /// Adds up lines of the same product.
    pub fn new(lines: impl IntoIterator<Item = Line>) -> Result<Self, InvalidLines> {
        let mut lines: Vec<Line> = lines.into_iter().collect();
        lines.sort();
        let mut summed: Vec<Line> = Vec::with_capacity(lines.len());
        for line in lines {
            match summed.last_mut().filter(|last| last.product_id == line.product_id) {
                Some(last) => {
                    let sum = last.quantity.plus(line.quantity);
                    last.quantity = sum.ok_or(InvalidLines::Quantity(line.product_id))?;
                }
                None => summed.push(line),
            }
        }
        match summed.len() {
            0 => Err(InvalidLines::None),
            1..=LINES_MAX => Ok(Self(summed)),
            _ => Err(InvalidLines::TooMany),
        }
    }

    /// One line.
    pub fn one(product_id: ProductId, quantity: Quantity) -> Self {
        Self(vec![Line { product_id, quantity }])
    }

    /// In the order of product ids.
    pub fn iter(&self) -> std::slice::Iter<'_, Line> {
        self.0.iter()
    }

    /// The line, if it is the only one.
    pub fn only(&self) -> Option<&Line> {
        if let [line] = &self.0[..] { Some(line) } else { None }
    }

    /// The line that stands first; there always is one.
    pub fn first(&self) -> &Line {
        &self.0[0]
    }

    /// What each line comes to, or why not all of them can be had. A product that is not known goes before whatever else is
    /// refused, and that before what is short: of several lines each of these is named.
    pub fn each<T>(&self, mut one: impl FnMut(&Line) -> Result<T, Rejection>) -> Result<Vec<T>, Rejection> {
        let (mut done, mut first, mut short) = (Vec::with_capacity(self.0.len()), None, Vec::new());
        let mut refused = None;
        for line in &self.0 {
            match one(line) {
                Ok(one) => done.push(one),
                Err(Rejection::InsufficientStock { requested, quantity, reserved, allotted, available, .. }) => {
                    let product_id = line.product_id.clone();
                    short.push(ShortLine { product_id, requested, quantity, reserved, allotted, available });
                    first = first.or(Some((requested, quantity, reserved, allotted, available)));
                }
                Err(Rejection::UnknownProduct) => return Err(Rejection::UnknownProduct),
                Err(other) => refused = refused.or(Some(other)),
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let Some((requested, quantity, reserved, allotted, available)) = first else { return Ok(done) };
        let lines = if self.only().is_some() { Vec::new() } else { short };
        Err(Rejection::InsufficientStock { requested, quantity, reserved, allotted, available, lines })
    }

    /// Units of a product, 0 if it has no line.
    pub fn quantity_of(&self, product: &ProductId) -> i64 {
        let found = self.0.binary_search_by(|line| line.product_id.cmp(product));
        found.map_or(0, |at| self.0[at].quantity.get())
    }
}

impl TryFrom<Vec<Line>> for Lines {
    type Error = InvalidLines;
    fn try_from(lines: Vec<Line>) -> Result<Self, InvalidLines> {
        Self::new(lines)
    }
}

impl From<Lines> for Vec<Line> {
    fn from(lines: Lines) -> Self {
        lines.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Item, QUANTITY_MAX};

    fn lines(lines: &[(&str, i64)]) -> Result<Lines, InvalidLines> {
        let line = |(product, quantity): &(&str, i64)| Line {
            product_id: ProductId::parse(product).expect("valid"),
            quantity: Quantity::try_from(*quantity).expect("in range"),
        };
        Lines::new(lines.iter().map(line))
    }

    #[test]
    fn lines_of_a_product_are_added_up() {
        let given = lines(&[("tea", 2), ("ale", 1), ("tea", 3)]).expect("are lines");
        assert_eq!(given, lines(&[("ale", 1), ("tea", 5)]).expect("are lines"));
        let of = |product: &str| given.quantity_of(&ProductId::parse(product).expect("valid"));
        assert_eq!((of("ale"), of("tea"), of("bun")), (1, 5, 0));
    }

    #[test]
    fn of_several_lines_each_that_is_short_is_named() {
        let there_are = |units: i64| {
            move |line: &Line| {
                let item = Item { quantity: units, ..Item::default() };
                let requested = line.quantity.get();
                if requested <= units { Ok(requested) } else { Err(Rejection::insufficient(&item, requested, units)) }
            }
        };
        let given = lines(&[("ale", 1), ("bun", 4), ("tea", 5)]).expect("are lines");
        assert_eq!(given.each(there_are(5)), Ok(vec![1, 4, 5]));
        let Err(Rejection::InsufficientStock { requested: 4, available: 3, lines: short, .. }) =
            given.each(there_are(3))
        else {
            panic!("two are short")
        };
        let short: Vec<(&str, i64)> = short.iter().map(|line| (line.product_id.as_str(), line.requested)).collect();
        assert_eq!(short, [("bun", 4), ("tea", 5)]);
        let alone = lines(&[("tea", 5)]).expect("are lines").each(there_are(3));
        assert!(matches!(alone, Err(Rejection::InsufficientStock { lines, .. }) if lines.is_empty()));
        let unknown = given.each(|line| if line.quantity.get() == 5 { Err(Rejection::UnknownProduct) } else { Ok(()) });
        assert_eq!(unknown, Err(Rejection::UnknownProduct));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let tea = ProductId::parse("tea").expect("valid");
        assert_eq!(lines(&[]), Err(InvalidLines::None));
        assert_eq!(lines(&[("tea", QUANTITY_MAX), ("tea", 1)]), Err(InvalidLines::Quantity(tea)));
        let many: Vec<(String, i64)> = (0..=LINES_MAX).map(|number| (format!("p{number}"), 1)).collect();
        let many: Vec<(&str, i64)> = many.iter().map(|(product, quantity)| (product.as_str(), *quantity)).collect();
        assert_eq!(lines(&many), Err(InvalidLines::TooMany));
        assert!(lines(&many[1..]).is_ok());
    }
}
