//! Where a webhook may go: public addresses alone, so that whoever registers one cannot reach into the network that central
//! stands in.
//!
//! **Guarantees.** What is judged is the address that is connected to, at each delivery, whatever the name resolved to
//! before; a literal address is judged like one that a name resolves to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::Url;

/// Longest address of an endpoint, bytes.
const URL: usize = 2_000;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), length)
}

/// What the registry of special-purpose addresses (RFC 6890 and its successors) takes out of the public ones, and multicast.
const NOT_PUBLIC_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];
/// All that is given out to networks.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
/// Out of that: protocols and tunnels (Teredo, ORCHID), documentation, 6to4.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];
/// NAT64: the last four bytes are the IPv4 address that is reached.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// Whether everybody can be reached there, and nobody but them.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => NOT_PUBLIC_V4.iter().all(|net| !net.contains(&address)),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            is_public(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(address) => GLOBAL_V6.contains(&address) && NOT_PUBLIC_V6.iter().all(|net| !net.contains(&address)),
    }
}

/// Which endpoints are reached.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Plain http and addresses that are not public, too.
    pub private: bool,
}

impl Reach {
    /// Reads an endpoint's address, or says what it must be. A name is not looked up yet.
    pub fn read(self, text: &str) -> Result<Url, String> {
        if text.len() > URL {
            return Err(format!("must have at most {URL} bytes"));
        }
        let url = Url::parse(text).map_err(|_| "must be a URL, such as https://shop.example/events".to_owned())?;
        let schemes: &[&str] = if self.private { &["https", "http"] } else { &["https"] };
        if !schemes.contains(&url.scheme()) {
            return Err("must begin with https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must hold no user and no password: requests are signed".to_owned());
        }
        if url.port() == Some(0) {
            return Err("must have no port 0: nothing can be sent there".to_owned());
        }
        match literal(&url) {
            Some(address) => self.allowed(&[SocketAddr::new(address, 0)]).map(drop)?,
            None if url.host_str().is_none_or(str::is_empty) => return Err("must name a host".to_owned()),
            None => {}
        }
        Ok(url)
    }

    /// The addresses that may be connected to, or why there are none.
    pub async fn resolve(self, url: &Url) -> Result<Vec<SocketAddr>, String> {
        let port = url.port_or_known_default().unwrap_or(443);
        if let Some(address) = literal(url) {
            return self.allowed(&[SocketAddr::new(address, port)]);
        }
        let host = url.host_str().unwrap_or_default();
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, LOOKUPS.of(host, port)).await;
        let found = found.map_err(|_| "must have a name that is resolved in time".to_owned())?;
        let found = found.ok_or_else(|| format!("must have a name that can be resolved: {host} cannot"))?;
        self.allowed(&found)
    }

    fn allowed(self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
        let allowed: Vec<_> = found.iter().copied().filter(|address| self.private || is_public(address.ip())).collect();
        if allowed.is_empty() {
            return Err("must have a public address".to_owned());
        }
        Ok(allowed)
    }
}

/// Look-ups that run, one for each name: the system's cannot be stopped, and each has a thread of those that read for everybody
/// until it ends, which may be long after nobody waits for it any more.
static LOOKUPS: LazyLock<Lookups> = LazyLock::new(Lookups::default);

#[derive(Default)]
struct Lookups(Mutex<HashMap<(String, u16), Lookup>>);

/// `None`: there is no such name.
type Lookup = Shared<BoxFuture<'static, Option<Vec<SocketAddr>>>>;

impl Lookups {
    /// The addresses of a name: by the look-up that runs, or by a new one.
    async fn of(&'static self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        let start = || {
            let name = name.clone();
            let look = tokio::spawn(async move {
                let found = tokio::net::lookup_host((&*name.0, name.1)).await.map(Iterator::collect);
                self.running().remove(&name);
                found.ok()
            });
            look.map(|found| found.ok().flatten()).boxed().shared()
        };
        let look = self.running().entry(name.clone()).or_insert_with(start).clone();
        look.await
    }

    fn running(&self) -> MutexGuard<'_, HashMap<(String, u16), Lookup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address that stands in a URL itself.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Reach = Reach { private: false };

    #[tokio::test]
    async fn a_name_is_looked_up_once_at_a_time() {
        let lookups: &Lookups = Box::leak(Box::default());
        let look = || lookups.of("localhost", 1);
        let (one, other, running) = tokio::join!(look(), look(), async { lookups.running().len() });
        assert_eq!((one.as_ref().is_some_and(|found| !found.is_empty()), &one, running), (true, &other, 1));
        assert!(lookups.running().is_empty());
    }

    #[test]
    fn addresses_of_networks_inside_are_not_public() {
        let inside = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.5",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "::127.0.0.1",
            "100::1",
        ];
        for text in inside {
            assert!(!is_public(text.parse().expect(text)), "{text}");
        }
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"] {
            assert!(is_public(text.parse().expect(text)), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_public_and_speaks_tls() {
        for good in ["https://shop.example/hook?x=1", "https://1.1.1.1:8443/", "https://[2606:4700::1111]/"] {
            assert!(PUBLIC.read(good).is_ok(), "{good}");
        }
        let long = format!("https://shop.example/{}", "x".repeat(URL));
        let bad = [
            "http://shop.example/",
            "ftp://shop.example/",
            "shop.example",
            "https://",
            "",
            "https://u:p@shop.example/",
            "https://shop.example:0/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            &long,
        ];
        for bad in bad {
            assert!(PUBLIC.read(bad).is_err(), "{bad}");
        }
        for local in ["http://127.0.0.1:9/", "https://10.0.0.1/", "http://localhost/"] {
            assert!(Reach { private: true }.read(local).is_ok(), "{local}");
        }
        assert!(Reach { private: true }.read("ftp://10.0.0.1/").is_err());
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let url = PUBLIC.read("https://localhost:8443/").expect("a name may be anything");
        assert!(PUBLIC.resolve(&url).await.expect_err("it is this machine").contains("public"));
        let found = Reach { private: true }.resolve(&url).await.expect("is resolved");
        assert!(found.iter().all(|address| address.port() == 8443 && address.ip().is_loopback()));
        let literal = Url::parse("https://[::1]/").expect("valid");
        assert!(PUBLIC.resolve(&literal).await.is_err(), "also when it was registered before");
    }
}
