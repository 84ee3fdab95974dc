//! Thousands of random schedules against the machine: reports lost and late, restarts at any point, nacks, silent and
//! dying canaries, bad gates, people who press every button, proxies that join.
//!
//! A failing seed is printed; `ROLLOUT_SEED=<seed>` plays it alone, `ROLLOUT_SEEDS=<count>` plays more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sealane_model::gate::{self, Verdict};
use sealane_model::ids::{Digest, Epoch, ProxyId, Revision};
use sealane_model::plan::{OnNoData, Plan, StagePlan, Wave};
use sealane_model::release::ChangeClass;
use sealane_proto::v1;

use super::event::{Course, Event, What};
use super::fault::{self, Fault};
use super::machine::{Action, Command, Input, Machine, Remembered, Timing, Verb, millis};
use super::record::Record;
use super::subject::Subject;
use crate::fleet::{Freeze, Live};

mod cast;
mod healthy;

use cast::{Agent, Desired, Dice, Disk, Nature, Proxy};
use healthy::Healthy;

/// Schedules that are played when nobody says how many.
const SCHEDULES: u64 = 2_000;
/// Schedules within which a planted fault must be found.
const FAULT_SCHEDULES: u64 = 300;
/// Ticks of a schedule in which anything may go wrong, and of the calm in which everything must end.
const STORM_TICKS: u64 = 120;
const CALM_TICKS: u64 = 400;

struct World {
    dice: Dice,
    now_ms: u64,
    machine: Machine,
    live: Live,
    disk: Disk,
    agents: Vec<Agent>,
    natures: BTreeMap<u64, Nature>,
    timing: Timing,
    /// Healthy time that the open phase has had, as anybody can see: the most that a bake may count.
    healthy: Healthy,
    storm: bool,
    /// Until then every proxy fails, whatever it serves.
    trouble_until: u64,
    /// Revisions that somebody reported to start from disk.
    rehearsed: BTreeSet<Digest>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let timing = Timing::default();
        let regions = ["eu", "us", "asia"];
        let agents = (0..=dice.below(3))
            .map(|index| Agent {
                id: format!("agent-{index}"),
                region: regions[dice.below(3) as usize].to_owned(),
                proxies: (0..dice.below(5))
                    .map(|proxy| Proxy { id: format!("p{index}-{proxy}"), instance: 1, ..Proxy::default() })
                    .collect(),
                ..Agent::default()
            })
            .collect();
        Self {
            dice,
            now_ms: 1_000_000,
            machine: Machine::remember(timing, Remembered::default(), 1_000_000),
            live: Live::default(),
            disk: Disk::default(),
            agents,
            natures: BTreeMap::new(),
            timing,
            healthy: Healthy::since(1_000_000),
            storm: true,
            trouble_until: 0,
            rehearsed: BTreeSet::new(),
        }
    }

    fn play(&mut self) {
        for _ in 0..STORM_TICKS {
            self.tick();
            match self.dice.below(100) {
                0..4 => self.publish(),
                4..7 => self.press(),
                7..9 => self.restart(),
                9 => self.join(),
                10 => self.leave(),
                _ => {}
            }
        }
        self.storm = false;
        self.trouble_until = 0;
        self.natures.values_mut().for_each(|nature| *nature = Nature::default());
        for agent in &mut self.agents {
            agent.away_until = 0;
            agent.proxies.iter_mut().for_each(|proxy| proxy.silent_until = 0);
        }
        for _ in 0..CALM_TICKS {
            if self.machine.current().is_none() {
                break;
            }
            self.tick();
            self.help();
        }
        let open: Vec<u64> = self.machine.current().iter().map(|one| one.subject.revision.0).collect();
        let has_proxies = self.agents.iter().any(|agent| !agent.proxies.is_empty());
        if !open.is_empty() && has_proxies {
            let current = self.machine.current().unwrap();
            panic!("r{open:?} never ended: {:#?} {:#?} {:#?}", current.view(), self.agents, self.now_ms);
        }
    }

    /// One second: agents hear, proxies work, reports arrive, the machine looks.
    fn tick(&mut self) {
        self.now_ms += 1_000;
        let desired = self.desired();
        for at in 0..self.agents.len() {
            let is_away = self.agents[at].away_until > self.now_ms;
            let is_deaf = self.storm && self.dice.percent(20);
            if !is_away && !is_deaf {
                self.agents[at].desired = desired.clone();
            }
            self.work(at);
            if is_away || self.storm && self.dice.percent(15) {
                continue;
            }
            let report = self.report(at);
            let good = self.agents[at].proxies.iter().filter_map(|proxy| proxy.rehearsed.filter(|(_, good)| *good));
            self.rehearsed.extend(good.map(|(digest, _)| digest));
            let region = self.agents[at].region.clone();
            self.live.hear(self.now_ms, &report, Some(&region)).unwrap();
            if !self.storm {
                continue;
            }
            // The network: a report comes twice, or one comes after a newer one.
            if self.dice.percent(5) {
                self.live.hear(self.now_ms, &report, Some(&region)).unwrap();
            }
            if self.dice.percent(10) {
                let late = self.agents[at].late.replace(report);
                if let Some(late) = late {
                    self.live.hear(self.now_ms, &late, Some(&region)).unwrap();
                }
            }
        }
        if self.storm && self.dice.percent(1) {
            // The machine's clock jumps ahead, as after a suspend; it never goes back.
            self.now_ms += self.dice.below(90_000);
        }
        if self.storm && self.dice.percent(2) {
            let until_ms = self.now_ms + self.dice.below(20_000);
            self.live.set_freezes(vec![Freeze {
                id: "f1".into(),
                from_ms: self.now_ms,
                until_ms,
                reason: "storm".into(),
                actor: "someone".into(),
                created_ms: self.now_ms,
            }]);
        }
        if self.storm && self.dice.percent(2) {
            let at = self.dice.below(self.agents.len() as u64) as usize;
            self.agents[at].away_until = self.now_ms + self.dice.below(150_000);
        }
        if self.storm && self.dice.percent(1) {
            // A whole region is cut off.
            let region = self.agents[self.dice.below(self.agents.len() as u64) as usize].region.clone();
            let until_ms = self.now_ms + self.dice.below(90_000);
            self.agents.iter_mut().filter(|agent| agent.region == region).for_each(|agent| agent.away_until = until_ms);
        }
        if self.storm && self.dice.percent(1) {
            self.trouble_until = self.now_ms + self.dice.below(30_000);
        }
        self.live.forget(self.now_ms);
        self.healthy.look(self.now_ms, &self.machine, &self.live, millis(self.timing.fresh));
        self.step(Input::Tick);
    }

    /// What agents do with what they heard, by the rules that they have.
    fn work(&mut self, at: usize) {
        let numbers: BTreeMap<Digest, u64> =
            self.disk.subjects.iter().map(|(revision, subject)| (subject.digest, *revision)).collect();
        let is_trouble = self.trouble_until > self.now_ms;
        let (dice, natures, subjects, now_ms) = (&mut self.dice, &self.natures, &self.disk.subjects, self.now_ms);
        let nature = |digest: &Digest| natures.get(&numbers[digest]).copied().unwrap_or_default();
        let agent = &mut self.agents[at];
        let desired = agent.desired.clone();
        for proxy in &mut agent.proxies {
            // A proxy reports the last few revisions it served.
            let candidate = desired.candidate.as_ref().map(|(digest, ..)| *digest);
            let kept = [desired.stable, candidate, proxy.active];
            proxy.counts.retain(|digest, _| kept.contains(&Some(*digest)));
            let mut target = desired.stable;
            if let Some((digest, grants, paused)) = &desired.candidate {
                let subject = &subjects[&numbers[digest]];
                let nature = nature(digest);
                if !nature.refuses {
                    proxy.prepared = Some(*digest);
                }
                let rank = subject.rank(&ProxyId(proxy.id.clone()));
                let is_granted = grants.iter().any(|grant| {
                    rank <= grant.cut && grant.regions.iter().any(|one| one == "*" || *one == agent.region)
                });
                let is_back = desired.withdrawn.contains(digest) || agent.local_rollback == Some(*digest);
                if is_granted && !is_back && !nature.refuses && !nature.stuck {
                    target = Some(*digest);
                }
                if *paused && proxy.active.is_some() && !is_back {
                    target = proxy.active;
                }
            }
            if target.is_some() && proxy.active != target {
                proxy.active = target;
            }
            // A cold start takes its time; the network may lose what came of it.
            if let Some(active) = proxy.active.filter(|one| Some(*one) == candidate)
                && subjects[&numbers[&active]].plan.cold_start_gate
                && dice.below(4) == 0
            {
                proxy.rehearsed = Some((active, !nature(&active).dies_at_start));
            }
            if let Some(active) = proxy.active {
                let nature = nature(&active);
                if nature.dies > 0 && dice.below(nature.dies) == 0 {
                    proxy.instance += 1;
                    proxy.deaths += 1;
                    proxy.counts.clear();
                    proxy.active = desired.stable;
                    if proxy.deaths >= 2 {
                        agent.local_rollback = Some(active);
                    }
                } else {
                    let (requests, failed) = proxy.counts.entry(active).or_default();
                    *requests += if nature.starved { 0 } else { 50 };
                    *failed += if is_trouble && !nature.starved { 15 } else { nature.fails_percent / 2 };
                    proxy.flapped = nature.flaps > 0 && dice.below(nature.flaps) == 0;
                }
            }
            if self.storm && dice.below(150) == 0 {
                proxy.silent_until = now_ms + dice.below(120_000);
            }
            if self.storm && dice.below(1_000) == 0 {
                proxy.draining = true;
            }
        }
        // One that said goodbye is gone at the next report but one.
        let dice = &mut self.dice;
        self.agents[at].proxies.retain(|proxy| !proxy.draining || dice.percent(50));
    }

    fn report(&mut self, at: usize) -> v1::ReportRequest {
        let agent = &self.agents[at];
        let candidate = agent.desired.candidate.as_ref().map(|(digest, ..)| *digest);
        let number = |digest: &Digest| {
            self.disk.subjects.iter().find(|(_, one)| one.digest == *digest).map_or(0, |(revision, _)| *revision)
        };
        let status = |proxy: &Proxy| {
            let refuses = candidate.filter(|one| self.natures.get(&number(one)).is_some_and(|one| one.refuses));
            v1::ProxyStatus {
                proxy_id: proxy.id.clone(),
                instance: format!("i{}", proxy.instance),
                attached: proxy.silent_until <= self.now_ms,
                silent_ms: if proxy.silent_until > self.now_ms { 61_000 } else { 0 },
                ready: !proxy.flapped,
                draining: proxy.draining,
                active_digest: proxy.active.map(|one| one.to_vec()).unwrap_or_default(),
                prepared_digest: proxy.prepared.map(|one| one.to_vec()).unwrap_or_default(),
                refused_digest: refuses.map(|one| one.to_vec()).unwrap_or_default(),
                deaths: proxy.deaths,
                rehearsed_digest: proxy.rehearsed.map(|(one, _)| one.to_vec()).unwrap_or_default(),
                rehearsal_problem: match proxy.rehearsed {
                    Some((_, false)) => "it ended at once".to_owned(),
                    _ => String::new(),
                },
                counts: proxy
                    .counts
                    .iter()
                    .map(|(digest, (requests, failed))| v1::RevisionCounts {
                        revision: number(digest),
                        release_digest: digest.to_vec(),
                        requests: *requests,
                        failed: *failed,
                        latency_bucket: vec![30],
                        latency_count: vec![*requests],
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }
        };
        v1::ReportRequest {
            agent_id: agent.id.clone(),
            instance: "one".into(),
            state_version: agent.desired.version,
            proxies: agent.proxies.iter().map(status).collect(),
            local_rollback: agent.local_rollback.map(|digest| v1::LocalRollback {
                release_digest: digest.to_vec(),
                revision: number(&digest),
                reason: Some(v1::Reason { gate: "death".into(), message: "died twice".into(), ..Default::default() }),
            }),
            ..Default::default()
        }
    }

    fn publish(&mut self) {
        let revision = self.disk.subjects.len() as u64 + 1;
        let stage = |name: &str, fleet_percent, bake| StagePlan {
            name: name.into(),
            fleet_percent,
            bake: Duration::from_secs(bake),
        };
        let mut plan = Plan {
            stages: vec![stage("canary", 10.0, 3), stage("half", 50.0, 5), stage("all", 100.0, 0)],
            requests_min: 60,
            final_bake: Duration::from_secs(self.dice.below(4)),
            progress_deadline: Duration::from_secs(40 + self.dice.below(60)),
            on_no_data: OnNoData::ALL[self.dice.below(3) as usize],
            cold_start_gate: self.dice.percent(20),
            ..Plan::default()
        };
        if self.dice.percent(30) {
            plan.waves = vec![
                Wave { name: "first".into(), regions: vec!["eu".into()] },
                Wave { name: "rest".into(), regions: vec!["*".into()] },
            ];
        }
        let class = match self.dice.below(10) {
            0 => ChangeClass::Revert,
            1 => ChangeClass::Expedited,
            _ => ChangeClass::Standard,
        };
        let flaps = if self.dice.percent(10) { 4 } else { 0 };
        let nature = match self.dice.below(10) {
            0 => Nature { refuses: true, ..Nature::default() },
            1 | 2 => Nature { fails_percent: 30, ..Nature::default() },
            3 => Nature { dies: 5, ..Nature::default() },
            4 => Nature { stuck: true, ..Nature::default() },
            5 => Nature { starved: true, ..Nature::default() },
            // Two faults at once, any two.
            6 => Nature {
                fails_percent: [0, 20][self.dice.below(2) as usize],
                dies: [0, 12][self.dice.below(2) as usize],
                starved: self.dice.percent(30),
                flaps: [0, 3][self.dice.below(2) as usize],
                dies_at_start: self.dice.percent(30),
                ..Nature::default()
            },
            7 => Nature { dies_at_start: true, ..Nature::default() },
            _ => Nature { flaps, ..Nature::default() },
        };
        self.natures.insert(revision, nature);
        let subject = Arc::new(Subject {
            revision: Revision(revision),
            epoch: Epoch(1),
            digest: Digest::of(&[self.dice.roll().to_be_bytes(), revision.to_be_bytes()].concat()),
            plan,
            class,
            author: String::new(),
            message: String::new(),
        });
        let hold = self.dice.percent(10);
        let (supersede, override_freeze) = (self.dice.percent(25), self.dice.percent(15));
        let queued = Event::new(self.now_ms, What::Queued { hold, supersede, override_freeze });
        self.disk.subjects.insert(revision, Arc::clone(&subject));
        self.disk.events.insert(revision, vec![queued.clone()]);
        self.disk.order.push((revision, queued.what.clone()));
        self.step(Input::Offer { subject, queued });
    }

    fn press(&mut self) {
        let verbs = [Verb::Pause, Verb::Resume, Verb::Promote, Verb::Abort, Verb::Retry];
        let verb = verbs[self.dice.below(5) as usize];
        self.command(verb);
    }

    fn command(&mut self, verb: Verb) {
        let command =
            Command { revision: None, state_version: None, verb, actor: "someone".into(), message: "".into() };
        self.step(Input::Command(command));
    }

    /// In the calm a person lets go on whatever waits for a person.
    fn help(&mut self) {
        let Some(current) = self.machine.current() else { return };
        let record = &current.record;
        if record.paused {
            self.command(Verb::Resume);
        } else if record.held.is_some() && self.dice.percent(10) {
            self.command(Verb::Promote);
        }
    }

    fn join(&mut self) {
        let at = self.dice.below(self.agents.len() as u64) as usize;
        let id = format!("joined-{}", self.dice.below(1_000));
        let is_new = self.agents.iter().all(|agent| agent.proxies.iter().all(|proxy| proxy.id != id));
        if is_new {
            self.agents[at].proxies.push(Proxy { id, instance: 1, ..Proxy::default() });
        }
    }

    /// An agent and its proxies are gone for good, without a word.
    fn leave(&mut self) {
        if self.agents.len() > 1 {
            let at = self.dice.below(self.agents.len() as u64) as usize;
            self.agents.remove(at);
        }
    }

    /// A crash: before or after the newest step was stored.
    fn restart(&mut self) {
        self.healthy = Healthy::since(self.now_ms); // what was before counts for nothing
        self.machine = Machine::remember(self.timing, self.disk.remembered(), self.now_ms);
        if self.dice.percent(70) {
            let cordoned = self.live.cordoned().clone();
            self.live = Live::default();
            self.live.set_cordoned(cordoned);
        }
    }

    fn step(&mut self, input: Input) {
        let is_told = |verb| matches!(&input, Input::Command(command) if command.verb == verb);
        let is_promote = is_told(Verb::Promote);
        let Ok(actions) = self.machine.step(self.now_ms, &self.live, input) else { return };
        if !actions.is_empty() && self.storm && self.dice.percent(5) {
            // The store refused: nothing of this happened.
            self.restart();
            return;
        }
        let is_still = !actions.iter().any(|action| matches!(action, Action::Record { .. }));
        for action in &actions {
            if let Action::Evidence { revision, seq, entry } = action {
                let entries = self.disk.evidence.entry(*revision).or_default();
                entries.push(entry.clone());
                assert_eq!(*seq, entries.len() as u64, "a piece of evidence was left out");
            }
        }
        for action in actions {
            match action {
                Action::Grant(order) => {
                    let (sequence, revision) = (order.opened.sequence, order.revision.0);
                    assert!(self.disk.grants.iter().all(|(before, _)| *before < sequence), "a sequence came twice");
                    self.disk.grants.push((sequence, revision));
                }
                Action::Evidence { .. } => {}
                Action::Record { revision, seq, event } => {
                    self.check(revision, &event, is_promote);
                    let events = self.disk.events.get_mut(&revision).unwrap();
                    events.push(event.clone());
                    assert_eq!(seq, events.len() as u64, "a sequence number was left out");
                    self.disk.order.push((revision, event.what));
                }
            }
        }
        if !is_still || self.dice.percent(1) {
            self.check_restart();
        }
    }

    /// What no event may break, told from the outside.
    fn check(&self, revision: u64, event: &Event, is_promote: bool) {
        let before = &self.disk.events[&revision];
        let record = Record::fold(before);
        let taken_back = before.iter().any(|one| matches!(one.what, What::RollingBack { .. } | What::Rejected { .. }));
        match &event.what {
            What::StageOpened(opened) => {
                assert!(!taken_back, "r{revision} was granted after it was withdrawn");
                let asks = record.course != Course::Revert && !record.override_freeze;
                let last = record.stage().map(|last| (last.opened.wave, last.opened.stage));
                let widens = last != Some((opened.wave, opened.stage));
                assert!(!(asks && widens && self.live.frozen(event.at_ms).is_some()), "it widened during a freeze");
                let cuts = record.stages.iter().filter(|one| one.opened.wave == opened.wave);
                let least = cuts.map(|one| one.opened.cut).max();
                assert!(least.is_none_or(|least| least <= opened.cut), "a cut shrank");
                self.check_width(revision, &record, opened, least);
                let digest = self.disk.subjects[&revision].digest;
                let refuses = self.live.proxies().any(|(_, proxy)| proxy.refused == Some(digest));
                assert!(!(refuses && record.stages.is_empty()), "granted although a proxy refuses it");
                assert!(!record.paused, "it went on while it was paused");
                if let Some(last) = record.stage() {
                    let again = (last.opened.wave, last.opened.stage) == (opened.wave, opened.stage);
                    assert!(again || last.outcome == super::record::Outcome::Passed, "a stage has not passed");
                    let stages = self.disk.subjects[&revision].plan.stages.len();
                    let (done, first) = (last_of(&last.opened), opened.stage == 0);
                    let follows = opened.wave == last.opened.wave && opened.stage == done + 1;
                    let complete = done + 1 == stages || self.is_away(revision, last, event.at_ms);
                    let new_wave = opened.wave > last.opened.wave && first && complete;
                    assert!(again || follows || new_wave, "a stage was left out between {last:?} and {opened:?}");
                }
            }
            What::StagePassed { why, gates } => {
                let stage = record.stage().unwrap();
                let no_data = why.contains("no data");
                let subject = &self.disk.subjects[&revision];
                let stages = stage.opened.stage..=last_of(&stage.opened);
                let bakes = subject.plan.stages[stages].iter().map(|one| millis(one.bake));
                let (baked_ms, bake_ms) = (self.healthy.ms, bakes.max().unwrap_or(0));
                assert!(no_data || baked_ms >= bake_ms, "healthy for {baked_ms} ms of {bake_ms}");
                assert!(no_data || gates.iter().all(|gate| gate.outcome == "pass"), "{gates:?}");
                assert!(no_data || gates.iter().any(|gate| gate.sample >= 60), "{gates:?}");
                assert!(!record.paused && record.held.is_none(), "a stage passed while it was held or paused");
                let asks = subject.plan.cold_start_gate && record.stages.len() == 1;
                assert!(no_data || !asks || self.rehearsed.contains(&subject.digest), "nobody started from disk");
                assert!(
                    no_data || self.verdict(revision, event) == Verdict::Pass,
                    "the stored evidence says otherwise"
                );
            }
            What::Promoted { actor } => {
                assert!(is_promote && actor == "someone" || actor.contains("on_no_data"), "{actor}");
            }
            What::RollingBack { reason, .. } if reason.gate == "error_rate" => {
                assert_eq!(self.verdict(revision, event), Verdict::Fail, "the stored evidence says otherwise");
            }
            What::FinalBake => self.check_last(revision, record.stage(), event.at_ms),
            What::Completed { .. } => {
                assert!(!taken_back && !record.paused);
                let subject = &self.disk.subjects[&revision];
                let narrowed = |agent: &crate::fleet::Agent| {
                    agent.local_rollback.as_ref().is_some_and(|told| told.digest == subject.digest)
                };
                let staged = record.course == Course::Staged;
                if staged && record.phase == super::record::Phase::Stage {
                    self.check_last(revision, record.stage(), event.at_ms);
                }
                assert!(!staged || !self.live.agents().any(|(_, agent)| narrowed(agent)), "an agent took it back");
                if staged && record.phase == super::record::Phase::FinalBake && !record.final_waived {
                    let bake_ms = millis(subject.plan.final_bake);
                    let on_no_data = is_promote || subject.plan.on_no_data == OnNoData::Proceed;
                    assert!(on_no_data || self.healthy.ms >= bake_ms, "healthy for {} of {bake_ms}", self.healthy.ms);
                }
            }
            _ => {}
        }
    }

    /// Nobody of the stage's wave was there until the deadline: who comes later comes with the completion.
    fn is_away(&self, revision: u64, last: &super::record::StageRecord, now_ms: u64) -> bool {
        let subject = &self.disk.subjects[&revision];
        let alive =
            |proxy: &crate::fleet::Proxy| !proxy.draining && proxy.silent_ms(now_ms) <= millis(self.timing.live);
        let here = |proxy: &crate::fleet::Proxy| subject.wave_of(&proxy.region) == last.opened.wave;
        let waited_ms = now_ms - last.opened_ms;
        waited_ms >= millis(subject.plan.progress_deadline)
            && !self.live.proxies().any(|(_, proxy)| alive(proxy) && here(proxy))
    }

    /// What comes after the stages comes after the last of them.
    fn check_last(&self, revision: u64, last: Option<&super::record::StageRecord>, now_ms: u64) {
        let last = last.expect("a stage was open");
        let stages = self.disk.subjects[&revision].plan.stages.len();
        let complete = last_of(&last.opened) + 1 == stages || self.is_away(revision, last, now_ms);
        assert!(complete, "it ended without its last stage: {last:?}");
    }

    /// A stage takes no more of its wave than its share, but for whom an earlier one took.
    fn check_width(&self, revision: u64, record: &Record, opened: &super::event::StageOpened, least: Option<u64>) {
        let subject = &self.disk.subjects[&revision];
        if record.course != Course::Staged || least == Some(opened.cut) {
            return;
        }
        let alive =
            |proxy: &crate::fleet::Proxy| !proxy.draining && proxy.silent_ms(self.now_ms) <= millis(self.timing.live);
        let here = |proxy: &crate::fleet::Proxy| subject.wave_of(&proxy.region) == opened.wave;
        let members: Vec<u64> = self
            .live
            .proxies()
            .filter(|(_, proxy)| alive(proxy) && here(proxy))
            .map(|(id, _)| subject.rank(id))
            .collect();
        let share = subject.plan.stages[opened.stage].fleet_percent / 100.0 * members.len() as f64;
        let within = |cut: u64| members.iter().filter(|rank| **rank <= cut).count();
        let (taken, before) = (within(opened.cut), least.map_or(0, within));
        assert!(
            taken <= before || taken as f64 <= share.ceil().max(1.0),
            "{taken} of {} at once: {opened:?}",
            members.len()
        );
    }

    /// As the stored evidence says, and nothing else.
    fn verdict(&self, revision: u64, event: &Event) -> Verdict {
        let plan = &self.disk.subjects[&revision].plan;
        let case = gate::Case::fold(
            plan.compare_alpha,
            self.disk.evidence.get(&revision).into_iter().flatten().take(event.evidence as usize),
        );
        gate::judge(&case, plan).0
    }

    /// A machine made from what is stored is the one that lives.
    fn check_restart(&self) {
        let remembered = self.disk.remembered();
        assert_eq!(remembered.stable, self.machine.stable());
        assert_eq!(remembered.version, self.machine.version());
        assert_eq!(remembered.sequence_min, self.machine.sequence_min());
        let again = Machine::remember(self.timing, remembered, self.now_ms);
        let records = |machine: &Machine| -> Vec<(u64, Record)> {
            let open = machine.rollouts().filter(|one| !one.record.has_ended());
            open.map(|one| (one.subject.revision.0, one.record.clone())).collect()
        };
        assert_eq!(records(&again), records(&self.machine));
        assert!(again.withdrawn().eq(self.machine.withdrawn()));
        for (live, again) in self.machine.rollouts().filter(|one| !one.record.has_ended()).zip(again.rollouts()) {
            assert_eq!((live.entries, &live.case), (again.entries, &again.case), "evidence is what is stored");
        }
    }

    fn desired(&self) -> Desired {
        use super::record::Phase;
        let offered = self
            .machine
            .current()
            .filter(|one| matches!(one.record.phase, Phase::Preparing | Phase::Stage | Phase::FinalBake));
        Desired {
            version: self.machine.version(),
            stable: self.machine.stable().map(|stable| stable.digest),
            candidate: offered.map(|one| {
                let grants = one.record.stages.iter().map(|stage| stage.opened.clone()).collect();
                (one.subject.digest, grants, one.record.paused)
            }),
            withdrawn: self.machine.withdrawn().collect(),
        }
    }
}

/// The last stage of the plan that this one covers.
fn last_of(opened: &super::event::StageOpened) -> usize {
    opened.merged.last().copied().unwrap_or(opened.stage)
}

#[test]
fn no_even_schedule_breaks_the_rules_of_rollouts() {
    play_all(0);
}

#[test]
fn no_odd_schedule_breaks_the_rules_of_rollouts() {
    play_all(1);
}

/// A simulation that finds nothing may be one that cannot: each planted fault must be found within so many schedules.
#[test]
fn every_planted_fault_is_found_by_the_simulation() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        // The others' panics in this process are theirs to print.
        if !std::thread::current().name().is_some_and(|name| name.contains("planted_fault")) {
            eprintln!("{info}");
        }
    }));
    let found: Vec<(Fault, Option<u64>)> = Fault::ALL
        .into_iter()
        .map(|fault| {
            fault::plant(Some(fault));
            let finds = |seed: &u64| std::panic::catch_unwind(|| World::new(*seed).play()).is_err();
            (fault, (0..FAULT_SCHEDULES).find(finds))
        })
        .collect();
    fault::plant(None);
    std::panic::set_hook(quiet);
    let missed: Vec<_> = found.iter().filter(|(_, seed)| seed.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?} of {found:?}");
}

/// Every second schedule from `first` on: two tests, so that they run beside each other.
fn play_all(first: u64) {
    assert_eq!(millis(Timing::default().silence), 60_000, "the storms are made for these times");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("ROLLOUT_SEED") {
        World::new(seed).play();
        return;
    }
    let mut ends: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in (first..number("ROLLOUT_SEEDS").unwrap_or(SCHEDULES)).step_by(2) {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.play();
            world.disk.order.iter().map(|(_, what)| what.kind()).collect::<Vec<_>>()
        });
        match result {
            Ok(kinds) => kinds.into_iter().for_each(|kind| *ends.entry(kind).or_default() += 1),
            Err(panic) => {
                eprintln!("ROLLOUT_SEED={seed} fails");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The storms are worth something only if they reach every corner.
    for kind in [
        "queued",
        "preparing",
        "stage_opened",
        "stage_passed",
        "final_bake",
        "completed",
        "held",
        "released",
        "promoted",
        "retried",
        "paused",
        "resumed",
        "rolling_back",
        "ended",
        "rejected",
    ] {
        assert!(ends.get(kind).is_some_and(|count| *count > 5), "{kind} hardly ever happened: {ends:?}");
    }
}
