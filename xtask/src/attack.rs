//! `cargo xtask attack`: builds the daemons, then attacks them in every way that is known.

use anyhow::bail;
use clap::Args;

use crate::{process, redis};

#[derive(Args)]
pub(crate) struct Options {
    /// Smaller attacks on the test build with wider bounds, about a minute; else a release build, about ten.
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Decides the mutated requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send this one of the mutated requests alone, and show it and its answer.
    #[arg(long)]
    request: Option<u64>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("Attacks on Redis, central and two stores; everything stays on 127.0.0.0/8.");
    let server = redis::server()?;
    let binaries = if options.quick { process::build_daemons() } else { process::build_released_daemons() }?;
    let mut command = process::of_workspace("run");
    command.args(["--quiet", "--bin", "attack", "--"]);
    command.args(["--seed", &options.seed.to_string()]);
    if options.quick {
        command.arg("--quick");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    if let Some(request) = options.request {
        command.args(["--request", &request.to_string()]);
    }
    command.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    if !command.status()?.success() {
        bail!("the attack found something");
    }
    Ok(())
}
