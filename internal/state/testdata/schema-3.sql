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
		updated_at INTEGER NOT NULL, sealed TEXT,
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
CREATE INDEX usage_sandbox ON usage (sandbox);
INSERT INTO sandbox VALUES (1, 'id-old', 'default', 'old', 'stopped', '{"name":"old","image":{},"resources":{"cpus":0,"memory_mib":0,"max_cpus":0,"max_memory_mib":0},"runtime":{"shell":"","scripts":null,"entrypoint":null,"cmd":null,"metrics_sample_interval_ms":0,"disable_metrics_sample":false},"env":[{"key":"A","value":"b"}],"labels":{"team":"ml"},"rlimits":null,"mounts":null,"patches":null,"network":{"enabled":true,"strict":false,"max_connections":null,"trust_host_cas":false,"ports":null},"init":null,"pull_policy":"","security_profile":"","deployment_profile":"","lifecycle":{"ephemeral":false,"max_duration_secs":null,"idle_timeout_secs":null}}', NULL, '["sleep","9"]', 1, '{"driver":"","memory":"","cpu":"","network":"","user":""}', '{"reason":"shutdown-requested","at":"2026-11-20T17:31:15.317530252Z"}', 1795195875316872319, 1795195875317530252, NULL);
INSERT INTO label VALUES (1, 'team', 'ml');
INSERT INTO run VALUES (1, 1, 1, 1795195875317848640, 1795195875317530252, 1795195875317530252, 'shutdown-requested', '', NULL, NULL);
INSERT INTO volume VALUES (1, 'v1', 'default', 'data', 0, '{}', 1795195875317530252, 1795195875317530252);
INSERT INTO volume_use VALUES (1, 1);
INSERT INTO usage VALUES (1, 'id-old', 'default', 'old', 1795195875317530252, 1795195875317530252, 0, 0, 0, 0);
PRAGMA user_version = 3;
PRAGMA application_id = 1836278321;
