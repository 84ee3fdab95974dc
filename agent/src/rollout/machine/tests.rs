//! The rules of the local rollout, one test each.

use sealane_model::ids::{Epoch, FleetId};

use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn id(name: &str) -> ProxyId {
    ProxyId(name.to_owned())
}

fn grant(release: Digest, sequence: u64, cut: u64) -> Grant {
    Grant {
        fleet: FleetId("f".into()),
        epoch: Epoch(0),
        revision: Revision(2),
        release_digest: release,
        wave: 0,
        stage: sequence as u32,
        cut,
        regions: vec!["*".into()],
        sequence,
        not_after_unix_ms: i64::MAX,
        proxy: None,
    }
}

fn candidate(grants: Vec<Grant>) -> Candidate {
    Candidate {
        digest: digest("new"),
        revision: Revision(2),
        grants,
        paused: false,
        at_once: false,
        on_authority_loss: OnAuthorityLoss::Hold,
        cold_start: false,
        bake_min_ms: 0,
        first_rank_max: None,
    }
}

fn rollout(grants: Vec<Grant>) -> Desired {
    Desired {
        stable: Some(digest("old")),
        candidate: Some(candidate(grants)),
        fresh_until_unix_ms: Some(i64::MAX),
        ..Desired::default()
    }
}

/// A machine and three proxies that do as they are told.
struct Bench {
    machine: Machine,
    now: Now,
    seen: BTreeMap<ProxyId, Seen>,
    rolled_back: Option<Cause>,
}

impl Bench {
    fn new(desired: Desired) -> Self {
        let now = Now { mono_ms: 1_000, unix_ms: 1_000 };
        let mut bench = Self { machine: Machine::new("eu", 7, now), now, seen: BTreeMap::new(), rolled_back: None };
        bench.step(Input::Authority(Some(now.mono_ms)));
        bench.step(Input::Desired(desired));
        for name in ["a", "b", "c"] {
            bench.start(name, "1");
        }
        bench
    }

    fn start(&mut self, name: &str, instance: &str) {
        self.step(Input::Attached { proxy: id(name), instance: instance.into(), generation: 0 });
        let active = self.machine.desired.stable;
        let seen = Seen { instance: instance.into(), ready: true, active, ..Seen::default() };
        self.seen.insert(id(name), seen);
        self.observe(name);
    }

    fn observe(&mut self, name: &str) {
        let seen = self.seen[&id(name)].clone();
        self.step(Input::Observed { proxy: id(name), seen });
    }

    /// Time passes, the authority is heard, everyone attached reports.
    fn pass(&mut self, mono_ms: u64) {
        self.now.mono_ms += mono_ms;
        self.now.unix_ms += mono_ms as i64;
        self.step(Input::Authority(Some(self.now.mono_ms)));
        for name in self.seen.keys().cloned().collect::<Vec<_>>() {
            if self.machine.proxies[&name].attached {
                self.observe(&name.0);
            }
        }
        self.step(Input::Tick);
    }

    fn step(&mut self, input: Input) {
        for action in self.machine.step(self.now, input) {
            match action {
                Action::Send { proxy, target, .. } => {
                    let Some(seen) = self.seen.get_mut(&proxy) else { continue };
                    let active = target.active.or(seen.active);
                    seen.prepared = target.releases.iter().copied().rev().find(|digest| Some(*digest) != active);
                    seen.active = active;
                }
                Action::RollBack { cause, .. } => self.rolled_back = Some(cause),
            }
        }
    }

    fn kill(&mut self, name: &str) {
        let instance = self.machine.proxies[&id(name)].instance.clone();
        self.step(Input::Detached { proxy: id(name), instance });
    }

    fn told_new(&self) -> Vec<&str> {
        let new = Some(digest("new"));
        let told = |proxy: &Proxy| proxy.sent.as_ref().is_some_and(|sent| sent.active == new);
        self.machine.proxies.iter().filter(|(_, proxy)| told(proxy)).map(|(id, _)| id.0.as_str()).collect()
    }
}

#[test]
fn nobody_moves_without_a_grant_but_everyone_prepares() {
    let mut bench = Bench::new(rollout(vec![]));
    bench.pass(2_000);
    assert!(bench.told_new().is_empty());
    let new = digest("new");
    assert!(bench.machine.proxies.values().all(|proxy| proxy.sent.as_ref().unwrap().releases.contains(&new)));
}

#[test]
fn the_first_local_proxy_settles_before_the_others_follow() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    bench.pass(0);
    assert_eq!(bench.told_new().len(), 1, "one goes first");
    bench.pass(100);
    assert_eq!(bench.told_new().len(), 1, "one report is not enough");
    bench.pass(1_000);
    assert_eq!(bench.told_new().len(), 3);
}

#[test]
fn only_covered_proxies_move_and_in_order_of_rank() {
    let new = digest("new");
    let mut ranks: Vec<(u64, &str)> =
        ["a", "b", "c"].iter().map(|name| (cohort::rank(&new, &id(name)), *name)).collect();
    ranks.sort_unstable();
    let mut bench = Bench::new(rollout(vec![grant(new, 1, ranks[0].0)]));
    for _ in 0..5 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new(), [ranks[0].1]);
    bench.step(Input::Desired(rollout(vec![grant(new, 1, ranks[0].0), grant(new, 2, u64::MAX)])));
    assert_eq!(bench.told_new().len(), 2, "the first of the next stage");
    for _ in 0..3 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new().len(), 3);
}

#[test]
fn a_withdrawn_candidate_is_left_at_once_by_all() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    for _ in 0..3 {
        bench.pass(1_000);
    }
    let mut desired = rollout(vec![grant(digest("new"), 1, u64::MAX)]);
    desired.withdrawn.insert(digest("new"));
    bench.step(Input::Desired(desired));
    assert!(bench.told_new().is_empty());
    assert!(bench.machine.proxies.values().all(|proxy| proxy.sent.as_ref().unwrap().active == Some(digest("old"))));
}

#[test]
fn one_death_is_tried_again_and_the_second_takes_the_cohort_back() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    for _ in 0..3 {
        bench.pass(1_000);
    }
    bench.kill("a");
    bench.start("a", "2");
    assert_eq!(bench.machine.deaths(&id("a")), 1);
    for _ in 0..2 {
        bench.pass(1_000);
    }
    assert!(bench.told_new().contains(&"a"), "one more try");
    bench.kill("a");
    bench.start("a", "3");
    assert_eq!(bench.rolled_back, Some(Cause::Death));
    assert!(bench.told_new().is_empty());
}

#[test]
fn a_process_that_stays_away_is_dead_and_one_that_said_goodbye_is_not() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    for _ in 0..3 {
        bench.pass(1_000);
    }
    bench.seen.get_mut(&id("b")).unwrap().draining = true;
    bench.observe("b");
    bench.kill("a");
    bench.kill("b");
    bench.pass(11_000);
    assert_eq!((bench.machine.deaths(&id("a")), bench.machine.deaths(&id("b"))), (1, 0));
    bench.step(Input::Attached { proxy: id("a"), instance: "1".into(), generation: 0 });
    assert_eq!(bench.machine.deaths(&id("a")), 0, "the same process came back: it was only away");
}

#[test]
fn not_ready_for_thirty_seconds_takes_the_cohort_back() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    bench.pass(0);
    let first = bench.told_new()[0].to_owned();
    bench.seen.get_mut(&id(&first)).unwrap().ready = false;
    for _ in 0..29 {
        bench.pass(1_000);
    }
    assert_eq!((bench.rolled_back, bench.told_new().len()), (None, 1), "the others wait");
    bench.pass(1_500);
    assert_eq!(bench.rolled_back, Some(Cause::NotReady));
    assert!(bench.told_new().is_empty());
}

#[test]
fn a_roll_back_outlives_a_desired_state_that_does_not_know_it() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    bench.pass(1_000);
    bench.step(Input::RollBack);
    assert_eq!(bench.rolled_back, Some(Cause::Operator));
    bench.step(Input::Desired(rollout(vec![grant(digest("new"), 1, u64::MAX), grant(digest("new"), 2, u64::MAX)])));
    bench.pass(1_000);
    assert!(bench.told_new().is_empty());
}

#[test]
fn with_the_authority_away_the_plan_says_what_happens() {
    let check = |policy, told: usize, rolled_back| {
        let mut desired = rollout(vec![grant(digest("new"), 1, u64::MAX)]);
        desired.candidate.as_mut().unwrap().on_authority_loss = policy;
        let mut bench = Bench::new(desired);
        bench.pass(0);
        assert_eq!(bench.told_new().len(), 1);
        bench.now.mono_ms += AUTHORITY_LOSS_MS - 1_000;
        for _ in 0..3 {
            bench.now.mono_ms += 1_000;
            ["a", "b", "c"].iter().for_each(|name| bench.observe(name));
        }
        assert_eq!((bench.told_new().len(), bench.rolled_back), (told, rolled_back), "{policy:?}");
    };
    check(OnAuthorityLoss::Hold, 1, None);
    check(OnAuthorityLoss::Continue, 3, None);
    check(OnAuthorityLoss::Rollback, 0, Some(Cause::AuthorityLoss));
}

#[test]
fn a_stale_timestamp_a_pause_and_an_expired_grant_widen_nothing_and_take_nothing_back() {
    let open = || rollout(vec![grant(digest("new"), 1, u64::MAX)]);
    let check = |close: fn(&mut Desired)| {
        let mut bench = Bench::new(open());
        bench.pass(0);
        assert_eq!(bench.told_new().len(), 1);
        let mut closed = open();
        close(&mut closed);
        bench.step(Input::Desired(closed));
        for _ in 0..5 {
            bench.pass(1_000);
        }
        assert_eq!(bench.told_new().len(), 1);
    };
    check(|desired| desired.fresh_until_unix_ms = Some(0));
    check(|desired| desired.candidate.as_mut().unwrap().paused = true);
    check(|desired| desired.candidate.as_mut().unwrap().grants[0].not_after_unix_ms = 0);
    check(|desired| desired.grant_sequence_min = 2);
}

#[test]
fn under_a_plan_floor_a_stage_waits_for_the_bake_of_the_one_before() {
    let new = digest("new");
    let lowest = ["a", "b", "c"].iter().map(|name| cohort::rank(&new, &id(name))).min().unwrap();
    let mut desired = rollout(vec![grant(new, 1, lowest), grant(new, 2, u64::MAX)]);
    desired.candidate.as_mut().unwrap().bake_min_ms = 60_000;
    let mut bench = Bench::new(desired);
    for _ in 0..59 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new().len(), 1, "a stolen authority key cannot skip the canary");
    for _ in 0..4 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new().len(), 3);
}

#[test]
fn under_a_plan_floor_a_first_stage_wider_than_allowed_moves_only_whom_it_names() {
    let new = digest("new");
    let mut desired = rollout(vec![grant(new, 1, u64::MAX)]);
    desired.candidate.as_mut().unwrap().first_rank_max = Some(0);
    let mut bench = Bench::new(desired.clone());
    bench.pass(1_000);
    assert!(bench.told_new().is_empty());
    desired.candidate.as_mut().unwrap().grants[0].proxy = Some(id("b"));
    bench.step(Input::Desired(desired));
    for _ in 0..3 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new(), ["b"]);
}

#[test]
fn a_cordoned_proxy_sits_out_every_stage_but_the_last() {
    let new = digest("new");
    let mut desired = rollout(vec![grant(new, 1, u64::MAX - 1)]);
    desired.cordoned.insert(id("b"));
    let mut bench = Bench::new(desired.clone());
    for _ in 0..4 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new(), ["a", "c"]);
    desired.candidate.as_mut().unwrap().grants.push(grant(new, 2, u64::MAX));
    bench.step(Input::Desired(desired));
    for _ in 0..4 {
        bench.pass(1_000);
    }
    assert_eq!(bench.told_new(), ["a", "b", "c"]);
}

#[test]
fn the_first_revision_ever_goes_to_all_at_once() {
    let mut desired = rollout(vec![grant(digest("new"), 1, u64::MAX)]);
    desired.stable = None;
    let mut bench = Bench::new(desired);
    bench.pass(0);
    assert_eq!(bench.told_new().len(), 3);
}

#[test]
fn a_completed_rollout_makes_the_candidate_last_good_everywhere() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    for _ in 0..3 {
        bench.pass(1_000);
    }
    bench.step(Input::Desired(Desired { stable: Some(digest("new")), ..Desired::default() }));
    for proxy in bench.machine.proxies.values() {
        let sent = proxy.sent.clone().unwrap();
        let new = Some(digest("new"));
        assert_eq!((sent.active, sent.last_good, sent.grant, sent.releases.len()), (new, new, None, 1));
    }
}

#[test]
fn a_restarted_agent_leaves_a_proxy_on_the_candidate_it_runs() {
    let mut bench = Bench::new(rollout(vec![grant(digest("new"), 1, u64::MAX)]));
    let active = Some(digest("new"));
    bench.machine = Machine::new("eu", 100, bench.now);
    bench.step(Input::Desired(rollout(vec![grant(digest("new"), 1, u64::MAX)])));
    bench.step(Input::Attached { proxy: id("a"), instance: "1".into(), generation: 90 });
    assert!(bench.machine.proxies[&id("a")].sent.is_none(), "nothing is said before it says what it runs");
    bench.seen.get_mut(&id("a")).unwrap().active = active;
    bench.observe("a");
    let sent = bench.machine.proxies[&id("a")].sent.clone().unwrap();
    assert_eq!((sent.active, sent.grant), (active, Some(1)));
    assert!(bench.machine.generation() > 100);
}

#[test]
fn one_proxy_on_the_candidate_starts_it_from_disk_once_more_where_the_plan_says_so() {
    let everyone = |cold_start| {
        let mut desired = rollout(vec![grant(digest("new"), 1, u64::MAX)]);
        desired.candidate.as_mut().unwrap().cold_start = cold_start;
        let mut bench = Bench::new(desired);
        (0..8).for_each(|_| bench.pass(1_000));
        assert_eq!(bench.told_new().len(), 3);
        let asked = |proxy: &&Proxy| proxy.sent.as_ref().is_some_and(|sent| sent.rehearse == Some(digest("new")));
        bench.machine.proxies.values().filter(asked).count()
    };
    assert_eq!((everyone(true), everyone(false)), (1, 0));
}
