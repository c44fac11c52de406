//! Redis as far as the link uses it: one stream with explicit ids and one ack, each command atomic, all of it
//! forgettable. Facts as in the last section of `PROTOCOL.md`: ids must grow, the last id survives trimming but not
//! `DEL` or a wipe.

use std::fmt::Debug;
use std::hash::Hash as StdHash;

use protocol::hash::Hash;
use protocol::link::{Ack, Cursor, Entry, EntryId, Found, Link, StreamEnds};

/// What an entry says, in a form small enough to be kept a million times. Its `Debug` text is the entry's body.
pub(crate) trait Payload: Clone + Debug + PartialEq + Eq + StdHash + Send + Sync {
    /// Which link it travels on.
    type Link: Link;
    /// `t` of the entry.
    fn kind(&self) -> &'static str;
}

/// An entry of a log or of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row<P: Payload> {
    pub(crate) id: EntryId<P::Link>,
    pub(crate) payload: P,
    pub(crate) hash: Hash,
}

impl<P: Payload> Row<P> {
    /// The entry that follows `before` in its log, chained by production code.
    pub(crate) fn follow(before: &Cursor<P::Link>, payload: P) -> Self {
        let entry = Entry::follow(before, payload.kind(), "", format!("{payload:?}"), None);
        Self { id: entry.id, payload, hash: entry.hash }
    }

    /// As production code wants to see it.
    pub(crate) fn entry(&self) -> Entry<P::Link> {
        Entry {
            id: self.id,
            kind: self.payload.kind().into(),
            operation: String::new(),
            body: format!("{:?}", self.payload),
            digest: None,
            hash: self.hash,
        }
    }

    pub(crate) fn cursor(&self) -> Cursor<P::Link> {
        Cursor { epoch: self.id.epoch, seq: self.id.seq, hash: self.hash }
    }
}

/// One command of a sender.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cmd<P: Payload> {
    Delete,
    TrimBelow(EntryId<P::Link>),
    Add(Row<P>),
    GetAck,
    Info,
}

impl<P: Payload> Cmd<P> {
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Self::GetAck | Self::Info)
    }
}

/// What a read brought back.
pub(crate) enum Reply<L> {
    Done,
    Ack(Option<Ack<L>>),
    Found(Found<L>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Redis<P: Payload> {
    pub(crate) stream: Vec<Row<P>>,
    /// The greatest id ever added since the key was made; none: there is no key.
    pub(crate) last: Option<EntryId<P::Link>>,
    pub(crate) ack: Option<Ack<P::Link>>,
}

impl<P: Payload> Redis<P> {
    pub(crate) fn empty() -> Self {
        Self { stream: Vec::new(), last: None, ack: None }
    }

    pub(crate) fn execute(&mut self, cmd: &Cmd<P>) -> Reply<P::Link> {
        match cmd {
            Cmd::Delete => {
                self.stream.clear();
                self.last = None;
            }
            Cmd::TrimBelow(id) => self.stream.retain(|row| row.id >= *id),
            Cmd::Add(row) => {
                // "Equal or smaller" is refused, and counts as published.
                if self.last.is_none_or(|last| last < row.id) {
                    self.last = Some(row.id);
                    self.stream.push(row.clone());
                }
            }
            Cmd::GetAck => return Reply::Ack(self.ack),
            Cmd::Info => {
                let end = |row: &Row<P>| (row.id, Some(row.hash));
                let length = self.stream.len() as u64;
                let ends = self.stream.first().zip(self.stream.last());
                return Reply::Found(ends.map_or(Found::Nothing, |(a, b)| {
                    Found::Entries(StreamEnds { first: end(a), last: end(b), content: None, length })
                }));
            }
        }
        Reply::Done
    }

    /// `XRANGE stream (cursor +`.
    pub(crate) fn after(&self, id: EntryId<P::Link>) -> Vec<Row<P>> {
        self.stream.iter().filter(|row| row.id > id).cloned().collect()
    }

    /// `FLUSHALL`.
    pub(crate) fn wipe(&mut self) {
        *self = Self::empty();
    }

    /// A fail-over loses what was written last: the stream, and its last id, are as they were one entry before.
    pub(crate) fn lose_tail(&mut self) {
        self.stream.pop();
        self.last = self.stream.last().map(|row| row.id);
    }
}
