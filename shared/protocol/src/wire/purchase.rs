//! An attempt of a purchase as it travels.
//!
//! One line without anything further is written as it has been since version 0.1.0, which reads nothing else: what it cannot
//! read it refuses as a whole (L11), and executes no part of it.

use serde::{Deserialize, Serialize};

use super::NotUnderstood;
use crate::domain::{Line, Lines, Quantity};
use crate::ids::{OperationId, ProductId, PurchaseId};
use crate::time::Millis;

/// One attempt of an online purchase at one store: all that is needed to settle it, or to make it known again to a
/// central that has forgotten it (rule B3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Body", into = "Body")]
pub struct PurchaseRef {
    /// The purchase.
    pub purchase_id: PurchaseId,
    /// The command that carries this attempt.
    pub attempt: OperationId,
    /// What is bought, all of it or nothing.
    pub lines: Lines,
    /// Of these, so many units are to come out of what is set aside for online sale.
    pub from_allotment: Option<Lines>,
    /// The shop's order number.
    pub reference: Option<String>,
    /// By central's clock.
    pub created_at: Millis,
    /// By central's clock.
    pub expires_at: Millis,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    purchase_id: PurchaseId,
    attempt: OperationId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    product_id: Option<ProductId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantity: Option<Quantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<BodyLine>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_allotment: Option<Lines>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    created_at: Millis,
    expires_at: Millis,
}

/// A member that is not known would change what is asked for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BodyLine {
    product_id: ProductId,
    quantity: Quantity,
}

impl PurchaseRef {
    /// So many units of a product are to come out of what is set aside.
    pub fn from_allotment(&self, product: &ProductId) -> i64 {
        self.from_allotment.as_ref().map_or(0, |lines| lines.quantity_of(product))
    }
}

impl From<PurchaseRef> for Body {
    fn from(purchase: PurchaseRef) -> Self {
        let PurchaseRef { purchase_id, attempt, lines, from_allotment, reference, created_at, expires_at } = purchase;
        let (product_id, quantity, lines) = match lines.only() {
            Some(Line { product_id, quantity }) => (Some(product_id.clone()), Some(*quantity), None),
            None => {
                let line = |Line { product_id, quantity }| BodyLine { product_id, quantity };
                (None, None, Some(Vec::from(lines).into_iter().map(line).collect()))
            }
        };
        Self { purchase_id, attempt, product_id, quantity, lines, from_allotment, reference, created_at, expires_at }
    }
}

impl TryFrom<Body> for PurchaseRef {
    type Error = NotUnderstood;

    fn try_from(body: Body) -> Result<Self, NotUnderstood> {
        let Body {
            purchase_id,
            attempt,
            product_id,
            quantity,
            lines,
            from_allotment,
            reference,
            created_at,
            expires_at,
        } = body;
        let lines = match (product_id, quantity, lines) {
            (Some(product_id), Some(quantity), None) => Lines::one(product_id, quantity),
            (None, None, Some(lines)) => {
                let line = |BodyLine { product_id, quantity }| Line { product_id, quantity };
                Lines::new(lines.into_iter().map(line)).map_err(|error| NotUnderstood(format!("lines {error}")))?
            }
            _ => return Err(NotUnderstood("a purchase of nothing, or in two forms at once".into())),
        };
        let is_beyond = |taken: &Line| taken.quantity.get() > lines.quantity_of(&taken.product_id);
        if from_allotment.iter().flat_map(Lines::iter).any(is_beyond) {
            return Err(NotUnderstood("more out of the allotment than is bought".into()));
        }
        Ok(Self { purchase_id, attempt, lines, from_allotment, reference, created_at, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Result<PurchaseRef, serde_json::Error> {
        let (head, tail) = (
            r#"{"purchaseId":"00000000-0000-0000-0000-000000000007","attempt":"a:1","#,
            r#","createdAt":"1970-01-01T00:00:00.005Z","expiresAt":"1970-01-01T00:00:00.005Z"}"#,
        );
        let text = format!("{head}{lines}{tail}");
        let purchase: PurchaseRef = serde_json::from_str(&text)?;
        assert_eq!(serde_json::to_string(&purchase).expect("serialises"), text);
        Ok(purchase)
    }

    #[test]
    fn one_line_is_written_as_ever_and_several_are_not() {
        let one = read(r#""productId":"tea","quantity":2"#).expect("is understood");
        assert_eq!(one.lines.only().map(|line| line.quantity.get()), Some(2));
        let lines = r#""lines":[{"productId":"ale","quantity":1},{"productId":"tea","quantity":2}]"#;
        let two = read(lines).expect("is understood");
        assert_eq!(two.lines.iter().map(|line| line.quantity.get()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn no_more_comes_out_of_the_allotment_than_is_bought() {
        let taken = |product: &str, units| {
            let allotment = format!(r#""fromAllotment":[{{"productId":"{product}","quantity":{units}}}]"#);
            read(&format!(r#""productId":"tea","quantity":2,{allotment}"#))
        };
        for units in [1, 2] {
            let bought = taken("tea", units).expect("is understood");
            let of = |product| bought.from_allotment(&ProductId::parse(product).expect("valid"));
            assert_eq!((of("tea"), of("ale")), (units, 0));
        }
        assert!(taken("tea", 3).is_err() && taken("ale", 1).is_err());
    }

    #[test]
    fn what_is_not_understood_in_full_is_not_understood() {
        for refused in [
            r#""productId":"tea""#,
            r#""quantity":2"#,
            r#""lines":[]"#,
            r#""productId":"tea","quantity":2,"lines":[{"productId":"tea","quantity":2}]"#,
            r#""lines":[{"productId":"tea","quantity":2,"fromElsewhere":1}]"#,
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
