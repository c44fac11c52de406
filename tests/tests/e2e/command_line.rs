//! What operators type and read: help, refusals of bad options, the log's first and last lines, `status`.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Daemon, World, until};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_programs_help_tells_the_options_and_bad_ones_are_refused() {
    let world = World::with(&[]).await;
    for (program, own) in [("store-agent", "--heartbeat-interval-ms"), ("central", "--heartbeat-max-age-ms")] {
        let (ok, help) = world.tool(program, &["--help"]).await;
        assert!(ok, "{help}");
        for option in [own, "--redis-url", "--listen", "--cors-origins", "LISTEN", "[default: shelf]", "status"] {
            assert!(help.contains(option), "{program} --help does not tell {option}: {help}");
        }
        for (option, value, told) in [
            ("--listen", "8082", "localhost:8082"),
            ("--listen", "nowhere.invalid:80", "no address of \"nowhere.invalid\""),
            ("--cors-origins", "*", "must be an origin"),
            ("--cors-origins", "https://shop.example/", "must be an origin"),
            ("--allowed-hosts", "central:80", "must be a host's name"),
            ("--key-prefix", "shelf*", "must be 1 to 100 letters"),
        ] {
            let (code, said) = world
                .tool_with(program, &["--store-id=s9", option, value][usize::from(program == "central")..], &[])
                .await;
            assert_eq!(code, Some(2), "{program} {option} {value}: {said}");
            assert!(said.contains(option) && said.contains(told), "{program} {option} {value}: {said}");
        }
        for bad in ["inof", "store_agent=loud", "info,"] {
            let id: &[&str] = if program == "central" { &[] } else { &["--store-id=s9"] };
            let (code, said) = world.tool_with(program, id, &[("RUST_LOG", bad)]).await;
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("RUST_LOG") && said.contains(bad), "{said}");
            assert!(said.matches("level filter").count() <= 1, "it says it once: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_listens_under_a_name_or_everywhere() {
    let mut world = World::with(&["s1"]).await;
    for host in ["localhost", ""] {
        world.kill(&Daemon::Central);
        world.central_args = vec![format!("--listen={host}:{}", world.central_port())];
        world.restart(&Daemon::Central).await;
        let everywhere = world.log(&Daemon::Central).contains("there are no tokens");
        assert_eq!(everywhere, host.is_empty(), "who listens everywhere is warned");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let mut world = World::with(&["s1"]).await;
    let agent = Daemon::Store("s1".into());
    assert_eq!(world.terminate(&agent), Some(0));
    world.fill_logs();
    world.restart(&agent).await;
    world.online("s1").await;
    assert_eq!(world.terminate(&agent), Some(0));
    world.store_args = vec![format!("--database-path={}", world.dir().join("nowhere/s1.db").display())];
    world.start(&agent);
    let ended = until("it ends", SOON, async || world.running(&agent).ended().ok_or("it runs")).await;
    assert_eq!(ended.code(), Some(1), "it has said why, to nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_how_it_began_and_why_it_ended() {
    let mut world = World::with(&["s1"]).await;
    let agent = Daemon::Store("s1".into());
    let store = world.store("s1");
    store.post("/v1/inventory", json!({"productId": "tea"})).await.expect(201);
    world.converged(SOON).await;
    for switch in ["/v1/disconnected", "/v1/disconnected", "/v1/connected"] {
        store.post(switch, json!({})).await.expect(200);
    }
    assert_eq!((world.terminate(&agent), world.terminate(&Daemon::Central)), (Some(0), Some(0)));
    for (daemon, database, found) in [(&agent, "s1.db", "items=0"), (&Daemon::Central, "central.db", "items=0")] {
        let log = world.log(daemon);
        for told in [database, found, "listening on", env!("CARGO_PKG_VERSION"), "Redis answers", "signal=\"SIGTERM\""]
        {
            assert!(log.contains(told), "{told}: {log}");
        }
    }
    let log = world.log(&agent);
    let count = |text: &str| log.matches(text).count();
    assert_eq!((count("disconnected on request"), count(" connected on request")), (1, 1), "{log}");
    for daemon in [&agent, &Daemon::Central] {
        world.restart(daemon).await;
        assert!(world.log(daemon).contains("items=1"), "{}", world.log(daemon));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_redis_says_so_when_it_starts() {
    let mut world = World::with(&["s1"]).await;
    let daemons = [Daemon::Central, Daemon::Store("s1".into())];
    for daemon in &daemons {
        world.terminate(daemon);
        let name = if *daemon == Daemon::Central { "central" } else { "s1" };
        std::fs::remove_file(world.dir().join(format!("{name}.log"))).expect("it has a log");
    }
    world.kill_redis();
    world.restart(&daemons[1]).await;
    world.restart(&daemons[0]).await;
    for daemon in &daemons {
        until("it says so", SOON, async || {
            let log = world.log(daemon);
            if log.contains("Redis cannot be reached") { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_people_and_programs_whether_all_is_well() {
    let mut world = World::with(&["s1"]).await;
    let (agent, central) =
        (format!("http://127.0.0.1:{}", world.port_of("s1")), format!("http://127.0.0.1:{}", world.central_port()));
    let of_agent = ["status", "--url", &agent];
    let of_central = ["status", "--url", &central];
    let json = async |world: &World, program: &str, args: &[&str]| {
        let (code, said) = world.tool_with(program, &[args, &["--json"]].concat(), &[]).await;
        (code, serde_json::from_str::<Value>(&said).unwrap_or_else(|error| panic!("{error}: {said}")))
    };
    until("the link is up", SOON, async || {
        let status = world.store("s1").get("/v1/status").await.body;
        if status["link"] == "up" { Ok(()) } else { Err(status) }
    })
    .await;
    let (code, told) = json(&world, "store-agent", &of_agent).await;
    assert_eq!((code, &told["storeId"], &told["link"]), (Some(0), &json!("s1"), &json!("up")));
    let (code, told) = json(&world, "central", &of_central).await;
    assert_eq!((code, &told["stores"][0]["status"]), (Some(0), &json!("online")), "{told}");

    world.store("s1").post("/v1/disconnected", json!({})).await.expect(200);
    until("central knows", SOON, async || {
        let store = world.central().get("/v1/stores/s1").await.body;
        if store["status"] == "offline" { Ok(()) } else { Err(store) }
    })
    .await;
    let (code, told) = json(&world, "store-agent", &of_agent).await;
    assert_eq!((code, &told["link"]), (Some(3), &json!("off")));
    let (code, told) = json(&world, "central", &of_central).await;
    assert_eq!((code, &told["stores"][0]["status"]), (Some(3), &json!("offline")));
    assert_eq!(world.tool_with("central", &of_central, &[]).await.0, Some(3), "without JSON, too");

    world.terminate(&Daemon::Store("s1".into()));
    world.terminate(&Daemon::Central);
    for (program, args) in [("store-agent", of_agent), ("central", of_central)] {
        let (code, said) = world.tool_with(program, &args, &[]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("answers at http://127.0.0.1"), "{said}");
    }
}
