//! `cargo xtask chaos`: builds the daemons, then lets everything go wrong that can.

use anyhow::bail;
use clap::Args;

use crate::{process, redis};

#[derive(Args)]
pub(crate) struct Options {
    /// How long faults go on: a world for each minute, the next with the next seed.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// The first world's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stores in each world.
    #[arg(long, default_value_t = 3)]
    stores: u64,
    /// Keep the files of a world that failed.
    #[arg(long)]
    keep: bool,
    /// Only kinds of fault whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("Chaos for {} min: Redis, central and {} stores.", options.minutes, options.stores);
    let server = redis::server()?;
    let binaries = process::build_daemons()?;
    let mut command = process::of_workspace("run");
    command.args(["--quiet", "--bin", "chaos", "--"]);
    command.args(["--minutes", &options.minutes.to_string(), "--seed", &options.seed.to_string()]);
    command.args(["--stores", &options.stores.to_string()]);
    if options.keep {
        command.arg("--keep");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    command.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    if !command.status()?.success() {
        bail!("chaos found something");
    }
    Ok(())
}
