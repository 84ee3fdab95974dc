//! Seeded runs of the machine against proxies that lose messages, die, return and flap, under a fleet that changes its
//! mind and an agent that restarts. A failure prints its seed; `ROLLOUT_SEED=n` runs that one alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sealane_model::ids::{Epoch, FleetId};

use super::fault::{self, Fault};
use super::*;

#[test]
fn whatever_happens_no_proxy_is_told_more_than_was_granted() {
    let only = std::env::var("ROLLOUT_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(0..2_000, |seed| seed..seed + 1);
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| World::new(seed).run()));
        assert!(run.is_ok(), "failed with ROLLOUT_SEED={seed}");
    }
}

/// A simulation that finds nothing may be one that cannot: each planted fault must be found within so many seeds.
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
            let finds = |seed: &u64| catch_unwind(AssertUnwindSafe(|| World::new(*seed).run())).is_err();
            (fault, (0..FAULT_SEEDS).find(finds))
        })
        .collect();
    fault::plant(None);
    std::panic::set_hook(quiet);
    let missed: Vec<_> = found.iter().filter(|(_, seed)| seed.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?} of {found:?}");
}

const FAULT_SEEDS: u64 = 300;
const STEPS: usize = 400;
const NAMES: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A proxy process as it really is.
#[derive(Clone, Default)]
struct Process {
    instance: String,
    attached: bool,
    active: Option<Digest>,
    prepared: Option<Digest>,
    last_good: Option<Digest>,
    refused: Option<Digest>,
    ready: bool,
    mailbox: Option<(u64, Target)>,
}

struct World {
    random: Random,
    machine: Machine,
    now: Now,
    /// What the ledger holds.
    ledger: Desired,
    older: Vec<Desired>,
    processes: BTreeMap<ProxyId, Process>,
    revisions: u64,
    instances: u64,
    sequence: u64,
    generation: u64,
    heard_ms: u64,
    ever_withdrawn: BTreeSet<Digest>,
    /// Who was told to run the present candidate.
    told: BTreeSet<ProxyId>,
    /// What each said last that it runs: who runs the candidate stays on it.
    said: BTreeMap<ProxyId, Option<Digest>>,
    /// When this machine was first shown each of its grants.
    shown_ms: BTreeMap<u64, u64>,
    /// What the machine was shown last.
    shown: Option<Digest>,
    /// This machine has heard the authority.
    has_heard: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Now { mono_ms: 1, unix_ms: 1_000_000 };
        let processes = NAMES.iter().map(|name| (ProxyId((*name).into()), Process::default())).collect();
        Self {
            random: Random(seed),
            machine: Machine::new("eu", 0, now),
            now,
            ledger: Desired { fresh_until_unix_ms: Some(i64::MAX), ..Desired::default() },
            older: Vec::new(),
            processes,
            revisions: 0,
            instances: 0,
            sequence: 0,
            generation: 0,
            heard_ms: 1,
            ever_withdrawn: BTreeSet::new(),
            told: BTreeSet::new(),
            said: BTreeMap::new(),
            shown_ms: BTreeMap::new(),
            shown: None,
            has_heard: false,
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.below(12) {
                0..=2 => self.pass_time(),
                3 => self.change_fleet(),
                4..=8 => self.change_proxy(),
                9 => self.deliver(),
                10 if self.random.chance(20) => self.restart_agent(),
                _ => self.hear(),
            }
        }
        self.settle();
    }

    fn pass_time(&mut self) {
        let ms = [10, 250, 1_000, 1_000, 6_000, 20_000][self.random.below(6) as usize];
        self.now.mono_ms += ms;
        // The wall clock jumps both ways now and then.
        let jump = if self.random.chance(3) { self.random.below(7_200_000) as i64 - 3_600_000 } else { 0 };
        self.now.unix_ms += ms as i64 + jump;
        self.step(Input::Tick);
    }

    fn hear(&mut self) {
        self.heard_ms = self.now.mono_ms;
        self.step(Input::Authority(Some(self.heard_ms)));
    }

    fn change_fleet(&mut self) {
        self.older.push(self.ledger.clone());
        match self.random.below(8) {
            0 | 1 => self.publish(),
            2 | 3 => self.grant(),
            4 => self.withdraw(),
            5 => self.complete(),
            6 => {
                if let Some(candidate) = &mut self.ledger.candidate {
                    candidate.paused = !candidate.paused;
                }
            }
            _ => {
                // An older state comes late. The ledger keeps what it knows to be taken back.
                let index = self.random.below(self.older.len() as u64) as usize;
                let late = self.older[index].clone();
                let withdrawn = self.ever_withdrawn.clone();
                let candidate = late.candidate.as_ref().map(|candidate| candidate.digest);
                let rolled_back = self.ledger.rolled_back.filter(|digest| Some(*digest) == candidate);
                self.ledger = Desired { withdrawn, rolled_back, ..late };
            }
        }
        let stable_was_taken_back = self.ledger.stable.is_some_and(|stable| self.ever_withdrawn.contains(&stable));
        if stable_was_taken_back {
            self.ledger = self.older.pop().expect("pushed above"); // verification refuses such a state
        }
        self.step(Input::Desired(self.ledger.clone()));
    }

    fn publish(&mut self) {
        self.revisions += 1;
        let on_authority_loss = match self.random.below(3) {
            0 => OnAuthorityLoss::Hold,
            1 => OnAuthorityLoss::Continue,
            _ => OnAuthorityLoss::Rollback,
        };
        self.ledger.rolled_back = None;
        self.ledger.candidate = Some(Candidate {
            digest: Digest::of(&self.revisions.to_le_bytes()),
            revision: Revision(self.revisions),
            grants: Vec::new(),
            paused: false,
            at_once: self.random.chance(10),
            on_authority_loss,
            cold_start: self.random.chance(20),
            bake_min_ms: if self.random.chance(20) { 5_000 } else { 0 },
            first_rank_max: None,
        });
    }

    fn grant(&mut self) {
        let Some(candidate) = &mut self.ledger.candidate else { return };
        self.sequence += 1;
        let cut = if self.random.chance(30) { u64::MAX } else { self.random.next() };
        let cut = candidate.grants.last().map_or(cut, |last| last.cut.max(cut));
        candidate.grants.push(Grant {
            fleet: FleetId("f".into()),
            epoch: Epoch(0),
            revision: candidate.revision,
            release_digest: candidate.digest,
            wave: 0,
            stage: candidate.grants.len() as u32,
            cut,
            regions: vec![if self.random.chance(80) { "*" } else { "us" }.into()],
            sequence: self.sequence,
            not_after_unix_ms: self.now.unix_ms + 60_000 + self.random.below(3_600_000) as i64,
            proxy: None,
        });
    }

    fn withdraw(&mut self) {
        let Some(candidate) = &self.ledger.candidate else { return };
        if Some(candidate.digest) == self.ledger.stable {
            return;
        }
        self.ever_withdrawn.insert(candidate.digest);
        self.ledger.withdrawn.insert(candidate.digest);
        if self.random.chance(50) {
            self.ledger.candidate = None;
            self.ledger.rolled_back = None;
        }
    }

    fn complete(&mut self) {
        let Some(candidate) = self.ledger.candidate.take() else { return };
        self.ledger.rolled_back = None;
        if !self.ever_withdrawn.contains(&candidate.digest) {
            self.ledger.stable = Some(candidate.digest);
        }
    }

    fn change_proxy(&mut self) {
        let id = ProxyId(NAMES[self.random.below(NAMES.len() as u64) as usize].into());
        let process = self.processes[&id].clone();
        match self.random.below(10) {
            0 if process.attached => self.end(&id, false),
            1 if process.attached => self.end(&id, true),
            2 if process.attached => {
                // The network, not the process. Whatever was under way is lost.
                let known = self.processes.get_mut(&id).expect("known");
                (known.attached, known.mailbox) = (false, None);
                self.step(Input::Detached { proxy: id, instance: process.instance });
            }
            3 => {
                let flapping = self.random.chance(70);
                self.processes.get_mut(&id).expect("known").ready = flapping;
            }
            _ if process.attached => self.observe(&id, false),
            _ => self.attach(&id),
        }
    }

    fn attach(&mut self, id: &ProxyId) {
        let generation = self.generation;
        let process = self.processes.get_mut(id).expect("known");
        if process.instance.is_empty() || self.random.chance(50) {
            self.instances += 1;
            let instance = format!("i{}", self.instances);
            let last_good = process.last_good;
            *process = Process { instance, active: last_good, last_good, ready: true, ..Process::default() };
        }
        process.attached = true;
        let instance = process.instance.clone();
        self.step(Input::Attached { proxy: id.clone(), instance, generation: generation / 2 });
        if self.random.chance(80) {
            self.observe(id, false);
        }
    }

    fn end(&mut self, id: &ProxyId, goodbye: bool) {
        if goodbye {
            self.observe(id, true);
        }
        let process = self.processes.get_mut(id).expect("known");
        let instance = std::mem::take(&mut process.instance);
        *process = Process { last_good: process.last_good, ..Process::default() };
        self.step(Input::Detached { proxy: id.clone(), instance });
    }

    fn observe(&mut self, id: &ProxyId, draining: bool) {
        let process = self.processes[id].clone();
        self.said.insert(id.clone(), process.active);
        let seen = Seen {
            instance: process.instance,
            ready: process.ready,
            draining,
            active: process.active,
            prepared: process.prepared,
            refused: process.refused,
        };
        self.step(Input::Observed { proxy: id.clone(), seen });
    }

    fn deliver(&mut self) {
        let refuses = self.random.chance(3);
        for process in self.processes.values_mut() {
            if !self.random.chance(70) {
                continue; // the acknowledgement is lost, or the proxy is slow
            }
            let Some((_, target)) = process.mailbox.take() else { continue };
            let active = target.active.or(process.active);
            let other = target.releases.iter().copied().find(|digest| Some(*digest) != active);
            let candidate = self.ledger.candidate.as_ref().map(|candidate| candidate.digest);
            if refuses && candidate.is_some() && active != process.active && active == candidate {
                process.refused = active;
                continue;
            }
            (process.active, process.prepared) = (active, other.filter(|_| !refuses));
            if refuses {
                process.refused = other;
            }
            process.last_good = target.last_good.or(process.last_good);
        }
    }

    fn restart_agent(&mut self) {
        (self.has_heard, self.shown) = (false, None);
        // Generations were written ahead.
        self.machine = Machine::new("eu", self.generation + self.random.below(100), self.now);
        for process in self.processes.values_mut() {
            (process.attached, process.mailbox) = (false, None);
        }
        self.step(Input::Desired(self.ledger.clone()));
    }

    fn step(&mut self, input: Input) {
        match &input {
            Input::Desired(desired) => self.show(desired.candidate.as_ref()),
            Input::Authority(heard) => self.has_heard |= heard.is_some(),
            _ => {}
        }
        let actions = self.machine.step(self.now, input);
        self.check_new(&actions);
        for action in actions {
            match action {
                Action::RollBack { digest, .. } => {
                    assert_eq!(Some(digest), self.ledger.candidate.as_ref().map(|candidate| candidate.digest));
                    assert_eq!(self.ledger.rolled_back, None, "once is enough");
                    self.ledger.rolled_back = Some(digest);
                }
                Action::Send { proxy, generation, target } => self.check(&proxy, generation, target),
            }
        }
    }

    fn show(&mut self, candidate: Option<&Candidate>) {
        let digest = candidate.map(|candidate| candidate.digest);
        if self.shown != digest {
            self.shown = digest;
            self.told.clear();
            self.shown_ms.clear();
        }
        for grant in candidate.iter().flat_map(|candidate| &candidate.grants) {
            self.shown_ms.entry(grant.sequence).or_insert(self.now.mono_ms);
        }
    }

    /// What is asked of the first command that moves a proxy to the candidate.
    fn check_new(&mut self, actions: &[Action]) {
        let Some(candidate) = self.ledger.candidate.clone() else { return };
        let mut moved: BTreeMap<u64, u32> = BTreeMap::new();
        for action in actions {
            let Action::Send { proxy, target, .. } = action else { continue };
            let is_new = target.active == Some(candidate.digest) && target.active != self.ledger.stable;
            let stays = self.said.get(proxy) == Some(&Some(candidate.digest));
            if !is_new || stays || !self.told.insert(proxy.clone()) {
                continue;
            }
            *moved.entry(target.grant.expect("a grant")).or_default() += 1;
            let continues = candidate.on_authority_loss == OnAuthorityLoss::Continue;
            let is_lost = !self.has_heard || self.now.mono_ms.saturating_sub(self.heard_ms) >= AUTHORITY_LOSS_MS;
            let is_fresh = self.ledger.fresh_until_unix_ms.is_some_and(|until| until >= self.now.unix_ms);
            assert!(!candidate.paused, "{proxy} moved while the rollout is paused");
            assert!(if is_lost { continues } else { is_fresh }, "{proxy} moved without word of the authority");
            let grants = &candidate.grants;
            let at =
                grants.iter().position(|grant| Some(grant.sequence) == target.grant).expect("a grant it was shown");
            let baked = |before: &Grant| self.now.mono_ms - self.shown_ms[&before.sequence] >= candidate.bake_min_ms;
            assert!(at == 0 || baked(&grants[at - 1]), "{proxy} moved before the stage before has baked");
        }
        let alone = candidate.at_once
            || self.ledger.stable.is_none()
            || self.said.values().any(|said| *said == Some(candidate.digest));
        assert!(
            alone || moved.values().all(|count| *count <= 1),
            "{moved:?} moved although none has shown that it works"
        );
    }

    fn check(&mut self, proxy: &ProxyId, generation: Generation, target: Target) {
        assert!(generation.0 > self.generation, "generations only grow, also over a restart");
        self.generation = generation.0;
        let stable = self.ledger.stable;
        let candidate = self.ledger.candidate.as_ref();
        for digest in &target.releases {
            assert!(Some(*digest) == stable || Some(*digest) == candidate.map(|candidate| candidate.digest));
            assert!(!self.ever_withdrawn.contains(digest), "what was taken back is not even prepared");
        }
        assert!(target.active.is_none_or(|digest| target.releases.contains(&digest)), "only what was verified");
        if target.active.is_some() && target.active != stable {
            let candidate = candidate.expect("neither stable nor candidate");
            assert_ne!(Some(candidate.digest), self.ledger.rolled_back);
            assert!(candidate.grants.iter().any(|grant| grant.covers(proxy, "eu")), "not granted");
            assert!(target.grant.is_some());
        }
        let process = self.processes.get_mut(proxy).expect("known");
        assert!(process.attached, "nobody is told while away");
        process.mailbox = Some((generation.0, target));
    }

    /// When everyone is there and nothing fails any more, everyone ends where the ledger says.
    fn settle(&mut self) {
        self.ledger.candidate = None;
        self.ledger.rolled_back = None;
        self.step(Input::Desired(self.ledger.clone()));
        for id in self.processes.keys().cloned().collect::<Vec<_>>() {
            if !self.processes[&id].attached {
                self.attach(&id);
            }
            self.observe(&id, false);
            let process = self.processes.get_mut(&id).expect("known");
            if let Some((_, target)) = process.mailbox.take() {
                process.active = target.active.or(process.active);
            }
            let (active, stable) = (process.active, self.ledger.stable);
            assert!(stable.is_none() || active == stable, "{id} ends on the stable revision");
        }
    }
}
