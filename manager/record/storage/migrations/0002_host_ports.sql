-- Ports of this machine that lead into runs. A row of a run that has ended counts
-- no more, and goes when its port is wanted again.
CREATE TABLE host_ports (
    port   INTEGER NOT NULL PRIMARY KEY CHECK (port BETWEEN 1 AND 65535),
    run_id TEXT    NOT NULL REFERENCES runs (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX host_ports_by_run ON host_ports (run_id);
