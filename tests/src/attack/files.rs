//! The database file is taken away under a running process. Nothing may be answered then that is not on disk under the
//! database's name: the process stops, with a status other than 0.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::arena::{Arena, TILL};
use super::probes::seconds;
use super::wire::{ask_within, request};
use crate::Daemon;

const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// What is done to the file.
type Deed = fn(&Path) -> std::io::Result<()>;

pub(super) async fn deleted(arena: &mut Arena) -> anyhow::Result<()> {
    take_away(arena, |database| std::fs::remove_file(database)).await
}

pub(super) async fn replaced(arena: &mut Arena) -> anyhow::Result<()> {
    take_away(arena, |database| {
        let copy = beside(database, "-copy");
        std::fs::copy(database, &copy)?;
        std::fs::rename(copy, database)
    })
    .await
}

pub(super) async fn wal_deleted(arena: &mut Arena) -> anyhow::Result<()> {
    take_away(arena, |database| std::fs::remove_file(beside(database, "-wal"))).await
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

async fn take_away(arena: &mut Arena, deed: Deed) -> anyhow::Result<()> {
    let [agent, central] = arena.ports();
    let body = r#"{"quantity":1}"#;
    let mut notes = Vec::new();
    for (name, daemon, port, path, database) in [
        ("agent", arena.agent(), agent, "/v1/purchase/tea", arena.world.database(TILL)),
        // The store behind it is untouched: a purchase there is recorded by central first.
        ("central", Daemon::Central, central, "/v1/purchase/s2/tea", arena.world.dir().join("central.db")),
    ] {
        let write = request("POST", path, &[("prefer", "wait=1")], body).into_bytes();
        let before = ask_within(Duration::from_secs(10), 0, port, &write).await?;
        anyhow::ensure!(before.status == 200, "{name}: {} before anything happened", before.status);
        deed(&database)?;
        let began = Instant::now();
        let after = ask_within(Duration::from_secs(10), 0, port, &write).await;
        if let Ok(reply) = &after
            && reply.status < 300
        {
            arena.find(format!("{name}: {} for what is not on disk", reply.status));
        }
        match arena.ends(&daemon, STOPS_WITHIN).await {
            Some(status) => {
                arena.expect(!status.success(), format!("{name} ended with {status}"));
                notes.push(format!("{name} stopped in {:.1} s", seconds(began)));
            }
            None => arena.find(format!("{name} goes on after {STOPS_WITHIN:?}")),
        }
    }
    arena.note = notes.join(", ");
    Ok(())
}
