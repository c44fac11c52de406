//! A store's life: backup, restore of a lost disk and of an old copy, central's restore, audits, refused files.

use std::time::Duration;

use serde_json::json;
use tests::{Builder, Daemon, World, until};

const SOON: Duration = Duration::from_secs(20);

async fn world() -> World {
    let world = Builder { heartbeat_ms: 300, max_age_ms: 2_000, sweep_ms: 300 }.start(&["s1"]).await;
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea", "name": "Tea", "quantity": 50})).await.expect(201);
    world.converged(SOON).await;
    world
}

fn agent() -> Daemon {
    Daemon::Store("s1".into())
}

/// Removes a database that no process has open.
fn remove(world: &World, store: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = world.database(store).into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
}

async fn restored(world: &World, more: &[&str]) -> String {
    let args = [&["restore", "--store-id", "s1"], more].concat();
    let (done, said) = world.tool("store-agent", &args).await;
    assert!(done, "{said}");
    said
}

async fn audited(world: &World) {
    for (program, args) in [("store-agent", &["verify", "--store-id", "s1"] as &[&str]), ("central", &["verify"])] {
        let (well, said) = world.tool(program, args).await;
        assert!(well && said.contains("All is well"), "{program}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_machine_takes_over_from_central() {
    let mut world = world().await;
    let central = world.central();
    let bought = central.post("/v1/purchase/s1/tea", json!({"quantity": 3})).await.expect(200);
    let id = bought["purchase"]["purchaseId"].as_str().expect("an id").to_owned();
    let sale = json!({"quantity": 7});
    let key = [("idempotency-key", "receipt-1")];
    world.store("s1").post_with("/v1/purchase/tea", &key, sale.clone()).await.expect(200);
    world.converged(SOON).await;
    world.kill(&agent());
    remove(&world, "s1");

    let said = restored(&world, &[]).await;
    assert!(said.contains("1 items"), "{said}");
    world.restart(&agent()).await;
    world.converged(SOON).await;
    let store = world.store("s1");
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 40);
    let again = store.post_with("/v1/purchase/tea", &key, sale).await;
    assert_eq!(again.header("idempotency-replayed"), "true", "a till that had not heard the answer tries again");
    assert_eq!(again.expect(200)["quantity"], 40);
    let waiting = store.get("/v1/purchases?picked=false").await.expect(200);
    assert_eq!(waiting["items"][0]["purchaseId"], id.as_str(), "what waits to be picked is known again");
    world.online("s1").await;
    central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    // Its units come back when it is cancelled: the new machine knows the outcome.
    central.post_with(&format!("/v1/purchases/{id}/cancel"), &[("prefer", "wait=10")], json!({})).await.expect(200);
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 42);
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_stops_itself_sells_on_and_takes_in_what_it_missed() {
    let mut world = world().await;
    let old = world.dir().join("yesterday.db");
    assert_eq!(world.terminate(&agent()), Some(0));
    std::fs::copy(world.database("s1"), &old).expect("a copy by hand");
    world.restart(&agent()).await;
    world.converged(SOON).await;
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 10})).await.expect(200);
    world.converged(SOON).await;
    world.kill(&agent());
    remove(&world, "s1");
    std::fs::copy(&old, world.database("s1")).expect("the copy goes back");
    world.restart(&agent()).await;

    let store = world.store("s1");
    until("it stops itself", SOON, async || {
        let status = store.get("/v1/status").await;
        if status.body["link"] == "fenced" && status.header("shelf-warning") == "fenced" { Ok(()) } else { Err(status) }
    })
    .await;
    assert!(store.get("/v1/status").await.body["advice"].as_str().is_some_and(|text| text.contains("OPERATIONS")));
    store.post("/v1/purchase/tea", json!({"quantity": 2, "reference": "while fenced"})).await.expect(200);
    assert_eq!(world.terminate(&agent()), Some(0));

    let said = restored(&world, &[]).await;
    assert!(said.contains("1 entries that central did not have were recorded again"), "{said}");
    assert!(said.contains("Please count these 1 items: tea"), "{said}");
    world.restart(&agent()).await;
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 38, "50 - 10 - 2: both happened");
    let events = world.central().get("/v1/events?reference=while%20fenced").await.expect(200);
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1), "{events}");
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_goes_back_by_a_restore_alone() {
    let mut world = world().await;
    let backup = world.dir().join("yesterday.db").display().to_string();
    let (done, said) = world.tool("store-agent", &["backup", "--store-id", "s1", "--to", &backup]).await;
    assert!(done && said.contains("restore --from"), "{said}");
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 10})).await.expect(200);
    world.converged(SOON).await;
    world.kill(&agent());
    let serve = ["serve", "--store-id", "s1", "--listen", "127.0.0.1:0"];
    let (done, said) = world.tool("store-agent", &[&serve[..], &["--database-path", backup.as_str()]].concat()).await;
    assert!(!done && said.contains("is a copy"), "{said}");

    restored(&world, &["--from", &backup]).await;
    world.restart(&agent()).await;
    world.converged(SOON).await;
    assert_eq!(world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"], 40);

    // Put in place by hand, and restored twice: what was there is kept once.
    world.kill(&agent());
    remove(&world, "s1");
    std::fs::copy(&backup, world.database("s1")).expect("the copy goes back");
    let (done, said) = world.tool("store-agent", &serve).await;
    assert!(!done && said.contains("is a copy"), "{said}");
    let central = format!("http://127.0.0.1:{}", world.central_port());
    world.kill(&Daemon::Central);
    let dir = world.dir().to_owned();
    let kept = || {
        let names = std::fs::read_dir(&dir).expect("reads").filter_map(Result::ok).map(|file| file.file_name());
        // What SQLite keeps beside them does not count.
        let is_kept = |name: &str| name.split_once(".before-restore-").is_some_and(|(_, at)| at.parse::<u64>().is_ok());
        names.filter(|name| name.to_str().is_some_and(is_kept)).count()
    };
    let before = kept();
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s1", "--central", &central]).await;
    assert!(!done && said.contains("does not answer"), "{said}");
    assert_eq!(kept(), before, "nothing was done before central had answered");
    world.restart(&Daemon::Central).await;
    restored(&world, &[]).await;
    assert_eq!(kept(), before + 1);
    world.restart(&agent()).await;
    world.converged(SOON).await;
    assert_eq!(world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"], 40);
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_restore_meets_is_put_aside_by_the_next() {
    use std::os::unix::fs::FileExt;
    let mut world = world().await;
    assert_eq!(world.terminate(&agent()), Some(0));
    // Rubbish in a file that is too large to be looked at whole when it is opened.
    let file = rusqlite::Connection::open(world.database("s1")).expect("opens");
    let rows = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 70) select";
    file.execute_batch(&format!(
        "create table filling (x blob) strict; insert into filling {rows} randomblob(1 << 20) from n; \
         create table victim (x integer primary key, y blob) strict; insert into victim {rows} i, randomblob(2000) from n; \
         pragma wal_checkpoint(truncate)"
    ))
    .expect("writes");
    let pages: u64 = file.pragma_query_value(None, "page_count", |row| row.get(0)).expect("reads");
    drop(file);
    let file = std::fs::File::options().write(true).open(world.database("s1")).expect("opens");
    file.write_all_at(&[0x5a; 4_096 * 8], (pages - 20) * 4_096).expect("writes");
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s1"]).await;
    assert!(!done && said.contains("malformed") && said.contains("run this again"), "{said}");
    let said = restored(&world, &[]).await;
    assert!(said.contains("The database is damaged") && said.contains("is kept in"), "{said}");
    world.restart(&agent()).await;
    world.converged(SOON).await;
    assert_eq!(world.store("s1").get("/v1/inventory/tea").await.expect(200)["quantity"], 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistyped_path_makes_no_folder_and_a_new_database_is_announced() {
    let world = world().await;
    let serve = ["serve", "--store-id", "s9", "--listen", "127.0.0.1:0", "--database-path"];
    let mistyped = world.dir().join("fodler").join("s9.db").display().to_string();
    let (done, said) = world.tool("store-agent", &[&serve[..], &[mistyped.as_str()]].concat()).await;
    assert!(!done && said.contains("fodler does not exist"), "{said}");
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s9"]).await;
    assert!(!done && said.contains("does not know store s9"), "{said}");
    assert!(!world.database("s9").exists(), "a mistyped store leaves nothing behind");
    let log = std::fs::read_to_string(world.dir().join("s1.log")).expect("the agent's log");
    let begins = log.lines().find(|line| line.contains("listening on")).unwrap_or_default();
    for told in ["s1.db", "items=0", "epoch="] {
        assert!(begins.contains(told), "{told}: {begins}");
    }
    assert!(log.contains("this database is new and empty"), "{log}");
    let status = world.store("s1").get("/v1/status").await.expect(200);
    assert_eq!((&status["items"], &status["new"]), (&json!(1), &json!(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_agent_with_a_known_id_is_refused_until_someone_chooses() {
    let mut world = world().await;
    assert_eq!(world.terminate(&agent()), Some(0));
    remove(&world, "s1");
    world.restart(&agent()).await;
    let store = world.store("s1");
    assert_eq!(store.get("/v1/status").await.expect(200)["new"], true);
    store.post("/v1/inventory", json!({"productId": "new", "quantity": 1})).await.expect(201);
    until("it is fenced", SOON, async || {
        let status = store.get("/v1/status").await.body;
        if status["link"] == "fenced" { Ok(()) } else { Err(status) }
    })
    .await;
    let seen = world.central().get("/v1/stores/s1").await.expect(200);
    assert_eq!(seen["claims"].as_array().map(Vec::len), Some(1), "{seen}");
    assert_eq!(world.terminate(&agent()), Some(0));
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s1"]).await;
    assert!(!done && said.contains("--state") && said.contains("central was not asked yet"), "{said}");
    restored(&world, &["--state", "central"]).await;
    world.restart(&agent()).await;
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 50);
    assert_eq!(store.get("/v1/inventory/new").await.status, 404, "left out, as was said");
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_buyers_were_promised_is_taken_out_of_the_state_that_somebody_chooses() {
    let mut world = world().await;
    let (central, store) = (world.central(), world.store("s1"));
    let mut bought = Vec::new();
    for quantity in [3, 1, 1] {
        let answer = central.post("/v1/purchase/s1/tea", json!({"quantity": quantity})).await.expect(200);
        bought.push(answer["purchase"]["purchaseId"].as_str().expect("an id").to_owned());
    }
    let [waits, picked, cancelled] = bought.as_slice() else { panic!("three") };
    world.converged(SOON).await;
    store.post(&format!("/v1/purchases/{picked}/picked"), json!({})).await.expect(200);
    world.converged(SOON).await;

    // A machine that was set up anew with what is on the shelf, less than was promised.
    assert_eq!(world.terminate(&agent()), Some(0));
    remove(&world, "s1");
    world.restart(&agent()).await;
    store.post("/v1/inventory", json!({"productId": "tea", "name": "Tea", "quantity": 2})).await.expect(201);
    assert_eq!(world.terminate(&agent()), Some(0));
    restored(&world, &["--state", "own"]).await;
    world.restart(&agent()).await;
    world.converged(SOON).await;
    world.online("s1").await;

    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 0, "2 and 2 that are missing, less 4");
    let short = central.get("/v1/events?type=shortage").await.expect(200);
    let short = short["items"].as_array().expect("a list");
    assert_eq!(short.iter().filter_map(|event| event["delta"].as_i64()).sum::<i64>(), 2, "{short:?}");
    assert!(short.iter().all(|event| [waits, cancelled].contains(&&event["purchaseId"].as_str().unwrap_or("").into())));
    let asked = central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await;
    assert_eq!(asked.status, 409, "nothing is on offer");
    let to_pick = store.get("/v1/purchases?picked=false").await.expect(200);
    assert_eq!(to_pick["items"].as_array().map(Vec::len), Some(2), "{to_pick}");
    let path = format!("/v1/purchases/{cancelled}/cancel");
    central.post_with(&path, &[("prefer", "wait=10")], json!({})).await.expect(200);
    store.post(&format!("/v1/purchases/{waits}/picked"), json!({})).await.expect(200);
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 1, "what was cancelled is back");
    for (id, status, picked) in
        [(waits, "confirmed", true), (picked, "confirmed", true), (cancelled, "cancelled", false)]
    {
        let known = central.get(&format!("/v1/purchases/{id}")).await.expect(200);
        assert_eq!((&known["status"], &known["picked"]), (&json!(status), &json!(picked)), "{known}");
    }
    audited(&world).await;
}

/// Stops a store's agent, and puts a copy by hand in the place of its database.
fn put_copy(world: &mut World, copy: &std::path::Path) {
    assert_eq!(world.terminate(&agent()), Some(0));
    remove(world, "s1");
    std::fs::copy(copy, world.database("s1")).expect("the copy goes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_place_is_asked_about_and_left_out_if_so_chosen() {
    let mut world = world().await;
    let backup = world.dir().join("central-backup.db").display().to_string();
    let (done, said) = world.tool("central", &["backup", "--to", &backup]).await;
    assert!(done, "{said}");
    let store = world.store("s1");
    let sell = async |quantity: i64, reference: &str| {
        let sale = json!({"quantity": quantity, "reference": reference});
        store.post("/v1/purchase/tea", sale).await.expect(200);
    };
    // A copy of a time that central forgets.
    sell(10, "forgotten by central").await;
    assert_eq!(world.terminate(&agent()), Some(0));
    let old = world.dir().join("yesterday.db");
    std::fs::copy(world.database("s1"), &old).expect("a copy by hand");
    world.restart(&agent()).await;
    sell(1, "the end of the epoch").await;
    world.converged(SOON).await;
    assert_eq!(world.terminate(&agent()), Some(0));
    restored(&world, &[]).await;
    world.restart(&agent()).await;
    world.converged(SOON).await;
    // Of the first epoch it learns from the opening of the second one where it ended, and has none of its last entries.
    world.kill(&Daemon::Central);
    let (done, said) = world.tool("central", &["restore", "--from", &backup]).await;
    assert!(done, "{said}");
    world.restart(&Daemon::Central).await;
    world.converged(SOON).await;
    put_copy(&mut world, &old);
    world.restart(&agent()).await;
    sell(2, "by the copy").await;
    assert_eq!(world.terminate(&agent()), Some(0));

    let restore = ["restore", "--store-id", "s1"];
    let (code, said) = world.tool_with("store-agent", &restore, &[]).await;
    assert_eq!(code, Some(1), "{said}");
    for told in [
        "nobody can tell whether central's state has all that this database has (1 entries of its log among it)",
        "--state own (central takes this database's)",
        "--state central (that is left out, and what is certainly missing there is recorded again)",
        "The restore was begun and must be finished",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    let said = restored(&world, &["--state", "central"]).await;
    assert!(said.contains("1 entries that central did not have were recorded again, 1 were left out"), "{said}");
    world.restart(&agent()).await;
    world.converged(SOON).await;
    assert_eq!(store.get("/v1/inventory/tea").await.expect(200)["quantity"], 37, "50 - 10 - 1 - 2: each once");
    world.online("s1").await;
    world.central().post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn central_goes_on_from_a_backup() {
    let mut world = world().await;
    let backup = world.dir().join("central-backup.db");
    let (done, said) = world.tool("central", &["backup", "--to", &backup.display().to_string()]).await;
    assert!(done, "{said}");
    let central = world.central();
    central.post("/v1/purchase/s1/tea", json!({"quantity": 4})).await.expect(200);
    world.store("s1").post("/v1/purchase/tea", json!({"quantity": 6})).await.expect(200);
    world.converged(SOON).await;
    world.kill(&Daemon::Central);
    let (done, said) = world.tool("central", &["restore", "--from", &backup.display().to_string()]).await;
    assert!(done, "{said}");
    world.restart(&Daemon::Central).await;
    world.converged(SOON).await;
    assert_eq!(central.get("/v1/inventory/s1/tea").await.expect(200)["quantity"], 40);
    let purchases = central.get("/v1/purchases").await.expect(200);
    assert_eq!(purchases["items"][0]["status"], "confirmed", "the store's reply makes it known again: {purchases}");
    world.online("s1").await;
    central.post("/v1/purchase/s1/tea", json!({"quantity": 1})).await.expect(200);
    world.converged(SOON).await;
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_finds_what_was_changed_behind_the_ledgers_back() {
    let mut world = world().await;
    assert_eq!(world.terminate(&agent()), Some(0));
    let file = rusqlite::Connection::open(world.database("s1")).expect("opens");
    file.execute("update item set quantity = quantity + 1", []).expect("writes");
    drop(file);
    let (well, said) = world.tool("store-agent", &["verify", "--store-id", "s1"]).await;
    assert!(!well && said.contains("DIFFERENCE  item tea") && said.contains("DIFFERENCE  digest"), "{said}");
    world.kill(&Daemon::Central);
    let file = rusqlite::Connection::open(world.dir().join("central.db")).expect("opens");
    file.execute("update event set body = replace(body, '50', '51') where type = 'item_created'", []).expect("writes");
    drop(file);
    let (well, said) = world.tool("central", &["verify"]).await;
    assert!(!well && said.contains("its hash does not fit its content"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_not_what_they_should_be_are_refused() {
    let mut world = world().await;
    // In use.
    let (done, said) = world.tool("store-agent", &["restore", "--store-id", "s1"]).await;
    assert!(!done && said.contains("in use by another process"), "{said}");
    assert_eq!(world.terminate(&agent()), Some(0));
    // Another store's.
    let path = world.database("s1").display().to_string();
    let (done, said) = world.tool("store-agent", &["serve", "--store-id", "s2", "--database-path", &path]).await;
    assert!(!done && said.contains("belongs to store s1"), "{said}");
    // Central's.
    let (done, said) =
        world.tool("store-agent", &["verify", "--store-id", "s1", "--database-path", "central.db"]).await;
    assert!(!done && said.contains("not an agent's"), "{said}");
    // A newer version's.
    let file = rusqlite::Connection::open(world.database("s1")).expect("opens");
    file.pragma_update(None, "user_version", 1_000).expect("writes");
    drop(file);
    let (done, said) = world.tool("store-agent", &["serve", "--store-id", "s1", "--listen", "127.0.0.1:0"]).await;
    assert!(!done && said.contains("newer version") && said.contains("upgrade"), "{said}");
    // A damaged one.
    let bytes = std::fs::read(world.database("s1")).expect("reads");
    let damaged: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| if at > 4_096 { !byte } else { *byte }).collect();
    std::fs::write(world.database("s1"), damaged).expect("writes");
    let (done, said) = world.tool("store-agent", &["serve", "--store-id", "s1", "--listen", "127.0.0.1:0"]).await;
    assert!(!done && said.contains("damaged") && said.contains("restore"), "{said}");
}
