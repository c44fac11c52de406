//! `POST /import` and `GET /export`: the stock as CSV.
//!
//! An import is a stream of any length: 200 records are one transaction, and each record stands for itself. One whose
//! product is new creates it; otherwise its quantity is a count, which may have been true at an earlier position, and name and
//! threshold are changed if they differ. Each is told by its line in the file, and all that is read adds up to the totals.
//!
//! **Guarantees.** Memory stays the same however long the file is and whatever it holds; a client that is slow or falls
//! silent holds nothing for long; and a sale waits for one batch of each import at most, of which there are few.

use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use protocol::domain::{Facts, Guard, Item, LowAt, Operation, Rejection, apply, decide};
use protocol::ids::{OperationId, ProductId};
use protocol::time::Millis;
use protocol::wire::{About, Position};
use runtime::http::openapi::schema;
use runtime::http::{Actor, Bounded as Number, Code, Name, Patience, Problem, Query, Result, Upload, Write};
use runtime::sqlite::{self, Abort, Connection, JobResult, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Ended;
use super::csv::{self, Cell, RECORD, Record, Records};
use super::imports::{Progress, Totals};
use super::{App, Shared};
use crate::ledger::seen::Seen;
use crate::ledger::{self, ItemFilter, Moved};
use crate::operations::till::{self, Request, perform};

/// Lines in one transaction: so few that a sale hardly notices.
const BATCH: usize = 200;
/// When there is too much else to do.
const AGAIN: Duration = Duration::from_millis(20);
/// Items that an export reads at once.
const EXPORTED: usize = 1_000;
/// Over so much waiting an upload is judged by how fast it comes.
const SLOW_UPLOAD: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Lines whose results are told.
const TOLD: usize = 10_000;
const COLUMNS: [&str; 5] = ["productId", "name", "quantity", "version", "lowAt"];

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(import)).routes(routes!(export))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Options {
    /// `true`: only say what would change.
    dry_run: Option<bool>,
    /// Where the ledger stood when the file's counts were true: what was sold since is taken off. Else they are when their
    /// line is taken in.
    #[param(value_type = Option<schema::Position>)]
    counted_at: Option<Position>,
}

/// How a file is meant.
struct Meaning {
    dry_run: bool,
    /// Where its counts were true.
    counted_at: Option<Position>,
    about: About,
}

/// Take in a CSV file
///
/// A line whose product is new creates it; otherwise its quantity is a count, and name and threshold are changed if they
/// differ. Each line stands for itself. With `version` only an item of that version is changed.
#[utoipa::path(
    post, path = "/import", operation_id = "importItems", tag = "Import and export", params(Options, Actor),
    request_body(content = String, content_type = "text/csv", description = "With a header line; columns `productId`, `name`, `quantity`, `version`, `lowAt` in any order, all but the first optional; `,`, `;` or tab. gzip with `Content-Encoding: gzip`.", example = "productId,name,quantity\ncoffee,\"Coffee, 500 g\",24\n"),
    responses((status = 200, description = "What became of each line", body = Rendered)),
)]
async fn import(
    State(app): Shared,
    Query(options): Query<Options>,
    write: Write,
    Upload { body, gzip }: Upload,
) -> Result<Json<Rendered>> {
    let dry_run = options.dry_run.unwrap_or(false);
    let progress = app.imports.begin(dry_run);
    let progress = progress.ok_or_else(|| Problem::new(Code::Overloaded).detail("too many imports at once"))?;
    if let Some(position) = options.counted_at.clone() {
        // Else each of its counts would be refused.
        let has = move |connection: &Connection| till::has(connection, &ledger::head(connection)?, &position);
        if !app.db.read(has).await? {
            return Err(Problem::invalid("?countedAt", "must be a position of this ledger's present epoch"));
        }
    }
    let about = About { actor: write.actor, traceparent: Some(write.traceparent), ..About::default() };
    let meaning = Meaning { dry_run, counted_at: options.counted_at, about };
    let reader = StreamReader::new(patient(body.into_data_stream(), SLOW_UPLOAD, Instant::now() + DEADLINE));
    let handle = Handle::current();
    // A little gzip can be many lines: nobody works on when the client or the server has gone.
    let gone = CancellationToken::new();
    let _here = gone.clone().drop_guard();
    let task = tokio::task::spawn_blocking(move || {
        let raw = SyncIoBridge::new_with_handle(reader, handle.clone());
        let mut text: Box<dyn BufRead> = if gzip {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(raw)))
        } else {
            Box::new(BufReader::new(raw))
        };
        run(&app, &handle, &mut text, Arc::new(meaning), &progress, &gone)
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

fn unreadable(why: impl std::fmt::Display) -> Problem {
    Problem::invalid("", format!("The file cannot be read: {why}"))
}

/// Why nothing more comes of a file, in words.
fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData => "it is no gzip, or damaged".to_owned(),
        ErrorKind::UnexpectedEof => "the gzip ends before its end".to_owned(),
        ErrorKind::TimedOut => error.to_string(),
        _ => "it broke off".to_owned(),
    }
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Created,
    Updated,
    Unchanged,
    Refused,
}

/// A record of the file, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ImportedLine)]
struct LineResult {
    /// The line on which it begins.
    line: u64,
    #[schema(value_type = Option<schema::ProductId>)]
    product_id: Option<ProductId>,
    result: Outcome,
    /// Members that are not what they were, each `{from, to}`; of a new product, what it is.
    #[schema(value_type = Object)]
    changes: Map<String, Value>,
    /// Reservations that fell short of what was counted, and have ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    ended_reservations: Vec<Ended>,
    /// Why it was refused.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

impl LineResult {
    fn refused(line: u64, product_id: Option<ProductId>, problem: &Problem) -> Self {
        let problem = Some(Value::Object(problem.to_json()));
        let (changes, ended_reservations) = (Map::new(), Vec::new());
        Self { line, product_id, result: Outcome::Refused, changes, ended_reservations, problem }
    }
}

/// What became of a file
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ImportReport)]
struct Rendered {
    dry_run: bool,
    /// Up to 10,000, those that were refused before others.
    lines: Vec<LineResult>,
    /// So many more were read and are not told.
    lines_left_out: usize,
    blank_lines: u64,
    totals: Totals,
}

/// What became of the records so far.
#[derive(Default)]
struct Report {
    totals: Totals,
    refused: Vec<LineResult>,
    others: Vec<LineResult>,
}

impl Report {
    fn add(&mut self, result: LineResult) {
        *match result.result {
            Outcome::Created => &mut self.totals.created,
            Outcome::Updated => &mut self.totals.updated,
            Outcome::Unchanged => &mut self.totals.unchanged,
            Outcome::Refused => &mut self.totals.refused,
        } += 1;
        let list = if result.problem.is_some() { &mut self.refused } else { &mut self.others };
        if list.len() < TOLD {
            list.push(result);
        }
    }

    /// Refused lines go first when there are too many to tell.
    fn render(mut self, dry_run: bool, blank_lines: u64) -> Rendered {
        self.others.truncate(TOLD - self.refused.len());
        let mut told = self.refused;
        told.append(&mut self.others);
        told.sort_by_key(|result| result.line);
        let lines_left_out = self.totals.sum() - told.len();
        Rendered { dry_run, lines: told, lines_left_out, blank_lines, totals: self.totals }
    }
}

/// Which column is where, and how many there are.
struct Header {
    places: [Option<usize>; 5],
    columns: usize,
}

impl Header {
    fn parse(names: &[Cell]) -> Result<Self> {
        let mut places = [None; 5];
        for (at, name) in names.iter().enumerate() {
            let name = name.value().trim();
            let known = COLUMNS.iter().position(|column| *column == name);
            let place = known.ok_or_else(|| {
                Problem::invalid(
                    "/1",
                    format!("(the header) must not have the column {name:?}: there are {}", COLUMNS.join(", ")),
                )
            })?;
            if places[place].replace(at).is_some() {
                return Err(Problem::invalid("/1", format!("(the header) must have the column {name:?} once")));
            }
        }
        if places[0].is_none() {
            return Err(Problem::invalid("/1", "(the header) must have the column productId"));
        }
        Ok(Self { places, columns: names.len() })
    }

    fn get<'a>(&self, record: &'a Record, column: usize) -> Option<&'a str> {
        let cell = record.cells.get(self.places[column]?)?;
        Some(cell.value()).filter(|text| !text.trim().is_empty())
    }
}

/// One record as it is meant.
struct Line {
    number: u64,
    /// Which product it is about, if it says so.
    product: Option<ProductId>,
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
    meaning: Arc<Meaning>,
    progress: &Progress,
    gone: &CancellationToken,
) -> Result<Rendered> {
    let mut first = Vec::new();
    (&mut *text).take(RECORD as u64).read_until(b'\n', &mut first).map_err(|error| unreadable(in_words(&error)))?;
    let header = first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&first).to_vec();
    let delimiter = [b',', b';', b'\t'].into_iter().max_by_key(|d| header.iter().filter(|byte| *byte == d).count());
    let mut records = Records::new(Cursor::new(header).chain(text), delimiter.unwrap_or(b','));
    let header = records.next().map_err(|error| unreadable(in_words(&error)))?.unwrap_or_default();
    if let Some(fault) = header.fault {
        return Err(Problem::invalid("", fault));
    }
    let columns = Header::parse(&header.cells)?;
    let seen = Seen::open().map_err(Problem::internal)?;
    let mut report = Report::default();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        // What was taken in before stays: it is told.
        let record = records.next().map_err(|error| {
            let line = records.line();
            unreadable(format!("{}, near line {line}", in_words(&error))).with("totals", json!(report.totals))
        })?;
        let is_last = record.is_none();
        if let Some(record) = record {
            batch.push(read(&columns, &record, &seen)?);
        }
        if batch.len() == BATCH || (is_last && !batch.is_empty()) {
            let results = handle.block_on(take_in(app, std::mem::take(&mut batch), meaning.clone()))?;
            results.into_iter().for_each(|result| report.add(result));
            progress.report(report.totals);
            if gone.is_cancelled() {
                return Err(unreadable("the client has gone"));
            }
        }
        if is_last {
            return Ok(report.render(meaning.dry_run, records.blank()));
        }
    }
}

fn name() -> OperationId {
    OperationId::from_uuid(uuid::Uuid::now_v7())
}

/// What a record means. Of those that name the same product the first one counts, whatever becomes of it.
fn read(columns: &Header, record: &Record, seen: &Seen) -> Result<Line> {
    let product = product(columns, record);
    let before = match &product {
        Ok(product) => seen.before(product, record.line).map_err(Problem::internal)?,
        Err(_) => None,
    };
    let known = product.as_ref().ok().cloned();
    let wish = match before {
        Some(line) => Err(Problem::invalid("/productId", format!("is on line {line} already"))),
        None => product.and_then(|product| wish(product, columns, record)),
    };
    Ok(Line { number: record.line, product: known, wish, operations: [name(), name()] })
}

fn product(columns: &Header, record: &Record) -> Result<ProductId> {
    if let Some(fault) = &record.fault {
        return Err(Problem::invalid("", fault));
    }
    let (has, needs) = (record.cells.len(), columns.columns);
    if has != needs {
        return Err(invalid(record, "", format!("The record has {has} cells, the header has {needs}")));
    }
    let product = columns.get(record, 0).ok_or_else(|| invalid(record, "/productId", "is missing"))?;
    ProductId::parse(product.trim()).map_err(|error| invalid(record, "/productId", error))
}

fn invalid(record: &Record, pointer: &str, why: impl std::fmt::Display) -> Problem {
    Problem::invalid(pointer, format!("{why}{}", record.reach()))
}

fn wish(product: ProductId, columns: &Header, record: &Record) -> Result<Wish> {
    let name = columns
        .get(record, 1)
        .map(|name| Name::parse(name).map(|name| name.0).map_err(|why| invalid(record, "/name", why)))
        .transpose()?;
    Ok(Wish {
        product,
        name,
        quantity: number(columns, record, 2)?,
        version: number(columns, record, 3)?,
        low_at: number(columns, record, 4)?,
    })
}

fn number(columns: &Header, record: &Record, column: usize) -> Result<Option<i64>> {
    let Some(text) = columns.get(record, column).map(str::trim) else { return Ok(None) };
    let checked = serde_json::from_str::<Number<0, 1_000_000_000>>(text).map(|number| number.0);
    let place = format!("/{}", COLUMNS[column]);
    checked.map(Some).map_err(|_| invalid(record, &place, "must be a whole number from 0 to 1,000,000,000"))
}

/// One transaction. A trial run is taken back as a whole.
async fn take_in(app: &App, batch: Vec<Line>, meaning: Arc<Meaning>) -> Result<Vec<LineResult>> {
    let now = runtime::clock::now();
    let counted = |line: &Line| {
        let wish = line.wish.as_ref().ok().filter(|wish| wish.quantity.is_some())?;
        Some((wish.product.clone(), meaning.counted_at.as_ref()?.at))
    };
    // A long file waits for its turn instead of failing halfway.
    let moved = loop {
        match app.moved_since(batch.iter().filter_map(counted).collect()).await {
            Err(problem) if problem.code() == Code::Overloaded => tokio::time::sleep(AGAIN).await,
            moved => break Arc::new(moved?),
        }
    };
    let batch = Arc::new(batch);
    loop {
        let (lines, meaning, moved) = (batch.clone(), meaning.clone(), moved.clone());
        let written = app
            .db
            .write_as(Weight::Heavy, move |connection| {
                let results = lines.iter().map(|line| one(connection, line, &meaning, &moved, now));
                let results = results.collect::<JobResult<Vec<_>>>()?;
                if meaning.dry_run { Err(Abort::Refused(results)) } else { Ok(results) }
            })
            .await;
        match written {
            Ok(Ok(results) | Err(results)) => return Ok(results),
            Err(sqlite::Error::Busy) => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn one(connection: &Connection, line: &Line, meaning: &Meaning, moved: &Moved, now: Millis) -> JobResult<LineResult> {
    let refused = |problem: &Problem| LineResult::refused(line.number, line.product.clone(), problem);
    let wish = match &line.wish {
        Ok(wish) => wish,
        Err(problem) => return Ok(refused(problem)),
    };
    let item = ledger::find_item(connection, &wish.product)?;
    if item.is_none() && wish.version.is_some() {
        let problem = Problem::from(Rejection::UnknownProduct);
        return Ok(refused(&problem.detail("The line has a version, but the store has no such product")));
    }
    let moved_since_count = match &meaning.counted_at {
        Some(at) if item.is_some() && wish.quantity.is_some() => {
            till::moved_since(connection, &ledger::head(connection)?, &wish.product, at, moved)?
        }
        Some(_) | None => Some(0),
    };
    let planned = moved_since_count.ok_or(Rejection::UnknownPosition);
    let planned = planned.and_then(|moved| plan(wish, item.as_ref(), meaning.counted_at.as_ref(), moved));
    let Plan { result, operations, changes } = match planned {
        Ok(plan) => plan,
        Err(rejection) => return Ok(refused(&Problem::from(rejection))),
    };
    let done = sqlite::attempt(connection, || {
        let (mut version, mut ended) = (wish.version, Vec::new());
        for (operation, id) in operations.into_iter().zip(&line.operations) {
            let request = Request {
                operation_id: id.clone(),
                product: wish.product.clone(),
                operation,
                // A second operation of the same line finds the version of the first.
                guard: Guard { expected_version: version.take(), if_match: None },
                about: meaning.about.clone(),
                command: None,
            };
            ended.extend(Ended::by(&perform(connection, &request, moved, now)?));
        }
        Ok::<_, Abort<Rejection>>(ended)
    })?;
    match done {
        Ok(ended_reservations) => Ok(LineResult {
            line: line.number,
            product_id: Some(wish.product.clone()),
            result,
            changes,
            ended_reservations,
            problem: None,
        }),
        Err(Abort::Refused(rejection)) => Ok(refused(&Problem::from(rejection))),
        Err(Abort::Database(error)) => Err(error),
    }
}

/// What a line comes to.
struct Plan {
    result: Outcome,
    operations: Vec<Operation>,
    changes: Map<String, Value>,
}

/// `moved_since_count`: so many units came, less those that went, since the counts were true.
fn plan(
    wish: &Wish,
    item: Option<&Item>,
    counted_at: Option<&Position>,
    moved_since_count: i64,
) -> std::result::Result<Plan, Rejection> {
    let mut changes = Map::new();
    let mut change =
        |member: &str, from: Value, to: Value| changes.insert(member.into(), json!({"from": from, "to": to}));
    let Some(item) = item else {
        let name = wish.name.clone().unwrap_or_else(|| wish.product.to_string());
        let quantity = wish.quantity.unwrap_or(0);
        change("name", Value::Null, json!(name));
        change("quantity", Value::Null, json!(quantity));
        change("lowAt", Value::Null, json!(wish.low_at));
        let create = Operation::Create { name, quantity, low_at: wish.low_at };
        return Ok(Plan { result: Outcome::Created, operations: vec![create], changes });
    };
    let mut operations = Vec::new();
    if let Some(quantity) = wish.quantity {
        let count = Operation::Count { quantity, counted_at: counted_at.cloned(), count_ref: None };
        let facts = Facts { moved_since_count, ..Facts::default() };
        // What comes to nothing has no version to be judged by, and is not recorded.
        let counted = apply(Some(item), &decide(Some(item), &count, &Guard::default(), facts)?, item.updated_at);
        if counted.quantity != item.quantity {
            change("quantity", json!(item.quantity), json!(counted.quantity));
            operations.push(count);
        }
    }
    let name = wish.name.clone().filter(|name| *name != item.name);
    let low_at = wish.low_at.filter(|at| Some(*at) != item.low_at);
    if let Some(name) = &name {
        change("name", json!(item.name), json!(name));
    }
    if let Some(low_at) = low_at {
        change("lowAt", json!(item.low_at), json!(low_at));
    }
    if name.is_some() || low_at.is_some() {
        operations.push(Operation::Change { name, discontinued: None, low_at: low_at.map(LowAt::Units) });
    }
    let result = if operations.is_empty() { Outcome::Unchanged } else { Outcome::Updated };
    Ok(Plan { result, operations, changes })
}

/// All items as CSV
#[utoipa::path(
    get, path = "/export", operation_id = "exportItems", tag = "Import and export",
    responses((status = 200, description = "What `POST /import` takes", body = String, content_type = "text/csv")),
)]
async fn export(State(app): Shared) -> Result<Response> {
    let first = csv::line(COLUMNS);
    let pieces = futures_util::stream::try_unfold((first, Some(String::new())), move |(ready, after)| {
        let app = app.clone();
        async move {
            if !ready.is_empty() {
                return Ok(Some((Bytes::from(ready), (String::new(), after))));
            }
            let Some(after) = after else { return Ok(None) };
            let filter =
                ItemFilter { with_discontinued: true, after: Some(after), limit: EXPORTED, ..ItemFilter::default() };
            let items = app.db.scan(move |connection| ledger::items_in_order(connection, &filter)).await?;
            let is_last = items.len() < EXPORTED;
            let next = items.last().filter(|_| !is_last).map(|(product, _)| product.to_string());
            let text: String = items.iter().map(|(product, item)| exported(product, item)).collect();
            Ok::<_, sqlite::Error>(Some((Bytes::from(text), (String::new(), next))))
        }
    });
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], axum::body::Body::from_stream(pieces)).into_response())
}

fn exported(product: &ProductId, item: &Item) -> String {
    let low_at = item.low_at.map(|at| at.to_string()).unwrap_or_default();
    csv::line([product.as_str(), &item.name, &item.quantity.to_string(), &item.version.to_string(), &low_at])
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
        for line in 0..30_000 {
            report.add(match line % 10 {
                9 => LineResult::refused(line, None, &Problem::invalid("", "bad")),
                _ => LineResult {
                    line,
                    product_id: None,
                    result: Outcome::Created,
                    changes: Map::new(),
                    ended_reservations: Vec::new(),
                    problem: None,
                },
            });
        }
        let told = report.render(false, 3);
        assert_eq!((told.lines.len(), told.lines_left_out, told.blank_lines), (TOLD, 20_000, 3));
        assert_eq!(told.lines.iter().filter(|line| line.result == Outcome::Refused).count(), 3_000);
        assert_eq!(told.totals, Totals { created: 27_000, refused: 3_000, ..Totals::default() });
        assert!(told.lines.is_sorted_by_key(|line| line.line));
    }
}
