//! Traces: where a request stands in one (W3C Trace Context), and what is noted of it until it is over.
//!
//! A request is noted in full, and only its end decides whether that is exported: errors always are, others when their
//! parent was sampled or their trace id falls into the share that the config asks for. Noting never waits: what is
//! finished goes into a bounded queue ([`export`]), and is dropped and counted when that is full. What a span looks like
//! on the wire is [`spans`]' business. Where no traces are configured, none of this exists for a request.

use std::sync::Arc;

use crate::clock::Moment;
use crate::connection::Peer;
use crate::forwarded::Client;
use crate::http1::field::{Fields, Known};
use crate::http1::framing::Version;
use crate::http1::request_head::RequestHead;
use crate::record::Record;
use crate::trace::export::Exporter;
use crate::worker::Worker;

pub(crate) mod export;
pub(crate) mod spans;

/// Attempts and events of one request that are noted.
const NOTED_MAX: usize = 32;
/// Bytes of a text that comes from the client.
const TEXT_MAX: usize = 1024;
/// Bytes of a `tracestate` that goes on (W3C Trace Context §3.3.1.5 asks for at least 512).
const STATE_MAX: usize = 512;

/// What a snapshot does about traces.
#[derive(Debug)]
pub(crate) struct TracePlan {
    /// `None`: contexts are passed on, nothing is exported.
    pub(crate) exporter: Option<Arc<Exporter>>,
    /// Share of the traces that begin here, 0 to 100.
    pub(crate) sample_percent: f64,
    /// Queries stay out of spans.
    pub(crate) redact_query: bool,
}

/// Where a request stands in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: [u8; 16],
    /// The caller's span; `None`: the trace begins here.
    pub(crate) parent: Option<[u8; 8]>,
    pub(crate) sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` (W3C Trace Context §3.2). A version from the future is read as far as this one goes.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let fields = value.get(..55)?;
        let (version, rest) = (hex::<1>(&fields[..2])?[0], &value[55..]);
        let whole = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|&byte| byte == b'-') };
        let dashes = [2, 35, 52].iter().all(|&at| fields[at] == b'-');
        let (trace_id, parent) = (hex::<16>(&fields[3..35])?, hex::<8>(&fields[36..52])?);
        let flags = hex::<1>(&fields[53..])?[0];
        let valid = version != 0xff && whole && dashes && trace_id != [0; 16] && parent != [0; 8];
        valid.then_some(Self { trace_id, parent: Some(parent), sampled: flags & 1 == 1 })
    }
}

/// Lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Appends lower-case hexadecimal digits.
pub(crate) fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Whether a trace that begins here is sampled: the same answer everywhere for the same id.
fn is_sampled(trace_id: &[u8; 16], percent: f64) -> bool {
    let mut low = [0; 8];
    low.copy_from_slice(&trace_id[8..]);
    // 53 bits are what a fraction holds.
    ((u64::from_be_bytes(low) >> 11) as f64) < percent / 100.0 * (1u64 << 53) as f64
}

/// A request on its way, as its trace will show it.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) plan: Arc<TracePlan>,
    pub(crate) context: TraceContext,
    /// The caller's `tracestate` belongs to this trace, and goes on.
    pub(crate) keeps_state: bool,
    pub(crate) state: String,
    pub(crate) span_id: [u8; 8],
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) https: bool,
    pub(crate) protocol: &'static str,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) user_agent: String,
    pub(crate) attempts: Vec<AttemptNote>,
    pub(crate) events: Vec<EventNote>,
    /// Attempts and events beyond the bound.
    pub(crate) unnoted: u32,
}

/// One attempt on an endpoint.
#[derive(Debug)]
pub(crate) struct AttemptNote {
    pub(crate) span_id: [u8; 8],
    pub(crate) pool: usize,
    pub(crate) endpoint: usize,
    pub(crate) started: Moment,
    /// `None`: it lasts as long as the request.
    pub(crate) ended: Option<Moment>,
    pub(crate) status: u16,
    /// Empty: none.
    pub(crate) error: &'static str,
}

/// A decision.
#[derive(Debug)]
pub(crate) struct EventNote {
    pub(crate) at: Moment,
    pub(crate) name: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: String,
}

impl Trace {
    /// Starts noting a request.
    pub(crate) fn begin(
        plan: &Arc<TracePlan>,
        worker: &Worker,
        peer: &Peer,
        client: Client,
        (head, bytes, fields): (&RequestHead<'_>, &[u8], &Fields),
    ) -> Box<Self> {
        let mut parents = fields.lines().iter().filter(|line| line.known == Known::Traceparent);
        let parent = parents.next().filter(|_| parents.next().is_none());
        let parent = parent.and_then(|line| TraceContext::parse(line.value.of_bytes(bytes)));
        let keeps_state = parent.is_some();
        let context = parent.unwrap_or_else(|| {
            let trace_id = (u128::from(worker.random()) << 64 | u128::from(worker.random()) | 1).to_be_bytes();
            TraceContext { trace_id, parent: None, sampled: is_sampled(&trace_id, plan.sample_percent) }
        });
        let states = fields.lines().iter().filter(|line| keeps_state && line.known == Known::Tracestate);
        let states: Vec<_> = states.map(|line| text(line.value.of_bytes(bytes), STATE_MAX)).collect();
        let agent = fields.first(Known::UserAgent).map(|line| text(line.value.of_bytes(bytes), TEXT_MAX));
        let port = head.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Box::new(Self {
            plan: Arc::clone(plan),
            keeps_state,
            state: states.join(","),
            span_id: span_id(worker),
            method: text(head.method.as_bytes(), 64),
            path: text(head.path.as_bytes(), TEXT_MAX),
            query: head.query.filter(|_| !plan.redact_query).map(|query| text(query.as_bytes(), TEXT_MAX)),
            host: text(head.host().as_bytes(), 256),
            port,
            https: peer.tls.is_some(),
            protocol: match head.version {
                _ if peer.http2 => "2",
                Version::Http10 => "1.0",
                Version::Http11 => "1.1",
            },
            client: client.ip.to_string(),
            peer: peer.text.to_string(),
            user_agent: agent.unwrap_or_default(),
            attempts: Vec::new(),
            events: Vec::new(),
            unnoted: 0,
            context,
        })
    }

    /// An attempt on an endpoint begins; the one before it, if any, ended without an answer that counts.
    pub(crate) fn attempt(&mut self, worker: &Worker, (pool, endpoint): (usize, usize), started: Moment) {
        self.end_attempt("", started);
        if self.attempts.len() >= NOTED_MAX {
            self.unnoted += 1;
            // The last one stands for what follows.
            self.attempts.pop();
        }
        let span_id = span_id(worker);
        self.attempts.push(AttemptNote { span_id, pool, endpoint, started, ended: None, status: 0, error: "" });
    }

    /// The endpoint answered with this status.
    pub(crate) fn answered(&mut self, status: u16) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.status = status;
        }
    }

    /// The attempt at hand is over, with this error unless empty.
    pub(crate) fn end_attempt(&mut self, error: &'static str, now: Moment) {
        if let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.ended.is_none()) {
            attempt.ended = Some(now);
            attempt.error = error;
        }
    }

    /// Notes a decision.
    pub(crate) fn event(&mut self, name: &'static str, key: &'static str, value: impl Into<String>) {
        if self.events.len() >= NOTED_MAX {
            self.unnoted += 1;
            return;
        }
        self.events.push(EventNote { at: Moment::now(), name, key, value: value.into() });
    }

    /// The span that endpoints see as their parent.
    fn sending(&self) -> &[u8; 8] {
        self.attempts.last().map_or(&self.span_id, |attempt| &attempt.span_id)
    }

    /// Appends the `traceparent` line for the attempt at hand.
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"traceparent: 00-");
        write_hex(out, &self.context.trace_id);
        out.push(b'-');
        write_hex(out, self.sending());
        out.extend_from_slice(if self.context.sampled { b"-01\r\n" } else { b"-00\r\n" });
    }

    /// Names the attempt at hand in a head that [`Trace::write_line`] wrote into for another one.
    pub(crate) fn rename(&self, head: &mut [u8]) {
        let mut start = b"\r\ntraceparent: 00-".to_vec();
        write_hex(&mut start, &self.context.trace_id);
        start.push(b'-');
        let mut id = Vec::with_capacity(16);
        write_hex(&mut id, self.sending());
        let place = memchr::memmem::find(head, &start).map(|at| at + start.len());
        if let Some(place) = place.and_then(|at| head.get_mut(at..at + 16)) {
            place.copy_from_slice(&id);
        }
    }

    /// The request is over: exports it, if it is to be.
    pub(crate) fn finish(self: Box<Self>, worker: &Worker, record: &Record, now: Moment) {
        let failed = record.status >= 500 || spans::error_type(record).is_some();
        if !self.context.sampled && !failed {
            return;
        }
        if let Some(exporter) = self.plan.exporter.clone() {
            exporter.push(spans::Finished::new(*self, worker, record, now));
        }
    }
}

fn span_id(worker: &Worker) -> [u8; 8] {
    // Never zero, which is no id.
    (worker.random() | 1).to_be_bytes()
}

/// At most so many bytes, whatever they are.
fn text(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_to_the_letter() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(good.as_bytes()).unwrap();
        assert_eq!((context.trace_id[0], context.parent.unwrap()[7], context.sampled), (0x4b, 0xb7, true));
        let reads = |text: &str| TraceContext::parse(text.as_bytes()).is_some();
        assert!(reads(&good.replace("00-4", "01-4")));
        assert!(reads(&format!("{}-what-comes", good.replace("00-4", "cc-4"))));
        for bad in [
            String::new(),
            good.replace("00-4", "ff-4"),
            good.to_uppercase(),
            format!("{good}-what-comes"),
            format!("{good}x").replace("00-4", "01-4"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good.replace("6-0", "6_0"),
            good[..54].to_owned(),
        ] {
            assert!(!reads(&bad), "{bad}");
        }
    }

    #[test]
    fn a_share_of_the_trace_ids_is_sampled_always_the_same() {
        let ids = (0..10_000u64).map(|number| {
            let mut id = [7; 16];
            id[8..].copy_from_slice(&crate::balance::mix(number).to_be_bytes());
            id
        });
        let ids: Vec<_> = ids.collect();
        let sampled = |percent| ids.iter().filter(|id| is_sampled(id, percent)).count();
        assert_eq!((sampled(0.0), sampled(100.0)), (0, 10_000));
        assert!((800..1200).contains(&sampled(10.0)), "{}", sampled(10.0));
        assert!(ids.iter().filter(|id| is_sampled(id, 5.0)).all(|id| is_sampled(id, 10.0)));
    }
}
