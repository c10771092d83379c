package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// harmless are the entries of /etc that programs need and that tell nothing worth keeping from a sandbox. An entry of /etc
// itself may have one star; what is below a directory is in. To add one: 1. make sure that no file below it can hold a secret
// on any distribution (settings of a proxy or a package index can), 2. add it here, 3. increase hostFormat.
var harmless = []string{
	// users, names of hosts and services
	"passwd", "group", "shells", "login.defs", "nsswitch.conf", "host.conf", "gai.conf",
	"protocols", "services", "networks", "rpc", "ethertypes", "netconfig",
	// the dynamic linker and the choice of programs
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives",
	// which system this is like, where it is
	"os-release", "*-release", "debian_version", "issue", "issue.net", "timezone", "localtime",
	"locale.alias", "locale.conf", "default/locale",
	// shells and terminals
	"profile", "profile.d", "bash.bashrc", "bashrc", "bash_completion.d", "inputrc", "skel", "terminfo", "manpath.config",
	// certificates of authorities
	"ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf",
	"pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted", "crypto-policies",
	// languages and file types
	"python*", "perl", "java*", "mime.types", "mailcap", "magic", "magic.mime", "xml", "sgml", "papersize",
}

// secret are names of files that are never in the image, wherever they are.
var secret = []string{
	"shadow*", "gshadow*", "*.key", "*_key", "id_*", "*.p12", "*.pfx", "*.jks", "*.keytab", "private", "*password*", "*secret*",
	"*credential*", "machine-id", "ssh", "sudoers*", ".netrc", ".pgpass", "pgpass*", ".*-auth*",
}

// written are files of /etc that are made for each sandbox. In the image they are empty, so that there is something to write to.
var written = []string{"hosts", "hostname", "resolv.conf"}

// Bounds on what is copied. A file above the first is left out; above the others, all that comes after.
const (
	maxEtcFile  = 1 << 20
	maxEtcTotal = 32 << 20
	maxEtcFiles = 10_000
	maxEtcDepth = 16
)

// inspectEtc finds the entries of harmless that there are, and takes into the key what tells whether they changed.
func (h *host) inspectEtc() error {
	root, err := h.openEtc()
	if root == nil || err != nil {
		return err
	}
	defer root.Close()
	names, err := etcNames(root)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, name := range names {
		name, info := firstLink(root, name)
		if info == nil || seen[name] {
			continue
		}
		seen[name] = true
		h.etc = append(h.etc, name)
		st := info.Sys().(*syscall.Stat_t)
		h.key.add(name, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Nano())
		if info.Mode()&fs.ModeSymlink != 0 {
			target, _ := root.Readlink(name)
			h.key.add(target)
		}
	}
	// The bundle of certificates may be rewritten in place, in a directory with hundreds of files.
	if info, err := root.Stat("ssl/certs/ca-certificates.crt"); err == nil {
		h.key.add(info.Size(), info.ModTime().UnixNano())
	}
	return nil
}

// etcNames returns harmless with its patterns replaced by the names that match.
func etcNames(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(all)
	var names []string
	for _, pattern := range harmless {
		prefix, suffix, isPattern := strings.Cut(pattern, "*")
		if !isPattern {
			names = append(names, pattern)
			continue
		}
		for _, name := range all {
			if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// firstLink returns name and what is there, or the first of its parents that is a symbolic link. It returns nil when there is
// nothing, or nothing that everybody on this machine may look for.
func firstLink(root *os.Root, name string) (string, fs.FileInfo) {
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		info, err := root.Lstat(name[:i])
		if err != nil {
			return "", nil
		}
		if info.Mode()&fs.ModeSymlink != 0 || i == len(name) {
			return name[:i], info
		}
		if info.Mode()&0o001 == 0 {
			return "", nil
		}
	}
	return "", nil
}

// openEtc returns nil when the machine has no /etc that we can read.
func (h *host) openEtc() (*os.Root, error) {
	root, err := os.OpenRoot(filepath.Join(h.top, "etc"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return root, err
}

// writeEtc copies the entries that inspectEtc found.
func (h *host) writeEtc(ctx context.Context, w *erofs.Writer) error {
	for _, name := range written {
		if err := w.File("etc/"+name, erofs.Attr{Mode: 0o644}, 0, nil); err != nil {
			return err
		}
	}
	root, err := h.openEtc()
	if root == nil || err != nil {
		return err
	}
	defer root.Close()
	c := &etcCopy{ctx: ctx, root: root, w: w}
	for _, name := range h.etc {
		if err := c.parents(name); err != nil {
			return err
		}
		if err := c.entry(name, 0); err != nil {
			return err
		}
	}
	return nil
}

// etcCopy copies entries of /etc. It never follows a symbolic link: links are copied as they are, and in the sandbox they
// lead to what the image has.
type etcCopy struct {
	ctx   context.Context
	root  *os.Root
	w     *erofs.Writer
	files int
	bytes int64
}

// parents adds the directories above name with the attributes they have.
func (c *etcCopy) parents(name string) error {
	for i, r := range name {
		if r != '/' {
			continue
		}
		info, err := c.root.Lstat(name[:i])
		if err != nil || !info.IsDir() {
			return nil // it changed this very moment; entry finds nothing
		}
		if err := c.w.Dir("etc/"+name[:i], attrOf(info)); err != nil {
			return err
		}
	}
	return nil
}

// entry copies what is at name, if everybody on this machine may read it. What cannot be read is left out.
func (c *etcCopy) entry(name string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	info, err := c.root.Lstat(name)
	if err != nil || isSecret(name) || c.files >= maxEtcFiles || depth > maxEtcDepth {
		return nil
	}
	c.files++
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := c.root.Readlink(name)
		if err != nil || target == "" {
			return nil
		}
		return c.w.Symlink("etc/"+name, target, attrOf(info))
	case info.IsDir() && info.Mode()&0o005 == 0o005:
		return c.dir(name, info, depth)
	case info.Mode().IsRegular() && info.Mode()&0o004 != 0:
		return c.file(name, info)
	}
	return nil
}

func (c *etcCopy) dir(name string, info fs.FileInfo, depth int) error {
	d, err := c.root.Open(name)
	if err != nil {
		return nil
	}
	defer d.Close()
	if now, err := d.Stat(); err != nil || !os.SameFile(info, now) {
		return nil // replaced since, maybe by a link
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	if err := c.w.Dir("etc/"+name, attrOf(info)); err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := c.entry(name+"/"+n, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *etcCopy) file(name string, info fs.FileInfo) error {
	if info.Size() > maxEtcFile || c.bytes+info.Size() > maxEtcTotal {
		return nil
	}
	f, err := c.root.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxEtcFile+1))
	if err != nil || len(data) > maxEtcFile || bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		return nil
	}
	c.bytes += int64(len(data))
	return c.w.File("etc/"+name, attrOf(info), int64(len(data)), bytes.NewReader(data))
}

// isSecret reports whether an element of name is one of secret.
func isSecret(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		for _, pattern := range secret {
			if ok, _ := path.Match(pattern, element); ok {
				return true
			}
		}
	}
	return false
}
