//! The link to the agent: a stream that carries commands, calls that carry observations and content.
//!
//! It does not judge commands. It never gives up: reconnects with full jitter, and a stream that missed its beacons is
//! reset. With the agent away the proxy serves what it has.

use std::sync::Arc;
use std::time::Duration;

use sealane_node::backoff::Backoff;
use sealane_node::disk;
use sealane_node::said::{is_transport, said};
use sealane_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::BACKOFF_LAST;
use super::uplink::{AgentLink, Uplink};

/// Keeps a stream to the agent open.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) link: Arc<AgentLink>,
    /// What to say when attaching; the generation is the newest at that moment.
    pub(crate) hello: v1::AttachRequest,
    pub(crate) status: watch::Receiver<v1::ProxyStatus>,
    /// The newest command, whole.
    pub(crate) desired: watch::Sender<Option<Arc<v1::ProxyDesired>>>,
    /// The newest sandbox revision that was offered.
    pub(crate) sandbox: watch::Sender<Option<Arc<v1::SandboxOffer>>>,
    /// What the fleet asks. One too many is left unanswered.
    pub(crate) questions: mpsc::Sender<v1::Question>,
    pub(crate) attached: watch::Sender<bool>,
}

impl Stream {
    /// Keeps it open until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(BACKOFF_LAST);
        let mut told = String::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.follow(&mut backoff) => {
                    self.attached.send_replace(false);
                    if ended != told {
                        tracing::warn!(reason = ended, "the agent is away, serving what is there");
                        told = ended;
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.wait()) => {}
            }
        }
    }

    /// One stream, from the hello to its end; says why it ended.
    async fn follow(&self, backoff: &mut Backoff) -> String {
        if let Err(error) = self.link.enrol().await {
            return disk::chain(&error);
        }
        let generation = self.status.borrow().generation.max(self.hello.generation);
        let hello = v1::AttachRequest { generation, ..self.hello.clone() };
        let mut stream = match timeout(STREAM_TIMEOUT, self.link.client().attach(hello)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return why(&status),
            Err(_) => return "it does not answer".to_owned(),
        };
        tracing::info!("attached to the agent");
        self.attached.send_replace(true);
        loop {
            let event = match timeout(STREAM_TIMEOUT, stream.message()).await {
                Ok(Ok(Some(response))) => response.event,
                Ok(Ok(None)) => return "it closed the stream".to_owned(),
                Ok(Err(status)) => return why(&status),
                Err(_) => return "its beacons stopped".to_owned(),
            };
            backoff.reset();
            match event {
                Some(v1::attach_response::Event::Desired(desired)) => {
                    self.desired.send_replace(Some(Arc::new(desired)));
                }
                Some(v1::attach_response::Event::Sandbox(offer)) => {
                    self.sandbox.send_replace(Some(Arc::new(offer)));
                }
                Some(v1::attach_response::Event::Question(question)) => {
                    if self.questions.try_send(question).is_err() {
                        tracing::debug!("too many questions at once, one is left unanswered");
                    }
                }
                Some(v1::attach_response::Event::Revoked(listed)) => self.link.take_revoked(&listed),
                Some(v1::attach_response::Event::Beacon(_)) | None => {}
            }
            if let Some(over) = self.link.is_over() {
                return format!("the agent is not to be trusted any more: {over}");
            }
            if self.link.renewal_is_due() {
                return "the certificate for this proxy is due for renewal".to_owned();
            }
        }
    }
}

/// Why a call to the agent did not work, and what to do.
fn why(status: &tonic::Status) -> String {
    let said = said(status);
    match status.code() {
        _ if is_transport(status) => {
            format!("{said} (it is tried again; if it stays so, start the agent or mend --agent)")
        }
        tonic::Code::AlreadyExists => format!("{said} (give each proxy an --id of its own)"),
        tonic::Code::Unimplemented => {
            format!("what answers there is no agent: {said} (--agent names its gRPC address, port 7444)")
        }
        _ => said,
    }
}

/// Tells the agent what is, at once on a change and at least every second while attached.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) uplink: Uplink,
    pub(crate) status: watch::Receiver<v1::ProxyStatus>,
    pub(crate) attached: watch::Receiver<bool>,
    /// Fills in what is measured at this moment.
    pub(crate) measure: super::status::Measure,
}

impl Observer {
    /// Observes until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.round() => {}
            }
        }
    }

    async fn round(&mut self) {
        if self.attached.wait_for(|attached| *attached).await.is_err() {
            return std::future::pending().await; // the stream's task has ended
        }
        self.status.borrow_and_update();
        let due = Instant::now() + EVERY;
        self.observe().await;
        tokio::time::sleep(GAP).await;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            _ = self.status.changed() => {}
            _ = self.attached.changed() => {}
        }
    }

    /// One observation; `false` when it did not arrive.
    pub(crate) async fn observe(&self) -> bool {
        let status = self.measure.fill(self.status.borrow().clone());
        self.uplink.observe(status).await
    }
}

/// Beacons come every 5 s; two and a half of them missed end a stream.
const STREAM_TIMEOUT: Duration = Duration::from_millis(12_500);
/// Observations are due this often.
const EVERY: Duration = Duration::from_secs(1);
/// Changes closer together go in one observation.
const GAP: Duration = Duration::from_millis(50);
