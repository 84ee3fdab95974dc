-- The sandbox routes of one proxy without a fleet. The fleet's stand in the authority's database, in the same table.

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
