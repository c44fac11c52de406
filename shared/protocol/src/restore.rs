//! Rule L10: what a restore makes of two histories, the asker's log and what central answers.
//!
//! **Guarantees.** Pure. An entry counts as shared only if its hash, or that of an entry or an end behind it, proves that
//! central's state has it. What can be proven neither way is nobody's to guess: a human is asked.

use std::collections::{HashMap, HashSet};

use crate::hash::Hash;
use crate::link::{Cursor, EntryId, Epoch, Past, Seq};
use crate::planted::{Bug, planted};
use crate::wire::restore::{Answer, KnownEntry};

/// Which state stands when only a human can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The asker's.
    Own,
    /// Central's; what only the asker's database knows is left out.
    Central,
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Ask again: the epoch given out is not later than the own one.
    #[error("central gave out epoch {0}, which is not later than the own one: ask again")]
    AskAgain(Epoch),
    /// Only a human can choose.
    #[error(
        "nothing in this database is known to central, and it is not empty ({entries} entries): say which state stands, \
         --state own (central takes this database's) or --state central (this database's entries are left out)"
    )]
    NeedsChoice {
        /// Entries of the own ledger.
        entries: u64,
    },
    /// Central knows how an epoch ended, and has none of the entries with which a copy of the log could be compared: some
    /// that this database has may be in central's state, or only here. Or this database has something that came with a
    /// state of central's, and that neither its log nor central has any more.
    #[error(
        "nobody can tell whether central's state has all that this database has ({entries} entries of its log among it): say \
         which state stands, --state own (central takes this database's) or --state central (that is left out, and what is \
         certainly missing there is recorded again)"
    )]
    CannotTell {
        /// Such entries.
        entries: u64,
    },
}

/// The asker's log.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its last entry.
    pub head: Cursor,
    /// Each earlier epoch.
    pub lineage: Vec<Past>,
    /// All entries that it still has, in order.
    pub entries: Vec<(EntryId, Hash)>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whose state the epoch opens with.
    pub state: Choice,
    /// The newest own entry that central's state has: it has all before it.
    pub shared: Option<EntryId>,
    /// Own entries behind that of which nobody can tell.
    pub uncertain: HashSet<EntryId>,
    /// Whether the other own entries behind it are recorded again, if central's state stands.
    pub repeats: bool,
    /// What the epoch is said to continue.
    pub lineage: Vec<Past>,
}

impl Plan {
    /// Whether an own entry is not known to be in central's state.
    pub fn is_unshared(&self, id: EntryId) -> bool {
        self.shared.is_none_or(|shared| id > shared)
    }
}

/// Compares the two. `choice`: what a human has said.
pub fn plan(own: &Own, answer: &Answer, choice: Option<Choice>) -> Result<Plan, Refusal> {
    if answer.epoch <= own.head.epoch {
        return Err(Refusal::AskAgain(answer.epoch));
    }
    let (shared, uncertain) = compare(own, answer);
    let grew = own.grew_from(answer);
    let in_history = answer.complete && own.went_through(&answer.state);
    let reaches_back = own.has_all_since(&answer.state);
    let state = if !answer.complete {
        Choice::Own
    } else if shared.is_none() && uncertain.is_empty() && !own.entries.is_empty() && !grew {
        let entries = own.entries.len() as u64;
        choice.or(planted(Bug::RestoreAsksNobody).then_some(Choice::Central)).ok_or(Refusal::NeedsChoice { entries })?
    } else if in_history && !reaches_back {
        Choice::Own
    } else if uncertain.is_empty() && !own.is_alone_with(shared, answer) {
        Choice::Central
    } else {
        choice.ok_or(Refusal::CannotTell { entries: uncertain.len() as u64 })?
    };
    // What the epoch is said to continue. In central's state there is no more of the own log than what is shared: the
    // rest leaves it, and must not count as covered when a clone of this database asks later.
    let past = match (state, in_history) {
        (Choice::Own, _) => own.past(&own.head),
        (Choice::Central, true) if planted(Bug::RestoreClaimsAll) => own.past(&own.head),
        (Choice::Central, true) => own.past(&answer.state),
        (Choice::Central, false) => Vec::new(),
    };
    // What nobody can place a human has left out, and everything of a database of which central knows nothing at all.
    let repeats = (shared.is_some() || grew || !uncertain.is_empty()) && !planted(Bug::RestoreForgetsOwn);
    Ok(Plan { state, shared, uncertain, repeats, lineage: lineage(past, answer) })
}

/// An entry's hash names all that led to it, so one that both have, as an entry or as the end of an epoch, proves all
/// before it. Where central knows only how an epoch ended, and the own log has not that end, it has forked from there, or
/// is an older copy: what it has before such an end is proven neither way. Returns the newest entry that is shared, and
/// those that are uncertain.
fn compare(own: &Own, answer: &Answer) -> (Option<EntryId>, HashSet<EntryId>) {
    let known: HashMap<EntryId, Hash> = answer.entries.iter().map(|entry| (entry.id(), entry.hash)).collect();
    let has = |end: &Cursor| own.lineage.iter().any(|past| past.end == *end) || own.hash_at(end.id()) == Some(end.hash);
    let covers = answer.covers.iter().filter(|end| has(end) || planted(Bug::RestoreIgnoresForks));
    let common: Vec<&Cursor> = covers.chain([&answer.state].into_iter().filter(|end| has(end))).collect();
    let is_shared = |(id, hash): &&(EntryId, Hash)| {
        known.get(id) == Some(hash) || common.iter().any(|end| end.epoch == id.epoch && id.seq <= end.seq)
    };
    let shared = own.entries.iter().rev().find(is_shared).map(|(id, _)| *id);
    let mut uncertain = HashSet::new();
    for end in &answer.covers {
        let ids = own.entries.iter().map(|(id, _)| *id);
        let before = ids.skip_while(|id| id.epoch != end.epoch || shared >= Some(*id));
        // Whatever follows an entry in whose place central has another one is not there.
        uncertain.extend(before.take_while(|id| *id < end.id() && !known.contains_key(id)));
    }
    (shared, uncertain)
}

/// The own past, and central's for epochs that are missing there.
fn lineage(mut past: Vec<Past>, answer: &Answer) -> Vec<Past> {
    let known: HashSet<Epoch> = past.iter().map(|past| past.end.epoch).collect();
    let missing = answer.lineage.iter().filter(|end| !known.contains(&end.epoch));
    past.extend(missing.copied().map(Past::ended));
    past.sort();
    past
}

/// Whether central's state certainly has all up to this place.
fn is_in_state(place: &Cursor, answer: &Answer) -> bool {
    let told = |entry: &KnownEntry| (entry.id(), entry.hash) == (place.id(), place.hash);
    answer.state == *place || answer.covers.contains(place) || answer.entries.iter().any(told)
}

impl Own {
    fn hash_at(&self, id: EntryId) -> Option<Hash> {
        self.entries.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| self.entries[at].1)
    }

    /// Whether a cursor lies in what this database has been through, as far as it can still tell.
    fn went_through(&self, cursor: &Cursor) -> bool {
        let mut ends = self.lineage.iter().map(|past| &past.end).chain([&self.head]);
        match ends.find(|end| end.epoch == cursor.epoch && end.seq >= cursor.seq) {
            None => false,
            Some(end) if end.seq == cursor.seq => end.hash == cursor.hash,
            Some(_) => match self.hash_at(cursor.id()) {
                Some(own) => own == cursor.hash,
                // It was pruned, if the log goes on from there. What came with a state proves nothing of what was before.
                None => {
                    let first = self.entries.iter().find(|(id, _)| id.epoch == cursor.epoch);
                    first.is_some_and(|(id, _)| id.seq > cursor.seq)
                }
            },
        }
    }

    /// Whether the log has this place, or an opening went on exactly from it, as after an earlier restore, and has whatever
    /// came after it. What came with a state that an earlier restore took over is not in the log.
    fn has_all_since(&self, place: &Cursor) -> bool {
        let has = |end: &Cursor| {
            let first = if end.epoch == place.epoch { place.seq.next() } else { Seq::FIRST };
            let begins = self.hash_at(EntryId { seq: first, ..end.id() }).is_some();
            // Of an epoch that ended at 0 there is nothing: it was given out, and never opened.
            end.seq < first || begins && self.hash_at(end.id()) == Some(end.hash)
        };
        let mut since = self.lineage.iter().map(|past| &past.end).chain([&self.head]);
        let has_place = self.hash_at(place.id()).is_some() || self.lineage.iter().any(|past| past.end == *place);
        has_place && since.all(|end| end.epoch < place.epoch || has(end))
    }

    /// Whether its state has something that is neither in its log nor, for all that can be told, in central's state: an
    /// earlier restore took it over from a central that was set back since.
    fn is_alone_with(&self, shared: Option<EntryId>, answer: &Answer) -> bool {
        let mut ends = self.lineage.iter().map(|past| &past.end).filter(|end| end.seq > Seq::ZERO);
        ends.any(|end| shared < Some(end.id()) && self.hash_at(end.id()) != Some(end.hash) && !is_in_state(end, answer))
    }

    /// Whether its log is that of a database which began with what central has: there is nothing in it but the present epoch,
    /// and the one before ended in central's hands. One that opened with its own state still has the entries before.
    fn grew_from(&self, answer: &Answer) -> bool {
        let before = self.lineage.iter().map(|past| &past.end).rfind(|end| end.seq > Seq::ZERO);
        self.entries.first().is_some_and(|(id, _)| *id == EntryId { epoch: self.head.epoch, seq: Seq::FIRST })
            && before.is_some_and(|end| is_in_state(end, answer))
    }

    /// The lineage as it is at `end`, which it ends with.
    fn past(&self, end: &Cursor) -> Vec<Past> {
        let mut past: Vec<Past> = self.lineage.iter().filter(|past| past.end.epoch < end.epoch).copied().collect();
        if end.epoch != Epoch::NONE {
            past.push(Past::ended(*end));
        }
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Entry;

    /// Entries of an epoch; `from`: where a branch of them begins.
    fn log(epoch: u32, entries: u64, from: u64, branch: &str) -> Vec<Cursor> {
        let mut cursors = vec![Cursor { epoch: epoch.into(), ..Cursor::default() }];
        for place in 1..=entries {
            let kind = if place < from { "both" } else { branch };
            cursors.push(Entry::follow(&cursors[place as usize - 1], kind, "", String::new(), None).cursor());
        }
        cursors.split_off(1)
    }

    fn own(lineage: &[Cursor], entries: &[Vec<Cursor>]) -> Own {
        let entries: Vec<&Cursor> = entries.iter().flatten().collect();
        Own {
            head: **entries.last().expect("there are some"),
            lineage: lineage.iter().copied().map(Past::ended).collect(),
            entries: entries.iter().map(|at| (at.id(), at.hash)).collect(),
        }
    }

    fn answer(entries: &[Vec<Cursor>]) -> Answer {
        let entries: Vec<&Cursor> = entries.iter().flatten().collect();
        let known = |at: &&Cursor| KnownEntry {
            epoch: at.epoch,
            seq: at.seq,
            hash: at.hash,
            operation: String::new(),
            product_id: None,
            also: Vec::new(),
            given_up: false,
        };
        let state = **entries.last().expect("there are some");
        Answer {
            store_id: "s1".into(),
            epoch: 9.into(),
            lineage: vec![state],
            complete: true,
            state,
            covers: Vec::new(),
            named_since: None,
            items: Vec::new(),
            outcomes: Vec::new(),
            reservations: Vec::new(),
            transfers: Vec::new(),
            operations: Vec::new(),
            entries: entries.iter().map(known).collect(),
        }
    }

    /// An old copy with four entries took over a fifth with central's state, and has sold since.
    fn restored() -> (Own, Vec<Cursor>) {
        let theirs = log(1, 5, 9, "");
        (own(&theirs[4..], &[theirs[..4].to_vec(), log(3, 4, 1, "restored")]), theirs)
    }

    #[test]
    fn what_came_with_a_state_is_not_given_up_for_a_central_that_was_set_back() {
        let (copy, theirs) = restored();
        let behind = answer(&[theirs[..4].to_vec()]);
        assert_eq!(plan(&copy, &behind, None).expect("needs nobody").state, Choice::Own);
        // With the entry in the own log all since is there, and is recorded again.
        let whole = own(&theirs[4..], &[theirs.clone(), log(3, 4, 1, "restored")]);
        let again = plan(&whole, &behind, None).expect("needs nobody");
        assert_eq!((again.state, again.shared, again.repeats), (Choice::Central, Some(theirs[3].id()), true));
    }

    #[test]
    fn an_epoch_continues_what_is_shared_and_leaves_what_is_behind_it() {
        let (before, present) = (log(1, 5, 9, ""), log(3, 4, 1, "restored"));
        let copy = own(&before[4..], &[before.clone(), present.clone()]);
        let again = plan(&copy, &answer(&[before.clone(), present[..2].to_vec()]), None).expect("needs nobody");
        assert_eq!((again.state, again.shared), (Choice::Central, Some(present[1].id())));
        assert_eq!(again.lineage, [before[4], present[1]].map(Past::ended));
        assert!(!again.is_unshared(before[4].id()) && !again.is_unshared(present[1].id()));
        assert!(again.is_unshared(present[2].id()));
    }

    #[test]
    fn a_human_is_asked_if_only_the_own_state_has_what_came_with_another() {
        let (copy, theirs) = restored();
        let elsewhere = answer(&[log(1, 5, 5, "another life")]);
        assert_eq!(plan(&copy, &elsewhere, None), Err(Refusal::CannotTell { entries: 0 }));
        let choose = |choice| plan(&copy, &elsewhere, Some(choice)).expect("is said").state;
        assert_eq!((choose(Choice::Own), choose(Choice::Central)), (Choice::Own, Choice::Central));
        let known = plan(&copy, &answer(std::slice::from_ref(&theirs)), None).expect("needs nobody");
        assert_eq!((known.state, known.repeats), (Choice::Central, true), "central has it as well");
        // What it took over went on behind its own log, and nobody knows whether from where central is.
        let older = own(&theirs[4..], &[theirs[..3].to_vec(), log(3, 4, 1, "restored")]);
        for place in [log(1, 4, 4, "another life"), theirs[..4].to_vec()] {
            assert_eq!(plan(&older, &answer(&[place]), None), Err(Refusal::CannotTell { entries: 0 }));
        }
    }

    #[test]
    fn a_new_machine_is_restored_again_without_a_human() {
        let theirs = log(1, 5, 9, "");
        let fresh = own(&theirs[4..], &[log(3, 4, 1, "restored")]);
        // Nobody has heard of it; then another one was restored beside it, and was heard.
        for known in [vec![theirs.clone()], vec![theirs.clone(), log(4, 4, 1, "the other")]] {
            let again = plan(&fresh, &answer(&known), None).expect("needs nobody");
            assert_eq!((again.state, again.shared, again.repeats), (Choice::Central, None, true));
        }
        let unknown = answer(&[log(1, 5, 1, "a stranger")]);
        assert_eq!(plan(&fresh, &unknown, None), Err(Refusal::NeedsChoice { entries: 4 }));
        // A human has said that its own state stands: that is no part of central's.
        let chosen = own(&theirs[4..], &[log(0, 2, 1, "its own"), log(3, 4, 1, "restored")]);
        assert_eq!(plan(&chosen, &answer(&[theirs]), None), Err(Refusal::NeedsChoice { entries: 6 }));
    }
}
