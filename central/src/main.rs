//! `central`: see `--help`.

use anyhow::Context;
use central::config::{Cli, Command, Serve};
use central::tools;
use clap::Parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Serve(options)) => serve(options).await,
        Some(Command::Restore(options)) => tools::restore(&options).await,
        Some(Command::Backup(options)) => tools::backup(&options),
        Some(Command::Verify(options)) => tools::verify(&options),
        Some(Command::Status(options)) => tools::status(&options).await,
        None => serve(cli.serve).await,
    }
}

async fn serve(config: Serve) -> anyhow::Result<()> {
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
