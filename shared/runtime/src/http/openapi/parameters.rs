//! Parameters and headers that mean the same on every route: described once, by the extractor that reads them.

use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::super::page::{REACH, SIZE_DEFAULT, SIZE_MOST};
use super::super::{Actor, Etags, IdPath, ItemPath, Prefer, ProductPath, StorePath, Write};
use super::schema::{ProductId, StoreId, Time, json_of};

fn parameter(json: Value) -> Parameter {
    serde_json::from_value(json).expect("is a parameter")
}

fn path(name: &str, description: &str, schema: Value) -> Parameter {
    parameter(json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema}))
}

fn header(name: &str, description: &str, schema: Value) -> Parameter {
    parameter(json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema}))
}

macro_rules! described {
    ($($extractor:ty: $($parameter:expr),+;)+) => {
        $(
            impl IntoParams for $extractor {
                fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                    vec![$($parameter),+]
                }
            }
        )+
    };
}

fn store() -> Parameter {
    path("storeId", "The store. Case-sensitive.", json_of::<StoreId>())
}

fn product() -> Parameter {
    path("productId", "The product. Case-sensitive.", json_of::<ProductId>())
}

fn actor() -> Parameter {
    header("Shelf-Actor", "The till or person who asks; stands in the event. UTF-8.", json_of::<Actor>())
}

/// `If-Match` on the writes of one item.
#[derive(Debug)]
pub enum IfMatch {}

described! {
    StorePath: store();
    ProductPath: product();
    ItemPath: store(), product();
    IdPath: path("id", "The record's id.", json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}));
    Write:
        header(
            "Idempotency-Key",
            "Names this request for 7 days: sent again under its key it has no second effect and gets the answer that its effect has.",
            json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"})
        ),
        actor();
    Actor: actor();
    IfMatch: header(
        "If-Match",
        "ETags of which the item's must be one, else 412. `*`: any.",
        json!({"type": "string", "examples": ["\"1769860800000-4\""]})
    );
    Etags: header(
        "If-None-Match",
        "ETags that the client has: 304 if the item's is one of them.",
        json!({"type": "string", "examples": ["\"1769860800000-4\""]})
    );
    Prefer: header(
        "Prefer",
        "`wait=0` to `wait=30`: so many seconds to wait for the store (2 if not sent; a read of a record does not wait unless asked). `respond-async`: none.",
        json!({"type": "string", "examples": ["wait=5"]})
    );
}

/// Query parameters by name, where they say nothing of their own.
pub(super) fn of_query(name: &str) -> Option<(&'static str, Value)> {
    let text = || json!({"type": "string"});
    Some(match name {
        "size" => (
            "Records on a page.",
            json!({"type": "integer", "minimum": 1, "maximum": SIZE_MOST, "default": SIZE_DEFAULT}),
        ),
        "page" => (
            "Number of the page, from 0. `page * size` reaches up to 100,000; beyond that `cursor` does.",
            json!({"type": "integer", "minimum": 0, "maximum": REACH}),
        ),
        "cursor" => ("`nextCursor` of the page before. Not together with `page` or `after`.", text()),
        "q" => (
            "Words that must all be in the id or the name, in any order; parts of words, too. Neither case nor accents count.",
            json!({"type": "string", "minLength": 2, "maxLength": 100, "examples": ["green tea"]}),
        ),
        "low" => ("Only items that are low (`true`), or are not (`false`).", json!({"type": "boolean"})),
        "discontinued" => ("`true`: also discontinued items of which nothing is left.", json!({"type": "boolean"})),
        "retired" => ("`true`: also items of retired stores.", json!({"type": "boolean"})),
        "storeId" => ("Only of this store.", text()),
        "productId" => ("Only of this product.", text()),
        "reference" => ("Only what has this receipt, order or delivery note.", text()),
        "actor" => ("Only what this till or person did.", text()),
        "customerId" => ("Only this customer's.", text()),
        "type" => ("Only events of this type.", json!({"type": "string", "examples": ["sold"]})),
        "status" => ("Only those in this state.", text()),
        "since" => ("Recorded at this time or later.", json_of::<Time>()),
        "until" => ("Recorded before this time.", json_of::<Time>()),
        "minPosition" => (
            "A place in a store's ledger (`Shelf-Position`) that the answer must not be behind. May be repeated, once for each store.",
            json!({"type": "array", "items": {"type": "string", "examples": ["store-1:1769860800000-17"]}}),
        ),
        _ => return None,
    })
}
