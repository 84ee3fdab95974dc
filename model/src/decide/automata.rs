//! Lazy automata for the patterns of a table, and one thread's caches for them.
//!
//! An automaton holds several patterns. A *shared* one answers "does this one match", for a pattern that a literal in
//! the text points at; a *set* answers "which of all match". A lazy DFA determinises while it searches, into a cache of
//! bounded size that belongs to the thread; when that is full it starts over and never gives up, so that a search is
//! at worst linear in text times pattern. Knows nothing of ranks and routes.
//!
//! Automata do not change and are shared by tables: the next table takes over those of which more than half is still
//! wanted, and puts the other patterns into new ones. So a change of one route builds one automaton anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Anchored, Input, MatchKind, PatternID, PatternSet};
use regex_syntax::hir::Hir;

use super::literals::{Literal, Literals, LiteralsBuilder};
use super::syntax::{self, Anchoring};
use crate::config::Pattern;

/// Patterns in one automaton. More would make its states large and many.
pub(super) const PATTERNS_MAX: usize = if cfg!(test) { 8 } else { 64 };

/// The automata of a table.
#[derive(Debug)]
pub(super) struct Automata {
    shared: Vec<Arc<Automaton>>,
    sets: Vec<Arc<Automaton>>,
    /// By ticket.
    slots: Vec<Slot>,
    /// For the next table.
    members: Vec<Arc<Member>>,
    literals: Literals,
}

/// A pattern, and what is known of it.
#[derive(Debug)]
pub(super) struct Member {
    anchoring: Anchoring,
    pattern: Pattern,
    /// See [`syntax::required_literals`].
    pub(super) required: Vec<Vec<Literal>>,
}

/// Patterns in one automaton, by their number in it.
#[derive(Debug)]
struct Automaton {
    dfa: DFA,
    members: Box<[Arc<Member>]>,
}

/// Names a pattern that is searched alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u32);

/// One pattern of one shared automaton.
#[derive(Clone, Copy, Debug)]
struct Slot {
    automaton: usize,
    pattern: PatternID,
}

/// Patterns that are searched together.
#[derive(Debug)]
pub(super) struct SetOf {
    pub(super) set: usize,
    /// By pattern of the set: its number among those that were asked for; `None`: it is not wanted any more.
    pub(super) numbers: Vec<Option<usize>>,
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

    /// Whether the pattern of `ticket` matches `text`.
    pub(super) fn matches(&self, ticket: Ticket, text: &str, caches: &mut Caches) -> bool {
        let slot = self.slots[ticket.0 as usize];
        let dfa = &self.shared[slot.automaton].dfa;
        let cache = caches.shared[slot.automaton].get_or_insert_with(|| Box::new(dfa.create_cache()));
        let input = Input::new(text).anchored(Anchored::Pattern(slot.pattern)).earliest(true);
        dfa.try_search_fwd(cache, &input).expect(CANNOT_FAIL).is_some()
    }

    /// The patterns of `set` that match `text`: numbers in it, ascending.
    pub(super) fn matching<'c>(
        &self,
        set: usize,
        text: &str,
        caches: &'c mut Caches,
    ) -> impl Iterator<Item = usize> + use<'c> {
        let dfa = &self.sets[set].dfa;
        let cache = caches.sets[set].get_or_insert_with(|| Box::new(dfa.create_cache()));
        let input = Input::new(text).anchored(Anchored::Yes);
        caches.matched.clear();
        dfa.try_which_overlapping_matches(cache, &input, &mut caches.matched).expect(CANNOT_FAIL);
        caches.matched.iter().map(|pattern| pattern.as_usize())
    }

    /// Automata that `self` has in common with `other`.
    #[cfg(test)]
    pub(super) fn in_common(&self, other: &Self) -> usize {
        let all = |automata: &Self| -> Vec<*const Automaton> {
            automata.shared.iter().chain(&automata.sets).map(Arc::as_ptr).collect()
        };
        let others = all(other);
        all(self).iter().filter(|one| others.contains(one)).count()
    }
}

/// Puts patterns into automata. Equal ones are put once.
#[derive(Debug, Default)]
pub(super) struct AutomataBuilder<'p> {
    before: Option<&'p Automata>,
    /// All that are known, and whether they are wanted.
    known: HashMap<(Anchoring, &'p Pattern), (Arc<Member>, bool), FixedState>,
    /// By ticket.
    wanted: Vec<Arc<Member>>,
    tickets: HashMap<*const Member, Ticket, FixedState>,
    /// By pattern: a set of the table before that holds it.
    sets_before: HashMap<*const Member, usize, FixedState>,
    sets: Vec<Arc<Automaton>>,
    set_of: HashMap<Vec<*const Member>, usize, FixedState>,
    pub(super) literals: LiteralsBuilder<'p>,
}

impl<'p> AutomataBuilder<'p> {
    /// For a table that comes after another.
    pub(super) fn after(before: Option<&'p Automata>) -> Self {
        let Some(before) = before.filter(|before| !before.literals.is_overgrown()) else { return Self::default() };
        let known = |member: &'p Arc<Member>| ((member.anchoring, &member.pattern), (Arc::clone(member), false));
        let sets = before.sets.iter().enumerate();
        Self {
            wanted: Vec::with_capacity(before.slots.len()),
            tickets: HashMap::with_capacity_and_hasher(before.slots.len(), FixedState::default()),
            known: before.members.iter().map(known).collect(),
            sets_before: sets.flat_map(|(at, set)| set.members.iter().map(move |one| (Arc::as_ptr(one), at))).collect(),
            literals: LiteralsBuilder::after(&before.literals),
            before: Some(before),
            ..Self::default()
        }
    }

    /// What is known of a pattern.
    pub(super) fn member(&mut self, anchoring: Anchoring, pattern: &'p Pattern) -> Arc<Member> {
        let Self { known, literals, .. } = self;
        let (member, wanted) = known.entry((anchoring, pattern)).or_insert_with(|| {
            let required = syntax::required_literals(&syntax::parse_anchored(pattern, anchoring));
            (Arc::new(Member { anchoring, pattern: pattern.clone(), required: literals.number(required) }), false)
        });
        *wanted = true;
        Arc::clone(member)
    }

    /// A pattern that is searched alone.
    pub(super) fn add(&mut self, member: &Arc<Member>) -> Ticket {
        *self.tickets.entry(Arc::as_ptr(member)).or_insert_with(|| {
            self.wanted.push(Arc::clone(member));
            Ticket(u32::try_from(self.wanted.len() - 1).expect("a config is far smaller than 4 GiB"))
        })
    }

    /// Patterns that are searched together, in as few sets as are worth making.
    pub(super) fn add_sets(&mut self, members: &[Arc<Member>]) -> Vec<SetOf> {
        let numbers: HashMap<*const Member, usize, FixedState> =
            members.iter().enumerate().map(|(number, member)| (Arc::as_ptr(member), number)).collect();
        let number_of = |member: &Arc<Member>| numbers.get(&Arc::as_ptr(member)).copied();
        let mut live: BTreeMap<usize, usize> = BTreeMap::new();
        for member in members {
            if let Some(set) = self.sets_before.get(&Arc::as_ptr(member)) {
                *live.entry(*set).or_default() += 1;
            }
        }
        let mut is_placed = vec![false; members.len()];
        let mut placed = Vec::new();
        for (set, live) in live {
            let Some(before) = self.before.map(|before| Arc::clone(&before.sets[set])) else { continue };
            if !is_worth_keeping(live, before.members.len(), members.len(), PATTERNS_MAX) {
                continue;
            }
            let numbers: Vec<Option<usize>> = before.members.iter().map(number_of).collect();
            numbers.iter().flatten().for_each(|number| is_placed[*number] = true);
            placed.push(SetOf { set: self.set(before), numbers });
        }
        let left: Vec<usize> = (0..members.len()).filter(|number| !is_placed[*number]).collect();
        for chunk in left.chunks(PATTERNS_MAX) {
            let key: Vec<_> = chunk.iter().map(|number| Arc::as_ptr(&members[*number])).collect();
            let set = match self.set_of.get(&key) {
                Some(set) => *set,
                None => {
                    let of: Vec<_> = chunk.iter().map(|number| Arc::clone(&members[*number])).collect();
                    self.set(Arc::new(Automaton::new(of)))
                }
            };
            placed.push(SetOf { set, numbers: chunk.iter().copied().map(Some).collect() });
        }
        placed
    }

    /// The number of a set in this table.
    fn set(&mut self, set: Arc<Automaton>) -> usize {
        let key = set.members.iter().map(Arc::as_ptr).collect();
        *self.set_of.entry(key).or_insert_with(|| {
            self.sets.push(set);
            self.sets.len() - 1
        })
    }

    pub(super) fn finish(self) -> Automata {
        let mut shared = Vec::new();
        let mut slots: Vec<Option<Slot>> = vec![None; self.wanted.len()];
        for before in self.before.iter().flat_map(|before| &before.shared) {
            let ticket = |member: &Arc<Member>| Some(self.tickets.get(&Arc::as_ptr(member))?.0 as usize);
            let live: Vec<(usize, usize)> = before
                .members
                .iter()
                .enumerate()
                .filter_map(|(at, member)| Some((at, ticket(member)?)))
                .filter(|(_, ticket)| slots[*ticket].is_none())
                .collect();
            if is_worth_keeping(live.len(), before.members.len(), self.wanted.len(), PATTERNS_MAX) {
                for (at, ticket) in live {
                    slots[ticket] = Some(Slot { automaton: shared.len(), pattern: PatternID::must(at) });
                }
                shared.push(Arc::clone(before));
            }
        }
        let left: Vec<usize> = (0..slots.len()).filter(|ticket| slots[*ticket].is_none()).collect();
        for chunk in left.chunks(PATTERNS_MAX) {
            for (at, ticket) in chunk.iter().enumerate() {
                slots[*ticket] = Some(Slot { automaton: shared.len(), pattern: PatternID::must(at) });
            }
            let members = chunk.iter().map(|ticket| Arc::clone(&self.wanted[*ticket])).collect();
            shared.push(Arc::new(Automaton::new(members)));
        }
        let members: Vec<Arc<Member>> =
            self.known.into_values().filter(|(_, wanted)| *wanted).map(|(member, _)| member).collect();
        Automata {
            shared,
            sets: self.sets,
            slots: slots.into_iter().flatten().collect(),
            literals: self
                .literals
                .finish(members.iter().map(|one| one.required.iter().map(Vec::len).sum::<usize>()).sum()),
            members,
        }
    }
}

impl Automaton {
    fn new(members: Vec<Arc<Member>>) -> Self {
        let hir = |member: &Arc<Member>| syntax::parse_anchored(&member.pattern, member.anchoring);
        Self { dfa: dfa(&members.iter().map(hir).collect::<Vec<_>>()), members: members.into() }
    }
}

/// Whether the next table takes over a part of this one: more than half of what a part may hold is wanted, or all of it is
/// and nothing else. Anything less is put together with what is new, so that parts stay few.
pub(super) fn is_worth_keeping(live: usize, held: usize, wanted: usize, max: usize) -> bool {
    live * 2 > max || (live == held && live == wanted)
}

fn dfa(patterns: &[Hir]) -> DFA {
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

/// Of one automaton and thread, unless its patterns need more to work at all: what 10,000 patterns take of a thread's memory
/// stays below 80 MiB, however varied the traffic is.
const CACHE_BYTES: usize = 256 << 10;

const CANNOT_FAIL: &str = "no byte quits, giving up is off, and each pattern has its start state";
