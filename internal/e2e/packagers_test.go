package e2e

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

func init() {
	for _, host := range []string{"deb.good.test.", "deb.plain.test.", "pypi.good.test."} {
		names[host] = []string{public4, public6}
	}
}

// wheel is a Python package that has nothing but a word.
func wheel(w *world, name, word string) string {
	w.t.Helper()
	info := name + "-1.0.dist-info/"
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range [][2]string{
		{name + "/__init__.py", fmt.Sprintf("word = %q\n", word)},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: e2e\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + "/__init__.py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		to, err := z.Create(f[0])
		w.must(err)
		_, err = to.Write([]byte(f[1]))
		w.must(err)
	}
	w.must(z.Close())
	return b.String()
}

// publish puts a repository for apt and an index for pip on the web servers of a space.
func (s *space) publish(deb string) {
	s.w.t.Helper()
	s.files = files{}
	for _, host := range []string{"deb.good.test", "deb.plain.test"} {
		for name, body := range repository(s.w, deb) {
			s.files[host+"/debian/"+name] = body
		}
	}
	const file = "e2e_words-1.0-py3-none-any.whl"
	body := wheel(s.w, "e2e_words", "from the index")
	s.files["pypi.good.test/simple/e2e-words/"] = fmt.Sprintf("<!DOCTYPE html><html><body><a href=\"/files/%s#sha256=%x\">%s</a></body></html>", file, sha256.Sum256([]byte(body)), file)
	s.files["pypi.good.test/files/"+file] = body
}

// TestPackagers has apt and pip, as Debian has them, install packages: by a policy of names, through interception, with a
// password that the guest does not know.
func TestPackagers(t *testing.T) {
	img, deb := testimage.Packagers(t), testimage.BusyboxPackage(t) // out here there is a network to make them
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		ref := testimage.Serve(w.t, testimage.Options{}).Push(w.t, "packagers", img)
		w.ok("pull", "-q", ref)
		s := w.space()
		s.publish(deb)
		site := s.secure()
		value := newValue()
		for _, host := range []string{"deb.good.test", "pypi.good.test"} {
			site.private[host] = value
		}
		w.env = append(w.env, "API_KEY="+value)
		w.t.Cleanup(func() { s.run("rm", "-f", "-q", "packs") })
		if r := s.run("run", "-d", "-q", "--name", "packs", "--pull", "never", "-m", "1G", "--secret", "API_KEY@deb.good.test,pypi.good.test", "--tls-upstream-ca-cert", site.ca,
			"--net-rule", "allow@*.good.test:tcp:443,allow@deb.plain.test:tcp:80", ref, "--", "sleep", "infinity"); r.code != 0 {
			w.t.Fatalf("%d %s", r.code, r.err)
		}
		in := func(command string) result { return s.run("exec", "packs", "--", "sh", "-c", command) }
		ok := func(command string) string {
			w.t.Helper()
			r := in(command)
			if r.code != 0 {
				w.t.Fatalf("%s: exit code %d\n%s%s", command, r.code, clip(r.out), clip(r.err))
			}
			return r.out
		}
		ok(strings.Join(strings.Split(configure, "\n")[5:], "\n") + `
			echo '_apt:x:42:65534::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
			mkdir -p /etc/apt/auth.conf.d /etc/apt/preferences.d; rm -rf /etc/apt/sources.list.d
			echo "machine https://deb.good.test login me password $API_KEY" >/etc/apt/auth.conf.d/e2e.conf`)
		const (
			install = `export DEBIAN_FRONTEND=noninteractive; apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Retries=0 update && apt-get -q install -y --reinstall --no-install-recommends busybox-static`
			remove  = `rm -rf /usr/bin/busybox /var/lib/apt/lists/*; apt-get clean`
		)
		for _, url := range []string{"https://deb.good.test/debian", "http://deb.plain.test/debian"} {
			ok("echo 'deb [trusted=yes] " + url + " ./' >/etc/apt/sources.list; " + install)
			if out := ok("busybox echo it is here; " + remove); !strings.HasPrefix(out, "it is here\n") {
				w.t.Errorf("%s: %q", url, out)
			}
		}
		const pip = `python3 -m pip install -q --no-cache-dir --no-input --disable-pip-version-check --break-system-packages --root-user-action ignore --retries 0 --timeout 20 --index-url `
		if out := ok(pip + `"https://me:$API_KEY@pypi.good.test/simple" e2e-words && python3 -c 'import e2e_words; print(e2e_words.word)'`); out != "from the index\n" {
			w.t.Errorf("pip: %q", out)
		}

		// What the rules do not name is not asked for; what the password is not for does not get it.
		if r := in("echo 'deb [trusted=yes] https://evil.test/debian ./' >/etc/apt/sources.list; " + install); r.code == 0 || !strings.Contains(r.out+r.err, "Could not resolve") {
			w.t.Errorf("apt from a host that is not allowed: %d %q %q", r.code, clip(r.out), clip(r.err))
		}
		if r := in(pip + `"https://me:$API_KEY@api.good.test/simple" e2e-others`); r.code == 0 {
			w.t.Errorf("pip gave the password to another host: %q", r.out)
		}
		log := s.run("logs", "--source", "system", "packs").out
		for _, want := range []string{"denied by policy: evil.test", "secret API_KEY may not go to api.good.test (a header)"} {
			if !strings.Contains(log, want) {
				w.t.Errorf("no event says %q:\n%s", want, clip(log))
			}
		}
		if site.sent("evil.test") != "" || strings.Contains(site.sent("api.good.test"), value) {
			w.t.Errorf("sent elsewhere: %q %q", site.sent("evil.test"), site.sent("api.good.test"))
		}
		if r := in("grep -rlsF '" + value[:20] + "' /etc /root /var /tmp; true"); r.out != "" {
			w.t.Errorf("the guest has seen the value: %q", r.out)
		}
	})
}
