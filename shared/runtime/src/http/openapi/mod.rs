//! The description of a server's routes (OpenAPI 3.1), made from the code: each handler says what is its own, and what
//! holds for all of them is added here, once.
//!
//! **Guarantees.** A route cannot be served without being described, since both come from one macro. Each operation names
//! every problem that it may answer with (`x-problems`), each with its status, meaning and an example out of
//! [`Code`]'s table.

mod parameters;
pub mod schema;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, LazyLock};

use axum::Extension;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use protocol::domain::{Item, Rejection};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, PathItem, RefOr};

pub use parameters::IfMatch;

use super::{Access, Code, Problem};

/// What a server says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    /// Its name.
    pub title: &'static str,
    /// What there is to know before anything else, in Markdown.
    pub description: &'static str,
    /// Groups of routes, in this order, and what they are about.
    pub tags: &'static [(&'static str, &'static str)],
    /// Headers of each of its answers, besides those that both servers have.
    pub headers: &'static [&'static str],
    /// What a method of a route wants.
    pub access: fn(&Method, &str) -> Access,
}

/// A description that is written when it is first asked for. Cheap to clone.
#[derive(Clone)]
pub struct Description(Arc<LazyLock<Bytes, Box<dyn FnOnce() -> Bytes + Send>>>);

impl Description {
    /// Of a server's pages, which are at the root, and of its routes, which are under `/v1`, too.
    pub fn new(api: Api, pages: OpenApi, routes: OpenApi) -> Self {
        let write =
            move || serde_json::to_vec(&document(&api, pages, routes)).expect("a description serialises").into();
        Self(Arc::new(LazyLock::new(Box::new(write))))
    }

    /// As it is kept beside the code: each member on a line, so that a change can be read.
    pub fn pretty(&self) -> String {
        let value: Value = serde_json::from_slice(&self.json()).expect("a description is JSON");
        format!("{value:#}\n")
    }

    /// As it is served.
    pub fn json(&self) -> Bytes {
        Bytes::clone(&self.0)
    }
}

/// Operations that take no query: what stands in one would be thought to have had its effect.
#[derive(Debug, Clone, Default)]
pub struct Queryless(Arc<HashSet<(Method, String)>>);

impl Queryless {
    /// Those of these routes.
    pub fn of(routes: &OpenApi) -> Self {
        let takes_none = |operation: &Operation| {
            let mut parameters = operation.parameters.iter().flatten();
            !parameters.any(|parameter| matches!(parameter, RefOr::T(one) if one.parameter_in == ParameterIn::Query))
        };
        let operations = routes.paths.paths.iter().flat_map(|(path, item)| {
            let PathItem { get, put, post, delete, patch, .. } = item;
            let of_methods = [
                (Method::GET, get),
                (Method::HEAD, get),
                (Method::PUT, put),
                (Method::POST, post),
                (Method::DELETE, delete),
                (Method::PATCH, patch),
            ];
            let operation = move |(method, one): (Method, &Option<Operation>)| {
                one.as_ref().filter(|one| takes_none(one)).map(|_| (method, path.clone()))
            };
            of_methods.into_iter().filter_map(operation)
        });
        Self(Arc::new(operations.collect()))
    }

    /// Whether this method of a route, which is told as the pattern that the path has matched, is one.
    pub(super) fn has(&self, method: &Method, route: &str) -> bool {
        self.0.contains(&(method.clone(), route.to_owned()))
    }
}

/// This description
///
/// OpenAPI 3.1. Clients can be generated from it.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "getDescription", tag = "Server",
    responses((status = 200, description = "The description", body = utoipa::openapi::Object)),
)]
pub async fn openapi(Extension(description): Extension<Description>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], description.json()).into_response()
}

/// An error (RFC 9457)
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a problem is written by hand: this only describes it")]
struct ProblemShape {
    /// Where the problem is explained.
    #[schema(example = "/problems/insufficient_stock")]
    r#type: String,
    /// In a few words.
    #[schema(example = "Insufficient Stock")]
    title: String,
    /// The answer's status.
    #[schema(example = 409)]
    status: i32,
    /// Its stable name: what programs compare. There may be new ones.
    #[schema(example = "insufficient_stock")]
    code: String,
    /// Whether the same request may succeed later, unchanged.
    retryable: bool,
    /// In words, for people.
    detail: String,
    /// What is wrong where, if the request breaks a rule.
    errors: Option<Vec<Misfit>>,
    /// The path that was asked.
    instance: Option<String>,
    /// Under which the server's log tells of it.
    trace_id: Option<String>,
}

/// What is wrong in a request, and where
#[derive(ToSchema)]
#[expect(dead_code, reason = "only describes")]
struct Misfit {
    /// A JSON pointer into the body, `?name` of a query parameter, `{name}` of one in the path, or a header's name.
    #[schema(example = "/quantity")]
    pointer: String,
    /// What is right.
    #[schema(example = "quantity must be a whole number from 1 to 1,000,000")]
    detail: String,
}

/// Headers of answers.
const HEADERS: [(&str, &str); 12] = [
    ("X-Trace-Id", "Of the request's `traceparent`, else a new one."),
    ("ETag", "The item's version, for `If-Match` and `If-None-Match`. Opaque."),
    ("Location", "Where what was asked for can be read."),
    ("Retry-After", "So many seconds later it may be worth asking again."),
    ("RateLimit-Limit", "Requests a second that this caller may make; only if the server has a limit."),
    ("RateLimit-Remaining", "So many of them it may make now."),
    ("RateLimit-Reset", "So many seconds later it may make all of them again."),
    ("Idempotency-Replayed", "`true`: the key came before, and this is what its effect has become."),
    ("Preference-Applied", "For how long was waited at most, if `Prefer` said."),
    (
        "Shelf-Position",
        "The store's place in its ledger: of the event, if there was one. `minPosition` at central takes it.",
    ),
    ("Shelf-Warning", "`fenced`: another database of this store is the one that central follows."),
    (
        "X-Projection-Lag-ms",
        "Age of the oldest entry that is known to exist and is not in this answer, 0 if there is none.",
    ),
];

/// Name of the way in which a caller says who it is.
const TOKEN: &str = "token";

/// What each operation may answer, whatever it is about.
const ANYWHERE: [Code; 6] =
    [Code::InvalidRequest, Code::Forbidden, Code::RateLimited, Code::Internal, Code::Overloaded, Code::Restarting];

fn document(api: &Api, pages: OpenApi, routes: OpenApi) -> Value {
    let mut document = serde_json::to_value(pages.nest("/v1", routes)).expect("a description serialises");
    document["info"] = json!({
        "title": api.title,
        "description": api.description,
        "version": env!("CARGO_PKG_VERSION"),
        "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/"}]);
    document["tags"] = api.tags.iter().map(|(name, text)| json!({"name": name, "description": text})).collect();
    let mut schemas = taken(&mut document["components"]["schemas"]);
    schemas.insert("Problem".into(), schema::json_of::<ProblemShape>());
    schemas.insert("Misfit".into(), schema::json_of::<Misfit>());
    schemas.insert("Line".into(), schema::json_of::<schema::Line>());
    schemas["Problem"]["additionalProperties"] = true.into();
    let flat: Map<String, Value> = schemas.iter().map(|(name, one)| (name.clone(), flattened(one, &schemas))).collect();
    let mut flat = Value::Object(flat);
    let scalars = taken(&mut flat.clone()).into_iter().filter(|(_, one)| is_scalar(one)).collect();
    inline(&mut flat, &scalars);
    inline(&mut document["paths"], &scalars);
    let mut refusals = Refusals { api: *api, used: BTreeSet::new(), responses: Map::new() };
    for (path, operations) in members(&mut document["paths"]) {
        for (method, operation) in members(operations) {
            refusals.complete(path, method, operation);
        }
    }
    let Refusals { used, responses, .. } = refusals;
    let mut schemas = taken(&mut flat);
    keep_used(&mut schemas, &json!([document["paths"], {"$ref": format!("{SCHEMAS}Problem")}]));
    document["components"] = json!({
        "schemas": schemas,
        "responses": responses,
        "headers": HEADERS.iter().map(|(name, text)| ((*name).to_owned(), described(text))).collect::<Map<_, _>>(),
        "securitySchemes": {TOKEN: {
            "type": "http",
            "scheme": "bearer",
            "description": "A token that the server knows, with a scope that the operation names: `read`, `sell`, `stock` \
                or `operate`. A server without tokens lets whoever reaches it do all.",
        }},
        "examples": used.iter().map(|name| ((*name).to_owned(), example(name))).collect::<Map<_, _>>(),
    });
    document
}

fn described(text: &str) -> Value {
    json!({"description": text, "schema": {"type": "string"}})
}

fn taken(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

const SCHEMAS: &str = "#/components/schemas/";

fn named<'a>(schema: &Value, schemas: &'a Map<String, Value>) -> Option<&'a Value> {
    schemas.get(schema["$ref"].as_str()?.strip_prefix(SCHEMAS)?)
}

/// One object with the members of all that it is made of: easier to read, and generators understand it.
fn flattened(schema: &Value, schemas: &Map<String, Value>) -> Value {
    let Some(parts) = schema["allOf"].as_array() else { return schema.clone() };
    let mut whole = schema.as_object().cloned().unwrap_or_default();
    whole.shift_remove("allOf");
    let mut properties = Map::new();
    let mut required = Vec::new();
    for part in parts {
        // Of what may be absent no member is certain.
        let one_of = part["oneOf"].as_array().and_then(|parts| parts.iter().find(|part| part["type"] != "null"));
        let of = one_of.unwrap_or(part);
        let of = flattened(named(of, schemas).unwrap_or(of), schemas);
        properties.extend(taken(&mut of["properties"].clone()));
        if one_of.is_none() {
            required.extend(of["required"].as_array().cloned().unwrap_or_default());
        }
        if let Some(example) = of.get("example") {
            whole.entry("example").or_insert(example.clone());
        }
    }
    // One of a part alone is none of the whole.
    if required
        .iter()
        .filter_map(Value::as_str)
        .any(|name| whole.get("example").is_some_and(|one| one.get(name).is_none()))
    {
        whole.shift_remove("example");
    }
    whole.insert("type".into(), "object".into());
    whole.insert("properties".into(), properties.into());
    if !required.is_empty() {
        whole.insert("required".into(), required.into());
    }
    Value::Object(whole)
}

/// Whether it says no more than what a value looks like.
fn is_scalar(schema: &Value) -> bool {
    schema["type"] != "object" && schema.get("allOf").is_none()
}

/// Puts in place what has a name and is no object, and says `null` in the type.
fn inline(value: &mut Value, scalars: &Map<String, Value>) {
    if let Some(scalar) = named(value, scalars) {
        let mut own = taken(value);
        own.shift_remove("$ref");
        let mut whole = scalar.as_object().cloned().unwrap_or_default();
        whole.extend(own);
        *value = whole.into();
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|one| inline(one, scalars)),
        Value::Array(list) => list.iter_mut().for_each(|one| inline(one, scalars)),
        _ => return,
    }
    let Some(of_two) = value["oneOf"].as_array().filter(|parts| parts.len() == 2) else { return };
    let Some(null) = of_two.iter().position(|part| part["type"] == "null") else { return };
    let other = &of_two[1 - null];
    let Some(kind) = other["type"].as_str() else { return };
    let mut whole = other.as_object().cloned().unwrap_or_default();
    whole.insert("type".into(), json!([kind, "null"]));
    if let Some(Value::Array(values)) = whole.get_mut("enum") {
        values.push(Value::Null);
    }
    let mut own = taken(value);
    own.shift_remove("oneOf");
    whole.extend(own);
    *value = whole.into();
}

/// Drops what nobody names.
fn keep_used(schemas: &mut Map<String, Value>, paths: &Value) {
    let mut used = BTreeSet::new();
    let mut seen = vec![paths.clone()];
    while let Some(value) = seen.pop() {
        match value {
            Value::Object(map) => {
                let name = map.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(SCHEMAS));
                if let Some(name) = name
                    && used.insert(name.to_owned())
                {
                    seen.extend(schemas.get(name).cloned());
                }
                seen.extend(map.into_iter().map(|(_, value)| value));
            }
            Value::Array(list) => seen.extend(list),
            _ => {}
        }
    }
    schemas.retain(|name, _| used.contains(name));
}

/// Answers that tell of problems, each described once for all operations that may give it.
struct Refusals {
    api: Api,
    /// Codes that there are.
    used: BTreeSet<&'static str>,
    responses: Map<String, Value>,
}

impl Refusals {
    /// Adds to an operation what holds for all that are like it.
    fn complete(&mut self, path: &str, method: &str, operation: &mut Value) {
        let mut parameters = match operation["parameters"].take() {
            Value::Array(parameters) => parameters,
            _ => Vec::new(),
        };
        // What the path names cannot be asked for once more.
        let own = |one: &Value| one["in"] == "path";
        let named: Vec<Value> = parameters.iter().filter(|one| own(one)).map(|one| one["name"].clone()).collect();
        parameters.retain(|one| own(one) || !named.contains(&one["name"]));
        parameters.iter_mut().for_each(complete_parameter);
        let sent = |name: &str| parameters.iter().any(|one| one["name"] == name);
        let (is_keyed, waits) = (sent("Idempotency-Key"), sent("Prefer"));
        let (is_versioned, is_compared) = (sent("If-Match"), sent("If-None-Match"));
        operation["parameters"] = parameters.into();

        // A body that may be left out is not `null`.
        for (_, content) in operation.pointer_mut("/requestBody/content").into_iter().flat_map(members) {
            let schema = &mut content["schema"];
            if let Some(body) =
                schema["oneOf"].as_array().and_then(|kinds| kinds.iter().find(|one| one["type"] != "null"))
            {
                *schema = body.clone();
            }
        }
        let mut codes: BTreeSet<&'static str> = ANYWHERE.map(Code::as_str).into();
        let route = path.strip_prefix("/v1").unwrap_or(path);
        let asks = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).expect("it is a method");
        if let Access::Needs(scopes) = (self.api.access)(&asks, route) {
            codes.insert(Code::Unauthorized.as_str());
            let of_scope = scopes.names().map(|scope| json!({TOKEN: [scope]}));
            operation["security"] = of_scope.chain([json!({})]).collect();
        }
        if !operation["requestBody"].is_null() {
            codes.extend([Code::BodyTooLarge, Code::UnsupportedMediaType].map(Code::as_str));
        }
        codes.extend(is_keyed.then_some(Code::IdempotencyKeyReused.as_str()));
        codes.extend(is_versioned.then_some(Code::PreconditionFailed.as_str()));
        for own in operation["x-problems"].as_array().into_iter().flatten() {
            let code = own.as_str().and_then(Code::from_name);
            codes.insert(code.unwrap_or_else(|| panic!("{method} {path}: there is no code {own}")).as_str());
        }
        operation["x-problems"] = codes.iter().copied().collect();

        let responses = &mut operation["responses"];
        if is_compared {
            responses["304"] = json!({"description": "The client has it already."});
        }
        for (status, response) in members(responses) {
            let succeeds = status.starts_with('2');
            let mut names = Vec::new();
            names.extend((succeeds && is_keyed).then_some("Idempotency-Replayed"));
            names.extend((succeeds && waits).then_some("Preference-Applied"));
            names.extend((succeeds && waits && method != "get").then_some("Shelf-Position"));
            names.extend((matches!(&**status, "200" | "304") && (is_versioned || is_compared)).then_some("ETag"));
            match status.as_str() {
                "201" => names.push("Location"),
                "202" => names.extend(["Location", "Retry-After"]),
                _ => {}
            }
            self.carry(response, &names);
        }
        let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
        for code in codes.iter().filter_map(|name| Code::from_name(name)) {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        for (status, codes) in by_status {
            let refusal = self.refusal(status, &codes);
            match responses.get_mut(status.to_string()) {
                // It also says no in words of its own.
                Some(own) => {
                    let shared = &self.responses[refusal.as_str()];
                    own["content"]["application/problem+json"] = shared["content"]["application/problem+json"].clone();
                    own["headers"] = shared["headers"].clone();
                }
                None => responses[status.to_string()] = reference("responses", &refusal),
            }
        }
    }

    fn carry(&self, response: &mut Value, names: &[&str]) {
        for name in ["X-Trace-Id"].iter().chain(self.api.headers).chain(names) {
            response["headers"][*name] = reference("headers", name);
        }
    }

    /// The name of the answer that has one of these codes, which have this status.
    fn refusal(&mut self, status: u16, codes: &[Code]) -> String {
        let names = codes.iter().map(|code| code.as_str());
        let name = names.clone().collect::<Vec<_>>().join(".");
        self.used.extend(names.clone());
        if !self.responses.contains_key(&name) {
            let meanings = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.meaning()));
            let examples = names.map(|name| (name.to_owned(), reference("examples", name)));
            let mut response = json!({
                "description": meanings.collect::<Vec<_>>().join("\n\n"),
                "content": {"application/problem+json": {
                    "schema": {"$ref": format!("{SCHEMAS}Problem")},
                    "examples": examples.collect::<Map<_, _>>(),
                }},
            });
            self.carry(
                &mut response,
                match status {
                    429 => &["Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"],
                    503 => &["Retry-After"],
                    _ => &[],
                },
            );
            self.responses.insert(name.clone(), response);
        }
        name
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

/// A parameter is there or it is not, it is never `null`; what is the same everywhere is said once.
fn complete_parameter(parameter: &mut Value) {
    let known = parameter["name"].as_str().filter(|_| parameter["in"] == "query").and_then(parameters::of_query);
    if let Some((description, schema)) = known {
        if parameter["description"].is_null() {
            parameter["description"] = description.into();
        }
        if parameter["schema"].get("pattern").is_none() && parameter["schema"]["type"] != "array" {
            parameter["schema"] = schema;
        }
    }
    if let Some(Value::Array(kinds)) = parameter["schema"].get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            parameter["schema"]["type"] = kind.clone();
        }
    }
    if let Some(schema) = parameter["schema"].as_object_mut() {
        schema.shift_remove("description");
    }
}

/// A problem as it is answered.
fn example(name: &str) -> Value {
    let code = Code::from_name(name).unwrap_or(Code::Internal);
    let problem = match code {
        Code::InvalidRequest => Problem::invalid("/quantity", "must be a whole number from 1 to 1,000,000"),
        Code::InsufficientStock => {
            let coffee = Item { quantity: 7, reserved: 2, ..Item::default() };
            Problem::from(Rejection::insufficient(&coffee, 8, coffee.available()))
        }
        Code::StoreUnavailable => Problem::new(code)
            .detail("the store's heartbeat is not fresh")
            .with("storeId", "store-1")
            .with("reason", "offline")
            .with("lastBeatAgeMs", 61_204),
        Code::UnknownProduct => Problem::new(code).with("productId", "Coffee").with("didYouMean", "coffee"),
        Code::BodyTooLarge => Problem::new(code).with("limitBytes", 1 << 20),
        _ => Problem::new(code),
    };
    let mut value = problem.to_json();
    value.insert("instance".into(), "/v1/...".into());
    value.insert("traceId".into(), "0af7651916cd43dd8448eb211c80319c".into());
    json!({"summary": code.title(), "value": value})
}
