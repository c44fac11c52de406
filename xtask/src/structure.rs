//! What may import what, and what the documents' rules are cited as: read from the source, a line for each breach.
//!
//! Works on tokens, so that paths inside macros count and those in comments and strings do not. Code that is compiled for
//! tests alone may import what it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::process;

/// A crate's floors, from the top: a file imports from its own floor and from those below it.
struct House {
    source: &'static str,
    /// The crate's name in other crates' paths.
    name: &'static str,
    floors: &'static [&'static str],
    /// Crates that only these floors may name.
    kept: &'static [(&'static str, &'static [&'static str])],
}

const HOUSES: &[House] = &[
    House {
        source: "central/src",
        name: "central",
        floors: &[
            "main",
            "run",
            "http",
            "operators",
            "links",
            "outbound",
            "config",
            "projection",
            "promises",
            "storage",
        ],
        kept: &[("rusqlite", &["storage"]), (SQL, &["storage"]), ("redis", &[])],
    },
    House {
        source: "store-agent/src",
        name: "store_agent",
        floors: &["main", "run", "http", "operators", "links", "config", "operations", "ledger"],
        kept: &[("rusqlite", &["ledger"]), (SQL, &["ledger"]), ("redis", &[])],
    },
    House {
        source: "shared/runtime/src",
        name: "runtime",
        floors: &["http", "redis", "daemon", "options", "sqlite", "search", "clock"],
        kept: &[("rusqlite", &["sqlite"]), (SQL, &["sqlite"]), ("redis", &["redis"])],
    },
    House {
        source: "shared/protocol/src",
        name: "protocol",
        floors: &[
            "promise", "restore", "stock", "wire", "link", "hash", "domain", "position", "number", "ids", "time",
            "retry", "planted",
        ],
        kept: &[("rusqlite", &[]), (SQL, &[]), ("redis", &[]), ("tokio", &[]), ("runtime", &[])],
    },
];

/// Folders whose text may cite a rule, and the file types.
const CITING: &[&str] = &["central", "store-agent", "shared", "tests", "docs", "README.md"];
/// Where rules are defined: a line that begins with the label, or a table row that does.
const DEFINING: &[&str] = &["README.md", "docs/PROTOCOL.md", "docs/API.md"];

/// A path that a file names.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    line: usize,
    /// Without `crate`, `self` and `super`, which are resolved.
    path: Vec<String>,
}

/// A source file, and what it names.
struct File {
    path: PathBuf,
    module: Vec<String>,
    /// Of its own crate.
    own: Vec<Named>,
    /// First segments of all paths, and statements of SQL, with their lines.
    firsts: Vec<(usize, String)>,
}

pub(crate) fn run() -> anyhow::Result<()> {
    let root = process::root();
    let mut breaches = Vec::new();
    println!("{:<20} {:>6} {:>6} {:>7} {:>8}", "crate", "rooms", "files", "arrows", "circles");
    for house in HOUSES {
        let files = read_house(&root, house)?;
        let arrows = arrows(&files);
        let rooms: BTreeSet<&str> = files.iter().filter_map(|file| room(&file.module)).collect();
        let between: BTreeSet<(&str, &str)> = arrows
            .iter()
            .filter_map(|(from, to)| Some((room(from)?, room(to)?)))
            .filter(|(from, to)| from != to)
            .collect();
        let circles = circles(&arrows);
        println!("{:<20} {:>6} {:>6} {:>7} {:>8}", house.name, rooms.len(), files.len(), between.len(), circles.len());
        for circle in circles {
            breaches.push(format!("{}: these import each other: {}", house.source, circle.join(", ")));
        }
        files.iter().for_each(|file| judge(house, file, &mut breaches));
    }
    cited(&root, &mut breaches)?;
    breaches.sort();
    breaches.iter().for_each(|breach| println!("{breach}"));
    if !breaches.is_empty() {
        bail!("{} breaches of the structure", breaches.len());
    }
    println!(
        "imports point downwards only, nothing is named outside its room, and every rule that is cited is defined"
    );
    Ok(())
}

fn room(module: &[String]) -> Option<&str> {
    module.first().map(String::as_str)
}

fn read_house(root: &Path, house: &House) -> anyhow::Result<Vec<File>> {
    let source = root.join(house.source);
    let mut files = Vec::new();
    for path in below(&source, "rs")? {
        let relative = path.strip_prefix(&source)?;
        let mut module: Vec<String> =
            relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        // The crate's own list of modules, and what is compiled for tests.
        if module.is_empty() || module == ["lib"] || module == ["testing"] {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let tokens = TokenStream::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| path.display().to_string())?;
        let (own, firsts) = names(tokens, &module, house.name);
        files.push(File { path: path.strip_prefix(root)?.to_owned(), module, own, firsts });
    }
    Ok(files)
}

fn judge(house: &House, file: &File, breaches: &mut Vec<String>) {
    let Some(from) = room(&file.module) else { return };
    let height = |name: &str| house.floors.iter().position(|floor| *floor == name);
    let place = file.path.display();
    let Some(own) = height(from) else {
        breaches.push(format!("{place}: {from} is on no floor: {}", house.floors.join(" > ")));
        return;
    };
    for named in &file.own {
        let Some(to) = room(&named.path) else { continue };
        if height(to).is_some_and(|below| below < own) {
            breaches.push(format!("{place}:{}: {from} imports {to}, which stands above it", named.line));
        }
    }
    for (line, first) in &file.firsts {
        for (kept, rooms) in house.kept {
            if first == kept && !rooms.contains(&from) {
                breaches.push(format!("{place}:{line}: {first} is named outside {rooms:?}"));
            }
        }
    }
}

/// All paths in the tokens that can lead to a module.
fn names(tokens: TokenStream, module: &[String], own: &str) -> (Vec<Named>, Vec<(usize, String)>) {
    let (mut found, mut firsts) = (Vec::new(), Vec::new());
    walk(&tokens.into_iter().collect::<Vec<_>>(), module, own, &mut found, &mut firsts);
    (found, firsts)
}

fn walk(tokens: &[TokenTree], module: &[String], own: &str, found: &mut Vec<Named>, firsts: &mut Vec<(usize, String)>) {
    let mut at = 0;
    while at < tokens.len() {
        if let Some(behind) = behind_test_item(tokens, at) {
            at = behind;
            continue;
        }
        match &tokens[at] {
            TokenTree::Group(group) => {
                walk(&group.stream().into_iter().collect::<Vec<_>>(), module, own, found, firsts);
                at += 1;
            }
            TokenTree::Ident(ident)
                if is_name(&tokens[at]) && !follows_colons(tokens, at) && is_colons(tokens, at + 1) =>
            {
                let line = ident.span().start().line;
                let first = ident.to_string();
                let paths = tails(tokens, &mut at);
                if let Some(start) = resolve(&first, module, own) {
                    for tail in paths {
                        found.extend(absolute(start.clone(), tail, module).map(|path| Named { line, path }));
                    }
                }
                firsts.push((line, first));
            }
            TokenTree::Literal(literal) => {
                if is_statement(&literal.to_string()) {
                    firsts.push((literal.span().start().line, SQL.to_owned()));
                }
                at += 1;
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => at += 1,
        }
    }
}

/// What a statement of SQL counts as, wherever it stands.
const SQL: &str = "SQL";
const VERBS: &[&str] =
    &["select ", "insert ", "update ", "delete ", "savepoint ", "rollback ", "release ", "pragma ", "with "];

fn is_statement(literal: &str) -> bool {
    literal.strip_prefix('"').is_some_and(|text| VERBS.iter().any(|verb| text.starts_with(verb)) && text.len() > 20)
}

/// Where a path begins that starts so, if it is one of this crate.
fn resolve(first: &str, module: &[String], own: &str) -> Option<Vec<String>> {
    match first {
        "crate" => Some(Vec::new()),
        "super" => Some(module[..module.len() - 1].to_vec()),
        "self" => Some(module.to_vec()),
        name if name == own => Some(Vec::new()),
        _ => None,
    }
}

fn absolute(mut start: Vec<String>, tail: Vec<String>, module: &[String]) -> Option<Vec<String>> {
    for part in tail {
        match part.as_str() {
            "super" => drop(start.pop()?),
            "self" => {}
            _ => start.push(part),
        }
    }
    (start != module).then_some(start)
}

/// The rest of the path whose first segment stands at `at`, once for each branch of its braces; moves behind it.
fn tails(tokens: &[TokenTree], at: &mut usize) -> Vec<Vec<String>> {
    let mut path = Vec::new();
    *at += 1;
    while is_colons(tokens, *at) {
        match tokens.get(*at + 2) {
            Some(TokenTree::Ident(ident)) => {
                path.push(ident.to_string());
                *at += 3;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                *at += 3;
                return branches(&group.stream().into_iter().collect::<Vec<_>>())
                    .into_iter()
                    .map(|branch| path.iter().cloned().chain(branch).collect())
                    .collect();
            }
            // `<` of a turbofish, or `*`.
            _ => {
                *at += 2;
                break;
            }
        }
    }
    vec![path]
}

/// The paths in the braces of a `use`.
fn branches(tokens: &[TokenTree]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for branch in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
        let Some(TokenTree::Ident(first)) = branch.first() else { continue };
        let first = first.to_string();
        all.extend(tails(branch, &mut 0).into_iter().map(|tail| {
            let mut path = vec![first.clone()];
            path.extend(tail);
            path
        }));
    }
    all
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1)
}

fn follows_colons(tokens: &[TokenTree], at: usize) -> bool {
    // `::redis::Value` names the crate, hence counts as its beginning.
    at >= 3 && is_colons(tokens, at - 2) && is_name(&tokens[at - 3])
}

/// Keywords that may stand before `::`.
const KEYWORDS: &[&str] = &["use", "return", "in", "as", "mut", "dyn", "impl", "for", "where", "else", "match", "if"];

fn is_name(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(ident) if KEYWORDS.iter().all(|keyword| ident != keyword))
}

/// If an item of tests begins here: the place behind it.
fn behind_test_item(tokens: &[TokenTree], at: usize) -> Option<usize> {
    let (TokenTree::Punct(hash), TokenTree::Group(attribute)) = (tokens.get(at)?, tokens.get(at + 1)?) else {
        return None;
    };
    let text = attribute.stream().to_string().replace(' ', "");
    if hash.as_char() != '#' || text != "cfg(test)" {
        return None;
    }
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    let length = tokens[at + 2..].iter().position(ends)?;
    Some(at + 2 + length + 1)
}

/// From module to module, but not between a module and its own parts.
fn arrows(files: &[File]) -> BTreeSet<(Vec<String>, Vec<String>)> {
    let modules: BTreeSet<&[String]> = files.iter().map(|file| file.module.as_slice()).collect();
    let mut arrows = BTreeSet::new();
    for file in files {
        for named in &file.own {
            let target =
                (1..=named.path.len()).rev().map(|length| &named.path[..length]).find(|path| modules.contains(path));
            if let Some(target) = target
                && !target.starts_with(&file.module)
                && !file.module.starts_with(target)
            {
                arrows.insert((file.module.clone(), target.to_vec()));
            }
        }
    }
    arrows
}

/// Groups of modules each of which reaches the others.
fn circles(arrows: &BTreeSet<(Vec<String>, Vec<String>)>) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&[String], Vec<&[String]>> = BTreeMap::new();
    for (from, to) in arrows {
        next.entry(from).or_default().push(to);
    }
    let reach = |start: &[String]| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![start]);
        while let Some(at) = left.pop() {
            for to in next.get(at).into_iter().flatten() {
                if seen.insert(*to) {
                    left.push(to);
                }
            }
        }
        seen.into_iter().map(<[String]>::to_vec).collect::<BTreeSet<_>>()
    };
    let reached: BTreeMap<&[String], BTreeSet<Vec<String>>> = next.keys().map(|from| (*from, reach(from))).collect();
    let mut found = BTreeSet::new();
    for (module, others) in &reached {
        let circle: Vec<String> = others
            .iter()
            .filter(|other| reached.get(other.as_slice()).is_some_and(|back| back.contains(*module)))
            .map(|other| other.join("::"))
            .collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// Rules P, L, B that are cited and defined nowhere.
fn cited(root: &Path, breaches: &mut Vec<String>) -> anyhow::Result<()> {
    let mut defined = BTreeSet::new();
    for file in DEFINING {
        for line in fs::read_to_string(root.join(file))?.lines() {
            let start = line.trim_start_matches("| ").trim_start_matches("**");
            defined.extend(labels(start).into_iter().take(1).filter(|label| start.starts_with(label.as_str())));
        }
    }
    for place in CITING {
        let mut files = below(&root.join(place), "rs")?;
        files.extend(below(&root.join(place), "md")?);
        for path in files {
            for (number, line) in fs::read_to_string(&path)?.lines().enumerate() {
                for label in labels(line).into_iter().filter(|label| !defined.contains(label)) {
                    let path = path.strip_prefix(root)?.display();
                    breaches.push(format!("{path}:{}: {label} is defined in none of {DEFINING:?}", number + 1));
                }
            }
        }
    }
    Ok(())
}

/// Labels of rules in a line: P1 to P99, L1 to L99, B1 to B99, as words of their own.
fn labels(line: &str) -> Vec<String> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_' || character == '-';
    line.split(|character: char| !is_word(character))
        .filter(|word| {
            let Some(number) = word.strip_prefix(['P', 'L', 'B']) else { return false };
            matches!(number.len(), 1 | 2)
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && !number.starts_with('0')
        })
        .map(str::to_owned)
        .collect()
}

/// All files of a type in a folder, or the path itself if it is such a file; sorted.
fn below(path: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(if path.extension().is_some_and(|found| found == extension) {
            vec![path.to_owned()]
        } else {
            Vec::new()
        });
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry?.path();
        if entry.file_name().is_some_and(|name| name != "target" && name != "node_modules") {
            files.extend(below(&entry, extension)?);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str) -> Vec<String> {
        path.split("::").map(str::to_owned).collect()
    }

    fn paths(source: &str, at: &str) -> Vec<String> {
        let tokens = TokenStream::from_str(source).expect("Rust");
        let (own, _) = names(tokens, &module(at), "central");
        own.into_iter().map(|named| format!("{}:{}", named.line, named.path.join("::"))).collect()
    }

    #[test]
    fn reads_every_form_of_a_path() {
        assert_eq!(paths("use crate::a::{b, c::{d, self}};", "x::y"), ["1:a::b", "1:a::c::d", "1:a::c"]);
        assert_eq!(paths("use super::z;\nuse super::super::w;", "x::y"), ["1:x::z", "2:w"]);
        assert_eq!(paths("fn f() { vec![crate::a::B::new()] }", "x"), ["1:a::B::new"]);
        assert_eq!(paths("// crate::a\nconst S: &str = \"crate::b\";", "x"), [""; 0]);
        assert_eq!(paths("use central::a;", "main"), ["1:a"]);
        assert_eq!(paths("#[cfg(test)]\nmod tests { use crate::up; }\nuse crate::down;", "x"), ["3:down"]);
    }

    #[test]
    fn the_first_segment_of_a_path_is_told_from_the_others() {
        let firsts = |source: &str| names(TokenStream::from_str(source).expect("Rust"), &module("x"), "central").1;
        assert_eq!(firsts("use ::redis::Value;"), [(1, "redis".to_owned())]);
        assert_eq!(firsts("use runtime::redis::Keys;"), [(1, "runtime".to_owned())]);
    }

    #[test]
    fn names_who_imports_what_stands_above() {
        let house =
            House { source: "", name: "central", floors: &["http", "storage"], kept: &[("redis", &[]), (SQL, &[])] };
        let (own, firsts) = names(
            TokenStream::from_str(
                "\nuse crate::http::App;\nuse redis::Value;\nconst S: &str = \"select quantity from item\";",
            )
            .expect("Rust"),
            &module("storage::a"),
            "central",
        );
        let file = File { path: "a.rs".into(), module: module("storage::a"), own, firsts };
        let mut breaches = Vec::new();
        judge(&house, &file, &mut breaches);
        assert_eq!(
            breaches,
            [
                "a.rs:2: storage imports http, which stands above it",
                "a.rs:3: redis is named outside []",
                "a.rs:4: SQL is named outside []"
            ]
        );
    }

    #[test]
    fn finds_circles_and_no_others() {
        let arrow = |from: &str, to: &str| (module(from), module(to));
        let arrows = BTreeSet::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "b"), arrow("c", "d")]);
        assert_eq!(circles(&arrows), [["b", "c"]]);
    }

    #[test]
    fn labels_are_words_of_their_own() {
        assert_eq!(labels("kept by (L10), P6: not B0, APL2 or L123; P1-P9"), ["L10", "P6"]);
        assert_eq!(labels("**L3** Nothing"), ["L3"]);
    }
}
