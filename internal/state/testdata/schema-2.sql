CREATE TABLE sandbox (
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
INSERT INTO sandbox VALUES (1, 'id-old', 'default', 'old', 'stopped', '{"name":"old","image":{},"resources":{"cpus":0,"memory_mib":0,"max_cpus":0,"max_memory_mib":0},"runtime":{"shell":"","scripts":null,"entrypoint":null,"cmd":null,"metrics_sample_interval_ms":0,"disable_metrics_sample":false},"env":[{"key":"A","value":"b"}],"labels":{"team":"ml"},"rlimits":null,"mounts":null,"patches":null,"network":{"enabled":true,"strict":false,"max_connections":null,"trust_host_cas":false,"ports":null},"init":null,"pull_policy":"","security_profile":"","deployment_profile":"","lifecycle":{"ephemeral":false,"max_duration_secs":null,"idle_timeout_secs":null}}', NULL, '["sleep","9"]', 1, '{"driver":"","memory":"","cpu":"","network":"","user":""}', '{"reason":"shutdown-requested","at":"2026-11-20T17:19:25.561962235Z"}', 1795195165561255419, 1795195165561962235);
INSERT INTO label VALUES (1, 'team', 'ml');
INSERT INTO run VALUES (1, 1, 1, 1795195165562309449, 1795195165561962235, 1795195165561962235, 'shutdown-requested', '', NULL, NULL);
INSERT INTO volume VALUES (1, 'v1', 'default', 'data', 0, '{}', 1795195165561962235, 1795195165561962235);
INSERT INTO volume_use VALUES (1, 1);
PRAGMA user_version = 2;
PRAGMA application_id = 1836278321;
