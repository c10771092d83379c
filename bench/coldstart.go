package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The command: a dynamically linked program of the host.
var command = []string{"/usr/bin/echo", "hello"}

const said = "hello\n"

// coldstart runs one command in a new sandbox and removes it: the whole product, against gVisor's own CLI with the same
// root, runc, bubblewrap and no sandbox at all.
func coldstart(o options) error {
	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	home := filepath.Join(o.work, "home")
	first := contestant{name: "msb", args: append([]string{msb, "run", "host", "--"}, command...), env: []string{"MSB_HOME=" + home}, want: said}
	if _, err := first.run(); err != nil { // makes the root that the others use
		return err
	}
	cs := []contestant{first}
	runsc, cleanup, err := runscPeer(o, home)
	if err != nil {
		return err
	}
	defer cleanup()
	cs = append(cs, runsc)
	for _, peer := range []func(options) (contestant, error){runcPeer, bwrapPeer} {
		c, err := peer(o)
		if err == nil {
			_, err = c.run()
		}
		if err != nil {
			fmt.Println("left out:", err)
			continue
		}
		cs = append(cs, c)
	}
	cs = append(cs, contestant{name: "fork+exec", args: command, want: said})
	all, err := interleave(cs, o.rounds)
	if err != nil {
		return err
	}
	report("coldstart", all)
	return nil
}

// runscPeer builds gVisor's CLI from the module that the product embeds and gives it the same EROFS root, binds and command.
func runscPeer(o options, home string) (contestant, func(), error) {
	bin := filepath.Join(o.work, "runsc")
	build := exec.Command("go", "build", "-o", bin, "gvisor.dev/gvisor/runsc")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return contestant{}, nil, fmt.Errorf("build runsc: %w\n%s", err, out)
	}
	roots, err := filepath.Glob(filepath.Join(home, "images", "host", "*.erofs"))
	if err != nil || len(roots) != 1 {
		return contestant{}, nil, fmt.Errorf("want one root of the image host, found %q (%v)", roots, err)
	}
	dir, err := bundle(o, "runsc-bundle", map[string]string{
		"dev.gvisor.spec.rootfs.source": roots[0], "dev.gvisor.spec.rootfs.type": "erofs", "dev.gvisor.spec.rootfs.overlay": "memory"})
	if err != nil {
		return contestant{}, nil, err
	}
	root := filepath.Join(o.work, "runsc-root")
	c := contestant{name: "runsc", want: said, args: []string{bin, "--root", root, "--network=none", "--ignore-cgroups"}}
	if os.Geteuid() != 0 {
		c.args = append([]string{"unshare", "-Urmn"}, append(c.args, "--rootless")...)
	}
	c.args = append(c.args, "run", "--bundle", dir, "bench")
	// gVisor keeps a network namespace by a bind mount below its root.
	return c, func() { _ = exec.Command("umount", filepath.Join(root, "null-netns")).Run() }, nil
}

// bundle writes an OCI bundle that runs the command with this machine's programs.
func bundle(o options, name string, annotations map[string]string) (string, error) {
	dir := filepath.Join(o.work, name)
	rootfs := filepath.Join(dir, "rootfs")
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
		{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
	}
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return "", err
	}
	for _, d := range []string{"usr", "bin", "sbin", "lib", "lib64"} {
		path := filepath.Join("/", d)
		info, err := os.Lstat(path)
		switch {
		case err != nil:
		case info.IsDir():
			if err := os.Mkdir(filepath.Join(rootfs, d), 0o755); err != nil {
				return "", err
			}
			mounts = append(mounts, map[string]any{"destination": path, "type": "bind", "source": path, "options": []string{"rbind", "ro"}})
		default:
			target, err := os.Readlink(path)
			if err == nil {
				err = os.Symlink(target, filepath.Join(rootfs, d))
			}
			if err != nil {
				return "", err
			}
		}
	}
	for _, d := range []string{"proc", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(rootfs, d), 0o755); err != nil {
			return "", err
		}
	}
	namespaces := []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}}
	b, err := json.MarshalIndent(map[string]any{
		"ociVersion": "1.0.0", "hostname": "bench", "annotations": annotations, "mounts": mounts,
		"root":    map[string]any{"path": "rootfs"},
		"process": map[string]any{"args": command, "cwd": "/", "env": []string{"PATH=/usr/bin"}, "user": map[string]int{"uid": 0, "gid": 0}},
		"linux":   map[string]any{"namespaces": namespaces},
	}, "", " ")
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
}

func runcPeer(o options) (contestant, error) {
	if os.Geteuid() != 0 {
		return contestant{}, fmt.Errorf("runc: run as root to compare with it")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return contestant{}, err
	}
	dir, err := bundle(o, "runc-bundle", nil)
	return contestant{name: "runc", want: said, args: []string{"runc", "--root", filepath.Join(o.work, "runc-root"), "run", "--bundle", dir, "bench"}}, err
}

func bwrapPeer(options) (contestant, error) {
	if _, err := exec.LookPath("bwrap"); err != nil {
		return contestant{}, err
	}
	args := []string{"bwrap", "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"}
	for _, d := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"} {
		if info, err := os.Lstat(d); err == nil && info.IsDir() {
			args = append(args, "--ro-bind", d, d)
		} else if target, err := os.Readlink(d); err == nil {
			args = append(args, "--symlink", target, d)
		}
	}
	return contestant{name: "bwrap", want: said, args: append(args, command...)}, nil
}
