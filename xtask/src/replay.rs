//! `cargo xtask replay`: builds the daemons, then replays full sets of real sales.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::{process, redis};

#[derive(Args)]
pub(crate) struct Options {
    /// Folders of sales data in the format of demo/data [default: shared/data and shared/data/online-retail, beside the
    /// project].
    folders: Vec<PathBuf>,
}

const USUAL: [&str; 2] = ["../shared/data", "../shared/data/online-retail"];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut folders = options.folders.clone();
    if folders.is_empty() {
        folders = USUAL.map(|folder| process::root().join(folder)).to_vec();
    }
    if let Some(folder) = folders.iter().find(|folder| !folder.join("expected.json").is_file()) {
        bail!("there is no sales data in {}: nothing was replayed", folder.display());
    }
    let server = redis::server()?;
    let binaries = process::build_daemons()?;
    let mut command = process::of_workspace("run");
    command.args(["--quiet", "--bin", "replay", "--"]).args(folders);
    command.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    if !command.status()?.success() {
        bail!("the closing figures of a replay were not met");
    }
    Ok(())
}
