//! `cargo xtask test`: gets what the tests need, then runs all of them.

use anyhow::bail;
use clap::Args;

use crate::{answers, process, redis};

#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this; `e2e`: those end to end.
    filter: Option<String>,
}

/// Tests of a binary at once, unless the caller says otherwise: those end to end wait far more than they compute.
const THREADS: &str = "4";
/// The tests that start real processes, which are a binary of their own.
const END_TO_END: &str = "e2e";

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("Shelfstream's tests: Redis, the daemons, then everything.");
    let server = redis::server()?;
    let binaries = process::build_daemons()?;
    let mut command = process::of_workspace("test");
    command.arg("--workspace");
    match options.filter.as_deref() {
        Some(END_TO_END) => command.args(["--test", END_TO_END]),
        filter => command.args(filter),
    };
    command.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    let answers = process::target().join("answers.jsonl");
    std::fs::write(&answers, "")?;
    command.env("SHELFSTREAM_ANSWERS", std::path::absolute(&answers)?);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", THREADS);
    }
    if !command.status()?.success() {
        bail!("a test failed");
    }
    if options.filter.as_deref().is_none_or(|filter| filter == END_TO_END) {
        answers::check(&answers)?;
    }
    Ok(())
}
