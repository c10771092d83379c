package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// shop is a project of three sandboxes: a database that a build makes of Debian's packages; a worker in Node.js that asks a service of this
// machine for prices, by a secret that it has not, and writes them into it; and a web server in Python that reads them. Both speak
// PostgreSQL's own protocol. %s are the images of Debian, Python and Node.js, %d ports of the database, the web server and the service.
const shop = `# A shop.
builds:
  postgres:
    image: %[1]s
    memory: 2048
    root_disk: tmpfs:1G
    volumes: [./debs:/debs]
    network: none
    steps:
      unpack: |
        set -e
        for d in /debs/*.deb; do
          dpkg-deb --fsys-tarfile "$d" | tar -x --keep-directory-symlink --skip-old-files -C /
        done
      configure: |
        set -e
        %[2]s
        useradd -r -m -d /pg postgres

sandboxes:
  db:
    image: postgres
    memory: 768
    volumes: [data:/data]
    ports: ["%[5]d:%[5]d"]
    scope: group
    scripts:
      start: |
        if [ ! -s /data/pg/PG_VERSION ]; then
          install -d -o postgres -m 700 /data/pg
          su postgres -c "/usr/lib/postgresql/15/bin/initdb -N -D /data/pg -E UTF8 --locale=C -A trust"
          echo "host all all all trust" >>/data/pg/pg_hba.conf
        fi
        rm -f /data/pg/postmaster.pid
        exec su postgres -c "exec /usr/lib/postgresql/15/bin/postgres -D /data/pg -k /tmp -h '*' -p %[5]d"
    healthcheck:
      test: /usr/lib/postgresql/15/bin/pg_isready -h /tmp -p %[5]d
      interval: 300ms
      retries: 1000

  worker:
    image: %[4]s
    memory: 256
    depends_on: [db]
    restart: on-failure
    envs: [DB_PORT=%[5]d, PRICES_PORT=%[7]d]
    env_file: worker.env
    secrets: {API_KEY: {allow: [host.microsandbox.internal]}}
    network:
      allow: ["host:tcp:%[7]d"]
      tls: {intercepted_ports: [%[7]d], upstream_ca_cert: [prices.pem]}
    command: [node, /shop/worker.js]
    volumes: ["./src:/shop:ro"]
    healthcheck: {test: test -e /tmp/sold, interval: 300ms, retries: 1000}

  web:
    image: %[3]s
    memory: 256
    depends_on: [db, worker]
    ports: ["%[6]d:8000"]
    volumes: [./src:/shop]
    envs: [DB_PORT=%[5]d, GREETING=hello]
    command: [python3, -u, /shop/web.py]
    healthcheck:
      test: [python3, -c, "import socket; socket.create_connection(('127.0.0.1', 8000))"]
      interval: 300ms
      retries: 1000
`

const shopWorker = `const net = require('net'), https = require('https'), fs = require('fs'), env = process.env

function message(kind, body) {
  const size = Buffer.alloc(4)
  size.writeInt32BE(body.length + 4)
  return Buffer.concat([Buffer.from(kind), size, body])
}

const query = sql => new Promise((done, failed) => {
  const s = net.connect(env.DB_PORT, 'host.microsandbox.internal')
  let all = Buffer.alloc(0), asked = false
  s.on('error', failed)
  s.on('connect', () => s.write(message('', Buffer.concat([Buffer.from([0, 3, 0, 0]), Buffer.from('user\0postgres\0database\0postgres\0\0')]))))
  s.on('data', more => {
    for (all = Buffer.concat([all, more]); all.length > 4 && all.length > all.readInt32BE(1); all = all.subarray(1 + all.readInt32BE(1))) {
      const kind = String.fromCharCode(all[0])
      if (kind === 'E') return failed(new Error(all.toString()))
      if (kind !== 'Z') continue
      if (asked) { s.end(); return done() }
      asked = true
      s.write(message('Q', Buffer.from(sql + '\0')))
    }
  })
})

const price = () => new Promise((done, failed) => {
  https.get({host: 'host.microsandbox.internal', port: env.PRICES_PORT, headers: {authorization: 'Bearer ' + env.API_KEY}}, r => {
    let text = ''
    r.on('data', more => text += more)
    r.on('end', () => r.statusCode === 200 ? done(text) : failed(new Error(r.statusCode + ' ' + text)))
  }).on('error', failed)
})

async function work() {
  await query('CREATE TABLE IF NOT EXISTS sold (n serial PRIMARY KEY, what text)')
  for (;;) {
    await query("INSERT INTO sold (what) VALUES ('" + env.WHAT + '-' + await price() + "')")
    fs.writeFileSync('/tmp/sold', '')
    await new Promise(r => setTimeout(r, 500))
  }
}
work().catch(e => { console.error(e); process.exit(1) })
`

// shopWeb answers with its greeting, what is in the table and how much.
const shopWeb = `import http.server, os, socket, struct

def query(sql):
    s = socket.create_connection(("host.microsandbox.internal", int(os.environ["DB_PORT"])), 10)
    f = s.makefile("rwb")
    start = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
    f.write(struct.pack("!i", len(start) + 4) + start); f.flush()
    rows, asked = [], False
    while True:
        kind = f.read(1); body = f.read(struct.unpack("!i", f.read(4))[0] - 4)
        if kind == b"E": raise Exception(body)
        if kind == b"D":
            n = struct.unpack("!i", body[2:6])[0]; rows.append(body[6:6+n].decode())
        if kind == b"Z":
            if asked: s.close(); return rows
            asked = True
            q = sql.encode() + b"\0"
            f.write(b"Q" + struct.pack("!i", len(q) + 4) + q); f.flush()

class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = " ".join([os.environ["GREETING"]] + query("SELECT what || ' ' || count(*) FROM sold GROUP BY what"))
        self.send_response(200); self.end_headers(); self.wfile.write(text.encode())
    def log_message(self, *a): pass

http.server.ThreadingHTTPServer(("", 8000), H).serve_forever()
`

// ids are those of a project's running sandboxes' runners by their names.
func (w *world) ids(names ...string) map[string]int {
	all := map[string]int{}
	for _, n := range names {
		all[n] = w.runner(n)
	}
	return all
}

// slow runs msb, which may take its time for this.
func (w *world) slow(args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "msb"), args...)
	cmd.Dir, cmd.Env = "/", w.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("msb %s: %v\n%s%s", strings.Join(args, " "), err, clip(string(out)), w.run("log", "-f", args[len(args)-1]).out)
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// prices is a service of this machine, over TLS, that answers 3 to whoever has the key.
func (w *world) prices(ca, key string) (port int, asked func() []string) {
	var (
		mu   sync.Mutex
		seen []string
	)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: w.authority(ca)})
	w.must(err)
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
		if r.Header.Get("Authorization") != "Bearer "+key {
			out.WriteHeader(http.StatusForbidden)
		}
		io.WriteString(out, "3")
	})}
	go func() { _ = srv.Serve(l) }()
	w.t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().(*net.TCPAddr).Port, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Compact(slices.Clone(seen))
	}
}

// TestProject takes a project through its life: built, up, one line changed, down, up, removed. Its image is built by the first of
// its users and loaded by the second, to whom it is as good as built, because the file says the same.
func TestProject(t *testing.T) {
	base, python, node := testimage.Builder(t), testimage.Python(t), testimage.Node(t)
	debs := testimage.PostgresPackages(t)
	registry := testimage.Serve(t, testimage.Options{})
	images := []any{registry.Push(t, "base", base), strings.ReplaceAll(configure, "\n", "\n        "), registry.Push(t, "python", python), registry.Push(t, "node", node)}
	built := filepath.Join(t.TempDir(), "postgres.tar")
	each(t, func(w *world) {
		dir := filepath.Join(w.top, "shop")
		for _, d := range []string{dir, filepath.Join(dir, "debs"), filepath.Join(dir, "src")} {
			w.mkdir(d)
		}
		for _, d := range debs {
			data, err := os.ReadFile(d)
			w.must(err)
			w.write(filepath.Join(dir, "debs", filepath.Base(d)), string(data), 0o644)
		}
		web, key := freePort(w.t), newValue()
		service, asked := w.prices(filepath.Join(dir, "prices.pem"), key)
		file := fmt.Sprintf(shop, append(slices.Clone(images), freePort(w.t), web, service)...)
		path := filepath.Join(dir, "Sandboxfile")
		w.write(path, file, 0o644)
		w.write(filepath.Join(dir, "src", "worker.js"), shopWorker, 0o644)
		w.write(filepath.Join(dir, "src", "web.py"), shopWeb, 0o644)
		w.write(filepath.Join(dir, "worker.env"), "WHAT=apples\n", 0o600)
		w.env = append(w.env, "API_KEY="+key)
		begin := time.Now()
		if image, err := os.Open(built); err == nil {
			defer image.Close()
			load := w.msb("load", "-q")
			load.Stdin = image
			if r := w.finish(load); r.code != 0 {
				w.t.Fatalf("msb load: %s", r.err)
			}
			w.t.Logf("loaded in %v", time.Since(begin))
		} else {
			w.slow("build", "-q", "-f", dir)
			w.t.Logf("built in %v", time.Since(begin))
			out := filepath.Join(w.top, "postgres.tar")
			w.slow("save", "-o", out, "localhost/shop/postgres:latest")
			w.must(os.Rename(out, built))
		}
		if r := w.run("build", "-f", dir); !strings.Contains(r.err, "Up to date") {
			w.t.Errorf("it is built again: %s", r.err)
		}
		begin = time.Now()
		w.slow("up", "-q", "-d", "-f", dir)
		w.t.Logf("up in %v", time.Since(begin))
		page := func() (greeting, what string, n int) {
			w.t.Helper()
			r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", web))
			w.must(err)
			defer r.Body.Close()
			if _, err := fmt.Fscan(r.Body, &greeting, &what, &n); err != nil {
				w.t.Fatalf("the page: %v\n%s", err, w.run("log", "-f", dir).out)
			}
			return
		}
		if greeting, what, n := page(); greeting != "hello" || what != "apples-3" || n < 1 {
			w.t.Errorf("the page says %s %s %d", greeting, what, n)
		}
		names := []string{"shop-web", "shop-worker", "shop-db"}
		for _, s := range names {
			if !strings.Contains(w.ok("ls"), s) {
				w.t.Errorf("msb ls does not have %s", s)
			}
		}

		// The service got the value, and the guest has nothing but its placeholder.
		if got := asked(); !slices.Equal(got, []string{"Bearer " + key}) {
			w.t.Errorf("the service was asked with %q", got)
		}
		if out := w.ok("exec", "shop-worker", "--", "sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | sort -u"); strings.Contains(out, key) || !strings.Contains(out, "API_KEY=$MSB_API_KEY\n") {
			w.t.Errorf("the worker's processes have %q", out)
		}

		// One line of one sandbox.
		before := w.ids(names...)
		w.write(path, strings.Replace(file, "GREETING=hello", "GREETING=salut", 1), 0o644)
		if out := w.ok("apply", "--dry-run", "-f", dir); !strings.Contains(out, "web       restart") || strings.Count(out, "keep") != 2 {
			w.t.Errorf("the plan is\n%s", out)
		}
		w.ok("apply", "-q", "-f", dir)
		after := w.ids(names...)
		if after["shop-web"] == before["shop-web"] || after["shop-db"] != before["shop-db"] || after["shop-worker"] != before["shop-worker"] {
			w.t.Errorf("runners before %v, after %v", before, after)
		}
		if greeting, _, _ := page(); greeting != "salut" {
			w.t.Errorf("the page says %s", greeting)
		}
		if out := w.ok("apply", "--dry-run", "--format", "json", "-f", dir); strings.Count(out, `"keep"`) != 3 {
			w.t.Errorf("there is still something to do: %s", out)
		}

		// Down, and up with the same data.
		_, _, n := page()
		w.ok("down", "-q", "-f", dir)
		if out := w.run("ps", "-q").out; out != "" {
			w.t.Errorf("after msb down there runs %q", out)
		}
		w.slow("up", "-q", "-d", "-f", dir)
		if _, what, m := page(); what != "apples-3" || m < n {
			w.t.Errorf("there were %d, and after a stop there are %s %d", n, what, m)
		}

		// A sandbox less: apply stops it, and its data stay until clean.
		less := file[:strings.Index(file, "  web:\n")]
		w.write(path, less, 0o644)
		w.ok("apply", "-q", "-f", dir)
		if out := w.ok("ps", "-q"); strings.Contains(out, "shop-web") || !strings.Contains(out, "shop-db") {
			w.t.Errorf("there runs %q", out)
		}
		w.ok("clean", "-q", "-f", dir, "web")
		w.ok("clean", "-q", "-F", "-f", dir)
		w.ok("volume", "rm", "-q", "shop-data")
	})
}

// TestProjectRules: what is refused, two at once, and what a kill leaves.
func TestProjectRules(t *testing.T) {
	each(t, func(w *world) {
		dir := filepath.Join(w.top, "p")
		w.mkdir(dir)
		path := filepath.Join(dir, "Sandboxfile")
		refused := func(file string, want string, args ...string) {
			w.t.Helper()
			w.write(path, file, 0o644)
			if r := w.run(append(args, "-f", dir)...); r.code != 1 || !strings.Contains(r.err, want) {
				w.t.Errorf("msb %s: exit code %d, stderr %q, want %q", strings.Join(args, " "), r.code, r.err, want)
			}
		}
		refused("sandboxes:\n  a: {image: host, depends_on: [b]}\n  b: {image: host, depends_on: [a]}\n", "depends_on goes in a circle: a → b → a", "up", "-d")
		refused("sandboxes:\n  a: {image: host, depends_on: [c]}\n", "Sandboxfile:2:32: a depends on \"c\", which is not there", "up", "-d")
		refused("sandboxes:\n  a: {image: host}\n", "p has no sandbox \"x\""[1:], "up", "-d", "x")
		refused("sandboxes:\n  a: {image: host, shell: /bin/sh, scripts: {b: echo}}\n", "script 'c' not found in sandbox configuration 'a'", "run", "a~c")
		refused("sandboxes:\n  a: {image: host, ports: [x]}\n", "invalid port pair: x", "up", "-d")

		// What fails leaves out what depends on it, and nothing else.
		w.write(path, "sandboxes:\n  bad: {image: host, command: [sleep, '100'], healthcheck: {test: 'false', interval: 10ms, retries: 2}}\n  after: {image: host, depends_on: [bad]}\n  other: {image: host, command: [sleep, '100']}\n", 0o644)
		r := w.run("up", "-d", "-f", dir)
		if r.code != 1 || !strings.Contains(r.err, "not healthy after 3 tests") || !strings.Contains(r.err, "after is left out: bad failed") || strings.TrimSpace(w.ok("ls", "-q", "--label", "dev.microsandbox.sandbox=other")) != "p-other" {
			w.t.Errorf("exit code %d, stderr %s", r.code, r.err)
		}
		w.ok("clean", "-q", "-F", "-f", dir)

		// Scripts, whatever the working directory; arguments, exit codes; what is in it stays.
		w.write(path, "sandboxes:\n  a:\n    image: host\n    workdir: /var\n    scripts:\n      say: 'echo \"$@\"; pwd; echo x >>/root/n; exit 7'\n", 0o644)
		cmd := w.msb("run", "a~say", "--", "one two")
		cmd.Dir = dir // the Sandboxfile of this directory
		if r := w.finish(cmd); r.code != 7 || r.out != "one two\n/var\n" {
			w.t.Errorf("exit code %d, %q, %q", r.code, r.out, r.err)
		}
		if r := w.run("run", "-q", "-f", dir, "a", "--exec", "/.sandbox/scripts/say"); r.code != 7 || r.out != "\n/var\n" {
			w.t.Errorf("exit code %d, %q, %q", r.code, r.out, r.err)
		}
		if out := w.ok("shell", "-q", "-f", dir, "a", "--", "-c", "wc -l </root/n"); out != "2\n" {
			w.t.Errorf("what was written: %q", out)
		}
		w.ok("clean", "-q", "-F", "-f", dir)

		// What depends on a sandbox reaches its port, and nobody else does.
		port := freePort(w.t)
		w.write(path, fmt.Sprintf("sandboxes:\n  a: {image: host, ports: ['%[1]d:%[1]d'], command: [python3, -m, http.server, '%[1]d'], workdir: /usr/share, healthcheck: {test: [python3, -c, 'import socket; socket.create_connection((\"127.0.0.1\", %[1]d))'], interval: 100ms, retries: 200}}\n"+
			"  b: {image: host, depends_on: [a], command: [sleep, '100']}\n  c: {image: host, command: [sleep, '100']}\n  d: {image: host, scope: group, command: [sleep, '100']}\n", port), 0o644)
		w.ok("up", "-q", "-d", "-f", dir)
		for name, want := range map[string]bool{"b": true, "c": false, "d": true} {
			r := w.run("exec", "p-"+name, "--", "python3", "-c", fmt.Sprintf("import socket; socket.create_connection(('host.microsandbox.internal', %d), 10)", port))
			if (r.code == 0) != want {
				w.t.Errorf("%s reaches a: %v, want %v: %s", name, r.code == 0, want, r.err)
			}
		}
		w.ok("clean", "-q", "-F", "-f", dir)
	})
}

// TestProjectConcurrency: many small sandboxes at once, and one after the other; by two at the same time, of which one waits; and after an
// msb that was killed in the middle. With MSB_SOAK=1 there are twenty, with 0.1 two.
func TestProjectConcurrency(t *testing.T) {
	many := max(soak(4, 20), 2)
	each(t, func(w *world) {
		write := func(name string, chain bool) string {
			dir := filepath.Join(w.top, name)
			w.mkdir(dir)
			var b strings.Builder
			b.WriteString("sandboxes:\n")
			for i := range many {
				after := ""
				if chain && i > 0 {
					after = fmt.Sprintf(", depends_on: [s%d]", i-1)
				}
				fmt.Fprintf(&b, "  s%d: {image: host, memory: 64, command: [sleep, '1000']%s}\n", i, after)
			}
			w.write(filepath.Join(dir, "Sandboxfile"), b.String(), 0o644)
			return dir
		}
		running := func() {
			w.t.Helper()
			if out := strings.Fields(w.ok("ps", "-q")); len(out) != many {
				w.t.Errorf("there run %v", slices.Sorted(slices.Values(out)))
			}
		}
		gone := func(dir string) {
			w.t.Helper()
			w.ok("down", "-q", "-f", dir)
			if r := w.run("ps", "-q"); r.out != "" {
				w.t.Errorf("after msb down there run %q", r.out)
			}
			w.ok("clean", "-q", "-F", "-f", dir)
		}
		w.guest("true") // what the first sandbox of all makes is not what this is about
		dir, chain := write("many", false), write("chain", true)
		var took [2]time.Duration
		for i, d := range []string{dir, chain} {
			begin := time.Now()
			w.slow("up", "-q", "-d", "-f", d)
			took[i] = time.Since(begin)
			running()
			gone(d)
		}
		w.t.Logf("%d sandboxes are up in %v at once, in %v one after the other", many, took[0], took[1])

		killed := w.msb("up", "-d", "-q", "-f", dir)
		w.must(killed.Start())
		for strings.TrimSpace(w.run("ls", "-q").out) == "" {
		}
		w.must(killed.Process.Signal(unix.SIGKILL))
		_ = killed.Wait()
		first, second := w.msb("apply", "-q", "-f", dir), w.msb("apply", "-q", "-f", dir)
		var said strings.Builder
		first.Stderr = &said
		w.must(first.Start())
		r := w.finish(second)
		if err := first.Wait(); err != nil || r.code != 0 {
			w.t.Errorf("two at once: %v: %s, and exit code %d: %s", err, said.String(), r.code, r.err)
		}
		running()

		// Whoever has the project's lock is waited for.
		lock, err := os.Open(dir)
		w.must(err)
		defer lock.Close()
		w.must(unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		waits := w.msb("apply", "-f", dir)
		stderr, err := waits.StderrPipe()
		w.must(err)
		w.must(waits.Start())
		said.Reset()
		lines := bufio.NewScanner(stderr)
		if lines.Scan(); !strings.Contains(lines.Text(), "another msb is busy with this project: waiting for it") {
			w.t.Errorf("an apply that has to wait says %q", lines.Text())
		}
		w.must(unix.Flock(int(lock.Fd()), unix.LOCK_UN))
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
		}
		if err := waits.Wait(); err != nil || !strings.Contains(said.String(), "Nothing to do.") {
			w.t.Errorf("then: %v, %s", err, said.String())
		}
		gone(dir)
	})
}
