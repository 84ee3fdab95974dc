//! An authority with canned answers, on a port of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sealane_proto::v1::audit_service_server::{AuditService, AuditServiceServer};
use sealane_proto::v1::config_service_server::{ConfigService, ConfigServiceServer};
use sealane_proto::v1::fleet_service_server::{FleetService, FleetServiceServer};
use sealane_proto::v1::rollout_service_server::{RolloutService, RolloutServiceServer};
use sealane_proto::v1::*;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// What it answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// Calls without `Bearer` and this text are UNAUTHENTICATED.
    pub(crate) token: Option<String>,
    pub(crate) publish: Option<Result<PublishResponse, Status>>,
    /// What `Validate` finds.
    pub(crate) problems: Vec<Problem>,
    pub(crate) revision: Option<Revision>,
    pub(crate) rollouts: Vec<Rollout>,
    /// For each watch in turn: these states, then the stream breaks. The last one stays open instead.
    pub(crate) watches: Vec<Vec<Rollout>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) audit: VerifyAuditResponse,
}

/// What it was asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) published: Vec<PublishRequest>,
    pub(crate) commands: Vec<(&'static str, RolloutCommand)>,
    pub(crate) watches: usize,
}

/// One that runs; it ends when dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    pub(crate) asked: Arc<Mutex<Asked>>,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn start(script: Script) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), script)
    }

    /// One that speaks TLS, with this PEM certificate and key for `localhost`.
    pub(crate) fn start_tls(script: Script, certificate: &str, key: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let identity = tonic::transport::Identity::from_pem(certificate, key);
        let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
        let builder = tonic::transport::Server::builder().tls_config(tls).unwrap();
        let mut fake = Self::start_with("127.0.0.1:0".parse().unwrap(), script, builder);
        fake.url = format!("https://localhost:{}", fake.address.port());
        fake
    }

    pub(crate) fn start_on(address: SocketAddr, script: Script) -> Self {
        Self::start_with(address, script, tonic::transport::Server::builder())
    }

    fn start_with(address: SocketAddr, script: Script, mut builder: tonic::transport::Server) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let service = Service { script: Arc::new(script), asked: Arc::clone(&asked) };
        runtime.spawn(
            builder
                .add_service(ConfigServiceServer::new(service.clone()).max_decoding_message_size(64 << 20))
                .add_service(RolloutServiceServer::new(service.clone()))
                .add_service(FleetServiceServer::new(service.clone()))
                .add_service(AuditServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, url: format!("http://{address}"), asked, runtime: Some(runtime) }
    }

    /// `sealane … --server HERE`
    pub(crate) fn run(&self, arguments: &[&str]) -> std::process::Output {
        super::sealane().args(arguments).args(["--server", &self.url]).output().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // Cuts every connection, as a killed process does.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Service {
    script: Arc<Script>,
    asked: Arc<Mutex<Asked>>,
}

impl Service {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(token) = &self.script.token else { return Ok(()) };
        let expected = format!("Bearer {token}");
        match request.metadata().get("authorization") {
            Some(given) if given.as_bytes() == expected.as_bytes() => Ok(()),
            Some(_) => Err(Status::unauthenticated("the token is not known")),
            None => Err(Status::unauthenticated("a token is needed")),
        }
    }

    fn rollout(&self, revision: u64) -> Result<Rollout, Status> {
        let found = self.script.rollouts.iter().find(|rollout| revision == 0 || rollout.revision == revision);
        found.cloned().ok_or_else(|| Status::not_found(format!("no rollout of r{revision}")))
    }

    fn command(&self, what: &'static str, command: Option<RolloutCommand>) -> Result<Option<Rollout>, Status> {
        let command = command.unwrap();
        let rollout = self.rollout(command.revision)?;
        self.asked.lock().unwrap().commands.push((what, command));
        Ok(Some(rollout))
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ConfigService for Service {
    async fn validate(&self, _: Request<ValidateRequest>) -> Answer<ValidateResponse> {
        let problems = self.script.problems.clone();
        let valid = problems.iter().all(|problem| problem.severity != "error");
        Ok(Response::new(ValidateResponse { valid, problems }))
    }

    async fn plan(&self, _: Request<PlanRequest>) -> Answer<PlanResponse> {
        Err(Status::unimplemented(""))
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Answer<PublishResponse> {
        self.admit(&request)?;
        self.asked.lock().unwrap().published.push(request.into_inner());
        self.script.publish.clone().unwrap_or_else(|| Err(Status::internal("not in the script"))).map(Response::new)
    }

    async fn get_revision(&self, request: Request<GetRevisionRequest>) -> Answer<GetRevisionResponse> {
        let wanted = request.into_inner();
        let mut revision = self.script.revision.clone().ok_or_else(|| Status::not_found("no such revision"))?;
        if !wanted.with_config {
            revision.config_yaml.clear();
        }
        Ok(Response::new(GetRevisionResponse { revision: Some(revision), etag: "e1".into() }))
    }

    async fn list_revisions(&self, request: Request<ListRevisionsRequest>) -> Answer<ListRevisionsResponse> {
        // One a page, so that paging is needed.
        let newest = self.script.revision.clone().unwrap_or_default();
        let at = request.into_inner().page_token.parse().unwrap_or(newest.revision);
        let revisions = vec![Revision { revision: at, name: format!("r{at}"), ..newest }];
        let next_page_token = if at > 1 { (at - 1).to_string() } else { String::new() };
        Ok(Response::new(ListRevisionsResponse { revisions, next_page_token, etag: "e1".into() }))
    }

    async fn diff_revisions(&self, _: Request<DiffRevisionsRequest>) -> Answer<DiffRevisionsResponse> {
        Ok(Response::new(DiffRevisionsResponse {
            diff: "--- r1\n+++ r2\n@@ -1 +1 @@\n-a\n+b\n".into(),
            changes: Vec::new(),
        }))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        Ok(Response::new(ExplainResponse { revision: 1, decision: "no_route".into(), ..ExplainResponse::default() }))
    }

    async fn approve(&self, _: Request<ApproveRequest>) -> Answer<ApproveResponse> {
        Ok(Response::new(ApproveResponse { revision: self.script.revision.clone() }))
    }

    type ExportRevisionStream = ReceiverStream<Result<ExportRevisionResponse, Status>>;

    async fn export_revision(&self, _: Request<ExportRevisionRequest>) -> Answer<Self::ExportRevisionStream> {
        Err(Status::unimplemented(""))
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        let content_of = request.into_inner().to;
        let revision = self.script.revision.clone().map(|revision| Revision { content_of, ..revision });
        Ok(Response::new(RollbackResponse { revision }))
    }
}

#[tonic::async_trait]
impl RolloutService for Service {
    type WatchStream = ReceiverStream<Result<RolloutServiceWatchResponse, Status>>;

    async fn get(&self, request: Request<RolloutServiceGetRequest>) -> Answer<RolloutServiceGetResponse> {
        self.admit(&request)?;
        Ok(Response::new(RolloutServiceGetResponse { rollout: Some(self.rollout(request.into_inner().revision)?) }))
    }

    async fn list(&self, _: Request<RolloutServiceListRequest>) -> Answer<RolloutServiceListResponse> {
        let rollouts = self.script.rollouts.clone();
        Ok(Response::new(RolloutServiceListResponse { rollouts, next_page_token: String::new() }))
    }

    async fn watch(&self, _: Request<RolloutServiceWatchRequest>) -> Answer<Self::WatchStream> {
        let index = {
            let mut asked = self.asked.lock().unwrap();
            asked.watches += 1;
            asked.watches - 1
        };
        let last = index + 1 >= self.script.watches.len();
        let states = self.script.watches.get(index).or(self.script.watches.last()).cloned();
        let states = states.ok_or_else(|| Status::not_found("no such rollout"))?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            for rollout in states {
                let _ = sender.send(Ok(RolloutServiceWatchResponse { rollout: Some(rollout) })).await;
            }
            if last {
                sender.closed().await;
            } else {
                let _ = sender.send(Err(Status::unavailable("the authority stops"))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn pause(&self, request: Request<RolloutServicePauseRequest>) -> Answer<RolloutServicePauseResponse> {
        let rollout = self.command("pause", request.into_inner().command)?;
        Ok(Response::new(RolloutServicePauseResponse { rollout }))
    }

    async fn resume(&self, request: Request<RolloutServiceResumeRequest>) -> Answer<RolloutServiceResumeResponse> {
        let rollout = self.command("resume", request.into_inner().command)?;
        Ok(Response::new(RolloutServiceResumeResponse { rollout }))
    }

    async fn promote(&self, request: Request<RolloutServicePromoteRequest>) -> Answer<RolloutServicePromoteResponse> {
        let rollout = self.command("promote", request.into_inner().command)?;
        Ok(Response::new(RolloutServicePromoteResponse { rollout }))
    }

    async fn abort(&self, request: Request<RolloutServiceAbortRequest>) -> Answer<RolloutServiceAbortResponse> {
        let rollout = self.command("abort", request.into_inner().command)?;
        Ok(Response::new(RolloutServiceAbortResponse { rollout }))
    }

    async fn retry(&self, request: Request<RolloutServiceRetryRequest>) -> Answer<RolloutServiceRetryResponse> {
        let rollout = self.command("retry", request.into_inner().command)?;
        Ok(Response::new(RolloutServiceRetryResponse { rollout }))
    }

    async fn add_freeze(&self, request: Request<AddFreezeRequest>) -> Answer<AddFreezeResponse> {
        let request = request.into_inner();
        let freeze = Freeze { id: "f1".into(), until: request.until, reason: request.reason, ..Default::default() };
        Ok(Response::new(AddFreezeResponse { freeze: Some(freeze) }))
    }

    async fn list_freezes(&self, _: Request<ListFreezesRequest>) -> Answer<ListFreezesResponse> {
        Ok(Response::new(ListFreezesResponse::default()))
    }

    async fn remove_freeze(&self, _: Request<RemoveFreezeRequest>) -> Answer<RemoveFreezeResponse> {
        Ok(Response::new(RemoveFreezeResponse {}))
    }

    async fn explain(&self, request: Request<RolloutServiceExplainRequest>) -> Answer<RolloutServiceExplainResponse> {
        let rollout = Some(self.rollout(request.into_inner().revision)?);
        let summary = "nothing was decided on evidence".into();
        Ok(Response::new(RolloutServiceExplainResponse { rollout, agrees: true, summary, decisions: Vec::new() }))
    }
}

#[tonic::async_trait]
impl FleetService for Service {
    type WatchStream = ReceiverStream<Result<FleetServiceWatchResponse, Status>>;

    async fn get_fleet(&self, _: Request<GetFleetRequest>) -> Answer<GetFleetResponse> {
        let nodes = self.script.nodes.clone();
        let rollout = self.script.rollouts.first().cloned();
        Ok(Response::new(GetFleetResponse { fleet_id: "fake".into(), epoch: 1, nodes, rollout, ..Default::default() }))
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        Ok(Response::new(ListNodesResponse { nodes: self.script.nodes.clone(), next_page_token: String::new() }))
    }

    async fn watch(&self, _: Request<FleetServiceWatchRequest>) -> Answer<Self::WatchStream> {
        Err(Status::unimplemented(""))
    }

    async fn cordon(&self, request: Request<FleetServiceCordonRequest>) -> Answer<FleetServiceCordonResponse> {
        let wanted = request.into_inner();
        let node = self.script.nodes.iter().find(|node| node.id == wanted.node).cloned();
        let node = node.ok_or_else(|| Status::not_found(format!("no node `{}`", wanted.node)))?;
        Ok(Response::new(FleetServiceCordonResponse { node: Some(Node { cordoned: wanted.cordoned, ..node }) }))
    }

    async fn drain(&self, request: Request<FleetServiceDrainRequest>) -> Answer<FleetServiceDrainResponse> {
        let wanted = request.into_inner();
        let node = self.script.nodes.iter().find(|node| node.id == wanted.node).cloned();
        let node = node.ok_or_else(|| Status::not_found(format!("no node `{}`", wanted.node)))?;
        let connections = if wanted.dry_run { 0 } else { 3 };
        Ok(Response::new(FleetServiceDrainResponse { node: Some(node), connections }))
    }

    async fn revoke(&self, request: Request<FleetServiceRevokeRequest>) -> Answer<FleetServiceRevokeResponse> {
        let wanted = request.into_inner();
        let node = self.script.nodes.iter().find(|node| node.id == wanted.node).cloned();
        let node = node.ok_or_else(|| Status::not_found(format!("no certificate was issued to `{}`", wanted.node)))?;
        let role = if wanted.role.is_empty() { "proxy".to_owned() } else { wanted.role };
        let token = Token { id: "t7".into(), comment: "edge machines".into(), ..Default::default() };
        let (region, tokens) = (node.region, vec![token]);
        Ok(Response::new(FleetServiceRevokeResponse { role, region, certificates: 2, tokens }))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenResponse> {
        let wanted = request.into_inner();
        if wanted.role == "admin" {
            return Err(Status::permission_denied("role publisher may not make tokens of role admin"));
        }
        let token = Token { id: "t7".into(), role: wanted.role, region: wanted.region, ..Default::default() };
        Ok(Response::new(CreateTokenResponse { token: Some(token), text: "slt_secret".into() }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Answer<ListTokensResponse> {
        let token = Token { id: "t7".into(), role: "viewer".into(), ..Default::default() };
        Ok(Response::new(ListTokensResponse { tokens: vec![token] }))
    }

    type TailStream = ReceiverStream<Result<TailResponse, Status>>;

    async fn tail(&self, _: Request<TailRequest>) -> Answer<Self::TailStream> {
        Err(Status::unimplemented(""))
    }

    async fn purge_cache(&self, request: Request<PurgeCacheRequest>) -> Answer<PurgeCacheResponse> {
        let purged = |node: &str, purged, error: &str| NodePurge {
            node: node.into(),
            agent: "a".into(),
            purged,
            error: error.into(),
        };
        let nodes = vec![purged("edge-1", 3, ""), purged("edge-2", 0, "its agent `a` is away")];
        let answered = if request.into_inner().dry_run { 0 } else { 1 };
        Ok(Response::new(PurgeCacheResponse { nodes, asked: 2, answered, purged: 3 }))
    }

    async fn get_cache_stats(&self, _: Request<GetCacheStatsRequest>) -> Answer<GetCacheStatsResponse> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_token(&self, _: Request<RevokeTokenRequest>) -> Answer<RevokeTokenResponse> {
        Ok(Response::new(RevokeTokenResponse {}))
    }
}

#[tonic::async_trait]
impl AuditService for Service {
    async fn list_audit(&self, _: Request<ListAuditRequest>) -> Answer<ListAuditResponse> {
        let entry = AuditEntry { sequence: 1, actor: "t1".into(), action: "publish".into(), ..Default::default() };
        Ok(Response::new(ListAuditResponse { entries: vec![entry], next_page_token: String::new() }))
    }

    async fn verify_audit(&self, _: Request<VerifyAuditRequest>) -> Answer<VerifyAuditResponse> {
        Ok(Response::new(self.script.audit.clone()))
    }
}

/// A rollout of r42 in this state, its stages canary and all in these states.
pub(crate) fn rollout(version: u64, state: RolloutState, canary: &str, all: &str) -> Rollout {
    let stage = |name: &str, percent, state: &str, proxies| StageStatus {
        wave: "all".into(),
        name: name.into(),
        fleet_percent: percent,
        state: state.into(),
        proxies,
        bake: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        ..Default::default()
    };
    let mut rollout = Rollout {
        revision: 42,
        last_good: 41,
        state_version: version,
        proxies: 6,
        stages: vec![stage("canary", 1.0, canary, 1), stage("all", 100.0, all, 5)],
        ..Default::default()
    };
    rollout.set_state(state);
    rollout
}

/// The same, ended with this verdict.
pub(crate) fn ended(state: RolloutState, verdict: &str) -> Rollout {
    Rollout { verdict_line: verdict.into(), ..rollout(9, state, "passed", "passed") }
}

/// The answer to a publish of r42.
pub(crate) fn published() -> PublishResponse {
    let revision = Revision { revision: 42, name: "r42".into(), digest: "ab".repeat(32), ..Default::default() };
    PublishResponse { revision: Some(revision), problems: Vec::new(), etag: "e2".into() }
}
