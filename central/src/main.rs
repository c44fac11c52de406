//! `central`: see `--help`.

use std::process::ExitCode;

use central::config::{Cli, Command, Serve, Stores};
use central::operators::acl;
use central::operators::tools;
use runtime::daemon::Port;
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
        Command::Acl(options) => acl::of_central(&options),
        Command::Stores(Stores::List(options)) => tools::list_stores(&options).await,
        Command::Stores(Stores::Add(options)) => tools::add_store(&options).await,
        Command::Stores(Stores::Forget(options)) => tools::forget_store(&options).await,
        Command::Stores(Stores::Acl(options)) => acl::of_store(&options),
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
    let result = central::run::run(config, port, stop).await;
    signalled.abort();
    result
}
