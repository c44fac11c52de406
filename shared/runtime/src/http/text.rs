//! Fields that check themselves.

use std::fmt;
use std::ops::RangeInclusive;

use protocol::domain::{self, QUANTITY_MAX};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::words::grouped;

/// A whole number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bounded<const MIN: i64, const MAX: i64>(pub i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(Within::<MIN, MAX>)
    }
}

struct Within<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Visitor<'_> for Within<MIN, MAX> {
    type Value = Bounded<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", grouped(MIN), grouped(MAX))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        if (MIN..=MAX).contains(&number) {
            Ok(Bounded(number))
        } else {
            Err(E::invalid_value(Unexpected::Signed(number), &self))
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        match i64::try_from(number) {
            Ok(number) => self.visit_i64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }
}

/// What was counted.
pub type CountQuantity = Bounded<0, 1_000_000_000>;
/// A low-stock threshold.
pub type Threshold = Bounded<0, 1_000_000_000>;

/// Units of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity(pub domain::Quantity);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = Bounded::<1, QUANTITY_MAX>::deserialize(deserializer)?.0;
        domain::Quantity::try_from(units).map(Self).map_err(D::Error::custom)
    }
}

/// A correction: not 0, at most a million either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta(pub i64);

impl<'de> Deserialize<'de> for Delta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Bounded::<{ -QUANTITY_MAX }, QUANTITY_MAX>::deserialize(deserializer)?.0 {
            0 => Err(D::Error::custom("must not be 0: that corrects nothing")),
            delta => Ok(Self(delta)),
        }
    }
}

/// A text of so many characters, each of which people can see or that separates words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Text<const MIN: usize, const MAX: usize>(pub String);

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let length = text.chars().count();
        if !(MIN..=MAX).contains(&length) || text.chars().any(is_hidden) {
            return Err(format!("must be a text of {MIN} to {MAX} characters without control or invisible ones"));
        }
        if MIN > 0 && text.trim().is_empty() {
            return Err("must have a character that can be seen".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// Control characters, those without a width, and those that turn the direction of what follows: with them two texts
/// look the same and are not.
const HIDDEN: [RangeInclusive<char>; 9] = [
    '\0'..='\u{1f}',
    '\u{7f}'..='\u{9f}',
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
];

fn is_hidden(character: char) -> bool {
    HIDDEN.iter().any(|range| range.contains(&character))
}

/// A regular expression of the texts that have no hidden character, and one that can be seen if they must.
pub(super) fn visible(must_be_seen: bool) -> String {
    let escaped = |character: char| format!("\\u{:04x}", u32::from(character));
    let ranges = HIDDEN.iter().map(|range| format!("{}-{}", escaped(*range.start()), escaped(*range.end())));
    let hidden: String = ranges.collect();
    if must_be_seen { format!("^[^{hidden}]*[^{hidden}\\s][^{hidden}]*$") } else { format!("^[^{hidden}]*$") }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// An item's name.
pub type Name = Text<1, 200>;
/// Till or person.
pub type Actor = Text<0, 64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_no_text() {
        for text in ["Kaffee", "Grüner Tee, 500 g", "茶", "شاي", ""] {
            assert!(Text::<0, 64>::parse(text).is_ok(), "{text}");
        }
        for hidden in ['\0', '\n', '\u{7f}', '\u{200b}', '\u{200d}', '\u{202e}', '\u{2066}', '\u{feff}'] {
            assert!(Text::<0, 64>::parse(&format!("a{hidden}b")).is_err(), "{hidden:?}");
        }
        assert!(('\0'..=char::MAX).filter(|character| character.is_control()).all(is_hidden));
        assert!(visible(false).starts_with(r"^[^\u0000-\u001f\u007f-\u009f\u00ad-\u00ad"));
    }

    #[test]
    fn a_name_has_a_character_that_can_be_seen() {
        assert!(Name::parse(" x ").is_ok() && Text::<0, 100>::parse("  ").is_ok());
        for blank in ["", " ", "\u{a0} ", "\u{3000}"] {
            assert!(Name::parse(blank).is_err(), "{blank:?}");
        }
    }
}
