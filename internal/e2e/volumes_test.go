package e2e

import (
	"archive/tar"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// TestVolumeOwner: a new volume has the owner and the mode of the image's directory that it is mounted over first, and keeps what the
// guest makes of that.
func TestVolumeOwner(t *testing.T) {
	dir := func(name string, mode int64, id int) testimage.Entry {
		return testimage.Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: id, Gid: id + 1}}
	}
	img, err := mutate.AppendLayers(testimage.Busybox(t), testimage.Layer(t, testimage.Tar(t, dir("srv/", 0o755, 0), dir("srv/db/", 0o1750, 70), dir("srv/other/", 0o711, 80),
		testimage.Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "srv/db"}}), testimage.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	ref := testimage.Serve(t, testimage.Options{}).Push(t, "volumes", img)
	each(t, func(w *world) {
		w.ok("pull", "-q", ref)
		stat := func(want, volume, at string) {
			w.t.Helper()
			if out := w.ok("run", "-q", "-v", volume+":"+at, ref, "--", "sh", "-c", "stat -c '%a %u:%g' "+at+"; touch "+at+"/f && chmod 2700 "+at+" && chown 5:6 "+at); out != want+"\n" {
				w.t.Errorf("%s at %s is %q, want %q", volume, at, out, want)
			}
		}
		stat("1750 70:71", "a", "/srv/db")
		stat("2700 5:6", "a", "/srv/other") // it is no new one any more
		stat("755 0:0", "b", "/new/deep")
		w.ok("volume", "create", "-q", "c")
		stat("711 80:81", "c", "/srv/other")
		if out := w.ok("run", "-q", "-v", "d:/srv/other:uid=1,gid=2", ref, "--", "stat", "-c", "%a %u:%g", "/srv/other"); out != "711 1:2\n" {
			w.t.Errorf("with an owner of its own it is %q", out)
		}
		if out := w.ok("run", "-q", "-v", "e:/srv/db", "-u", "70:71", ref, "--", "sh", "-c", "touch /srv/db/mine; ls /srv/db"); out != "mine\n" {
			w.t.Errorf("the directory's owner sees %q", out)
		}
		for _, v := range []string{"a", "b", "c", "d", "e"} {
			w.ok("volume", "rm", "-q", v)
		}
	})
}
