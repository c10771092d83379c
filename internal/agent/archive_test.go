package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestWriteArchive(t *testing.T) {
	dir := t.TempDir()
	err := errors.Join(os.Mkdir(filepath.Join(dir, "d"), 0o750), os.WriteFile(filepath.Join(dir, "d", "f"), []byte("text"), 0o640),
		os.Link(filepath.Join(dir, "d", "f"), filepath.Join(dir, "d", "g")), os.Symlink("d/f", filepath.Join(dir, "l")),
		os.Mkdir(filepath.Join(dir, "skip"), 0o755), os.WriteFile(filepath.Join(dir, "skip", "secret"), nil, 0o600), os.WriteFile(filepath.Join(dir, "too"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteArchive(&b, dir, []string{filepath.Join(dir, "skip"), filepath.Join(dir, "too")}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || h.Uid != os.Getuid() {
			t.Errorf("%s: owner %d, %v", h.Name, h.Uid, err)
		}
		got = append(got, fmt.Sprintf("%c %s %o %s %s", h.Typeflag, h.Name, h.Mode, h.Linkname, text))
	}
	want := []string{"5 d/ 750  ", "0 d/f 640  text", "1 d/g 640 d/f ", "2 l 777 d/f ", "5 skip/ 755  "}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
