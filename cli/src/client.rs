//! A connection to an authority: where it is, who is asking, and what its refusals mean here.
//!
//! It knows gRPC and the exit codes; it does not know any command. Settings come from flags, the environment and
//! `client.yaml` ([`settings`]); statuses become [`Failure`]s in [`status`].

mod connect;
pub mod settings;
mod status;

use std::future::Future;
use std::time::Duration;

use sealane_proto::v1::audit_service_client::AuditServiceClient;
use sealane_proto::v1::config_service_client::ConfigServiceClient;
use sealane_proto::v1::fleet_service_client::FleetServiceClient;
use sealane_proto::v1::rollout_service_client::RolloutServiceClient;
use sealane_proto::v1::sandbox_service_client::SandboxServiceClient;
use sealane_proto::v1::trust_service_client::TrustServiceClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::exit::{Exit, Failure};
pub use settings::ClientArgs;
pub(crate) use status::broke;
pub use status::violations;

/// The largest message either way: a config of 64 MiB and what goes with it.
const MESSAGE_BYTES_MAX: usize = (64 << 20) + (1 << 20);

/// An authority that answered once.
#[derive(Clone, Debug)]
pub struct Server {
    channel: Authorised,
    url: String,
    /// For one call.
    timeout: Duration,
    /// What the user asked for, if anything: the limit of a watch.
    pub time_limit: Option<Duration>,
    has_token: bool,
}

/// A connection that says who asks.
pub type Authorised = InterceptedService<Channel, Bearer>;

/// Adds the token to every call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<AsciiMetadataValue>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Server {
    /// Revisions.
    #[must_use]
    pub fn config(&self) -> ConfigServiceClient<Authorised> {
        ConfigServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Rollouts.
    #[must_use]
    pub fn rollout(&self) -> RolloutServiceClient<Authorised> {
        RolloutServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Nodes and tokens.
    #[must_use]
    pub fn fleet(&self) -> FleetServiceClient<Authorised> {
        FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Sandbox routes.
    #[must_use]
    pub fn sandbox(&self) -> SandboxServiceClient<Authorised> {
        SandboxServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whom the fleet trusts.
    #[must_use]
    pub fn trust(&self) -> TrustServiceClient<Authorised> {
        TrustServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The record of changes.
    #[must_use]
    pub fn audit(&self) -> AuditServiceClient<Authorised> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Waits for one answer.
    ///
    /// # Errors
    /// A refusal with its exit code, or [`Exit::Unreachable`] when it takes longer than `--timeout`.
    pub async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        self.raw(call).await.map_err(|status| self.failure(&status))
    }

    /// Waits for one answer and keeps the status of a refusal.
    ///
    /// # Errors
    /// The status; `DEADLINE_EXCEEDED` when it takes longer than `--timeout`.
    pub async fn raw<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => {
                Err(Status::deadline_exceeded(format!("no answer within {}", crate::duration::show(self.timeout))))
            }
        }
    }

    /// What a refusal means to a user.
    #[must_use]
    pub fn failure(&self, status: &Status) -> Failure {
        status::failure(status, &self.url, self.has_token)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// An answer that lacks what its contract promises.
pub(crate) fn incomplete(what: &str) -> Failure {
    Failure::new(Exit::Failed, format!("the authority's answer has no {what}"))
        .hint("client and authority may be of different versions; compare `sealane version` on both")
}
