//! What the domain's words look like in JSON. The protocol knows nothing of descriptions, so they stand here; tests
//! compare them with what its parsers do.

use std::borrow::Cow;

use protocol::domain::QUANTITY_MAX;
use protocol::number::NUMBER_MAX;
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::super::text::{Bounded, Delta, Quantity, Text, visible};

/// `^...$` of store and product ids.
const ID: &str = "[A-Za-z0-9][A-Za-z0-9._-]{0,49}";

/// A schema written as JSON.
pub fn schema(json: Value) -> RefOr<Schema> {
    RefOr::T(serde_json::from_value(json).expect("is a schema"))
}

macro_rules! words {
    ($(#[doc = $doc:literal] $name:ident $json:expr;)+) => {
        $(
            #[doc = $doc]
            #[derive(Debug)]
            pub enum $name {}

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let mut json = $json;
                    json["description"] = $doc.trim().into();
                    schema(json)
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    stringify!($name).into()
                }
            }
        )+
    };
}

words! {
    /// Of a branch of the chain.
    StoreId json!({"type": "string", "pattern": format!("^{ID}$"), "examples": ["store-1"]});
    /// Of what is sold.
    ProductId json!({"type": "string", "pattern": format!("^{ID}$"), "examples": ["coffee"]});
    /// RFC 3339.
    Time json!({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000Z"]});
    /// A purchase's or reservation's id.
    Id json!({"type": "string", "format": "uuid", "examples": ["0197a1b2-0000-7000-8000-000000000001"]});
    /// A command's or operation's id.
    OperationId json!({"type": "string", "minLength": 1, "maxLength": 100, "examples": ["0197a1b2-0000-7000-8000-000000000001:1"]});
    /// One life of a store's ledger.
    Epoch json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": NUMBER_MAX, "examples": [1769860800000u64]});
    /// The number of an entry in its epoch.
    Seq json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": NUMBER_MAX, "examples": [17]});
    /// A place in a store's ledger.
    Position json!({"type": "string", "pattern": format!("^{ID}:[0-9]{{1,18}}-[0-9]{{1,18}}$"), "examples": ["store-1:1769860800000-17"]});
    /// Why stock is adjusted.
    Reason json!({"type": "string", "enum": ["return", "void", "damage", "theft", "expiry", "found", "correction", "other"]});
    /// By what a store is chosen.
    Policy json!({"type": "string", "enum": ["highest-available", "lowest-latency", "round-robin"]});
    /// So many units of a product, as told.
    Line json!({
        "type": "object", "required": ["productId", "quantity"],
        "properties": {"productId": json_of::<ProductId>(), "quantity": {"type": "integer", "minimum": 1}},
        "example": {"productId": "coffee", "quantity": 2},
    });
    /// What is asked for together: each product once.
    Lines json!({"type": "array", "items": {"$ref": "#/components/schemas/Line"}});
    /// An item as its store told of it.
    StoreItem json!({
        "type": "object",
        "required": ["name", "quantity", "reserved", "allotted", "discontinued", "low", "version", "updatedAt"],
        "properties": {
            "name": {"type": "string"}, "quantity": {"type": "integer"}, "reserved": {"type": "integer"},
            "allotted": {"type": "integer"}, "allotmentWanted": {"type": "integer"},
            "discontinued": {"type": "boolean"}, "lowAt": {"type": "integer"}, "low": {"type": "boolean"},
            "version": {"type": "integer"}, "updatedAt": json_of::<Time>(),
        },
    });
    /// What an agent that restores its store has of it.
    RestoreQuestion json!({
        "type": "object", "required": ["epoch", "log"], "additionalProperties": false,
        "properties": {
            "epoch": json_of::<Epoch>(),
            "log": {"type": "array", "items": {"type": "object"}, "description": "Spans of its own log."},
        },
        "example": {"epoch": 0, "log": []},
    });
    /// The item's version; another one is refused.
    Version json!({"type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX, "examples": [4]});
    /// An event's type.
    EventType json!({"type": "string", "examples": ["sold"]});
}

/// A schema as JSON.
pub fn json_of<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).expect("a schema is JSON")
}

impl<const MIN: i64, const MAX: i64> PartialSchema for Bounded<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "integer", "format": "int64", "minimum": MIN, "maximum": MAX}))
    }
}

impl<const MIN: i64, const MAX: i64> ToSchema for Bounded<MIN, MAX> {
    fn name() -> Cow<'static, str> {
        format!("From{MIN}To{MAX}").into()
    }
}

impl PartialSchema for Quantity {
    fn schema() -> RefOr<Schema> {
        Bounded::<1, QUANTITY_MAX>::schema()
    }
}

impl ToSchema for Quantity {}

impl PartialSchema for Delta {
    fn schema() -> RefOr<Schema> {
        let not_0 = |from: i64, to: i64| json!({"type": "integer", "format": "int64", "minimum": from, "maximum": to});
        schema(json!({"oneOf": [not_0(1, QUANTITY_MAX), not_0(-QUANTITY_MAX, -1)], "example": -2}))
    }
}

impl ToSchema for Delta {}

impl<const MIN: usize, const MAX: usize> PartialSchema for Text<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "string", "minLength": MIN, "maxLength": MAX, "pattern": visible(MIN > 0)}))
    }
}

impl<const MIN: usize, const MAX: usize> ToSchema for Text<MIN, MAX> {
    fn name() -> Cow<'static, str> {
        format!("Text{MIN}To{MAX}").into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use protocol::domain::{self, Item};
    use protocol::ids;
    use serde::de::DeserializeOwned;

    use super::super::super::CountQuantity;
    use super::super::super::requests::ReservationTtl;
    use super::*;

    fn bounds_of<T: PartialSchema + DeserializeOwned>() -> (i64, i64) {
        let schema = json_of::<T>();
        let bounds = ["minimum", "maximum"].map(|name| schema[name].as_i64().expect("a bound"));
        let takes = |number: i64| serde_json::from_value::<T>(number.into()).is_ok();
        assert_eq!([bounds[0] - 1, bounds[0], bounds[1], bounds[1] + 1].map(takes), [false, true, true, false]);
        (bounds[0], bounds[1])
    }

    #[test]
    fn numbers_are_bounded_as_they_are_read() {
        assert_eq!(bounds_of::<Quantity>(), (1, QUANTITY_MAX));
        assert_eq!(bounds_of::<CountQuantity>(), (0, domain::TOTAL_MAX));
        assert_eq!(bounds_of::<ReservationTtl>(), (1, domain::reservation::TTL_MS_MAX / 1_000));
        let delta = json_of::<Delta>();
        let takes = |number: &Value| serde_json::from_value::<Delta>(number.clone()).is_ok();
        for range in delta["oneOf"].as_array().expect("two ranges") {
            assert!(takes(&range["minimum"]) && takes(&range["maximum"]), "{range}");
        }
        assert!(!takes(&json!(0)) && !takes(&json!(QUANTITY_MAX + 1)));
        let epoch = |number: u64| serde_json::from_value::<protocol::number::Epoch>(number.into()).is_ok();
        assert!(epoch(NUMBER_MAX) && !epoch(NUMBER_MAX + 1));
    }

    #[test]
    fn an_id_is_what_its_pattern_says() {
        assert_eq!(ID, "[A-Za-z0-9][A-Za-z0-9._-]{0,49}");
        let is_id = |text: &str| ids::StoreId::parse(text).is_ok() && ids::ProductId::parse(text).is_ok();
        for character in '\0'..='\u{ff}' {
            let is_letter = character.is_ascii_alphanumeric();
            assert_eq!(is_id(&character.to_string()), is_letter, "{character:?}");
            assert_eq!(is_id(&format!("a{character}")), is_letter || "._-".contains(character), "{character:?}");
        }
        assert!(is_id(&"a".repeat(50)) && !is_id(&"a".repeat(51)));
    }

    /// serde names all that there are when it refuses one.
    fn named_by<T: DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
        let error = serde_json::from_value::<T>("nothing".into()).expect_err("is refused").to_string();
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn all_words_that_may_be_sent_are_named() {
        let named = |schema: Value| serde_json::from_value(schema["enum"].clone()).expect("words");
        assert_eq!(named_by::<domain::Reason>(), named(json_of::<Reason>()));
        assert_eq!(named_by::<protocol::promise::policy::Policy>(), named(json_of::<Policy>()));
    }

    #[test]
    fn what_a_store_tells_has_all_members_that_are_described() {
        let members = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
        let item = Item { allotment_wanted: Some(1), low_at: Some(1), ..Item::default() };
        let told = serde_json::to_value(item).expect("serialises");
        assert_eq!(members(&told), members(&json_of::<StoreItem>()["properties"]));
    }
}
