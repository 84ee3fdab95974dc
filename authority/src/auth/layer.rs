//! The tower layer in front of every gRPC service: settles who calls, then lets the call through.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response, header};
use sealane_model::ids::Digest;
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};

use super::{Auth, Credentials};
use crate::clock::Clock;

/// Puts [`AuthService`] in front.
#[derive(Clone, Debug)]
pub(crate) struct AuthLayer {
    pub(crate) auth: Arc<Auth>,
    pub(crate) clock: Clock,
}

/// Settles who calls.
#[derive(Clone, Debug)]
pub(crate) struct AuthService<S> {
    inner: S,
    auth: Arc<Auth>,
    clock: Clock,
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService { inner, auth: Arc::clone(&self.auth), clock: self.clock }
    }
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<
        Ready<Result<Self::Response, Self::Error>>,
        Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let credentials = Credentials { bearer: bearer(request.headers()), certificate: certificate(&request) };
        match self.auth.admit(request.uri().path(), &credentials, self.clock.now_ms()) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Either::Right(Box::pin(self.inner.call(request)))
            }
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

/// The text after `Bearer`, whatever the case of that word.
pub(crate) fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn certificate(request: &Request<Body>) -> Option<Digest> {
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
    Some(Digest::of(connection.peer_certs()?.first()?))
}
