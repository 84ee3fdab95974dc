//! OTLP, as far as traces need it: the messages and the service of `opentelemetry-proto`, under its own package names.
//!
//! Modules are nested as the packages are, since the generated code refers to its neighbours that way.

/// Package `opentelemetry.proto.common`.
pub mod common {
    #[allow(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::use_self,
        missing_debug_implementations,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("opentelemetry.proto.common.v1");
    }
}

/// Package `opentelemetry.proto.resource`.
pub mod resource {
    #[allow(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::use_self,
        missing_debug_implementations,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("opentelemetry.proto.resource.v1");
    }
}

/// Package `opentelemetry.proto.trace`.
pub mod trace {
    #[allow(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::use_self,
        missing_debug_implementations,
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("opentelemetry.proto.trace.v1");
    }
}

/// Package `opentelemetry.proto.collector`.
pub mod collector {
    /// Package `opentelemetry.proto.collector.trace`.
    pub mod trace {
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::allow_attributes_without_reason,
            clippy::use_self,
            missing_debug_implementations,
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            reason = "generated code"
        )]
        pub mod v1 {
            tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
        }
    }
}
