//! `POST /import` and `GET /export`: the stock as CSV.
//!
//! An import is a stream of any length: 200 lines are one transaction, and each line stands for itself. A line whose
//! product is new creates it; otherwise its quantity is a count, and name and threshold are changed if they differ.
//!
//! **Guarantees.** Memory stays the same however long the file is and whatever it holds; a client that is slow or falls
//! silent holds nothing for long; and a sale waits for one batch of each import at most, of which there are few.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use csv::{ByteRecord, StringRecord};
use futures_util::{Stream, StreamExt};
use protocol::domain::{Guard, Item, Operation, Rejection};
use protocol::ids::{OperationId, ProductId};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::http::{Bounded as Number, Code, Name, Patience, Problem, Query, Result, Upload, Write};
use runtime::sqlite::{self, Abort, Connection, JobResult};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::{App, Shared};
use crate::ledger;
use crate::operations::till::{Request, perform};

/// Lines in one transaction: so few that a sale hardly notices.
const BATCH: usize = 200;
/// Longest header line, and longest record, bytes.
const RECORD: u64 = 64 << 10;
/// Over so much waiting an upload is judged by how fast it comes.
const SLOW_UPLOAD: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Lines whose results are told.
const TOLD: usize = 10_000;
const COLUMNS: [&str; 5] = ["productId", "name", "quantity", "version", "lowAt"];

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/import", post(import)).route("/export", get(export))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Options {
    dry_run: Option<bool>,
}

async fn import(
    State(app): Shared,
    Query(options): Query<Options>,
    write: Write,
    Upload { body, gzip }: Upload,
) -> Result<Json<Value>> {
    let place = app.imports.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::new(Code::Overloaded).detail("too many imports at once"))?;
    let about = About { reference: None, actor: write.actor, traceparent: Some(write.traceparent), occurred_at: None };
    let reader = StreamReader::new(patient(body.into_data_stream(), SLOW_UPLOAD, Instant::now() + DEADLINE));
    let handle = Handle::current();
    // A little gzip can be many lines: nobody works on when the client or the server has gone.
    let gone = CancellationToken::new();
    let _here = gone.clone().drop_guard();
    let task = tokio::task::spawn_blocking(move || {
        let _place = place;
        let raw = SyncIoBridge::new_with_handle(reader, handle.clone());
        let mut text: Box<dyn BufRead> = if gzip {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(raw)))
        } else {
            Box::new(BufReader::new(raw))
        };
        run(&app, &handle, &mut text, &about, options.dry_run.unwrap_or(false), &gone)
    });
    task.await.map_err(Problem::internal)?.map(Json)
}

/// The stream, ended by an error when it comes too slowly or for too long. Time that it waits for its lines to be taken
/// in does not count as slow.
fn patient<E>(
    stream: impl Stream<Item = std::result::Result<Bytes, E>> + Send + 'static,
    window: Duration,
    deadline: Instant,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let late = |why: &str| Some((Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why)), None));
    let stream =
        futures_util::stream::unfold(Some((Box::pin(stream), Patience::new(window))), move |state| async move {
            let (mut stream, mut patience) = state?;
            loop {
                let asked_at = Instant::now();
                if asked_at >= deadline {
                    return late("an import may take half an hour");
                }
                let chunk = tokio::time::timeout(patience.left(), stream.next()).await;
                let bytes = if let Ok(Some(Ok(bytes))) = &chunk { bytes.len() } else { 0 };
                let is_slow = patience.waited(asked_at.elapsed(), bytes);
                match chunk {
                    Ok(None) => return None,
                    Ok(Some(Err(error))) => return Some((Err(std::io::Error::other(error)), None)),
                    _ if is_slow => return late("it comes more slowly than 1 KiB a second"),
                    Ok(Some(Ok(chunk))) => return Some((Ok(chunk), Some((stream, patience)))),
                    Err(_) => {}
                }
            }
        });
    Box::pin(stream)
}

/// Reads no more than is left for the present record.
struct Bounded<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.get() == 0 {
            return Err(std::io::Error::other(format!("a record has at most {RECORD} bytes")));
        }
        let read = self.inner.read(buffer)?;
        self.left.set(self.left.get().saturating_sub(read as u64));
        Ok(read)
    }
}

fn unreadable(error: impl std::fmt::Display) -> Problem {
    Problem::invalid("", format!("the file cannot be read: {error}"))
}

/// What became of the lines so far.
#[derive(Default)]
struct Report {
    totals: Map<String, Value>,
    refused: Vec<LineResult>,
    others: Vec<LineResult>,
    lines: usize,
}

impl Report {
    fn add(&mut self, result: LineResult) {
        let count = self.totals.get(result.1).and_then(Value::as_i64).unwrap_or(0) + 1;
        self.totals.insert(result.1.to_owned(), count.into());
        self.lines += 1;
        let list = if result.2.is_some() { &mut self.refused } else { &mut self.others };
        if list.len() < TOLD {
            list.push(result);
        }
    }

    /// Refused lines go first when there are too many to tell.
    fn tell(mut self, dry_run: bool) -> Value {
        self.others.truncate(TOLD - self.refused.len());
        let mut told = self.refused;
        told.append(&mut self.others);
        told.sort_by_key(|(number, ..)| *number);
        let left_out = self.lines - told.len();
        let lines: Vec<Value> = told
            .into_iter()
            .map(|(number, result, problem)| json!({"line": number, "result": result, "problem": problem}))
            .collect();
        json!({"dryRun": dry_run, "lines": lines, "linesLeftOut": left_out, "totals": self.totals})
    }
}

/// Which column is where.
struct Header([Option<usize>; 5]);

impl Header {
    fn parse(names: &StringRecord) -> Result<Self> {
        let mut places = [None; 5];
        for (at, name) in names.iter().enumerate() {
            let known = COLUMNS.iter().position(|column| *column == name.trim());
            let place = known.ok_or_else(|| {
                Problem::invalid("/1", format!("unknown column {name:?}: there are {}", COLUMNS.join(", ")))
            })?;
            if places[place].replace(at).is_some() {
                return Err(Problem::invalid("/1", format!("column {name:?} appears twice")));
            }
        }
        if places[0].is_none() {
            return Err(Problem::invalid("/1", "the column productId is needed"));
        }
        Ok(Self(places))
    }

    fn get<'a>(&self, record: &'a StringRecord, column: usize) -> Option<&'a str> {
        self.0[column].and_then(|at| record.get(at)).map(str::trim).filter(|text| !text.is_empty())
    }
}

/// One line as it is meant.
struct Line {
    number: u64,
    wish: std::result::Result<Wish, Problem>,
    /// Names of what it may take to do it: a count and a change.
    operations: [OperationId; 2],
}

struct Wish {
    product: ProductId,
    name: Option<String>,
    quantity: Option<i64>,
    version: Option<i64>,
    low_at: Option<i64>,
}

fn run(
    app: &App,
    handle: &Handle,
    text: &mut dyn BufRead,
    about: &About,
    dry_run: bool,
    gone: &CancellationToken,
) -> Result<Value> {
    let mut first = Vec::new();
    (&mut *text).take(RECORD).read_until(b'\n', &mut first).map_err(unreadable)?;
    let header = first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&first).to_vec();
    let delimiter = [b',', b';', b'\t'].into_iter().max_by_key(|d| header.iter().filter(|byte| *byte == d).count());
    // What the reader takes in ahead of a record comes on top.
    let left = Cell::new(2 * RECORD);
    let mut csv = csv::ReaderBuilder::new()
        .has_headers(true)
        .flexible(true)
        .delimiter(delimiter.unwrap_or(b','))
        .from_reader(Bounded { inner: Cursor::new(header).chain(text), left: &left });
    let columns = Header::parse(csv.headers().map_err(unreadable)?)?;
    let mut report = Report::default();
    let mut batch = Vec::with_capacity(BATCH);
    let mut record = ByteRecord::new();
    loop {
        left.set(RECORD);
        // What was taken in before stays: it is told.
        let more = match csv.read_byte_record(&mut record) {
            Ok(more) => more,
            Err(error) => {
                let line = csv.position().line();
                return Err(unreadable(format!("{error}, near line {line}")).with("totals", report.totals));
            }
        };
        if more {
            let number = record.position().map_or(0, csv::Position::line);
            let text = StringRecord::from_byte_record(record.clone());
            let wish = match text {
                Ok(text) => wish(&columns, &text),
                Err(_) => Err(Problem::invalid("", "the line is not UTF-8")),
            };
            batch.push(Line { number, wish, operations: [name(), name()] });
        }
        if batch.len() == BATCH || (!more && !batch.is_empty()) {
            let results = handle.block_on(take_in(app, std::mem::take(&mut batch), about.clone(), dry_run))?;
            results.into_iter().for_each(|result| report.add(result));
            if gone.is_cancelled() {
                return Err(unreadable("the client has gone"));
            }
        }
        if !more {
            return Ok(report.tell(dry_run));
        }
    }
}

fn name() -> OperationId {
    OperationId::from_uuid(uuid::Uuid::now_v7())
}

fn wish(columns: &Header, record: &StringRecord) -> std::result::Result<Wish, Problem> {
    let product = columns.get(record, 0).ok_or_else(|| Problem::invalid("/productId", "a product is needed"))?;
    let product = ProductId::parse(product).map_err(|error| Problem::invalid("/productId", error.to_string()))?;
    let name = columns
        .get(record, 1)
        .map(|name| Name::parse(name).map(|name| name.0).map_err(|why| Problem::invalid("/name", why)))
        .transpose()?;
    Ok(Wish {
        product,
        name,
        quantity: number(columns, record, 2)?,
        version: number(columns, record, 3)?,
        low_at: number(columns, record, 4)?,
    })
}

fn number(columns: &Header, record: &StringRecord, column: usize) -> std::result::Result<Option<i64>, Problem> {
    let Some(text) = columns.get(record, column) else { return Ok(None) };
    let checked = serde_json::from_str::<Number0>(text).map(|number| number.0);
    checked.map(Some).map_err(|_| {
        Problem::invalid(
            format!("/{}", COLUMNS[column]),
            format!("{:?} is not a whole number from 0 to 1000000000", text.chars().take(40).collect::<String>()),
        )
    })
}

type Number0 = Number<0, 1_000_000_000>;

type LineResult = (u64, &'static str, Option<Value>);

/// One transaction. A trial run is taken back as a whole.
async fn take_in(app: &App, batch: Vec<Line>, about: About, dry_run: bool) -> Result<Vec<LineResult>> {
    let now = runtime::clock::now();
    let batch = Arc::new(batch);
    loop {
        let (lines, about) = (batch.clone(), about.clone());
        let written = app
            .db
            .write(move |connection| {
                let results =
                    lines.iter().map(|line| one(connection, line, &about, now)).collect::<JobResult<Vec<_>>>()?;
                if dry_run { Err(Abort::Refused(results)) } else { Ok(results) }
            })
            .await;
        match written {
            Ok(Ok(results) | Err(results)) => return Ok(results),
            // A long file waits for its turn instead of failing halfway.
            Err(sqlite::Error::Busy) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn one(connection: &Connection, line: &Line, about: &About, now: Millis) -> JobResult<LineResult> {
    let refused = |problem: &Problem| (line.number, "refused", Some(Value::Object(problem.to_json())));
    let wish = match &line.wish {
        Ok(wish) => wish,
        Err(problem) => return Ok(refused(problem)),
    };
    let item = ledger::find_item(connection, &wish.product)?;
    let (result, operations) = plan(wish, item.as_ref());
    let done = sqlite::attempt(connection, || {
        for (operation, id) in operations.into_iter().zip(&line.operations) {
            let guard = Guard { expected_version: wish.version, if_match: None };
            let counts = matches!(operation, Operation::Count { .. } | Operation::Create { .. });
            let request = Request {
                operation_id: id.clone(),
                product: wish.product.clone(),
                operation,
                // A second operation of the same line finds the version of the first.
                guard: if counts || result == "changed" { guard } else { Guard::default() },
                about: about.clone(),
                command: None,
            };
            perform(connection, &request, now)?;
        }
        Ok::<_, Abort<Rejection>>(())
    })?;
    match done {
        Ok(()) => Ok((line.number, result, None)),
        Err(Abort::Refused(rejection)) => Ok(refused(&Problem::from(rejection))),
        Err(Abort::Database(error)) => Err(error),
    }
}

fn plan(wish: &Wish, item: Option<&Item>) -> (&'static str, Vec<Operation>) {
    let Some(item) = item else {
        let name = wish.name.clone().unwrap_or_else(|| wish.product.to_string());
        let create = Operation::Create { name, quantity: wish.quantity.unwrap_or(0), low_at: wish.low_at };
        return ("created", vec![create]);
    };
    let mut operations = Vec::new();
    if let Some(quantity) = wish.quantity.filter(|quantity| *quantity != item.quantity) {
        operations.push(Operation::Count { quantity, counted_at: None, count_ref: None });
    }
    let name = wish.name.clone().filter(|name| *name != item.name);
    let low_at = wish.low_at.filter(|at| Some(*at) != item.low_at);
    let counted = !operations.is_empty();
    if name.is_some() || low_at.is_some() {
        operations.push(Operation::Change { name, discontinued: None, low_at });
    }
    let result = match (counted, operations.is_empty()) {
        (true, _) => "counted",
        (false, false) => "changed",
        (false, true) => "unchanged",
    };
    (result, operations)
}

async fn export(State(app): Shared) -> Result<Response> {
    let text = app.db.scan(|connection| ledger::all_items(connection).map(csv_of)).await?;
    let text = text.map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response())
}

fn csv_of(items: Vec<(ProductId, Item)>) -> csv::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut writer = csv::Writer::from_writer(&mut text);
    writer.write_record(COLUMNS)?;
    for (product, item) in &items {
        let low_at = item.low_at.map(|at| at.to_string()).unwrap_or_default();
        let record = [product.as_str(), &item.name, &item.quantity.to_string(), &item.version.to_string(), &low_at];
        writer.write_record(record)?;
    }
    writer.flush()?;
    drop(writer);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_that_stalls_ends() {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"a"))]);
        let stalled = first.chain(futures_util::stream::pending());
        let chunks: Vec<_> = patient(stalled, Duration::from_millis(20), Instant::now() + DEADLINE).collect().await;
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[1].as_ref().map_err(std::io::Error::kind), Err(std::io::ErrorKind::TimedOut));
    }

    #[test]
    fn a_report_tells_refused_lines_first_and_counts_all() {
        let mut report = Report::default();
        for number in 0..30_000 {
            let refused = number % 10 == 9;
            report.add((number, if refused { "refused" } else { "created" }, refused.then_some(Value::Null)));
        }
        let told = report.tell(false);
        let lines = told["lines"].as_array().expect("a list");
        assert_eq!((lines.len(), &told["linesLeftOut"]), (TOLD, &json!(20_000)));
        assert_eq!(lines.iter().filter(|line| line["result"] == "refused").count(), 3_000);
        assert_eq!(told["totals"], json!({"created": 27_000, "refused": 3_000}));
        assert!(lines.is_sorted_by_key(|line| line["line"].as_u64()));
    }
}
