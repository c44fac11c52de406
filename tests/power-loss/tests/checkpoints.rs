//! A checkpoint whose sync fails, after one that a reader kept from syncing: what SQLite then takes for done is not.

use std::path::Path;
use std::sync::Arc;

use power_loss::{Dice, Disk, Fault, Mount, Syncs};
use runtime::sqlite::{Abort, Error, Schema, Writer, checkpoint_at, open_beside, open_on};
use rusqlite::{Connection, OpenFlags};

const PATH: &str = "/data/a.db";
const SCHEMA: Schema = Schema {
    application_id: 7,
    migrations: &["create table early (x integer) strict; create table late (x integer) strict"],
};

/// Who commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The daemons' writer.
    Production,
    /// SQLite's own checkpoints, of whose failure nobody hears.
    Silent,
    /// The connection is closed in the ordinary way when a commit has failed.
    Closed,
}

/// Whether a row that was committed, and synced then, is lost. Each seed loses other writes in the sync that fails.
fn is_lost(mount: &Mount, how: How, seed: u64) -> bool {
    let disk = Disk::new(Syncs::Honest);
    mount.insert(disk.clone());
    let mut connection = open_on(mount, Path::new(PATH), SCHEMA).expect("opens");
    connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).expect("all in one file");
    match how {
        How::Production | How::Closed => checkpoint_at(&mut connection, 1).expect("is set"),
        How::Silent => connection.pragma_update(None, "wal_autocheckpoint", 1).expect("is set"),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags_and_vfs(PATH, flags, mount.name()).expect("opens");
    let read = |what: &str| reader.execute_batch(what).expect("reads");
    let fail = || {
        read("commit");
        disk.arm(Some((seed, Fault::Sync { of_database: true })));
    };
    let insert = |connection: &Connection, table: &str| {
        connection.execute(&format!("insert into {table} values (1)"), []).map(drop)
    };
    read("begin; select * from early");
    insert(&connection, "early").expect("is committed");
    read("commit; begin; select * from early");
    // Its checkpoint writes the first row into the database, and as somebody reads does not sync it.
    insert(&connection, "late").expect("is committed");
    match how {
        How::Production => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let beside = open_beside(mount, Path::new(PATH)).expect("opens");
            let (writer, ended) = Writer::start_checkpointing(connection, beside, 1, || {});
            fail();
            let job = move |connection: &Connection| Ok::<_, Abort<()>>(insert(connection, "late")?);
            runtime.block_on(writer.write(job, |()| {})).expect("is in the log").expect("is not refused");
            let why = runtime.block_on(ended).expect("does not panic").expect_err("the process ends");
            assert!(why.to_string().contains("disk I/O error"), "{why}");
            let next = runtime.block_on(writer.write(|_: &Connection| Ok::<_, Abort<()>>(()), |()| {}));
            assert!(matches!(next, Err(Error::Stopped)), "nobody else is answered");
            drop((writer, reader));
        }
        How::Silent => {
            fail();
            // The second one's checkpoint says that all is well, and the third one writes over the log.
            (0..3).for_each(|_| insert(&connection, "late").expect("is committed"));
            drop((connection, reader));
        }
        How::Closed => {
            fail();
            insert(&connection, "late").expect_err("says so");
            drop((reader, connection));
        }
    }
    disk.wait_closed();
    let landed = matches!(disk.landed(), Some((Fault::Sync { .. }, _)));
    assert!(landed, "{how:?}");
    let (disk, _): (Arc<Disk>, _) = disk.cut(&mut Dice::new(seed));
    mount.insert(disk);
    let count = |connection: Connection| {
        connection.query_row("select count(*) from early", [], |row| row.get::<_, i64>(0)).unwrap_or(0)
    };
    open_on(mount, Path::new(PATH), SCHEMA).map_or(true, |connection| count(connection) == 0)
}

#[test]
fn a_checkpoint_that_fails_ends_the_process_and_loses_nothing() {
    let mount = Mount::register("checkpoints", Disk::new(Syncs::Honest));
    let lost = |how| (0..6).filter(|seed| is_lost(&mount, how, *seed)).count();
    assert_eq!(lost(How::Production), 0);
    // It can fail.
    assert!(lost(How::Silent) > 0, "silent");
    assert!(lost(How::Closed) > 0, "closed");
}
