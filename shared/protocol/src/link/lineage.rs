//! Rule L7: may this epoch open?

use serde::{Deserialize, Serialize};

use super::{Cursor, Epoch, Seq};
use crate::planted::{Bug, planted};

/// An earlier epoch of a log, as its openings name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Past {
    /// Where the epoch ended.
    #[serde(flatten)]
    pub end: Cursor,
    /// The first entry of it that the log could still prove when the epoch ended. A log that opens an epoch because it
    /// cannot prove an ack would have gone on with one from here on: if the receiver is here, or further, the ack was of
    /// long ago.
    pub kept: Seq,
    /// Where the receiver was when it refused the log's last opening, if the log does contain that place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<Cursor>,
}

impl Past {
    /// An epoch that ended so, of which nothing but the end can be proven.
    pub fn ended(end: Cursor) -> Self {
        Self { end, kept: end.seq, proven: None }
    }
}

/// What the receiver knows of a log's lives.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its own cursor.
    pub cursor: Cursor,
    /// Every epoch of its cursor, its copy of the ledger and its lineage.
    pub epochs: Vec<Epoch>,
    /// An epoch that an operator said to adopt.
    pub adopt: Option<Epoch>,
}

/// Whether `opened {lineage}` of `epoch` continues what the receiver knows. `false`: the epoch is to be fenced.
pub fn accepts_epoch(known: &Known, epoch: Epoch, lineage: &[Past]) -> bool {
    if known.adopt == Some(epoch) || planted(Bug::LineageIgnored) {
        return true;
    }
    let cursor = known.cursor;
    if cursor.epoch == Epoch::NONE && known.epochs.iter().all(|epoch| *epoch == Epoch::NONE) {
        return true;
    }
    if cursor.epoch == epoch && cursor.seq == Seq::ZERO {
        return true;
    }
    let newest_shared =
        lineage.iter().filter(|past| known.epochs.contains(&past.end.epoch)).max_by_key(|past| past.end.epoch);
    newest_shared.is_some_and(|Past { end, kept, proven }| {
        *end == cursor
            || *proven == Some(cursor)
            || (end.epoch == cursor.epoch && cursor.seq < end.seq && cursor.seq < *kept)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    fn at(epoch: u32, seq: u32) -> Cursor {
        Cursor { epoch: epoch.into(), seq: seq.into(), hash: Hash([seq as u8; 16]) }
    }

    fn past(epoch: u32, seq: u32) -> Past {
        Past::ended(at(epoch, seq))
    }

    fn known(cursor: Cursor) -> Known {
        Known { cursor, epochs: vec![3.into(), cursor.epoch], adopt: None }
    }

    #[test]
    fn a_store_never_seen_may_open_any_epoch() {
        assert!(accepts_epoch(&Known::default(), 9.into(), &[]));
        assert!(!accepts_epoch(&known(at(5, 4)), 9.into(), &[]), "an empty agent with a known id");
    }

    #[test]
    fn the_lineage_must_continue_the_cursor() {
        let known = known(at(5, 4));
        assert!(accepts_epoch(&known, 9.into(), &[past(3, 1), past(5, 4)]));
        assert!(accepts_epoch(&known, 9.into(), &[past(5, 7), past(7, 2)]), "we are merely behind");
        assert!(!accepts_epoch(&known, 9.into(), &[past(5, 3)]), "an older copy");
        assert!(
            accepts_epoch(&known, 9.into(), &[Past { kept: 5.into(), ..past(5, 7) }]),
            "we are behind what it has kept"
        );
        assert!(
            !accepts_epoch(&known, 9.into(), &[Past { kept: 4.into(), ..past(5, 7) }]),
            "it would have gone on: a clone"
        );
        let proves = |cursor| [Past { kept: 4.into(), proven: Some(cursor), ..past(5, 7) }];
        assert!(accepts_epoch(&known, 9.into(), &proves(at(5, 4))), "no clone: it contains where we are");
        assert!(!accepts_epoch(&known, 9.into(), &proves(at(5, 5))), "it has proven something else");
        assert!(!accepts_epoch(&known, 9.into(), &[Past::ended(Cursor { hash: Hash([9; 16]), ..at(5, 4) })]), "a fork");
        assert!(!accepts_epoch(&known, 9.into(), &[past(3, 100)]), "knows nothing of our epoch");
    }

    #[test]
    fn a_given_or_adopted_epoch_opens() {
        let given = Known {
            cursor: Cursor { epoch: 9.into(), ..Cursor::default() },
            epochs: vec![3.into(), 9.into()],
            adopt: None,
        };
        assert!(accepts_epoch(&given, 9.into(), &[]));
        assert!(!accepts_epoch(&given, 10.into(), &[past(3, 1)]), "only the last to ask gets in");
        assert!(accepts_epoch(&Known { adopt: Some(10.into()), ..given }, 10.into(), &[]));
    }
}
