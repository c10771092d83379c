package rootfs

import (
	"archive/tar"
	"io/fs"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// devices writes the devices of the image. One that is there already by another name has that for its link name.
func (t *writer) devices(all []*erofs.Entry) error {
	first := map[uint64]string{}
	for _, e := range all {
		h := &tar.Header{Name: e.Path, Linkname: first[e.Inode], Typeflag: tar.TypeBlock, Mode: int64(e.Attr.Unix()),
			Uid: int(e.Attr.UID), Gid: int(e.Attr.GID), ModTime: e.Attr.ModTime, Devmajor: int64(e.Major), Devminor: int64(e.Minor)}
		if e.Mode&fs.ModeCharDevice != 0 {
			h.Typeflag = tar.TypeChar
		}
		if h.Linkname == "" {
			first[e.Inode] = e.Path
		}
		if err := t.header(h, ""); err != nil {
			return err
		}
	}
	return nil
}
