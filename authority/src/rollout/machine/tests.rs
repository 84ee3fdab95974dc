//! The rules of a rollout, one by one, in a time that the tests make.

use std::collections::BTreeMap;

use sealane_model::plan::{OnNoData, Plan, StagePlan};
use sealane_proto::v1;

use super::*;
use crate::rollout::record::Outcome;
use crate::rollout::stage;

/// A proxy as a test wants it reported.
#[derive(Clone, Debug, Default)]
struct Proxy {
    active: u64,
    prepared: u64,
    refuses: u64,
    silent_ms: u64,
    not_ready: bool,
    /// Its stream to its agent has ended.
    detached: bool,
    draining: bool,
    deaths: u32,
    /// Started from disk once more, and why that did not work.
    rehearsed: u64,
    rehearsal_problem: &'static str,
    /// By revision: requests, failed.
    counts: BTreeMap<u64, (u64, u64)>,
}

struct Bench {
    machine: Machine,
    live: Live,
    now_ms: u64,
    proxies: BTreeMap<String, Proxy>,
    subjects: BTreeMap<u64, Arc<Subject>>,
    /// Every event, with its revision.
    events: Vec<(u64, What)>,
    /// Proxies do what they are told.
    obedient: bool,
}

fn digest(revision: u64) -> Digest {
    Digest::of(&revision.to_be_bytes())
}

fn plan() -> Plan {
    let stage = |name: &str, fleet_percent, bake| StagePlan {
        name: name.into(),
        fleet_percent,
        bake: Duration::from_secs(bake),
    };
    Plan {
        stages: vec![stage("canary", 10.0, 20), stage("half", 50.0, 10), stage("all", 100.0, 0)],
        requests_min: 100,
        final_bake: Duration::from_secs(10),
        progress_deadline: Duration::from_secs(300),
        ..Plan::default()
    }
}

impl Bench {
    /// A fleet on r1.
    fn new(proxies: &[&str]) -> Self {
        let now_ms = 1_000_000;
        let mut bench = Self {
            machine: Machine::remember(Timing::default(), Remembered::default(), now_ms),
            live: Live::default(),
            now_ms,
            proxies: proxies.iter().map(|id| ((*id).to_owned(), Proxy::default())).collect(),
            subjects: BTreeMap::new(),
            events: Vec::new(),
            obedient: true,
        };
        bench.offer(1, plan(), ChangeClass::Standard, false);
        bench.run(3);
        assert_eq!(bench.machine.stable().map(|stable| stable.revision), Some(1), "{:?}", bench.events);
        bench.events.clear();
        bench
    }

    fn offer(&mut self, revision: u64, plan: Plan, class: ChangeClass, hold: bool) {
        let subject = Arc::new(Subject {
            revision: Revision(revision),
            epoch: Epoch(1),
            digest: digest(revision),
            plan,
            class,
            author: String::new(),
            message: String::new(),
        });
        self.subjects.insert(revision, Arc::clone(&subject));
        let queued = Event::new(self.now_ms, What::Queued { hold, supersede: false, override_freeze: false });
        self.report();
        self.step(Input::Offer { subject, queued });
    }

    fn publish(&mut self, plan: Plan) {
        self.offer(2, plan, ChangeClass::Standard, false);
    }

    fn step(&mut self, input: Input) {
        for action in self.machine.step(self.now_ms, &self.live, input).unwrap() {
            if let Action::Record { revision, event, .. } = action {
                self.events.push((revision, event.what));
            }
        }
    }

    fn command(&mut self, verb: Verb) -> Result<(), Refusal> {
        let command =
            Command { revision: None, state_version: None, verb, actor: "ada".into(), message: String::new() };
        for action in self.machine.step(self.now_ms, &self.live, Input::Command(command))? {
            if let Action::Record { revision, event, .. } = action {
                self.events.push((revision, event.what));
            }
        }
        Ok(())
    }

    /// So many seconds, with a report and a look in each.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now_ms += 1_000;
            if self.obedient {
                self.obey();
            }
            self.report();
            self.step(Input::Tick);
        }
    }

    fn obey(&mut self) {
        let stable = self.machine.stable().map_or(0, |stable| stable.revision);
        let current = self.machine.current().cloned();
        for (id, proxy) in &mut self.proxies {
            let mut target = stable;
            if let Some(current) = &current {
                let is_offered = matches!(current.record.phase, Phase::Preparing | Phase::Stage | Phase::FinalBake);
                let id = sealane_model::ids::ProxyId(id.clone());
                if is_offered {
                    proxy.prepared = current.subject.revision.0;
                    if stage::covers(&current.subject, &current.record, &self.live, &id, "eu") {
                        target = current.subject.revision.0;
                    }
                }
            }
            proxy.active = target;
            let (requests, _) = proxy.counts.entry(target).or_default();
            *requests += 50;
        }
    }

    fn report(&mut self) {
        let bytes = |revision: u64| if revision == 0 { Vec::new() } else { digest(revision).to_vec() };
        let status = |(id, proxy): (&String, &Proxy)| v1::ProxyStatus {
            proxy_id: id.clone(),
            instance: "one".into(),
            silent_ms: proxy.silent_ms,
            attached: !proxy.detached,
            ready: !proxy.not_ready,
            draining: proxy.draining,
            active_digest: bytes(proxy.active),
            prepared_digest: bytes(proxy.prepared),
            refused_digest: bytes(proxy.refuses),
            deaths: proxy.deaths,
            rehearsed_digest: bytes(proxy.rehearsed),
            rehearsal_problem: proxy.rehearsal_problem.to_owned(),
            counts: proxy
                .counts
                .iter()
                .filter(|(revision, _)| **revision > 0)
                .map(|(revision, (requests, failed))| v1::RevisionCounts {
                    revision: *revision,
                    release_digest: bytes(*revision),
                    requests: *requests,
                    failed: *failed,
                    latency_bucket: vec![20],
                    latency_count: vec![*requests],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let report = v1::ReportRequest {
            agent_id: "a".into(),
            instance: "one".into(),
            state_version: self.machine.version(),
            proxies: self.proxies.iter().map(status).collect(),
            ..Default::default()
        };
        self.live.hear(self.now_ms, &report, Some("eu")).unwrap();
    }

    /// The proxy that goes first.
    fn canary(&self) -> String {
        let subject = &self.subjects[&2];
        let rank = |id: &&String| subject.rank(&sealane_model::ids::ProxyId((*id).clone()));
        self.proxies.keys().min_by_key(rank).unwrap().clone()
    }

    fn proxy(&mut self, id: &str) -> &mut Proxy {
        self.proxies.get_mut(id).unwrap()
    }

    fn record(&self) -> &Record {
        &self.machine.rollouts().find(|one| one.subject.revision.0 == 2).unwrap().record
    }

    fn held(&self) -> Option<&str> {
        self.record().held.as_ref().map(|reason| reason.gate.as_str())
    }

    fn happened(&self, kind: &str) -> usize {
        self.events.iter().filter(|(revision, what)| *revision == 2 && what.kind() == kind).count()
    }
}

const SIX: &[&str] = &["p1", "p2", "p3", "p4", "p5", "p6"];

#[test]
fn a_stage_passes_after_its_bake_and_not_before() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(18);
    assert_eq!((bench.happened("stage_opened"), bench.happened("stage_passed")), (1, 0));
    bench.run(6);
    assert_eq!((bench.happened("stage_opened"), bench.happened("stage_passed")), (2, 1));
    bench.run(60);
    assert_eq!(bench.happened("completed"), 1, "{:?}", bench.events);
}

#[test]
fn the_bake_clock_stands_still_while_a_cohort_proxy_is_not_heard() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    let canary = bench.canary();
    bench.proxy(&canary).silent_ms = 10_000;
    bench.run(40);
    assert_eq!(bench.happened("stage_passed"), 0, "unknown is not healthy");
    bench.proxy(&canary).silent_ms = 0;
    bench.run(20);
    assert_eq!(bench.happened("stage_passed"), 1);
}

#[test]
fn the_bake_clock_stands_still_at_once_when_a_canarys_stream_ends() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    let canary = bench.canary();
    // Killed: it was heard a moment ago, and its agent knows that it is gone.
    bench.proxy(&canary).detached = true;
    bench.run(40);
    assert_eq!(bench.happened("stage_passed"), 0, "a dead canary passes nothing on its last word");
    bench.proxy(&canary).detached = false;
    bench.run(20);
    assert_eq!(bench.happened("stage_passed"), 1);
}

#[test]
fn a_silent_canary_holds_the_rollout_until_it_returns() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    let canary = bench.canary();
    bench.proxy(&canary).silent_ms = 61_000;
    bench.run(62);
    assert_eq!(bench.held(), Some("silence"));
    assert_eq!(bench.record().held.as_ref().unwrap().nodes, std::slice::from_ref(&canary));
    bench.proxy(&canary).silent_ms = 0;
    bench.run(60);
    assert_eq!(bench.happened("completed"), 1);
}

#[test]
fn one_refusal_rejects_it_and_nothing_was_granted() {
    let mut bench = Bench::new(SIX);
    bench.proxy("p4").refuses = 2;
    bench.publish(plan());
    bench.run(2);
    assert_eq!((bench.happened("rejected"), bench.happened("stage_opened")), (1, 0));
    assert_eq!(bench.record().problems[0].node, "p4");
    assert!(bench.machine.withdrawn().any(|one| one == digest(2)));
}

#[test]
fn too_many_absent_proxies_hold_it_and_one_may_be_absent() {
    let mut bench = Bench::new(SIX);
    bench.obedient = false;
    bench.publish(plan());
    for id in SIX {
        bench.proxy(id).prepared = 2;
    }
    for id in ["p1", "p2"] {
        *bench.proxy(id) = Proxy { silent_ms: 61_000, active: 1, ..Proxy::default() };
    }
    bench.run(59);
    assert_eq!((bench.held(), bench.happened("stage_opened")), (None, 0));
    bench.run(3);
    assert_eq!(bench.held(), Some("absent"));
    bench.proxy("p2").silent_ms = 0;
    bench.proxy("p2").prepared = 2;
    bench.run(2);
    assert_eq!((bench.held(), bench.happened("stage_opened")), (None, 1), "one of six may be absent");
}

#[test]
fn a_later_revision_without_proxies_waits_and_is_held_at_the_deadline() {
    let mut bench = Bench::new(&[]);
    bench.publish(plan());
    bench.run(299);
    assert_eq!((bench.held(), bench.happened("completed")), (None, 0));
    bench.run(2);
    assert_eq!(bench.held(), Some("deadline"));
    assert_eq!(bench.command(Verb::Promote), Err(Refusal::NoProxy { revision: 2 }));
    bench.proxies.insert("p1".into(), Proxy::default());
    bench.run(1);
    bench.command(Verb::Retry).unwrap();
    bench.run(60);
    assert_eq!(bench.happened("completed"), 1, "{:?}", bench.events);
}

#[test]
fn a_breach_on_both_sides_is_the_environment_and_holds() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    for id in SIX {
        for (_, failed) in bench.proxy(id).counts.values_mut() {
            *failed += 200;
        }
    }
    bench.run(1);
    assert_eq!(bench.held(), Some("environment"));
    assert_eq!(bench.happened("rolling_back"), 0);
}

#[test]
fn a_breach_on_the_canary_alone_takes_it_back_at_once() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(6);
    let canary = bench.canary();
    bench.proxy(&canary).counts.get_mut(&2).unwrap().1 += 40;
    bench.run(1);
    assert_eq!(bench.happened("rolling_back"), 1);
    let reason = bench.record().reason.clone().unwrap();
    assert_eq!((reason.gate.as_str(), reason.nodes.as_slice()), ("error_rate", &[canary][..]));
    bench.run(2);
    assert_eq!(bench.happened("ended"), 1);
    assert_eq!(bench.machine.sequence_min(), bench.record().sequence().unwrap() + 1, "its grants are void");
}

#[test]
fn failures_of_before_the_stage_do_not_count() {
    let mut bench = Bench::new(SIX);
    for id in SIX {
        bench.proxy(id).counts.insert(2, (1_000, 900));
    }
    bench.publish(plan());
    bench.run(10);
    assert_eq!(bench.happened("rolling_back"), 0, "counted from the stage's opening");
}

#[test]
fn a_proxy_that_dies_twice_takes_it_back() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    let canary = bench.canary();
    bench.proxy(&canary).deaths = 1;
    bench.run(2);
    assert_eq!(bench.happened("rolling_back"), 0, "one more try");
    bench.proxy(&canary).deaths = 2;
    bench.run(1);
    assert_eq!(bench.record().reason.as_ref().unwrap().gate, "death");
}

#[test]
fn a_proxy_that_does_not_take_it_on_holds_it() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(2);
    bench.obedient = false;
    let canary = bench.canary();
    bench.proxy(&canary).active = 1;
    bench.run(62);
    assert_eq!(bench.held(), Some("not_confirmed"));
    bench.obedient = true;
    bench.run(40);
    assert!(bench.happened("stage_passed") >= 1);
}

#[test]
fn the_next_proxy_takes_over_when_the_only_canary_leaves() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    let canary = bench.canary();
    bench.proxy(&canary).draining = true;
    bench.run(1);
    assert_eq!(bench.held(), Some("canary_left"));
    bench.proxies.remove(&canary);
    bench.run(2);
    assert_eq!((bench.held(), bench.happened("stage_opened")), (None, 2));
    let stages = &bench.record().stages;
    assert_eq!((stages.len(), stages[0].outcome), (1, Outcome::Open), "the same stage again");
    bench.run(80);
    assert_eq!(bench.happened("completed"), 1);
}

#[test]
fn silence_does_what_the_plan_says_at_the_deadline() {
    for (on_no_data, kind) in
        [(OnNoData::Hold, "held"), (OnNoData::Proceed, "stage_passed"), (OnNoData::Rollback, "rolling_back")]
    {
        let mut bench = Bench::new(SIX);
        bench.publish(Plan { on_no_data, requests_min: 1_000_000, ..plan() });
        bench.run(290);
        assert_eq!(bench.happened(kind), 0, "{on_no_data:?}");
        bench.run(20);
        assert_eq!(bench.happened(kind), 1, "{on_no_data:?}");
    }
}

#[test]
fn an_expedited_revision_has_a_fifth_of_the_bakes_and_the_same_guards() {
    use sealane_model::envelope::Envelope;
    use sealane_model::ids::FleetId;
    use sealane_model::keys::SigningKey;
    use sealane_model::release::{Partition, Release};
    use sealane_model::trust::{RootDocument, TrustRoot};
    let key = SigningKey::from_entropy([7; 32]);
    let fleet = FleetId("fleet".into());
    let root: Envelope = RootDocument::single_key(fleet.clone(), &key.public(), 0).sign(&[&key]);
    let release = Release {
        fleet,
        epoch: Epoch(1),
        revision: Revision(2),
        partition: Partition::Config,
        manifest_digest: digest(9),
        manifest_bytes: 1,
        base: None,
        capabilities: Vec::new(),
        schema_min: 1,
        schema_max: 1,
        plan: plan(),
        change_class: ChangeClass::Expedited,
        author: String::new(),
        message: String::new(),
        created_at_unix_ms: 0,
        producer: String::new(),
    };
    let signed = release.sign(&[&key]);
    let verified = TrustRoot::pinned(&root).unwrap().verify_release(&signed).unwrap();
    let subject = Subject::of(&verified);
    assert_eq!(subject.plan.stages[0].bake, Duration::from_secs(4));
    assert_eq!(subject.plan.final_bake, Duration::from_secs(2));
    assert_eq!(subject.plan.gates, plan().gates);
}

#[test]
fn a_revert_goes_straight_to_all_and_completes_when_everyone_confirmed() {
    let mut bench = Bench::new(SIX);
    bench.offer(2, plan(), ChangeClass::Revert, false);
    bench.run(3);
    assert_eq!((bench.happened("stage_opened"), bench.happened("completed")), (1, 1));
    assert_eq!(bench.record().stages[0].opened.cut, u64::MAX);
}

#[test]
fn a_roll_back_that_some_never_answer_ends_after_a_minute_and_names_them() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    let canary = bench.canary();
    bench.command(Verb::Abort).unwrap();
    bench.obedient = false;
    bench.proxy(&canary).silent_ms = 5_000;
    bench.run(4);
    bench.proxies.remove(&canary);
    bench.run(50);
    assert_eq!(bench.happened("ended"), 0);
    bench.run(10);
    let line = &bench.record().line;
    assert!(
        line.starts_with("ABORTED r2 → r1 after ") && line.ends_with(&format!("({})", not_heard(&canary))),
        "{line}"
    );
}

fn not_heard(canary: &str) -> String {
    format!("not heard from since: {canary}")
}

#[test]
fn a_guard_goes_before_a_promote() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(6);
    let canary = bench.canary();
    bench.proxy(&canary).counts.get_mut(&2).unwrap().1 += 40;
    bench.report();
    bench.command(Verb::Promote).unwrap();
    assert_eq!((bench.happened("rolling_back"), bench.happened("promoted")), (1, 0));
}

#[test]
fn a_held_publish_is_prepared_and_granted_to_nobody() {
    let mut bench = Bench::new(SIX);
    bench.offer(2, plan(), ChangeClass::Standard, true);
    bench.run(100);
    assert_eq!((bench.held(), bench.happened("stage_opened")), (Some("hold"), 0));
    bench.command(Verb::Promote).unwrap();
    bench.run(80);
    assert_eq!(bench.happened("completed"), 1);
}

#[test]
fn a_late_joiner_computes_its_own_side() {
    let mut bench = Bench::new(SIX);
    bench.publish(plan());
    bench.run(5);
    for index in 0..20 {
        bench.proxies.insert(format!("new-{index}"), Proxy::default());
    }
    bench.run(3);
    let cut = bench.record().stages[0].opened.cut;
    let subject = Arc::clone(&bench.subjects[&2]);
    for (id, proxy) in &bench.proxies {
        let below = subject.rank(&sealane_model::ids::ProxyId(id.clone())) <= cut;
        assert_eq!(proxy.active == 2, below, "{id}");
    }
}

fn freeze(from_ms: u64, until_ms: u64) -> crate::fleet::Freeze {
    crate::fleet::Freeze {
        id: "f1".into(),
        from_ms,
        until_ms,
        reason: "sale day".into(),
        actor: "ada".into(),
        created_ms: from_ms,
    }
}

#[test]
fn a_freeze_lets_nothing_widen_and_never_holds_a_roll_back() {
    let mut bench = Bench::new(SIX);
    bench.live.set_freezes(vec![freeze(bench.now_ms, bench.now_ms + 60_000)]);
    bench.publish(plan());
    bench.run(50);
    assert_eq!((bench.happened("preparing"), bench.happened("stage_opened")), (1, 0));
    assert!(bench.machine.current().unwrap().view().doing.contains("sale day"));
    bench.run(15);
    assert_eq!(bench.happened("stage_opened"), 1, "it is over");
    bench.live.set_freezes(vec![freeze(bench.now_ms, bench.now_ms + 600_000)]);
    bench.run(60);
    assert_eq!((bench.happened("stage_passed"), bench.happened("stage_opened")), (1, 1), "no further");
    bench.command(Verb::Abort).unwrap();
    bench.run(3);
    assert_eq!(bench.happened("ended"), 1, "going back asks no freeze");
}

#[test]
fn a_revert_and_a_change_for_an_incident_do_not_wait_for_a_freeze() {
    for (class, override_freeze) in [(ChangeClass::Revert, false), (ChangeClass::Expedited, true)] {
        let mut bench = Bench::new(SIX);
        bench.live.set_freezes(vec![freeze(bench.now_ms, bench.now_ms + 600_000)]);
        let subject = Arc::new(Subject {
            revision: Revision(2),
            epoch: Epoch(1),
            digest: digest(2),
            plan: plan(),
            class,
            author: String::new(),
            message: String::new(),
        });
        bench.subjects.insert(2, Arc::clone(&subject));
        let what = What::Queued { hold: false, supersede: false, override_freeze };
        let queued = Event::new(bench.now_ms, what);
        bench.step(Input::Offer { subject, queued });
        bench.run(100);
        assert_eq!(bench.happened("completed"), 1, "{class:?}");
    }
}

fn cold() -> Plan {
    Plan { cold_start_gate: true, ..plan() }
}

#[test]
fn the_first_stage_waits_for_a_canary_that_started_from_disk() {
    let mut bench = Bench::new(SIX);
    bench.publish(cold());
    bench.run(40);
    assert_eq!((bench.happened("stage_passed"), bench.happened("stage_opened")), (0, 1));
    assert!(bench.machine.current().unwrap().view().doing.contains("start from disk"));
    let canary = bench.canary();
    bench.proxy(&canary).rehearsed = 2;
    bench.run(80);
    assert_eq!(bench.happened("completed"), 1, "{:?}", bench.events);
}

#[test]
fn a_canary_that_would_not_start_from_disk_takes_it_back() {
    let mut bench = Bench::new(SIX);
    bench.publish(cold());
    bench.run(6);
    let canary = bench.canary();
    *bench.proxy(&canary) =
        Proxy { rehearsed: 2, rehearsal_problem: "a chunk is missing", active: 2, prepared: 2, ..Proxy::default() };
    bench.run(1);
    let reason = bench.record().reason.clone().unwrap();
    assert_eq!((reason.gate.as_str(), reason.nodes.as_slice()), ("cold_start", &[canary][..]));
    assert!(reason.message.contains("a chunk is missing"), "{}", reason.message);
}
