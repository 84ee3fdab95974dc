//! What a watcher is told while a rollout moves: plain lines for a pipe, one line for each change of state or stage,
//! none twice. Pure: rollouts in, lines out; [`super::follow`] prints them.

use std::collections::HashSet;

use sealane_proto::v1::{Rollout, RolloutState, StageStatus};

use crate::paint::clean;
use crate::{duration, words};

/// What has been told so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Option<String>,
    /// Wave, stage and its state. Not the place in the list, which shifts when stages are merged.
    stages: HashSet<(String, String, String)>,
}

impl Progress {
    /// The lines that this state of the rollout adds. The same state again, as after a reconnect, adds none.
    pub(super) fn lines(&mut self, rollout: &Rollout) -> Vec<String> {
        let mut lines = Vec::new();
        for stage in &rollout.stages {
            // A restarted authority bakes a stage again; it is told once all the same.
            let key = (stage.wave.clone(), stage.name.clone(), stage.state.clone());
            if stage.state != "pending" && self.stages.insert(key) {
                lines.push(stage_line(rollout, stage));
            }
        }
        let state = state_line(rollout);
        let told = words::ends_watch(rollout.state()) || rollout.state() == RolloutState::Running;
        if !told && self.state.as_ref() != Some(&state) {
            lines.push(state.clone());
        }
        self.state = Some(state);
        lines
    }
}

/// One line for the state; of the running ones the stage lines say more.
fn state_line(rollout: &Rollout) -> String {
    let name = words::revision(rollout.revision);
    let state = words::state(rollout.state());
    match rollout.state() {
        RolloutState::Preparing => format!("{name} preparing on {}", words::proxies(rollout.proxies)),
        RolloutState::RollingBack => match &rollout.reason {
            Some(reason) => {
                format!("{name} rolling back to {}: {}", words::revision(rollout.last_good), words::reason(reason))
            }
            None => format!("{name} rolling back to {}", words::revision(rollout.last_good)),
        },
        RolloutState::Queued => format!("{name} queued behind the rollout under way"),
        RolloutState::Paused if !rollout.stage.is_empty() => {
            format!("{name} paused at stage {}", clean(&rollout.stage))
        }
        _ => format!("{name} {state}"),
    }
}

fn stage_line(rollout: &Rollout, stage: &StageStatus) -> String {
    let waves = rollout.stages.iter().any(|other| other.wave != stage.wave);
    let wave = if waves { format!("{}/", clean(&stage.wave)) } else { String::new() };
    let state = match stage.state.as_str() {
        "activating" => format!("activating on {}", words::proxies(stage.proxies)),
        "baking" => format!("baking {}", duration::show(duration::of_wire(stage.bake.as_ref()))),
        other => clean(other),
    };
    format!("{} stage {wave}{}: {state}", words::revision(rollout.revision), clean(&stage.name))
}

/// The same on one line that changes, for a terminal.
pub(super) fn live_line(rollout: &Rollout) -> String {
    let mut parts = vec![format!("{} {}", words::revision(rollout.revision), words::state(rollout.state()))];
    match rollout.state() {
        RolloutState::Preparing => parts.push(format!("{} of {} prepared", rollout.prepared, rollout.proxies)),
        RolloutState::Running => {
            let steps: Vec<String> = rollout.stages.iter().map(live_stage).collect();
            parts.push(steps.join(" › "));
            parts.push(format!("{} of {} active", rollout.active, rollout.proxies));
        }
        _ => parts.push(format!("{} of {} active", rollout.active, rollout.proxies)),
    }
    let judged = rollout
        .gates
        .iter()
        .filter(|gate| gate.sample > 0)
        .map(|gate| format!("{} {}", clean(&gate.gate), words::measure(&gate.gate, gate.value)));
    let judged: Vec<String> = judged.collect();
    if !judged.is_empty() {
        parts.push(judged.join(" "));
    }
    if !rollout.doing.is_empty() {
        parts.push(clean(&rollout.doing));
    }
    parts.join(" · ")
}

fn live_stage(stage: &StageStatus) -> String {
    let name = clean(&stage.name);
    match stage.state.as_str() {
        "passed" => format!("{name} ✓"),
        "failed" => format!("{name} ✗"),
        "baking" => format!(
            "[{name} {}/{}]",
            duration::show(duration::of_wire(stage.baked.as_ref())),
            duration::show(duration::of_wire(stage.bake.as_ref()))
        ),
        "activating" => format!("[{name} …]"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(state: RolloutState, stages: &[(&str, &str)]) -> Rollout {
        let stages = stages.iter().map(|(name, state)| StageStatus {
            wave: "all".into(),
            name: (*name).into(),
            state: (*state).into(),
            proxies: 1,
            bake: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
            ..Default::default()
        });
        let mut rollout =
            Rollout { revision: 42, last_good: 41, proxies: 6, stages: stages.collect(), ..Default::default() };
        rollout.set_state(state);
        rollout
    }

    #[test]
    fn a_line_for_each_change_and_none_twice() {
        let mut progress = Progress::default();
        let preparing = rollout(RolloutState::Preparing, &[("canary", "pending"), ("all", "pending")]);
        assert_eq!(progress.lines(&preparing), ["r42 preparing on 6 proxies"]);
        assert!(progress.lines(&Rollout { prepared: 3, ..preparing }).is_empty());
        let running = rollout(RolloutState::Running, &[("canary", "activating"), ("all", "pending")]);
        assert_eq!(progress.lines(&running), ["r42 stage canary: activating on 1 proxy"]);
        let baking = rollout(RolloutState::Running, &[("canary", "baking"), ("all", "pending")]);
        assert_eq!(progress.lines(&baking), ["r42 stage canary: baking 3s"]);
        // A restart of the authority: the stage begins again.
        assert!(progress.lines(&running).is_empty());
        assert!(progress.lines(&baking).is_empty());
        let paused = rollout(RolloutState::Paused, &[("canary", "baking"), ("all", "pending")]);
        assert_eq!(progress.lines(&paused), ["r42 paused"]);
        assert!(progress.lines(&baking).is_empty());
        assert_eq!(progress.lines(&paused), ["r42 paused"], "a second pause is news");
        let done = rollout(RolloutState::Completed, &[("canary", "passed"), ("all", "passed")]);
        assert_eq!(progress.lines(&done), ["r42 stage canary: passed", "r42 stage all: passed"]);
    }

    #[test]
    fn the_live_line_shows_the_open_stage() {
        let mut baking =
            rollout(RolloutState::Running, &[("canary", "passed"), ("half", "baking"), ("all", "pending")]);
        baking.active = 3;
        assert_eq!(live_line(&baking), "r42 running · canary ✓ › [half 0s/3s] › all · 3 of 6 active");
    }
}
