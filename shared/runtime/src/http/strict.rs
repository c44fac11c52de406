//! Strict JSON: a duplicate key is an error, in nested objects, too. And the fingerprint of a request.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use super::Problem;
use super::words::{self, TWICE};

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("must be a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Once { duplicate: object.contains_key(&key) })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A member's value; the error of a duplicate is raised here, where the path already names the key.
struct Once {
    duplicate: bool,
}

impl<'de> DeserializeSeed<'de> for Once {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.duplicate {
            return Err(D::Error::custom(TWICE));
        }
        Strict::deserialize(deserializer).map(|strict| strict.0)
    }
}

/// Reads a whole body: the JSON as it is, and what it means.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Value), Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Strict(json) =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.inner().classify() {
            // The one error of data that there is.
            Category::Data => Problem::invalid(pointer(&error), TWICE),
            Category::Eof => ends_early(),
            Category::Syntax | Category::Io => not_json(error.inner()),
        })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    // serde would take a list for an object whose members have no names.
    if !json.is_object() {
        return Err(not_an_object());
    }
    Ok((meaning(&json, "")?, json))
}

/// Reads a whole body that may be large straight into what it means; what stands for it in the fingerprint is a hash of that.
pub(super) fn read_large<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<(T, Value), Problem> {
    // serde would take a list for an object whose members have no names.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        return Err(not_an_object());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value: T =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.inner().classify() {
            Category::Data => Problem::invalid(pointer(&error), words::predicate(&without_place(error.inner()))),
            Category::Eof => ends_early(),
            Category::Syntax | Category::Io => not_json(error.inner()),
        })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    let mut hasher = blake3::Hasher::new();
    serde_json::to_writer(&mut hasher, &value).map_err(Problem::internal)?;
    Ok((value, hasher.finalize().to_hex().as_str().into()))
}

/// What the value at a place of a body means.
pub(super) fn meaning<T: DeserializeOwned>(json: &Value, at: &str) -> Result<T, Problem> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        Problem::invalid(format!("{at}{}", pointer(&error)), words::predicate(&error.inner().to_string()))
    })
}

/// What is wrong, without the line and column: the pointer says where.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

fn not_an_object() -> Problem {
    Problem::invalid("", "The body must be a JSON object")
}

fn ends_early() -> Problem {
    Problem::invalid("", "The body ends before its JSON does")
}

fn not_json(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    Problem::invalid("", format!("The body is no JSON from line {line}, column {column} on"))
}

/// The place of what is wrong.
fn pointer(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let mut pointer = String::new();
    for segment in error.path() {
        use serde_path_to_error::Segment;
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let text = error.inner().to_string();
    // A missing field is reported at its parent, and so is one that stands twice.
    let of_parent = text.strip_prefix("missing field `").or_else(|| text.strip_prefix("duplicate field `"));
    if let Some(name) = of_parent.and_then(|rest| rest.split('`').next()) {
        pointer.push_str(&format!("/{name}"));
    }
    pointer
}

/// The one member that `null` takes away, in the PATCH of an item: it does not mean the same as to leave it out.
const TAKEN_AWAY: &str = "lowAt";

/// Recognises a request that comes again: method, decoded path without `/v1`, and the body as a JSON value, in which a
/// member that is `null` is as good as none.
pub fn fingerprint(method: &str, path: &str, body: &Value) -> [u8; 16] {
    let mut said = without_nulls(body);
    if method == "PATCH"
        && body.get(TAKEN_AWAY).is_some_and(Value::is_null)
        && let Value::Object(members) = &mut said
    {
        members.insert(TAKEN_AWAY.to_owned(), Value::Null);
    }
    // Then equal values have equal text.
    said.sort_all_objects();
    let mut hasher = blake3::Hasher::new();
    for text in [method, path, &said.to_string()] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes
}

fn without_nulls(json: &Value) -> Value {
    match json {
        Value::Object(members) => {
            let said = members.iter().filter(|(_, value)| !value.is_null());
            Value::Object(said.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => json.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        #[allow(dead_code, reason = "read by serde alone")]
        quantity: i64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lines {
        #[allow(dead_code, reason = "read by serde alone")]
        lines: Vec<Line>,
    }

    fn pointer(text: &str) -> String {
        let problem = read::<Lines>(text.as_bytes()).expect_err("refused");
        problem.to_json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_pointer_names_the_place() {
        assert!(read::<Lines>(br#"{"lines":[{"quantity":1}]}"#).is_ok());
        for number in ["1.0", "1e3", "\"5\"", "null", "1.5", "10000000000000000000", "99999999999999999999", "true"] {
            assert_eq!(pointer(&format!(r#"{{"lines":[{{"quantity":{number}}}]}}"#)), "/lines/0/quantity", "{number}");
        }
        assert_eq!(pointer(r#"{"lines":[{}]}"#), "/lines/0/quantity");
        assert_eq!(pointer(r#"{"lines":[{"quantity":1,"quantity":1}]}"#), "/lines/0/quantity");
        assert_eq!(pointer(r#"{"lines":[],"x":1}"#), "/x");
        assert_eq!(pointer(r#"{"lines":[]"#), "");
        assert_eq!(pointer(r#"{"lines":[]} {}"#), "");
    }

    #[test]
    fn a_large_body_is_read_as_strictly() {
        #[derive(Debug, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        struct Counted {
            quantity: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            note: Option<String>,
        }
        #[derive(Debug, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        struct List {
            lines: Vec<Counted>,
        }
        let read = |text: &str| read_large::<List>(text.as_bytes());
        let stands_for = |text: &str| read(text).expect("is read").1;
        let one = stands_for(r#"{"lines":[{"quantity":1}]}"#);
        assert_eq!(one, stands_for(r#" {"lines": [{"note": null, "quantity": 1}]}"#));
        assert_ne!(one, stands_for(r#"{"lines":[{"quantity":2}]}"#));
        for (text, pointer, detail) in [
            (r#"{"lines":[{"quantity":1.0}]}"#, "/lines/0/quantity", "lines/0/quantity must be a whole number"),
            (
                r#"{"lines":[{"quantity":99999999999999999999}]}"#,
                "/lines/0/quantity",
                "lines/0/quantity must be a whole number",
            ),
            (r#"{"lines":[{"quantity":1},{}]}"#, "/lines/1/quantity", "lines/1/quantity is missing"),
            (
                r#"{"lines":[{"quantity":1,"quantity":1}]}"#,
                "/lines/0/quantity",
                "lines/0/quantity must stand only once",
            ),
            (r#"{"lines":[],"lines":[]}"#, "/lines", "lines must stand only once"),
            (r#"{"lines":[],"x":1}"#, "/x", "x is not known: there are lines"),
            (r#"{"lines":[]"#, "", "The body ends before its JSON does"),
            ("{x}", "", "The body is no JSON from line 1, column 2 on"),
            (r#"{"lines":[]} {}"#, "", "The body is no JSON from line 1, column 14 on"),
            ("[[]]", "", "The body must be a JSON object"),
            ("3", "", "must be an object"),
        ] {
            let error = read(text).expect_err("is refused").to_json()["errors"][0].clone();
            assert_eq!((error["pointer"].as_str(), error["detail"].as_str()), (Some(pointer), Some(detail)), "{text}");
        }
    }

    #[test]
    fn it_says_in_plain_words_what_is_wrong() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sale {
            #[allow(dead_code, reason = "read by serde alone")]
            quantity: crate::http::Quantity,
            #[allow(dead_code, reason = "read by serde alone")]
            reason: Option<protocol::domain::Reason>,
        }
        let quantity = "quantity must be a whole number from 1 to 1,000,000";
        let reason = "reason must be one of return, void, damage, theft, expiry, found, correction, other";
        for (body, words) in [
            (r#"{"quantity":"3"}"#, quantity),
            (r#"{"quantity":0}"#, quantity),
            (r#"{"quantity":1.0}"#, quantity),
            (r#"{"quantity":null}"#, quantity),
            (r#"{"quantity":10000000000000000000}"#, quantity),
            ("{}", "quantity is missing"),
            (r#"{"quantity":1,"quantity":1}"#, "quantity must stand only once"),
            (r#"{"quantity":1,"x":1}"#, "x is not known: there are quantity, reason"),
            (r#"{"quantity":1,"reason":"whim"}"#, reason),
            (r#"{"quantity":1"#, "The body ends before its JSON does"),
            ("{\n  quantity: 1}", "The body is no JSON from line 2, column 3 on"),
            ("[]", "The body must be a JSON object"),
        ] {
            let problem = read::<Sale>(body.as_bytes()).expect_err(body).to_json();
            assert_eq!((&problem["detail"], &problem["errors"][0]["detail"]), (&words.into(), &words.into()), "{body}");
        }
    }

    #[test]
    fn a_fingerprint_does_not_depend_on_the_order_of_keys() {
        let of = |text: &str| fingerprint("POST", "/x", &serde_json::from_str(text).expect("JSON"));
        assert_eq!(of(r#"{"a":1,"b":2}"#), of(r#"{ "b": 2, "a": 1 }"#));
        assert_ne!(of(r#"{"a":1}"#), of(r#"{"a":2}"#));
        assert_ne!(fingerprint("POST", "/x", &Value::Null), fingerprint("PUT", "/x", &Value::Null));
    }

    #[test]
    fn a_member_that_is_null_is_as_good_as_none_but_where_it_takes_something_away() {
        let of = |method: &str, text: &str| fingerprint(method, "/x", &serde_json::from_str(text).expect("JSON"));
        assert_eq!(of("POST", r#"{"a":1}"#), of("POST", r#"{"a":1,"reference":null,"lowAt":null}"#));
        assert_eq!(of("POST", r#"{"a":[{"b":1}]}"#), of("POST", r#"{"a":[{"b":1,"reference":null}]}"#));
        assert_eq!(of("PATCH", r#"{"name":"x"}"#), of("PATCH", r#"{"name":"x","reference":null}"#));
        assert_ne!(of("PATCH", r#"{"name":"x"}"#), of("PATCH", r#"{"name":"x","lowAt":null}"#));
    }
}
