//! Orders of the admin address to a proxy that a fleet manages: refused, with a pointer to the authority, unless somebody
//! breaks the glass. What is served then is the fleet's business no longer, and is shown as such: as drift, until the agent's
//! next command or the end of the process. Nothing of it is kept on disk.

use std::sync::Arc;

use sealane_model::ids::Digest;
use sealane_model::parse::Reader;

use super::apply::Applier;
use super::sandbox::Base;
use super::unix_ms;
use crate::desk::{self, Applied, Apply, Order, Origin, Refused, Source};
use crate::files::{self, Stamps};
use crate::proxy::RevisionTag;

impl Applier {
    /// Carries an order out and answers it.
    pub(super) async fn obey(&mut self, order: Order) {
        // Whoever asked may be gone; what was done stays done.
        match order {
            Order::Rollback(_, answer) => drop(answer.send(Err(Refused::Managed))),
            Order::Apply(Apply { break_glass: false, answer, .. }) => drop(answer.send(Err(Refused::Managed))),
            Order::Apply(Apply { text, dry_run, expected, answer, .. }) => {
                let applied = self.overrule(text, dry_run, expected).await;
                drop(answer.send(applied));
            }
        }
    }

    async fn overrule(&mut self, text: String, dry_run: bool, expected: Option<String>) -> Result<Applied, Refused> {
        let previous = self.proxy.source().map(|source| source.version());
        if expected.is_some() && expected != previous {
            return Err(Refused::Moved { current: previous });
        }
        if let Some(retired) = self.proxy.pressure() {
            return Err(Refused::Pressure { retired });
        }
        let (config, warnings) = desk::check("config", &text, Reader::Fleet).await.map_err(Refused::Invalid)?;
        let (digest, version) = (Digest::of(text.as_bytes()), desk::version(&text));
        let base = Base {
            files: Stamps::of(files::named(&config)),
            config: Arc::new(config),
            born_ms: u64::try_from(unix_ms()).unwrap_or(0),
            name: "config".to_owned(),
            text: text.into(),
            origin: Origin::Override,
        };
        let (joined, _) = self.sandboxes.join(&base);
        let tag = RevisionTag { number: 0, digest: digest.0, label: format!("override:{}", digest.short()).into() };
        let prepared = self.proxy.prepare(tag, Arc::new(joined)).await.map_err(Refused::Invalid)?;
        let lasts = "until the agent's next command or the end of the process; the fleet shows it as drift";
        if !dry_run {
            self.proxy.activate(prepared).await.map_err(|error| Refused::Failed(error.to_string()))?;
            self.base = Some(base);
            self.overruled = Some(self.newest.map_or(0, |(generation, _)| generation));
            self.say_source();
            tracing::warn!(version, "a config from the admin address is served in place of the fleet's");
            self.status.send_modify(|status| {
                status.active_digest = digest.to_vec();
                status.active_revision = 0;
            });
        }
        Ok(Applied { version, previous, warnings, lasts })
    }

    /// Says on the admin address which text is served.
    pub(super) fn say_source(&self) {
        let Some(base) = &self.base else { return };
        self.proxy.set_source(Source {
            name: base.name.clone(),
            text: Arc::clone(&base.text),
            origin: base.origin,
            since_unix_ms: unix_ms(),
            versions: Vec::new(),
        });
    }
}
