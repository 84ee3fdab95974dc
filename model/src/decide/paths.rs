//! Where the candidates for a path are, by group: one group for each host condition.
//!
//! Everything lies in few flat arrays, what belongs to a group side by side, because a decision among many routes costs
//! what its cache misses cost. The texts of a group are found by hash; only those lengths that it has are looked up.

use std::hash::BuildHasher as _;
use std::ops::Range;

use foldhash::fast::FixedState;

use super::automata::Automata;
use super::patterns::{PatternScratch, Patterns};
use super::rank::Rank;
use super::search::{Observer, Search};

pub(super) use self::build::PathsBuilder;

mod build;

/// The path conditions of a table.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// By group, then by hash.
    slots: Vec<Slot>,
    /// By slot.
    keys: Vec<Key>,
    /// Those that are not the first of a key.
    candidates: Vec<Candidate>,
    /// The texts of all keys, each once.
    texts: String,
    regexes: Vec<Regexes>,
}

/// A route at a rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) rank: Rank,
    pub(super) route: u32,
    /// An index into the table's conditions.
    pub(super) conditions: u32,
}

/// The candidates of one host condition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) index: u32,
    /// A group whose best cannot win is not searched.
    pub(super) lowest: Rank,
    slots: Span,
    /// By [`Kind`]: the lengths of its texts, modulo 64, one bit each.
    lengths: [u64; 3],
    prefix_bytes_max: u32,
    /// An index into [`Paths::regexes`].
    regex: Option<u32>,
    /// Those without a path condition.
    any: Span,
}

/// What is read of a [`Key`] before it is known to be wanted.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Of the text; ends with the [`Kind`].
    hash: u32,
    /// Of the candidates.
    lowest: Rank,
}

/// A text and the candidates that wait for it, in the order of rank; mostly one.
#[derive(Clone, Copy, Debug)]
struct Key {
    text: Span,
    first: Candidate,
    others: Span,
}

/// What a text is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The path.
    Exact,
    /// `/api`: the path is it or below it.
    Prefix,
    /// `/api` of `/api/`: the path is below it.
    PrefixWithSlash,
}

/// A piece of an array.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// Candidates by pattern.
#[derive(Debug)]
struct Regexes {
    patterns: Patterns,
    /// By pattern.
    candidates: Vec<Span>,
}

impl Paths {
    /// Offers to `search` the candidates of `group` for `path`; `None` is `*`, which only those without a path
    /// condition take.
    pub(super) fn search<O: Observer>(
        &self,
        group: &Group,
        path: Option<&str>,
        automata: &Automata,
        scratch: &mut PatternScratch,
        search: &mut Search<'_, O>,
    ) {
        if let Some(path) = path {
            self.offer(group, Kind::Exact, path, search);
            self.offer_prefixes(group, path, search);
            if let Some(regex) = group.regex {
                let regex = &self.regexes[regex as usize];
                regex.patterns.visit(automata, path, search.best(), scratch, |pattern| {
                    search.offer(&self.candidates[regex.candidates[pattern].range()]);
                    search.best()
                });
            }
        }
        search.offer(&self.candidates[group.any.range()]);
    }

    /// Longest first: that is the order of rank unless priorities differ, so the rest is mostly cut off.
    fn offer_prefixes<O: Observer>(&self, group: &Group, path: &str, search: &mut Search<'_, O>) {
        if group.lengths[Kind::Prefix as usize] | group.lengths[Kind::PrefixWithSlash as usize] == 0 {
            return;
        }
        let longest = group.prefix_bytes_max as usize;
        let mut end = path.len();
        loop {
            if end < path.len() {
                self.offer(group, Kind::PrefixWithSlash, &path[..end], search);
            }
            if end <= longest {
                self.offer(group, Kind::Prefix, &path[..end], search);
            }
            match path.as_bytes()[..end.min(longest + 1)].iter().rposition(|&byte| byte == b'/') {
                Some(slash) => end = slash,
                None => return,
            }
        }
    }

    fn offer<O: Observer>(&self, group: &Group, kind: Kind, text: &str, search: &mut Search<'_, O>) {
        if group.lengths[kind as usize] & bit(text) == 0 {
            return;
        }
        let (hash, slots) = (hash(kind, text), group.slots.range());
        let first = slots.start + first_with(hash, &self.slots[slots.clone()]);
        let same_hash = (first..slots.end).take_while(|&at| self.slots[at].hash == hash);
        for at in same_hash {
            let key = &self.keys[at];
            if self.slots[at].lowest < search.best() && &self.texts[key.text.range()] == text {
                search.offer(std::slice::from_ref(&key.first));
                search.offer(&self.candidates[key.others.range()]);
            }
        }
    }
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The position of the first slot whose hash is not below `hash`. Hashes are spread evenly, so it is near where it
/// would be if they were spread exactly.
fn first_with(hash: u32, slots: &[Slot]) -> usize {
    let guess = (u64::from(hash) * slots.len() as u64) >> 32;
    let mut at = guess as usize;
    while at > 0 && slots[at - 1].hash >= hash {
        at -= 1;
    }
    while at < slots.len() && slots[at].hash < hash {
        at += 1;
    }
    at
}

fn hash(kind: Kind, text: &str) -> u32 {
    let high = (FixedState::default().hash_one(text) >> 32) as u32;
    high & !0b11 | kind as u32
}

fn bit(text: &str) -> u64 {
    1 << (text.len() % 64)
}

/// Indexes are kept short, since many of them are read for a decision.
pub(super) fn small(index: usize) -> u32 {
    u32::try_from(index).expect("a config is far smaller than 4 GiB")
}
