//! `cargo xtask bench`: builds the daemons, then measures how fast they are beside the smallest programs that could do
//! the same.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{process, redis};

const NAMES: [&str; 16] = [
    "read",
    "sale",
    "backlog",
    "visible",
    "purchase",
    "replay",
    "memory",
    "start",
    "outage",
    "idle",
    "growth",
    "space",
    "stall",
    "slow-network",
    "slow-thousand",
    "replay-tenfold",
];

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure [default: all].
    #[arg(value_parser = NAMES)]
    names: Vec<String>,
    /// Three pairs and short runs, some minutes in all: an indication and nothing to quote.
    #[arg(long, conflicts_with = "smoke")]
    quick: bool,
    /// A few seconds each, on the test build: everything runs, no figure is judged or means anything.
    #[arg(long)]
    smoke: bool,
    /// Folder of receipts for `replay`, in the format of demo/data [default: shared/data, beside the project].
    #[arg(long)]
    data: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let server = redis::server()?;
    let binaries = if options.smoke { process::build_daemons() } else { process::build_released_daemons() }?;
    let mut command = process::of_workspace("run");
    command.args(["--quiet", "--bin", "bench"]);
    if !options.smoke {
        command.args(["--profile", "dist"]);
    }
    command.arg("--").args(&options.names);
    if options.quick {
        command.arg("--quick");
    }
    if options.smoke {
        command.arg("--smoke");
    }
    let data = options.data.clone().unwrap_or_else(|| process::root().join("../shared/data"));
    command.arg("--data").arg(data);
    // Nobody shall take the figures of a smoke test for others.
    let file = if options.smoke { "smoke.json" } else { "results.json" };
    command.arg("--results").arg(process::target().join("bench").join(file));
    command.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    if !command.status()?.success() {
        bail!("a benchmark could not be run, or an answer was wrong");
    }
    Ok(())
}
