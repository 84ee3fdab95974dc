//! Sends finished requests to a collector: OTLP over gRPC, in batches, from the background runtime.
//!
//! Workers put them into a bounded queue and never wait. A collector that is slow or away fills the queue; what does not
//! fit is dropped and counted. One exporter per collector lives as long as a snapshot uses it, then sends what is left.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use sealane_proto::otlp::collector::trace::v1::ExportTraceServiceRequest;
use sealane_proto::otlp::collector::trace::v1::trace_service_client::TraceServiceClient;
use sealane_proto::otlp::common::v1::InstrumentationScope;
use sealane_proto::otlp::resource::v1::Resource;
use sealane_proto::otlp::trace::v1::{ResourceSpans, ScopeSpans};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tracing::warn;

use super::spans::{Finished, string};
use crate::metrics::lock;

/// Finished requests that wait for the collector.
const QUEUE_MAX: usize = 4096;
/// Requests of one export.
const BATCH_MAX: usize = 256;
/// How long the first of a batch waits for more.
const BATCH_WAIT: Duration = Duration::from_millis(500);
/// Of one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between an export that failed and the next try of the same batch.
const RETRY_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// What became of spans, over all collectors.
#[derive(Debug, Default)]
pub(crate) struct ExportCounts {
    pub(crate) exported: AtomicU64,
    /// Requests whose spans found no room in the queue.
    pub(crate) dropped: AtomicU64,
    /// Spans that the collector did not take.
    pub(crate) failed: AtomicU64,
}

/// The way to one collector.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: mpsc::Sender<Box<Finished>>,
    counts: Arc<ExportCounts>,
}

/// Those in use.
#[derive(Debug, Default)]
pub(crate) struct Exporters {
    by_url: Mutex<HashMap<String, Weak<Exporter>>>,
    pub(crate) counts: Arc<ExportCounts>,
}

impl Exporters {
    /// The exporter for a collector. Must be called where a runtime is.
    ///
    /// # Errors
    /// The address is none.
    pub(crate) fn take(&self, url: &str, node: &str, tls: Option<Arc<ClientConfig>>) -> Result<Arc<Exporter>, String> {
        let mut by_url = lock(&self.by_url);
        by_url.retain(|_, exporter| exporter.strong_count() > 0);
        if let Some(exporter) = by_url.get(url).and_then(Weak::upgrade) {
            return Ok(exporter);
        }
        let channel = channel(url, tls)?;
        let (queue, finished) = mpsc::channel(QUEUE_MAX);
        let exporter = Arc::new(Exporter { queue, counts: Arc::clone(&self.counts) });
        let resource = Resource {
            attributes: vec![
                string("service.name", "sealane"),
                string("service.version", env!("CARGO_PKG_VERSION")),
                string("service.instance.id", node),
            ],
            dropped_attributes_count: 0,
        };
        tokio::spawn(run(finished, channel, resource, url.to_owned(), Arc::clone(&self.counts)));
        by_url.insert(url.to_owned(), Arc::downgrade(&exporter));
        Ok(exporter)
    }
}

impl Exporter {
    /// Hands a finished request over, or drops and counts it.
    pub(super) fn push(&self, finished: Finished) {
        if self.queue.try_send(Box::new(finished)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection that is made when it is first needed, and again when it broke.
fn channel(url: &str, tls: Option<Arc<ClientConfig>>) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(EXPORT_TIMEOUT).timeout(EXPORT_TIMEOUT);
    let Some(tls) = tls else { return Ok(endpoint.connect_lazy()) };
    let mut tls = ClientConfig::clone(&tls);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(tls));
    let service = tower::service_fn(move |uri: Uri| {
        let connector = connector.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(4317))).await?;
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    // The scheme would ask tonic for a handshake of its own.
    let plain = Endpoint::from_shared(url.replacen("https://", "http://", 1)).map_err(|error| error.to_string())?;
    Ok(plain.timeout(EXPORT_TIMEOUT).connect_with_connector_lazy(service))
}

async fn run(
    mut finished: mpsc::Receiver<Box<Finished>>,
    channel: Channel,
    resource: Resource,
    url: String,
    counts: Arc<ExportCounts>,
) {
    let mut client = TraceServiceClient::new(channel);
    let mut failing = false;
    while let Some(first) = finished.recv().await {
        let mut batch = vec![first];
        let mut wait = std::pin::pin!(time::sleep(BATCH_WAIT));
        while batch.len() < BATCH_MAX {
            tokio::select! {
                next = finished.recv() => match next {
                    Some(next) => batch.push(next),
                    None => break,
                },
                () = &mut wait => break,
            }
        }
        let spans: Vec<_> = batch.iter().flat_map(|finished| finished.spans()).collect();
        drop(batch);
        let count = spans.len() as u64;
        let scope = InstrumentationScope { name: "sealane".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
        let resource_spans =
            vec![ResourceSpans { resource: Some(resource.clone()), scope_spans, schema_url: String::new() }];
        match export(&mut client, ExportTraceServiceRequest { resource_spans }).await {
            Ok(rejected) => {
                failing = false;
                counts.exported.fetch_add(count.saturating_sub(rejected), Ordering::Relaxed);
                counts.failed.fetch_add(rejected.min(count), Ordering::Relaxed);
            }
            Err(error) => {
                counts.failed.fetch_add(count, Ordering::Relaxed);
                // Said once per streak of failures.
                if !failing {
                    warn!(collector = url, %error, "traces cannot be exported, spans are dropped");
                }
                failing = true;
            }
        }
    }
}

/// Sends a batch, and again where the collector was not there. How many spans it did not take.
async fn export(
    client: &mut TraceServiceClient<Channel>,
    request: ExportTraceServiceRequest,
) -> Result<u64, tonic::Status> {
    let mut waits = RETRY_WAITS.iter();
    loop {
        let answer = match time::timeout(EXPORT_TIMEOUT, client.export(request.clone())).await {
            Ok(answer) => answer,
            Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
        };
        match answer {
            Ok(answer) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                return Ok(u64::try_from(partial.rejected_spans).unwrap_or(0));
            }
            Err(status) if status.code() == tonic::Code::Unavailable => match waits.next() {
                Some(wait) => time::sleep(*wait).await,
                None => return Err(status),
            },
            Err(status) => return Err(status),
        }
    }
}
