//! `cargo xtask mutation`: a sample of what `cargo mutants` would change, in one build.
//!
//! A build for each mutant would take minutes. So the source is copied, and each function that is mutated has its body once
//! more for each of its mutants: `match mutant() { 17 => { mutated }, 18 => ..., _ => { as it is } }`. An environment variable
//! says which of them a process runs. What does not compile is taken out. Each mutant has the unit tests of its own crate and
//! of those above it against it, then the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::process;

/// What is mutated: where it is decided what becomes of a promise.
const MUTATED: &[&str] = &[
    "shared/protocol/src/**",
    "store-agent/src/ledger/**",
    "store-agent/src/operations/**",
    "central/src/projection/**",
    "central/src/promises/**",
];
/// Bugs on purpose are nothing to test.
const NOT_MUTATED: &str = "shared/protocol/src/planted.rs";
/// Whose unit tests judge a mutant: its own crate's, and those of the crates behind it.
const CRATES: &[&str] = &["protocol", "store_agent", "central"];
/// The first seed in which rare faults are frequent (`tests::simulation::DENSE`).
const DENSE: u64 = 1_000_000;
/// What takes so many times as long as without a mutant does not end.
const PATIENCE: u32 = 8;
const PATIENCE_MIN: Duration = Duration::from_secs(60);
/// Address space of a process: a mutant that allocates for ever ends there.
const MEMORY_MAX_KIB: u64 = 6 << 20;
/// A part of what is wanted is drawn besides: not all compile.
const SPARE: usize = 2;

/// The switch, at the end of the copy's `protocol/src/lib.rs`.
const SWITCH: &str = r#"
extern crate self as protocol;

pub fn mutant() -> u32 {
    static ACTIVE: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var("MUTANT").map_or(0, |number| number.parse().expect("a number")));
    *ACTIVE
}
"#;
const SWITCH_FILE: &str = "shared/protocol/src/lib.rs";

#[derive(Args)]
pub(crate) struct Options {
    /// How many mutants.
    #[arg(long, default_value_t = 400)]
    sample: usize,
    /// Which of all samples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds of the simulation against what the unit tests let live; a third of them has frequent rare faults.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Only mutants whose name contains this.
    only: Option<String>,
}

struct Mutant {
    number: u32,
    name: String,
    file: String,
    /// Of the crate, in [`CRATES`].
    level: usize,
    /// What is replaced, and the braces of the function around it, in characters of the file.
    span: Range<usize>,
    body: Range<usize>,
    replacement: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let stop = process::asked_to_stop()?;
    let folder = process::target().join("mutation");
    let mut mutants = draw(options)?;
    let mut unviable = BTreeSet::new();
    let tests = loop {
        let places = write_copy(&folder.join("source"), &mutants)?;
        match build(&folder, &["test", "--workspace", "--no-run", "--lib"])? {
            Built::Programs(programs) => break programs,
            Built::Errors(errors) => {
                let before = unviable.len();
                for error in &errors {
                    unviable.extend(at_fault(error, &places));
                }
                ensure!(unviable.len() > before, "errors outside of mutants: {errors:?}");
                println!("{} mutants do not compile", unviable.len());
                mutants.retain(|mutant| !unviable.contains(&mutant.number));
            }
        }
    };
    let Built::Programs(simulate) = build(&folder, &["build", "--workspace", "--bin", "simulate"])? else {
        bail!("the simulation does not compile");
    };
    let simulate = &simulate["simulate"];
    mutants.truncate(options.sample);
    if let Some(only) = &options.only {
        mutants.retain(|mutant| mutant.name.contains(only));
    }
    let third = options.seeds / 3;
    let rare = ["--seeds".to_owned(), third.to_string(), "--from".to_owned(), DENSE.to_string()];
    let mut judges: Vec<Judge> = CRATES
        .iter()
        .map(|name| Judge::new(name, &tests[*name], &["--test-threads".to_owned(), "2".to_owned()]))
        .collect();
    judges.push(Judge::new("seeds", simulate, &["--seeds".to_owned(), (options.seeds - third).to_string()]));
    judges.push(Judge::new("seeds with rare faults", simulate, &rare));
    for judge in &mut judges {
        let started = Instant::now();
        let without = judge.judge(0, &folder, &stop)?;
        ensure!(without.is_none(), "{} fails without a mutant: {without:?}", judge.name);
        judge.limit = PATIENCE_MIN.max(started.elapsed() * PATIENCE);
        println!("without a mutant: {} in {:.1} s", judge.name, started.elapsed().as_secs_f64());
    }
    judge_all(&mutants, &judges, &folder, &stop)
}

/// Judges what has not been judged; a file has what became of each.
fn judge_all(mutants: &[Mutant], judges: &[Judge], folder: &Path, stop: &AtomicBool) -> anyhow::Result<()> {
    let path = folder.join("judged.txt");
    let known = fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeMap<&str, &str> = known.lines().filter_map(|line| line.split_once('\t')).collect();
    let mut file = fs::File::options().create(true).append(true).open(&path)?;
    let mut counts = BTreeMap::<String, u32>::new();
    for mutant in mutants {
        let verdict = match known.get(mutant.name.as_str()) {
            Some(verdict) => (*verdict).to_owned(),
            None => {
                let mut verdict = "survived".to_owned();
                for judge in &judges[mutant.level..] {
                    if let Some(by) = judge.judge(mutant.number, folder, stop)? {
                        verdict = format!("{}: {by}", judge.name);
                        break;
                    }
                }
                println!("{}: {verdict}", mutant.name);
                writeln!(file, "{}\t{verdict}", mutant.name)?;
                verdict
            }
        };
        if verdict == "survived" {
            println!("survived: {}", mutant.name);
        }
        let kind = if verdict.ends_with(TIME_OUT) { TIME_OUT } else { verdict.split(':').next().unwrap_or_default() };
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    println!("{} mutants: {counts:?}", mutants.len());
    Ok(())
}

const TIME_OUT: &str = "time-out";

/// A program that fails on a mutant, if it is any good.
struct Judge {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    limit: Duration,
}

impl Judge {
    fn new(name: &'static str, program: &Path, arguments: &[String]) -> Self {
        Self { name, program: program.to_owned(), arguments: arguments.to_vec(), limit: Duration::from_secs(1_800) }
    }

    /// How it finds this mutant, or none if it does not.
    fn judge(&self, mutant: u32, folder: &Path, stop: &AtomicBool) -> anyhow::Result<Option<String>> {
        let log = folder.join("log");
        let out = fs::File::create(&log)?;
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v $0 && exec \"$@\""]).arg(MEMORY_MAX_KIB.to_string());
        command.arg(&self.program).args(&self.arguments).env("MUTANT", mutant.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let started = Instant::now();
        loop {
            let ended = child.try_wait()?;
            let failed = fs::read_to_string(&log).unwrap_or_default();
            let failed = failed.lines().find_map(|line| {
                let test = || line.strip_prefix("test ")?.strip_suffix(" ... FAILED");
                test().or_else(|| Some(line.strip_prefix("seed ")?.split_once(" failed")?.0))
            });
            if failed.is_some() || started.elapsed() > self.limit || stop.load(Ordering::Relaxed) {
                // It may have ended by itself.
                let _ = child.kill();
                child.wait()?;
            }
            ensure!(!stop.load(Ordering::Relaxed), "stopped");
            match (failed, ended) {
                (Some(test), _) => return Ok(Some(test.to_owned())),
                (None, Some(status)) if status.success() => return Ok(None),
                (None, Some(status)) => return Ok(Some(status.to_string())),
                (None, None) if started.elapsed() > self.limit => return Ok(Some(TIME_OUT.to_owned())),
                (None, None) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// All mutants in the order of the seed, no more than are needed. Which they are does not depend on the others.
fn draw(options: &Options) -> anyhow::Result<Vec<Mutant>> {
    let mut command = Command::new(process::cargo());
    command.args(["mutants", "--list", "--json", "--no-config", "--exclude", NOT_MUTATED]);
    command.args(MUTATED.iter().flat_map(|glob| ["--file", glob]));
    let out = command.current_dir(process::root()).stderr(Stdio::inherit()).output()?;
    ensure!(out.status.success(), "cargo mutants is not there: cargo install cargo-mutants --locked");
    let listed: Vec<Value> = serde_json::from_slice(&out.stdout)?;
    let mut files = BTreeMap::new();
    let mut mutants = Vec::new();
    for value in &listed {
        let path = value["file"].as_str().context("a file")?;
        if !files.contains_key(path) {
            files.insert(path, Source::read(path)?);
        }
        mutants.extend(files[path].mutant(value)?);
    }
    println!("{} mutants, {} of them in functions that can have a switch", listed.len(), mutants.len());
    mutants.sort_by_key(|mutant| Sha256::digest(format!("{} {}", options.seed, mutant.name)).to_vec());
    mutants.truncate(options.sample + options.sample / SPARE);
    (1..).zip(&mut mutants).for_each(|(number, mutant)| mutant.number = number);
    Ok(mutants)
}

/// A file's characters, where its lines begin, and where braces do that end at a place.
struct Source {
    text: Vec<char>,
    lines: Vec<usize>,
    braces: BTreeMap<usize, usize>,
}

impl Source {
    fn read(path: &str) -> anyhow::Result<Self> {
        let text = fs::read_to_string(process::root().join(path))?;
        let tokens = TokenStream::from_str(&text).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        let text: Vec<char> = text.chars().collect();
        let ends = text.iter().enumerate().filter(|(_, character)| **character == '\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let mut source = Self { text, lines, braces: BTreeMap::new() };
        source.find_braces(tokens);
        Ok(source)
    }

    fn find_braces(&mut self, tokens: TokenStream) {
        for token in tokens {
            let TokenTree::Group(group) = token else { continue };
            if group.delimiter() == Delimiter::Brace {
                let (start, end) = (self.place(group.span().start()), self.place(group.span().end()));
                self.braces.insert(end, start);
            }
            self.find_braces(group.stream());
        }
    }

    fn place(&self, at: LineColumn) -> usize {
        self.lines[at.line - 1] + at.column
    }

    /// None if its function can have no switch (constants, and what returns a type that only its one body has), and where
    /// nothing can come of it: a planted bug that is left out.
    fn mutant(&self, value: &Value) -> anyhow::Result<Option<Mutant>> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("cargo mutants lists something else");
        let place = |value: &Value| {
            let part = |name| value[name].as_u64().map(|number| number as usize).context("a line and a column");
            anyhow::Ok(self.place(LineColumn { line: part("line")?, column: part("column")? - 1 }))
        };
        let function = &value["function"];
        if function.is_null() || text(&function["return_type"])?.contains("impl ") {
            return Ok(None);
        }
        let end = place(&function["span"]["end"])?;
        let start = *self.braces.get(&end).context("a function without a body")?;
        let head: String = self.text[place(&function["span"]["start"])?..start].iter().collect();
        if head.contains("const fn") {
            return Ok(None);
        }
        let file = text(&value["file"])?;
        let level = ["shared", "store-agent", "central"].iter().position(|folder| file.starts_with(folder));
        let span = place(&value["span"]["start"])?..place(&value["span"]["end"])?;
        // `cargo mutants` takes the alias for a collection of its own.
        let replacement = text(&value["replacement"])?.replace("JobResult::from(", "Ok(");
        if replacement.starts_with("JobResult::")
            || (replacement == "false"
                && self.text[span.clone()].starts_with(&['p', 'l', 'a', 'n', 't', 'e', 'd', '(']))
        {
            return Ok(None);
        }
        let level = level.context("a mutant of no crate")?;
        Ok(Some(Mutant { number: 0, name: text(&value["name"])?, file, level, span, body: start..end, replacement }))
    }
}

/// Lines of a file of the copy, and the mutants that are to blame if these do not compile.
struct Place {
    file: String,
    lines: Range<usize>,
    mutants: Vec<u32>,
}

/// Writes what has changed, so that cargo builds that alone.
fn write_copy(copy: &Path, mutants: &[Mutant]) -> anyhow::Result<Vec<Place>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(process::root());
    let listed = String::from_utf8(git.output()?.stdout)?;
    let mut places = Vec::new();
    for path in listed.split_terminator('\0') {
        // A file that was deleted and is not committed yet is listed.
        let Ok(mut content) = fs::read(process::root().join(path)) else { continue };
        if mutants.iter().any(|mutant| mutant.file == path) {
            content = mutate(path, mutants, &mut places)?.into_bytes();
        }
        if path == SWITCH_FILE {
            content.extend_from_slice(SWITCH.as_bytes());
        }
        let target = copy.join(path);
        if fs::read(&target).ok().as_ref() != Some(&content) {
            fs::create_dir_all(target.parent().context("a file in a folder")?)?;
            fs::write(&target, content)?;
        }
    }
    Ok(places)
}

/// The file with all its mutants.
fn mutate(path: &str, mutants: &[Mutant], places: &mut Vec<Place>) -> anyhow::Result<String> {
    let source = Source::read(path)?;
    let mut bodies = BTreeMap::<(usize, usize), Vec<&Mutant>>::new();
    for mutant in mutants.iter().filter(|mutant| mutant.file == path) {
        bodies.entry((mutant.body.start, mutant.body.end)).or_default().push(mutant);
    }
    let (mut text, mut done) = (String::new(), 0);
    for ((start, end), mutants) in bodies {
        // A function within a function that has mutants itself.
        if start < done {
            continue;
        }
        text.extend(&source.text[done..start]);
        let line = |text: &str| text.matches('\n').count() + 1;
        let first = line(&text);
        text.push_str("{ match ::protocol::mutant() {\n");
        for mutant in &mutants {
            let from = line(&text);
            write!(text, "{} => ", mutant.number)?;
            text.extend(&source.text[start..mutant.span.start]);
            text.push_str(&mutant.replacement);
            text.extend(&source.text[mutant.span.end..end]);
            text.push('\n');
            places.push(Place { file: path.to_owned(), lines: from..line(&text), mutants: vec![mutant.number] });
        }
        text.push_str("_ => ");
        text.extend(&source.text[start..end]);
        text.push_str("\n} }");
        let all = mutants.iter().map(|mutant| mutant.number).collect();
        places.push(Place { file: path.to_owned(), lines: first..line(&text) + 1, mutants: all });
        done = end;
    }
    text.extend(&source.text[done..]);
    Ok(text)
}

enum Built {
    /// By their targets' names.
    Programs(BTreeMap<String, PathBuf>),
    /// Of each error all places, the most telling first.
    Errors(Vec<Vec<(String, usize)>>),
}

/// Builds the copy with a target folder of its own: its crates have the names of ours.
fn build(folder: &Path, arguments: &[&str]) -> anyhow::Result<Built> {
    let mut cargo = Command::new(process::cargo());
    cargo.args(arguments).arg("--message-format=json").current_dir(folder.join("source"));
    cargo.env("CARGO_TARGET_DIR", folder.join("target")).stderr(Stdio::inherit());
    let out = cargo.output()?;
    let (mut programs, mut errors) = (BTreeMap::new(), Vec::new());
    for line in String::from_utf8(out.stdout)?.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(program) = message["executable"].as_str() {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            programs.insert(name.to_owned(), PathBuf::from(program));
        }
        if message["message"]["level"] == "error" {
            let mut spans: Vec<&Value> = message["message"]["spans"].as_array().into_iter().flatten().collect();
            spans.sort_by_key(|span| span["is_primary"] != true);
            errors.push(spans.into_iter().flat_map(lines_of).collect());
        }
    }
    Ok(if out.status.success() { Built::Programs(programs) } else { Built::Errors(errors) })
}

/// Where a span of rustc's is, and where the macros were called that it is in.
fn lines_of(span: &Value) -> Vec<(String, usize)> {
    let (mut span, mut lines) = (span, Vec::new());
    while let (Some(file), Some(line)) = (span["file_name"].as_str(), span["line_start"].as_u64()) {
        lines.push((file.to_owned(), line as usize));
        span = &span["expansion"]["span"];
    }
    lines
}

/// The mutants of the smallest place that an error is in.
fn at_fault<'a>(error: &[(String, usize)], places: &'a [Place]) -> impl Iterator<Item = u32> + use<'a> {
    let smallest = |(file, line): &(String, usize)| {
        let within = places.iter().filter(|place| place.file == *file && place.lines.contains(line));
        within.min_by_key(|place| place.lines.len())
    };
    error.iter().find_map(smallest).into_iter().flat_map(|place| place.mutants.iter().copied())
}
