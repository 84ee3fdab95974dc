-- Revisions that wait for people.

-- A revision that was published but needs signatures or approvals before its rollout starts. It has no rollout event until
-- then; the row stays as a record of what was asked for.
CREATE TABLE release_pending (
    revision      INTEGER PRIMARY KEY REFERENCES release (revision),
    approvals_min INTEGER NOT NULL,   -- people beside the author
    event_kind    TEXT    NOT NULL,   -- first event of its rollout, once nothing is missing
    event_body    TEXT    NOT NULL
) STRICT;

-- Signatures that were added after a revision was stored. The release's own envelope never changes.
CREATE TABLE release_signature (
    revision  INTEGER NOT NULL REFERENCES release (revision),
    key_id    TEXT    NOT NULL,       -- lower-case hex SHA-256 of the public key
    signature BLOB    NOT NULL,       -- 64 bytes of ed25519
    actor     TEXT    NOT NULL,       -- who brought it
    at_ms     INTEGER NOT NULL,
    PRIMARY KEY (revision, key_id)
) STRICT;

-- People's words.
CREATE TABLE release_approval (
    revision INTEGER NOT NULL REFERENCES release (revision),
    actor    TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (revision, actor)
) STRICT;

CREATE TRIGGER release_pending_stays BEFORE UPDATE ON release_pending BEGIN SELECT RAISE(ABORT, 'release_pending is append-only'); END;
CREATE TRIGGER release_pending_is_kept BEFORE DELETE ON release_pending BEGIN SELECT RAISE(ABORT, 'release_pending is append-only'); END;
CREATE TRIGGER release_signature_stays BEFORE UPDATE ON release_signature BEGIN SELECT RAISE(ABORT, 'release_signature is append-only'); END;
CREATE TRIGGER release_signature_is_kept BEFORE DELETE ON release_signature BEGIN SELECT RAISE(ABORT, 'release_signature is append-only'); END;
CREATE TRIGGER release_approval_stays BEFORE UPDATE ON release_approval BEGIN SELECT RAISE(ABORT, 'release_approval is append-only'); END;
CREATE TRIGGER release_approval_is_kept BEFORE DELETE ON release_approval BEGIN SELECT RAISE(ABORT, 'release_approval is append-only'); END;

-- Agents ask for the way from a head that they have seen.
CREATE INDEX audit_hash ON audit (hash);
