package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{"/a": "/a", `/a\040b`: "/a b", `/\134040`: `/\040`, `/\011\012`: "/\t\n", `/end\04`: `/end\04`, `/\999`: `/\999`} {
		if have := unescape(in); have != want {
			t.Errorf("%q became %q, want %q", in, have, want)
		}
	}
}

// TestMountPlace makes place to mount on, whatever a guest left there before, and removes nothing that holds something.
func TestMountPlace(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, f := range []func() error{
		func() error { return os.WriteFile(at("file"), []byte("x"), 0o644) },
		func() error { return os.MkdirAll(at("dir/full"), 0o755) },
		func() error { return os.Mkdir(at("empty"), 0o755) },
		func() error { return os.Symlink("nowhere", at("dangling")) },
		func() error { return os.Symlink("dir", at("link")) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		dir, bad bool
	}{{"file", false, false}, {"file", true, false}, {"dir", true, false}, {"dir", false, true}, {"empty", false, false}, {"dangling", true, false},
		{"link", true, false}, {"new/deep", true, false}, {"new/file", false, false}} {
		err := mountPlace(at(c.name), c.dir)
		st, e := os.Stat(at(c.name))
		if (err != nil) != c.bad || e != nil || !c.bad && st.IsDir() != c.dir {
			t.Errorf("%+v: %v, %v, %v", c, err, st, e)
		}
	}
	if _, err := os.Stat(at("dir/full")); err != nil {
		t.Error(err)
	}
}

// TestEnterRoot refuses roots that it cannot make, and to leave a root that is not a guest's.
func TestEnterRoot(t *testing.T) {
	good := &agentproto.BlockRoot{Kind: agentproto.RootOCI, Upper: &agentproto.BlockUpper{Kind: agentproto.UpperTmpfs}}
	for _, a := range []*Agent{{Root: "/"}, {Init: true, Root: t.TempDir()}} {
		if err := a.enterRoot(good); err == nil {
			t.Errorf("%+v left its root", a)
		}
	}
	for _, b := range []*agentproto.BlockRoot{{}, {Kind: agentproto.RootDiskImage, Device: "/dev/vda"}, {Kind: agentproto.RootOCI},
		{Kind: agentproto.RootOCI, Upper: &agentproto.BlockUpper{Kind: agentproto.UpperDevice, Device: "/dev/vdb"}},
		{Kind: agentproto.RootOCI, Upper: &agentproto.BlockUpper{Kind: agentproto.UpperDirectory, Device: "/no/such/disk"}}} {
		if err := (&Agent{Init: true, Root: "/"}).enterRoot(b); err == nil {
			t.Errorf("%+v was made", b)
		}
	}
}
