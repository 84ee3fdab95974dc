-- The authority's database. Everything that was published or decided is append-only: triggers refuse to change it, so that a
-- bug cannot rewrite history; the audit chain and the signatures show what a person with the file could do.
-- Times are Unix milliseconds; digests are 32 bytes of SHA-256.

-- Facts about this database that there is exactly one of.
CREATE TABLE fact (
    name  TEXT PRIMARY KEY,   -- fleet_id, epoch
    value TEXT NOT NULL
) STRICT;

-- Trust roots, as signed.
CREATE TABLE root (
    version  INTEGER PRIMARY KEY,  -- 1, 2, 3, …
    envelope BLOB    NOT NULL      -- protobuf sealane.v1.Envelope
) STRICT;

-- Content by digest: manifests and chunks.
CREATE TABLE blob (
    digest  BLOB PRIMARY KEY,      -- SHA-256 of content
    content BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Published revisions. The envelope is the truth; the columns repeat what lists and look-ups need.
CREATE TABLE release (
    revision        INTEGER PRIMARY KEY,   -- only grows, never reused
    epoch           INTEGER NOT NULL,      -- orders before revision
    partition       TEXT    NOT NULL CHECK (partition IN ('config', 'sandbox')),
    digest          BLOB    NOT NULL UNIQUE, -- SHA-256 of the release payload
    envelope        BLOB    NOT NULL,      -- protobuf sealane.v1.Envelope of the release statement
    manifest_digest BLOB    NOT NULL REFERENCES blob (digest),
    base_digest     BLOB,                  -- release that was last good; NULL: the first
    change_class    TEXT    NOT NULL CHECK (change_class IN ('standard', 'expedited', 'sandbox', 'revert')),
    author          TEXT    NOT NULL,
    message         TEXT    NOT NULL,
    file            TEXT    NOT NULL,      -- name of the config file
    config_bytes    INTEGER NOT NULL,
    content_of      INTEGER,               -- a roll back by an operator: whose content this is
    created_at_ms   INTEGER NOT NULL
) STRICT;

-- What happened to each rollout; its state is the fold of its events.
CREATE TABLE rollout_event (
    id       INTEGER PRIMARY KEY AUTOINCREMENT, -- order over the whole fleet
    revision INTEGER NOT NULL REFERENCES release (revision),
    seq      INTEGER NOT NULL,                  -- 1, 2, 3, … in its rollout
    kind     TEXT    NOT NULL,                  -- `kind` of the body, for look-ups
    at_ms    INTEGER NOT NULL,
    body     TEXT    NOT NULL,                  -- JSON of the event
    UNIQUE (revision, seq)
) STRICT;
CREATE INDEX rollout_event_kind ON rollout_event (kind, id);

-- Signed grants, as offered to agents. Written in the same transaction as the event that opened the stage.
CREATE TABLE stage_grant (
    sequence INTEGER PRIMARY KEY,               -- only grows over the life of a fleet
    revision INTEGER NOT NULL REFERENCES release (revision),
    envelope BLOB    NOT NULL,                  -- protobuf sealane.v1.Envelope of the grant
    at_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX stage_grant_revision ON stage_grant (revision);

-- Who did what, each entry hashed over the one before.
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,   -- 1, 2, 3, … without gaps
    at_ms    INTEGER NOT NULL,
    actor    TEXT    NOT NULL,      -- token id and role, agent id, or `authority`
    action   TEXT    NOT NULL,      -- publish, promote, completed, token_create, …
    subject  TEXT    NOT NULL,      -- such as `r42`
    digest   BLOB,                  -- release digest where there is one
    detail   TEXT    NOT NULL,      -- JSON
    hash     BLOB    NOT NULL       -- SHA-256 over the hash before and every other column
) STRICT;

-- Bearer tokens. The secret itself is nowhere.
CREATE TABLE token (
    id            TEXT PRIMARY KEY,
    secret_sha256 BLOB    NOT NULL UNIQUE,
    role          TEXT    NOT NULL,
    region        TEXT    NOT NULL,  -- role agent: where it enrols; else empty
    comment       TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,           -- NULL: does not expire
    revoked_at_ms INTEGER            -- NULL: is valid
) STRICT;

-- Client certificates of agents. Several of one agent are valid while it renews; expired ones are removed.
CREATE TABLE agent_certificate (
    sha256         BLOB PRIMARY KEY,     -- of the DER
    agent          TEXT    NOT NULL,
    region         TEXT    NOT NULL,
    enrolled_at_ms INTEGER NOT NULL,
    not_after_ms   INTEGER NOT NULL
) STRICT;

-- Nodes that a person keeps out of every stage but the last.
CREATE TABLE cordon (
    node  TEXT PRIMARY KEY,
    actor TEXT    NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;

-- Answers by request id, so that a repeated request gets the first answer.
CREATE TABLE idempotency (
    request_id     TEXT PRIMARY KEY,
    method         TEXT    NOT NULL,
    request_sha256 BLOB    NOT NULL, -- another request under the same id is refused
    answer         BLOB    NOT NULL, -- protobuf of the answer
    at_ms          INTEGER NOT NULL
) STRICT;

CREATE TRIGGER blob_stays BEFORE UPDATE ON blob BEGIN SELECT RAISE(ABORT, 'blob is append-only'); END;
CREATE TRIGGER release_stays BEFORE UPDATE ON release BEGIN SELECT RAISE(ABORT, 'release is append-only'); END;
CREATE TRIGGER release_is_kept BEFORE DELETE ON release BEGIN SELECT RAISE(ABORT, 'release is append-only'); END;
CREATE TRIGGER rollout_event_stays BEFORE UPDATE ON rollout_event BEGIN SELECT RAISE(ABORT, 'rollout_event is append-only'); END;
CREATE TRIGGER rollout_event_is_kept BEFORE DELETE ON rollout_event BEGIN SELECT RAISE(ABORT, 'rollout_event is append-only'); END;
CREATE TRIGGER stage_grant_stays BEFORE UPDATE ON stage_grant BEGIN SELECT RAISE(ABORT, 'stage_grant is append-only'); END;
CREATE TRIGGER stage_grant_is_kept BEFORE DELETE ON stage_grant BEGIN SELECT RAISE(ABORT, 'stage_grant is append-only'); END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER root_stays BEFORE UPDATE ON root BEGIN SELECT RAISE(ABORT, 'root is append-only'); END;
