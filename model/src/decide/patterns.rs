//! Which of many patterns match a text, best rank first, without running them all.
//!
//! Of most patterns every match contains a literal that few others share (`^/api/users/\d+$` contains `/api/users/`).
//! One Aho-Corasick pass over the text finds the literals that are there, and only the patterns that they stand for
//! are run. Patterns without such a literal are a *crowd*: run together, in sets. Knows nothing of routes.

use std::collections::HashMap;

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, Input};
use foldhash::fast::FixedState;
use regex_syntax::hir::Hir;

use super::automata::{Automata, AutomataBuilder, Caches, PATTERNS_MAX, Slot};
use super::rank::Rank;
use super::syntax::{self, Anchoring};
use crate::config::Pattern;

/// Patterns, numbered in the order of their lowest rank.
#[derive(Debug)]
pub(super) struct Patterns {
    /// By pattern, ascending.
    lowest: Box<[Rank]>,
    keyed: Option<Keyed>,
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
    literals: AhoCorasick,
    /// By literal: the patterns that it points at.
    patterns: Vec<Vec<u32>>,
    /// By pattern; `None` in a crowd.
    slots: Vec<Option<Slot>>,
}

/// Patterns that are searched together.
#[derive(Debug)]
struct Crowd {
    set: usize,
    /// Ascending.
    patterns: Vec<u32>,
}

impl Patterns {
    /// `patterns` come in the order of their lowest rank, which is beside them, and differ.
    pub(super) fn compile<'p>(
        patterns: &[(&'p Pattern, Rank)],
        anchoring: Anchoring,
        automata: &mut AutomataBuilder<'p>,
    ) -> Self {
        let hir = |pattern| syntax::parse_anchored(pattern, anchoring);
        let mut hirs: Vec<Option<Hir>> = patterns.iter().map(|(pattern, _)| Some(hir(pattern))).collect();
        let keys = if patterns.len() > CROWD_MAX { keys(&hirs) } else { vec![None; patterns.len()] };

        let mut crowd = Vec::new();
        let mut slots = vec![None; patterns.len()];
        let mut by_literal: HashMap<Vec<u8>, Vec<u32>, FixedState> = HashMap::default();
        for (number, key) in (0_u32..).zip(keys) {
            let index = number as usize;
            let Some(key) = key else {
                crowd.push(number);
                continue;
            };
            let hir = hirs[index].take().expect("each is taken once");
            slots[index] = Some(automata.add(anchoring, patterns[index].0.as_str(), hir));
            for literal in key {
                by_literal.entry(literal).or_default().push(number);
            }
        }
        let crowds = crowd.chunks(PATTERNS_MAX).map(|numbers| {
            let members = numbers.iter().map(|&number| {
                let index = number as usize;
                (patterns[index].0.as_str(), hirs[index].take().expect("each is taken once"))
            });
            Crowd { set: automata.add_set(anchoring, members.collect()), patterns: numbers.to_vec() }
        });
        Self {
            lowest: patterns.iter().map(|(_, lowest)| *lowest).collect(),
            crowds: crowds.collect(),
            keyed: (!by_literal.is_empty()).then(|| Keyed::new(by_literal, slots)),
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
                if keyed.slots[number].is_some_and(|slot| automata.matches(slot, text, &mut scratch.caches)) {
                    limit = matched(number);
                }
            }
        }
        for crowd in &self.crowds {
            if self.lowest[crowd.patterns[0] as usize] >= limit {
                break;
            }
            for member in automata.matching(crowd.set, text, &mut scratch.caches) {
                let number = crowd.patterns[member] as usize;
                if self.lowest[number] >= limit {
                    break;
                }
                limit = matched(number);
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
    fn new(by_literal: HashMap<Vec<u8>, Vec<u32>, FixedState>, slots: Vec<Option<Slot>>) -> Self {
        let (literals, patterns): (Vec<_>, Vec<_>) = by_literal.into_iter().unzip();
        let literals = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(literals)
            .expect("fewer literals than Aho-Corasick can number: the patterns themselves are far larger");
        Self { literals, patterns, slots }
    }

    /// Leaves in `scratch.candidates` the patterns whose literals are in `text`, ascending.
    fn find_candidates(&self, text: &str, scratch: &mut PatternScratch) {
        let PatternScratch { seen, literals, candidates, .. } = scratch;
        let words = self.patterns.len().div_ceil(64);
        if seen.len() < words {
            seen.resize(words, 0);
        }
        literals.clear();
        candidates.clear();
        let mut state = OverlappingState::start();
        loop {
            self.literals.find_overlapping(Input::new(text), &mut state);
            let Some(found) = state.get_match() else { break };
            let literal = found.pattern().as_usize();
            let (word, bit) = (literal / 64, 1 << (literal % 64));
            if seen[word] & bit == 0 {
                seen[word] |= bit;
                literals.push(literal);
                candidates.extend(&self.patterns[literal]);
            }
        }
        for literal in literals {
            seen[*literal / 64] = 0;
        }
        candidates.sort_unstable();
        candidates.dedup();
    }
}

/// By pattern: the literals that point at it; `None`: it has none that few enough share.
fn keys(hirs: &[Option<Hir>]) -> Vec<Option<Vec<Vec<u8>>>> {
    let required: Vec<_> =
        hirs.iter().map(|hir| hir.as_ref().map(syntax::required_literals).unwrap_or_default()).collect();
    let mut owners: HashMap<&[u8], usize, FixedState> = HashMap::default();
    for literal in required.iter().flatten().flatten() {
        *owners.entry(literal).or_default() += 1;
    }
    let shared = |set: &[Vec<u8>]| set.iter().map(|literal| owners[literal.as_slice()]).max().unwrap_or(0);
    let shortest = |set: &[Vec<u8>]| set.iter().map(Vec::len).min().unwrap_or(0);
    required
        .iter()
        .map(|sets| {
            let best = sets.iter().min_by_key(|set| (shared(set), std::cmp::Reverse(shortest(set))))?;
            (shared(best) <= CROWD_MAX).then(|| best.clone())
        })
        .collect()
}

/// Patterns that are cheaper to run together than to tell apart. Lower in tests, so that small configs have both kinds.
const CROWD_MAX: usize = if cfg!(test) { 2 } else { 8 };
