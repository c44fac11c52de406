//! Redis as the protocol sees it: streams with explicit ids, values, one set. It may forget anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::ids::StoreId;
use protocol::link::{Ack, Cursor, Entry, EntryId, Epoch, Found, Link, StreamEnds};
use runtime::redis::Heartbeat;

/// Either link: Redis does not know what its streams are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, std::hash::Hash)]
pub(super) struct Either;

impl Link for Either {}

fn epoch<A: Link, B: Link>(epoch: Epoch<A>) -> Epoch<B> {
    epoch.get().try_into().expect("the number of an epoch")
}

/// A place as one side means it, from what the other one means.
pub(super) fn id<A: Link, B: Link>(id: EntryId<A>) -> EntryId<B> {
    EntryId { epoch: epoch(id.epoch), seq: id.seq }
}

/// An ack as one side means it, from what the other one means.
pub(super) fn ack<A: Link, B: Link>(ack: Ack<A>) -> Ack<B> {
    let Cursor { epoch: known, seq, hash } = ack.cursor;
    Ack { cursor: Cursor { epoch: epoch(known), seq, hash }, fenced: epoch(ack.fenced) }
}

/// An entry as one side means it, from what the other one means.
pub(super) fn entry<A: Link, B: Link>(entry: Entry<A>) -> Entry<B> {
    let Entry { id: place, kind, operation, body, digest, hash } = entry;
    Entry { id: id(place), kind, operation, body, digest, hash }
}

/// What is in a stream's place as one side means it, from what the other one means.
pub(super) fn found<A: Link, B: Link>(found: Found<A>) -> Found<B> {
    match found {
        Found::Nothing => Found::Nothing,
        Found::Foreign => Found::Foreign,
        Found::Entries(StreamEnds { first, last, content, length }) => {
            Found::Entries(StreamEnds { first: (id(first.0), first.1), last: (id(last.0), last.1), content, length })
        }
    }
}

/// One stream. Its last id outlives trimming, but not `DEL`.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    entries: VecDeque<Entry<Either>>,
    last: EntryId<Either>,
}

/// One command of a pipeline.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Trim(String, EntryId<Either>),
    /// `XADD` with an explicit id.
    Add(String, Entry<Either>),
    Delete(String),
    /// `GET` of an ack.
    GetAck(String),
    /// `SET` of an ack.
    SetAck(String, Ack<Either>),
    Info(String),
    /// `SET ... PX` of a heartbeat.
    Heartbeat(StoreId, Heartbeat),
}

/// What a command brought back.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// Nothing worth telling, or "equal or smaller".
    Done,
    /// An ack, or none.
    Ack(Option<Ack<Either>>),
    /// What is in a stream's place.
    Found(Found<Either>),
    /// `WRONGTYPE`: the key holds something that is no stream.
    Refused,
}

/// The whole of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Redis {
    streams: BTreeMap<String, Stream>,
    /// Keys of streams that hold something else.
    pub(super) foreign: BTreeSet<String>,
    acks: BTreeMap<String, Ack<Either>>,
    old_acks: BTreeMap<String, Vec<Ack<Either>>>,
    heartbeats: BTreeMap<StoreId, (Heartbeat, i64)>,
    /// Stores that have announced themselves.
    pub(super) stores: BTreeSet<StoreId>,
    /// Commands of connections that are gone, which Redis has yet to read from its socket.
    pub(super) late: VecDeque<Call>,
}

impl Redis {
    /// Carries out one command.
    pub(super) fn call(&mut self, call: &Call, now: i64) -> Told {
        match call {
            Call::Trim(key, _) | Call::Add(key, _) if self.foreign.contains(key) => return Told::Refused,
            Call::Trim(key, below) => {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.entries.retain(|entry| entry.id >= *below);
                }
            }
            Call::Add(key, entry) => {
                let stream = self.streams.entry(key.clone()).or_default();
                if entry.id > stream.last {
                    stream.last = entry.id;
                    stream.entries.push_back(entry.clone());
                }
            }
            Call::Delete(key) => {
                self.streams.remove(key);
                self.foreign.remove(key);
            }
            Call::GetAck(key) => return Told::Ack(self.acks.get(key).copied()),
            Call::SetAck(key, ack) => {
                if let Some(old) = self.acks.insert(key.clone(), *ack) {
                    self.old_acks.entry(key.clone()).or_default().push(old);
                }
            }
            Call::Info(key) if self.foreign.contains(key) => return Told::Found(Found::Foreign),
            Call::Info(key) => return Told::Found(self.ends(key).map_or(Found::Nothing, Found::Entries)),
            Call::Heartbeat(store, heartbeat) => {
                self.heartbeats.insert(store.clone(), (heartbeat.clone(), now));
                self.stores.insert(store.clone());
            }
        }
        Told::Done
    }

    fn ends(&self, key: &str) -> Option<StreamEnds<Either>> {
        let stream = self.streams.get(key)?;
        let (first, last) = (stream.entries.front()?, stream.entries.back()?);
        Some(StreamEnds {
            first: (first.id, Some(first.hash)),
            last: (last.id, Some(last.hash)),
            content: Some(first.content()),
            length: stream.entries.len() as u64,
        })
    }

    /// `XRANGE key (after + COUNT n`.
    pub(super) fn range<L: Link>(&self, key: &str, after: EntryId<L>, count: usize) -> Vec<Entry<L>> {
        let after = id(after);
        let entries = self.streams.get(key).into_iter().flat_map(|stream| &stream.entries);
        entries.filter(|entry| entry.id > after).take(count).cloned().map(entry).collect()
    }

    /// About what a stream takes; 0: there are no entries.
    pub(super) fn bytes(&self, key: &str) -> u64 {
        self.streams.get(key).map_or(0, |stream| stream.entries.iter().map(|entry| entry.body.len() as u64 + 1).sum())
    }

    /// What is in the streams, an entry a line.
    pub(super) fn contents(&self) -> impl Iterator<Item = String> {
        let entries =
            self.streams.iter().flat_map(|(key, stream)| stream.entries.iter().map(move |entry| (key, entry)));
        entries.map(|(key, entry)| format!("{key} {} {} {} {:?}", entry.id, entry.kind, entry.operation, entry.hash))
    }

    /// The heartbeat and its age.
    pub(super) fn heartbeat(&self, store: &StoreId, now: i64) -> Option<(Heartbeat, i64)> {
        self.heartbeats.get(store).map(|(heartbeat, at)| (heartbeat.clone(), now - at))
    }

    pub(super) fn wipe(&mut self) {
        *self = Self {
            late: std::mem::take(&mut self.late),
            old_acks: std::mem::take(&mut self.old_acks),
            ..Self::default()
        };
    }

    /// A fail-over to a copy that lacks a stream's last entries: its last id goes with them.
    pub(super) fn lose_tail(&mut self, key: &str, entries: usize) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let before = stream.entries.len();
        stream.entries.truncate(before.saturating_sub(entries));
        if let Some(last) = stream.entries.back() {
            stream.last = last.id;
        }
        stream.entries.len() < before
    }

    /// Loses an entry in the middle.
    pub(super) fn punch(&mut self, key: &str, at: u64) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        if stream.entries.is_empty() {
            return false;
        }
        let at = at as usize % stream.entries.len();
        stream.entries.remove(at).is_some()
    }

    /// An entry is changed in place, all but its `c`.
    pub(super) fn corrupt(&mut self, key: &str, at: u64) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let length = stream.entries.len();
        match stream.entries.get_mut(at as usize % length.max(1)) {
            Some(entry) => {
                entry.body.push(' ');
                true
            }
            None => false,
        }
    }

    /// Someone puts something that is no stream in a stream's place.
    pub(super) fn usurp(&mut self, key: &str) -> bool {
        self.streams.remove(key).is_some() && self.foreign.insert(key.to_owned())
    }

    /// Someone else writes into a stream: behind its last entry, with an id that fits and content that does not.
    pub(super) fn intrude(&mut self, key: &str) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let Some(mut entry) = stream.entries.back().cloned() else { return false };
        entry.id.seq = entry.id.seq.next();
        stream.last = entry.id;
        stream.entries.push_back(entry);
        true
    }

    /// An ack goes back to what it was, or is lost.
    pub(super) fn set_back_ack(&mut self, key: &str, dice: u64) -> bool {
        match self.old_acks.get(key).filter(|old| !old.is_empty()) {
            Some(old) if !dice.is_multiple_of(4) => {
                self.acks.insert(key.to_owned(), old[dice as usize % old.len()]);
                true
            }
            _ => self.acks.remove(key).is_some(),
        }
    }

    /// Names of all streams.
    pub(super) fn keys(&self) -> Vec<String> {
        self.streams.keys().cloned().collect()
    }
}
