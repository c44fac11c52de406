//! Time as a number: milliseconds since 1970 UTC. The pure code gets it as an argument.

use chrono::{DateTime, Datelike, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// 0000-01-01T00:00:00.000Z.
const YEAR_0: i64 = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z.
const YEAR_9999_ENDS: i64 = 253_402_300_799_999;
/// A time as text.
const TEXT: &[u8; 24] = b"0000-00-00T00:00:00.000Z";

/// Milliseconds since 1970-01-01 UTC. As JSON: RFC 3339, UTC, with milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// `self` later by so many milliseconds.
    pub fn plus(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`, 0 if `earlier` is later.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }

    /// Reads RFC 3339. `None` also for a time that could not be written back: in UTC its year must have four digits.
    pub fn parse(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis();
        (YEAR_0..=YEAR_9999_ENDS).contains(&time).then_some(Self(time))
    }

    /// RFC 3339, written where it stands: each answer and each entry of a ledger has some. `None` for a time that cannot be read
    /// back.
    fn text(self) -> Option<[u8; TEXT.len()]> {
        let within = (YEAR_0..=YEAR_9999_ENDS).contains(&self.0);
        let time = DateTime::<Utc>::from_timestamp_millis(self.0).filter(|_| within)?;
        let mut text = *TEXT;
        let mut write = |places: std::ops::Range<usize>, mut number: u32| {
            for place in text[places].iter_mut().rev() {
                *place = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        write(0..4, time.year().unsigned_abs());
        write(5..7, time.month());
        write(8..10, time.day());
        write(11..13, time.hour());
        write(14..16, time.minute());
        write(17..19, time.second());
        write(20..23, time.timestamp_subsec_millis());
        Some(text)
    }
}

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.text().as_ref().map(|text| std::str::from_utf8(text)) {
            Some(Ok(text)) => f.write_str(text),
            _ => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("must be a time as in RFC 3339, such as 2026-01-31T12:00:00.000Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let time = Millis(1_700_000_000_123);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Millis::parse(&time.to_string()), Some(time));
        for edge in ["0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(Millis::parse(edge).map(|time| time.to_string()).as_deref(), Some(edge));
        }
    }

    #[test]
    fn writes_what_any_library_writes() {
        use chrono::SecondsFormat;
        let step = (YEAR_9999_ENDS - YEAR_0) / 100_003;
        for time in (YEAR_0..=YEAR_9999_ENDS).step_by(step as usize) {
            let told = DateTime::<Utc>::from_timestamp_millis(time)
                .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
            assert_eq!(Some(Millis(time).to_string()), told);
            assert_eq!(serde_json::to_value(Millis(time)).ok(), told.map(Into::into));
        }
        for beyond in [i64::MIN, YEAR_0 - 1, YEAR_9999_ENDS + 1, i64::MAX] {
            assert_eq!(Millis(beyond).to_string(), format!("{beyond} ms"));
        }
    }

    #[test]
    fn a_time_that_could_not_be_written_back_is_none() {
        for bad in ["9999-12-31T23:59:59-01:00", "9999-12-31T23:59:60Z", "0000-01-01T00:00:00+00:01"] {
            assert_eq!(Millis::parse(bad), None, "{bad}");
        }
    }
}
