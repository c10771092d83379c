// Command bench compares microsandbox with its peers, side by side: every round runs each of them once, so that whatever
// else the machine does meets them all. It prints times as they were and, what counts, ratios.
//
//	go run . -msb ../bin/msb coldstart
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
)

var benches = map[string]func(options) error{
	"coldstart": coldstart,
	"exec":      commands,
	"images":    images,
	"disk":      disk,
	"density":   density,
	"net":       network,
	"intercept": intercept,
}

type options struct {
	msb    string // the msb binary; runner and agent beside it
	rounds int
	work   string // a directory of this run
}

func main() {
	var o options
	flag.StringVar(&o.msb, "msb", "../bin/msb", "the msb binary")
	flag.IntVar(&o.rounds, "n", 60, "rounds")
	flag.Parse()
	name := strings.TrimSpace(strings.Join(flag.Args(), " "))
	run, ok := benches[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "error: no benchmark %q\n  → there are: %s\n", name, strings.Join(slices.Sorted(maps.Keys(benches)), ", "))
		os.Exit(2)
	}
	var err error
	if o.work, err = os.MkdirTemp("", "msb-bench-"); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	done := make(chan error, 1)
	go func() { done <- run(o) }()
	select {
	case err = <-done:
	case <-interrupted:
		err = fmt.Errorf("interrupted")
	}
	_ = os.RemoveAll(o.work)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
