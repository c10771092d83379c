package agent

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// language is a language that kernels speak. Its interpreter is the guest's own, running our driver.
type language struct {
	name     string
	programs []string // to look for on PATH, in this order
	args     []string
	driver   string // is sent first, for args to load; "" if they have it
	encode   func(c *cell) []byte
}

var (
	//go:embed drivers/python.py
	pythonDriver string
	//go:embed drivers/node.js
	nodeDriver string
	//go:embed drivers/bash.sh
	bashDriver string
)

// The programs that load a driver: a length of four bytes, then so many bytes, from descriptor 3.
const (
	pythonLoader = `import os
def recv(n):
	b = b""
	while len(b) < n:
		c = os.read(3, n - len(b))
		if not c: os._exit(0)
		b += c
	return b
exec(compile(recv(int.from_bytes(recv(4), "big")), "<msb kernel>", "exec"), {"__name__": "_msb_kernel"})`

	nodeLoader = `{
const fs = require('fs');
const recv = (n) => {
	const b = Buffer.alloc(n);
	for (let at = 0; at < n;) {
		const got = fs.readSync(3, b, at, n - at);
		if (!got) process.exit(0);
		at += got;
	}
	return b;
};
const driver = recv(recv(4).readUInt32BE(0)).toString();
require('vm').runInThisContext('(function (require, load) {' + driver + '\n})', { filename: 'msb-kernel.js' })(require, (s) => import(s));
}`
)

var languages = []*language{
	{
		name:     "python",
		programs: []string{"python3", "python"},
		args:     []string{"-c", pythonLoader},
		driver:   pythonDriver,
		encode:   encodeCell,
	},
	{
		name:     "node",
		programs: []string{"node", "nodejs"},
		// The REPL's rewriting of top-level await is internal. In Node.js 18 import() needs the modules of package vm.
		args:   []string{"--expose-internals", "--experimental-vm-modules", "-e", nodeLoader},
		driver: nodeDriver,
		encode: encodeCell,
	},
	{
		name:     "bash",
		programs: []string{"bash"},
		args:     []string{"--noprofile", "--norc", "-c", bashDriver},
		encode:   encodeForBash,
	},
}

func languageOf(name string) *language {
	for _, l := range languages {
		if l.name == name {
			return l
		}
	}
	return nil
}

// encodeCell is a length of four bytes, then the cell's number in four, the first letter of its Echo, and its code.
func encodeCell(c *cell) []byte {
	b := make([]byte, 0, 9+len(c.req.Code))
	b = binary.BigEndian.AppendUint32(b, uint32(5+len(c.req.Code)))
	b = binary.BigEndian.AppendUint32(b, c.number)
	b = append(b, cmpOr(string(c.req.Echo), string(agentproto.EchoLast))[0])
	return append(b, c.req.Code...)
}

// encodeForBash is the number as printf takes it, the length of the code in eight digits, and the code.
func encodeForBash(c *cell) []byte {
	var b strings.Builder
	for _, n := range binary.BigEndian.AppendUint32(nil, c.number) {
		fmt.Fprintf(&b, `\%03o`, n)
	}
	return fmt.Appendf(nil, "%s%08d%s", &b, len(c.req.Code), c.req.Code)
}
