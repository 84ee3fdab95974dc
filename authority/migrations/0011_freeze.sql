-- Times in which no change widens. Roll backs do not ask.
CREATE TABLE freeze (
    number        INTEGER PRIMARY KEY AUTOINCREMENT, -- shown as `f3`
    from_ms       INTEGER NOT NULL,
    until_ms      INTEGER NOT NULL,
    reason        TEXT    NOT NULL,
    actor         TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;
