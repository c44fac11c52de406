//! What is done to a valid request. Each mutation is decided by dice alone, so that a number names a request for ever.

use serde_json::Value;

use super::seeds::{SEEDS, Seed};
use crate::Dice;

/// Bytes of a head that every server reads.
const HEAD_FINE: usize = 6 << 10;

/// How the body's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
}

/// A request on its way to be mutated.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    method: Vec<u8>,
    target: Vec<u8>,
    version: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    framing: Framing,
    /// What is written between and behind the lines of the head.
    line_end: &'static [u8],
    /// Sent in so many pieces.
    pub(super) pieces: usize,
    /// The head, the framing or the size may be such that the server refuses it before it is a request, closes, or waits
    /// for the rest.
    pub(super) is_loose: bool,
    /// Names of what was done.
    pub(super) done: Vec<&'static str>,
}

impl Draft {
    /// A valid request.
    pub(super) fn of(seed: &Seed, purchase: &str, command: &str) -> Self {
        let (_, method, path, headers, body) = seed;
        let pairs = headers.split_terminator('\n').filter_map(|line| line.split_once(": "));
        let mut all = vec![(b"host".to_vec(), b"localhost".to_vec())];
        all.extend(pairs.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        Self {
            method: method.as_bytes().to_vec(),
            target: path.replace("{purchase}", purchase).replace("{command}", command).into_bytes(),
            version: b"HTTP/1.1".to_vec(),
            headers: all,
            body: body.as_bytes().to_vec(),
            framing: Framing::Length,
            line_end: b"\r\n",
            pieces: 1,
            is_loose: false,
            done: Vec::new(),
        }
    }

    /// Whether its answer has no body.
    pub(super) fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }

    /// One to three mutations.
    pub(super) fn mutate(&mut self, dice: &mut Dice) {
        for _ in 0..=dice.below(3) {
            let (name, mutation) = MUTATIONS[dice.below(MUTATIONS.len() as u64) as usize];
            mutation(self, dice);
            self.done.push(name);
        }
        let head = self.target.len() + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.is_loose |= head > HEAD_FINE;
    }

    /// As it is sent.
    pub(super) fn to_bytes(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = [&self.method[..], b" ", &self.target, b" ", &self.version, self.line_end].concat();
        for (name, value) in &self.headers {
            bytes.extend([&name[..], b": ", value, self.line_end].concat());
        }
        match self.framing {
            Framing::Chunked => {
                bytes.extend([&b"transfer-encoding: chunked"[..], self.line_end, self.line_end].concat());
                let mut rest = &self.body[..];
                while !rest.is_empty() {
                    let (chunk, behind) = rest.split_at(1 + dice.below(rest.len() as u64) as usize);
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend([chunk, b"\r\n"].concat());
                    rest = behind;
                }
                bytes.extend(b"0\r\n\r\n");
            }
            Framing::Length => {
                if !self.body.is_empty() {
                    bytes.extend(format!("content-length: {}", self.body.len()).bytes());
                    bytes.extend(self.line_end);
                }
                bytes.extend([self.line_end, &self.body].concat());
            }
        }
        bytes
    }

    fn header(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.headers.push((name.as_bytes().to_vec(), value.into()));
    }

    fn without(&mut self, name: &str) {
        self.headers.retain(|(own, _)| own != name.as_bytes());
    }
}

type Mutation = fn(&mut Draft, &mut Dice);

const MUTATIONS: &[(&str, Mutation)] = &[
    ("method", method),
    ("path byte", path_byte),
    ("path encoding", path_encoding),
    ("path segment", path_segment),
    ("path segment", path_segment),
    ("query", query),
    ("query", query),
    ("host", host),
    ("header value", header_value),
    ("header value", header_value),
    ("header line", header_line),
    ("content type", content_type),
    ("length", length),
    ("chunks", chunks),
    ("broken chunks", broken_chunks),
    ("version", version),
    ("line ends", line_ends),
    ("pieces", |draft, dice| draft.pieces = 2 + dice.below(6) as usize),
    ("body bytes", body_bytes),
    ("body bytes", body_bytes),
    ("body size", body_size),
    ("json value", json_value),
    ("json value", json_value),
    ("json value", json_value),
    ("json value", json_value),
    ("json member", json_member),
    ("json member", json_member),
    ("other body", other_body),
    ("other target", other_target),
];

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.below(from.len() as u64) as usize]
}

fn method(draft: &mut Draft, dice: &mut Dice) {
    let long = "M".repeat(70_000);
    let odd = ["", "get", "G\u{0}T", "G ET", "GET\t", "\u{7f}", &long];
    let fine = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW", "QUERY"];
    if dice.chance(250) {
        draft.method = pick(dice, &odd).as_bytes().to_vec();
        draft.is_loose = true;
    } else {
        draft.method = pick(dice, &fine).as_bytes().to_vec();
    }
}

/// Where the query begins.
fn query_start(target: &[u8]) -> usize {
    target.iter().position(|byte| *byte == b'?').unwrap_or(target.len())
}

fn path_byte(draft: &mut Draft, dice: &mut Dice) {
    draft.is_loose = true;
    if draft.target.is_empty() {
        draft.target.push(b'/');
    }
    let place = dice.below(draft.target.len() as u64) as usize;
    let byte = if dice.chance(500) { dice.below(256) as u8 } else { pick(dice, b"/.%?#&=;:@[]{}|\\^`\"<>~-_ +*") };
    match dice.below(3) {
        0 => draft.target[place] = byte,
        1 => draft.target.insert(place, byte),
        _ => drop(draft.target.remove(place)),
    }
}

fn path_encoding(draft: &mut Draft, dice: &mut Dice) {
    let end = query_start(&draft.target).max(1);
    let place = (1 + dice.below(end as u64) as usize).min(draft.target.len());
    let own = draft.target.get(place).map_or("%2f".into(), |byte| format!("%{byte:02X}"));
    let text = pick(
        dice,
        &[
            &own[..],
            "%00",
            "%2F",
            "%2e%2e",
            "%",
            "%z",
            "%zz",
            "%80",
            "%C3%A4",
            "%E2%80%8B",
            "%F0%9F%98%80",
            "%0d%0a",
            "%25",
        ],
    );
    let end = if text == own { (place + 1).min(draft.target.len()) } else { place };
    draft.target.splice(place..end, text.bytes());
}

fn path_segment(draft: &mut Draft, dice: &mut Dice) {
    let end = query_start(&draft.target);
    let starts: Vec<usize> = (0..end).filter(|place| draft.target[*place] == b'/').collect();
    let Some(start) = dice.pick(&starts).copied() else { return };
    let next = (start + 1..end).find(|place| draft.target[*place] == b'/').unwrap_or(end);
    let (long, longer) = ("x".repeat(51), "y".repeat(60_000));
    let other =
        ["", "..", ".", "-a", "a b", "s1", "S1", "fuzz", "FUZZ", "none", "0", "9223372036854775808", &long, &longer];
    let text = pick(dice, &other).replace(' ', "%20");
    // A server may have a limit for the length of a target.
    draft.is_loose |= text.len() > 1_000;
    match dice.below(4) {
        0 => draft.target.splice(start + 1..next, text.bytes()).for_each(drop),
        1 => draft.target.splice(start..start, [b"/", text.as_bytes()].concat()).for_each(drop),
        2 => draft.target.splice(start..next, []).for_each(drop),
        _ => draft.target.splice(end..end, [b"/", text.as_bytes()].concat()).for_each(drop),
    }
    if !draft.target.starts_with(b"/") {
        draft.target.insert(0, b'/');
    }
}

fn query(draft: &mut Draft, dice: &mut Dice) {
    let many = (0..80 + dice.below(3_000)).map(|number| format!("p{number}=1")).collect::<Vec<_>>().join("&");
    let long = format!("q={}", "q".repeat(9_000));
    let others = [
        "size=0",
        "size=-1",
        "size=1001",
        "size=99999999999999999999",
        "size=1e3",
        "size",
        "=",
        "&&&",
        "page=9223372036854775807&size=1000",
        "page=-0",
        "cursor=zz",
        "cursor=%ff",
        "cursor=&page=0",
        "q=",
        "q=%00%00",
        "q=%25_%25",
        "q='%20or%201=1--",
        "q=%E2%80%AE%E2%80%AE",
        "q=%F0%9F%98%80%F0%9F%98%80",
        "after=0-0",
        "after=s1:5-18446744073709551615",
        "after=9223372036854775808-1",
        "since=yesterday",
        "since=-9999-01-01T00:00:00Z",
        "since=9999-12-31T23:59:59-01:00",
        "until=0000-00-00T00:00:00Z",
        "minPosition=s1:9999999999999-9",
        "minPosition=x",
        "maxStalenessMs=-1",
        "maxStalenessMs=9223372036854775807",
        "status=nonsense",
        "type=%00",
        "dryRun=maybe",
        "productId=%2F",
        "colour=red",
        "a[]=1",
        "%zz=1",
        &many,
        &long,
    ];
    let other = pick(dice, &others);
    let start = query_start(&draft.target);
    match dice.below(3) {
        _ if start == draft.target.len() => draft.target.extend([b"?", other.as_bytes()].concat()),
        0 => drop(draft.target.splice(start + 1.., other.bytes())),
        1 => draft.target.extend([b"&", other.as_bytes()].concat()),
        // Everything twice.
        _ => {
            let own = draft.target[start + 1..].to_vec();
            draft.target.extend([b"&", &own[..]].concat());
        }
    }
}

fn host(draft: &mut Draft, dice: &mut Dice) {
    match dice.below(3) {
        0 => draft.without("host"),
        1 => draft.header("host", "localhost"),
        _ => {
            draft.without("host");
            let others = [
                "",
                "evil.example",
                "[::1]:80",
                "[",
                "localhost:",
                "127.0.0.1:x",
                "a@localhost",
                "localhost, b",
                "\u{ff4c}ocalhost",
            ];
            draft.header("host", pick(dice, &others));
        }
    }
    draft.is_loose = true;
}

fn header_value(draft: &mut Draft, dice: &mut Dice) {
    let long = "v".repeat(1 + dice.below(5_000) as usize);
    let values: [&[u8]; 18] = [
        b"",
        b"*",
        b"\"",
        b"W/\"1-2-3-4\"",
        b"\"1-1\", \"2-2\"",
        b"1-1",
        b"0",
        b"-1",
        b"99999999999999999999",
        b"wait=1, wait=0",
        b"wait=-1",
        b"respond-async; wait=x",
        b"00-00000000000000000000000000000000-0000000000000000-00",
        b"\xff\xfe",
        b"a\tb",
        b"null",
        b"\xe2\x80\xae",
        long.as_bytes(),
    ];
    let names = [
        "if-match",
        "if-none-match",
        "idempotency-key",
        "shelf-actor",
        "prefer",
        "traceparent",
        "accept",
        "accept-encoding",
        "origin",
        "sec-fetch-site",
        "range",
        "x-forwarded-for",
        "content-language",
    ];
    let (name, value) = (pick(dice, &names), pick(dice, &values));
    if dice.chance(500) {
        draft.without(name);
    }
    draft.header(name, value);
}

fn header_line(draft: &mut Draft, dice: &mut Dice) {
    draft.is_loose = true;
    match dice.below(8) {
        0 => (0..50 + dice.below(150)).for_each(|number| draft.header(&format!("x-{number}"), "1")),
        1 => draft.header("x-large", vec![b'x'; 10_000 + dice.below(500_000) as usize]),
        2 => draft.header("x y", "space in the name"),
        3 => draft.header("", "no name"),
        4 => draft.header("x", b"a\0b".to_vec()),
        5 => draft.header("x", b"a\r\n b".to_vec()),
        6 => draft.header("expect", pick(dice, &["100-continue", "200-maybe"])),
        _ => draft.header("connection", pick(dice, &["upgrade", "close, keep-alive", "host", "transfer-encoding"])),
    }
}

fn content_type(draft: &mut Draft, dice: &mut Dice) {
    draft.without("content-type");
    let kinds = [
        "",
        "application/json; charset=utf-16",
        "application/json;;;",
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/csv; header=absent",
        "multipart/form-data",
        "APPLICATION/JSON",
        "application/merge-patch+json",
        "/",
        "\u{e4}",
    ];
    draft.header("content-type", pick(dice, &kinds));
    if dice.chance(300) {
        draft.header("content-encoding", pick(dice, &["gzip", "zstd", "identity", "br, gzip", "", "x"]));
    }
}

fn length(draft: &mut Draft, dice: &mut Dice) {
    let lengths =
        ["0", "1", "-1", "+5", "5, 6", "5 ", "0x10", "99999999999999999999", "1048577", "18446744073709551615", ""];
    draft.header("content-length", pick(dice, &lengths));
    draft.is_loose = true;
}

fn chunks(draft: &mut Draft, _: &mut Dice) {
    // Some methods take no body, some bodies have a length already; either way it is a request of HTTP/1.1.
    draft.framing = Framing::Chunked;
}

fn broken_chunks(draft: &mut Draft, dice: &mut Dice) {
    let bodies = [
        "5\r\nabc\r\n0\r\n\r\n",
        "zz\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc",
        "3;extension=\"x\"\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n",
        "3\nabc\n0\n\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "0\r\ntrailer: 1\r\n\r\n",
        "0\r\ncontent-length: 5\r\n\r\nabcde",
    ];
    let codings = ["chunked", "chunked, chunked", "gzip, chunked", "identity", "Chunked", "chunked ", "x"];
    draft.header("transfer-encoding", pick(dice, &codings));
    draft.body = pick(dice, &bodies).into();
    draft.is_loose = true;
}

fn version(draft: &mut Draft, dice: &mut Dice) {
    draft.version =
        pick(dice, &["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/9", "http/1.1", "", "HTTP/1.1 x"]).into();
    draft.is_loose = true;
}

fn line_ends(draft: &mut Draft, dice: &mut Dice) {
    draft.line_end = pick(dice, &[&b"\n"[..], b"\r", b"\r\r\n", b"\r\n\r\n", b""]);
    draft.is_loose = true;
}

fn body_bytes(draft: &mut Draft, dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let place = dice.below(draft.body.len() as u64 + 1) as usize;
        let byte =
            if dice.chance(500) { dice.below(256) as u8 } else { pick(dice, b"{}[]\",:\\0123456789-+.eE\0\xff\n") };
        match dice.below(4) {
            0 => draft.body.truncate(place),
            1 if place < draft.body.len() => drop(draft.body.remove(place)),
            2 if place < draft.body.len() => draft.body[place] = byte,
            _ => draft.body.insert(place, byte),
        }
    }
}

fn body_size(draft: &mut Draft, dice: &mut Dice) {
    let size = if dice.chance(100) { 2 << 20 } else { dice.below(100_000) as usize };
    let byte = pick(dice, b" x[{0\"\n");
    // What is too large is refused before all of it was read, and the connection goes with it.
    draft.is_loose |= size > 1 << 19;
    draft.body.extend(std::iter::repeat_n(byte, size));
}

/// Texts that stand where a JSON value was.
fn fragment(dice: &mut Dice) -> String {
    let depth = if dice.chance(300) { 20_000 } else { 150 };
    let fragments = [
        "null",
        "true",
        "\"\"",
        "\"x\"",
        "-1",
        "0",
        "-0",
        "1.0",
        "1.5",
        "1e3",
        "1e400",
        "1000001",
        "1000000000",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "01",
        "+1",
        "0x10",
        "NaN",
        "[]",
        "{}",
        "[1]",
        "{\"a\":1}",
        "\"5\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"a\\u200bb\"",
        "\"a\\u202eb\"",
        "\"\u{7f}\"",
        "\"\u{1f600}\"",
        "\"../..\"",
        "\"'; drop table item; --\"",
        "\"2026-02-30T00:00:00Z\"",
        "\"9999-12-31T23:59:60Z\"",
        "\"s1:0-0\"",
        "",
    ];
    match dice.below(12) {
        0 => format!("{}{}", "[".repeat(depth), "]".repeat(depth)),
        1 => format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        2 => "9".repeat(1 + dice.below(5_000) as usize),
        3 => format!("\"{}\"", "\u{e4}".repeat(1 + dice.below(50_000) as usize)),
        _ => pick(dice, &fragments).to_owned(),
    }
}

fn json_value(draft: &mut Draft, dice: &mut Dice) {
    const MARK: &str = "the value that is replaced";
    let Ok(mut value) = serde_json::from_slice::<Value>(&draft.body) else { return body_bytes(draft, dice) };
    let fragment = fragment(dice);
    let mut names: Vec<String> = match &value {
        Value::Object(members) => members.keys().cloned().collect(),
        _ => Vec::new(),
    };
    names.push(String::new());
    let name = dice.pick(&names).cloned().unwrap_or_default();
    let place = if name.is_empty() { &mut value } else { &mut value[&name] };
    *place = Value::String(MARK.into());
    draft.body = value.to_string().replace(&format!("\"{MARK}\""), &fragment).into_bytes();
}

fn json_member(draft: &mut Draft, dice: &mut Dice) {
    let members = [
        "\"quantity\":1,",
        "\"quantity\":1,\"quantity\":2,",
        "\"productId\":\"a/b\",",
        "\"colour\":null,",
        "\"\":1,",
        "\"Quantity\":1,",
        "\"quantity\\u0000\":1,",
        "\"__proto__\":{},",
        "\"expectedVersion\":-1,",
        "\"ttlSeconds\":0,",
        "\"reference\":null,",
        "\"lowAt\":-5,",
        ",",
        "\"quantity\",",
    ];
    match draft.body.iter().position(|byte| *byte == b'{') {
        Some(place) => drop(draft.body.splice(place + 1..place + 1, pick(dice, &members).bytes())),
        None => body_bytes(draft, dice),
    }
}

fn other_body(draft: &mut Draft, dice: &mut Dice) {
    draft.body = SEEDS[dice.below(SEEDS.len() as u64) as usize].4.into();
}

fn other_target(draft: &mut Draft, dice: &mut Dice) {
    let path = SEEDS[dice.below(SEEDS.len() as u64) as usize].2;
    // The restore's question supersedes the agent that runs, and this body may name it.
    if !path.contains('{') {
        draft.target = path.into();
    }
}
