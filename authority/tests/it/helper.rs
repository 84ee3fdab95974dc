//! A running authority, clients to it, and agents that verify what they are told and report what a test says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_authority::{Authority, Settings, Timing, start};
use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, ProxyId};
use sealane_model::plan::{Plan, StagePlan};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::TrustRoot;
use sealane_proto::v1;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use sealane_proto::v1::audit_service_client::AuditServiceClient;
use sealane_proto::v1::config_service_client::ConfigServiceClient;
use sealane_proto::v1::fleet_service_client::FleetServiceClient;
use sealane_proto::v1::rollout_service_client::RolloutServiceClient;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Nothing here takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const CONFIG: &str = "listen: :8080\nroutes:\n  - path_prefix: /api/\n    to: http://localhost:3000\n";

/// The same config with another port, so that revisions differ.
pub(crate) fn config(port: u16) -> String {
    CONFIG.replace("3000", &port.to_string())
}

/// Stages and bakes of fractions of a second.
pub(crate) fn quick_plan() -> Plan {
    let stage = |name: &str, fleet_percent, bake_ms| StagePlan {
        name: name.into(),
        fleet_percent,
        bake: Duration::from_millis(bake_ms),
    };
    Plan {
        stages: vec![stage("canary", 10.0, 200), stage("half", 50.0, 200), stage("all", 100.0, 0)],
        requests_min: 10,
        final_bake: Duration::from_millis(200),
        ..Plan::default()
    }
}

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        loop {
            looks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

pub(crate) fn settings(data: &Path) -> Settings {
    let mut settings = Settings::loopback(data);
    settings.default_plan = Some(quick_plan());
    settings.tuning.tick = Duration::from_millis(20);
    settings.tuning.beacon_interval = Duration::from_millis(200);
    settings.tuning.rollout = Timing { settle: Duration::from_millis(500), ..Timing::default() };
    settings
}

pub(crate) struct Running {
    pub(crate) authority: Authority,
    pub(crate) token: String,
    pub(crate) folder: Arc<tempfile::TempDir>,
}

#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value: MetadataValue<_> = format!("Bearer {}", self.0).parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub(crate) type Wire = InterceptedService<Channel, Bearer>;

impl Running {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut settings = settings(folder.path());
        change(&mut settings);
        Self::of(folder, settings).await
    }

    pub(crate) async fn of(folder: Arc<tempfile::TempDir>, settings: Settings) -> Self {
        let authority = start(settings).await.unwrap();
        let token = std::fs::read_to_string(folder.path().join("admin.token")).unwrap().trim().to_owned();
        Self { authority, token, folder }
    }

    /// Stops, and starts again on the same directory.
    pub(crate) async fn restart(self) -> Self {
        let folder = Arc::clone(&self.folder);
        self.authority.stop().await;
        let settings = settings(folder.path());
        Self::of(folder, settings).await
    }

    pub(crate) fn wire(&self, token: &str) -> Wire {
        let channel = Endpoint::from_shared(format!("http://{}", self.authority.grpc_addr())).unwrap().connect_lazy();
        InterceptedService::new(channel, Bearer(token.to_owned()))
    }

    pub(crate) fn config(&self) -> ConfigServiceClient<Wire> {
        ConfigServiceClient::new(self.wire(&self.token)).max_decoding_message_size(64 << 20)
    }

    pub(crate) fn rollouts(&self) -> RolloutServiceClient<Wire> {
        RolloutServiceClient::new(self.wire(&self.token))
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Wire> {
        FleetServiceClient::new(self.wire(&self.token))
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Wire> {
        AuditServiceClient::new(self.wire(&self.token))
    }

    pub(crate) async fn make_token(&self, role: &str, region: &str) -> String {
        let request = v1::CreateTokenRequest { role: role.into(), region: region.into(), ..Default::default() };
        self.fleet().create_token(request).await.unwrap().into_inner().text
    }

    pub(crate) async fn publish(&self, text: &str) -> v1::Revision {
        let request = v1::PublishRequest { config_yaml: text.into(), message: "test".into(), ..Default::default() };
        self.config().publish(request).await.unwrap().into_inner().revision.unwrap()
    }

    pub(crate) async fn rollout(&self, revision: u64) -> v1::Rollout {
        let request = v1::RolloutServiceGetRequest { revision };
        self.rollouts().get(request).await.unwrap().into_inner().rollout.unwrap()
    }

    /// Waits until a rollout is as `wanted`.
    pub(crate) async fn until(&self, revision: u64, wanted: impl Fn(&v1::Rollout) -> bool) -> v1::Rollout {
        let request = v1::RolloutServiceWatchRequest { revision };
        let mut stream = self.rollouts().watch(request).await.unwrap().into_inner();
        let mut last = None;
        let wait = async {
            while let Some(response) = stream.message().await.unwrap() {
                let rollout = response.rollout.unwrap();
                if wanted(&rollout) {
                    return Some(rollout);
                }
                last = Some(rollout);
            }
            None
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(Some(rollout)) => rollout,
            _ => panic!("r{revision} did not become as wanted; last seen: {last:#?}"),
        }
    }

    pub(crate) async fn until_state(&self, revision: u64, state: v1::RolloutState) -> v1::Rollout {
        self.until(revision, |rollout| rollout.state() == state).await
    }

    /// An agent with its own token.
    pub(crate) async fn agent(&self, id: &str, region: &str, proxies: &[&str]) -> Agent {
        let token = self.make_token("agent", region).await;
        Agent::join(self.wire(&token), &self.trust(), id, region, proxies)
    }

    pub(crate) fn trust(&self) -> TrustRoot {
        let text = std::fs::read_to_string(self.folder.path().join("trust.json")).unwrap();
        TrustRoot::pinned(&Envelope::from_json(&text).unwrap()).unwrap()
    }

    /// A first revision that has completed on the proxies that are connected.
    pub(crate) async fn baseline(&self) -> v1::Revision {
        let revision = self.publish(CONFIG).await;
        self.until_state(revision.revision, v1::RolloutState::Completed).await;
        revision
    }
}

/// How a simulated proxy behaves on a release.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Behaviour {
    /// Refuses to prepare it.
    pub(crate) refuses: bool,
    /// Failed requests of a hundred.
    pub(crate) fails: u64,
    /// Does not activate.
    pub(crate) stuck: bool,
    /// No traffic.
    pub(crate) idle: bool,
}

#[derive(Clone, Debug, Default)]
struct Proxy {
    id: String,
    active: Option<Digest>,
    prepared: Option<Digest>,
    counts: BTreeMap<Digest, (u64, u64)>,
}

#[derive(Debug, Default)]
struct State {
    proxies: Vec<Proxy>,
    region: String,
    /// By config revision number.
    behaviour: BTreeMap<u64, Behaviour>,
    silent: bool,
    desired: Option<v1::DesiredState>,
    timestamp: Option<Timestamp>,
    beacons: u64,
    revisions: BTreeMap<Digest, u64>,
}

/// A simulated agent: subscribes, verifies everything, reports 50 times a second.
pub(crate) struct Agent {
    state: Arc<Mutex<State>>,
    tasks: Vec<JoinHandle<()>>,
    /// Whenever the agent heard or reported something.
    changed: tokio::sync::watch::Receiver<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Agent {
    pub(crate) fn join(wire: Wire, root: &TrustRoot, id: &str, region: &str, proxies: &[&str]) -> Self {
        let proxies = proxies.iter().map(|id| Proxy { id: (*id).into(), ..Default::default() }).collect();
        let state = State { proxies, region: region.into(), ..Default::default() };
        let state = Arc::new(Mutex::new(state));
        let hello = v1::SubscribeRequest {
            agent_id: id.into(),
            region: region.into(),
            build: "test".into(),
            instance: "one".into(),
            root_version: 1,
            ..Default::default()
        };
        let mut client = AgentServiceClient::new(wire.clone());
        let (shared, trusted, told) = (Arc::clone(&state), root.clone(), hello.clone());
        let (changes, changed) = tokio::sync::watch::channel(());
        let heard = changes.clone();
        let listen = tokio::spawn(async move {
            let mut again = tokio::time::interval(Duration::from_millis(50));
            loop {
                again.tick().await;
                if let Ok(stream) = client.subscribe(told.clone()).await {
                    let mut stream = stream.into_inner();
                    while let Ok(Some(response)) = stream.message().await {
                        shared.lock().unwrap().take(&trusted, response);
                        heard.send_replace(());
                    }
                }
            }
        });
        let mut client = AgentServiceClient::new(wire);
        let shared = Arc::clone(&state);
        let report = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            loop {
                interval.tick().await;
                let report = shared.lock().unwrap().report(&hello);
                if let Some(report) = report {
                    let _ = client.report(report).await;
                }
                changes.send_replace(());
            }
        });
        Self { state, tasks: vec![listen, report], changed }
    }

    pub(crate) fn behave(&self, revision: u64, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour.insert(revision, behaviour);
    }

    pub(crate) fn silence(&self, silent: bool) {
        self.state.lock().unwrap().silent = silent;
    }

    /// What each proxy serves: revision numbers.
    pub(crate) fn active(&self) -> Vec<u64> {
        let state = self.state.lock().unwrap();
        let number = |digest: Option<Digest>| digest.and_then(|one| state.revisions.get(&one).copied()).unwrap_or(0);
        state.proxies.iter().map(|proxy| number(proxy.active)).collect()
    }

    pub(crate) fn beacons(&self) -> u64 {
        self.state.lock().unwrap().beacons
    }

    pub(crate) fn desired(&self) -> Option<v1::DesiredState> {
        self.state.lock().unwrap().desired.clone()
    }

    /// Waits for a value.
    pub(crate) async fn wait(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.clone();
        let wait = async {
            while !wanted(self) {
                changed.changed().await.expect("the agent runs");
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

impl State {
    fn take(&mut self, root: &TrustRoot, response: v1::SubscribeResponse) {
        match response.event.unwrap() {
            v1::subscribe_response::Event::Beacon(beacon) => {
                let envelope = beacon.timestamp.unwrap().into();
                let verified = root.verify_timestamp(&envelope, self.timestamp.as_ref()).unwrap();
                self.timestamp = Some(verified.timestamp().clone());
                self.beacons += 1;
            }
            v1::subscribe_response::Event::Question(_) => {}
            v1::subscribe_response::Event::Desired(desired) => {
                if let Some(before) = &self.desired {
                    assert!(desired.state_version >= before.state_version, "the state version fell");
                }
                let envelope = desired.timestamp.clone().unwrap().into();
                let verified = root.verify_timestamp(&envelope, self.timestamp.as_ref()).unwrap();
                self.timestamp = Some(verified.timestamp().clone());
                let candidate = desired.candidate.clone().and_then(|one| one.release);
                for envelope in [desired.stable.clone(), candidate].into_iter().flatten() {
                    let release = root.verify_release(&envelope.into()).unwrap();
                    self.revisions.insert(release.digest(), release.release().revision.0);
                }
                self.desired = Some(desired);
                self.act(root);
            }
        }
    }

    /// Every proxy does what it should, at once.
    fn act(&mut self, root: &TrustRoot) {
        let Some(desired) = self.desired.clone() else { return };
        let verify = |envelope: v1::Envelope| root.verify_release(&envelope.into()).unwrap();
        let stable = desired.stable.map(verify);
        let sequence_min = self.timestamp.as_ref().map_or(0, |one| one.grant_sequence_min);
        let candidate = desired.candidate.map(|candidate| {
            let release = verify(candidate.release.unwrap());
            let grants: Vec<_> = candidate
                .grants
                .into_iter()
                .map(|grant| root.verify_grant(&grant.into()).unwrap().grant().clone())
                .collect();
            for grant in &grants {
                grant.check(&release, sequence_min, 0).unwrap();
            }
            (release, grants, candidate.paused)
        });
        let region = self.region.clone();
        for proxy in &mut self.proxies {
            let mut target = stable.as_ref().map(|release| release.digest());
            if let Some((release, grants, paused)) = &candidate {
                let behaviour = self.behaviour.get(&release.release().revision.0).cloned().unwrap_or_default();
                if !behaviour.refuses {
                    proxy.prepared = Some(release.digest());
                }
                let is_granted = grants.iter().any(|grant| grant.covers(&ProxyId(proxy.id.clone()), &region));
                if is_granted && !behaviour.stuck && !behaviour.refuses {
                    target = Some(release.digest());
                }
                if *paused && proxy.active.is_some() {
                    continue;
                }
            }
            if let Some(target) = target {
                proxy.active = Some(target);
            }
        }
    }

    fn report(&mut self, hello: &v1::SubscribeRequest) -> Option<v1::ReportRequest> {
        if self.silent {
            return None;
        }
        let desired = self.desired.as_ref()?;
        let state_version = desired.state_version;
        let candidate = desired.candidate.as_ref().and_then(|one| one.release.as_ref());
        let candidate = candidate.map(|release| Digest::of(&release.payload));
        let mut proxies = Vec::new();
        for proxy in &mut self.proxies {
            let number = |digest: &Digest| self.revisions.get(digest).copied().unwrap_or(0);
            let behaviour_of = |digest: &Digest| self.behaviour.get(&number(digest)).cloned().unwrap_or_default();
            if let Some(active) = &proxy.active {
                let behaviour = behaviour_of(active);
                if !behaviour.idle {
                    let (requests, failed) = proxy.counts.entry(*active).or_default();
                    *requests += 100;
                    *failed += behaviour.fails;
                }
            }
            let mut status = v1::ProxyStatus {
                proxy_id: proxy.id.clone(),
                build: "test".into(),
                instance: "one".into(),
                attached: true,
                ready: true,
                active_digest: proxy.active.map(|one| one.to_vec()).unwrap_or_default(),
                active_revision: proxy.active.as_ref().map_or(0, number),
                prepared_digest: proxy.prepared.map(|one| one.to_vec()).unwrap_or_default(),
                prepared_revision: proxy.prepared.as_ref().map_or(0, number),
                data_address: "127.0.0.1:8080".into(),
                ..Default::default()
            };
            for (digest, (requests, failed)) in &proxy.counts {
                status.counts.push(v1::RevisionCounts {
                    revision: number(digest),
                    release_digest: digest.to_vec(),
                    requests: *requests,
                    failed: *failed,
                    latency_bucket: vec![40],
                    latency_count: vec![*requests],
                    ..Default::default()
                });
            }
            if let Some(candidate) = &candidate
                && behaviour_of(candidate).refuses
            {
                status.refused_digest = candidate.to_vec();
                status.problems.push(v1::Problem {
                    code: "cannot_bind".into(),
                    severity: "error".into(),
                    message: "address in use".into(),
                    file: "config.yaml".into(),
                    line: 1,
                    column: 9,
                    path: "listeners[0].address".into(),
                    ..Default::default()
                });
            }
            proxies.push(status);
        }
        Some(v1::ReportRequest {
            agent_id: hello.agent_id.clone(),
            instance: hello.instance.clone(),
            state_version,
            proxies,
            ..Default::default()
        })
    }
}
