package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var (
	_ backend.Volumes      = (*Backend)(nil)
	_ backend.VolumeFinder = (*Backend)(nil)
	_ backend.VolumeEditor = (*Backend)(nil)
)

func (b *Backend) volumeDir(namespace, name string) string {
	return filepath.Join(b.cfg.Home, "volumes", namespace, name)
}

// CreateVolume makes a volume.
func (b *Backend) CreateVolume(_ context.Context, req backend.VolumeRequest) (backend.Volume, error) {
	if err := (sandbox.Ref{Namespace: req.Namespace, Name: "x"}).Validate(); err != nil {
		return backend.Volume{}, err
	}
	if err := sandbox.ValidateVolumeName(req.Name); err != nil {
		return backend.Volume{}, err
	}
	if req.QuotaMiB < 0 || req.QuotaMiB > sandbox.MaxQuotaMiB {
		return backend.Volume{}, &sandbox.Error{Op: "create volume", Kind: sandbox.InvalidConfig, Message: "the quota is out of bounds"}
	}
	for k, v := range req.Labels {
		if err := sandbox.ValidateLabel(k, v); err != nil {
			return backend.Volume{}, err
		}
	}
	db, err := b.records()
	if err != nil {
		return backend.Volume{}, err
	}
	now := time.Now().UTC()
	v := state.Volume{ID: newID(), Namespace: req.Namespace, Name: req.Name, QuotaMiB: req.QuotaMiB, Labels: req.Labels, CreatedAt: now, UpdatedAt: now}
	if err := db.InsertVolume(v); err != nil {
		return backend.Volume{}, err
	}
	point("volume: recorded")
	return b.volume(v), b.makeVolumeDir(req.Namespace, req.Name)
}

// UpdateVolume changes the limit and the labels of a volume.
func (b *Backend) UpdateVolume(ctx context.Context, namespace, name string, change backend.VolumeChange) (backend.Volume, error) {
	bad := func(format string, args ...any) error {
		return &sandbox.Error{Op: "update volume", Kind: sandbox.InvalidConfig, Message: fmt.Sprintf(format, args...)}
	}
	for k, v := range change.Labels {
		if err := sandbox.ValidateLabel(k, v); err != nil {
			return backend.Volume{}, err
		}
	}
	if q := change.QuotaMiB; q != nil && (*q < 0 || *q > sandbox.MaxQuotaMiB) {
		return backend.Volume{}, bad("the quota is out of bounds")
	}
	db, err := b.recordsIfAny()
	if err != nil {
		return backend.Volume{}, err
	}
	if db == nil {
		return backend.Volume{}, missingVolume(name)
	}
	var has int64
	if q := change.QuotaMiB; q != nil && *q > 0 {
		has = used(ctx, b.volumeDir(namespace, name))
	}
	err = db.EditVolume(namespace, name, func(v *state.Volume) error {
		if q := change.QuotaMiB; q != nil {
			if *q > 0 && int64(*q)<<20 < has {
				return bad("the volume %s holds %d bytes, which is more than %d MiB", name, has, *q)
			}
			v.QuotaMiB = *q
		}
		if change.Labels != nil {
			v.Labels = change.Labels
		}
		return nil
	})
	if err != nil {
		return backend.Volume{}, err
	}
	v, err := db.GetVolume(namespace, name)
	return b.measuredVolume(ctx, v), err
}

// makeVolumeDir makes the directory of a volume that has its record. One that is there stays: the record is written first.
func (b *Backend) makeVolumeDir(namespace, name string) error {
	if err := os.MkdirAll(b.volumeDir(namespace, name), 0o700); err != nil {
		return &sandbox.Error{Op: "create volume", Kind: sandbox.IO, Message: "make the volume's directory", Err: err, Hint: diskHint(err)}
	}
	return nil
}

// GetVolume returns what is known of a volume.
func (b *Backend) GetVolume(ctx context.Context, namespace, name string) (backend.Volume, error) {
	db, err := b.recordsIfAny()
	if err != nil {
		return backend.Volume{}, err
	}
	if db == nil {
		return backend.Volume{}, missingVolume(name)
	}
	v, err := db.GetVolume(namespace, name)
	if err != nil {
		return backend.Volume{}, err
	}
	return b.measuredVolume(ctx, v), nil
}

// FindVolume returns a volume by its ID, unmeasured.
func (b *Backend) FindVolume(_ context.Context, namespace, id string) (backend.Volume, error) {
	db, err := b.recordsIfAny()
	if err != nil {
		return backend.Volume{}, err
	}
	if db == nil {
		return backend.Volume{}, &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: "there is no volume with this id"}
	}
	v, err := db.FindVolume(namespace, id)
	if err != nil {
		return backend.Volume{}, err
	}
	return b.volume(v), nil
}

func missingVolume(name string) error {
	return &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: name, Hint: "make it with: msb volume create " + name}
}

// ListVolumes returns the volumes of a namespace, newest first.
func (b *Backend) ListVolumes(ctx context.Context, namespace string) ([]backend.Volume, error) {
	db, err := b.recordsIfAny()
	if err != nil || db == nil {
		return nil, err
	}
	rows, err := db.ListVolumes(namespace)
	if err != nil {
		return nil, err
	}
	all := make([]backend.Volume, 0, len(rows))
	for _, v := range rows {
		all = append(all, b.measuredVolume(ctx, v))
	}
	return all, nil
}

func (b *Backend) volume(v state.Volume) backend.Volume {
	return backend.Volume{Namespace: v.Namespace, Name: v.Name, ID: v.ID, QuotaMiB: v.QuotaMiB, Labels: v.Labels, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt,
		Path: b.volumeDir(v.Namespace, v.Name), Users: v.Users}
}

func (b *Backend) measuredVolume(ctx context.Context, v state.Volume) backend.Volume {
	out := b.volume(v)
	out.Used = used(ctx, out.Path)
	return out
}

// used is how many bytes the files below a directory have. Links are not followed. When nobody waits for it any more it is too few.
func used(ctx context.Context, dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			return nil // just removed by a guest
		}
		if d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// RemoveVolume removes a volume and its files.
func (b *Backend) RemoveVolume(_ context.Context, namespace, name string) error {
	if err := sandbox.ValidateVolumeName(name); err != nil {
		return err
	}
	db, err := b.recordsIfAny()
	if err != nil {
		return err
	}
	missing := &sandbox.Error{Op: "remove volume", Kind: sandbox.VolumeNotFound, Message: name, Hint: "see which there are with: msb volume ls"}
	if db == nil {
		return missing
	}
	if users := b.ephemeralUsers(namespace, name); users != "" {
		return &sandbox.Error{Op: "remove volume", Kind: sandbox.VolumeInUse, Message: name + ": " + users, Hint: "stop the sandboxes that mount it first"}
	}
	return db.DeleteVolume(namespace, name, func() error {
		point("volume: to be forgotten")
		if err := atomicfile.Discard(b.volumeDir(namespace, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &sandbox.Error{Op: "remove volume", Kind: sandbox.IO, Message: "remove the volume's files", Err: err}
		}
		return nil
	})
}

// ephemeralUsers names the running sandboxes without a record that mount a volume.
func (b *Backend) ephemeralUsers(namespace, name string) string {
	records, err := b.store.List(namespace)
	if err != nil {
		return ""
	}
	for _, r := range records {
		if !r.Live {
			continue
		}
		for _, m := range r.Spec.Mounts {
			if m.Type == sandbox.MountNamed && m.Host == name {
				return string(r.Ref.Name)
			}
		}
	}
	return ""
}

// ensureVolumes makes the volumes that a spec wants made, and looks that the others are there. To do so twice does nothing.
func (b *Backend) ensureVolumes(ctx context.Context, ref sandbox.Ref, mounts []sandbox.Mount, root *root) error {
	for _, m := range mounts {
		if m.Type != sandbox.MountNamed {
			continue
		}
		if err := b.ensureVolume(ctx, ref, m); err != nil {
			return err
		}
		if err := b.ownVolume(ref, m, root); err != nil {
			return err
		}
	}
	return nil
}

func (b *Backend) ensureVolume(ctx context.Context, ref sandbox.Ref, m sandbox.Mount) error {
	if m.Create == "" || m.Create == sandbox.VolumeExisting {
		_, err := b.GetVolume(ctx, ref.Namespace, m.Host)
		return err
	}
	_, err := b.CreateVolume(ctx, backend.VolumeRequest{Namespace: ref.Namespace, Name: m.Host})
	if err != nil && (m.Create == sandbox.VolumeCreate || sandbox.KindOf(err) != sandbox.VolumeExists) {
		return err
	}
	return nil
}

// ownVolume gives a volume that nothing is in yet the owner and the mode that the image has where it is mounted, as users of Docker
// expect; where the image has nothing it is root's, and everybody may look into it.
func (b *Backend) ownVolume(ref sandbox.Ref, m sandbox.Mount, root *root) error {
	if m.StatVirtualization == sandbox.StatOff || m.Options.ReadOnly {
		return nil
	}
	fail := func(err error) error {
		return &sandbox.Error{Op: "create", Ref: ref, Kind: sandbox.IO, Message: "prepare the volume " + m.Host, Err: err}
	}
	if err := b.makeVolumeDir(ref.Namespace, m.Host); err != nil {
		return err
	}
	dir, err := os.Open(b.volumeDir(ref.Namespace, m.Host))
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	_, own, err := format.Read(int(dir.Fd()), unix.S_IFDIR)
	if err != nil || own {
		return err
	}
	if _, err := dir.Readdirnames(1); err != io.EOF { // somebody has put it there
		return nil
	}
	attr := format.Attr{Mode: unix.S_IFDIR | 0o755}
	mode, uid, gid, ok, err := root.Dir(m.Guest)
	if err != nil {
		return err
	}
	if ok {
		attr = format.Attr{Mode: mode, UID: uid, GID: gid}
	}
	if m.Owner != nil {
		attr.UID, attr.GID = m.Owner.UID, m.Owner.GID
	}
	if err := format.Write(int(dir.Fd()), attr); err != nil && err != unix.EOPNOTSUPP { // then nobody's view is kept there
		return fail(err)
	}
	return nil
}

// mounts are the binds and volumes of a spec in the runner's words.
func (b *Backend) mounts(ref sandbox.Ref, spec sandbox.Spec) ([]launch.Mount, error) {
	var all []launch.Mount
	for _, m := range spec.Mounts {
		l := launch.Mount{Source: m.Host, Target: m.Guest, Options: m.Options, Stat: cmp.Or(m.StatVirtualization, sandbox.StatStrict), Mirror: m.HostPermissions == sandbox.PermissionsMirror, QuotaMiB: m.QuotaMiB}
		if m.Owner != nil {
			l.Owner = *m.Owner
		}
		if spec.SecurityProfile == sandbox.ProfileRestricted {
			l.Options.NoSUID, l.Options.NoDev = true, true
		}
		switch m.Type {
		case sandbox.MountBind:
		case sandbox.MountNamed:
			v, err := b.GetVolume(context.Background(), ref.Namespace, m.Host)
			if err != nil {
				return nil, err
			}
			if err := b.makeVolumeDir(v.Namespace, v.Name); err != nil { // its maker may have been killed
				return nil, err
			}
			if l.Source, err = filepath.EvalSymlinks(v.Path); err != nil { // no guest has a directory above it
				return nil, &sandbox.Error{Kind: sandbox.IO, Message: "find volume " + v.Name, Err: err}
			}
			if l.QuotaMiB == 0 || v.QuotaMiB > 0 && v.QuotaMiB < l.QuotaMiB {
				l.QuotaMiB = v.QuotaMiB
			}
		default:
			continue
		}
		all = append(all, l)
	}
	return all, nil
}

// namedVolumes are the names of the volumes that a spec mounts.
func namedVolumes(s sandbox.Spec) []string {
	var names []string
	for _, m := range s.Mounts {
		if m.Type == sandbox.MountNamed {
			names = append(names, m.Host)
		}
	}
	return names
}
