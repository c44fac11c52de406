//! `cargo xtask versions`: builds the daemons of an earlier revision, and runs the tests that mix them with these.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::{process, redis};

/// The commit that wrote the fixtures, which stands beside them.
const DELIVERED: &str = include_str!("../../tests/fixtures/0.1.0/revision").trim_ascii();

#[derive(Args)]
pub(crate) struct Options {
    /// Any of git's names of a commit; as delivered, the one that wrote tests/fixtures/0.1.0. It must know nothing of reservations,
    /// batches, transfers and allotments, which came later: the tests see that they are refused as unknown.
    #[arg(default_value = DELIVERED)]
    revision: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let earlier = build(&options.revision)?;
    let server = redis::server()?;
    let binaries = process::build_daemons()?;
    let mut tests = process::of_workspace("test");
    tests.args(["--workspace", "--test", "e2e", "--", "versions::", "--ignored"]);
    tests.env("SHELFSTREAM_REDIS_SERVER", server).env("SHELFSTREAM_BIN_DIR", binaries);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // They wait far more than they compute.
        tests.env("RUST_TEST_THREADS", "4");
    }
    if !tests.env("SHELFSTREAM_EARLIER_BIN_DIR", earlier).status()?.success() {
        bail!("{} and this version do not get on", options.revision);
    }
    Ok(())
}

/// Where the daemons of a revision are. What both revisions build alike is shared, which is most of their dependencies; the
/// rest goes beside it under other names, and the finished daemons into a folder of their own.
fn build(revision: &str) -> anyhow::Result<PathBuf> {
    let commit = commit(revision)?;
    let folder = std::path::absolute(process::target().join("versions").join(&commit))?;
    let (source, finished) = (folder.join("source"), folder.join("finished"));
    if !source.exists() {
        unpack(&commit, &folder).with_context(|| format!("the source of {revision}"))?;
    }
    println!("building the daemons of {revision} ({commit})");
    let mut build = Command::new(process::cargo());
    build.args(["build", "--locked", "--workspace", "--bin", "central", "--bin", "store-agent"]).current_dir(&source);
    build.env("CARGO_TARGET_DIR", &finished).env("CARGO_BUILD_BUILD_DIR", std::path::absolute(process::target())?);
    if !build.status()?.success() {
        bail!("the daemons of {revision} cannot be built");
    }
    Ok(finished.join("debug"))
}

fn commit(revision: &str) -> anyhow::Result<String> {
    let found = git(&["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")]).output()?;
    if !found.status.success() {
        bail!("git knows no commit {revision} here; a shallow clone has the newest alone");
    }
    Ok(String::from_utf8(found.stdout)?.trim().to_owned())
}

/// The files of a commit are there in full or not at all.
fn unpack(commit: &str, folder: &Path) -> anyhow::Result<()> {
    let (packed, unpacked) = (folder.join("source.tar"), folder.join("unpacking"));
    std::fs::create_dir_all(&unpacked)?;
    if !git(&["archive", "--format=tar", "--output"]).arg(&packed).arg(commit).status()?.success() {
        bail!("git archive failed");
    }
    if !Command::new("tar").arg("-xf").arg(&packed).arg("-C").arg(&unpacked).status()?.success() {
        bail!("tar failed");
    }
    std::fs::remove_file(packed)?;
    Ok(std::fs::rename(unpacked, folder.join("source"))?)
}

fn git(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(process::root());
    git
}
