//! Deliberate faults in the machine: a test plants them one by one and shows that the simulation finds each. Outside of
//! tests there are none.

/// What a broken machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It passes a stage whatever the gates say.
    PassesWithoutVerdict,
    /// It passes a stage before its bake is over.
    PassesBeforeItsBake,
    /// It lets the bake clock run while proxies are away or not ready.
    BakesUnhealthySeconds,
    /// It goes on while a person paused it.
    IgnoresAPause,
    /// It widens through a freeze.
    IgnoresAFreeze,
    /// It leaves a stage out.
    SkipsAStage,
    /// It takes everybody into the first stage.
    WidensAtOnce,
    /// It grants what a proxy refuses.
    IgnoresARefusal,
    /// It goes on although an agent took its proxies back.
    IgnoresALocalRollBack,
    /// After a restart it knows nothing of what was taken back.
    ForgetsWhatWasTakenBack,
    /// After a roll back its grants are good still.
    KeepsGrantsGood,
    /// It passes a first stage before anybody started from disk.
    SkipsTheColdStart,
}

#[cfg(test)]
impl Fault {
    /// Every fault.
    pub(super) const ALL: [Self; 12] = [
        Self::PassesWithoutVerdict,
        Self::PassesBeforeItsBake,
        Self::BakesUnhealthySeconds,
        Self::IgnoresAPause,
        Self::IgnoresAFreeze,
        Self::SkipsAStage,
        Self::WidensAtOnce,
        Self::IgnoresARefusal,
        Self::IgnoresALocalRollBack,
        Self::ForgetsWhatWasTakenBack,
        Self::KeepsGrantsGood,
        Self::SkipsTheColdStart,
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

    pub(crate) fn is(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// For this thread, until the next one.
    pub(crate) fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }
}
