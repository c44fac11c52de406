//! The servers of the limits: bare axum on threads of its own, as many as a daemon has.

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Serves until it is dropped.
pub(crate) struct Server {
    port: u16,
    _runtime: Runtime,
}

impl Server {
    /// Serves these routes on any free port.
    pub(crate) fn start(routes: Router) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name("limit").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        // Without it an answer may wait for the client's acknowledgement; if it fails the figures show it.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        runtime.spawn(async { axum::serve(listener, routes).await });
        Ok(Self { port, _runtime: runtime })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}
