//! Deliberate faults in the machine: a test plants them one by one and shows that the simulation finds each. Outside of
//! tests there are none.

/// What a broken machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It moves proxies that no grant covers.
    NeedsNoGrant,
    /// It forgets that it took its proxies back.
    ForgetsItsRollBack,
    /// It goes on with what was withdrawn.
    ForgetsWhatWasWithdrawn,
    /// It widens while the rollout is paused, the authority is away, or what it knows is stale.
    WidensWhileFrozen,
    /// It opens a stage before the one before has baked as the plan floor says.
    IgnoresThePlanFloor,
    /// It moves all its proxies at once.
    MovesAllAtOnce,
    /// It numbers two commands alike.
    RepeatsAGeneration,
}

#[cfg(test)]
impl Fault {
    /// Every fault.
    pub(super) const ALL: [Self; 7] = [
        Self::NeedsNoGrant,
        Self::ForgetsItsRollBack,
        Self::ForgetsWhatWasWithdrawn,
        Self::WidensWhileFrozen,
        Self::IgnoresThePlanFloor,
        Self::MovesAllAtOnce,
        Self::RepeatsAGeneration,
    ];
}

#[cfg(not(test))]
pub(super) const fn is(_: Fault) -> bool {
    false
}

#[cfg(test)]
pub(super) use planted::{is, plant};

#[cfg(test)]
mod planted {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(in super::super) fn is(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// For this thread, until the next one.
    pub(in super::super) fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }
}
