//! The receiving side as a process: it reads a stream behind its cursor, applies in one transaction, and sets the ack.
//! What a transaction does with an entry is the owner's; whether the entry fits is production's ([`receive`]).

use protocol::link::{Ack, Cursor, Entry, Receipt, receive};

use crate::redis::{Payload, Redis, Row};

/// What the process holds in memory between two steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Receiver<P: Payload> {
    Idle,
    /// It has read its cursor in the database.
    Asking(Cursor<P::Link>),
    /// It has read the stream behind it.
    Holding(Vec<Row<P>>),
    /// It has committed, or read its cursor for a sweep.
    AnswerWriter(Ack<P::Link>),
}

impl<P: Payload> Receiver<P> {
    /// The steps that need Redis only. `false`: the database is asked next.
    pub(crate) fn talk(&mut self, redis: &mut Redis<P>) -> bool {
        *self = match self {
            Self::Asking(cursor) => Self::reading(redis.after(cursor.id())),
            Self::AnswerWriter(ack) => {
                redis.ack = Some(*ack);
                Self::Idle
            }
            Self::Idle | Self::Holding(_) => return false,
        };
        true
    }

    fn reading(batch: Vec<Row<P>>) -> Self {
        if batch.is_empty() { Self::Idle } else { Self::Holding(batch) }
    }
}

/// Goes through a batch as L2 says: `apply` records one entry that fits, `open` says whether an epoch may open.
pub(crate) fn go_through<P: Payload, D>(
    database: &mut D,
    batch: &[Row<P>],
    cursor: impl Fn(&D) -> Cursor<P::Link>,
    mut apply: impl FnMut(&mut D, &Row<P>) -> bool,
    mut open: impl FnMut(&mut D, &Row<P>) -> bool,
) {
    for row in batch {
        let entry: Entry<P::Link> = row.entry();
        let goes_on = match receive(&cursor(database), &entry) {
            Receipt::Known => true,
            Receipt::Next => apply(database, row),
            Receipt::Opens => open(database, row),
            Receipt::Unfit => false,
        };
        if !goes_on {
            break;
        }
    }
}
