//! Every answer to a test, written down for `cargo xtask test`, which compares them with what the servers say they answer.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

/// Where they are written, if somebody wants to know: one line an answer, from all tests.
static FILE: LazyLock<Option<File>> = LazyLock::new(|| {
    let path = std::env::var_os("SHELFSTREAM_ANSWERS")?;
    Some(OpenOptions::new().append(true).create(true).open(path).expect("the file of answers opens"))
});

/// Whose answers they are.
#[derive(Clone)]
pub(crate) struct Record {
    server: &'static str,
    /// What is asked twice is asked twice of the same chain.
    world: Arc<Path>,
}

impl Record {
    pub(crate) fn new(server: &'static str, world: &Path) -> Self {
        Self { server, world: world.into() }
    }

    #[expect(clippy::too_many_arguments, reason = "a request and its answer")]
    pub(crate) fn take(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        status: u16,
        answered: &HeaderMap,
        code: Option<&str>,
    ) {
        let Some(mut file) = FILE.as_ref() else { return };
        let key = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("idempotency-key")).map(|(_, key)| key);
        let mut request = DefaultHasher::new();
        (self.server, &self.world, method.as_str(), path, key, body).hash(&mut request);
        let line = json!({
            "server": self.server,
            "method": method.as_str(),
            "path": path,
            "keyed": key.is_some(),
            "request": request.finish(),
            "status": status,
            "code": code,
            "replayed": answered.contains_key("idempotency-replayed"),
        });
        // In one piece: other tests write, too.
        file.write_all(format!("{line}\n").as_bytes()).expect("the file of answers is written");
    }
}
