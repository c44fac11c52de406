//! HTTP as both servers speak it: problems, strict reading of requests, paging, and the edge around every route.
//!
//! **Guarantees.** A client's mistake is a 4xx problem with a code and a pointer, never a 500 and never plain text; a
//! server's failure tells the client nothing but the trace id. `docs/API.md` is the specification.

mod budget;
mod credentials;
mod edge;
mod events;
mod extract;
mod headers;
mod metrics;
pub mod openapi;
mod page;
mod patience;
mod problem;
mod query;
mod rate;
pub mod requests;
mod reservations;
mod serve;
mod strict;
mod text;
mod tokens;
mod transfers;
mod words;
mod written;

pub use credentials::{AddToken, Secret, TokensCommand};
pub use edge::{Edge, NoEffect, Says, Served, Wait, finish};
pub use events::{EventItem, EventUnits};
pub use extract::{Body, IdPath, ItemPath, LargeBody, OptionalBody, ProductPath, StorePath, Upload, refuse_body_type};
pub use headers::{Etags, ItemWrite, Prefer, Write, not_modified};
pub use metrics::{Exposition, Requests, Tally};
pub use page::{Counted, List, Page, PageNumber, PageQuery, PageSize, decode_cursor, encode_cursor, words};
pub use patience::Patience;
pub use problem::{__path_describe, Code, Problem, describe};
pub use query::Query;
pub use reservations::StoreReservation;
pub use serve::{Room, serve};
pub use strict::fingerprint;
pub use text::{Actor, Bounded, CountQuantity, Delta, Name, Quantity, Text, Threshold};
pub use tokens::{Access, Caller, OfCaller, Scopes, Tokens};
pub use transfers::{StoreTransfer, TransferLine};
pub use written::{HEADERS, Written, header_value};

/// What handlers return.
pub type Result<T> = std::result::Result<T, Problem>;
