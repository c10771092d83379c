package sandbox

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// This file reads the small languages of the command line, of configuration files and of the SDK (contract msb-0.6
// §1.4). All its errors are of kind InvalidArgument, quote what they read and say what was wanted. What a value may be in
// its place is for [Spec.Validate].

func unreadable(what, got, want string) error {
	return &Error{Kind: InvalidArgument, Message: fmt.Sprintf("%s %q is not %s", what, clip(got), want)}
}

// clip keeps what an error quotes to one line's length.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// digits splits s after its leading decimal digits and returns their value; ok is false when there are none or too many.
func digits(s string) (n uint64, rest string, ok bool) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	n, err := strconv.ParseUint(s[:i], 10, 64)
	return n, s[i:], err == nil
}

// ParseDuration reads N, Nms, Ns, Nm or Nh. A bare number is seconds.
func ParseDuration(s string) (time.Duration, error) {
	const want = "a duration such as 500ms, 30s, 5m or 1h"
	n, unit, ok := digits(s)
	if !ok {
		return 0, unreadable("duration", s, want)
	}
	scale := time.Second
	switch unit {
	case "", "s":
	case "ms":
		scale = time.Millisecond
	case "m":
		scale = time.Minute
	case "h":
		scale = time.Hour
	default:
		return 0, unreadable("duration", s, want)
	}
	if n > uint64(math.MaxInt64/scale) {
		return 0, unreadable("duration", s, "below 292 years")
	}
	return time.Duration(n) * scale, nil
}

// ParseSize reads a size in MiB: N, NK, NM, NG or NT, where a bare number is MiB and K rounds up. The letters may be
// small and may be followed by B or iB.
func ParseSize(s string) (int, error) {
	n, unit, ok := digits(s)
	if ok {
		unit = strings.ToUpper(unit)
		if len(unit) > 1 {
			unit = strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
		}
		shift := 0
		switch unit {
		case "K":
			n = n>>10 + (n&1023+1023)>>10
		case "", "M":
		case "G":
			shift = 10
		case "T":
			shift = 20
		default:
			ok = false
		}
		ok = ok && n > 0 && n <= math.MaxInt32>>shift
		n <<= shift
	}
	if !ok {
		return 0, unreadable("size", s, "a size such as 512M or 2G (a bare number is MiB)")
	}
	return int(n), nil
}

// ParseEnv reads KEY=VALUE; the value may be empty and may hold anything but NUL.
func ParseEnv(s string) (EnvVar, error) {
	key, value, found := strings.Cut(s, "=")
	if !found || key == "" || strings.ContainsRune(s, 0) {
		return EnvVar{}, unreadable("environment variable", s, "of the form KEY=value")
	}
	return EnvVar{Key: key, Value: value}, nil
}

// ParseLabel reads KEY or KEY=VALUE.
func ParseLabel(s string) (key, value string, err error) {
	key, value, _ = strings.Cut(s, "=")
	if key == "" {
		return "", "", unreadable("label", s, "of the form KEY or KEY=VALUE")
	}
	return key, value, nil
}

// ParseTmpfs reads PATH[:SIZE][:OPTIONS], where OPTIONS is a comma list of ro, rw, noexec, nosuid and nodev.
func ParseTmpfs(s string) (Mount, error) {
	const want = "of the form PATH[:SIZE][:ro,noexec,nosuid,nodev]"
	fields := strings.Split(s, ":")
	m := Mount{Type: MountTmpfs, Guest: fields[0]}
	rest := fields[1:]
	if len(rest) > 0 && (rest[0] == "" || '0' <= rest[0][0] && rest[0][0] <= '9') {
		if rest[0] != "" {
			size, err := ParseSize(rest[0])
			if err != nil {
				return Mount{}, err
			}
			m.SizeMiB = size
		}
		rest = rest[1:]
	}
	if m.Guest == "" || len(rest) > 1 {
		return Mount{}, unreadable("tmpfs", s, want)
	}
	if len(rest) == 1 {
		for _, o := range strings.Split(rest[0], ",") {
			if !m.Options.set(o) {
				return Mount{}, unreadable("tmpfs option", o, "one of ro, rw, noexec, nosuid and nodev")
			}
		}
	}
	return m, nil
}

// set applies one word of a mount's options and reports whether it is one.
func (o *MountOptions) set(word string) bool {
	switch word {
	case "ro":
		o.ReadOnly = true
	case "rw":
		o.ReadOnly = false
	case "noexec":
		o.NoExec = true
	case "nosuid":
		o.NoSUID = true
	case "nodev":
		o.NoDev = true
	default:
		return false
	}
	return true
}

// RlimitNames are the resources that an Rlimit may name (contract msb-0.6 §1.4).
var RlimitNames = [...]string{"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
	"sigpending", "msgqueue", "nice", "rtprio", "rttime"}

// RlimitUnlimited is the value of a limit that is none.
const RlimitUnlimited = math.MaxUint64

// ParseRlimit reads RESOURCE=SOFT[:HARD]; a limit is a number or "unlimited", and without HARD both are SOFT.
func ParseRlimit(s string) (Rlimit, error) {
	const want = "of the form RESOURCE=SOFT[:HARD], for example nofile=1024:4096"
	name, limits, found := strings.Cut(s, "=")
	soft, hard, two := strings.Cut(limits, ":")
	if !two {
		hard = soft
	}
	r := Rlimit{Resource: strings.ToLower(name)}
	var ok1, ok2 bool
	r.Soft, ok1 = parseLimit(soft)
	r.Hard, ok2 = parseLimit(hard)
	if !found || !ok1 || !ok2 {
		return Rlimit{}, unreadable("resource limit", s, want)
	}
	return r, r.Validate()
}

func parseLimit(s string) (uint64, bool) {
	if s == "unlimited" {
		return RlimitUnlimited, true
	}
	n, rest, ok := digits(s)
	return n, ok && rest == ""
}

// ParseScript reads NAME=BODY. The body's escapes \n \t \r \\ \" \' are decoded, others stay as they are, and it gets a
// first line that names the shell.
func ParseScript(s, shell string) (name, content string, err error) {
	name, body, err := ParseScriptRaw(s)
	if err != nil {
		return "", "", err
	}
	body = unescape(body)
	if !strings.HasSuffix(body, "\n") {
		body += "\n"
	}
	return name, Shebang(shell) + body, nil
}

// ParseScriptRaw reads NAME=BODY, whose body is taken as it is.
func ParseScriptRaw(s string) (name, body string, err error) {
	name, body, found := strings.Cut(s, "=")
	if !found {
		return "", "", unreadable("script", s, "of the form NAME=BODY")
	}
	return name, body, validateScriptName(name)
}

// ParseScriptPath reads NAME:PATH, where PATH is a file of the host.
func ParseScriptPath(s string) (name, file string, err error) {
	name, file, found := strings.Cut(s, ":")
	if !found || file == "" {
		return "", "", unreadable("script", s, "of the form NAME:PATH")
	}
	return name, file, validateScriptName(name)
}

// Shebang is the first line of a script for shell, which is an absolute path or is looked for on PATH; "" is /bin/sh.
func Shebang(shell string) string {
	switch {
	case shell == "":
		return "#!" + DefaultShell + "\n"
	case strings.HasPrefix(shell, "/"):
		return "#!" + shell + "\n"
	}
	return "#!/usr/bin/env " + shell + "\n"
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			if j := strings.IndexByte(`ntr\"'`, s[i+1]); j >= 0 {
				c = "\n\t\r\\\"'"[j]
				i++
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// ParseDetachKeys reads a comma list of ctrl-X, X a letter or one of @ [ \ ] ^ _, and returns the bytes that a terminal
// sends for it.
func ParseDetachKeys(s string) ([]byte, error) {
	var keys []byte
	for _, word := range strings.Split(s, ",") {
		w := strings.ToLower(strings.TrimSpace(word))
		c, ok := strings.CutPrefix(w, "ctrl-")
		if !ok || len(c) != 1 || c[0]&^0x20 < '@' && c[0] != '@' || c[0] == '`' || c[0] > 'z' {
			return nil, unreadable("detach key", word, "of the form ctrl-X, X a letter or one of @ [ \\ ] ^ _")
		}
		keys = append(keys, c[0]&0x1f)
	}
	return keys, nil
}

// ParseWords splits a command line at blanks as a shell does: '…' keeps everything, "…" and \ keep the next character.
// Nothing is expanded.
func ParseWords(s string) ([]string, error) {
	var (
		words []string
		word  strings.Builder
		open  bool // a word has begun, though it may be empty
		quote byte
	)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != '\'' && c == '\\':
			if i++; i == len(s) {
				return nil, unreadable("command", s, "whole: it ends in a backslash")
			}
			word.WriteByte(s[i])
			open = true
		case c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, unreadable("command", s, "whole: a quote is not closed")
	}
	if open {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, unreadable("command", s, "one: it is empty")
	}
	return words, nil
}
