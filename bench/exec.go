package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Goals of the SDK against runsc exec: the time of a round trip, and throughput.
const (
	goalExec       = 0.35
	goalThroughput = 0.5
)

// execRound is a line that TestPeers of the SDK prints: what one round took, in nanoseconds. CLI is msb exec, where it was run.
type execRound struct {
	Name              string
	Bytes             int // that were moved; 0 for a round trip
	Ours, CLI, Theirs time.Duration
}

// commands compares commands and files through the SDK with runsc exec of the same gVisor, in turn: round trips of a static binary that
// does nothing, output, and files into and out of the root in memory.
func commands(o options) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("run as root: runsc exec cannot enter the namespaces of an ordinary user's sandbox")
	}
	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	home, dir := filepath.Join(o.work, "home"), filepath.Join(o.work, "static")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := build("static", filepath.Join(dir, "static")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "nothing"), nothing(), 0o755); err != nil {
		return err
	}
	once := contestant{name: "msb", args: append([]string{msb, "run", "host", "--"}, command...), env: []string{"MSB_HOME=" + home}, want: said}
	if _, err := once.run(); err != nil { // makes the root that both use
		return err
	}
	peer, stop, err := runscContainer(o, home, dir)
	if err != nil {
		return err
	}
	defer stop()
	prefix, err := json.Marshal(peer)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestPeers$", "-timeout", "1h", "-v", ".")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "MSB_BIN="+filepath.Dir(msb), "SDK_PEER="+string(prefix), "SDK_STATIC="+dir, "SDK_ROUNDS="+strconv.Itoa(o.rounds))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("compare with runsc exec: %w\n%s", err, out)
	}
	return reportExec(out)
}

// nothing is the smallest static binary for Linux on amd64: one segment that calls exit(0). What it takes to be run is what a command costs;
// a binary of Go's adds its own start.
func nothing() []byte {
	const base, header = 0x400000, 64 + 56
	code := []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05} // xor edi, edi; mov eax, 60; syscall
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	le := binary.LittleEndian
	for _, half := range []uint16{2, 62} { // executable, amd64
		b = le.AppendUint16(b, half)
	}
	b = le.AppendUint32(b, 1)
	for _, word := range []uint64{base + header, 64, 0} { // entry, program headers, no sections
		b = le.AppendUint64(b, word)
	}
	b = le.AppendUint32(b, 0)
	for _, half := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, half)
	}
	b = le.AppendUint32(le.AppendUint32(b, 1), 5) // load, readable and executable
	for _, word := range []uint64{0, base, base, uint64(header + len(code)), uint64(header + len(code)), 0x1000} {
		b = le.AppendUint64(b, word)
	}
	return append(b, code...)
}

// runscContainer starts a container that sleeps, with gVisor's CLI, and returns what begins a command line that is run in it.
func runscContainer(o options, home, static string) (prefix []string, stop func(), err error) {
	c, unmount, err := runscPeer(o, home)
	if err != nil {
		return nil, nil, err
	}
	config := filepath.Join(o.work, "runsc-bundle", "config.json")
	raw, err := os.ReadFile(config)
	var spec map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &spec)
	}
	if err == nil {
		spec["process"].(map[string]any)["args"] = []string{"/bench/static", "sleep"}
		spec["mounts"] = append(spec["mounts"].([]any), map[string]any{"destination": "/bench", "type": "bind", "source": static, "options": []string{"rbind", "ro"}})
		raw, err = json.Marshal(spec)
	}
	if err == nil {
		err = os.WriteFile(config, raw, 0o644)
	}
	if err != nil {
		return nil, nil, err
	}
	global := c.args[:slices.Index(c.args, "run")]
	run := func(args ...string) error {
		cmd := exec.Command(global[0], append(slices.Clone(global[1:]), args...)...)
		cmd.Stderr = os.Stderr // no pipe: the container would hold it open
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("runsc %s: %w", args[0], err)
		}
		return nil
	}
	if err := run("run", "--detach", "--bundle", filepath.Dir(config), "bench"); err != nil {
		unmount()
		return nil, nil, err
	}
	return append(slices.Clone(global), "exec", "bench"), func() {
		if err := run("delete", "--force", "bench"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		unmount()
	}, nil
}

func reportExec(out []byte) error {
	rounds := map[string][]execRound{}
	var names []string
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		line, ok := strings.CutPrefix(in.Text(), "round: ")
		if !ok {
			continue
		}
		var r execRound
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return err
		}
		if rounds[r.Name] == nil {
			names = append(names, r.Name)
		}
		rounds[r.Name] = append(rounds[r.Name], r)
	}
	if len(names) == 0 {
		return fmt.Errorf("nothing was compared:\n%s", out)
	}
	for _, name := range names {
		all := rounds[name]
		quantile := func(q float64, of func(execRound) time.Duration) time.Duration {
			v := make([]time.Duration, len(all))
			for i, r := range all {
				v[i] = of(r)
			}
			slices.Sort(v)
			return v[min(int(q*float64(len(v))), len(v)-1)]
		}
		ours := func(r execRound) time.Duration { return r.Ours }
		cli := func(r execRound) time.Duration { return r.CLI }
		theirs := func(r execRound) time.Duration { return r.Theirs }
		ratio := func(q float64, of func(execRound) time.Duration) float64 {
			return float64(quantile(q, of)) / float64(quantile(q, theirs))
		}
		if n := all[0].Bytes; n > 0 {
			speed := func(of func(execRound) time.Duration) float64 { return float64(n) / 1e6 / quantile(.5, of).Seconds() }
			fmt.Printf("%-10s SDK %6.0f MB/s, runsc exec %6.0f MB/s: %.2f x (goal: at least %.2f; n=%d, medians)\n", name, speed(ours), speed(theirs), 1/ratio(.5, ours), goalThroughput, len(all))
			continue
		}
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		fmt.Printf("%-10s %8s %8s %8s   (ms, n=%d)\n", name, "p50", "p99", "min", len(all))
		for _, c := range []struct {
			name string
			of   func(execRound) time.Duration
		}{{"SDK", ours}, {"msb exec", cli}, {"runsc exec", theirs}} {
			fmt.Printf("%-10s %8.2f %8.2f %8.2f\n", c.name, ms(quantile(.5, c.of)), ms(quantile(.99, c.of)), ms(quantile(0, c.of)))
		}
		fmt.Printf("%s vs runsc exec: p50 %.2f x (goal: at most %.2f), p99 %.2f x; msb exec: p50 %.2f x, p99 %.2f x\n", name, ratio(.5, ours), goalExec, ratio(.99, ours), ratio(.5, cli), ratio(.99, cli))
	}
	return nil
}
