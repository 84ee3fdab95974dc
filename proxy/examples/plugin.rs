//! A sample plugin: lets requests with the right key pass and says whose they are, refuses all others.
//!
//! `cargo run -p sealane-proxy --example plugin -- ADDRESS`, and in the config of the proxy:
//!
//! ```yaml
//! plugins: [{ id: keys, type: external_grpc, address: "localhost:50051", timeout: 50ms, fail_mode: closed }]
//! middleware: [{ id: guarded, stages: [{ type: plugin, plugin_ref: keys }] }]
//! routes: [{ id: all, to: "http://localhost:3000", middleware: guarded }]
//! ```

use std::net::SocketAddr;

use sealane_proto::plugin::filter_service_server::{FilterService, FilterServiceServer};
use sealane_proto::plugin::on_request_response::Action;
use sealane_proto::plugin::{Header, HeaderMutations, OnRequestRequest, OnRequestResponse, Proceed, Respond};
use tonic::{Request, Response, Status};

/// Knows one key.
#[derive(Debug)]
pub struct Keys {
    /// What `x-api-key` must say.
    pub key: &'static [u8],
}

#[tonic::async_trait]
impl FilterService for Keys {
    async fn on_request(&self, request: Request<OnRequestRequest>) -> Result<Response<OnRequestResponse>, Status> {
        let request = request.into_inner();
        let header = |name: &str, value: &str| Header { name: name.to_owned(), value: value.into() };
        let knows = request.headers.iter().any(|header| header.name == "x-api-key" && header.value == self.key);
        let action = if knows {
            Action::Proceed(Proceed {
                request: Some(HeaderMutations {
                    remove: vec!["x-api-key".to_owned()],
                    set: vec![header("X-User", "alice")],
                    add: Vec::new(),
                }),
                response: Some(HeaderMutations { add: vec![header("X-Checked-By", "keys")], ..Default::default() }),
            })
        } else {
            Action::Respond(Respond {
                status: 403,
                headers: vec![header("Content-Type", "text/plain")],
                body: format!("no key for {}\n", request.path).into_bytes(),
            })
        };
        Ok(Response::new(OnRequestResponse { action: Some(action) }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned()).parse()?;
    let service = FilterServiceServer::new(Keys { key: b"open sesame" });
    tonic::transport::Server::builder().add_service(service).serve(address).await?;
    Ok(())
}
