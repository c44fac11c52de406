//! Clocks that are off.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Plan;
use crate::chaos::rig::{Rig, Who};

pub(super) fn faketime() -> Option<PathBuf> {
    let triple = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    ["/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime", &triple]
        .iter()
        .map(|dir| Path::new(dir).join("libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

/// Environment under which a process takes its clock's error from a file.
pub(super) fn under_faketime(rig: &Rig, name: &str) -> anyhow::Result<(PathBuf, Vec<(String, String)>)> {
    let library = faketime().context("libfaketime is there")?;
    let file = rig.dir().join(format!("clock-of-{name}"));
    let environment = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    Ok((file, environment.to_vec()))
}

/// A daemon starts with a clock that is an hour off; later its clock is set right while it runs.
pub(super) async fn clock(rig: &Rig, who: Who, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let (file, environment) = under_faketime(rig, &daemon.name)?;
    let off = if plan.dice.chance(500) { "+1h" } else { "-1h" };
    let mut slot = daemon.hold().await;
    std::fs::write(&file, off)?;
    slot.process.take().context("it runs")?.kill();
    slot.environment = environment;
    rig.start_daemon(daemon, &mut slot);
    plan.for_ms(2_000, 3_500).await;
    std::fs::write(&file, "+0")?;
    plan.for_ms(1_500, 2_500).await;
    Ok(format!("{} {off}", daemon.name))
}
