-- Certificates of members that were taken back before their end. Which were issued is in the audit log.

CREATE TABLE revoked_certificate (
    sha256        BLOB    PRIMARY KEY, -- of the certificate's DER
    role          TEXT    NOT NULL,    -- agent or proxy
    node          TEXT    NOT NULL,    -- its id
    not_after_ms  INTEGER NOT NULL,    -- when it ends by itself; then the row goes
    revoked_at_ms INTEGER NOT NULL,
    actor         TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
