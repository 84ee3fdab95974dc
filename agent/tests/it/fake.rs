//! Both neighbours of an agent: an authority that serves what a test says, and a proxy that does as it is told.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use sealane_agent::{Agent, Settings};
use sealane_model::bundle::{Resource, pack};
use sealane_model::envelope::Envelope;
use sealane_model::grant::Grant;
use sealane_model::ids::{Digest, Epoch, FleetId, ProxyId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::plan::Plan;
use sealane_model::release::{ChangeClass, Partition, Release, SCHEMA};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::{PlanFloor, Role, RootDocument, RootKey, TrustRoot};
use sealane_proto::v1;
use sealane_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use sealane_proto::v1::proxy_control_service_client::ProxyControlServiceClient;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Waits for a value, at most ten seconds.
pub(crate) async fn wait<T: Clone + std::fmt::Debug>(
    receiver: &mut watch::Receiver<T>,
    what: &str,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    let now = receiver.clone();
    let found = tokio::time::timeout(Duration::from_secs(15), receiver.wait_for(wanted)).await;
    match found {
        Ok(value) => value.expect("its sender lives").clone(),
        Err(_) => panic!("waited in vain for {what}; it is {:?}", *now.borrow()),
    }
}

/// What signs.
pub(crate) struct Fleet {
    pub(crate) key: SigningKey,
    /// Where releases need two.
    pub(crate) second: Option<SigningKey>,
    pub(crate) root: Envelope,
    pub(crate) name: String,
}

/// A signed revision with its content.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) envelope: Envelope,
    pub(crate) digest: Digest,
    pub(crate) revision: u64,
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Fleet {
    pub(crate) fn new(name: &str, entropy: u8) -> Self {
        let key = SigningKey::from_entropy([entropy; 32]);
        let document = RootDocument::single_key(FleetId(name.to_owned()), &key.public(), 0);
        let root = document.sign(&[&key]);
        Self { key, second: None, root, name: name.to_owned() }
    }

    /// A fleet whose releases two keys must sign.
    pub(crate) fn two_of_two(name: &str, entropy: u8) -> Self {
        let (fleet, second) = (Self::new(name, entropy), SigningKey::from_entropy([entropy + 1; 32]));
        let mut document = TrustRoot::pinned(&fleet.root).unwrap().document().clone();
        document.keys.push(RootKey { key: second.public(), offline: true, comment: String::new() });
        for role in document.roles.iter_mut().filter(|role| role.role == Role::Release) {
            role.key_ids.push(second.public().id());
            role.threshold = 2;
        }
        let root = document.sign(&[&fleet.key]);
        Self { second: Some(second), root, ..fleet }
    }

    /// A fleet whose trust root has a plan floor.
    pub(crate) fn with_floor(name: &str, entropy: u8, floor: PlanFloor) -> Self {
        let fleet = Self::new(name, entropy);
        let mut document = TrustRoot::pinned(&fleet.root).unwrap().document().clone();
        document.plan_floor = floor;
        let root = document.sign(&[&fleet.key]);
        Self { root, ..fleet }
    }

    pub(crate) fn release(&self, revision: u64, text: &str, change: impl FnOnce(&mut Release)) -> Signed {
        let resource = Resource { kind: "config".into(), name: "fleet.yaml".into(), content: text.as_bytes().to_vec() };
        self.release_of(revision, resource, change)
    }

    /// A revision of the sandbox partition.
    pub(crate) fn sandbox(&self, revision: u64, routes: &str) -> Signed {
        let content = routes.as_bytes().to_vec();
        self.release_of(revision, Resource { kind: "sandbox".into(), name: "routes.json".into(), content }, as_sandbox)
    }

    pub(crate) fn release_of(&self, revision: u64, resource: Resource, change: impl FnOnce(&mut Release)) -> Signed {
        let packed = pack(vec![resource]).unwrap();
        let mut release = Release {
            fleet: FleetId(self.name.clone()),
            epoch: Epoch(0),
            revision: Revision(revision),
            partition: Partition::Config,
            manifest_digest: packed.manifest_digest,
            manifest_bytes: packed.manifest.len() as u64,
            base: None,
            capabilities: vec![],
            schema_min: SCHEMA,
            schema_max: SCHEMA,
            plan: Plan::default(),
            change_class: ChangeClass::Standard,
            author: "a test".into(),
            message: String::new(),
            created_at_unix_ms: 0,
            producer: "test".into(),
        };
        change(&mut release);
        let keys: Vec<&SigningKey> = std::iter::once(&self.key).chain(&self.second).collect();
        let envelope = release.sign(&keys);
        let digest = Digest::of(&envelope.payload);
        let mut blobs: BTreeMap<_, _> = packed.chunks.into_iter().collect();
        blobs.insert(packed.manifest_digest, packed.manifest);
        Signed { envelope, digest, revision, blobs }
    }

    pub(crate) fn timestamp(&self, head: &Signed, time_unix_ms: i64, grant_sequence_min: u64) -> Envelope {
        let timestamp = Timestamp {
            fleet: FleetId(self.name.clone()),
            epoch: Epoch(0),
            heads: vec![(Partition::Config, Revision(head.revision), head.digest)],
            time_unix_ms,
            expires_unix_ms: i64::MAX / 2,
            grant_sequence_min,
            root_version: 1,
            audit_head: vec![],
        };
        timestamp.sign(&[&self.key])
    }

    pub(crate) fn grant(&self, of: &Signed, sequence: u64, cut: u64) -> Envelope {
        let grant = Grant {
            fleet: FleetId(self.name.clone()),
            epoch: Epoch(0),
            revision: Revision(of.revision),
            release_digest: of.digest,
            wave: 0,
            stage: 0,
            cut,
            regions: vec!["*".into()],
            sequence,
            not_after_unix_ms: i64::MAX / 2,
            proxy: None::<ProxyId>,
        };
        grant.sign(&[&self.key])
    }

    /// A desired state with these revisions; time and head are those of the newest.
    pub(crate) fn desired(
        &self,
        stable: Option<&Signed>,
        candidate: Option<(&Signed, Vec<Envelope>)>,
    ) -> v1::DesiredState {
        let newest = candidate.as_ref().map(|(signed, _)| *signed).or(stable).unwrap();
        v1::DesiredState {
            state_version: newest.revision,
            roots: vec![],
            timestamp: Some((&self.timestamp(newest, newest.revision as i64, 0)).into()),
            stable: stable.map(|signed| (&signed.envelope).into()),
            candidate: candidate.map(|(signed, grants)| v1::Candidate {
                release: Some((&signed.envelope).into()),
                grants: grants.iter().map(Into::into).collect(),
                paused: false,
            }),
            withdrawn: vec![],
            ..v1::DesiredState::default()
        }
    }
}

/// Makes a release one of the sandbox partition.
pub(crate) fn as_sandbox(release: &mut Release) {
    (release.partition, release.change_class) = (Partition::Sandbox, ChangeClass::Sandbox);
}

#[derive(Default)]
struct Served {
    blobs: HashMap<Digest, Vec<u8>>,
    token: Option<String>,
    /// Signs certificate requests.
    ca: Option<Issuer<'static, KeyPair>>,
    ca_pem: String,
    enrolled: u32,
    /// Answered in place of the content.
    packed: HashMap<Digest, Vec<u8>>,
    /// Hashes of the audit log's entries.
    audit: Vec<Digest>,
}

/// An authority that serves what it is given.
pub(crate) struct Authority {
    pub(crate) address: SocketAddr,
    desired: watch::Sender<Option<v1::DesiredState>>,
    pub(crate) reports: watch::Receiver<Option<v1::ReportRequest>>,
    pub(crate) hellos: watch::Receiver<Vec<v1::SubscribeRequest>>,
    served: Arc<Mutex<Served>>,
    cancel: CancellationToken,
}

struct Service {
    desired: watch::Receiver<Option<v1::DesiredState>>,
    reports: watch::Sender<Option<v1::ReportRequest>>,
    hellos: watch::Sender<Vec<v1::SubscribeRequest>>,
    served: Arc<Mutex<Served>>,
    cancel: CancellationToken,
}

impl Authority {
    pub(crate) async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// One that speaks TLS and hands out certificates. Gives its CA too.
    pub(crate) async fn start_tls() -> (Self, String) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let ca = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(leaf.pem(), key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(&ca_pem))
            .client_auth_optional(true);
        let authority = Self::serve(SocketAddr::from(([127, 0, 0, 1], 0)), Some(tls)).await;
        authority.served.lock().unwrap().ca = Some(ca);
        authority.served.lock().unwrap().ca_pem.clone_from(&ca_pem);
        (authority, ca_pem)
    }

    /// How often an agent enrolled.
    pub(crate) fn enrolled(&self) -> u32 {
        self.served.lock().unwrap().enrolled
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::serve(address, None).await
    }

    async fn serve(address: SocketAddr, tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (desired, desired_out) = watch::channel(None);
        let (reports_in, reports) = watch::channel(None);
        let (hellos_in, hellos) = watch::channel(Vec::new());
        let served = Arc::<Mutex<Served>>::default();
        let cancel = CancellationToken::new();
        let service = Service {
            desired: desired_out,
            reports: reports_in,
            hellos: hellos_in,
            served: Arc::clone(&served),
            cancel: cancel.clone(),
        };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let server = server
            .add_service(AgentServiceServer::new(service))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), cancel.clone().cancelled_owned());
        tokio::spawn(server);
        Self { address, desired, reports, hellos, served, cancel }
    }

    pub(crate) fn require_token(&self, token: &str) {
        self.served.lock().unwrap().token = Some(token.to_owned());
    }

    pub(crate) fn hold(&self, signed: &Signed) {
        self.served.lock().unwrap().blobs.extend(signed.blobs.clone());
    }

    /// Serves compressed bytes under the name of a blob.
    pub(crate) fn pack(&self, digest: Digest, deflated: Vec<u8>) {
        self.served.lock().unwrap().packed.insert(digest, deflated);
    }

    /// What the audit log says from now on.
    pub(crate) fn audit(&self, entries: &[Digest]) {
        self.served.lock().unwrap().audit = entries.to_vec();
    }

    /// Serves other bytes under the name of a blob.
    pub(crate) fn tamper(&self, digest: Digest, content: &[u8]) {
        self.served.lock().unwrap().blobs.insert(digest, content.to_vec());
    }

    pub(crate) fn offer(&self, desired: v1::DesiredState) {
        self.desired.send_replace(Some(desired));
    }

    pub(crate) fn stop(self) -> SocketAddr {
        self.cancel.cancel();
        self.address
    }

    /// Waits for a report.
    pub(crate) async fn report(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&v1::ReportRequest) -> bool,
    ) -> v1::ReportRequest {
        wait(&mut self.reports, what, |report| report.as_ref().is_some_and(&mut wanted)).await.unwrap()
    }
}

impl Service {
    /// Over TLS the certificate counts, else the token.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.served.lock().unwrap().ca.is_none() {
            return self.check_token(request);
        }
        if request.metadata().contains_key("authorization") {
            return Err(Status::invalid_argument("a token where the certificate speaks"));
        }
        request.peer_certs().map(drop).ok_or(Status::unauthenticated("no certificate"))
    }

    fn check_token<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let served = self.served.lock().unwrap();
        let Some(token) = &served.token else { return Ok(()) };
        let sent = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if sent == Some(&format!("Bearer {token}")) { Ok(()) } else { Err(Status::unauthenticated("no such token")) }
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        self.check_token(&request)?;
        let mut served = self.served.lock().unwrap();
        served.enrolled += 1;
        let ca = served.ca.as_ref().ok_or(Status::unimplemented("plain loopback"))?;
        let mut asked = CertificateSigningRequestParams::from_pem(&request.get_ref().certificate_request_pem).unwrap();
        asked.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        asked.params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let certificate_pem = asked.signed_by(ca).unwrap().pem();
        let ca_pem = served.ca_pem.clone();
        Ok(Response::new(v1::EnrolResponse { certificate_pem, ca_pem, ..v1::EnrolResponse::default() }))
    }

    async fn enrol_proxy(&self, _: Request<v1::EnrolProxyRequest>) -> Result<Response<v1::EnrolProxyResponse>, Status> {
        Err(Status::unimplemented("no proxies enrol here"))
    }

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.check(&request)?;
        self.hellos.send_modify(|hellos| hellos.push(request.into_inner()));
        let beacon = v1::subscribe_response::Event::Beacon(v1::Beacon { timestamp: None });
        let first = futures_util::stream::iter([Ok(v1::SubscribeResponse { event: Some(beacon) })]);
        let rest = WatchStream::new(self.desired.clone()).filter_map(|desired| async move {
            let event = v1::subscribe_response::Event::Desired(desired?);
            Some(Ok(v1::SubscribeResponse { event: Some(event) }))
        });
        let ended = self.cancel.clone().cancelled_owned();
        Ok(Response::new(Box::pin(first.chain(rest).take_until(ended))))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        self.check(&request)?;
        self.reports.send_replace(Some(request.into_inner()));
        Ok(Response::new(v1::ReportResponse { next_report_ms: 1_000 }))
    }

    async fn get_chunk(&self, request: Request<v1::GetChunkRequest>) -> Result<Response<v1::GetChunkResponse>, Status> {
        self.check(&request)?;
        let digest = Digest::from_slice(&request.into_inner().digest).unwrap();
        if let Some(deflated) = self.served.lock().unwrap().packed.get(&digest).cloned() {
            return Ok(Response::new(v1::GetChunkResponse { deflated: deflated.into(), ..Default::default() }));
        }
        let content = self.served.lock().unwrap().blobs.get(&digest).cloned();
        let answer =
            |content: Vec<u8>| Response::new(v1::GetChunkResponse { content: content.into(), ..Default::default() });
        content.map(answer).ok_or(Status::not_found("no such blob"))
    }

    async fn pass_answer(
        &self,
        request: Request<v1::PassAnswerRequest>,
    ) -> Result<Response<v1::PassAnswerResponse>, Status> {
        self.check(&request)?;
        Ok(Response::new(v1::PassAnswerResponse { done: true }))
    }

    async fn get_audit_proof(
        &self,
        request: Request<v1::GetAuditProofRequest>,
    ) -> Result<Response<v1::GetAuditProofResponse>, Status> {
        self.check(&request)?;
        let from = Digest::from_slice(&request.into_inner().from_head);
        let audit = self.served.lock().unwrap().audit.clone();
        let at = (0..=audit.len()).find(|count| audit_head(&audit[..*count]) == from);
        let entries = at.map(|at| audit[at..].iter().map(|entry| entry.to_vec()).collect()).unwrap_or_default();
        Ok(Response::new(v1::GetAuditProofResponse { found: at.is_some(), entries }))
    }
}

/// Settings of an agent in `directory` under `authority`.
pub(crate) fn settings(directory: &Path, fleet: &Fleet, authority: SocketAddr) -> Settings {
    let trust = directory.join("trust.json");
    std::fs::write(&trust, fleet.root.to_json()).unwrap();
    let mut settings = Settings::new("eu", &format!("http://{authority}"), trust, directory.join("agent"));
    settings.id = Some("eu-1".into());
    settings.grpc_addr = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.http_addr = SocketAddr::from(([127, 0, 0, 1], 0));
    settings
}

/// A proxy that does as it is told, over the real protocol.
pub(crate) struct Proxy {
    pub(crate) client: ProxyControlServiceClient<Channel>,
    pub(crate) desired: watch::Receiver<Option<v1::ProxyDesired>>,
    /// The newest sandbox revision that it was offered.
    pub(crate) sandbox: watch::Receiver<Option<v1::Envelope>>,
    pub(crate) status: v1::ProxyStatus,
    stream: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn attach(agent: &Agent, fleet: &Fleet, id: &str, instance: &str) -> Result<Self, Status> {
        Self::attach_to(&format!("http://{}", agent.grpc_addr()), fleet, id, instance).await
    }

    pub(crate) async fn attach_to(url: &str, fleet: &Fleet, id: &str, instance: &str) -> Result<Self, Status> {
        Self::attach_with(url, fleet, id, instance, None).await
    }

    /// One that shows what it has taken in before.
    pub(crate) async fn attach_with(
        url: &str,
        fleet: &Fleet,
        id: &str,
        instance: &str,
        newest: Option<&Envelope>,
    ) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        let mut client = ProxyControlServiceClient::new(channel);
        let request = v1::AttachRequest {
            proxy_id: id.into(),
            build: "test".into(),
            instance: instance.into(),
            generation: 0,
            root_version: 1,
            fleet_id: fleet.name.clone(),
            newest: newest.map(Into::into),
        };
        let mut stream = client.attach(request).await?.into_inner();
        let (sender, desired) = watch::channel(None);
        let (offers, sandbox) = watch::channel(None);
        let stream = tokio::spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                match response.event {
                    Some(v1::attach_response::Event::Desired(desired)) => drop(sender.send_replace(Some(desired))),
                    Some(v1::attach_response::Event::Sandbox(offer)) => drop(offers.send_replace(offer.release)),
                    Some(_) | None => {}
                }
            }
        });
        let status = v1::ProxyStatus {
            proxy_id: id.into(),
            instance: instance.into(),
            ready: true,
            ..v1::ProxyStatus::default()
        };
        let mut proxy = Self { client, desired, sandbox, status, stream };
        proxy.observe().await?;
        Ok(proxy)
    }

    pub(crate) async fn observe(&mut self) -> Result<(), Status> {
        let request = v1::ObserveRequest { status: Some(self.status.clone()) };
        self.client.observe(request).await.map(drop)
    }

    /// Waits for a command and does it.
    pub(crate) async fn obey(&mut self, what: &str, wanted: impl Fn(&v1::ProxyDesired) -> bool) -> v1::ProxyDesired {
        let desired = wait(&mut self.desired, what, |desired| desired.as_ref().is_some_and(&wanted)).await.unwrap();
        self.status.generation = desired.generation;
        if !desired.active_digest.is_empty() {
            self.status.active_digest.clone_from(&desired.active_digest);
        }
        let active = &self.status.active_digest;
        let releases = desired.releases.iter().map(|envelope| Digest::of(&envelope.payload).to_vec());
        self.status.prepared_digest = releases.rev().find(|digest| digest != active).unwrap_or_default();
        self.observe().await.unwrap();
        desired
    }

    /// Dies: the stream ends without a goodbye.
    pub(crate) fn kill(self) {
        self.stream.abort();
    }

    pub(crate) async fn fetch(&mut self, digest: Digest) -> Result<Vec<u8>, Status> {
        let request = v1::FetchChunkRequest { digest: digest.to_vec() };
        Ok(self.client.fetch_chunk(request).await?.into_inner().content)
    }
}

/// The head of an audit log with these entries.
pub(crate) fn audit_head(entries: &[Digest]) -> Option<Digest> {
    entries.iter().fold(None, |head, entry| Some(sealane_model::audit::next_head(head.as_ref(), entry)))
}

/// Every file below a directory with the digest of its bytes.
pub(crate) fn files(directory: &Path) -> BTreeMap<String, Digest> {
    let mut files = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.is_file() {
                let digest = Digest::of(&std::fs::read(&path).unwrap());
                files.insert(path.strip_prefix(directory).unwrap().display().to_string(), digest);
            }
        }
    }
    files
}
