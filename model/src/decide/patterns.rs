//! Which of many patterns match a text, best rank first, without running them all.
//!
//! Of most patterns every match contains a literal that few others share (`^/api/users/\d+$` contains `/api/users/`).
//! A pass over the text finds the literals that are there, and only the patterns that they stand for are run. Patterns
//! without such a literal are a *crowd*: run together, in sets. Knows nothing of routes.

use std::sync::Arc;

use super::automata::{Automata, AutomataBuilder, Caches, Member, Ticket};
use super::literals::{Literal, LiteralPart};
use super::paths::small;
use super::rank::{NO_RANK, Rank};
use super::syntax::Anchoring;
use crate::config::Pattern;

/// Patterns, numbered in the order of their lowest rank.
#[derive(Debug)]
pub(super) struct Patterns {
    /// By pattern, ascending.
    lowest: Box<[Rank]>,
    keyed: Option<Keyed>,
    /// In the order of their lowest rank.
    crowds: Vec<Crowd>,
}

/// One thread's room for a search.
#[derive(Debug)]
pub(super) struct PatternScratch {
    caches: Caches,
    /// Literals that were found: one bit each, and those that are set.
    seen: Vec<u64>,
    literals: Vec<usize>,
    candidates: Vec<u32>,
}

/// Patterns that a literal points at.
#[derive(Debug)]
struct Keyed {
    parts: Vec<Part>,
    /// Literals of all parts.
    literals: usize,
    /// The patterns of all literals, those of one side by side.
    patterns: Vec<u32>,
    /// By pattern; `None` in a crowd.
    tickets: Vec<Option<Ticket>>,
}

/// Literals that are searched together.
#[derive(Debug)]
struct Part {
    literals: Arc<LiteralPart>,
    /// Number of the first among those of all parts.
    first: usize,
    /// By literal: the patterns that it points at, a piece of [`Keyed::patterns`]. Empty: nobody wants it any more.
    patterns: Box<[(u32, u32)]>,
}

/// Patterns that are searched together.
#[derive(Debug)]
struct Crowd {
    set: usize,
    lowest: Rank,
    /// By pattern of the set; `None`: it is not wanted any more.
    patterns: Box<[Option<u32>]>,
}

impl Patterns {
    /// `patterns` come in the order of their lowest rank, which is beside them, and differ.
    pub(super) fn compile<'p>(
        patterns: &[(&'p Pattern, Rank)],
        anchoring: Anchoring,
        automata: &mut AutomataBuilder<'p>,
    ) -> Self {
        let members: Vec<Arc<Member>> =
            patterns.iter().map(|(pattern, _)| automata.member(anchoring, pattern)).collect();
        let required: Vec<&[Vec<Literal>]> = members.iter().map(|member| member.required.as_slice()).collect();
        let is_many = patterns.len() > CROWD_MAX as usize;
        let keys = if is_many { automata.literals.rarest(&required, CROWD_MAX) } else { vec![None; patterns.len()] };
        let crowd: Vec<usize> = (0..patterns.len()).filter(|number| keys[*number].is_none()).collect();
        let in_crowd: Vec<Arc<Member>> = crowd.iter().map(|number| Arc::clone(&members[*number])).collect();
        let crowds = automata.add_sets(&in_crowd).into_iter().map(|set| {
            let numbers: Box<[Option<u32>]> =
                set.numbers.iter().map(|number| number.map(|number| small(crowd[number]))).collect();
            // Numbers go by lowest rank.
            let first = numbers.iter().flatten().min();
            let lowest = first.map_or(NO_RANK, |number| patterns[*number as usize].1);
            Crowd { set: set.set, lowest, patterns: numbers }
        });
        let mut crowds: Vec<Crowd> = crowds.collect();
        crowds.sort_unstable_by_key(|crowd| crowd.lowest);
        Self {
            lowest: patterns.iter().map(|(_, lowest)| *lowest).collect(),
            crowds,
            keyed: (crowd.len() < patterns.len()).then(|| Keyed::new(&members, &keys, automata)),
        }
    }

    /// Calls `matched` with patterns that match `text`, each once. Skipped are those whose lowest rank is not below
    /// `limit`, which each call of `matched` returns anew.
    pub(super) fn visit(
        &self,
        automata: &Automata,
        text: &str,
        mut limit: Rank,
        scratch: &mut PatternScratch,
        mut matched: impl FnMut(usize) -> Rank,
    ) {
        if self.lowest.first().is_none_or(|&lowest| lowest >= limit) {
            return;
        }
        if let Some(keyed) = &self.keyed {
            keyed.find_candidates(text, scratch);
            for &number in &scratch.candidates {
                let number = number as usize;
                if self.lowest[number] >= limit {
                    break;
                }
                if keyed.tickets[number].is_some_and(|ticket| automata.matches(ticket, text, &mut scratch.caches)) {
                    limit = matched(number);
                }
            }
        }
        for crowd in &self.crowds {
            if crowd.lowest >= limit {
                break;
            }
            let PatternScratch { caches, candidates, .. } = &mut *scratch;
            candidates.clear();
            candidates.extend(automata.matching(crowd.set, text, caches).filter_map(|member| crowd.patterns[member]));
            candidates.sort_unstable();
            for &number in &*candidates {
                if self.lowest[number as usize] >= limit {
                    break;
                }
                limit = matched(number as usize);
            }
        }
    }
}

impl PatternScratch {
    pub(super) fn new(automata: &Automata) -> Self {
        Self { caches: automata.caches(), seen: Vec::new(), literals: Vec::new(), candidates: Vec::new() }
    }
}

impl Keyed {
    /// Those of `members` that have a key.
    fn new(members: &[Arc<Member>], keys: &[Option<&[Literal]>], automata: &mut AutomataBuilder<'_>) -> Self {
        let (literals, pairs) = automata.literals.index(keys);
        let mut pieces = vec![(0, 0); literals.len()];
        let mut at = 0;
        for of_one in pairs.chunk_by(|(one, _), (other, _)| one == other) {
            pieces[of_one[0].0] = (small(at), small(at + of_one.len()));
            at += of_one.len();
        }
        let mut first = 0;
        let parts = automata.literals.place(&literals).into_iter().map(|(literals, numbers)| {
            let patterns = numbers.iter().map(|number| number.map_or((0, 0), |number| pieces[number])).collect();
            let part = Part { first, patterns, literals };
            first += part.literals.len();
            part
        });
        Self {
            parts: parts.collect(),
            patterns: pairs.into_iter().map(|(_, number)| number).collect(),
            tickets: members.iter().zip(keys).map(|(member, key)| key.map(|_| automata.add(member))).collect(),
            literals: first,
        }
    }

    /// Leaves in `scratch.candidates` the patterns whose literals are in `text`, ascending.
    fn find_candidates(&self, text: &str, scratch: &mut PatternScratch) {
        let PatternScratch { seen, literals, candidates, .. } = scratch;
        let words = self.literals.div_ceil(64);
        if seen.len() < words {
            seen.resize(words, 0);
        }
        literals.clear();
        candidates.clear();
        for part in &self.parts {
            part.literals.search(text, |found| {
                let literal = part.first + found;
                let (word, bit) = (literal / 64, 1 << (literal % 64));
                if seen[word] & bit == 0 {
                    seen[word] |= bit;
                    literals.push(literal);
                    let (from, until) = part.patterns[found];
                    candidates.extend(&self.patterns[from as usize..until as usize]);
                }
            });
        }
        for literal in literals {
            seen[*literal / 64] = 0;
        }
        candidates.sort_unstable();
        candidates.dedup();
    }
}

/// Patterns that are cheaper to run together than to tell apart. Lower in tests, so that small configs have both kinds.
const CROWD_MAX: u32 = if cfg!(test) { 2 } else { 8 };
