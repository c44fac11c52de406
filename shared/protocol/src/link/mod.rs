//! The link: one reliable, ordered channel from a sender's log to a receiver, over a Redis that may forget anything.
//!
//! **Guarantees.** The receiver applies every entry of the log once and in order; an entry leaves the log only after
//! it was acknowledged; whatever happens to Redis costs latency and nothing else; a sender whose log is not what the
//! receiver knows (an older copy, a clone) stops itself. Rules L1 to L8 of `docs/PROTOCOL.md`.
//!
//! Both directions use the same code: [`Sender`] is the publishing side, [`receive`] and [`accepts_epoch`] the other.
//!
//! The loops around them are pure machines, too: `next` says the step, `reply` takes the answer, whatever it is. The
//! daemons, the simulator and the model drive the same ones and differ only in who carries out the step. [`Publisher`]
//! publishes one log; [`Publishers`] those of all stores, in batches; [`Uplink`] is an agent's publisher with its
//! connection, heartbeat and claim. [`Fetch`] is one round of central's consumer, [`Follower`] an agent's receiver.

mod fetch;
mod follower;
mod lineage;
mod publisher;
mod publishers;
mod receiver;
mod sender;
mod uplink;

pub use fetch::{Bounds, Fetch, FetchReply, FetchStep, Sized, Taken};
pub use follower::{FollowStep, Followed, Follower};
pub use lineage::{Known, Past, accepts_epoch};
pub use publisher::{Excerpt, Needs, Pace, Publisher, Reply};
pub use publishers::Publishers;
pub use receiver::{Receipt, receive};
pub use sender::{Found, Log, Round, RoundReply, Sender, Step, Stopped, StreamEnds};
pub use uplink::{Uplink, UplinkReply, UplinkStep};

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::{Digest, Hash};
use crate::ids::Invalid;
pub use crate::number::{Commands, Epoch, Events, Link, Seq};
pub use crate::position::EntryId;

/// T of the protocol: how often a sender looks after entries that are not acknowledged, in milliseconds.
pub const TICK_MS: i64 = 2_000;
/// Ticks after which a sender that has nothing unacknowledged looks at ack and stream all the same: its receiver may have
/// been set back to an older copy, a clone of it may have acknowledged and died, or something foreign stands in the
/// stream's place.
pub const IDLE_TICKS: i64 = 5;
/// How soon a full window is looked at again, in milliseconds: the receiver is about to acknowledge. The longer it says
/// nothing, the longer the next look waits, up to T.
pub const FULL_WINDOW_MS: i64 = 2;
/// W of the protocol: entries published and not acknowledged, at most.
pub const WINDOW: u64 = 2_000;

/// How far a log has been written, acknowledged or applied: a place and the chain hash there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(bound = "L: Link")]
pub struct Cursor<L = Events> {
    /// The epoch; 0: nothing yet.
    pub epoch: Epoch<L>,
    /// The last entry; 0: none of this epoch yet.
    pub seq: Seq,
    /// `c` of that entry.
    pub hash: Hash,
}

impl<L: Link> Cursor<L> {
    /// The place without the hash.
    pub fn id(&self) -> EntryId<L> {
        EntryId { epoch: self.epoch, seq: self.seq }
    }
}

/// What a receiver says of a log: `epoch seq hash fenced`. Further words are ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ack<L = Events> {
    /// Applied up to here.
    pub cursor: Cursor<L>,
    /// An epoch that was refused; 0: none.
    pub fenced: Epoch<L>,
}

impl<L> fmt::Display for Ack<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.cursor.epoch, self.cursor.seq, self.cursor.hash, self.fenced)
    }
}

impl<L: Link> FromStr for Ack<L> {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid("an ack is <epoch> <seq> <hash> <fenced>".into());
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or_else(invalid);
        let epoch = next()?.parse()?;
        let seq = next()?.parse()?;
        let hash = next()?.parse()?;
        let fenced = next()?.parse()?;
        // A later version may say more.
        Ok(Self { cursor: Cursor { epoch, seq, hash }, fenced })
    }
}

/// One entry of a log, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry<L = Events> {
    /// Its place.
    pub id: EntryId<L>,
    /// `t`: what kind of event or command it is.
    pub kind: String,
    /// `i`: the operation's or command's id.
    pub operation: String,
    /// `b`: the JSON body.
    pub body: String,
    /// `d`: digest of the store's whole stock after this entry; none on the command link.
    pub digest: Option<Digest>,
    /// `c`: chain hash over this entry and all before it in its epoch.
    pub hash: Hash,
}

impl<L: Link> Entry<L> {
    /// The entry that follows `before` in its log.
    pub fn follow(before: &Cursor<L>, kind: &str, operation: &str, body: String, digest: Option<Digest>) -> Self {
        let id = EntryId { epoch: before.epoch, seq: before.seq.next() };
        let hash = crate::hash::chain(before.hash, id, kind, operation, &body, digest);
        Self { id, kind: kind.into(), operation: operation.into(), body, digest, hash }
    }

    /// Hash of what stands in it, `c` apart: what it takes to see that nothing of it was changed in place.
    pub fn content(&self) -> Hash {
        crate::hash::chain(Hash::ZERO, self.id, &self.kind, &self.operation, &self.body, self.digest)
    }

    /// The log's head once this entry is its last.
    pub fn cursor(&self) -> Cursor<L> {
        Cursor { epoch: self.id.epoch, seq: self.id.seq, hash: self.hash }
    }
}

/// Type of the entry that opens an epoch, on both links.
pub const OPENED: &str = "opened";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_reads_what_it_writes() {
        let ack = Ack { cursor: Cursor { epoch: 17.into(), seq: 4.into(), hash: Hash([7; 16]) }, fenced: 9.into() };
        assert_eq!(ack.to_string().parse::<Ack>(), Ok(ack));
        assert_eq!("0 0 00000000000000000000000000000000 0".parse::<Ack>(), Ok(Ack::<Events>::default()));
        assert_eq!(format!("{ack} later words").parse::<Ack>(), Ok(ack), "it can be extended");
        for bad in [
            "",
            "1 2",
            "1 2 x 0",
            "+1 2 00000000000000000000000000000000 0",
            "0 18446744073709551615 00000000000000000000000000000000 0",
        ] {
            assert!(bad.parse::<Ack>().is_err(), "{bad}");
        }
    }
}
