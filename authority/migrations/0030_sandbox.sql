-- Sandbox routes of the fleet, and the signed revisions that hold them. Each revision holds all routes, so only the newest
-- few are kept; who changed what is in the audit log.

CREATE TABLE sandbox_route (
    id            INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused
    sandbox_id    TEXT    NOT NULL,
    pattern       TEXT    NOT NULL,
    target_url    TEXT    NOT NULL,
    priority      INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,                           -- NULL: stays until it is deleted
    UNIQUE (sandbox_id, pattern)
) STRICT;

CREATE TABLE sandbox_release (
    revision INTEGER PRIMARY KEY,   -- of the sandbox partition; only grows, never reused
    epoch    INTEGER NOT NULL,      -- orders before revision
    digest   BLOB    NOT NULL,      -- SHA-256 of the release payload
    envelope BLOB    NOT NULL       -- protobuf sealane.v1.Envelope of the release statement
) STRICT;

-- Content by digest, and which revisions need it.
CREATE TABLE sandbox_blob (
    digest  BLOB PRIMARY KEY,
    content BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sandbox_blob_use (
    revision INTEGER NOT NULL,
    digest   BLOB    NOT NULL,
    PRIMARY KEY (revision, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX sandbox_blob_use_digest ON sandbox_blob_use (digest);
