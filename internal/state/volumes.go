package state

import (
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Volume is what is recorded of a named volume. Its files are below MSB_HOME/volumes.
type Volume struct {
	Seq                  int64
	ID                   string // UUID
	Namespace, Name      string
	QuotaMiB             int // 0: none
	Labels               map[string]string
	CreatedAt, UpdatedAt time.Time
	Users                []sandbox.Ref // kept sandboxes that mount it
}

const volumeColumns = "seq, id, namespace, name, quota_mib, labels, created_at, updated_at"

func volumeOf(s *sqlite.Stmt) (Volume, error) {
	v := Volume{Seq: s.GetInt64("seq"), ID: s.GetText("id"), Namespace: s.GetText("namespace"), Name: s.GetText("name"), QuotaMiB: int(s.GetInt64("quota_mib")),
		CreatedAt: timeOf(s, "created_at"), UpdatedAt: timeOf(s, "updated_at")}
	return v, fromJSON(s.GetText("labels"), &v.Labels)
}

// InsertVolume records a new volume. Kind: VolumeExists.
func (db *DB) InsertVolume(v Volume) error {
	return db.do("write", func() error {
		taken := false
		err := db.exec("SELECT 1 FROM volume WHERE namespace = ?1 AND name = ?2", func(*sqlite.Stmt) error { taken = true; return nil }, v.Namespace, v.Name)
		if err != nil {
			return err
		}
		if taken {
			return &sandbox.Error{Op: "create volume", Kind: sandbox.VolumeExists, Message: v.Name}
		}
		labels := v.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		return db.exec("INSERT INTO volume (id, namespace, name, quota_mib, labels, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", nil,
			v.ID, v.Namespace, v.Name, v.QuotaMiB, toJSON(labels), v.CreatedAt.UnixNano(), v.UpdatedAt.UnixNano())
	})
}

// GetVolume returns the record of a volume. Kind: VolumeNotFound.
func (db *DB) GetVolume(namespace, name string) (Volume, error) {
	all, err := db.volumes("namespace = ?1 AND name = ?2", namespace, name)
	if err == nil && len(all) == 0 {
		err = &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: name, Hint: "see which there are with: msb volume ls"}
	}
	if err != nil {
		return Volume{}, err
	}
	return all[0], nil
}

// FindVolume returns the record of the volume with an ID. Kind: VolumeNotFound.
func (db *DB) FindVolume(namespace, id string) (Volume, error) {
	all, err := db.volumes("namespace = ?1 AND id = ?2", namespace, id)
	if err == nil && len(all) == 0 {
		err = &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: "there is no volume with this id"}
	}
	if err != nil {
		return Volume{}, err
	}
	return all[0], nil
}

// ListVolumes returns the volumes of a namespace, newest first; "" is all namespaces.
func (db *DB) ListVolumes(namespace string) ([]Volume, error) {
	return db.volumes("?1 = '' OR namespace = ?1", namespace)
}

func (db *DB) volumes(where string, args ...any) ([]Volume, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	var all []Volume
	err := db.exec("SELECT "+volumeColumns+" FROM volume WHERE "+where+" ORDER BY seq DESC", func(s *sqlite.Stmt) error {
		v, err := volumeOf(s)
		all = append(all, v)
		return err
	}, args...)
	for i := range all {
		if err != nil {
			break
		}
		v := &all[i]
		err = db.exec("SELECT namespace, name FROM volume_use JOIN sandbox ON sandbox.seq = volume_use.sandbox WHERE volume = ?1 ORDER BY 1, 2", func(s *sqlite.Stmt) error {
			v.Users = append(v.Users, sandbox.Ref{Namespace: s.ColumnText(0), Name: sandbox.Name(s.ColumnText(1))})
			return nil
		}, v.Seq)
	}
	return all, dbError("read", err)
}

// EditVolume changes the limit and the labels of a volume. Kind: VolumeNotFound.
func (db *DB) EditVolume(namespace, name string, edit func(*Volume) error) error {
	return db.do("write", func() error {
		var v *Volume
		err := db.exec("SELECT "+volumeColumns+" FROM volume WHERE namespace = ?1 AND name = ?2", func(s *sqlite.Stmt) error {
			one, err := volumeOf(s)
			v = &one
			return err
		}, namespace, name)
		switch {
		case err != nil:
			return err
		case v == nil:
			return &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: name, Hint: "see which there are with: msb volume ls"}
		}
		if err := edit(v); err != nil {
			return err
		}
		if v.Labels == nil {
			v.Labels = map[string]string{}
		}
		return db.exec("UPDATE volume SET quota_mib = ?2, labels = ?3, updated_at = ?4 WHERE seq = ?1", nil, v.Seq, v.QuotaMiB, toJSON(v.Labels), time.Now().UnixNano())
	})
}

// UseVolumes records which volumes of its namespace a sandbox mounts. Kind: VolumeNotFound.
func (db *DB) UseVolumes(sandboxID string, names []string) error {
	return db.do("write", func() error {
		err := db.exec("DELETE FROM volume_use WHERE sandbox = (SELECT seq FROM sandbox WHERE id = ?1)", nil, sandboxID)
		for _, name := range names {
			if err != nil {
				return err
			}
			err = db.exec(`INSERT OR IGNORE INTO volume_use (volume, sandbox)
				SELECT volume.seq, sandbox.seq FROM volume JOIN sandbox USING (namespace) WHERE sandbox.id = ?1 AND volume.name = ?2`, nil, sandboxID, name)
			if err == nil && db.conn.Changes() == 0 {
				err = &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: name}
			}
		}
		return err
	})
}

// DeleteVolume forgets a volume that no sandbox uses; unused is called before, and nothing is forgotten if it fails.
// Kinds: VolumeNotFound, VolumeInUse.
func (db *DB) DeleteVolume(namespace, name string, unused func() error) error {
	return db.do("write", func() error {
		users, found := "", false
		err := db.exec(`SELECT coalesce(group_concat(sandbox.name, ', '), '') FROM volume LEFT JOIN volume_use ON volume_use.volume = volume.seq
			LEFT JOIN sandbox ON sandbox.seq = volume_use.sandbox WHERE volume.namespace = ?1 AND volume.name = ?2 GROUP BY volume.seq`,
			func(s *sqlite.Stmt) error { found, users = true, s.ColumnText(0); return nil }, namespace, name)
		switch {
		case err != nil:
			return err
		case !found:
			return &sandbox.Error{Op: "remove volume", Kind: sandbox.VolumeNotFound, Message: name}
		case users != "":
			return &sandbox.Error{Op: "remove volume", Kind: sandbox.VolumeInUse, Message: name + ": " + users, Hint: "remove the sandboxes that mount it first"}
		}
		if err := unused(); err != nil {
			return err
		}
		return db.exec("DELETE FROM volume WHERE namespace = ?1 AND name = ?2", nil, namespace, name)
	})
}

// VolumeNames returns all volumes as paths: namespace/name.
func (db *DB) VolumeNames() (map[string]bool, error) {
	names := map[string]bool{}
	err := db.read("read", "SELECT namespace || '/' || name FROM volume", func(s *sqlite.Stmt) error {
		names[s.ColumnText(0)] = true
		return nil
	})
	return names, err
}
