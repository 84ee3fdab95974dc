//! Which call needs what.

use super::Role;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Public,
    /// A token of at least this role.
    Operators(Role),
    /// An agent's token, or, over TLS, its certificate.
    Agent,
    /// An agent's token or certificate, whichever it has.
    AgentEnrol,
}

/// What a call needs, by its path. A path that nobody serves needs the most, so that a forgotten row is closed.
pub(crate) fn required(path: &str) -> Access {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
        return Access::Operators(Role::Admin);
    };
    match service {
        "grpc.health.v1.Health"
        | "grpc.reflection.v1.ServerReflection"
        | "grpc.reflection.v1alpha.ServerReflection" => Access::Public,
        "sealane.v1.AgentService" if method == "Enrol" => Access::AgentEnrol,
        "sealane.v1.AgentService" => Access::Agent,
        _ => Access::Operators(role(service, method)),
    }
}

fn role(service: &str, method: &str) -> Role {
    match (service, method) {
        (
            "sealane.v1.ConfigService",
            "Validate" | "Plan" | "GetRevision" | "ListRevisions" | "DiffRevisions" | "Explain" | "ExportRevision",
        )
        | ("sealane.v1.TrustService", "GetTrust")
        | ("sealane.v1.RolloutService", "Get" | "List" | "Watch" | "Explain" | "ListFreezes")
        | ("sealane.v1.FleetService", "GetFleet" | "ListNodes" | "Watch" | "GetCacheStats")
        | ("sealane.v1.AuditService", "ListAudit" | "VerifyAudit") => Role::Viewer,
        ("sealane.v1.ConfigService", "Rollback")
        | ("sealane.v1.RolloutService", "Pause" | "Resume" | "Promote" | "Abort" | "Retry" | "AddFreeze")
        | ("sealane.v1.FleetService", "Cordon" | "Drain" | "PurgeCache" | "Tail") => Role::Operator,
        ("sealane.v1.ConfigService", "Publish" | "Approve") => Role::Publisher,
        // To end a freeze early is to override it; `Publish` asks for the role itself where it is to override one.
        ("sealane.v1.RolloutService", "RemoveFreeze") => Role::Incident,
        (
            "sealane.v1.SandboxService",
            "AddSandboxRoute" | "ListSandboxRoutes" | "DeleteSandboxRoute" | "DeleteSandbox",
        ) => Role::Sandbox,
        _ => Role::Admin,
    }
}
