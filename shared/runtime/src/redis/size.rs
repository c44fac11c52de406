//! How large a stream is, asked before any of it is read: whoever may write to a key decides how much it holds.

use ::redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value};

use super::is_of_the_server;

/// No entry of the protocol is larger: a page has up to 200 items or outcomes.
const ENTRY_BYTES: u64 = 512 << 10;
/// Nodes of the stream that Redis looks at to tell its size: all of a stream with a full window.
const SAMPLES: u32 = 4_096;

/// What a stream takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Memory in Redis.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

impl Size {
    /// The two commands whose replies [`Size::of`] reads.
    pub fn ask(pipe: &mut Pipeline, stream: &str) {
        pipe.cmd("MEMORY").arg("USAGE").arg(stream).arg("SAMPLES").arg(SAMPLES);
        pipe.cmd("XLEN").arg(stream);
    }

    /// The outer error is one of the server; the inner one says why this key is no stream that can be read.
    pub fn of(memory: Value, length: Value) -> RedisResult<Result<Self, String>> {
        let mut numbers = [0; 2];
        for (number, reply) in numbers.iter_mut().zip([memory, length]) {
            match reply {
                Value::ServerError(error) => {
                    let error = RedisError::from(error);
                    return if is_of_the_server(&error) { Err(error) } else { Ok(Err(error.to_string())) };
                }
                reply => *number = u64::from_redis_value(reply).unwrap_or(0),
            }
        }
        let [bytes, entries] = numbers;
        Ok(Ok(Self { bytes, entries }))
    }

    /// Why it cannot be the work of this protocol's writers, if it cannot: then it is not read.
    pub fn why_implausible(&self) -> Option<String> {
        let most = self.entries.saturating_add(1).saturating_mul(ENTRY_BYTES);
        (self.bytes > most).then(|| format!("{} entries take {} bytes: too large to be read", self.entries, self.bytes))
    }

    /// Entries that take about so many bytes, if all are alike; at least one.
    pub fn entries_in(&self, bytes: u64) -> usize {
        let each = (self.bytes / self.entries.max(1)).max(1);
        usize::try_from(bytes / each).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_writer_of_the_protocol_makes_is_not_read() {
        let size = |entries, bytes| Size { entries, bytes };
        assert_eq!(size(0, 0).why_implausible(), None);
        assert_eq!(size(2_000, 500 << 20).why_implausible(), None, "a window of large pages");
        assert!(size(1, 50 << 20).why_implausible().is_some());
        assert!(size(0, 50 << 20).why_implausible().is_some());
        assert_eq!(size(u64::MAX, u64::MAX).why_implausible(), None);
    }

    #[test]
    fn the_larger_the_entries_the_fewer() {
        assert_eq!(Size { entries: 1_000, bytes: 1_000_000 }.entries_in(4_000), 4);
        assert_eq!(Size { entries: 10, bytes: 1_000_000 }.entries_in(4_000), 1);
        assert!(Size::default().entries_in(4_000) >= 4_000);
    }
}
