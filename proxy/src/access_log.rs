//! The access log: lines go into a bounded buffer of the thread that made them and are written by a thread of their own.
//!
//! When the sink is slow, lines are dropped and counted; requests never wait. What a line says is
//! [`crate::record`]'s business.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use sealane_model::config::{AccessSink, LogFormat, Logging};
use tracing::warn;

use crate::metrics::{Count, lock};
use crate::settings::Settings;

/// How and where lines of a snapshot are written.
#[derive(Debug)]
pub(crate) struct LogPlan {
    pub(crate) sink: AccessSink,
    pub(crate) format: LogFormat,
    pub(crate) redact_query: bool,
    pub(crate) redact_referer: bool,
    pub(crate) redact_agent: bool,
    /// Request headers that lines of JSON carry, and whether their values are left out.
    pub(crate) headers: Vec<(String, Redacted)>,
}

/// Whether a value is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redacted {
    Yes,
    No,
}

/// Credentials: what they say is never logged.
const SECRET: [&str; 5] = ["authorization", "cookie", "set-cookie", "x-api-key", "proxy-authorization"];

impl LogPlan {
    pub(crate) fn new(logging: &Logging, settings: &Settings) -> Self {
        let redacted = |name: &str| logging.redact_headers.iter().any(|redacted| redacted == name);
        let headers = logging.headers.iter().map(|name| {
            let secret = redacted(name) || SECRET.contains(&name.as_str());
            (name.clone(), if secret { Redacted::Yes } else { Redacted::No })
        });
        Self {
            sink: settings.access_log.clone().unwrap_or_else(|| logging.access.clone()),
            format: logging.format,
            redact_query: logging.redact_query,
            redact_referer: redacted("referer"),
            redact_agent: redacted("user-agent"),
            headers: headers.collect(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.sink != AccessSink::Off
    }
}

/// Bytes of lines that a thread gathers before it hands them over.
const BATCH_BYTES: usize = 64 << 10;
/// Batches that wait for the writer.
const BATCHES_MAX: usize = 64;

enum Order {
    Write { bytes: Vec<u8>, lines: u64, plan: Arc<LogPlan> },
    Reopen,
}

/// The way to the writing thread. It ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    orders: SyncSender<Order>,
    /// Buffers that were written and can be filled again.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Lines that the sink did not take.
    lost: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the writing thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, received) = sync_channel(BATCHES_MAX);
        let spare = Arc::new(Mutex::new(Vec::with_capacity(BATCHES_MAX)));
        let lost = Arc::new(AtomicU64::new(0));
        let (returned, failed) = (Arc::clone(&spare), Arc::clone(&lost));
        thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&received, &returned, &failed))?;
        Ok(Self { orders, spare, lost })
    }

    /// Lines that the sink did not take, as when the disk was full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Opens the log file anew, after a rotation. Best effort when the writer is far behind.
    pub(crate) fn reopen(&self) {
        if self.orders.try_send(Order::Reopen).is_err() {
            warn!("access log not reopened: its writer is far behind");
        }
    }
}

fn write_all(orders: &Receiver<Order>, spare: &Mutex<Vec<Vec<u8>>>, lost: &AtomicU64) {
    let mut file: Option<(String, File)> = None;
    let mut failing = false;
    while let Ok(order) = orders.recv() {
        let Order::Write { mut bytes, lines, plan } = order else {
            (file, failing) = (None, false);
            continue;
        };
        // What was written last may end within a line.
        if failing {
            bytes.insert(0, b'\n');
        }
        let written = match &plan.sink {
            AccessSink::Off => Ok(()),
            AccessSink::Stdout => io::stdout().lock().write_all(&bytes),
            AccessSink::File(path) => write_file(&mut file, path, &bytes),
        };
        // Said once per streak of failures.
        match written {
            Ok(()) => failing = false,
            Err(error) => {
                lost.fetch_add(lines, Ordering::Relaxed);
                if !failing {
                    failing = true;
                    warn!(%error, sink = ?plan.sink, "access log cannot be written");
                }
            }
        }
        bytes.clear();
        let mut spare = lock(spare);
        if spare.len() < BATCHES_MAX {
            spare.push(bytes);
        }
    }
}

fn write_file(open: &mut Option<(String, File)>, path: &str, bytes: &[u8]) -> io::Result<()> {
    if open.as_ref().is_none_or(|(opened, _)| opened != path) {
        *open = Some((path.to_owned(), OpenOptions::new().create(true).append(true).open(path)?));
    }
    match open {
        Some((_, file)) => file.write_all(bytes),
        None => Ok(()),
    }
}

/// Lines of one thread that were not handed over yet.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    writer: LogWriter,
    bytes: Vec<u8>,
    lines: u64,
    plan: Option<Arc<LogPlan>>,
}

impl LogBuffer {
    pub(crate) fn new(writer: LogWriter) -> Self {
        Self { writer, bytes: Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4), lines: 0, plan: None }
    }

    /// Appends a line that `compose` writes, without its end.
    pub(crate) fn line(&mut self, plan: &Arc<LogPlan>, dropped: &Count, compose: impl FnOnce(&mut Vec<u8>)) {
        if self.plan.as_ref().is_none_or(|kept| !Arc::ptr_eq(kept, plan)) {
            self.flush(dropped);
            self.plan = Some(Arc::clone(plan));
        }
        compose(&mut self.bytes);
        self.bytes.push(b'\n');
        self.lines += 1;
        if self.bytes.len() >= BATCH_BYTES {
            self.flush(dropped);
        }
    }

    /// Hands the lines over; drops and counts them when the writer is behind.
    pub(crate) fn flush(&mut self, dropped: &Count) {
        let Some(plan) = self.plan.as_ref().filter(|_| !self.bytes.is_empty()) else { return };
        let next = lock(&self.writer.spare).pop().unwrap_or_else(|| Vec::with_capacity(self.bytes.capacity()));
        let bytes = std::mem::replace(&mut self.bytes, next);
        let lines = std::mem::take(&mut self.lines);
        let order = Order::Write { bytes, lines, plan: Arc::clone(plan) };
        if let Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) = self.writer.orders.try_send(order) {
            dropped.add(lines);
            if let Order::Write { mut bytes, .. } = order {
                bytes.clear();
                self.bytes = bytes;
            }
        }
    }
}

/// Members of a JSON object, each with a comma before it.
pub(crate) fn json_members(members: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in members {
        out.push(b',');
        json_string(&mut out, name);
        out.push(b':');
        json_string(&mut out, value);
    }
    out
}

/// Appends a field's value as a JSON string: what is no UTF-8 replaced, and no more than [`VALUE_BYTES`] of it.
pub(crate) fn json_value(out: &mut Vec<u8>, value: &[u8]) {
    let value = &value[..value.len().min(VALUE_BYTES)];
    json_string(out, &String::from_utf8_lossy(value));
}

/// Bytes of a field's value that a line holds.
const VALUE_BYTES: usize = 1024;

/// Appends a JSON string.
pub(crate) fn json_string(out: &mut Vec<u8>, text: &str) {
    let needs_escape = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f;
    out.push(b'"');
    let mut rest = text.as_bytes();
    // Looked at as a whole first, which takes no branch per byte: nearly no text needs escapes.
    if !rest.iter().fold(false, |any, &byte| any | needs_escape(byte)) {
        out.extend_from_slice(rest);
        out.push(b'"');
        return;
    }
    while let Some(at) = rest.iter().position(|&byte| needs_escape(byte)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_are_escaped() {
        let check = |text: &str| {
            let mut out = Vec::new();
            json_string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        };
        ["", "plain", "a\"b\\c", "\u{0}\n\u{1f}\u{7f}", "grüße \"«"].into_iter().for_each(check);
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_is_behind() {
        let (orders, received) = sync_channel(1);
        let writer = LogWriter { orders, spare: Arc::default(), lost: Arc::default() };
        let mut buffer = LogBuffer::new(writer);
        let plan = Arc::new(LogPlan::new(&Logging::default(), &Settings::default()));
        let dropped = Count::default();
        for _ in 0..3 {
            buffer.line(&plan, &dropped, |out| out.extend_from_slice(b"line"));
            buffer.flush(&dropped);
        }
        assert_eq!(dropped.value(), 2);
        let Ok(Order::Write { bytes, .. }) = received.recv() else { panic!("no batch") };
        assert_eq!(bytes, b"line\n");
    }
}
