//! Rule L2: what to do with the next entry of a stream.

use super::{Cursor, Entry, Link, OPENED, Seq};
use crate::hash::{Hash, chain};
use crate::planted::{Bug, planted};

/// What an entry is to a receiver that stands at a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// At or below the cursor: drop it.
    Known,
    /// The next one: apply it and move the cursor, in one transaction.
    Next,
    /// Opens an epoch: whether to accept it is for L7 (events) or L8 (commands) to say.
    Opens,
    /// Does not fit: stop here and drop the rest of the batch.
    Unfit,
}

/// Judges one entry. The chain hash is computed anew, so an entry whose content was changed on the way does not fit.
pub fn receive<L: Link>(cursor: &Cursor<L>, entry: &Entry<L>) -> Receipt {
    if entry.id <= cursor.id() && !(planted(Bug::CursorNotChecked) && entry.id == cursor.id() && entry.kind != OPENED) {
        return Receipt::Known;
    }
    let before = if entry.id.seq == Seq::FIRST { Hash::ZERO } else { cursor.hash };
    let computed = chain(before, entry.id, &entry.kind, &entry.operation, &entry.body, entry.digest);
    let intact = computed == entry.hash || planted(Bug::HashNotChecked);
    let opens_later = entry.id.epoch > cursor.epoch || (entry.id.epoch == cursor.epoch && cursor.seq == Seq::ZERO);
    if entry.id.seq == Seq::FIRST && entry.kind == OPENED && opens_later && intact {
        Receipt::Opens
    } else if entry.id.epoch == cursor.epoch && entry.id.seq == cursor.seq.next() && cursor.seq > Seq::ZERO && intact
        || planted(Bug::CursorNotChecked) && entry.id == cursor.id()
    {
        Receipt::Next
    } else {
        Receipt::Unfit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<Entry> {
        let mut head = Cursor { epoch: 5.into(), ..Cursor::default() };
        let mut entries = Vec::new();
        for kind in [OPENED, "sold", "sold"] {
            let entry = Entry::follow(&head, kind, "op", "{}".into(), None);
            head = entry.cursor();
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn entries_are_applied_in_order_once() {
        let log = log();
        let start = Cursor::default();
        assert_eq!(receive(&start, &log[0]), Receipt::Opens);
        assert_eq!(receive(&start, &log[1]), Receipt::Unfit);
        assert_eq!(receive(&log[0].cursor(), &log[1]), Receipt::Next);
        assert_eq!(receive(&log[0].cursor(), &log[2]), Receipt::Unfit, "a hole");
        assert_eq!(receive(&log[1].cursor(), &log[1]), Receipt::Known);
        assert_eq!(receive(&log[1].cursor(), &log[0]), Receipt::Known);
    }

    #[test]
    fn a_changed_or_forked_entry_does_not_fit() {
        let log = log();
        let forged = Entry { body: "{\"a\":1}".into(), ..log[1].clone() };
        assert_eq!(receive(&log[0].cursor(), &forged), Receipt::Unfit);
        let fork = Cursor { hash: Hash([1; 16]), ..log[0].cursor() };
        assert_eq!(receive(&fork, &log[1]), Receipt::Unfit);
    }

    #[test]
    fn an_epoch_given_out_for_a_restore_opens_at_its_own_seq_zero() {
        let log = log();
        let given = Cursor { epoch: 5.into(), ..Cursor::default() };
        assert_eq!(receive(&given, &log[0]), Receipt::Opens);
        let later = Cursor { epoch: 6.into(), ..Cursor::default() };
        assert_eq!(receive(&later, &log[0]), Receipt::Known, "an older epoch's opening is dropped");
    }
}
