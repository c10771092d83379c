// Filesystem moves files into a sandbox and out of it, and walks its tree.
package main

import (
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-filesystem", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	files := sb.FS()
	check(files.Mkdir(ctx, "/tmp/work/in"))
	check(files.WriteString(ctx, "/tmp/work/in/data.csv", "a,1\nb,2\n"))
	if _, err := sb.Shell(ctx, "cut -d, -f2 in/data.csv > out.txt", microsandbox.WithExecCwd("/tmp/work")); err != nil {
		log.Fatal(err)
	}
	check(files.CopyToHost(ctx, "/tmp/work/out.txt", filepath.Join(dir, "out.txt")))
	result, err := os.ReadFile(filepath.Join(dir, "out.txt"))
	check(err)
	fmt.Printf("%q\n", result)

	// A sandbox's directory is an fs.FS.
	check(fs.WalkDir(files.IO(ctx, "/tmp/work"), ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path, d.IsDir())
		return err
	}))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
