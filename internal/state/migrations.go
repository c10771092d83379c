package state

// migrations are the schema's history: number n brings a database of version n to version n+1. They are appended and never
// edited, and each has a dump of what it made in testdata, from which a test upgrades.
var migrations = [...]string{
	`CREATE TABLE sandbox (
		seq        INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation, for lists and their cursors
		id         TEXT NOT NULL UNIQUE,              -- UUID, never used twice
		namespace  TEXT NOT NULL,
		name       TEXT NOT NULL,
		status     TEXT NOT NULL,                     -- a sandbox.Status; what runs is asked of its lock first
		spec       TEXT NOT NULL,                     -- sandbox.Spec as JSON: what its next start gets
		active     TEXT,                              -- the same of the present run
		startup    TEXT NOT NULL DEFAULT '[]',        -- command that each run does by itself, as JSON
		booted     INTEGER NOT NULL DEFAULT 0,        -- its first start came to an end: its root disk counts
		confinement TEXT,                             -- sandbox.Confinement of the last run, as JSON
		ended      TEXT,                              -- sandbox.End of the last run, as JSON
		created_at INTEGER NOT NULL,                  -- nanoseconds since 1970, as all times here
		updated_at INTEGER NOT NULL,
		UNIQUE (namespace, name)
	);
	CREATE TABLE label (
		sandbox INTEGER NOT NULL REFERENCES sandbox ON DELETE CASCADE,
		key     TEXT NOT NULL,
		value   TEXT NOT NULL,
		PRIMARY KEY (sandbox, key)
	) WITHOUT ROWID;
	CREATE INDEX label_value ON label (key, value);
	CREATE TABLE run (
		id         INTEGER PRIMARY KEY,
		sandbox    INTEGER NOT NULL REFERENCES sandbox ON DELETE CASCADE,
		runner     INTEGER,                           -- process id; for people
		started_at INTEGER NOT NULL,
		running_at INTEGER,                           -- when its agent answered
		ended_at   INTEGER,
		reason     TEXT,
		message    TEXT,
		exit_code  INTEGER,
		signal     INTEGER
	);
	CREATE INDEX run_sandbox ON run (sandbox, id);
	CREATE TABLE volume (
		seq        INTEGER PRIMARY KEY AUTOINCREMENT,
		id         TEXT NOT NULL UNIQUE,
		namespace  TEXT NOT NULL,
		name       TEXT NOT NULL,
		quota_mib  INTEGER NOT NULL DEFAULT 0,        -- 0: none
		labels     TEXT NOT NULL DEFAULT '{}',        -- as JSON
		created_at INTEGER NOT NULL,
		updated_at INTEGER NOT NULL,
		UNIQUE (namespace, name)
	);
	CREATE TABLE volume_use (
		volume  INTEGER NOT NULL REFERENCES volume,
		sandbox INTEGER NOT NULL REFERENCES sandbox ON DELETE CASCADE,
		PRIMARY KEY (volume, sandbox)
	) WITHOUT ROWID;
	CREATE INDEX volume_use_sandbox ON volume_use (sandbox);
	CREATE TABLE lease (
		name       TEXT PRIMARY KEY,
		holder     TEXT NOT NULL,
		expires_at INTEGER NOT NULL
	) WITHOUT ROWID;`,
	`ALTER TABLE sandbox ADD COLUMN sealed TEXT;           -- values of its secrets, encrypted (package backend/local)
	CREATE TABLE usage (                                  -- each run that ended; it outlives its sandbox
		id         INTEGER PRIMARY KEY,
		sandbox    TEXT NOT NULL,                     -- its UUID
		namespace  TEXT NOT NULL,
		name       TEXT NOT NULL,                     -- the last one it had
		started_at INTEGER NOT NULL,                  -- when its agent answered
		ended_at   INTEGER NOT NULL,
		cpus       INTEGER NOT NULL,
		memory_mib INTEGER NOT NULL,
		disk_mib   INTEGER NOT NULL,                  -- what its disk may hold
		cpu_ns     INTEGER NOT NULL                   -- that it computed
	);
	CREATE INDEX usage_namespace ON usage (namespace, ended_at);
	CREATE INDEX usage_sandbox ON usage (sandbox);`,
	// Leases are locks on open files (docs/adr/0020): this table was never used.
	`DROP TABLE lease`,
}
