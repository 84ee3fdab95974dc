//! An agent that commands what a test says, and the fleet that signs.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use sealane_model::bundle::{Resource, pack};
use sealane_model::envelope::Envelope;
use sealane_model::grant::Grant;
use sealane_model::ids::{Digest, Epoch, FleetId, ProxyId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::plan::Plan;
use sealane_model::release::{ChangeClass, Partition, Release, SCHEMA};
use sealane_model::trust::{Role, RootDocument, RootKey, TrustRoot};
use sealane_proto::v1;
use sealane_proto::v1::proxy_control_service_server::{ProxyControlService, ProxyControlServiceServer};
use sealane_proxy::control::{AgentAddress, Control, ControlSettings, Enrolment, Source, attach};
use sealane_proxy::proxy::Proxy;
use sealane_proxy::settings::Settings;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A config that binds a free port.
pub(crate) fn config(note: &str) -> String {
    format!("# {note}\nlisten: 127.0.0.1:0\nroutes:\n  - to: http://127.0.0.1:9\n")
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

    /// The fleet under version 2 of its root: the old key keeps only the past.
    pub(crate) fn rotate(&self, entropy: u8) -> (Self, Envelope) {
        let key = SigningKey::from_entropy([entropy; 32]);
        let mut document = RootDocument::single_key(FleetId(self.name.clone()), &key.public(), 0);
        document.version = 2;
        let root = document.sign(&[&self.key, &key]);
        (Self { key, second: None, root: root.clone(), name: self.name.clone() }, root)
    }

    pub(crate) fn release(&self, revision: u64, text: &str) -> Signed {
        self.release_as(revision, text, |_| {})
    }

    pub(crate) fn release_as(&self, revision: u64, text: &str, change: impl FnOnce(&mut Release)) -> Signed {
        let resource = Resource { kind: "config".into(), name: "fleet.yaml".into(), content: text.as_bytes().to_vec() };
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

    pub(crate) fn grant(&self, of: &Signed, change: impl FnOnce(&mut Grant)) -> Envelope {
        let mut grant = Grant {
            fleet: FleetId(self.name.clone()),
            epoch: Epoch(0),
            revision: Revision(of.revision),
            release_digest: of.digest,
            wave: 0,
            stage: 0,
            cut: u64::MAX,
            regions: vec!["eu".into()],
            sequence: 1,
            not_after_unix_ms: i64::MAX / 2,
            proxy: None::<ProxyId>,
        };
        change(&mut grant);
        grant.sign(&[&self.key])
    }
}

/// A command to hold `releases` and serve `active`; the first one is last good.
pub(crate) fn command(generation: u64, releases: &[&Signed], active: &Signed) -> v1::ProxyDesired {
    v1::ProxyDesired {
        generation,
        releases: releases.iter().map(|signed| (&signed.envelope).into()).collect(),
        active_digest: active.digest.to_vec(),
        last_good_digest: releases[0].digest.to_vec(),
        ..v1::ProxyDesired::default()
    }
}

/// An agent that serves what it is given.
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    desired: watch::Sender<Option<v1::ProxyDesired>>,
    pub(crate) statuses: watch::Receiver<Option<v1::ProxyStatus>>,
    pub(crate) hellos: watch::Receiver<Vec<v1::AttachRequest>>,
    blobs: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
    cancel: CancellationToken,
}

struct Service {
    desired: watch::Receiver<Option<v1::ProxyDesired>>,
    statuses: watch::Sender<Option<v1::ProxyStatus>>,
    hellos: watch::Sender<Vec<v1::AttachRequest>>,
    blobs: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
    cancel: CancellationToken,
}

impl Agent {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (desired, desired_out) = watch::channel(None);
        let (statuses_in, statuses) = watch::channel(None);
        let (hellos_in, hellos) = watch::channel(Vec::new());
        let blobs = Arc::<Mutex<HashMap<_, _>>>::default();
        let cancel = CancellationToken::new();
        let service = Service {
            desired: desired_out,
            statuses: statuses_in,
            hellos: hellos_in,
            blobs: Arc::clone(&blobs),
            cancel: cancel.clone(),
        };
        let server = Server::builder()
            .add_service(ProxyControlServiceServer::new(service))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), cancel.clone().cancelled_owned());
        tokio::spawn(server);
        Self { address, desired, statuses, hellos, blobs, cancel }
    }

    pub(crate) fn hold(&self, signed: &Signed) {
        self.blobs.lock().unwrap().extend(signed.blobs.clone());
    }

    pub(crate) fn tamper(&self, digest: Digest, content: &[u8]) {
        self.blobs.lock().unwrap().insert(digest, content.to_vec());
    }

    pub(crate) fn command(&self, desired: v1::ProxyDesired) {
        self.desired.send_replace(Some(desired));
    }

    pub(crate) fn stop(self) {
        self.cancel.cancel();
    }

    /// Waits for an observation, at most ten seconds.
    pub(crate) async fn status(&mut self, what: &str, wanted: impl Fn(&v1::ProxyStatus) -> bool) -> v1::ProxyStatus {
        let newest = self.statuses.clone();
        let found = self.statuses.wait_for(|status| status.as_ref().is_some_and(&wanted));
        match tokio::time::timeout(Duration::from_secs(10), found).await {
            Ok(status) => status.expect("its sender lives").clone().unwrap(),
            Err(_) => panic!("waited in vain for {what}; it is {:?}", newest.borrow().as_ref().map(brief)),
        }
    }
}

fn brief(status: &v1::ProxyStatus) -> v1::ProxyStatus {
    v1::ProxyStatus { counts: vec![], ..status.clone() }
}

#[tonic::async_trait]
impl ProxyControlService for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::AttachResponse, Status>> + Send>>;

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        self.hellos.send_modify(|hellos| hellos.push(request.into_inner()));
        let commands = WatchStream::new(self.desired.clone()).filter_map(|desired| async move {
            let event = v1::attach_response::Event::Desired(desired?);
            Some(Ok(v1::AttachResponse { event: Some(event) }))
        });
        Ok(Response::new(Box::pin(commands.take_until(self.cancel.clone().cancelled_owned()))))
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveResponse>, Status> {
        self.statuses.send_replace(request.into_inner().status);
        Ok(Response::new(v1::ObserveResponse {}))
    }

    async fn enrol_proxy(&self, _: Request<v1::EnrolProxyRequest>) -> Result<Response<v1::EnrolProxyResponse>, Status> {
        Err(Status::unimplemented("no proxies enrol here"))
    }

    async fn answer(&self, _: Request<v1::AnswerRequest>) -> Result<Response<v1::AnswerResponse>, Status> {
        Ok(Response::new(v1::AnswerResponse { done: true }))
    }

    async fn fetch_chunk(
        &self,
        request: Request<v1::FetchChunkRequest>,
    ) -> Result<Response<v1::FetchChunkResponse>, Status> {
        let digest = Digest::from_slice(&request.into_inner().digest).unwrap();
        let content = self.blobs.lock().unwrap().get(&digest).cloned();
        let content = content.ok_or_else(|| Status::not_found("no such blob"))?;
        Ok(Response::new(v1::FetchChunkResponse { content }))
    }
}

/// Settings of a proxy in `directory` under the agent at `address`.
pub(crate) fn settings(directory: &Path, fleet: &Fleet, address: SocketAddr) -> ControlSettings {
    let trust = directory.join("trust.json");
    std::fs::write(&trust, fleet.root.to_json()).unwrap();
    ControlSettings {
        id: Some("p1".into()),
        source: Source::Agent(AgentAddress::Http(address.to_string())),
        enrolment: Enrolment::default(),
        trust,
        data: directory.join("proxy"),
    }
}

/// A proxy with one worker, attached.
pub(crate) async fn start(settings: ControlSettings) -> (Proxy, Control) {
    start_with(Settings { threads: 1, ..Settings::default() }, settings).await
}

/// The same with settings of its own.
pub(crate) async fn start_with(own: Settings, settings: ControlSettings) -> (Proxy, Control) {
    let proxy = Proxy::start(own).await.unwrap();
    let control = attach(proxy.clone(), settings).await.unwrap();
    (proxy, control)
}

/// Ends both.
pub(crate) async fn stop(proxy: Proxy, control: Control) {
    control.stop().await;
    proxy.stop().await;
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
            } else {
                let digest = Digest::of(&std::fs::read(&path).unwrap());
                files.insert(path.strip_prefix(directory).unwrap().display().to_string(), digest);
            }
        }
    }
    files
}
