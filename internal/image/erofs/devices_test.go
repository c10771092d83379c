package erofs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// checkDevices compares the list of devices with what a walk finds.
func checkDevices(t rapid.TB, image string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want []*erofs.Entry
	err = erofs.Walk(f, func(e *erofs.Entry) error {
		whiteout := e.Mode&fs.ModeCharDevice != 0 && e.Major == 0 && e.Minor == 0
		if e.Mode&fs.ModeDevice != 0 && !strings.HasPrefix(e.Path+"/", "dev/") && !whiteout {
			want = append(want, e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := erofs.Devices(f)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("devices %s, %v, want %s", described(got), err, described(want))
	}
}

func described(all []*erofs.Entry) string {
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "%+v\n", *e)
	}
	return b.String()
}

func TestDevices(t *testing.T) {
	device := func(p string) func(*erofs.Writer) {
		return func(w *erofs.Writer) {
			if err := w.Device(p, erofs.Attr{}, true, 1, 3); err != nil {
				t.Fatal(err)
			}
		}
	}
	for p, want := range map[string]bool{"dev/null": false, "dev/a/b": false, "null": true, "dev": false, "a/dev/null": true, "dev2/null": true} {
		b, err := os.ReadFile(image(t, device(p)))
		if err != nil {
			t.Fatal(err)
		}
		devices, err := erofs.Devices(strings.NewReader(string(b)))
		if err != nil || (len(devices) == 1 && devices[0].Path == p) != want {
			t.Errorf("%s: devices %v, %v", p, devices, err)
		}
		if zeros := strings.HasPrefix(string(b), strings.Repeat("\x00", 1024)); zeros == want {
			t.Errorf("%s: the image begins with %q", p, b[:16])
		}
	}
}

func TestTooManyDevices(t *testing.T) {
	for _, c := range []struct {
		first string
		n     int
		want  error
	}{
		{"", 4096, nil},
		{"", 4097, erofs.ErrDevices},
		{"dev/", 10_000, nil},
	} {
		err := erofs.Publish(t.TempDir()+"/image", func(w *erofs.Writer) error {
			for i := range c.n {
				if err := w.Device(fmt.Sprint(c.first, i), erofs.Attr{}, i%2 == 0, 5, 1); err != nil {
					return err
				}
			}
			return nil
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%d devices in %q: %v, want %v", c.n, c.first, err, c.want)
		}
	}
	// Further names count, too.
	err := erofs.Publish(t.TempDir()+"/image", func(w *erofs.Writer) error {
		err := w.Device("0", erofs.Attr{}, true, 5, 1)
		for i := 1; i <= 4096 && err == nil; i++ {
			err = w.Link(fmt.Sprint(i), "0")
		}
		return err
	})
	if !errors.Is(err, erofs.ErrDevices) {
		t.Errorf("4097 names of a device: %v", err)
	}
}
