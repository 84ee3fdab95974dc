//! Sandbox routes in memory, found by id, by sandbox and pattern, and by when they end: an edit among many looks at none of
//! the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sealane_model::sandbox::SandboxRoute;

/// The routes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    by_id: BTreeMap<u64, Arc<SandboxRoute>>,
    /// By sandbox, then by pattern: ids.
    by_pattern: HashMap<String, HashMap<String, u64>>,
    /// Unix times in milliseconds, and ids, of those that end.
    ends: BTreeSet<(u64, u64)>,
}

impl Kept {
    /// All, by id.
    pub(super) fn routes(&self) -> impl Iterator<Item = &SandboxRoute> {
        self.by_id.values().map(|route| &**route)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn route(&self, id: u64) -> Option<&SandboxRoute> {
        self.by_id.get(&id).map(|route| &**route)
    }

    /// The route of this sandbox with this pattern.
    pub(super) fn find(&self, sandbox_id: &str, pattern: &str) -> Option<u64> {
        self.by_pattern.get(sandbox_id)?.get(pattern).copied()
    }

    /// Ids of a sandbox's routes.
    pub(super) fn of_sandbox(&self, sandbox_id: &str) -> Vec<u64> {
        self.by_pattern.get(sandbox_id).into_iter().flat_map(HashMap::values).copied().collect()
    }

    /// The Unix time in milliseconds at which the next one ends.
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.ends.first().map(|(at_ms, _)| *at_ms)
    }

    /// Ids of those whose time is over.
    pub(super) fn ended(&self, now_ms: u64) -> Vec<u64> {
        self.ends.range(..=(now_ms, u64::MAX)).map(|(_, id)| *id).collect()
    }

    pub(super) fn insert(&mut self, route: Arc<SandboxRoute>) {
        self.remove(route.id);
        self.by_pattern.entry(route.sandbox_id.clone()).or_default().insert(route.pattern.clone(), route.id);
        self.ends.extend(route.expires_at_ms.map(|at_ms| (at_ms, route.id)));
        self.by_id.insert(route.id, route);
    }

    pub(super) fn remove(&mut self, id: u64) {
        let Some(route) = self.by_id.remove(&id) else { return };
        if let Some(at_ms) = route.expires_at_ms {
            self.ends.remove(&(at_ms, id));
        }
        if let Some(patterns) = self.by_pattern.get_mut(&route.sandbox_id) {
            patterns.remove(&route.pattern);
            if patterns.is_empty() {
                self.by_pattern.remove(&route.sandbox_id);
            }
        }
    }
}

impl FromIterator<Arc<SandboxRoute>> for Kept {
    fn from_iter<I: IntoIterator<Item = Arc<SandboxRoute>>>(routes: I) -> Self {
        let mut kept = Self::default();
        routes.into_iter().for_each(|route| kept.insert(route));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(id: u64, sandbox_id: &str, pattern: &str, expires_at_ms: Option<u64>) -> Arc<SandboxRoute> {
        let (sandbox_id, pattern, target_url) = (sandbox_id.to_owned(), pattern.to_owned(), "http://a".to_owned());
        Arc::new(SandboxRoute { id, sandbox_id, pattern, target_url, priority: 100, expires_at_ms })
    }

    #[test]
    fn routes_are_found_by_id_pattern_and_end_and_nothing_is_left_of_one_that_goes() {
        let all = [route(1, "a", "^/x", None), route(2, "a", "^/y", Some(50)), route(3, "b", "^/x", Some(20))];
        let mut kept: Kept = all.into_iter().collect();
        assert_eq!((kept.find("a", "^/y"), kept.find("b", "^/x"), kept.find("b", "^/y")), (Some(2), Some(3), None));
        assert_eq!((kept.next_end_ms(), kept.ended(19), kept.ended(50)), (Some(20), vec![], vec![3, 2]));
        kept.remove(3);
        kept.remove(3);
        assert_eq!((kept.next_end_ms(), kept.of_sandbox("b"), kept.find("b", "^/x")), (Some(50), vec![], None));
        kept.insert(route(2, "a", "^/z", None));
        assert_eq!((kept.next_end_ms(), kept.find("a", "^/y"), kept.len()), (None, None, 2));
        [1, 2].into_iter().for_each(|id| kept.remove(id));
        assert!(kept.by_pattern.is_empty() && kept.routes().next().is_none() && kept.route(1).is_none());
    }
}
