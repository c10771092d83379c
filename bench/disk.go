package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// fileWork does what people do with files in the current directory, and prints how many milliseconds each step took. Its
// argument is a directory with many files to pack and unpack.
const fileWork = `
import json, os, shutil, sys, tarfile, time
took, began = {}, 0.0
def done(what):
    global began
    now = time.monotonic()
    took[what] = (now - began) * 1000
    began = time.monotonic()
packed = "/tmp/bench.tar"
with tarfile.open(packed, "w") as t:
    t.add(sys.argv[1], "tree", filter=lambda m: None if m.name.endswith((".pyc", ".so")) else m)
began = time.monotonic()
os.mkdir("files")
for n in range(1000):
    if n % 100 == 0:
        os.mkdir("files/d%d" % (n // 100))
    with open("files/d%d/f%d" % (n // 100, n), "wb") as f:
        f.write(b"x" * 4096)
done("create 1,000 files")
with tarfile.open(packed) as t:
    t.extractall(".", filter="fully_trusted") if hasattr(tarfile, "data_filter") else t.extractall(".")
done("unpack")
count = size = 0
for top, _, names in os.walk("."):
    for n in names:
        p = os.path.join(top, n)
        if os.path.isfile(p):
            with open(p, "rb") as f:
                size += len(f.read())
            count += 1
done("read all")
with open("big", "wb") as f:
    for _ in range(64):
        f.write(b"y" * (1 << 20))
    f.flush()
    os.fsync(f.fileno())
done("write and sync 64 MiB")
shutil.rmtree("files"); shutil.rmtree("tree"); os.remove("big")
done("remove")
print(json.dumps({"ms": took, "files": count, "bytes": size}))
`

// disk compares file work on a managed root disk with the same in memory, in turns.
func disk(o options) error {
	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	trees, err := filepath.Glob("/usr/lib/python3*/email") // its parent is the standard library
	if err != nil || len(trees) == 0 {
		return errors.Join(errors.New("this benchmark needs Python in /usr"), err)
	}
	home := filepath.Join(o.work, "home")
	took := map[string]map[string][]float64{}
	var files, bytes int
	for round := -1; round < min(o.rounds, 9); round++ {
		for _, kind := range []string{"tmpfs", "8G"} {
			if err := settle(); err != nil {
				return err
			}
			cmd := exec.Command(msb, "run", "--name", "bench", "--replace", "--root-disk", kind, "-m", "1G", "host", "--", "sh", "-c",
				`mkdir /srv/bench; cd /srv/bench; exec python3 -c "$0" "$1"`, fileWork, filepath.Dir(trees[0]))
			cmd.Env = append(os.Environ(), "MSB_HOME="+home)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("run with --root-disk %s: %w\n%s", kind, err, stderr.String())
			}
			var got struct {
				MS           map[string]float64
				Files, Bytes int
			}
			if err := json.Unmarshal(out, &got); err != nil {
				return fmt.Errorf("run with --root-disk %s: %w: %s", kind, err, out)
			}
			files, bytes = got.Files, got.Bytes
			if round < 0 { // the first round warms the host's caches
				continue
			}
			if took[kind] == nil {
				took[kind] = map[string][]float64{}
			}
			for step, ms := range got.MS {
				took[kind][step] = append(took[kind][step], ms)
			}
		}
	}
	if _, _, err := timed(home, msb, "remove", "-f", "bench"); err != nil {
		return err
	}
	fmt.Printf("%d files, %d MB; medians of %d rounds\n", files, bytes/1_000_000, min(o.rounds, 9))
	for _, step := range []string{"create 1,000 files", "unpack", "read all", "write and sync 64 MiB", "remove"} {
		memory, managed := middle(took["tmpfs"][step]), middle(took["8G"][step])
		fmt.Printf("%-24s memory %7.0f ms   managed %7.0f ms   %5.2f x\n", step, memory, managed, managed/memory)
	}
	return nil
}

func middle(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
