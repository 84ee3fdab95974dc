//! The stream from the authority: what should be, as it changes, and a beacon that says the stream lives.
//!
//! It does not verify desired states ([`crate::intake`] does) and never gives up: reconnects with full jitter, and a
//! stream that missed its beacons is reset.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::envelope::Envelope;
use sealane_model::release::{CAPABILITIES, Floor, Partition};
use sealane_node::backoff::Backoff;
use sealane_node::disk;
use sealane_proto::{convert, v1};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::authority::AuthorityLink;
use crate::authority::BACKOFF_LAST;
use crate::clock;
use crate::intake::{Offer, verify::verify_roots};
use crate::ledger::{Ledger, State};
use crate::questions::Questions;
use crate::refusal::Refusals;

/// Whether the authority is there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contact {
    /// A stream is open.
    pub(crate) connected: bool,
    /// When it last said something that was signed.
    pub(crate) heard: Option<Instant>,
}

/// What a subscription works with.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) link: AuthorityLink,
    pub(crate) ledger: Ledger,
    pub(crate) refusals: Refusals,
    pub(crate) questions: Questions,
    pub(crate) region: String,
    pub(crate) instance: String,
    pub(crate) offers: watch::Sender<Option<Arc<Offer>>>,
    pub(crate) contact: watch::Sender<Contact>,
}

impl Subscription {
    /// Keeps a stream open until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(BACKOFF_LAST);
        let mut told = String::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.follow(&mut backoff) => {
                    self.contact.send_modify(|contact| contact.connected = false);
                    if ended != told {
                        tracing::warn!(reason = ended, "the authority is away, serving what is there");
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
        if let Err(error) = self.link.refresh(clock::unix_ms()).await {
            return self.link.why_not(&error);
        }
        let hello = self.hello(&self.ledger.state());
        let mut stream = match timeout(STREAM_TIMEOUT, self.link.client().subscribe(hello)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return self.link.why(&status),
            Err(_) => return format!("{} does not answer: is it overloaded, or something else?", self.link.url()),
        };
        loop {
            let event = match timeout(STREAM_TIMEOUT, stream.message()).await {
                Ok(Ok(Some(response))) => response.event,
                Ok(Ok(None)) => return "it closed the stream".to_owned(),
                Ok(Err(status)) => return self.link.why(&status),
                Err(_) => return "its beacons stopped".to_owned(),
            };
            backoff.reset();
            if !self.contact.borrow().connected {
                tracing::info!("subscribed to the authority");
            }
            self.contact.send_modify(|contact| contact.connected = true);
            match event {
                Some(v1::subscribe_response::Event::Desired(desired)) => {
                    self.take_revoked(&desired.revoked);
                    if let Some(timestamp) = &desired.timestamp {
                        self.hear(timestamp, &desired.roots);
                    }
                    let seen = self.ledger.state().seen_timestamp().cloned();
                    self.offers.send_replace(Some(Arc::new(Offer { desired, seen })));
                }
                Some(v1::subscribe_response::Event::Beacon(beacon)) => {
                    if let Some(timestamp) = beacon.timestamp {
                        self.take_beacon(&timestamp).await;
                    }
                }
                Some(v1::subscribe_response::Event::Question(question)) => self.questions.ask(&question),
                None => {} // an event of a newer authority
            }
            if self.link.renewal_is_due(clock::unix_ms()) {
                return "its certificate for this agent is due for renewal".to_owned();
            }
        }
    }

    /// Counts as hearing the authority only when the timestamp document is good.
    fn hear(&self, timestamp: &v1::Envelope, roots: &[v1::Envelope]) {
        let state = self.ledger.state();
        let chain = verify_roots(&state, roots).unwrap_or_default();
        let trust = chain.last().unwrap_or_else(|| state.trust());
        if trust.verify_timestamp(&Envelope::from(timestamp), state.seen_timestamp()).is_ok() {
            self.contact.send_modify(|contact| contact.heard = Some(Instant::now()));
        }
    }

    /// The connection says who lists them, so they hold whatever becomes of the rest of the state.
    fn take_revoked(&self, listed: &[v1::RevokedCertificate]) {
        if !self.link.is_tls() {
            return; // nobody here shows a certificate
        }
        match self.link.keyring().revoked().add(convert::revoked(listed), clock::unix_ms()) {
            Ok(false) => {}
            Ok(true) => tracing::warn!("certificates of the fleet were revoked: who shows them is turned away"),
            Err(error) => self.refusals.alarm(disk::chain(&error)),
        }
    }

    async fn take_beacon(&self, timestamp: &v1::Envelope) {
        let state = self.ledger.state();
        // The roots that came with the newest desired state may be on their way into the ledger still.
        let offered = self.offers.borrow().as_ref().map(|offer| offer.desired.roots.clone()).unwrap_or_default();
        let chain = verify_roots(&state, &offered).unwrap_or_default();
        let trust = chain.last().unwrap_or_else(|| state.trust());
        match trust.verify_timestamp(&Envelope::from(timestamp), state.seen_timestamp()) {
            Ok(verified) => {
                self.contact.send_modify(|contact| contact.heard = Some(Instant::now()));
                if let Err(error) = self.ledger.take_timestamp(verified).await {
                    self.refusals.alarm(disk::chain(&error));
                }
            }
            Err(error) => self.refusals.count("timestamp document", &error),
        }
    }

    fn hello(&self, state: &State) -> v1::SubscribeRequest {
        let floor: Option<&Floor> = state.floors.get(&Partition::Config);
        v1::SubscribeRequest {
            agent_id: state.agent.0.clone(),
            region: self.region.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            capabilities: CAPABILITIES.iter().map(|&capability| capability.to_owned()).collect(),
            epoch: floor.map_or(0, |floor| floor.epoch.0),
            revision_floor: floor.map_or(0, |floor| floor.revision.0),
            root_version: state.trust().document().version,
        }
    }
}

/// Beacons come every 10 s; two and a half of them missed end a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(25);
