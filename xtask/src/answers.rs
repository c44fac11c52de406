//! What the end-to-end tests were answered, compared with what both servers say that they answer (`docs/openapi`).
//!
//! Of each operation there must have been every success, and every refusal of its own. What any operation may answer must
//! have come once from each server. What writes must have been asked for twice, under a key and without. And nothing may have
//! been answered that is not described.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::process;

/// Refusals that have nothing to do with what is asked for.
const OF_ANY_OPERATION: [&str; 9] = [
    "body_too_large",
    "forbidden",
    "internal",
    "invalid_request",
    "overloaded",
    "rate_limited",
    "restarting",
    "unauthorized",
    "unsupported_media_type",
];

/// What must never be answered: it is a bug.
const BUG: &str = "internal";

/// What no test can ask for, though it may come: server, operation, what is missing.
const EXCUSED: [(&str, &str, &str); 3] = [
    // Only if the store opens an epoch between two looks at it.
    ("central", "POST /v1/purchase", "not_caught_up"),
    ("central", "POST /v1/purchase/{storeId}/{productId}", "not_caught_up"),
    // Only for the moment in which a whole state takes the place of another one.
    ("central", "POST /v1/stores/{storeId}/restore", "not_caught_up"),
];

/// An operation of one of the servers.
#[derive(Default)]
struct Operation {
    /// Statuses that it describes itself.
    statuses: BTreeSet<u16>,
    /// Codes of problems that it may answer with.
    codes: BTreeSet<String>,
    writes: bool,
    is_keyed: bool,
    answers: Vec<Answer>,
}

struct Answer {
    status: u16,
    code: Option<String>,
    /// Which request it was: the same one has the same number.
    request: u64,
    keyed: bool,
    replayed: bool,
}

/// Reads the answers that were written down, and says what is missing.
pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} is missing", file.display()))?;
    let mut missing = BTreeSet::new();
    let mut told = 0;
    for server in ["central", "store-agent"] {
        let path = process::root().join(format!("docs/openapi/{server}.json"));
        let mut operations = operations(&serde_json::from_str(&std::fs::read_to_string(path)?)?)?;
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("an answer: {line}"))?;
            if line["server"] != server {
                continue;
            }
            told += 1;
            let (method, path) =
                (line["method"].as_str().unwrap_or_default(), line["path"].as_str().unwrap_or_default());
            if let Some(operation) = find(&mut operations, method, path) {
                operation.answers.push(answer(&line)?);
            }
        }
        let of_server = compare(&operations).into_iter();
        missing.extend(of_server.map(|(operation, what)| (server, operation, what)));
    }
    let excused: BTreeSet<_> = EXCUSED
        .iter()
        .map(|(server, operation, what)| (*server, (*operation).to_owned(), (*what).to_owned()))
        .collect();
    for (server, operation, what) in missing.difference(&excused) {
        println!("{server}: {operation}: {what}");
    }
    if !missing.is_subset(&excused) {
        bail!("the end-to-end tests have not seen what both servers say that they answer");
    }
    println!("the end-to-end tests have seen what both servers say that they answer, in {told} answers");
    Ok(())
}

fn operations(description: &Value) -> anyhow::Result<BTreeMap<(String, String), Operation>> {
    let mut operations = BTreeMap::new();
    for (path, of_path) in description["paths"].as_object().context("paths")? {
        for (method, described) in of_path.as_object().context("operations")? {
            let mut operation = Operation { writes: method != "get", ..Operation::default() };
            for (status, response) in described["responses"].as_object().context("responses")? {
                // What is only a reference are the problems that are named below.
                if response.get("$ref").is_none() {
                    operation.statuses.insert(status.parse()?);
                }
            }
            let codes = described["x-problems"].as_array().context("x-problems")?;
            operation.codes.extend(codes.iter().filter_map(Value::as_str).map(str::to_owned));
            let parameters = described["parameters"].as_array();
            operation.is_keyed = parameters.into_iter().flatten().any(|one| one["name"] == "Idempotency-Key");
            operations.insert((path.clone(), method.to_uppercase()), operation);
        }
    }
    Ok(operations)
}

/// The operation that a request is for. Paths may leave out `/v1`.
fn find<'a>(
    operations: &'a mut BTreeMap<(String, String), Operation>,
    method: &str,
    path: &str,
) -> Option<&'a mut Operation> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str, path: &str| {
        let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        template.len() == path.len()
            && template
                .iter()
                .zip(&path)
                .all(|(part, given)| part == given || part.starts_with('{') && !given.is_empty())
    };
    let under_v1 = format!("/v1{path}");
    let found = operations
        .keys()
        .filter(|(template, of)| of == method && (fits(template, path) || fits(template, &under_v1)))
        // A part that stands there as it is goes before one that is any.
        .min_by_key(|(template, _)| template.matches('{').count())?
        .clone();
    operations.get_mut(&found)
}

fn answer(line: &Value) -> anyhow::Result<Answer> {
    Ok(Answer {
        status: line["status"].as_u64().and_then(|status| status.try_into().ok()).context("status")?,
        code: line["code"].as_str().map(str::to_owned),
        request: line["request"].as_u64().context("request")?,
        keyed: line["keyed"] == true,
        replayed: line["replayed"] == true,
    })
}

/// What is missing, and what is too much: operation, what.
fn compare(operations: &BTreeMap<(String, String), Operation>) -> BTreeSet<(String, String)> {
    let mut missing = BTreeSet::new();
    let mut of_any: BTreeSet<&str> = OF_ANY_OPERATION.into();
    of_any.remove(BUG);
    for ((path, method), operation) in operations {
        let mut miss = |what: String| missing.insert((format!("{method} {path}"), what));
        let mut statuses = operation.statuses.clone();
        let mut codes: BTreeSet<&str> = operation.codes.iter().map(String::as_str).collect();
        codes.retain(|code| !OF_ANY_OPERATION.contains(code));
        for answer in &operation.answers {
            match &answer.code {
                Some(code) if code == BUG => _ = miss(format!("{BUG} was answered")),
                Some(code) if !operation.codes.contains(code) => _ = miss(format!("{code} is not described")),
                None if !operation.statuses.contains(&answer.status) => {
                    miss(format!("{} is not described", answer.status));
                }
                Some(code) => {
                    codes.remove(code.as_str());
                    of_any.remove(code.as_str());
                }
                None => _ = statuses.remove(&answer.status),
            }
        }
        statuses.into_iter().for_each(|status| _ = miss(status.to_string()));
        codes.into_iter().for_each(|code| _ = miss(code.to_owned()));
        if operation.writes {
            let is_done = |answer: &&Answer| answer.status < 400;
            let mut done = operation.answers.iter().filter(is_done);
            if operation.is_keyed && !done.any(|answer| answer.replayed) {
                miss("twice under a key".to_owned());
            }
            let mut seen = BTreeSet::new();
            // The first one was done; what the second one is answered the test knows.
            let twice =
                operation.answers.iter().filter(|answer| !(operation.is_keyed && answer.keyed)).any(|answer| {
                    seen.contains(&answer.request) || answer.status < 400 && !seen.insert(answer.request)
                });
            if !twice {
                miss("twice without a key".to_owned());
            }
        }
    }
    missing.extend(of_any.into_iter().map(|code| ("any".to_owned(), code.to_owned())));
    missing
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn missing(answers: &[Value]) -> Vec<String> {
        let description = json!({"paths": {
            "/v1/items/{id}": {"put": {
                "parameters": [{"name": "Idempotency-Key"}],
                "responses": {"200": {}, "400": {"$ref": ""}, "404": {"$ref": ""}},
                "x-problems": ["invalid_request", "unknown_id"],
            }},
            "/v1/items/all": {"get": {"responses": {"200": {}}, "x-problems": []}},
        }});
        let mut operations = operations(&description).expect("it is one");
        for line in answers {
            let found =
                find(&mut operations, line["method"].as_str().expect("text"), line["path"].as_str().expect("text"));
            found.expect("an operation").answers.push(answer(line).expect("it is one"));
        }
        let missing = compare(&operations).into_iter().filter(|(operation, _)| operation != "any");
        missing.map(|(operation, what)| format!("{operation}: {what}")).collect()
    }

    #[test]
    fn what_no_test_was_answered_is_missing_and_what_is_not_described_is_too_much() {
        let nothing = missing(&[]);
        assert_eq!(
            nothing,
            [
                "GET /v1/items/all: 200",
                "PUT /v1/items/{id}: 200",
                "PUT /v1/items/{id}: twice under a key",
                "PUT /v1/items/{id}: twice without a key",
                "PUT /v1/items/{id}: unknown_id",
            ]
        );
        let put = |request: u64, status: u16, code: Option<&str>, keyed: bool, replayed: bool| {
            json!({
                "method": "PUT", "path": "/items/a?x=1", "keyed": keyed, "request": request, "status": status,
                "code": code, "replayed": replayed,
            })
        };
        let (list, gone) =
            (json!({"method": "GET", "path": "/v1/items/all", "request": 9, "status": 200}), Some("unknown_id"));
        let one_each = [list.clone(), put(1, 200, None, false, false), put(2, 404, gone, false, false)];
        let twice = [put(3, 200, None, true, false), put(3, 200, None, true, true)];
        let left = missing(&[&one_each[..], &twice].concat());
        assert_eq!(left, ["PUT /v1/items/{id}: twice without a key"], "what was refused was not done");
        let again = [put(1, 404, gone, false, false)];
        assert_eq!(missing(&[&one_each[..], &twice, &again].concat()), [""; 0]);
        let bug = [put(5, 500, Some("internal"), false, false)];
        assert_eq!(
            missing(&[&one_each[..], &twice, &again, &bug].concat()),
            ["PUT /v1/items/{id}: internal was answered"]
        );
        let more = [put(4, 409, Some("too_much"), false, false), put(4, 202, None, false, false)];
        assert_eq!(
            missing(&[&one_each[..], &twice, &again, &more].concat()),
            ["PUT /v1/items/{id}: 202 is not described", "PUT /v1/items/{id}: too_much is not described"]
        );
    }
}
