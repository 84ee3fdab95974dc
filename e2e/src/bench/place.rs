//! Which CPUs a thread runs on: a proxy has one for itself, and what drives it has the others, so that what one costs does
//! not depend on what the other does to its caches.

use std::io;

/// CPUs; none: any.
#[derive(Clone, Debug, Default)]
pub struct Place(#[cfg(target_os = "linux")] Option<rustix::thread::CpuSet>);

impl Place {
    /// One for a proxy, and those for the load and the origin. Both are any CPU on a machine that has but one.
    #[must_use]
    pub fn apart() -> (Self, Self) {
        #[cfg(target_os = "linux")]
        if let Ok(all) = rustix::thread::sched_getaffinity(None)
            && all.count() >= 2
            && let Some(first) = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu))
        {
            let (mut one, mut others) = (rustix::thread::CpuSet::new(), all);
            one.set(first);
            others.unset(first);
            return (Self(Some(one)), Self(Some(others)));
        }
        (Self::default(), Self::default())
    }

    /// Whether it is some CPUs and not any.
    #[must_use]
    pub fn is_some(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.0.is_some();
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// The thread that calls goes there. Best effort: figures are rougher without.
    pub fn enter(&self) {
        #[cfg(target_os = "linux")]
        if let Some(cpus) = &self.0 {
            let _ = rustix::thread::sched_setaffinity(None, cpus);
        }
    }

    /// What `start` starts runs there; the thread that calls does not stay.
    ///
    /// # Errors
    /// Those of `start`.
    pub fn within<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        #[cfg(target_os = "linux")]
        let before = rustix::thread::sched_getaffinity(None).ok();
        self.enter();
        let started = start();
        #[cfg(target_os = "linux")]
        Self(before).enter();
        started
    }
}
