//! `store-agent`: see `--help`.

use std::process::ExitCode;

use runtime::daemon::Port;
use store_agent::config::{Cli, Command, Serve};
use store_agent::operators::tools;
use tokio_util::sync::CancellationToken;

/// Gives memory back after a flood of connections, which the C library keeps. For Rust alone, not for SQLite: in the place of the
/// C library's own it hangs under libfaketime. `.cargo/config.toml` has its settings.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    runtime::daemon::run_main(run())
}

async fn run() -> anyhow::Result<ExitCode> {
    match runtime::daemon::parse::<Cli>().command {
        Command::Serve(options) => serve(options).await,
        Command::Restore(options) => tools::restore(&options).await,
        Command::Backup(options) => tools::backup(&options),
        Command::Verify(options) => tools::verify(&options),
        Command::Status(options) => return tools::status(&options).await,
        Command::Import(options) => tools::import(&options).await,
        Command::Export(options) => tools::export(&options).await,
        Command::Tokens(options) => options.run(),
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Serve) -> anyhow::Result<()> {
    runtime::daemon::start_log(config.log_format)?;
    let port = Port::take(&config.listen)?;
    let stop = CancellationToken::new();
    let signals = stop.clone();
    let signalled = tokio::spawn(async move {
        let result = runtime::daemon::asked_to_stop().await;
        signals.cancel();
        result
    });
    let result = store_agent::run::run(config, port, stop).await;
    signalled.abort();
    result
}
