//! Options that both daemons have, checked when they are read: what is wrong is said at the start, with the option's name.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::str::FromStr;

/// Longest prefix of keys, bytes.
const PREFIX_BYTES: usize = 100;
/// Greatest limit of requests a second.
const MOST_A_SECOND: u32 = 1_000_000;

/// Where to listen: `127.0.0.1:8082`, `localhost:8082`, or `:8082` for all addresses of this machine.
#[derive(Debug, Clone)]
pub struct Listen {
    text: String,
    addresses: Vec<SocketAddr>,
}

impl Listen {
    /// What it stands for: the first that is free is taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let Ok(port) = port.parse::<u16>() else {
            return Err("must be an address and a port, such as 127.0.0.1:8082, localhost:8082 or :8082".to_owned());
        };
        let mut addresses: Vec<SocketAddr> = if host.is_empty() {
            vec![(Ipv4Addr::UNSPECIFIED, port).into()]
        } else {
            text.to_socket_addrs().map_err(|error| format!("no address of {host:?} is known: {error}"))?.collect()
        };
        addresses.sort_by_key(SocketAddr::is_ipv6);
        Ok(Self { text: text.to_owned(), addresses })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An origin as browsers send it.
pub fn origin(text: &str) -> Result<String, String> {
    let origin = text.to_ascii_lowercase();
    let host = match origin.split_once("://") {
        Some(("http", host)) => host.strip_suffix(":80").unwrap_or(host),
        Some(("https", host)) => host.strip_suffix(":443").unwrap_or(host),
        _ => "",
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err("must be an origin, such as https://shop.example, without a path".to_owned());
    }
    let scheme = origin.split(':').next().unwrap_or_default();
    Ok(format!("{scheme}://{host}"))
}

/// Requests a second.
pub fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse().ok().filter(|number: &NonZeroU32| number.get() <= MOST_A_SECOND);
    number.ok_or_else(|| "must be a whole number from 1 to 1,000,000".to_owned())
}

/// Where a server is asked.
pub fn url(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("http" | "https", host)) if !host.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("must begin with http:// or https://, as in http://127.0.0.1:8081".to_owned()),
    }
}

/// Milliseconds, so many at least.
pub fn ms<const LEAST: u64>(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number >= LEAST);
    number.ok_or_else(|| format!("must be a whole number of milliseconds, {LEAST} or more"))
}

/// A host's name, without scheme and port.
pub fn host_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err("must be a host's name, such as central.example, without a scheme or a port".to_owned());
    }
    Ok(text.to_owned())
}

/// A prefix of keys in Redis: nothing that means something in a pattern, in an ACL or in Redis Cluster.
pub fn key_prefix(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if text.is_empty() || text.len() > PREFIX_BYTES || !text.chars().all(plain) {
        return Err(format!("must be 1 to {PREFIX_BYTES} letters, digits, '.', '_', '-' or ':'"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_listens_on_an_address_a_name_or_everywhere() {
        let first = |text: &str| text.parse::<Listen>().expect(text).addresses()[0].to_string();
        assert_eq!(first("127.0.0.1:8082"), "127.0.0.1:8082");
        assert_eq!(first("localhost:8082"), "127.0.0.1:8082");
        assert_eq!(first(":8082"), "0.0.0.0:8082");
        assert_eq!(first("[::1]:0"), "[::1]:0");
        for bad in ["", "8082", "localhost", "localhost:", "127.0.0.1:99999", "127.0.0.1:x", "no such host:80"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_what_browsers_send() {
        for (given, kept) in [
            ("https://shop.example", "https://shop.example"),
            ("HTTPS://Shop.example:443", "https://shop.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(given).as_deref(), Ok(kept));
        }
        for bad in ["", "*", "null", "shop.example", "https://", "https://a/", "https://a/b", "ftp://a", "https://u@a"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_a_whole_number() {
        assert_eq!(rate("1").map(NonZeroU32::get), Ok(1));
        assert_eq!(rate("1000000").map(NonZeroU32::get), Ok(MOST_A_SECOND));
        for bad in ["", "0", "-1", "1.5", "1000001", "10/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_url_and_no_time_is_said_in_words() {
        assert_eq!(url("http://localhost:8081/").as_deref(), Ok("http://localhost:8081"));
        for bad in ["", "localhost:8081", "http://", "redis://a"] {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert_eq!((ms::<100>("100"), ms::<100>("5000")), (Ok(100), Ok(5_000)));
        for bad in ["", "99", "-1", "abc", "1.5"] {
            assert_eq!(ms::<100>(bad), Err("must be a whole number of milliseconds, 100 or more".to_owned()), "{bad}");
        }
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "https://a", "a:80", "a/b", "*"] {
            assert!(host_name(bad).is_err(), "{bad}");
        }
        assert!(host_name("central.example").is_ok() && key_prefix("shelf:test-1").is_ok());
        for bad in ["", "two words", "shelf*", "a?", "[a]", "{x}", "\"q\"", "a\\", "é"] {
            assert!(key_prefix(bad).is_err(), "{bad}");
        }
    }
}
