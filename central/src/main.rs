//! `central`: see `--help`.

use anyhow::Context;
use central::config::{Cli, Command};
use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let config = match cli.command {
        Some(Command::Serve(serve)) => serve,
        None => cli.serve,
    };
    shared::daemon::start_log(config.log_format);
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let stop = CancellationToken::new();
    let signals = stop.clone();
    let signalled = tokio::spawn(async move {
        let result = shared::daemon::asked_to_stop().await;
        signals.cancel();
        result
    });
    let result = central::run::run(config, listener, stop).await;
    signalled.abort();
    result
}
