//! The project's own sample of real sales; `cargo xtask replay` does the same with the full sets.

use tests::{data, replay};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_of_the_project() {
    replay::replay(&data::read(&data::sample())).await;
}
