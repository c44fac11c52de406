//! Numbers that must not be taken for one another: the epochs of the two links, and the sequence numbers in them.
//!
//! What belongs to one link carries it as a type parameter. An event epoch is no command epoch:
//!
//! ```compile_fail,E0308
//! use protocol::link::Events;
//! use protocol::number::{CommandEpoch, Epoch};
//! fn ready(command_epoch: CommandEpoch) {}
//! ready(Epoch::<Events>::from(7));
//! ```
//!
//! so neither is a place in the one log a place in the other:
//!
//! ```compile_fail,E0308
//! use protocol::link::{Commands, Cursor, Events};
//! let applied = Cursor::<Events>::default();
//! let executed: Cursor<Commands> = applied;
//! ```
//!
//! An epoch is no sequence number:
//!
//! ```compile_fail,E0308
//! use protocol::link::{Cursor, EntryId, Events};
//! let head = Cursor::<Events>::default();
//! EntryId::<Events> { epoch: head.seq, seq: head.epoch };
//! ```
//!
//! and a sequence number is no item's version:
//!
//! ```compile_fail,E0308
//! use protocol::domain::Item;
//! use protocol::number::Seq;
//! let item = Item { version: Seq::FIRST, ..Item::default() };
//! ```

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::Invalid;
use crate::time::Millis;

/// Which of the two links between a store and central something belongs to.
pub trait Link: fmt::Debug + Copy + Default + Eq + Ord + Hash + Send + Sync + 'static {}

/// The link from a store to central.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Events;

/// The link from central to a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commands;

impl Link for Events {}
impl Link for Commands {}

/// Greatest epoch and sequence number that is taken from others: far beyond any real one, and with room to count on from
/// in 64 signed bits.
pub const NUMBER_MAX: u64 = 1 << 62;

fn checked(number: u64) -> Result<u64, Invalid> {
    if number <= NUMBER_MAX { Ok(number) } else { Err(Invalid("must be smaller: no such number is so great".into())) }
}

/// A column also has what was counted on from the greatest.
fn stored(number: i64) -> Result<u64, Invalid> {
    u64::try_from(number).map_err(|_| Invalid("must not be negative".into()))
}

/// Digits alone: no sign.
fn parse(text: &str) -> Result<u64, Invalid> {
    let invalid = || Invalid("must be written in digits".into());
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    text.parse().map_err(|_| invalid()).and_then(checked)
}

/// One life of a log.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64", bound = "L: Link")]
pub struct Epoch<L = Events>(u64, PhantomData<L>);

/// One life of a store's command log.
pub type CommandEpoch = Epoch<Commands>;

impl<L: Link> Epoch<L> {
    /// No epoch yet.
    pub const NONE: Self = Self(0, PhantomData);

    /// An epoch that is greater than this one, and, as long as no clock is set back, than any that was ever opened: a
    /// database that was replaced does not know them all (L9).
    pub fn next(self, now: Millis) -> Self {
        let wall = u64::try_from(now.0).unwrap_or(1);
        Self(wall.max(self.0 + 1), PhantomData)
    }

    /// The number, for what is written or told.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl<L> TryFrom<u64> for Epoch<L> {
    type Error = Invalid;
    fn try_from(number: u64) -> Result<Self, Invalid> {
        checked(number).map(|number| Self(number, PhantomData))
    }
}

/// From a column.
impl<L> TryFrom<i64> for Epoch<L> {
    type Error = Invalid;
    fn try_from(number: i64) -> Result<Self, Invalid> {
        stored(number).map(|number| Self(number, PhantomData))
    }
}

impl<L> From<u32> for Epoch<L> {
    fn from(number: u32) -> Self {
        Self(number.into(), PhantomData)
    }
}

impl<L> From<Epoch<L>> for u64 {
    fn from(epoch: Epoch<L>) -> u64 {
        epoch.0
    }
}

impl<L> FromStr for Epoch<L> {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).map(|number| Self(number, PhantomData))
    }
}

impl<L> fmt::Display for Epoch<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<L> fmt::Debug for Epoch<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number of an entry in its epoch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seq(u64);

impl Seq {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);
    /// The first entry.
    pub const FIRST: Self = Self(1);

    /// That of the next entry.
    pub fn next(self) -> Self {
        self + 1
    }

    /// The number, for what is written or told.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// So many entries later.
impl Add<u64> for Seq {
    type Output = Self;
    fn add(self, entries: u64) -> Self {
        Self(self.0 + entries)
    }
}

/// So many entries earlier, not below zero.
impl Sub<u64> for Seq {
    type Output = Self;
    fn sub(self, entries: u64) -> Self {
        Self(self.0.saturating_sub(entries))
    }
}

/// How many entries lie behind the other one, up to this one; none if it is not before this one.
impl Sub for Seq {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl TryFrom<u64> for Seq {
    type Error = Invalid;
    fn try_from(number: u64) -> Result<Self, Invalid> {
        checked(number).map(Self)
    }
}

/// From a column.
impl TryFrom<i64> for Seq {
    type Error = Invalid;
    fn try_from(number: i64) -> Result<Self, Invalid> {
        stored(number).map(Self)
    }
}

impl From<u32> for Seq {
    fn from(number: u32) -> Self {
        Self(number.into())
    }
}

impl From<Seq> for u64 {
    fn from(seq: Seq) -> u64 {
        seq.0
    }
}

impl FromStr for Seq {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        parse(text).map(Self)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_if_it_is_in_range_and_written_in_digits() {
        let greatest = NUMBER_MAX.to_string();
        assert_eq!(greatest.parse::<Epoch>().map(|epoch| epoch.to_string()), Ok(greatest.clone()));
        assert_eq!(serde_json::from_str::<Seq>(&greatest).map(Seq::get).ok(), Some(NUMBER_MAX));
        for bad in ["", "+1", "-1", " 1", "1.0", "4611686018427387905", "18446744073709551616"] {
            assert!(bad.parse::<Epoch>().is_err() && bad.parse::<Seq>().is_err(), "{bad}");
        }
        for bad in ["-1", "1.5", "\"1\"", "4611686018427387905", "18446744073709551615"] {
            assert!(serde_json::from_str::<Epoch>(bad).is_err(), "{bad}");
            assert!(serde_json::from_str::<Seq>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_column_has_what_was_counted_on_from_the_greatest() {
        let greatest = CommandEpoch::try_from(NUMBER_MAX).expect("in range");
        let next = greatest.next(Millis(0));
        assert_eq!(i64::try_from(next.get()).map(CommandEpoch::try_from), Ok(Ok(next)));
        assert!(CommandEpoch::try_from(-1_i64).is_err() && Seq::try_from(-1_i64).is_err());
    }

    #[test]
    fn the_next_epoch_is_the_clock_unless_that_was_set_back() {
        let epoch = CommandEpoch::from(1_000);
        assert_eq!(epoch.next(Millis(5_000)), 5_000.into());
        assert_eq!(epoch.next(Millis(1_000)), 1_001.into());
        assert_eq!(epoch.next(Millis(-1)), 1_001.into());
        assert_eq!(Epoch::<Events>::NONE.next(Millis(-1)), 1.into());
    }
}
