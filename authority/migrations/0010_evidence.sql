-- What rollouts were judged on. A verdict is a function of these rows and the plan: `rollout explain` judges them again.
CREATE TABLE rollout_evidence (
    revision INTEGER NOT NULL REFERENCES release (revision),
    seq      INTEGER NOT NULL,  -- 1, 2, 3, … in its rollout
    at_ms    INTEGER NOT NULL,
    body     TEXT    NOT NULL,  -- JSON: a phase that begins, or what both sides did in an interval
    PRIMARY KEY (revision, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER rollout_evidence_stays BEFORE UPDATE ON rollout_evidence BEGIN SELECT RAISE(ABORT, 'rollout_evidence is append-only'); END;
