//! A port that nobody else gets.

use tokio::net::TcpSocket;

/// A free port of the loopback address, kept for those who name it: a server that is killed finds it free when it is
/// started again.
///
/// It is held by a socket that is bound and does not listen. Linux gives such a port to no one who asks for any free
/// port, be it to listen or to connect from, while a server that asks for this very port and sets `SO_REUSEADDR`, as
/// Redis and the daemons do, gets it. Elsewhere it is just a port that was free.
pub(crate) struct Port {
    number: u16,
    _held: Option<TcpSocket>,
}

impl Port {
    /// Takes a free port.
    pub(crate) fn reserve() -> Self {
        let held = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(([127, 0, 0, 1], 0).into())?;
            Ok::<_, std::io::Error>((socket.local_addr()?.port(), socket))
        };
        let (number, socket) = held().expect("a free port");
        Self { number, _held: cfg!(target_os = "linux").then_some(socket) }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_a_server_that_names_it_gets_it() {
        let port = Port::reserve();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port.number()));
        // The kernel gives those who ask for any port none that this bind would be refused.
        let stranger = TcpSocket::new_v4().expect("a socket");
        assert!(stranger.bind(address).is_err(), "it is held");
        for _ in 0..2 {
            let server = TcpListener::bind(address).expect("the server that it is for");
            assert!(TcpListener::bind(address).is_err(), "one server at a time");
            drop(server);
        }
    }
}
