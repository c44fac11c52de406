//! The tour of docs/API.md works as printed.

use std::process::Command;

use ::tests::World;

/// The lines of the tour, without what makes them a block of Markdown.
fn tour() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/API.md")).expect("reads");
    let section = text.split("## A tour\n").nth(1).expect("it has a tour");
    let section = section.split("\n## ").next().expect("the tour ends");
    let lines: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    lines.join("\n")
}

#[tokio::test]
async fn the_tour_works_as_printed() {
    let world = World::with(&["store-1", "store-2"]).await;
    let ports =
        [("8081", world.central_port()), ("8082", world.port_of("store-1")), ("8083", world.port_of("store-2"))];
    let lines = ports.iter().fold(tour(), |lines, (printed, port)| {
        lines.replace(&format!("localhost:{printed}"), &format!("localhost:{port}"))
    });
    // What is refused ends it, and is told.
    let strict =
        "set -euo pipefail\ncurl() { command curl --silent --show-error --fail-with-body --max-time 20 \"$@\"; }\n";
    let ran = tokio::task::spawn_blocking(move || {
        Command::new("bash").args(["-xc", &format!("{strict}{lines}")]).output().expect("bash and curl are there")
    });
    let ran = ran.await.expect("does not panic");
    let (said, told) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{told}\n{said}");
    for shown in [
        r#""quantity":38"#,
        r#""status":"confirmed""#,
        r#""status":"cancelled""#,
        r#""status":"received""#,
        r#""difference":-1"#,
        r#""discrepancy":false"#,
    ] {
        assert!(said.contains(shown), "{shown} is not in\n{said}");
    }
}
