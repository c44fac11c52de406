//! Looking at each page of a database that is too large for that when it is opened, beside its work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use super::open::{CHECKED_WHOLE, OpenError, quick_check, size, sort};
use super::read_only;

/// After the start, and between two inspections.
const FIRST: Duration = Duration::from_secs(60 * 60);
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Inspects a database every day; returns only when it is damaged. On a thread of its own, which the end of the process
/// need not wait for.
pub async fn inspect_daily(path: PathBuf) -> OpenError {
    let mut wait = FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = EVERY;
        let (tell, told) = oneshot::channel();
        let path = path.clone();
        let looks = move || drop(tell.send(inspect(&path)));
        if let Err(error) = std::thread::Builder::new().name("inspection".into()).spawn(looks) {
            tracing::warn!(%error, "the database is not inspected today");
            continue;
        }
        if let Ok(Err(error)) = told.await {
            return error;
        }
    }
}

/// Reads every page of a large database, table by table, so that no read holds the write-ahead log for long.
fn inspect(path: &Path) -> Result<(), OpenError> {
    let sqlite = |error| sort(path, error);
    let connection = read_only(path).map_err(sqlite)?;
    if size(&connection).map_err(sqlite)? <= CHECKED_WHOLE {
        return Ok(());
    }
    let tables: Vec<String> = connection
        .prepare("select name from sqlite_schema where type = 'table' and name not like 'sqlite\\_%' escape '\\'")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(sqlite)?;
    tables.iter().try_for_each(|table| quick_check(&connection, path, &format!("'{table}'")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{Schema, is_fatal, note_damage, open};

    const SCHEMA: Schema = Schema { application_id: 7, migrations: &["create table a (x integer) strict"] };

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("shelfstream-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("creates");
        dir
    }

    /// A database of more than [`CHECKED_WHOLE`] with rubbish in its middle.
    fn large_and_damaged(name: &str) -> PathBuf {
        use std::os::unix::fs::FileExt;
        let path = folder(name).join("a.db");
        let (connection, lock) = open(&path, SCHEMA).expect("opens");
        connection
            .execute_batch(
                "create table filling (x blob) strict; insert into filling with recursive n(i) as \
                 (select 1 union all select i + 1 from n where i < 70) select randomblob(1 << 20) from n; \
                 create table victim (x integer primary key, y blob) strict; insert into victim with recursive n(i) as \
                 (select 1 union all select i + 1 from n where i < 1000) select i, randomblob(1000) from n; \
                 pragma wal_checkpoint(truncate)",
            )
            .expect("fills");
        let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("reads");
        drop((connection, lock));
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        file.write_all_at(&[0x5a; 4_096 * 8], (pages - 60) * 4_096).expect("writes");
        path
    }

    #[test]
    fn damage_in_a_large_file_is_found_beside_its_work_and_at_every_start_from_then_on() {
        let path = large_and_damaged("large");
        let opened = open(&path, SCHEMA).expect("is too large to be looked at whole");
        let found = inspect(&path).expect_err("is damaged");
        assert!(matches!(found, OpenError::Corrupt { .. }), "{found}");
        drop(opened);
        assert!(open(&path, SCHEMA).is_ok(), "nobody has said so yet");
        note_damage(&path, [&found as &(dyn std::error::Error + 'static)].into_iter());
        for _ in 0..2 {
            assert!(matches!(open(&path, SCHEMA), Err(OpenError::Corrupt { .. })));
        }
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }

    #[test]
    fn damage_that_a_statement_meets_is_remembered() {
        let path = large_and_damaged("met");
        let (connection, lock) = open(&path, SCHEMA).expect("is too large to be looked at whole");
        let met = connection.query_row("select sum(length(y)) from victim", [], |row| row.get::<_, i64>(0));
        let met = met.expect_err("is damaged");
        assert!(is_fatal(&met), "{met}");
        drop((connection, lock));
        note_damage(&path, [&met as &(dyn std::error::Error + 'static)].into_iter());
        assert!(matches!(open(&path, SCHEMA), Err(OpenError::Corrupt { .. })));
        let _ = std::fs::remove_dir_all(path.parent().expect("a directory"));
    }
}
