//! The answer's content on its way through compression, where the route has that stage.

use crate::admission::edits::FieldEdits;
use crate::exchange::Exchange;
use crate::http1::body::{Coding, Fed};
use crate::http1::field::{FieldView, Fields};
use crate::http1::framing::Version;
use crate::http1::response_head::{Asked, ResponseHead};
use crate::http1::write;
use crate::middleware::compression::Subject;
use crate::worker::Worker;

impl Exchange {
    /// Decides whether the answer is compressed; if so its fields are edited, and its length is not known any more.
    /// Whether it is. Follows [`Self::frame_download`].
    pub(super) fn choose_compression(
        &mut self,
        worker: &Worker,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        fields: &Fields,
    ) -> bool {
        // HTTP/1.0 would learn of the end from that of the connection alone.
        if self.version != Version::Http11 || head.status == 101 {
            return false;
        }
        let view = std::rc::Rc::clone(&self.record.view);
        let admission = view.snapshot.routes[self.route].admission.as_ref();
        let Some(compression) = admission.and_then(|admission| admission.compression()) else { return false };
        let lines = FieldView { bytes, fields };
        let subject = Subject { status: head.status, length: head.content_length, lines: &lines };
        let edits = self.record.edit(worker);
        let Some(encoder) = compression.begin(&subject, edits.coding, &mut edits.response) else { return false };
        // The answer to HEAD has the fields of that to GET, and no content.
        if self.asked != Asked::Head {
            self.download_coding = Coding::Chunked;
            self.encoder = Some(Box::new(encoder));
        }
        true
    }

    /// What to go back to if the answer is not passed on after all.
    pub(super) fn response_edits_before_compression(&self) -> Option<FieldEdits> {
        let admission = self.route().admission.as_ref()?;
        admission.compression()?;
        Some(self.record.edits.as_ref().map(|edits| edits.response.clone()).unwrap_or_default())
    }

    /// The answer is not passed on: another one is not what this one was.
    pub(super) fn forget_compression(&mut self, before: Option<FieldEdits>) {
        self.encoder = None;
        if let (Some(before), Some(edits)) = (before, self.record.edits.as_mut()) {
            edits.response = before;
        }
    }

    /// As [`crate::http1::body::Body::feed`], with compression where it was chosen. The content that is counted is what
    /// the client gets.
    pub(super) fn feed_download(
        &mut self,
        worker: &Worker,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Fed, &'static str> {
        let Some(encoder) = &mut self.encoder else { return self.download.feed(input, self.download_coding, out) };
        let mut plain = worker.take_buffer();
        let fed = self.download.feed(input, Coding::Identity, &mut plain);
        let done = self.download.is_done();
        let fed = fed.and_then(|fed| {
            let mut packed = worker.take_buffer();
            if !plain.is_empty() || done {
                encoder.feed(&plain, done, &mut packed).map_err(|_| NOT_COMPRESSED)?;
            }
            write::content(out, self.download_coding, &packed);
            if done {
                out.extend_from_slice(b"0\r\n\r\n");
            }
            let content = packed.len() as u64;
            worker.give_buffer(packed);
            Ok(Fed { content, ..fed })
        });
        worker.give_buffer(plain);
        fed
    }

    /// As [`crate::http1::body::Body::close`], with compression where it was chosen.
    pub(super) fn close_download(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(encoder) = &mut self.encoder else { return self.download.close(self.download_coding, out) };
        if self.download.is_done() || !self.download.close(Coding::Identity, out) {
            return self.download.is_done();
        }
        let mut packed = Vec::new();
        if encoder.feed(b"", true, &mut packed).is_err() {
            return false;
        }
        self.record.response_bytes += packed.len() as u64;
        write::content(out, self.download_coding, &packed);
        out.extend_from_slice(b"0\r\n\r\n");
        true
    }
}

/// Why content cannot go on.
const NOT_COMPRESSED: &str = "content cannot be compressed: no memory";
