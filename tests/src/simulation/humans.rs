//! What people do once they see what is wrong: take back what was retired, restore what has stopped, take away what is one
//! too many.

use super::faults::is_open;
use super::virtual_world::VirtualWorld;

/// One round of theirs.
pub(super) fn look_after(world: &mut VirtualWorld) {
    for store in world.stores.clone() {
        world.adopt(&store);
        let of_store: Vec<usize> = (0..world.agents.len()).filter(|n| world.agents[*n].store == store).collect();
        let needs_care: Vec<usize> = of_store
            .iter()
            .copied()
            .filter(|n| world.agents[*n].stopped().is_some() || !is_open(&world.agents[*n]))
            .collect();
        if let (false, [stopped, ..]) = (world.touched.contains(&store), needs_care.as_slice()) {
            let why = world.agents[*stopped].stopped();
            world.oracle.break_(format!("P1: {store} has stopped ({why:?}), and nobody has touched its file"));
        }
        match (of_store.as_slice(), needs_care.as_slice()) {
            ([only], [_]) => world.restore(*only),
            ([_], _) => {}
            // One of two has stopped: it is restored and the other taken away, or the reverse.
            (_, [stopped, ..]) if world.dice.chance(500) => {
                let stopped = *stopped;
                let others: Vec<usize> = of_store.into_iter().filter(|n| *n != stopped).collect();
                let kept = others.iter().rev().fold(stopped, |kept, other| take_away(world, *other, kept));
                world.restore(kept);
            }
            (_, [stopped, ..]) => {
                take_away(world, *stopped, usize::MAX);
            }
            // Two alike that have not differed yet: one too many.
            ([.., last], []) => {
                take_away(world, *last, usize::MAX);
            }
            ([], _) => {}
        }
        if world.central.is_stopped(&store) {
            world.reopen_commands();
        }
    }
}

/// Takes a machine away for good; returns where another one stands afterwards.
fn take_away(world: &mut VirtualWorld, number: usize, other: usize) -> usize {
    world.mark_lost(number, None);
    world.say(|| format!("agent {number} is taken away"));
    let mut agent = world.agents.remove(number);
    agent.crash(false, &mut world.redis);
    if other > number && other != usize::MAX { other - 1 } else { other }
}
