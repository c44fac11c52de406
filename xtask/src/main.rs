//! `cargo xtask ...`: what a developer or a visitor runs.

mod answers;
mod attack;
mod bench;
mod chaos;
mod data;
mod demo;
mod http;
mod http_file;
mod mutation;
mod openapi;
mod pages;
mod process;
mod redis;
mod replay;
mod simulation;
mod structure;
mod test;
mod versions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a developer or a visitor runs.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Four stores, central and Redis on real sales: see what breaks, and that nothing is lost.
    Demo(demo::Options),
    /// Get what the tests need, then run all of them.
    Test(test::Options),
    /// Play seeds of the simulation: production code, virtual time, a Redis that forgets.
    Simulate(simulation::Simulate),
    /// Plant each known bug in turn and see that the simulation finds it.
    Mutants(simulation::Mutants),
    /// Change the code in a sample of the ways that `cargo mutants` knows, and see that a test or a seed fails.
    Mutation(mutation::Options),
    /// Let everything go wrong that can, with real processes, and see that every promise is kept.
    Chaos(chaos::Options),
    /// Attack a small chain with hostile clients, stores and contents of Redis, and see that every bound is held.
    Attack(attack::Options),
    /// Measure how fast it is, each figure beside the smallest program that could do the same.
    Bench(bench::Options),
    /// Replay full sets of real sales with a fault of each kind on the way; fails if their data is not there.
    Replay(replay::Options),
    /// Run demo.http with a real client against a fresh central and two stores.
    HttpFile,
    /// See that both servers answer as they describe it.
    Openapi(openapi::Options),
    /// See that imports point downwards only, and that every rule that is cited is defined.
    Structure,
    /// Run agents of an earlier version beside this central, and an earlier central beside these agents.
    Versions(versions::Options),
    /// Use the pages of a store and of central in a real browser.
    Pages,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Simulate(options) => simulation::simulate(&options),
        Command::Mutants(options) => simulation::mutants(&options),
        Command::Mutation(options) => mutation::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::Attack(options) => attack::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::HttpFile => http_file::run(),
        Command::Openapi(options) => openapi::run(&options),
        Command::Structure => structure::run(),
        Command::Versions(options) => versions::run(&options),
        Command::Pages => pages::run(),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
