//! Attacks on real processes; `cargo xtask attack` builds what it needs and runs it.

use std::process::ExitCode;

use clap::Parser;
use tests::attack;

#[derive(Parser)]
struct Options {
    /// Smaller attacks and wider bounds, about a minute.
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Decides the mutated requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send this one of the mutated requests alone, and show it and its answer.
    #[arg(long)]
    request: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Options { quick, only, seed, request } = Options::parse();
    let options = attack::Options { quick, only, seed, request };
    let held = tokio::select! {
        held = attack::play(&options) => held?,
        // What was started ends with the runtime, which drops everybody who holds it.
        signal = runtime::daemon::asked_to_stop() => {
            signal?;
            println!("stopped in the middle: no verdict");
            return Ok(ExitCode::FAILURE);
        }
    };
    if held {
        println!("every bound was held");
        return Ok(ExitCode::SUCCESS);
    }
    println!("a bound was broken");
    Ok(ExitCode::FAILURE)
}
