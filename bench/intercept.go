package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bodySize is what each transfer carries, in bytes.
const bodySize = 200 << 20

// intercept moves large bodies between curl in a guest and an HTTPS server of this machine, in both directions and protocols,
// past the look into TLS and through it, with secrets and without. What counts is the ratio, and the runner's peak memory.
func intercept(o options) error {
	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	port, ca, stop, err := httpsServer(o.work)
	if err != nil {
		return err
	}
	defer stop()
	url := "https://host.microsandbox.internal:" + port + "/"
	looked := []string{"--tls-intercept-port", port, "--tls-upstream-ca-cert", ca}
	kinds := []struct {
		name  string
		flags []string
	}{
		{"direct", nil},
		{"intercepted", looked},
		{"with a secret", append([]string{"--secret", "BENCH_SECRET@host.microsandbox.internal"}, looked...)},
		{"searched", append([]string{"--secret", "BENCH_SECRET@other.example"}, looked...)},
	}
	transfers := []struct{ name, args, what string }{
		{"down HTTP/1.1", "--http1.1 -o /dev/null", "%{speed_download}"},
		{"down HTTP/2", "--http2 -o /dev/null", "%{speed_download}"},
		{"up HTTP/1.1", "--http1.1 -o /dev/null -T /tmp/body -H Expect:", "%{speed_upload}"},
		{"up HTTP/2", "--http2 -o /dev/null -T /tmp/body", "%{speed_upload}"},
	}
	home := filepath.Join(o.work, "home")
	command := func(args ...string) (string, error) {
		cmd := exec.Command(msb, args...)
		cmd.Env = append(os.Environ(), "MSB_HOME="+home, "BENCH_SECRET=a-value-that-is-not-sent")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("msb %s: %w\n%s", strings.Join(args, " "), err, &errs)
		}
		return string(out), nil
	}
	speed := make([][][]float64, len(kinds)) // by kind and transfer, in MB/s
	setup := make([][]float64, len(kinds))   // until TLS is there, in ms
	names := make([]string, len(kinds))
	for i, k := range kinds {
		speed[i] = make([][]float64, len(transfers))
		out, err := command(append(append([]string{"run", "-d", "-q", "-m", "1G", "--net-rule", "allow@host"}, k.flags...), "host")...)
		if err != nil {
			return err
		}
		names[i] = strings.TrimSpace(out)
		defer command("stop", "-q", "-f", names[i])
		if _, err := command("exec", names[i], "--", "sh", "-c", fmt.Sprintf("head -c %d /dev/urandom > /tmp/body", bodySize)); err != nil {
			return err
		}
	}
	for range min(o.rounds, 5) {
		for j, t := range transfers {
			for i := range kinds {
				out, err := command("exec", names[i], "--", "sh", "-c", fmt.Sprintf("curl -sS -k -w '%s' %s %s", t.what, t.args, url))
				if err != nil {
					return err
				}
				v, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
				if err != nil {
					return err
				}
				speed[i][j] = append(speed[i][j], v/1e6)
			}
		}
		for i := range kinds {
			out, err := command("exec", names[i], "--", "sh", "-c", fmt.Sprintf("for i in 1 2 3 4 5 6 7 8; do curl -sS -k -o /dev/null -w '%%{time_connect} %%{time_appconnect}\n' %sempty; done", url))
			if err != nil {
				return err
			}
			for l := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
				var connected, secure float64
				if _, err := fmt.Sscan(l, &connected, &secure); err != nil {
					return err
				}
				setup[i] = append(setup[i], (secure-connected)*1000)
			}
		}
	}
	middle := func(v []float64) float64 {
		slices.Sort(v)
		return v[len(v)/2]
	}
	fmt.Printf("%-16s", "MB/s, p50")
	for _, t := range transfers {
		fmt.Printf("%16s", t.name)
	}
	fmt.Printf("%16s%16s\n", "handshake ms", "peak MiB")
	for i, k := range kinds {
		fmt.Printf("%-16s", k.name)
		for j := range transfers {
			fmt.Printf("%16.0f", middle(speed[i][j]))
		}
		peak, err := peakOf(home, names[i])
		if err != nil {
			return err
		}
		fmt.Printf("%16.2f%16d\n", middle(setup[i]), peak)
	}
	for i, k := range kinds[1:] {
		for j, t := range transfers {
			fmt.Printf("%s vs direct, %s: %.2f x\n", k.name, t.name, middle(speed[i+1][j])/middle(speed[0][j]))
		}
	}
	return nil
}

// httpsServer serves bodies on loopback as long as the benchmark runs.
func httpsServer(work string) (port, ca string, stop func(), err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, err
	}
	now := time.Now()
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{"host.microsandbox.internal"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		return "", "", nil, err
	}
	ca = filepath.Join(work, "bench-ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return "", "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, err
	}
	piece := make([]byte, 1<<20)
	_, _ = rand.Read(piece)
	s := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				_, _ = io.Copy(io.Discard, r.Body)
				return
			}
			if r.URL.Path == "/empty" {
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(bodySize))
			for range bodySize / len(piece) {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		})}
	go func() { _ = s.ServeTLS(l, "", "") }()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, ca, func() { _ = s.Close() }, nil
}

// peakOf is the most memory that the runner of a sandbox had, in MiB.
func peakOf(home, name string) (int, error) {
	dirs, _ := filepath.Glob(filepath.Join(home, "run", "*"))
	for _, dir := range dirs {
		var info struct{ Ref struct{ Name string } }
		var running struct{ PID int }
		b, err := os.ReadFile(filepath.Join(dir, "info.json"))
		if err != nil || json.Unmarshal(b, &info) != nil || info.Ref.Name != name {
			continue
		}
		if b, err = os.ReadFile(filepath.Join(dir, "running.json")); err == nil {
			err = json.Unmarshal(b, &running)
		}
		if err != nil {
			return 0, err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", running.PID))
		if err != nil {
			return 0, err
		}
		for l := range strings.SplitSeq(string(status), "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "VmHWM:" {
				kib, err := strconv.Atoi(f[1])
				return kib >> 10, err
			}
		}
	}
	return 0, errors.New("no runner of " + name)
}
