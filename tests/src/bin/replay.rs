//! Replays sets of real sales with a fault of each kind on the way; `cargo xtask replay` builds what it needs and runs it.

use std::path::PathBuf;

use clap::Parser;
use tests::{data, replay};

#[derive(Parser)]
struct Options {
    /// Folders of sales data.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    for folder in Options::parse().folders {
        println!("{}", folder.display());
        replay::replay(&data::read(&folder)).await;
    }
}
