//! Literals of patterns: numbers for them, which are rare, and finding them in a text in one pass for each part of them.
//!
//! A part does not change and is shared by tables: the next table takes over those of which more than half is still wanted.
//! Numbers are the same in a table and those made out of it, so that a table is made without looking at texts it knows.
//! Knows nothing of patterns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, Input};
use foldhash::fast::FixedState;

use super::automata::is_worth_keeping;
use super::paths::small;

/// Literals in one part: a text is read once for each part, and a change builds one part anew.
const LITERALS_MAX: usize = if cfg!(test) { 4 } else { 1024 };
/// Numbers that nobody wants any more, beside three for each that somebody does, before they are given anew.
const UNWANTED_MAX: usize = if cfg!(test) { 16 } else { 4096 };

/// A literal, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal {
    number: u32,
    /// Its length.
    bytes: u32,
}

/// The literals of a table.
#[derive(Debug)]
pub(super) struct Literals {
    parts: Vec<Arc<LiteralPart>>,
    numbers: Arc<Mutex<Numbers>>,
    /// So many were wanted by the table's patterns.
    wanted: usize,
}

/// Literals that are searched together.
#[derive(Debug)]
pub(super) struct LiteralPart {
    searcher: AhoCorasick,
    /// Their numbers.
    literals: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Numbers {
    of: HashMap<Arc<[u8]>, u32, FixedState>,
    all: Vec<Arc<[u8]>>,
}

impl Literals {
    /// Whether most numbers belong to literals that are gone.
    pub(super) fn is_overgrown(&self) -> bool {
        lock(&self.numbers).all.len() > self.wanted * 4 + UNWANTED_MAX
    }
}

impl LiteralPart {
    /// Calls `found` with the place of each literal that is in `text`, perhaps more than once.
    pub(super) fn search(&self, text: &str, mut found: impl FnMut(usize)) {
        let mut state = OverlappingState::start();
        loop {
            self.searcher.find_overlapping(Input::new(text), &mut state);
            match state.get_match() {
                Some(one) => found(one.pattern().as_usize()),
                None => return,
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.literals.len()
    }
}

/// Puts literals into parts.
#[derive(Debug, Default)]
pub(super) struct LiteralsBuilder<'p> {
    numbers: Arc<Mutex<Numbers>>,
    before: &'p [Arc<LiteralPart>],
    /// By number: the part before that holds it.
    part_before: HashMap<u32, usize, FixedState>,
    parts: Vec<Arc<LiteralPart>>,
    /// By number: room to count in; 0 between two uses.
    room: Vec<u32>,
}

impl<'p> LiteralsBuilder<'p> {
    pub(super) fn after(before: &'p Literals) -> Self {
        let parts = before.parts.iter().enumerate();
        Self {
            part_before: parts.flat_map(|(at, part)| part.literals.iter().map(move |one| (*one, at))).collect(),
            room: vec![0; lock(&before.numbers).all.len()],
            numbers: Arc::clone(&before.numbers),
            before: &before.parts,
            parts: Vec::new(),
        }
    }

    /// The same sets by number.
    pub(super) fn number(&mut self, sets: Vec<Vec<Vec<u8>>>) -> Vec<Vec<Literal>> {
        let mut numbers = lock(&self.numbers);
        let number =
            |text: Vec<u8>, numbers: &mut Numbers| Literal { bytes: small(text.len()), number: numbers.of(text) };
        let sets =
            sets.into_iter().map(|set| set.into_iter().map(|text| number(text, &mut numbers)).collect()).collect();
        self.room.resize(numbers.all.len().max(self.room.len()), 0);
        sets
    }

    /// By owner, which has some sets of literals: the set that fewest others share, the one with long literals first;
    /// `None`: more than `shared_max` share each of them, or there is none.
    pub(super) fn rarest<'m>(&mut self, owners: &[&'m [Vec<Literal>]], shared_max: u32) -> Vec<Option<&'m [Literal]>> {
        let room = &mut self.room;
        let all = || owners.iter().copied().flatten().flatten().map(|literal| literal.number as usize);
        all().for_each(|number| room[number] += 1);
        let shared = |set: &[Literal]| set.iter().map(|literal| room[literal.number as usize]).max().unwrap_or(0);
        let shortest = |set: &[Literal]| set.iter().map(|literal| literal.bytes).min().unwrap_or(0);
        let rarest = owners.iter().map(|sets| {
            let best = sets.iter().min_by_key(|set| (shared(set), Reverse(shortest(set))))?;
            (shared(best) <= shared_max).then_some(best.as_slice())
        });
        let rarest = rarest.collect();
        all().for_each(|number| room[number] = 0);
        rarest
    }

    /// The literals of all `sets`, each once, and with each of those, by its index, the owners of the sets that it is in.
    pub(super) fn index(&mut self, sets: &[Option<&[Literal]>]) -> (Vec<Literal>, Vec<(usize, u32)>) {
        let (mut literals, mut pairs) = (Vec::new(), Vec::new());
        for (owner, set) in sets.iter().enumerate() {
            for literal in set.iter().copied().flatten() {
                let index = &mut self.room[literal.number as usize];
                if *index == 0 {
                    literals.push(*literal);
                    *index = small(literals.len());
                }
                pairs.push((*index as usize - 1, small(owner)));
            }
        }
        literals.iter().for_each(|literal| self.room[literal.number as usize] = 0);
        pairs.sort_unstable();
        (literals, pairs)
    }

    /// Parts that hold all of `wanted`, which differ: by literal of each part its index in `wanted`, where it has one.
    pub(super) fn place(&mut self, wanted: &[Literal]) -> Vec<(Arc<LiteralPart>, Vec<Option<usize>>)> {
        let Self { room, before, part_before, numbers, parts } = self;
        let mut live: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, literal) in wanted.iter().enumerate() {
            room[literal.number as usize] = small(index + 1);
            if let Some(part) = part_before.get(&literal.number) {
                *live.entry(*part).or_default() += 1;
            }
        }
        let index_of = |number: &u32| room.get(*number as usize).and_then(|index| (*index as usize).checked_sub(1));
        let mut is_placed = vec![false; wanted.len()];
        let mut placed = Vec::new();
        for (part, live) in live {
            let part = &before[part];
            if is_worth_keeping(live, part.len(), wanted.len(), LITERALS_MAX) {
                let indexes: Vec<_> = part.literals.iter().map(index_of).collect();
                indexes.iter().flatten().for_each(|index| is_placed[*index] = true);
                placed.push((Arc::clone(part), indexes));
            }
        }
        let left: Vec<usize> = (0..wanted.len()).filter(|index| !is_placed[*index]).collect();
        for chunk in left.chunks(LITERALS_MAX) {
            let literals: Box<[u32]> = chunk.iter().map(|index| wanted[*index].number).collect();
            let part = LiteralPart { searcher: searcher(&literals, &lock(numbers)), literals };
            placed.push((Arc::new(part), chunk.iter().copied().map(Some).collect()));
        }
        wanted.iter().for_each(|literal| room[literal.number as usize] = 0);
        for (part, _) in &placed {
            if !parts.iter().any(|known| Arc::ptr_eq(known, part)) {
                parts.push(Arc::clone(part));
            }
        }
        placed
    }

    /// For the next table; so many literals are wanted by the patterns of this one.
    pub(super) fn finish(self, wanted: usize) -> Literals {
        Literals { parts: self.parts, numbers: self.numbers, wanted }
    }
}

impl Numbers {
    fn of(&mut self, text: Vec<u8>) -> u32 {
        if let Some(number) = self.of.get(text.as_slice()) {
            return *number;
        }
        let (text, number): (Arc<[u8]>, u32) = (text.into(), small(self.all.len()));
        self.all.push(Arc::clone(&text));
        self.of.insert(text, number);
        number
    }
}

fn searcher(literals: &[u32], numbers: &Numbers) -> AhoCorasick {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(literals.iter().map(|number| &numbers.all[*number as usize]))
        .expect("fewer literals than Aho-Corasick can number: the patterns themselves are far larger")
}

fn lock(numbers: &Mutex<Numbers>) -> MutexGuard<'_, Numbers> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}
