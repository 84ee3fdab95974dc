//! A mapping with known keys, and lists whose items have ids.
//!
//! Opening a mapping reports every key that is not known and every known one without a value; what the values mean is
//! the walkers' business.

use std::collections::HashMap;
use std::time::Duration;

use super::findings::Findings;
use super::nearest::{from_elsewhere, home, home_of_nearest, nearest};
use super::read::{self, shown};
use super::tree::{Key, Node, Spot, Value};

/// A mapping whose keys were checked.
#[derive(Debug)]
pub(super) struct Fields<'n, 't> {
    /// The mapping itself.
    pub(super) node: &'n Node<'t>,
    entries: &'n [(Key<'t>, Node<'t>)],
}

impl<'n, 't> Fields<'n, 't> {
    /// Opens a mapping. `what` names it, such as "a route".
    pub(super) fn open(
        node: &'n Node<'t>,
        what: &str,
        known: &[&'static str],
        findings: &mut Findings,
    ) -> Option<Self> {
        Self::open_nullable(node, what, known, "", findings)
    }

    /// As [`Self::open`], but the value of the key `nullable` may be null.
    pub(super) fn open_nullable(
        node: &'n Node<'t>,
        what: &str,
        known: &[&'static str],
        nullable: &str,
        findings: &mut Findings,
    ) -> Option<Self> {
        #[cfg(test)]
        opened::note(what, known);
        let entries = mapping(node, what, findings)?;
        for (key, value) in entries {
            if known.contains(&&*key.text) {
                if value.is_null() && key.text != nullable {
                    findings
                        .error(key, "empty_value", format!("`{}` has no value", key.text))
                        .help("give it a value or remove the key");
                }
            } else if !key.text.starts_with("x-") {
                unknown_key(key, what, known, findings);
            }
        }
        Some(Self { node, entries })
    }

    /// The value of a key; `None` also when it is null.
    pub(super) fn get(&self, name: &str) -> Option<&'n Node<'t>> {
        self.get_or_null(name).filter(|node| !node.is_null())
    }

    /// The value of a key, null or not.
    pub(super) fn get_or_null(&self, name: &str) -> Option<&'n Node<'t>> {
        self.entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// The key itself.
    pub(super) fn key(&self, name: &str) -> Option<&'n Key<'t>> {
        self.entries.iter().find(|(key, _)| key.text == name).map(|(key, _)| key)
    }

    /// Whether a key that is not known here stands for `name`, which [`Self::open`] has said.
    pub(super) fn misspells(&self, name: &'static str) -> bool {
        let means = |key: &str| nearest(key, [name].into_iter()).or_else(|| from_elsewhere(key, &[name])).is_some();
        self.entries.iter().any(|(key, _)| key.text != name && means(&key.text))
    }

    /// The value of a key that must be there.
    pub(super) fn require(&self, name: &'static str, what: &str, findings: &mut Findings) -> Option<&'n Node<'t>> {
        if self.get_or_null(name).is_none() {
            findings
                .error(self.node, "missing_key", format!("`{name}` is missing"))
                .below(name)
                .help(format!("add `{name}: …`: {what}"));
        }
        self.get(name)
    }

    /// At most one of `names` may be there; the second and later ones are reported. Gives the first.
    pub(super) fn at_most_one(
        &self,
        names: &[&'static str],
        findings: &mut Findings,
    ) -> Option<(&'static str, &'n Node<'t>)> {
        let mut written = names.iter().filter_map(|name| Some((*name, self.key(name)?)));
        let (first, _) = written.next()?;
        for (name, key) in written {
            findings
                .error(key, "conflicting_keys", format!("`{name}` and `{first}` cannot stand side by side"))
                .help("keep one of them");
        }
        Some((first, self.get(first)?))
    }

    pub(super) fn boolean(&self, name: &str, default: bool, findings: &mut Findings) -> bool {
        self.get(name).and_then(|node| read::boolean(node, findings)).unwrap_or(default)
    }

    pub(super) fn u32(&self, name: &str, least: u32, default: u32, findings: &mut Findings) -> u32 {
        self.u32_if_any(name, least, findings).unwrap_or(default)
    }

    pub(super) fn u32_if_any(&self, name: &str, least: u32, findings: &mut Findings) -> Option<u32> {
        let number = read::integer(self.get(name)?, u64::from(least)..=u64::from(u32::MAX), findings)?;
        u32::try_from(number).ok()
    }

    pub(super) fn usize(&self, name: &str, least: u32, default: usize, findings: &mut Findings) -> usize {
        self.u32_if_any(name, least, findings).map_or(default, |number| number as usize)
    }

    pub(super) fn percent(&self, name: &str, default: f64, findings: &mut Findings) -> f64 {
        self.get(name).and_then(|node| read::percent(node, findings)).unwrap_or(default)
    }

    /// A duration above zero.
    pub(super) fn duration(&self, name: &str, default: Duration, findings: &mut Findings) -> Duration {
        self.duration_if_any(name, findings).unwrap_or(default)
    }

    /// A duration above zero, when there is one.
    pub(super) fn duration_if_any(&self, name: &str, findings: &mut Findings) -> Option<Duration> {
        read::duration_above_zero(self.get(name)?, findings)
    }

    /// A duration that may be zero.
    pub(super) fn duration_or_zero(&self, name: &str, default: Duration, findings: &mut Findings) -> Duration {
        self.get(name).and_then(|node| read::duration_or_zero(node, findings)).unwrap_or(default)
    }

    pub(super) fn bytes(&self, name: &str, default: u64, findings: &mut Findings) -> u64 {
        self.bytes_if_any(name, findings).unwrap_or(default)
    }

    pub(super) fn bytes_if_any(&self, name: &str, findings: &mut Findings) -> Option<u64> {
        read::bytes(self.get(name)?, findings)
    }

    pub(super) fn text(&self, name: &str, what: &str, findings: &mut Findings) -> Option<&'n str> {
        read::text(self.get(name)?, what, findings)
    }

    pub(super) fn require_text(&self, name: &'static str, what: &str, findings: &mut Findings) -> Option<&'n str> {
        let node = self.require(name, what, findings)?;
        read::text(node, what, findings).filter(|text| not_blank(node, text, findings))
    }

    pub(super) fn one_of<T: Clone>(
        &self,
        name: &str,
        words: &[(&'static str, T)],
        default: T,
        findings: &mut Findings,
    ) -> T {
        self.get(name).and_then(|node| read::one_of(node, words, findings)).unwrap_or(default)
    }
}

fn not_blank(node: &Node<'_>, text: &str, findings: &mut Findings) -> bool {
    let blank = text.trim().is_empty();
    if blank {
        findings.error(node, "empty_value", "must not be blank");
    }
    !blank
}

/// The entries of a mapping, whatever their keys. `what` names it, such as "headers".
pub(super) fn mapping<'n, 't>(
    node: &'n Node<'t>,
    what: &str,
    findings: &mut Findings,
) -> Option<&'n [(Key<'t>, Node<'t>)]> {
    let found = match &node.value {
        Value::Map(entries) => return Some(entries),
        Value::Scalar { .. } if node.is_null() => {
            findings.error(node, "empty_value", format!("expected {what}, found nothing"));
            return None;
        }
        Value::Scalar { text, .. } => {
            let found =
                findings.error(node, "wrong_type", format!("expected {what}, a mapping, found `{}`", shown(text)));
            found.help("write `key: value` lines below it, with a blank after the colon");
            return None;
        }
        Value::List(_) => findings.error(node, "wrong_type", format!("expected {what}, a mapping, found a list")),
    };
    found.help("write `key: value` lines without dashes");
    None
}

fn unknown_key(key: &Key<'_>, what: &str, known: &[&'static str], findings: &mut Findings) {
    if findings.is_full() {
        findings.error(key, "unknown_key", "");
        return;
    }
    let glued = key.text.split_once(':').filter(|(name, _)| known.contains(name));
    let near = nearest(&key.text, known.iter().copied());
    let found = findings.error(key, "unknown_key", format!("{what} has no key `{}`", shown(&key.text)));
    if key.text.chars().any(|letter| letter.is_whitespace() && !letter.is_ascii()) {
        found.help("it holds blanks that are none to YAML, such as U+00A0: type them again as ordinary blanks");
    } else if let Some((name, value)) = glued {
        found.help("write a blank after the colon").suggest(format!("{name}: {value}"));
    } else if let Some(ours) = near.or_else(|| from_elsewhere(&key.text, known)) {
        found.help(format!("did you mean `{ours}`?")).suggest(ours);
    } else if let Some(home) = home(&key.text) {
        found.help(format!("`{}` belongs in {home}", key.text));
    } else if let Some((near, home)) = home_of_nearest(&key.text) {
        found.help(format!("did you mean `{near}`? It belongs in {home}"));
    } else if known.len() <= 24 {
        let all = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        found.help(format!("known keys: {all}; keys that start with `x-` are ignored"));
    }
}

/// Whether `text` can be an id: no blanks or control characters, not too long for a label.
pub(super) fn check_id(node: &impl Spot, text: &str, findings: &mut Findings) -> bool {
    let fault = id_fault(text);
    if let Some(fault) = &fault {
        findings.error(node, "bad_id", format!("`{}` cannot be an id", shown(text))).help(fault.clone());
    }
    fault.is_none()
}

/// What `text` would have to be for an id; `None`: it is one.
pub(super) fn id_fault(text: &str) -> Option<String> {
    const CHARS_MAX: usize = 200;
    let good = !text.is_empty()
        && text.chars().count() <= CHARS_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    (!good).then(|| format!("an id has 1 to {CHARS_MAX} characters and no blanks"))
}

/// One item of a list with ids.
#[derive(Debug)]
pub(super) struct Named<'n, 't> {
    pub(super) id: &'n str,
    pub(super) node: &'n Node<'t>,
}

/// A list of mappings with `id`, or a mapping from id to the rest. Items without an id are reported and left out.
pub(super) fn named<'n, 't>(node: &'n Node<'t>, what: &str, findings: &mut Findings) -> Vec<Named<'n, 't>> {
    match &node.value {
        Value::Map(entries) => entries
            .iter()
            .filter(|(key, node)| {
                if let Value::Map(inner) = &node.value
                    && let Some((id, _)) = inner.iter().find(|(inner, _)| inner.text == "id")
                {
                    findings
                        .error(id, "conflicting_keys", "the id is already written as the key of this mapping")
                        .help("remove `id` here");
                }
                !key.text.starts_with("x-") && check_id(key, &key.text, findings)
            })
            .map(|(key, node)| Named { id: &key.text, node })
            .collect(),
        Value::Scalar { .. } | Value::List(_) => {
            let items = read::list(node, what, findings).unwrap_or_default();
            let mut seen: HashMap<&str, u32> = HashMap::new();
            let mut named = Vec::new();
            for item in items {
                let Some(id_node) = item.get("id") else {
                    if mapping(item, "an item with an `id`", findings).is_some() {
                        findings
                            .error(item, "missing_key", "`id` is missing")
                            .below("id")
                            .help("add `id: …`: the name that others refer to");
                    }
                    continue;
                };
                let Some(id) = read::text(id_node, "an id", findings) else { continue };
                if !check_id(id_node, id, findings) {
                    continue;
                }
                if let Some(line) = seen.get(id) {
                    let message = format!("the id `{}` is used twice", shown(id));
                    findings.error(id_node, "duplicate_id", message).help(format!("the first one is on line {line}"));
                    continue;
                }
                seen.insert(id, id_node.span.line);
                named.push(Named { id, node: item });
            }
            named
        }
    }
}

/// Names of one kind that others refer to.
#[derive(Debug)]
pub(super) struct Names<'n> {
    /// Such as "pool".
    kind: &'static str,
    indexes: HashMap<&'n str, usize>,
    used: Vec<bool>,
}

impl<'n> Names<'n> {
    /// Names in the order of their indexes.
    pub(super) fn new(kind: &'static str, names: impl Iterator<Item = &'n str>) -> Self {
        let indexes: HashMap<_, _> = names.enumerate().map(|(index, name)| (name, index)).collect();
        Self { kind, used: vec![false; indexes.len()], indexes }
    }

    /// The index that a reference names; a missing one is reported with the nearest name.
    pub(super) fn find(&mut self, node: &Node<'_>, findings: &mut Findings) -> Option<usize> {
        let name = read::text(node, &format!("the id of a {}", self.kind), findings)?;
        if let Some(index) = self.indexes.get(name) {
            if let Some(used) = self.used.get_mut(*index) {
                *used = true;
            }
            return Some(*index);
        }
        let near = findings.nearest(name, self.indexes.keys().copied()).map(str::to_owned);
        let found = findings.error(node, "missing_reference", format!("there is no {} `{}`", self.kind, shown(name)));
        match &near {
            Some(near) => found.help(format!("did you mean `{near}`?")),
            None => found.help(format!("add a {} with this id", self.kind)),
        };
        // What was probably meant is not unused.
        let meant = near.as_deref().and_then(|near| self.index(near)).and_then(|index| self.used.get_mut(index));
        if let Some(used) = meant {
            *used = true;
        }
        found.suggest_any(near);
        None
    }

    /// The index of a name.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.indexes.get(name).copied()
    }

    /// Whether something refers to this index.
    pub(super) fn is_used(&self, index: usize) -> bool {
        self.used.get(index).copied().unwrap_or(false)
    }
}

/// Which mappings were opened with which keys, for the test that keeps the JSON Schema equal to the walkers.
#[cfg(test)]
pub(crate) mod opened {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static OPENED: RefCell<BTreeSet<(String, Vec<&'static str>)>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn note(what: &str, known: &[&'static str]) {
        OPENED.with_borrow_mut(|opened| opened.insert((what.to_owned(), known.to_vec())));
    }

    /// What this thread opened so far, keys sorted.
    pub(crate) fn take() -> BTreeSet<(String, Vec<&'static str>)> {
        let sorted = |(what, mut keys): (String, Vec<&'static str>)| {
            keys.sort_unstable();
            (what, keys)
        };
        OPENED.take().into_iter().map(sorted).collect()
    }
}
