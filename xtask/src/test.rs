//! `cargo xtask test`: gets what the tests need, then runs all of them.

use anyhow::bail;
use clap::Args;

use crate::{process, redis};

#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Tests of a binary at once, unless the caller says otherwise: those end to end wait far more than they compute.
const THREADS: &str = "4";

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("Shelfstream's tests: Redis, the daemons, then everything.");
    let server = redis::server()?;
    let binaries = process::build_daemons()?;
    let mut command = process::of_workspace("test");
    command.arg("--workspace").args(&options.filter);
    command.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", THREADS);
    }
    if !command.status()?.success() {
        bail!("a test failed");
    }
    Ok(())
}
