//! What happened to a rollout. Stored as JSON, never changed; a rollout's state is the fold of its events.
//!
//! Fields are only added, with `#[serde(default)]`: a newer build must read what an older one wrote.

use std::collections::BTreeSet;

use sealane_model::gate::Judged;
use sealane_model::ids::{Digest, ProxyId};
use serde::{Deserialize, Serialize};

/// An event and when it happened (Unix milliseconds).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) at_ms: u64,
    /// Pieces of evidence that were there when it was decided.
    #[serde(default)]
    pub(crate) evidence: u64,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum What {
    /// It was published, and waits its turn.
    Queued {
        /// Prepare everywhere, then wait for `promote`.
        hold: bool,
        /// Stops what is under way instead of waiting behind it.
        supersede: bool,
        /// Goes on during a freeze.
        #[serde(default)]
        override_freeze: bool,
    },
    /// Every proxy of the set is to prepare it.
    Preparing {
        /// Proxies heard lately, at this moment.
        #[serde(with = "proxy_ids")]
        set: BTreeSet<ProxyId>,
        /// What proxies outside a cohort run, and go back to.
        stable: Option<Stable>,
        course: Course,
    },
    /// A stage was granted.
    StageOpened(StageOpened),
    /// It held its bake.
    StagePassed {
        why: String,
        gates: Vec<GateRecord>,
    },
    /// Every stage passed; the last look before it counts as last good.
    FinalBake,
    /// It is last good now.
    Completed {
        proxies: u32,
        active: u32,
        gates: Vec<GateRecord>,
        line: String,
    },
    /// It waits: for a person, or for what the reason names.
    Held {
        reason: Reason,
        gates: Vec<GateRecord>,
    },
    /// What it waited for came.
    Released {
        why: String,
    },
    /// A person took the stage that is open or held on their word.
    Promoted {
        actor: String,
    },
    /// A person starts what was held again.
    Retried {
        actor: String,
    },
    Paused {
        actor: String,
    },
    Resumed {
        actor: String,
    },
    /// Every proxy goes back to stable, and the digest is withdrawn.
    RollingBack {
        reason: Reason,
        end: End,
        gates: Vec<GateRecord>,
    },
    /// Everyone is back, or was waited for long enough.
    Ended {
        end: End,
        /// Proxies that did not say that they are back.
        #[serde(with = "proxy_ids")]
        missing: BTreeSet<ProxyId>,
        proxies: u32,
        active: u32,
        line: String,
    },
    /// A proxy cannot compile it; the digest is withdrawn. No traffic touched it.
    Rejected {
        reason: Reason,
        problems: Vec<NodeProblem>,
        line: String,
    },
}

/// A stage's opening, in the same transaction as its grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StageOpened {
    /// Index into the plan's waves.
    pub(crate) wave: usize,
    /// Index into the plan's stages.
    pub(crate) stage: usize,
    /// Later stages that add no proxy and are taken together with this one.
    pub(crate) merged: Vec<usize>,
    pub(crate) bake_ms: u64,
    /// Highest rank that may activate, inclusive.
    pub(crate) cut: u64,
    pub(crate) regions: Vec<String>,
    /// Of the grant.
    pub(crate) sequence: u64,
    /// Live proxies that the grants cover, at this moment.
    #[serde(with = "proxy_ids")]
    pub(crate) cohort: BTreeSet<ProxyId>,
}

/// The revision that counts as last good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stable {
    pub(crate) revision: u64,
    #[serde(with = "hex_digest")]
    pub(crate) digest: Digest,
}

/// How a rollout reaches everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Course {
    /// By the plan's stages and gates.
    Staged,
    /// Straight to all: there is nothing to compare with and nothing to go back to.
    First,
    /// Straight to all: earlier content again.
    Revert,
}

/// How a rollout that goes back ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    RolledBack,
    /// Some proxies did not say that they are back.
    RolledBackPartial,
    Aborted,
    Superseded,
}

/// Why a rollout stopped; see `sealane.v1.Reason`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reason {
    pub(crate) gate: String,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    pub(crate) sample: u64,
    pub(crate) stage: String,
    pub(crate) nodes: Vec<String>,
    /// One sentence, no full stop.
    pub(crate) message: String,
}

/// A gate as it was judged; see [`Judged`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GateRecord {
    pub(crate) gate: String,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    pub(crate) sample: u64,
    pub(crate) control_value: f64,
    pub(crate) control_sample: u64,
    #[serde(default)]
    pub(crate) bad: u64,
    #[serde(default)]
    pub(crate) control_bad: u64,
    #[serde(default)]
    pub(crate) detects: Option<f64>,
    #[serde(default)]
    pub(crate) wants: Option<f64>,
    #[serde(default)]
    pub(crate) weaker: bool,
    /// `pass`, `fail`, `suspect`, `environment`, `not_enough_data`
    pub(crate) outcome: String,
}

/// A refusal: which node, which key, which line; see `sealane.v1.NodeProblem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeProblem {
    pub(crate) node: String,
    pub(crate) agent: String,
    pub(crate) code: String,
    pub(crate) severity: String,
    pub(crate) message: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) end_column: u32,
    pub(crate) path: String,
    pub(crate) help: String,
    pub(crate) suggestion: Option<String>,
}

impl What {
    /// The `kind` of its JSON.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Preparing { .. } => "preparing",
            Self::StageOpened(_) => "stage_opened",
            Self::StagePassed { .. } => "stage_passed",
            Self::FinalBake => "final_bake",
            Self::Completed { .. } => "completed",
            Self::Held { .. } => "held",
            Self::Released { .. } => "released",
            Self::Promoted { .. } => "promoted",
            Self::Retried { .. } => "retried",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::RollingBack { .. } => "rolling_back",
            Self::Ended { .. } => "ended",
            Self::Rejected { .. } => "rejected",
        }
    }
}

impl Event {
    /// Without evidence.
    pub(crate) fn new(at_ms: u64, what: What) -> Self {
        Self { at_ms, evidence: 0, what }
    }

    /// For the store.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event has string keys and finite numbers")
    }

    /// From the store.
    pub(crate) fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl From<&Judged> for GateRecord {
    fn from(judged: &Judged) -> Self {
        Self {
            gate: judged.gate.clone(),
            value: finite(judged.value),
            limit: finite(judged.limit),
            sample: judged.sample,
            control_value: finite(judged.control_value),
            control_sample: judged.control_sample,
            bad: judged.bad,
            control_bad: judged.control_bad,
            detects: judged.detects,
            wants: judged.wants,
            weaker: judged.weaker,
            outcome: judged.outcome.as_str().to_owned(),
        }
    }
}

/// JSON has no infinities.
fn finite(number: f64) -> f64 {
    if number.is_finite() { number } else { f64::MAX }
}

mod proxy_ids {
    use super::{BTreeSet, ProxyId};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ids: &BTreeSet<ProxyId>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(|id| &id.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<ProxyId>, D::Error> {
        Ok(Vec::<String>::deserialize(deserializer)?.into_iter().map(ProxyId).collect())
    }
}

mod hex_digest {
    use super::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::from_hex(&text).ok_or_else(|| D::Error::custom("not a digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        let opened = Event {
            at_ms: 5,
            evidence: 3,
            what: What::StageOpened(StageOpened {
                wave: 0,
                stage: 1,
                merged: vec![2],
                bake_ms: 3_000,
                cut: u64::MAX,
                regions: vec!["*".into()],
                sequence: 7,
                cohort: [ProxyId("p".into())].into(),
            }),
        };
        let json = opened.to_json();
        assert!(json.contains(r#""kind":"stage_opened""#), "{json}");
        assert_eq!(Event::from_json(&json).unwrap(), opened);
        let preparing = Event {
            at_ms: 5,
            evidence: 0,
            what: What::Preparing {
                set: BTreeSet::new(),
                stable: Some(Stable { revision: 1, digest: Digest::of(b"x") }),
                course: Course::Staged,
            },
        };
        assert_eq!(Event::from_json(&preparing.to_json()).unwrap(), preparing);
    }
}
