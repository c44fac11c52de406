//! What online buyers want beside one product. That happens in a part of the seeds and by dice of its own, so that the
//! others play as if there were no such thing.

use protocol::domain::{Line, Lines};
use protocol::ids::ProductId;

use super::DENSE;
use crate::Dice;

/// Buyers of one seed.
pub(super) struct Carts {
    dice: Dice,
    /// Whether they want several products.
    happens: bool,
}

impl Carts {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x6361_7274);
        let happens = dice.chance(250) | (seed >= DENSE && seed % 4 == 1);
        Self { dice, happens }
    }

    /// The cart that a line comes in, mostly one that can be had as far as central knows.
    pub(super) fn fill(&mut self, line: Line, products: &[ProductId], can_be_had: impl Fn(&Lines) -> bool) -> Lines {
        let alone = Lines::one(line.product_id.clone(), line.quantity);
        if !self.happens || !self.dice.chance(800) {
            return alone;
        }
        for _ in 0..8 {
            let dice = &mut self.dice;
            let first = if dice.chance(500) { Some(line.clone()) } else { some(dice, products) };
            let others = [some(dice, products), some(dice, products).filter(|_| dice.chance(300))];
            let Ok(lines) = Lines::new(first.into_iter().chain(others.into_iter().flatten())) else { continue };
            if lines.only().is_none() && (can_be_had(&lines) || self.dice.chance(50)) {
                return lines;
            }
        }
        alone
    }
}

fn some(dice: &mut Dice, products: &[ProductId]) -> Option<Line> {
    Some(Line { product_id: dice.pick(products).cloned()?, quantity: dice.units(1, 2) })
}
