//! The sandbox partition at the proxy: a line of revisions of its own, joined to whatever config is served.
//!
//! An offer is verified under this proxy's own trust root and floor, its content fetched and checked, kept on disk, and
//! then joined to the snapshot in force and to those that are prepared. Going back to another config never changes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sealane_model::bundle::VerifiedBundle;
use sealane_model::config::Config;
use sealane_model::envelope::Envelope;
use sealane_model::release::{ChangeClass, Floor, Partition, VerifiedRelease};
use sealane_model::sandbox::{self, Places, SandboxRoute, SandboxTimes, decode};
use sealane_model::trust::{TrustRoot, chain};
use sealane_model::verify::VerifyError;
use sealane_proto::v1;

use super::state::State;
use super::unix_ms;
use crate::desk::Origin;
use crate::files::{self, Stamps};

/// An offer of which everything verified.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) roots: Vec<TrustRoot>,
    pub(crate) release: VerifiedRelease,
}

/// Verifies an offer. `None`: it is what is held.
pub(crate) fn verify(state: &State, offer: &v1::SandboxOffer) -> Result<Option<Offer>, VerifyError> {
    let Some(envelope) = &offer.release else {
        return Err(VerifyError::Malformed { what: "sandbox offer: it has no release" });
    };
    let envelope = Envelope::from(envelope);
    if state.sandbox.as_ref().is_some_and(|held| held.release.envelope().payload == envelope.payload) {
        return Ok(None);
    }
    let roots = chain::follow(&state.roots, offer.roots.iter().map(Envelope::from))?;
    let trust = roots.last().unwrap_or_else(|| state.trust());
    let release = trust.verify_release(&envelope)?;
    let statement = release.release();
    if statement.partition != Partition::Sandbox || statement.change_class != ChangeClass::Sandbox {
        return Err(VerifyError::Malformed { what: "release: it is not of the sandbox partition" });
    }
    Floor::admit(state.sandbox_floor.as_ref(), &release)?;
    Ok(Some(Offer { roots, release }))
}

/// A config without the sandbox routes of the partition.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) config: Arc<Config>,
    /// Unix time in milliseconds at which its revision was made: from there the lives of its own sandbox routes count.
    pub(crate) born_ms: u64,
    /// Of its file.
    pub(crate) name: String,
    /// What it was parsed from.
    pub(crate) text: Arc<str>,
    pub(crate) origin: Origin,
    /// What the files that it names looked like before they were read. A change from then on is seen, whenever it comes.
    pub(crate) files: Stamps,
}

impl Base {
    pub(crate) fn of(bundle: &VerifiedBundle, config: Arc<Config>) -> Self {
        // What has no config was refused before.
        let (name, text) = bundle.config().unwrap_or_default();
        Self {
            files: Stamps::of(files::named(&config)),
            config,
            born_ms: u64::try_from(bundle.release().release().created_at_unix_ms).unwrap_or(0),
            name: name.to_owned(),
            text: text.into(),
            origin: Origin::Fleet,
        }
    }
}

/// The routes that are joined to every config.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sandboxes {
    /// The revision they are of; 0: none.
    pub(crate) revision: u64,
    /// By id; each checked once, when it comes in.
    routes: BTreeMap<u64, Arc<SandboxRoute>>,
    places: Places,
}

impl Sandboxes {
    /// Those of a sandbox revision; what is known already is not checked again.
    pub(crate) fn open(&self, bundle: &VerifiedBundle) -> Result<Self, VerifyError> {
        let list = decode(bundle.sandbox()?)
            .map_err(|_| VerifyError::Malformed { what: "sandbox routes: not a list of them" })?;
        let (mut routes, mut places) = (BTreeMap::new(), self.places.clone());
        for route in list {
            let known = self.routes.get(&route.id).filter(|known| ***known == route);
            if known.is_none() {
                let bad = |_| VerifyError::Malformed { what: "sandbox routes: one that cannot be served" };
                places.put(route.id, route.compile(SandboxTimes::default()).map_err(bad)?);
            }
            routes.insert(route.id, known.map_or_else(|| Arc::new(route), Arc::clone));
        }
        places.retain(|id| routes.contains_key(&id));
        Ok(Self { revision: bundle.release().release().revision.0, routes, places })
    }

    /// `base` with these routes, but for those whose time is over; and how long until one of the file's ends.
    pub(crate) fn join(&mut self, base: &Base) -> (Config, Option<Duration>) {
        let mut joined = Config::clone(&base.config);
        let now_ms = u64::try_from(unix_ms()).unwrap_or(0);
        let age = Duration::from_millis(now_ms.saturating_sub(base.born_ms));
        let next = sandbox::end(&mut joined, age);
        let routes = &self.routes;
        self.places.join(&mut joined, |id| routes.get(&id).is_some_and(|route| !route.is_expired(now_ms)));
        (joined, next)
    }
}
