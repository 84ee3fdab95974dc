//! TLS of the admin listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::settings::AdminTls;
use crate::shared::Shared;
use crate::upstream::tls::{certificates, private_key};

/// Handshakes at the same time.
const HANDSHAKES_MAX: usize = 64;
/// Of one handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an error of accept, before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Loads the files.
pub(super) fn acceptor(files: &AdminTls, shared: &Shared) -> Result<TlsAcceptor, String> {
    let provider = shared.live.tls.provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|cause| format!("cannot use a certificate of `{file}`: {cause}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|cause| cause.to_string())?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(&files.cert_file)?, private_key(&files.key_file)?)
        .map_err(|cause| format!("cannot use `{}` with `{}`: {cause}", files.cert_file, files.key_file))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connections whose handshake is done. Slow handshakes do not hold up others.
#[derive(Debug)]
pub(super) struct TlsListener {
    local: io::Result<SocketAddr>,
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    pub(super) fn start(listener: TcpListener, acceptor: TlsAcceptor) -> Self {
        let (done, connections) = mpsc::channel(1);
        let local = listener.local_addr();
        tokio::spawn(async move {
            let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
            while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
                let Ok((tcp, peer)) = listener.accept().await else {
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(stream)) = time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
                        // Nobody serves any more.
                        let _ = done.send((stream, peer)).await;
                    }
                    drop(permit);
                });
            }
        });
        Self { local, connections }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The accepting task never ends before this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.local.as_ref().copied().map_err(|error| error.kind().into())
    }
}
