//! gRPC towards the proxies: convert, ask the driver, convert. No decisions.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use sealane_model::bundle::MANIFEST_BYTES_MAX;
use sealane_model::envelope::Envelope;
use sealane_model::ids::Digest;
use sealane_node::blobs::Blobs;
use sealane_node::disk;
use sealane_node::keyring::Stranger;
use sealane_node::listen::Peer;
use sealane_proto::v1::attach_response::Event;
use sealane_proto::v1::proxy_control_service_server::{ProxyControlService, ProxyControlServiceServer};
use sealane_proto::{convert, v1};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::authority::AuthorityLink;
use crate::door::Door;
use crate::fetch;
use crate::ledger::{ChangeError, Ledger};
use crate::questions::Questions;
use crate::refusal::Refusals;
use crate::rollout::driver::{Ask, AttachError, Attached, ObserveError};

/// The service that proxies attach to.
#[derive(Clone, Debug)]
pub(crate) struct ProxyControl {
    pub(crate) door: Door,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) ledger: Ledger,
    pub(crate) blobs: Blobs,
    pub(crate) link: AuthorityLink,
    pub(crate) refusals: Refusals,
    pub(crate) questions: Questions,
    pub(crate) repairs: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::AttachResponse, Status>> + Send>>;

impl ProxyControl {
    /// The service with its limits.
    pub(crate) fn into_server(self) -> ProxyControlServiceServer<Self> {
        ProxyControlServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    pub(crate) async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Status::unavailable("the agent is stopping");
        self.asks.send(ask(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    pub(crate) async fn read(&self, digest: Digest) -> Result<Vec<u8>, Status> {
        let blobs = self.blobs.clone();
        match fetch::blocking(move || blobs.read(&digest)).await {
            Ok(Some(content)) => return Ok(content),
            Ok(None) => {}
            Err(error) => tracing::error!(error = disk::chain(&error), "cannot read a blob"),
        }
        if !self.ledger.state().referenced().contains(&digest) {
            return Err(Status::not_found("no revision that this agent holds needs it"));
        }
        let _turn = self.repairs.acquire().await.map_err(|_| Status::unavailable("the agent is stopping"))?;
        fetch::fetch_one("damaged blob", digest, MANIFEST_BYTES_MAX, &self.blobs, &self.link).await.map_err(|error| {
            tracing::error!(error = disk::chain(&error), "cannot replace a damaged blob");
            Status::unavailable(disk::chain(&error))
        })
    }
}

impl ProxyControl {
    /// What a proxy has seen, this agent has seen.
    async fn learn(&self, newest: &v1::Envelope) {
        match self.ledger.learn_floor(&Envelope::from(newest)).await {
            Ok(()) => {}
            // It may stand under a trust root that this agent has not heard of yet.
            Err(ChangeError::Refused(error)) => {
                tracing::warn!(%error, "a proxy shows a release that does not verify here")
            }
            Err(ChangeError::Disk(error)) => self.refusals.alarm(disk::chain(&error)),
        }
    }
}

#[tonic::async_trait]
impl ProxyControlService for ProxyControl {
    type AttachStream = AttachStream;

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<AttachStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        self.door.admit(peer.as_ref(), &request.get_ref().proxy_id)?;
        let request = request.into_inner();
        let (root_version, instance) = (request.root_version, request.instance.clone());
        if let Some(newest) = &request.newest {
            self.learn(newest).await;
        }
        let attached = self.ask(|reply| Ask::Attach(request, reply)).await?.map_err(attach_status)?;
        // One message under way: a slow proxy gets the newest state when it is ready for it, never a backlog.
        let (events, stream) = mpsc::channel(1);
        let (asks, ledger, cancel) = (self.asks.clone(), self.ledger.clone(), self.cancel.clone());
        let (questions, door) = (self.questions.clone(), self.door.clone());
        let guest = Guest { door: self.door.clone(), peer: peer.unwrap_or(Peer::Local) };
        let asked = questions.connect(&attached.proxy, attached.session, &instance);
        self.tasks.spawn(async move {
            let (proxy, session) = (attached.proxy.clone(), attached.session);
            let ended = tokio::select! {
                () = cancel.cancelled() => Ended::Gone,
                ended = follow(attached, ledger, root_version, asked, guest, events) => ended,
            };
            questions.disconnect(&proxy, session);
            let ask = match ended {
                Ended::Gone => Ask::Detach(proxy, session),
                Ended::SentAway(why) => {
                    door.turn_away(why.code(), &format!("proxy `{proxy}`: {why}"));
                    Ask::SendAway(proxy, session)
                }
            };
            let _ = asks.send(ask).await; // no driver: the agent is stopping
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let status = request.into_inner().status.ok_or_else(|| Status::invalid_argument("it has no status"))?;
        self.door.admit(peer.as_ref(), &status.proxy_id)?;
        let observed = self.ask(|reply| Ask::Observe(Box::new(status), reply)).await?;
        observed.map_err(observe_status)?;
        Ok(Response::new(v1::ObserveResponse {}))
    }

    async fn enrol_proxy(
        &self,
        request: Request<v1::EnrolProxyRequest>,
    ) -> Result<Response<v1::EnrolProxyResponse>, Status> {
        Ok(Response::new(self.link.enrol_proxy(request.into_inner()).await?))
    }

    async fn answer(&self, request: Request<v1::AnswerRequest>) -> Result<Response<v1::AnswerResponse>, Status> {
        self.door.admit(request.extensions().get::<Peer>(), &request.get_ref().proxy_id)?;
        let done = self.questions.answer(request.into_inner()).await?;
        Ok(Response::new(v1::AnswerResponse { done }))
    }

    async fn fetch_chunk(
        &self,
        request: Request<v1::FetchChunkRequest>,
    ) -> Result<Response<v1::FetchChunkResponse>, Status> {
        self.door.admit_any(request.extensions().get::<Peer>())?;
        let digest = Digest::from_slice(&request.into_inner().digest)
            .ok_or_else(|| Status::invalid_argument("digest: a SHA-256 has 32 bytes"))?;
        let content = self.read(digest).await?;
        Ok(Response::new(v1::FetchChunkResponse { content }))
    }
}

/// Who is at the other end of a stream.
struct Guest {
    door: Door,
    peer: Peer,
}

/// How a stream ended.
enum Ended {
    Gone,
    /// Its certificate is good no more.
    SentAway(Stranger),
}

/// Passes the newest command on whenever there is one, and a beacon in between, until either side ends.
async fn follow(
    mut attached: Attached,
    ledger: Ledger,
    root_version: u32,
    mut asked: mpsc::Receiver<v1::Question>,
    guest: Guest,
    events: mpsc::Sender<Result<v1::AttachResponse, Status>>,
) -> Ended {
    let mut states = ledger.watch();
    states.mark_changed();
    let mut told_sandbox = None;
    let mut revoked = guest.door.follow_revoked();
    revoked.mark_changed();
    let mut beacon = tokio::time::interval(BEACON);
    beacon.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            biased;
            () = events.closed() => return Ended::Gone,
            Ok(()) = revoked.changed() => {
                let list = Arc::clone(&revoked.borrow_and_update());
                if let Some(why) = guest.door.is_over(&guest.peer) {
                    return guest.send_away(why, &events).await;
                }
                if list.is_empty() || matches!(guest.peer, Peer::Local) {
                    continue;
                }
                Event::Revoked(convert::revoked_list(&list))
            }
            changed = attached.commands.changed() => {
                if changed.is_err() {
                    return Ended::Gone; // the same proxy opened another stream
                }
                let Some(desired) = attached.commands.borrow_and_update().clone() else { continue };
                Event::Desired(v1::ProxyDesired::clone(&desired))
            }
            changed = states.changed() => {
                if changed.is_err() {
                    return Ended::Gone; // the agent is stopping
                }
                let state = Arc::clone(&states.borrow_and_update());
                let Some(sandbox) = &state.sandbox else { continue };
                if told_sandbox.replace(sandbox.release().digest()) == Some(sandbox.release().digest()) {
                    continue;
                }
                let newer = state.roots.iter().filter(|root| root.document().version > root_version);
                Event::Sandbox(v1::SandboxOffer {
                    roots: newer.map(|root| root.envelope().into()).collect(),
                    release: Some(sandbox.release().envelope().into()),
                })
            }
            Some(question) = asked.recv() => Event::Question(question),
            _ = beacon.tick() => {
                if let Some(why) = guest.door.is_over(&guest.peer) {
                    return guest.send_away(why, &events).await;
                }
                let timestamp = ledger.state().timestamp.as_ref().map(|timestamp| timestamp.envelope().into());
                Event::Beacon(v1::AttachBeacon { timestamp })
            }
        };
        let sent = events.send(Ok(v1::AttachResponse { event: Some(event) }));
        tokio::select! {
            sent = sent => if sent.is_err() { return Ended::Gone },
            // It reads nothing and answers nothing: as good as gone.
            () = tokio::time::sleep(SEND_TIMEOUT) => return Ended::Gone,
        }
    }
}

impl Guest {
    /// Ends its stream with the reason.
    async fn send_away(&self, why: Stranger, events: &mpsc::Sender<Result<v1::AttachResponse, Status>>) -> Ended {
        let last = events.send(Err(Status::unauthenticated(why.to_string())));
        let _ = tokio::time::timeout(BEACON, last).await; // one that reads nothing hears nothing
        Ended::SentAway(why)
    }
}

pub(crate) fn attach_status(error: AttachError) -> Status {
    let text = error.to_string();
    match error {
        AttachError::Name | AttachError::Instance | AttachError::Generation(_) => Status::invalid_argument(text),
        AttachError::OtherFleet(_) => Status::failed_precondition(text),
        AttachError::Taken(_) => Status::already_exists(text),
        AttachError::Full => Status::resource_exhausted(text),
    }
}

pub(crate) fn observe_status(error: ObserveError) -> Status {
    let text = disk::chain(&error);
    match error {
        ObserveError::NotAttached => Status::failed_precondition(text),
        ObserveError::Malformed(_) => Status::invalid_argument(text),
    }
}

/// At least every 5 s, as the protocol says.
const BEACON: Duration = Duration::from_secs(4);
/// A proxy that takes nothing for this long loses its stream.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A status with all its counts is a few tens of KiB.
const REQUEST_BYTES_MAX: usize = 1 << 20;
