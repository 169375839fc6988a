-- Times are nanoseconds since 1970, 0 where unknown. Documents in handle, spec
-- and meta belong to the caller.
CREATE TABLE runs (
    id             TEXT    NOT NULL PRIMARY KEY,
    name           TEXT    NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('created', 'starting', 'running', 'stopping', 'stopped', 'failed')),
    ready          INTEGER NOT NULL CHECK (ready IN (0, 1)),
    workspace      TEXT    NOT NULL,
    image          TEXT    NOT NULL,
    runtime        TEXT    NOT NULL,
    isolation      TEXT    NOT NULL,
    isolation_note TEXT    NOT NULL,
    backend_id     TEXT    NOT NULL,
    handle         BLOB,
    spec           BLOB,
    meta           BLOB,
    created_at     INTEGER NOT NULL CHECK (created_at > 0),
    started_at     INTEGER NOT NULL,
    stopped_at     INTEGER NOT NULL,
    deadline       INTEGER NOT NULL,
    exit_code      INTEGER,
    signal         INTEGER NOT NULL,
    oom_killed     INTEGER NOT NULL CHECK (oom_killed IN (0, 1)),
    end_reason     TEXT    NOT NULL,
    error          TEXT    NOT NULL,
    stop_requested INTEGER NOT NULL CHECK (stop_requested IN (0, 1)),
    keep           INTEGER NOT NULL CHECK (keep IN (0, 1)),
    interactive    INTEGER NOT NULL CHECK (interactive IN (0, 1)),
    tty            INTEGER NOT NULL CHECK (tty IN (0, 1)),
    memory_bytes   INTEGER NOT NULL CHECK (memory_bytes >= 0),
    cpus           REAL    NOT NULL CHECK (cpus >= 0),
    version        INTEGER NOT NULL CHECK (version > 0)
) STRICT;

-- A name is taken for as long as its run lives.
CREATE UNIQUE INDEX runs_live ON runs (name)
    WHERE state IN ('created', 'starting', 'running', 'stopping');

CREATE INDEX runs_by_time ON runs (created_at, id, name);
CREATE INDEX runs_by_state ON runs (state, created_at, id, name);
CREATE INDEX runs_by_name ON runs (name, created_at, id, state);
CREATE INDEX runs_tended ON runs (created_at, id)
    WHERE ready = 0 OR state IN ('starting', 'running', 'stopping');

-- Which process looks after a run. Expiry is on the monotonic clock of one boot
-- of the machine: neither a sleep nor a changed date takes a lease away.
CREATE TABLE leases (
    run_id  TEXT    NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    holder  TEXT    NOT NULL,
    boot    TEXT    NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_by_holder ON leases (holder);

-- Calls that may be repeated. seq grows, so that the oldest are dropped first.
CREATE TABLE keys (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    op         TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    args_hash  TEXT    NOT NULL,
    run_id     TEXT    NOT NULL,
    done       INTEGER NOT NULL CHECK (done IN (0, 1)),
    result     BLOB,
    size       INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (op, key)
) STRICT;

CREATE INDEX keys_by_run ON keys (run_id);
CREATE INDEX keys_by_expiry ON keys (expires_at);
CREATE INDEX keys_by_size ON keys (seq, size) WHERE size > 0;
