// Command static is what runs on both sides when commands are measured: a static binary that does nothing, or moves bytes.
//
//	static
//	static sleep
//	static out BYTES
//	static cat FILE
//	static save FILE
package main

import (
	"bytes"
	"io"
	"log"
	"os"
	"strconv"
	"time"
)

// piece is how much is moved at once, in bytes; cat of coreutils has the same.
const piece = 128 << 10

func main() {
	var err error
	switch {
	case len(os.Args) == 1:
	case len(os.Args) == 2 && os.Args[1] == "sleep":
		time.Sleep(time.Hour)
	case len(os.Args) == 3 && os.Args[1] == "out":
		var left int
		if left, err = strconv.Atoi(os.Args[2]); err == nil {
			b := bytes.Repeat([]byte("output is lines of text, of about this length mostly, as a build prints\n"), piece/72+1)
			for left > 0 && err == nil {
				var n int
				n, err = os.Stdout.Write(b[:min(left, piece)])
				left -= n
			}
		}
	case len(os.Args) == 3 && os.Args[1] == "cat":
		var f *os.File
		if f, err = os.Open(os.Args[2]); err == nil {
			err = move(os.Stdout, f)
		}
	case len(os.Args) == 3 && os.Args[1] == "save":
		var f *os.File
		if f, err = os.Create(os.Args[2]); err == nil {
			if err = move(f, os.Stdin); err == nil {
				err = f.Close()
			}
		}
	default:
		log.Fatal("usage: static [sleep | out BYTES | cat FILE | save FILE]")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// move copies by read and write, as cat does.
func move(to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, piece))
	return err
}
