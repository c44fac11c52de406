//! `store-agent`: see `--help`.

use anyhow::Context;
use clap::Parser;
use store_agent::config::{Cli, Command, Serve};
use store_agent::tools;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match (cli.command, cli.serve) {
        (Some(Command::Serve(options)), _) | (None, Some(options)) => serve(options).await,
        (Some(Command::Restore(options)), _) => tools::restore(&options).await,
        (Some(Command::Backup(options)), _) => tools::backup(&options),
        (Some(Command::Verify(options)), _) => tools::verify(&options),
        (Some(Command::Status(options)), _) => tools::status(&options).await,
        (None, None) => anyhow::bail!("STORE_ID is needed: see store-agent --help"),
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
    let result = store_agent::run::run(config, listener, stop).await;
    signalled.abort();
    result
}
