package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// network compares the network gateway: alone with gvisor-tap-vsock at the same MTU and with the same guest's stack, and as
// part of the product with gVisor on the host's network and, where it is installed, behind pasta. All in turn, as ratios.
func network(o options) error {
	if err := gateways(o); err != nil {
		return err
	}
	return sandboxes(o)
}

// netRound is a line that TestPeers of package netstack prints.
type netRound struct {
	Name                   string
	Down, Up, Up8, Connect float64
	Refused, Held          int
	MemoryIdle, Memory     int
	Busy, Broken           int
}

func gateways(o options) error {
	peer := filepath.Join(o.work, "gvtap")
	if err := build("gvtap", peer); err != nil {
		return err
	}
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestPeers$", "-v", "./internal/network/netstack")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "NETSTACK_PEER="+peer, "NETSTACK_ROUNDS="+strconv.Itoa(o.rounds))
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("compare the gateways: %w\n%s", err, out)
	}
	rounds := map[string][]netRound{}
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		line, ok := strings.CutPrefix(in.Text(), "round: ")
		if !ok {
			continue
		}
		var r netRound
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return err
		}
		rounds[r.Name] = append(rounds[r.Name], r)
	}
	const ours, theirs = "netstack", "gvisor-tap-vsock"
	if len(rounds[ours]) == 0 || len(rounds[theirs]) == 0 {
		return fmt.Errorf("the gateways were not compared:\n%s", out)
	}
	fmt.Printf("%-18s %10s %10s %10s %12s %10s %12s %12s %12s %10s   (MB/s, us, KiB, n=%d)\n", "gateway, MTU 1500", "down", "up", "8 x up", "connect p50", "failed", "idle", "1000 open", "500 busy", "broken", len(rounds[ours]))
	of := func(name string, f func(netRound) float64) float64 {
		v := make([]float64, 0, len(rounds[name]))
		for _, r := range rounds[name] {
			v = append(v, f(r))
		}
		return median(v)
	}
	columns := []func(netRound) float64{
		func(r netRound) float64 { return r.Down }, func(r netRound) float64 { return r.Up }, func(r netRound) float64 { return r.Up8 },
		func(r netRound) float64 { return r.Connect }, func(r netRound) float64 { return float64(r.Refused) },
		func(r netRound) float64 { return float64(r.MemoryIdle) }, func(r netRound) float64 { return float64(r.Memory) },
		func(r netRound) float64 { return float64(r.Busy) }, func(r netRound) float64 { return float64(r.Broken) },
	}
	for _, name := range []string{ours, theirs} {
		fmt.Printf("%-18s", name)
		for i, f := range columns {
			fmt.Printf(" %*.0f", []int{10, 10, 10, 12, 10, 12, 12, 12, 10}[i], of(name, f))
		}
		fmt.Println()
	}
	ratio := func(i int) float64 { return of(ours, columns[i]) / of(theirs, columns[i]) }
	fmt.Printf("net vs %s: %.1f x down, %.1f x up, %.1f x with 8 uploads, connect %.2f x, memory with 1000 connections %.2f x\n\n",
		theirs, ratio(0), ratio(1), ratio(2), ratio(3), ratio(6))
	return nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// build builds the command in dir, seen from bench, in whose folder this runs: of the module that dir is in.
func build(dir, to string) error {
	cmd := exec.Command("go", "build", "-o", to, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", dir, err, out)
	}
	return nil
}

// amounts of one measurement: bytes moved, connections made.
const (
	netBytes    = 256 << 20
	netConnects = 1000            // the first 200 take a fifth longer, everywhere
	netDeadline = 2 * time.Minute // of one; pasta's uploads collapse
)

// sandboxes compares whole sandboxes that speak to a server on this machine.
func sandboxes(o options) error {
	client := filepath.Join(o.work, "client")
	if err := os.Mkdir(client, 0o755); err != nil {
		return err
	}
	if err := build("../internal/netload/netclient", filepath.Join(client, "netclient")); err != nil {
		return err
	}
	port, stop, err := serveNet(filepath.Join(client, "netclient"))
	if err != nil {
		return err
	}
	defer stop()

	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	home := filepath.Join(o.work, "home")
	type contender struct {
		name, host string
		args, env  []string
		prepare    func() (stop func(), err error) // before each run; may be nil
	}
	cs := []contender{{"msb", "host.microsandbox.internal", []string{msb, "run", "--cpus", strconv.Itoa(runtime.NumCPU()), "--net", "host", "-v", client + ":/bench", "host", "--"}, []string{"MSB_HOME=" + home}, nil}}
	for _, c := range cs { // it makes the root that runsc uses
		if out, err := exec.Command("env", append(append([]string{c.env[0]}, c.args...), "true")...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", c.name, err, out)
		}
	}
	runsc, cleanup, err := runscPeer(o, home)
	if err != nil {
		return err
	}
	defer cleanup()
	bin, root := runsc.args[0], filepath.Join(o.work, "runsc-root")
	if os.Geteuid() == 0 {
		dir, err := netBundle(o, "net-bundle", client, "")
		if err != nil {
			return err
		}
		cs = append(cs, contender{"runsc, host's network", "127.0.0.1", []string{bin, "--root", root, "--network=host", "--ignore-cgroups", "run-in", dir}, nil, nil})
		if pasta, err := exec.LookPath("pasta"); err == nil {
			name := fmt.Sprintf("msb-bench-%d", os.Getpid())
			if dir, err = netBundle(o, "pasta-bundle", client, "/run/netns/"+name); err != nil {
				return err
			}
			cs = append(cs, contender{"runsc behind pasta", "", []string{bin, "--root", root, "--network=sandbox", "--ignore-cgroups", "run-in", dir}, nil,
				func() (func(), error) { return servePasta(pasta, name) }})
		} else {
			fmt.Println("left out:", err)
		}
	} else {
		fmt.Println("left out: runsc on the host's network: run as root to compare with it")
	}

	kinds := []struct {
		name, how     string
		amount, flows int
	}{{"down", "down", netBytes, 1}, {"up", "up", netBytes, 1}, {"8 x down", "down", netBytes, 8}, {"8 x up", "up", netBytes, 8}, {"connect", "connect", netConnects, 1}, {"loopback", "loopback", netConnects, 1}}
	got, broken := map[string]map[string][]float64{}, map[string]map[string]int{}
	for round := -1; round < o.rounds; round++ {
		for i, c := range slices.Clone(cs) {
			if round < 0 {
				got[c.name], broken[c.name] = map[string][]float64{}, map[string]int{}
			}
			for _, k := range kinds {
				if got[c.name] == nil {
					break
				}
				host := c.host
				if host == "" {
					host = gatewayAddress()
				}
				command := []string{"/bench/netclient", k.how, net.JoinHostPort(host, port), strconv.Itoa(k.amount), strconv.Itoa(k.flows)}
				stop, err := func() {}, error(nil)
				if c.prepare != nil {
					stop, err = c.prepare()
				}
				var ns float64
				if err == nil {
					ns, err = runNet(c.args, c.env, command, fmt.Sprintf("net%d", i))
					stop()
				}
				switch {
				case err != nil && round < 0 && i > 0 && k == kinds[0]: // it does not work here
					fmt.Printf("left out: %s: %v\n", c.name, err)
					delete(got, c.name)
					cs = slices.DeleteFunc(cs, func(d contender) bool { return d.name == c.name })
					continue
				case err != nil && i == 0:
					return fmt.Errorf("%s, %s: %w", c.name, k.name, err)
				case round < 0:
					continue
				case err != nil: // pasta's uploads: the connection is reset
					broken[c.name][k.name]++
					continue
				}
				v := float64(k.amount) / ns * 1000 // MB/s
				if k.how == "connect" || k.how == "loopback" {
					v = ns / 1000 // µs
				}
				got[c.name][k.name] = append(got[c.name][k.name], v)
			}
		}
	}
	fmt.Printf("%-24s", "sandbox to this machine")
	for _, k := range kinds {
		fmt.Printf(" %10s", k.name)
	}
	fmt.Printf("   (MB/s, us, n=%d)\n", o.rounds)
	for _, c := range cs {
		fmt.Printf("%-24s", c.name)
		for _, k := range kinds {
			if v := got[c.name][k.name]; len(v) > 0 {
				fmt.Printf(" %10.0f", median(v))
			} else {
				fmt.Printf(" %10s", "-")
			}
		}
		fmt.Println()
	}
	for _, c := range cs[1:] {
		fmt.Printf("net vs %s:", c.name)
		for _, k := range kinds {
			if v := got[c.name][k.name]; len(v) > 0 {
				fmt.Printf(" %s %.2f x", k.name, median(got[cs[0].name][k.name])/median(v))
			}
		}
		fmt.Println()
		for _, k := range kinds {
			if n := broken[c.name][k.name]; n > 0 {
				fmt.Printf("%s, %s: %d of %d runs broke and are not in the median\n", c.name, k.name, n, o.rounds)
			}
		}
	}
	return nil
}

// netBundle is a bundle on the network of a namespace, or on that which its starter has.
func netBundle(o options, name, client, namespace string) (string, error) {
	dir, err := bundle(o, name, nil)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return "", err
	}
	linux := spec["linux"].(map[string]any)
	namespaces := slices.DeleteFunc(linux["namespaces"].([]any), func(n any) bool { return n.(map[string]any)["type"] == "network" })
	if namespace != "" {
		namespaces = append(namespaces, map[string]any{"type": "network", "path": namespace})
	}
	linux["namespaces"] = namespaces
	spec["mounts"] = append(spec["mounts"].([]any), map[string]any{"destination": "/bench", "type": "bind", "source": client, "options": []string{"rbind", "ro"}})
	if err := os.Mkdir(filepath.Join(dir, "rootfs", "bench"), 0o755); err != nil {
		return "", err
	}
	if b, err = json.Marshal(spec); err != nil {
		return "", err
	}
	return dir, os.WriteFile(path, b, 0o644)
}

// runNet runs the client and returns what it printed: nanoseconds. The argument "run-in" stands for running a bundle, whose
// command the client's is put into.
func runNet(args, env, command []string, id string) (float64, error) {
	args = slices.Clone(args)
	if at := slices.Index(args, "run-in"); at >= 0 {
		path := filepath.Join(args[at+1], "config.json")
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		var spec map[string]any
		if err := json.Unmarshal(b, &spec); err != nil {
			return 0, err
		}
		spec["process"].(map[string]any)["args"] = command
		if b, err = json.Marshal(spec); err != nil {
			return 0, err
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return 0, err
		}
		args = append(args[:at], "run", "--bundle", args[at+1], id)
	} else {
		args = append(args, command...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), netDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, stderr.String())
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// servePasta starts pasta in a network namespace of its own. One is good for one run: runsc takes the addresses away.
func servePasta(pasta, name string) (stop func(), err error) {
	ip := func(args ...string) error {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := ip("netns", "add", name); err != nil {
		return nil, err
	}
	remove := func() { _ = ip("netns", "del", name) }
	cmd := exec.Command(pasta, "--runas", "0", "--netns-only", "--config-net", "--foreground", "--quiet", "--netns", "/run/netns/"+name)
	if err := cmd.Start(); err != nil {
		remove()
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		remove()
	}
	for range 100 { // until its device has a route
		if out, _ := exec.Command("ip", "-netns", name, "route", "show", "default").Output(); len(out) > 0 {
			return stop, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	return nil, errors.New("pasta gives its namespace no route")
}

// gatewayAddress is this machine's default gateway, by which pasta's guests reach this machine.
func gatewayAddress() string {
	out, _ := exec.Command("ip", "-4", "route", "show", "default").Output()
	words := strings.Fields(string(out))
	if i := slices.Index(words, "via"); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return "127.0.0.1"
}

// serveNet starts the far end of netclient and returns its port.
func serveNet(netclient string) (port string, stop func(), err error) {
	cmd := exec.Command(netclient, "serve")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		_, port, err = net.SplitHostPort(strings.TrimSpace(line))
	}
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("start the server: %w", err)
	}
	return port, stop, nil
}
