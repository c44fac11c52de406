//! Seeded dice: SplitMix64, written here so that a seed means the same run for ever.

use protocol::domain::Quantity;

/// A stream of random numbers that is the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins at a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed ^ 0x5348_454c_4653_5452);
        dice.roll();
        dice
    }

    /// The next number, uniform over all of `u64`.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.below((high - low + 1) as u64) as i64)
    }

    /// So many units, both ends included.
    pub fn units(&mut self, low: i64, high: i64) -> Quantity {
        Quantity::try_from(self.between(low, high)).expect("in range")
    }

    /// True this many times in a thousand.
    pub fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.below(1_000) < in_a_thousand
    }

    /// One of them; `None` if there are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len() as u64) as usize) }
    }

    /// An id that no other roll gives.
    pub fn uuid(&mut self) -> uuid::Uuid {
        uuid::Builder::from_custom_bytes(((u128::from(self.roll()) << 64) | u128::from(self.roll())).to_be_bytes())
            .into_uuid()
    }
}
