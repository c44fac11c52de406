//! `cargo xtask simulate` and `cargo xtask mutants`.

use anyhow::bail;
use clap::Args;

use crate::process;

#[derive(Args)]
pub(crate) struct Simulate {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Play one seed and print everything that happened in it.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    trace: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Mutants {
    /// Seeds for each bug, at most.
    #[arg(long, default_value_t = 5_000)]
    seeds: u64,
    /// Note which seed finds each bug first, to begin with next time.
    #[arg(long)]
    note: bool,
    /// Only bugs whose name contains this.
    #[arg(conflicts_with = "note")]
    only: Option<String>,
}

pub(crate) fn simulate(options: &Simulate) -> anyhow::Result<()> {
    let arguments = match options.trace {
        Some(seed) => vec!["--trace".to_owned(), seed.to_string()],
        None => ["--seeds".to_owned(), options.seeds.to_string(), "--from".to_owned(), options.from.to_string()].into(),
    };
    run("simulate", &arguments, "a promise was broken")
}

pub(crate) fn mutants(options: &Mutants) -> anyhow::Result<()> {
    let mut arguments = vec!["--seeds".to_owned(), options.seeds.to_string()];
    arguments.extend(options.note.then(|| "--note".to_owned()));
    arguments.extend(options.only.clone());
    run("mutants", &arguments, "a planted bug was not found")
}

fn run(which: &str, arguments: &[String], failure: &'static str) -> anyhow::Result<()> {
    let mut command = process::of_workspace("run");
    command.args(["--bin", which, "--"]).args(arguments);
    if !command.current_dir(process::root()).status()?.success() {
        bail!(failure);
    }
    Ok(())
}
