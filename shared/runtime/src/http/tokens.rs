//! Who may do what: tokens, each with a name and scopes.
//!
//! A file has a line for each: name, scopes, and the SHA-256 of the token, so that whoever reads the file cannot use one.
//!
//! **Guarantees.** A file that cannot be understood is refused at the start; a change of it holds within a second, unless it
//! cannot be understood: then what held before goes on. A route that nobody has thought of wants the scope `operate`.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::fs::{self, Metadata, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Code, Problem};

/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest name of a token, characters: it stands in events as who asked.
const NAME: usize = 64;
/// How a token begins, so that it is known for one wherever it turns up.
const PREFIX: &str = "shelf_";
/// Longest token that is looked up, bytes.
const LONGEST: usize = 256;
/// Random bytes of a token.
const BYTES: usize = 32;

/// What a token is good for; several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// To see stock, records, events and figures.
    pub const READ: Self = Self(1);
    /// To sell, to buy, to reserve, and to pick.
    pub const SELL: Self = Self(2);
    /// To change the stock otherwise.
    pub const STOCK: Self = Self(4);
    /// To decide about stores, links, webhooks and dead letters.
    pub const OPERATE: Self = Self(8);

    const NAMES: [(&str, Self); 4] =
        [("read", Self::READ), ("sell", Self::SELL), ("stock", Self::STOCK), ("operate", Self::OPERATE)];

    /// These and those.
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether any of those is among them.
    fn has_any(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }

    /// Their names.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(_, scope)| self.has_any(*scope)).map(|(name, _)| name)
    }
}

impl FromStr for Scopes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').try_fold(Self(0), |all, name| {
            let known = Self::NAMES.into_iter().find(|(known, _)| *known == name);
            let (_, scope) =
                known.ok_or_else(|| format!("{name:?} is no scope: there are read, sell, stock, operate"))?;
            Ok(all.and(scope))
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

/// What a route wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it shows no more than that a server is there, and how it is spoken to.
    Open,
    /// A token with any of these scopes.
    Needs(Scopes),
}

/// Who asks: a token's name and scopes; without tokens anybody, who may do all.
#[derive(Debug, Clone)]
pub struct Caller {
    name: Option<Arc<str>>,
    scopes: Scopes,
    /// Where it is known from, and as what.
    token: Option<(Tokens, Hash)>,
}

impl Caller {
    pub(super) fn anybody() -> Self {
        let all = Scopes::READ.and(Scopes::SELL).and(Scopes::STOCK).and(Scopes::OPERATE);
        Self { name: None, scopes: all, token: None }
    }

    /// The token's name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn shared_name(&self) -> Option<Arc<str>> {
        self.name.clone()
    }

    pub(super) fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// 403 without any of these scopes.
    pub fn must_have(&self, wanted: Scopes) -> Result<(), Problem> {
        if self.scopes.has_any(wanted) {
            return Ok(());
        }
        let names: Vec<&str> = wanted.names().collect();
        let detail = format!("this needs a token with the scope {}", names.join(" or "));
        let challenge =
            format!("Bearer realm=\"shelfstream\", error=\"insufficient_scope\", scope=\"{}\"", names.join(" "));
        Err(Problem::new(Code::Forbidden).detail(detail).header(header::WWW_AUTHENTICATE, challenge))
    }

    /// Resolves when the token was taken back, or is good for something else: what goes on for long has to end then.
    pub async fn revoked(self) {
        let Some((tokens, hash)) = &self.token else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if tokens.find(hash, Instant::now()).is_none_or(|now| now.scopes != self.scopes) {
                return;
            }
        }
    }

    /// What an `Idempotency-Key` of this caller's is kept as.
    pub(super) fn own_key(&self, key: &str) -> String {
        kept_key(self.name(), key)
    }
}

/// Callers with tokens have keys of their own. A key has no spaces.
fn kept_key(caller: Option<&str>, key: &str) -> String {
    caller.map_or_else(|| key.to_owned(), |name| format!("{name} {key}"))
}

/// Whose key is asked about
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct OfCaller {
    /// Name of the token that the key was sent with; else the one that asks.
    caller: Option<String>,
}

impl OfCaller {
    /// What the key is kept as.
    pub fn key(&self, asks: &Caller, key: &str) -> String {
        kept_key(self.caller.as_deref().or(asks.name()), key)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

impl Caller {
    /// Who has sent a request.
    pub(super) fn of(parts: &Parts) -> Self {
        parts.extensions.get().cloned().unwrap_or_else(Self::anybody)
    }
}

type Hash = [u8; 32];

/// The tokens that a server takes. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<File>);

struct File {
    path: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    callers: Arc<Callers>,
    /// Of the file as it was read.
    stamp: Stamp,
    looked: Instant,
}

type Callers = HashMap<Hash, (Arc<str>, Scopes)>;

/// What changes with a file: its times, size and place.
type Stamp = Option<(SystemTime, u64, [i64; 3])>;

fn stamp(metadata: &Metadata) -> Stamp {
    #[cfg(unix)]
    let place = {
        use std::os::unix::fs::MetadataExt;
        [metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
    };
    #[cfg(not(unix))]
    let place = [0; 3];
    metadata.modified().ok().map(|at| (at, metadata.len(), place))
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, or a line of it is not understood.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (callers, stamp) = read(path)?;
        let read = Mutex::new(Read { callers: Arc::new(callers), stamp, looked: Instant::now() });
        Ok(Self(Arc::new(File { path: path.to_owned(), read })))
    }

    /// Whose token has this hash.
    fn find(&self, hash: &Hash, now: Instant) -> Option<Caller> {
        let (is_due, known) = {
            let mut read = self.0.read.lock();
            let is_due = now.saturating_duration_since(read.looked) >= LOOK_EVERY;
            read.looked = if is_due { now } else { read.looked };
            (is_due, read.stamp)
        };
        if is_due {
            // Others go on with what was read before.
            self.look_again(known);
        }
        let callers = self.0.read.lock().callers.clone();
        let (name, scopes) = callers.get(hash)?;
        Some(Caller { name: Some(name.clone()), scopes: *scopes, token: Some((self.clone(), *hash)) })
    }

    fn look_again(&self, known: Stamp) {
        let found = fs::metadata(&self.0.path).map(|metadata| stamp(&metadata)).unwrap_or(None);
        if found == known {
            return;
        }
        let callers = read(&self.0.path);
        let mut read = self.0.read.lock();
        match callers {
            Ok((callers, stamp)) => {
                tracing::info!(tokens = callers.len(), "the tokens were read again");
                (read.callers, read.stamp) = (Arc::new(callers), stamp);
            }
            Err(error) => {
                tracing::error!("the tokens cannot be read again, those from before hold: {error:#}");
                read.stamp = found;
            }
        }
    }

    /// Who has sent these headers, if the token is good for it.
    pub(super) fn admit(&self, headers: &HeaderMap, access: Access) -> Result<Caller, Problem> {
        let sent = headers.get(header::AUTHORIZATION);
        let caller = sent.and_then(bearer).and_then(|token| self.find(&hash_of(token), Instant::now()));
        let Access::Needs(wanted) = access else { return Ok(caller.unwrap_or_else(Caller::anybody)) };
        let refused = |why: &str| {
            let challenge = "Bearer realm=\"shelfstream\"";
            Problem::new(Code::Unauthorized).detail(why).header(header::WWW_AUTHENTICATE, challenge)
        };
        if sent.is_none() {
            return Err(refused("a token is needed, in a header Authorization: Bearer <token>"));
        }
        let caller = caller.ok_or_else(|| refused("this token is not known here"))?;
        caller.must_have(wanted)?;
        Ok(caller)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("path", &self.0.path).finish_non_exhaustive()
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && token.len() <= LONGEST).then_some(token)
}

fn hash_of(token: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

fn read(path: &Path) -> anyhow::Result<(Callers, Stamp)> {
    let shown = path.display();
    let stamp = stamp(&fs::metadata(path).with_context(|| format!("cannot read the tokens in {shown}"))?);
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the tokens in {shown}"))?;
    let callers = parse(&text).with_context(|| format!("cannot use the tokens in {shown}"))?;
    Ok((callers, stamp))
}

fn parse(text: &str) -> anyhow::Result<Callers> {
    let (mut callers, mut names) = (Callers::new(), HashSet::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (hash, (name, scopes)) = parse_line(line).with_context(|| format!("line {number}"))?;
        ensure!(names.insert(name.clone()), "line {number}: there is a token of this name already");
        ensure!(callers.insert(hash, (name, scopes)).is_none(), "line {number}: this token has another name already");
    }
    Ok(callers)
}

fn parse_line(line: &str) -> anyhow::Result<(Hash, (Arc<str>, Scopes))> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, scopes, hash] = words[..] else {
        bail!("must be a name, scopes and sha256:<hash>, with spaces between")
    };
    let name = self::name(name).map_err(anyhow::Error::msg)?;
    let scopes = scopes.parse().map_err(anyhow::Error::msg)?;
    let hash = hash
        .strip_prefix("sha256:")
        .and_then(from_hex)
        .context("the hash must be sha256: and 64 hexadecimal digits")?;
    Ok((hash, (name.into(), scopes)))
}

/// A token's name: it stands in events, and before the keys of its requests.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
    if text.is_empty() || text.len() > NAME || !text.chars().all(plain) {
        return Err(format!("a token's name must be 1 to {NAME} letters, digits, '.', '_', '-' or '@'"));
    }
    Ok(text.to_owned())
}

fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    let is_hex = text.len() == 2 * hash.len() && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then_some(())?;
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a token, and adds its line to the file, which is made if it does not exist. Returns the token: it is kept nowhere.
///
/// # Errors
/// If the file cannot be read, understood or written, or has a token of this name.
pub(super) fn add(path: &Path, name: &str, scopes: Scopes) -> anyhow::Result<String> {
    let shown = path.display();
    let known = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let callers = parse(&known).with_context(|| format!("cannot use the tokens in {shown}"))?;
    ensure!(!callers.values().any(|(known, _)| **known == *name), "{shown} has a token named {name} already");
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    let token = format!("{PREFIX}{}", to_hex(&bytes));
    let hash = to_hex(&hash_of(token.as_bytes()));
    let line_end = if known.is_empty() || known.ends_with('\n') { "" } else { "\n" };
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| format!("cannot write {shown}"))?;
    file.write_all(format!("{line_end}{name} {scopes} sha256:{hash}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).expect("a value"))])
    }

    fn refusal(admitted: Result<Caller, Problem>) -> &'static str {
        admitted.expect_err("refused").code().as_str()
    }

    #[test]
    fn a_token_is_good_for_its_scopes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tokens");
        let token = add(&file, "till-2", Scopes::READ.and(Scopes::SELL)).expect("is added");
        let other = add(&file, "office", Scopes::STOCK).expect("is added");
        assert_ne!(token, other);
        let kept = fs::read_to_string(&file).expect("reads");
        assert!(kept.starts_with("till-2 read,sell sha256:") && !kept.contains(&token), "{kept}");
        let tokens = Tokens::open(&file).expect("is understood");
        let ask = |authorization: &str, access| tokens.admit(&headers(authorization), access);
        let bearer = format!("Bearer {token}");
        assert_eq!(ask(&bearer, Access::Open).expect("is open").name(), Some("till-2"));
        let caller = ask(&bearer, Access::Needs(Scopes::SELL)).expect("is let in");
        assert_eq!((caller.name(), caller.own_key("k")), (Some("till-2"), "till-2 k".to_owned()));
        assert!(ask(&format!("bearer  {token} "), Access::Needs(Scopes::SELL.and(Scopes::STOCK))).is_ok());
        assert_eq!(refusal(ask(&bearer, Access::Needs(Scopes::STOCK))), "forbidden");
        for bad in ["", "Bearer", "Bearer ", "Basic dGlsbA==", &token, &format!("Bearer {token}x")] {
            assert_eq!(refusal(ask(bad, Access::Needs(Scopes::READ))), "unauthorized", "{bad}");
            assert_eq!(ask(bad, Access::Open).expect("is open").name(), None, "{bad}");
        }
        assert_eq!(refusal(tokens.admit(&HeaderMap::new(), Access::Needs(Scopes::READ))), "unauthorized");
        assert!(add(&file, "office", Scopes::READ).expect_err("is there").to_string().contains("named office already"));
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let hash = "0".repeat(64);
        let good = format!("# tills\n\n a read sha256:{hash} \r\nb sell,stock,operate sha256:{}\n", "F".repeat(64));
        assert_eq!(parse(&good).expect("is understood").len(), 2);
        for (line, why) in [
            ("a read".to_owned(), "must be a name"),
            (format!("a read sha256:{hash} more"), "must be a name"),
            (format!("a write sha256:{hash}"), "\"write\" is no scope"),
            (format!("a read, sha256:{hash}"), "\"\" is no scope"),
            (format!("a read {hash}"), "hexadecimal digits"),
            (format!("a read sha256:{hash}0"), "hexadecimal digits"),
            (format!("a read sha256:+{}", "0".repeat(63)), "hexadecimal digits"),
            (format!("a/b read sha256:{hash}"), "name must be"),
            (format!("x read sha256:{}", "1".repeat(64)), "of this name already"),
            (format!("a read sha256:{}", "f".repeat(64)), "has another name already"),
        ] {
            let error = parse(&format!("x read sha256:{}\n{line}\n", "f".repeat(64))).expect_err(&line);
            let told = format!("{error:#}");
            assert!(told.contains("line 2") && told.contains(why), "{line}: {told}");
        }
    }

    #[test]
    fn a_change_holds_within_a_second_if_it_is_understood() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tokens");
        let first = add(&file, "first", Scopes::READ).expect("is added");
        let tokens = Tokens::open(&file).expect("is understood");
        let begun = Instant::now();
        let knows =
            |token: &str, looks: u32| tokens.find(&hash_of(token.as_bytes()), begun + LOOK_EVERY * looks).is_some();
        let second = add(&file, "second", Scopes::READ).expect("is added");
        assert!(knows(&first, 0) && !knows(&second, 0));
        assert!(knows(&first, 1) && knows(&second, 1));
        fs::write(&file, "nonsense").expect("writes");
        assert!(knows(&first, 2) && knows(&second, 2));
        fs::remove_file(&file).expect("is there");
        assert!(knows(&first, 3));
        let third = add(&file, "third", Scopes::READ).expect("is added");
        assert!(!knows(&first, 4) && knows(&third, 4));
    }
}
