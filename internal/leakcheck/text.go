package leakcheck

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Forms are the ways to write a value that are searched for where it must not be: as it is, as in URLs, in base64 wherever in a
// group of three bytes it begins, and in hexadecimal. The value has 8 bytes or more.
func Forms(value string) []string {
	all := []string{value, hex.EncodeToString([]byte(value))}
	for _, escaped := range []string{url.QueryEscape(value), url.PathEscape(value)} {
		if escaped != value {
			all = append(all, escaped)
		}
	}
	for shift := range 3 {
		in := append(make([]byte, shift), value...)
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			all = append(all, enc.EncodeToString(in)[(shift*8+5)/6:len(in)*8/6]) // without the digits that others' bits are in
		}
	}
	return all
}

// Found is what a search found, and how many bytes it read.
type Found struct {
	Texts map[string]bool
	Bytes int64
}

// Has reports whether one of texts was found.
func (f Found) Has(texts ...string) bool {
	for _, t := range texts {
		if f.Texts[t] {
			return true
		}
	}
	return false
}

// Search reads r to its end, or to where it cannot be read, and looks for texts, which are not empty.
func (f *Found) Search(r io.Reader, texts ...string) {
	if f.Texts == nil {
		f.Texts = map[string]bool{}
	}
	longest := 0
	for _, t := range texts {
		longest = max(longest, len(t))
	}
	buf := make([]byte, 1<<20+longest)
	for kept := 0; ; {
		n, err := r.Read(buf[kept:])
		f.Bytes += int64(n)
		have := buf[:kept+n]
		for _, t := range texts {
			if !f.Texts[t] && bytes.Contains(have, []byte(t)) {
				f.Texts[t] = true
			}
		}
		if err != nil {
			return
		}
		kept = copy(buf, have[max(0, len(have)-longest+1):])
	}
}

// SearchMemory looks for texts in all that a process has in memory, as a dump of its core would hold it. Of a process that has
// ended there is nothing.
func SearchMemory(pid int, texts ...string) (f Found, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err == nil {
		defer maps.Close()
	}
	mem, merr := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if merr == nil {
		defer mem.Close()
	}
	if err = errors.Join(err, merr); errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	const huge = 8 << 30 // what is reserved and not used
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		from, to, _ := strings.Cut(fields[0], "-")
		begin, _ := strconv.ParseUint(from, 16, 63)
		end, _ := strconv.ParseUint(to, 16, 63)
		if !strings.HasPrefix(fields[1], "r") || end-begin > huge || strings.Contains(lines.Text(), "[v") || strings.Contains(lines.Text(), "memfd:") {
			continue
		}
		f.Search(io.NewSectionReader(mem, int64(begin), int64(end-begin)), texts...)
	}
	// The guest's memory is a file with holes, which reading it in the process would fill.
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, fd := range fds {
		path := fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())
		if to, _ := os.Readlink(path); !strings.Contains(to, "memfd:") {
			continue
		}
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		for at := int64(0); ; {
			begin, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
			if err != nil {
				break
			}
			if at, err = unix.Seek(int(file.Fd()), begin, unix.SEEK_HOLE); err != nil {
				break
			}
			f.Search(io.NewSectionReader(file, begin, at-begin), texts...)
		}
		file.Close()
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		err = nil
	}
	return f, err
}
