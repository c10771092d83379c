package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"
)

// contestant is one way to run the command.
type contestant struct {
	name string
	args []string
	env  []string
	want string // what it prints
}

// sample is one run: until the first byte of output, until the process was gone, and the CPU time of it and of all its
// children that were waited for.
type sample struct{ first, whole, cpu time.Duration }

func (c contestant) run() (sample, error) {
	var s sample
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return s, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return s, fmt.Errorf("%s: %w", c.name, err)
	}
	b := make([]byte, 4096)
	n, _ := out.Read(b)
	s.first = time.Since(began)
	rest, _ := io.ReadAll(out)
	err = cmd.Wait()
	s.whole = time.Since(began)
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if got := string(b[:n]) + string(rest); err == nil && got != c.want {
		err = fmt.Errorf("it printed %q, not %q", got, c.want)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", c.name, err, stderr.String())
	}
	return s, nil
}

// result is all samples of one contestant.
type result struct {
	contestant
	samples []sample
}

// interleave runs the contestants in turn, after one round that does not count.
func interleave(cs []contestant, rounds int) ([]result, error) {
	all := make([]result, len(cs))
	for round := -1; round < rounds; round++ {
		for i, c := range cs {
			s, err := c.run()
			if err != nil {
				return nil, err
			}
			all[i].contestant = c
			if round >= 0 {
				all[i].samples = append(all[i].samples, s)
			}
		}
	}
	return all, nil
}

func (r result) quantile(q float64, of func(sample) time.Duration) time.Duration {
	v := make([]time.Duration, len(r.samples))
	for i, s := range r.samples {
		v[i] = of(s)
	}
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}

func first(s sample) time.Duration { return s.first }
func whole(s sample) time.Duration { return s.whole }
func cpu(s sample) time.Duration   { return s.cpu }

// report prints a table, and how the first compares with each of the others.
func report(what string, all []result) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("%-12s %10s %10s %10s %10s %10s   (ms, n=%d)\n", "", "first p50", "whole p50", "whole p99", "whole min", "CPU p50", len(all[0].samples))
	for _, r := range all {
		fmt.Printf("%-12s %10.1f %10.1f %10.1f %10.1f %10.1f\n", r.name, ms(r.quantile(.5, first)), ms(r.quantile(.5, whole)), ms(r.quantile(.99, whole)), ms(r.quantile(0, whole)), ms(r.quantile(.5, cpu)))
	}
	for _, r := range all[1:] {
		ratio := func(of func(sample) time.Duration) float64 {
			return float64(all[0].quantile(.5, of)) / float64(r.quantile(.5, of))
		}
		fmt.Printf("%s vs %s: %.2f x (first output %.2f x, CPU %.2f x)\n", what, r.name, ratio(whole), ratio(first), ratio(cpu))
	}
}
