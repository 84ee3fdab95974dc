//! What people may ask of a rollout, and when it is refused.

use thiserror::Error;

use super::{Machine, Rollout, Step, never_begun};
use crate::rollout::event::{Course, End, Reason, StageOpened, What};
use crate::rollout::record::Phase;
use crate::rollout::stage;

/// What a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// `None`: the rollout under way.
    pub(crate) revision: Option<u64>,
    /// Of the rollout, as the person saw it.
    pub(crate) state_version: Option<u64>,
    pub(crate) verb: Verb,
    pub(crate) actor: String,
    pub(crate) message: String,
}

/// The kinds of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Pause,
    Resume,
    Promote,
    Abort,
    Retry,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error("no rollout is under way")]
    NothingUnderWay,
    #[error("r{revision} has no rollout that is open")]
    NotOpen { revision: u64 },
    #[error("the rollout of r{revision} is at state version {now}, not {expected}: look again")]
    Moved { revision: u64, now: u64, expected: u64 },
    #[error("r{revision} waits for its turn: only abort is possible")]
    Queued { revision: u64 },
    #[error("r{revision} is going back already")]
    RollingBack { revision: u64 },
    #[error("r{revision} is paused: resume it first")]
    Paused { revision: u64 },
    #[error("r{revision} is not paused")]
    NotPaused { revision: u64 },
    #[error("r{revision} is not held")]
    NotHeld { revision: u64 },
    #[error("r{revision} is still being prepared")]
    Preparing { revision: u64 },
    #[error("no proxy of r{revision}'s next stage is connected")]
    NoProxy { revision: u64 },
}

impl Machine {
    pub(super) fn command(&mut self, step: &mut Step<'_>, command: &Command) -> Result<(), Refusal> {
        let revision = match command.revision {
            Some(revision) => revision,
            None => {
                self.under_way().or_else(|| self.rollouts.keys().next().copied()).ok_or(Refusal::NothingUnderWay)?
            }
        };
        let rollout = self.rollouts.get(&revision).ok_or(Refusal::NotOpen { revision })?;
        let record = &rollout.record;
        if let Some(expected) = command.state_version
            && expected != record.events
        {
            return Err(Refusal::Moved { revision, now: record.events, expected });
        }
        let actor = command.actor.clone();
        let what = match (command.verb, record.phase) {
            (_, Phase::Ended(_)) => return Err(Refusal::NotOpen { revision }),
            (_, Phase::RollingBack(_)) => return Err(Refusal::RollingBack { revision }),
            (Verb::Abort, Phase::Queued) => never_begun(revision, End::Aborted, &aborted(command)),
            (Verb::Abort, _) => {
                let reason = Reason { stage: rollout.stage_name(), ..aborted(command) };
                What::RollingBack { reason, end: End::Aborted, gates: rollout.look.gates.clone() }
            }
            (_, Phase::Queued) => return Err(Refusal::Queued { revision }),
            (Verb::Pause, _) if record.paused => return Ok(()),
            (Verb::Pause, _) => What::Paused { actor },
            (Verb::Resume, _) if !record.paused => return Err(Refusal::NotPaused { revision }),
            (Verb::Resume, _) => What::Resumed { actor },
            (Verb::Promote | Verb::Retry, _) if record.paused => return Err(Refusal::Paused { revision }),
            (Verb::Retry, _) if record.held.is_none() => return Err(Refusal::NotHeld { revision }),
            (Verb::Promote, Phase::Preparing) if record.held.is_none() => {
                return Err(Refusal::Preparing { revision });
            }
            (Verb::Promote, Phase::Preparing)
                if record.course != Course::First && self.world(step).alive().is_empty() =>
            {
                return Err(Refusal::NoProxy { revision });
            }
            (Verb::Promote, _) => What::Promoted { actor },
            (Verb::Retry, Phase::Preparing) => self.preparing(rollout, step),
            (Verb::Retry, Phase::FinalBake) => What::FinalBake,
            (Verb::Retry, Phase::Stage) => What::StageOpened(self.again(rollout, step)?),
        };
        if command.verb == Verb::Retry {
            self.write(step, revision, What::Retried { actor: command.actor.clone() });
        }
        self.write(step, revision, what);
        Ok(())
    }

    /// The stage that is open, opened again.
    fn again(&self, rollout: &Rollout, step: &Step<'_>) -> Result<StageOpened, Refusal> {
        let refusal = Refusal::NoProxy { revision: rollout.subject.revision.0 };
        let opened = &rollout.record.stage().ok_or(refusal.clone())?.opened;
        let alive = self.world(step).alive();
        stage::open(&rollout.subject, &rollout.record, step.live, &alive, opened.wave, opened.stage, self.sequence + 1)
            .filter(|again| again.wave == opened.wave)
            .ok_or(refusal)
    }
}

fn aborted(command: &Command) -> Reason {
    let why = if command.message.is_empty() { String::new() } else { format!(" ({})", command.message) };
    Reason { gate: "aborted".to_owned(), message: format!("aborted by {}{why}", command.actor), ..Reason::default() }
}
