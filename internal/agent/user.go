package agent

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// identity is who a command runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary
}

// userDB reads the guest's /etc/passwd and /etc/group. The guest may change them at any time, and make them anything.
type userDB struct {
	root   string
	passwd etcFile
	group  etcFile
}

// maxEtcFile bounds what is read of a file in /etc, in bytes.
const maxEtcFile = 4 << 20

// etcFile is a file that is read again only when it has changed.
type etcFile struct {
	mu   sync.Mutex
	seen syscall.Stat_t
	text string
}

func (e *etcFile) read(path string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var now syscall.Stat_t
	if err := statNow(path, &now); err != nil || now.Mode&syscall.S_IFMT != syscall.S_IFREG {
		e.seen, e.text = syscall.Stat_t{}, ""
		return ""
	}
	if now.Ino == e.seen.Ino && now.Dev == e.seen.Dev && now.Size == e.seen.Size && now.Mtim == e.seen.Mtim && now.Ctim == e.seen.Ctim {
		return e.text
	}
	text, err := readSmall(path)
	if err != nil {
		return ""
	}
	e.seen, e.text = now, text
	return e.text
}

// readSmall reads up to maxEtcFile of a regular file, without what an os.File brings with it.
func readSmall(path string) (string, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	buf := make([]byte, 8<<10)
	used := 0
	for used < maxEtcFile {
		if used == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
		n, err := syscall.Read(fd, buf[used:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		used += n
	}
	return string(buf[:used]), nil
}

// lookup finds the user NAME|UID[:GROUP|GID]. "" is the agent's own, which in a guest is 0:0. Without a group it is the user's own, and the groups that list
// the user are supplementary.
func (db *userDB) lookup(spec string) (identity, error) {
	if spec == "" {
		return ownIdentity(), nil
	}
	user, group, grouped := strings.Cut(spec, ":")
	entry := db.find(&db.passwd, "passwd", 7, func(f []string) bool { return f[0] == user })
	if number, err := strconv.ParseUint(user, 10, 32); entry == nil && err == nil {
		entry = db.find(&db.passwd, "passwd", 7, func(f []string) bool { return f[2] == user })
		if entry == nil {
			entry = []string{"", "", strconv.FormatUint(number, 10), "0", "", "", ""}
		}
	}
	if entry == nil {
		return identity{}, fmt.Errorf("unknown user %q", user)
	}
	uid, err1 := strconv.ParseUint(entry[2], 10, 32)
	gid, err2 := strconv.ParseUint(entry[3], 10, 32)
	if err1 != nil || err2 != nil {
		return identity{}, fmt.Errorf("user %q has a malformed entry in /etc/passwd", user)
	}
	id := identity{uid: uint32(uid), gid: uint32(gid)}
	if !grouped {
		id.groups = db.groupsOf(entry[0])
		return id, nil
	}
	found := db.find(&db.group, "group", 4, func(f []string) bool { return f[0] == group })
	if found != nil {
		group = found[2]
	}
	gid, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return identity{}, fmt.Errorf("unknown group %q", group)
	}
	id.gid = uint32(gid)
	return id, nil
}

// home is the home directory of a user, or "" if /etc/passwd does not say.
func (db *userDB) home(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if f := db.find(&db.passwd, "passwd", 7, func(f []string) bool { return f[2] == number }); f != nil {
		return f[5]
	}
	return ""
}

// maxGroups is how many supplementary groups a process may have (NGROUPS_MAX of old kernels is 65536; nobody needs it).
const maxGroups = 1024

func (db *userDB) groupsOf(user string) []uint32 {
	var groups []uint32
	if user == "" {
		return nil
	}
	db.find(&db.group, "group", 4, func(f []string) bool {
		for member := range strings.SplitSeq(f[3], ",") {
			if member != user || len(groups) == maxGroups {
				continue
			}
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				groups = append(groups, uint32(gid))
			}
			break
		}
		return false
	})
	return groups
}

// find returns the first line with the given number of fields that match accepts.
func (db *userDB) find(file *etcFile, name string, fields int, match func([]string) bool) []string {
	for line := range strings.Lines(file.read(filepath.Join(db.root, "etc", name))) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) == fields && match(f) {
			return f
		}
	}
	return nil
}
