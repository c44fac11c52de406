//! Bodies of requests about an item, which both servers read alike: a store's agent carries them out, central sends them
//! to the store as commands.

use std::borrow::Cow;

use protocol::domain::reservation::Act;
use protocol::domain::{Line, Lines, LowAt, Operation, Reason};
use protocol::ids::{ProductId, StoreId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{BATCH_MAX, BatchLine, Position};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::openapi::schema::{self, json_of};
use super::strict::meaning;
use super::words::grouped;
use super::{Bounded, CountQuantity, Delta, Name, Problem, Quantity, Result, Text, Threshold};

/// Receipt, order or delivery note.
pub type Reference = Text<0, 100>;

/// What a request asks of an item.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The operation.
    pub operation: Operation,
    /// The version that the item must have.
    pub expected_version: Option<i64>,
    /// Receipt, order or delivery note.
    pub reference: Option<String>,
}

fn asked(operation: Operation, expected_version: Option<i64>, reference: Option<Reference>) -> Asked {
    Asked { operation, expected_version, reference: reference.map(|text| text.0) }
}

/// A new item.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CreateItem, example = json!({"productId": "coffee", "name": "Coffee, 500 g", "quantity": 24, "lowAt": 6}))]
pub struct Create {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    /// The id, if it is left out.
    name: Option<Name>,
    /// What is on the shelf: 0, if it is left out.
    quantity: Option<CountQuantity>,
    /// At so many available units the item is low.
    low_at: Option<Threshold>,
    reference: Option<Reference>,
}

impl Create {
    /// The product, and what is asked.
    pub fn asked(self) -> (ProductId, Asked) {
        let operation = Operation::Create {
            name: self.name.map_or_else(|| self.product_id.to_string(), |name| name.0),
            quantity: self.quantity.map_or(0, |quantity| quantity.0),
            low_at: self.low_at.map(|at| at.0),
        };
        (self.product_id, asked(operation, None, self.reference))
    }
}

/// What was counted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CountItem, example = json!({"quantity": 23, "reference": "stocktaking 2026-01"}))]
pub struct Count {
    /// Units that were counted, without those that wait to be picked.
    quantity: CountQuantity,
    /// Where the ledger stood when the shelf was counted: what was sold since is taken off.
    #[schema(value_type = Option<schema::Position>)]
    counted_at: Option<Position>,
    #[schema(value_type = Option<schema::Version>)]
    expected_version: Option<i64>,
    /// The stocktaking that it is a part of.
    count_ref: Option<Text<0, 100>>,
    reference: Option<Reference>,
}

impl Count {
    /// What is asked.
    pub fn asked(self) -> Asked {
        let operation = Operation::Count {
            quantity: self.quantity.0,
            counted_at: self.counted_at,
            count_ref: self.count_ref.map(|text| text.0),
        };
        asked(operation, self.expected_version, self.reference)
    }
}

/// Units to be set aside for online sale.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = AllotItem, example = json!({"quantity": 5, "reference": "web shop"}))]
pub struct Allot {
    /// How many it shall be in all.
    quantity: CountQuantity,
    #[schema(value_type = Option<schema::Version>)]
    expected_version: Option<i64>,
    reference: Option<Reference>,
}

impl Allot {
    /// What is asked.
    pub fn asked(self) -> Asked {
        asked(Operation::Allot { quantity: self.quantity.0 }, self.expected_version, self.reference)
    }
}

/// Other members of an item, as a merge patch (RFC 7396): `null` takes a member away, which not every one can be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ChangeItem, example = json!({"name": "Coffee, 500 g", "lowAt": 6}))]
pub struct Change {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<Name>,
    /// No longer carried: tills sell what is left, nothing else.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    discontinued: Option<bool>,
    /// At so many available units the item is low; `null`: never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Threshold>)]
    low_at: Option<Option<Threshold>>,
    #[schema(value_type = Option<schema::Version>)]
    expected_version: Option<i64>,
    reference: Option<Reference>,
}

/// A member that is there, be it `null`.
fn present<'de, T, D>(deserializer: D) -> std::result::Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl Change {
    /// What is asked; nothing is no change.
    pub fn asked(self) -> Result<Asked> {
        if self.name.is_none() && self.discontinued.is_none() && self.low_at.is_none() {
            return Err(Problem::invalid("", "One of name, discontinued and lowAt is needed"));
        }
        let operation = Operation::Change {
            name: self.name.map(|name| name.0),
            discontinued: self.discontinued,
            low_at: self.low_at.map(|at| LowAt::from(at.map(|at| at.0))),
        };
        Ok(asked(operation, self.expected_version, self.reference))
    }
}

/// A delivery.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ReceiveItem, example = json!({"quantity": 48, "reference": "delivery note 4711"}))]
pub struct Receive {
    quantity: Quantity,
    reference: Option<Reference>,
}

impl Receive {
    /// What is asked.
    pub fn asked(self) -> Asked {
        asked(Operation::Receive { quantity: self.quantity.0 }, None, self.reference)
    }
}

/// A correction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = AdjustItem, example = json!({"delta": -2, "reason": "damage", "note": "fell off the shelf"}))]
pub struct Adjust {
    /// By so many units more, or fewer.
    delta: Delta,
    #[schema(value_type = schema::Reason)]
    reason: Reason,
    note: Option<Text<0, 100>>,
    reference: Option<Reference>,
}

impl Adjust {
    /// What is asked.
    pub fn asked(self) -> Asked {
        let note = self.note.map(|text| text.0);
        asked(Operation::Adjust { delta: self.delta.0, reason: self.reason, note }, None, self.reference)
    }
}

/// A sale at the till.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = SellItem, example = json!({"quantity": 1, "reference": "receipt 20260131-017"}))]
pub struct Sell {
    quantity: Quantity,
    /// When it was, if the till says it later.
    #[schema(value_type = Option<schema::Time>)]
    occurred_at: Option<Millis>,
    #[schema(value_type = Option<schema::Version>)]
    expected_version: Option<i64>,
    reference: Option<Reference>,
}

impl Sell {
    /// What is asked, and when it happened if the till says so.
    pub fn asked(self) -> (Asked, Option<Millis>) {
        let operation = Operation::Sell { quantity: self.quantity.0 };
        (asked(operation, self.expected_version, self.reference), self.occurred_at)
    }
}

/// Several operations, in this order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Operations, example = json!({"atomic": false, "operations": [{"op": "sell", "productId": "coffee", "quantity": 1}, {"op": "adjust", "productId": "tea", "delta": -1, "reason": "damage"}]}))]
pub struct Batch {
    #[schema(value_type = Vec<AnyOperation>, min_items = 1, max_items = 1000)]
    operations: Vec<Map<String, Value>>,
    /// All of them or nothing, if it is left out; `false`: each that can be done.
    atomic: Option<bool>,
}

/// Several operations at a store, in this order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = OperationsAtStore, example = json!({"storeId": "store-1", "atomic": false, "operations": [{"op": "receive", "productId": "coffee", "quantity": 48}, {"op": "adjust", "productId": "tea", "delta": -1, "reason": "damage"}]}))]
pub struct BatchAt {
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    #[schema(value_type = Vec<AnyOperation>, min_items = 1, max_items = 1000)]
    operations: Vec<Map<String, Value>>,
    /// All of them or nothing, if it is left out; `false`: each that can be done.
    atomic: Option<bool>,
}

impl BatchAt {
    /// At which store, what is asked, and whether all of it or nothing is to be done.
    pub fn asked(self) -> Result<(StoreId, Vec<BatchLine>, bool)> {
        let Self { store_id, operations, atomic } = self;
        let (lines, atomic) = Batch { operations, atomic }.asked()?;
        Ok((store_id, lines, atomic))
    }
}

/// Describes a line of a batch: one of several operations.
struct AnyOperation;

/// What a line of a batch may do.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BatchOp {
    Sell,
    Receive,
    Adjust,
    Count,
    Create,
}

/// One of these, by `op`: each as it is alone, and of which product.
impl PartialSchema for AnyOperation {
    fn schema() -> RefOr<Schema> {
        fn line<T: PartialSchema>(op: &str) -> Value {
            let mut line = json_of::<T>();
            line["properties"]["op"] = json!({"type": "string", "enum": [op]});
            line["properties"]["productId"] = json_of::<schema::ProductId>();
            let mut required = vec![json!("op"), json!("productId")];
            required
                .extend(line["required"].as_array().into_iter().flatten().filter(|name| *name != "productId").cloned());
            line["required"] = required.into();
            if let Some(line) = line.as_object_mut() {
                line.remove("example");
            }
            line["title"] = op.into();
            line
        }
        let (sell, receive, adjust) = (line::<Sell>("sell"), line::<Receive>("receive"), line::<Adjust>("adjust"));
        schema::schema(json!({"oneOf": [sell, receive, adjust, line::<Count>("count"), line::<Create>("create")]}))
    }
}

impl ToSchema for AnyOperation {
    fn name() -> Cow<'static, str> {
        "Operation".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Sell::schemas(schemas);
        Receive::schemas(schemas);
        Adjust::schemas(schemas);
        Count::schemas(schemas);
        Create::schemas(schemas);
    }
}

impl Batch {
    /// What is asked, and whether all of it or nothing is to be done.
    pub fn asked(self) -> Result<(Vec<BatchLine>, bool)> {
        if self.operations.is_empty() || self.operations.len() > BATCH_MAX {
            return Err(Problem::invalid("/operations", format!("must have 1 to {} lines", grouped(BATCH_MAX as i64))));
        }
        let lines = self.operations.into_iter().enumerate().map(|(index, line)| batch_line(index, line));
        Ok((lines.collect::<Result<_>>()?, self.atomic.unwrap_or(true)))
    }
}

fn batch_line(index: usize, mut line: Map<String, Value>) -> Result<BatchLine> {
    let at = format!("/operations/{index}");
    let op: BatchOp = meaning(&taken(&mut line, &at, "op")?, &format!("{at}/op"))?;
    let (product_id, (asked, occurred_at)) = match op {
        BatchOp::Create => {
            let (product, asked) = meaning::<Create>(&line.into(), &at)?.asked();
            (product, (asked, None))
        }
        BatchOp::Sell => of_product(line, &at, Sell::asked)?,
        BatchOp::Receive => of_product(line, &at, |body: Receive| (body.asked(), None))?,
        BatchOp::Adjust => of_product(line, &at, |body: Adjust| (body.asked(), None))?,
        BatchOp::Count => of_product(line, &at, |body: Count| (body.asked(), None))?,
    };
    let Asked { operation, expected_version, reference } = asked;
    Ok(BatchLine { product_id, operation, expected_version, reference, occurred_at })
}

/// Reads a line whose product elsewhere is in the path.
fn of_product<T: DeserializeOwned, A>(
    mut line: Map<String, Value>,
    at: &str,
    asked: impl Fn(T) -> A,
) -> Result<(ProductId, A)> {
    let product = meaning(&taken(&mut line, at, "productId")?, &format!("{at}/productId"))?;
    Ok((product, asked(meaning(&line.into(), at)?)))
}

fn taken(line: &mut Map<String, Value>, at: &str, name: &str) -> Result<Value> {
    line.remove(name).ok_or_else(|| Problem::invalid(format!("{at}/{name}"), "is missing"))
}

/// So many units of a product.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = WantedLine)]
pub struct LineBody {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    quantity: Quantity,
}

/// What is asked for together; lines of the same product are added up.
pub fn lines(lines: Vec<LineBody>) -> Result<Lines> {
    let lines = lines.into_iter().map(|line| Line { product_id: line.product_id, quantity: line.quantity.0 });
    Lines::new(lines).map_err(|error| Problem::invalid("/lines", error.to_string()))
}

/// Time to live of a reservation: up to 31 days.
pub type ReservationTtl = Bounded<1, 2_678_400>;
/// Time to live of a reservation when nothing is said, s.
const RESERVATION_TTL_SECONDS: i64 = 900;

/// Units to hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = MakeReservation, example = json!({"lines": [{"productId": "coffee", "quantity": 2}], "ttlSeconds": 900, "reference": "order 17"}))]
pub struct Reserve {
    /// Up to 200 products; what is asked for of the same product is added up.
    #[schema(min_items = 1)]
    lines: Vec<LineBody>,
    /// 900, if it is left out.
    ttl_seconds: Option<ReservationTtl>,
    reference: Option<Reference>,
}

/// What a reservation is to hold, and for how long.
#[derive(Debug)]
pub struct Held {
    /// What.
    pub lines: Lines,
    /// For so long, ms.
    pub ttl_ms: i64,
    /// The order that it is for.
    pub reference: Option<String>,
}

/// Units to hold at a store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = MakeReservationAtStore, example = json!({"storeId": "store-1", "lines": [{"productId": "coffee", "quantity": 2}], "ttlSeconds": 900, "reference": "order 17"}))]
pub struct ReserveAt {
    #[schema(value_type = schema::StoreId)]
    store_id: StoreId,
    /// Up to 200 products; what is asked for of the same product is added up.
    #[schema(min_items = 1)]
    lines: Vec<LineBody>,
    /// 900, if it is left out.
    ttl_seconds: Option<ReservationTtl>,
    reference: Option<Reference>,
}

impl ReserveAt {
    /// At which store, and what is asked.
    pub fn asked(self) -> Result<(StoreId, Held)> {
        let Self { store_id, lines, ttl_seconds, reference } = self;
        Ok((store_id, Reserve { lines, ttl_seconds, reference }.asked()?))
    }
}

impl Reserve {
    /// What is asked.
    pub fn asked(self) -> Result<Held> {
        Ok(Held {
            lines: lines(self.lines)?,
            ttl_ms: self.ttl_seconds.map_or(RESERVATION_TTL_SECONDS, |ttl| ttl.0) * 1_000,
            reference: self.reference.map(|text| text.0),
        })
    }
}

/// What a reservation's end or extension comes with.
#[derive(Debug)]
pub struct ActAsked {
    /// What is to be done.
    pub act: Act,
    /// Receipt, order or reason.
    pub reference: Option<String>,
}

/// A reservation is confirmed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ConfirmReservation, example = json!({"reference": "receipt 20260131-018"}))]
pub struct Confirm {
    /// All of it, if they are left out; otherwise the rest is free again.
    #[schema(min_items = 1)]
    lines: Option<Vec<LineBody>>,
    reference: Option<Reference>,
}

impl Confirm {
    /// What is asked.
    pub fn asked(self) -> Result<ActAsked> {
        let part = self.lines.filter(|_| !planted(Bug::PartConfirmedAsWhole));
        let act = Act::Confirm { lines: part.map(lines).transpose()? };
        Ok(ActAsked { act, reference: self.reference.map(|text| text.0) })
    }
}

/// A reservation is cancelled.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"reason": "the customer does not want it"}))]
pub struct CancelReservation {
    /// Counts as `reference`, if that is left out.
    reason: Option<Reference>,
    reference: Option<Reference>,
}

impl CancelReservation {
    /// What is asked.
    pub fn asked(self) -> ActAsked {
        ActAsked { act: Act::Cancel, reference: self.reference.or(self.reason).map(|text| text.0) }
    }
}

/// A reservation is to end later, or earlier.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ExtendReservation, example = json!({"ttlSeconds": 3600}))]
pub struct Extend {
    /// From now.
    ttl_seconds: ReservationTtl,
    reference: Option<Reference>,
}

impl Extend {
    /// What is asked.
    pub fn asked(self) -> ActAsked {
        let act = Act::Extend { ttl_ms: self.ttl_seconds.0 * 1_000 };
        ActAsked { act, reference: self.reference.map(|text| text.0) }
    }
}

/// Units to be sent from one store to another.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"fromStoreId": "store-1", "toStoreId": "store-2", "lines": [{"productId": "coffee", "quantity": 2}], "reference": "refill 17"}))]
pub struct MakeTransfer {
    #[schema(value_type = schema::StoreId)]
    from_store_id: StoreId,
    #[schema(value_type = schema::StoreId)]
    to_store_id: StoreId,
    /// Up to 200 products; what is asked for of the same product is added up.
    #[schema(min_items = 1)]
    lines: Vec<LineBody>,
    /// The destination books it in as soon as it hears that it was shipped.
    auto_receive: Option<bool>,
    reference: Option<Reference>,
}

/// What is to be sent.
#[derive(Debug)]
pub struct Sent {
    /// The source.
    pub from: StoreId,
    /// The destination, another store.
    pub to: StoreId,
    /// What.
    pub lines: Lines,
    /// It is booked in without anybody's doing.
    pub auto_receive: bool,
    /// The order that it is for.
    pub reference: Option<String>,
}

impl MakeTransfer {
    /// What is asked.
    pub fn asked(self) -> Result<Sent> {
        if self.from_store_id == self.to_store_id {
            return Err(Problem::invalid("/toStoreId", "must be another store than fromStoreId"));
        }
        Ok(Sent {
            from: self.from_store_id,
            to: self.to_store_id,
            lines: lines(self.lines)?,
            auto_receive: self.auto_receive.unwrap_or(false),
            reference: self.reference.map(|text| text.0),
        })
    }
}

/// A transfer has arrived.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ReceiveTransfer, example = json!({"lines": [{"productId": "coffee", "quantity": 2}], "reference": "delivery note 4711"}))]
pub struct ReceiveTransfer {
    /// All of it, if they are left out; otherwise the rest is missing for good.
    #[schema(min_items = 1)]
    lines: Option<Vec<LineBody>>,
    reference: Option<Reference>,
}

impl ReceiveTransfer {
    /// What has arrived, if not all of it, and the delivery note.
    pub fn asked(self) -> Result<(Option<Lines>, Option<String>)> {
        Ok((self.lines.map(lines).transpose()?, self.reference.map(|text| text.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(body: &serde_json::Value) -> Option<(Option<LowAt>, Option<bool>)> {
        match serde_json::from_value::<Change>(body.clone()).ok()?.asked().ok()?.operation {
            Operation::Change { low_at, discontinued, .. } => Some((low_at, discontinued)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn null_takes_away_what_an_item_may_be_without() {
        assert_eq!(changed(&json!({"lowAt": null})), Some((Some(LowAt::OFF), None)));
        assert_eq!(changed(&json!({"lowAt": 3, "expectedVersion": null})), Some((Some(LowAt::Units(3)), None)));
        assert_eq!(changed(&json!({"discontinued": true})), Some((None, Some(true))));
        for refused in [json!({}), json!({"name": null}), json!({"discontinued": null, "lowAt": 3})] {
            assert_eq!(changed(&refused), None, "{refused}");
        }
    }
}
