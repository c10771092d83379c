package image

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Dir returns the mode (as in stat(2)) and the owner of a directory of the image; ok is false where there is none at that path. Links
// are not followed.
func (r *Root) Dir(path string) (mode, uid, gid uint32, ok bool, err error) {
	f, err := os.Open(r.Path)
	if err != nil {
		return 0, 0, 0, false, &sandbox.Error{Op: "read image", Kind: sandbox.IO, Err: err}
	}
	defer f.Close()
	e, err := erofs.Lookup(f, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, 0, 0, false, nil
	case err != nil:
		return 0, 0, 0, false, &sandbox.Error{Op: "read image", Kind: sandbox.IO, Message: "read " + r.Path, Err: err}
	}
	return unix.S_IFDIR | uint32(e.Attr.Unix()), e.Attr.UID, e.Attr.GID, e.Mode.IsDir(), nil
}
