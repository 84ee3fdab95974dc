//! A proxy inside another program: settings, hooks, a config, started in one go.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use sealane_proxy::hooks::Keep;
//! use sealane_proxy::proxy::{Notice, Proxy};
//!
//! let proxy = Proxy::builder()
//!     .on_request(|request| request.set_header("X-Internal-Auth", "secret").is_ok())
//!     .on_response(|response| {
//!         if response.status() == 200 {
//!             response.cache_this(Keep::for_time(std::time::Duration::from_secs(300)).hits_max(1000));
//!         }
//!     })
//!     .on_error(|error| eprintln!("proxy: {error}"))
//!     .serve("proxy.yaml", "{ listen: \":8080\", routes: [{ to: \"http://localhost:3000\" }] }")
//!     .await?;
//! // … another config, while traffic flows:
//! proxy.serve("proxy.yaml", "{ listen: \":8080\", routes: [{ to: \"http://localhost:3001\" }] }").await?;
//! proxy.drain(Notice::Nobody).await;
//! # Ok(())
//! # }
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use sealane_model::ids::Digest;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::Problem;

use crate::hooks::{AttemptError, Hooks, ProxiedRequest, ProxiedResponse, Verdict};
use crate::proxy::{ActivateError, Proxy, RevisionTag, StartError};
use crate::settings::Settings;

/// A proxy that is about to be started.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
}

/// Why a config is not served. What was served before still is.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Threads or the admin listener cannot be had.
    #[error("the proxy does not start")]
    Start(#[from] StartError),
    /// The config, or what this machine has for it, is at fault.
    #[error("the config cannot be served{}", listed(.0))]
    Config(Vec<Problem>),
    /// It was prepared, but is not in force.
    #[error("the config is not in force")]
    Activate(#[from] ActivateError),
}

fn listed(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {}: {}", problem.code, problem.message);
    }
    text
}

impl Builder {
    /// Everything that the process decides for itself. Keeps the hooks that were given already.
    #[must_use]
    pub fn settings(self, settings: Settings) -> Self {
        Self { settings: Settings { hooks: self.settings.hooks, ..settings } }
    }

    /// As [`Hooks::on_request`].
    #[must_use]
    pub fn on_request<V: Into<Verdict>>(
        self,
        hook: impl Fn(&mut ProxiedRequest<'_>) -> V + Send + Sync + 'static,
    ) -> Self {
        self.with(|hooks| hooks.on_request(hook))
    }

    /// As [`Hooks::on_response`].
    #[must_use]
    pub fn on_response(self, hook: impl Fn(&mut ProxiedResponse<'_>) + Send + Sync + 'static) -> Self {
        self.with(|hooks| hooks.on_response(hook))
    }

    /// As [`Hooks::on_error`].
    #[must_use]
    pub fn on_error(self, hook: impl Fn(&AttemptError<'_>) + Send + Sync + 'static) -> Self {
        self.with(|hooks| hooks.on_error(hook))
    }

    fn with(mut self, add: impl FnOnce(Hooks) -> Hooks) -> Self {
        self.settings.hooks = add(std::mem::take(&mut self.settings.hooks));
        self
    }

    /// Starts the proxy and serves a config, YAML or JSON; `name` is for its problems.
    ///
    /// # Errors
    /// Why it does not serve it.
    pub async fn serve(self, name: &str, text: &str) -> Result<Proxy, ServeError> {
        let proxy = Proxy::start(self.settings).await?;
        proxy.serve(name, text).await?;
        Ok(proxy)
    }
}

impl Proxy {
    /// Serves another config, YAML or JSON; `name` is for its problems. Requests that have begun end on the one that they
    /// began with. Returns what is worth a warning.
    ///
    /// # Errors
    /// Why not; the one before is served on.
    pub async fn serve(&self, name: &str, text: &str) -> Result<Vec<Problem>, ServeError> {
        let (config, warnings) = parse(name, text, Reader::Local).map_err(ServeError::Config)?;
        let digest = Digest::of(text.as_bytes());
        let tag = RevisionTag { number: 0, digest: digest.0, label: format!("file:{}", digest.short()).into() };
        let prepared = self.prepare(tag, Arc::new(config)).await.map_err(ServeError::Config)?;
        self.activate(prepared).await?;
        Ok(warnings)
    }
}
