//! Admission: what a route does with a request between matching and picking an endpoint.
//!
//! A route that has something configured carries an [`Admission`]: its stages, compiled, in the order in which they run.
//! Each looks at the request head ([`Seen`]), leaves what it wants changed in the request's [`Edits`], and says how to go
//! on ([`Step`]). A route with nothing configured carries none and pays one look at an `Option`.
//!
//! To hang a feature in: add a variant to [`Stage`], let [`compile`] put it where it belongs, and give it an `admit` that
//! returns a [`Step`]. A stage never blocks. What takes time goes into the boxed future of [`Step::Wait`], which owns all
//! that it needs; the connection's task waits for it, and the stages go on from there with the head parsed again.
//! A wait ends at the policy's timeout, at [`WAIT_MAX`], or when the client is gone; stages bound it further themselves.
//!
//! What a stage knows of answers goes the other way round, through the edits: [`Edits::response`] is applied to whatever
//! answers the request, an endpoint or the proxy itself. [`Edits::hold`] keeps a value until the request is over.
//!
//! This module does not know what the stages are for, nor how an answer reaches the client.

#![allow(dead_code, reason = "the first stages use a part of it")]

use std::any::Any;
use std::net::IpAddr;
use std::rc::Rc;

use sealane_model::config::{self, Config};

use crate::answer::Local;
use crate::connection::PeerTls;
use crate::http1::field::Fields;
use crate::live::Live;
use crate::middleware::header_transform::HeaderTransform;
use crate::record::Record;
use crate::request::Request;
use crate::worker::Worker;

pub(crate) mod edits;
pub(crate) mod wait;

pub(crate) use edits::Edits;
pub(crate) use wait::{Suspended, Then, Wait};

/// What a route does before a request may pass.
#[derive(Debug)]
pub(crate) struct Admission {
    /// In the order in which they run.
    stages: Vec<Stage>,
}

/// One of them, compiled.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Edits of fields that are the same for every request.
    HeaderTransform(HeaderTransform),
}

/// How a stage wants to go on.
pub(crate) enum Step {
    /// The next stage.
    Continue,
    /// The proxy answers.
    Answer(Box<Local>),
    /// What the future says, once it is there.
    Wait(Wait),
}

/// Where the stages have come to.
pub(crate) enum Admitted {
    /// The request may pass.
    Yes,
    /// The proxy answers.
    Answered(Box<Local>),
    /// The stage with this number waits.
    Waits(usize, Wait),
}

/// Compiles what `route` asks for; `None`: nothing.
pub(crate) fn compile(config: &Config, route: &config::Route, _live: &Live) -> Option<Box<Admission>> {
    let chain = route.middleware.map(|chain| config.middleware[chain].stages.as_slice()).unwrap_or_default();
    let mut stages = Vec::new();
    for stage in chain {
        match stage {
            config::Stage::HeaderTransform(edits) => {
                stages.push(Stage::HeaderTransform(HeaderTransform::compile(edits)));
            }
            config::Stage::RequestId
            | config::Stage::Auth(_)
            | config::Stage::RateLimit(_)
            | config::Stage::Plugin(_)
            | config::Stage::Tracing
            | config::Stage::AccessLog => {}
        }
    }
    (!stages.is_empty()).then(|| Box::new(Admission { stages }))
}

impl Admission {
    /// Runs the stages from number `first` on. Their edits are left in the record.
    pub(crate) fn admit(
        &self,
        first: usize,
        worker: &Rc<Worker>,
        record: &mut Record,
        request: &Request<'_>,
        fields: &Fields,
    ) -> Admitted {
        let mut edits = record.edits.take().unwrap_or_else(|| worker.take_edits());
        let mut admitted = Admitted::Yes;
        for (number, stage) in self.stages.iter().enumerate().skip(first) {
            let seen = Seen { worker, record, request, fields };
            match stage.admit(&seen, &mut edits) {
                Step::Continue => {}
                Step::Answer(local) => {
                    admitted = Admitted::Answered(local);
                    break;
                }
                Step::Wait(wait) => {
                    admitted = Admitted::Waits(number, wait);
                    break;
                }
            }
        }
        record.edits = Some(edits);
        admitted
    }
}

impl Stage {
    fn admit(&self, _seen: &Seen<'_>, edits: &mut Edits) -> Step {
        match self {
            Self::HeaderTransform(stage) => {
                stage.apply(edits);
                Step::Continue
            }
        }
    }
}

/// What a stage sees of a request.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// The thread.
    pub(crate) worker: &'a Rc<Worker>,
    /// What is known so far: view and snapshot, route, request id. Its edits are with the stage.
    pub(crate) record: &'a Record,
    pub(crate) request: &'a Request<'a>,
    pub(crate) fields: &'a Fields,
}

impl<'a> Seen<'a> {
    pub(crate) fn method(&self) -> &'a str {
        self.request.head.method
    }

    /// Host and port. Empty only in HTTP/1.0.
    pub(crate) fn authority(&self) -> &'a str {
        self.request.head.authority
    }

    /// The host, without port and brackets.
    pub(crate) fn host(&self) -> &'a str {
        self.request.head.host()
    }

    /// As sent.
    pub(crate) fn path(&self) -> &'a str {
        self.request.head.path
    }

    /// As sent, without `?`.
    pub(crate) fn query(&self) -> Option<&'a str> {
        self.request.head.query
    }

    /// The nearest address that no trusted proxy stands for.
    pub(crate) fn client_ip(&self) -> IpAddr {
        self.request.client.ip
    }

    /// What the client's TLS handshake told; `None`: plain text.
    pub(crate) fn tls(&self) -> Option<&'a PeerTls> {
        self.request.peer.tls.as_deref()
    }

    pub(crate) fn request_id(&self) -> &'a [u8] {
        self.record.request_id()
    }

    /// The values that a field was sent with, one per line. The name in any case.
    pub(crate) fn sent(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.request.bytes;
        let lines = self.fields.lines().iter();
        lines
            .filter(move |line| line.name.of_bytes(bytes).eq_ignore_ascii_case(name.as_bytes()))
            .map(move |line| line.value.of_bytes(bytes))
    }

    /// The first value of a field as it will go on: what earlier stages edited counts.
    pub(crate) fn header<'e>(&self, name: &'e str, edits: &'e Edits) -> Option<&'e [u8]>
    where
        'a: 'e,
    {
        if !edits.request.removes(name.as_bytes())
            && let Some(value) = self.sent(name).next()
        {
            return Some(value);
        }
        edits.request.value(name.as_bytes())
    }
}

/// Something that is kept until a request is over.
pub(crate) type Held = Box<dyn Any>;
