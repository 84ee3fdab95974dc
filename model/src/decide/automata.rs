//! Lazy automata for the patterns of a table, and one thread's caches for them.
//!
//! An automaton holds several patterns. A *shared* one answers "does this one match", for a pattern that a literal in
//! the text points at; a *set* answers "which of all match". A lazy DFA determinises while it searches, into a cache of
//! bounded size that belongs to the thread; when that is full it starts over and never gives up, so that a search is
//! at worst linear in text times pattern. Knows nothing of ranks and routes.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Anchored, Input, MatchKind, PatternID, PatternSet};
use regex_syntax::hir::Hir;

use super::syntax::Anchoring;

/// Patterns in one automaton. More would make its states large and many.
pub(super) const PATTERNS_MAX: usize = 64;

/// The automata of a table.
#[derive(Debug)]
pub(super) struct Automata {
    shared: Vec<DFA>,
    sets: Vec<DFA>,
}

/// One pattern of one shared automaton.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    automaton: usize,
    pattern: PatternID,
}

/// One thread's caches, each made when it is first needed.
#[derive(Debug)]
pub(super) struct Caches {
    shared: Vec<Option<Box<Cache>>>,
    sets: Vec<Option<Box<Cache>>>,
    matched: PatternSet,
}

impl Automata {
    pub(super) fn caches(&self) -> Caches {
        Caches {
            shared: self.shared.iter().map(|_| None).collect(),
            sets: self.sets.iter().map(|_| None).collect(),
            matched: PatternSet::new(PATTERNS_MAX),
        }
    }

    /// Whether the pattern in `slot` matches `text`.
    pub(super) fn matches(&self, slot: Slot, text: &str, caches: &mut Caches) -> bool {
        let automaton = &self.shared[slot.automaton];
        let cache = caches.shared[slot.automaton].get_or_insert_with(|| Box::new(automaton.create_cache()));
        let input = Input::new(text).anchored(Anchored::Pattern(slot.pattern)).earliest(true);
        automaton.try_search_fwd(cache, &input).expect(CANNOT_FAIL).is_some()
    }

    /// The patterns of `set` that match `text`: indexes in ascending order.
    pub(super) fn matching<'c>(
        &self,
        set: usize,
        text: &str,
        caches: &'c mut Caches,
    ) -> impl Iterator<Item = usize> + use<'c> {
        let automaton = &self.sets[set];
        let cache = caches.sets[set].get_or_insert_with(|| Box::new(automaton.create_cache()));
        let input = Input::new(text).anchored(Anchored::Yes);
        caches.matched.clear();
        automaton.try_which_overlapping_matches(cache, &input, &mut caches.matched).expect(CANNOT_FAIL);
        caches.matched.iter().map(|pattern| pattern.as_usize())
    }
}

/// Puts patterns into automata. Equal ones are put once.
#[derive(Debug, Default)]
pub(super) struct AutomataBuilder<'p> {
    shared: Vec<DFA>,
    /// The patterns of the next shared automaton.
    open: Vec<Hir>,
    slots: HashMap<(Anchoring, &'p str), Slot, FixedState>,
    sets: Vec<DFA>,
    set_of: HashMap<(Anchoring, Vec<&'p str>), usize, FixedState>,
}

impl<'p> AutomataBuilder<'p> {
    /// A pattern that is searched alone. `hir` is that of `text`, for a search from the first byte.
    pub(super) fn add(&mut self, anchoring: Anchoring, text: &'p str, hir: Hir) -> Slot {
        if let Some(slot) = self.slots.get(&(anchoring, text)) {
            return *slot;
        }
        let slot = Slot { automaton: self.shared.len(), pattern: PatternID::must(self.open.len()) };
        self.slots.insert((anchoring, text), slot);
        self.open.push(hir);
        if self.open.len() == PATTERNS_MAX {
            self.close();
        }
        slot
    }

    /// At most [`PATTERNS_MAX`] patterns that are searched together.
    pub(super) fn add_set(&mut self, anchoring: Anchoring, patterns: Vec<(&'p str, Hir)>) -> usize {
        let (texts, hirs): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
        *self.set_of.entry((anchoring, texts)).or_insert_with(|| {
            self.sets.push(automaton(&hirs));
            self.sets.len() - 1
        })
    }

    pub(super) fn finish(mut self) -> Automata {
        if !self.open.is_empty() {
            self.close();
        }
        Automata { shared: self.shared, sets: self.sets }
    }

    fn close(&mut self) {
        self.shared.push(automaton(&self.open));
        self.open.clear();
    }
}

fn automaton(patterns: &[Hir]) -> DFA {
    let syntax = thompson::Config::new().utf8(false).which_captures(WhichCaptures::None);
    let nfa = thompson::Compiler::new().configure(syntax).build_many_from_hir(patterns);
    DFA::builder()
        .configure(
            DFA::config()
                .match_kind(MatchKind::All)
                .starts_for_each_pattern(true)
                .cache_capacity(CACHE_BYTES)
                .skip_cache_capacity_check(true),
        )
        .build_from_nfa(nfa.expect("each pattern compiled alone, and no size limit is set"))
        .expect("no Unicode word boundary is left and the cache grows to what it needs")
}

/// Of one automaton and thread, unless its patterns need more to work at all.
const CACHE_BYTES: usize = 512 << 10;

const CANNOT_FAIL: &str = "no byte quits, giving up is off, and each pattern has its start state";
