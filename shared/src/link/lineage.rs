//! Rule L7: may this epoch open?

use super::Cursor;
use crate::planted::{Bug, planted};

/// What the receiver knows of a log's lives.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its own cursor.
    pub cursor: Cursor,
    /// Every epoch of its cursor, its copy of the ledger and its lineage.
    pub epochs: Vec<u64>,
    /// An epoch that an operator said to adopt.
    pub adopt: Option<u64>,
}

/// Whether `opened {lineage}` of `epoch` continues what the receiver knows. `false`: the epoch is to be fenced.
pub fn accepts_epoch(known: &Known, epoch: u64, lineage: &[Cursor]) -> bool {
    if known.adopt == Some(epoch) || planted(Bug::LineageIgnored) {
        return true;
    }
    let cursor = known.cursor;
    if cursor.epoch == 0 && known.epochs.iter().all(|epoch| *epoch == 0) {
        return true;
    }
    if cursor.epoch == epoch && cursor.seq == 0 {
        return true;
    }
    let newest_shared = lineage.iter().filter(|past| known.epochs.contains(&past.epoch)).max_by_key(|past| past.epoch);
    newest_shared.is_some_and(|past| *past == cursor || (past.epoch == cursor.epoch && past.seq > cursor.seq))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    fn at(epoch: u64, seq: u64) -> Cursor {
        Cursor { epoch, seq, hash: Hash([seq as u8; 16]) }
    }

    fn known(cursor: Cursor) -> Known {
        Known { cursor, epochs: vec![3, cursor.epoch], adopt: None }
    }

    #[test]
    fn a_store_never_seen_may_open_any_epoch() {
        assert!(accepts_epoch(&Known::default(), 9, &[]));
        assert!(!accepts_epoch(&known(at(5, 4)), 9, &[]), "an empty agent with a known id");
    }

    #[test]
    fn the_lineage_must_continue_the_cursor() {
        let known = known(at(5, 4));
        assert!(accepts_epoch(&known, 9, &[at(3, 1), at(5, 4)]));
        assert!(accepts_epoch(&known, 9, &[at(5, 7), at(7, 2)]), "we are merely behind");
        assert!(!accepts_epoch(&known, 9, &[at(5, 3)]), "an older copy");
        assert!(!accepts_epoch(&known, 9, &[Cursor { hash: Hash([9; 16]), ..at(5, 4) }]), "a fork");
        assert!(!accepts_epoch(&known, 9, &[at(3, 100)]), "knows nothing of our epoch");
    }

    #[test]
    fn a_given_or_adopted_epoch_opens() {
        let given = Known { cursor: Cursor { epoch: 9, ..Cursor::default() }, epochs: vec![3, 9], adopt: None };
        assert!(accepts_epoch(&given, 9, &[]));
        assert!(!accepts_epoch(&given, 10, &[at(3, 1)]), "only the last to ask gets in");
        assert!(accepts_epoch(&Known { adopt: Some(10), ..given }, 10, &[]));
    }
}
