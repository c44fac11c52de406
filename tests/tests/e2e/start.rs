//! A daemon's start, as those see it who start it.

use std::io::{Read, Write};
use std::net::TcpListener;

use tests::{Daemon, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "cannot listen on")]
async fn who_answers_on_its_port_is_not_taken_for_it() {
    let mut world = World::with(&["s1"]).await;
    let agent = Daemon::Store("s1".into());
    world.kill(&agent);
    let stranger = TcpListener::bind(("127.0.0.1", world.port_of("s1"))).expect("the port is free");
    std::thread::spawn(move || {
        for connection in stranger.incoming() {
            let mut connection = connection.expect("a connection");
            let _ = connection.read(&mut [0; 1_024]);
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    // The log of the one that could not start is what the panic says, and at once.
    world.restart(&agent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_its_address_to_whoever_started_it() {
    let mut world = World::with(&["s1"]).await;
    for daemon in [Daemon::Central, Daemon::Store("s1".into())] {
        let name = if daemon == Daemon::Central { "central" } else { "s1" };
        let file = world.dir().join(format!("{name}.address"));
        let before = std::fs::read_to_string(&file).expect("it is there");
        assert!(before.ends_with(&format!(" {}\n", world.running(&daemon).id())), "{before}");
        world.kill(&daemon);
        world.restart(&daemon).await;
        let after = std::fs::read_to_string(&file).expect("it is there");
        assert_eq!(after.split(' ').next(), before.split(' ').next(), "the same address");
        assert_ne!(after, before, "another process");
    }
}
