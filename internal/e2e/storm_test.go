package e2e

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestOneOfAName makes sandboxes of one name at once: exactly one is made, and the others are told that it exists.
func TestOneOfAName(t *testing.T) {
	n := soak(5, 100)
	each(t, func(w *world) {
		for round := range n {
			// Half of the rounds are of a name that was just removed by somebody else.
			results := w.together(2+round%3, func(int) []string { return []string{"create", "-q", "--name", "one", "host"} })
			made := 0
			for _, r := range results {
				if r.code == 0 && r.err == "" {
					made++
				} else if line := w.errorLine(r); r.code != 1 || line != "sandbox already exists: one" {
					w.t.Errorf("round %d: exit code %d, stderr %q", round, r.code, r.err)
				}
			}
			if made != 1 {
				w.t.Errorf("round %d: %d sandboxes of one name were made", round, made)
			}
			if out := w.ok("ls", "-q", "--running"); out != "one\n" {
				w.t.Errorf("round %d: ls says %q", round, out)
			}
			if out := w.ok("exec", "one", "--", "echo", "here"); out != "here\n" {
				w.t.Errorf("round %d: stdout %q", round, out)
			}
			w.ok("rm", "-f", "-q", "one")
		}
	})
}

// told are the errors of somebody whose sandbox others start, stop and remove.
var told = regexp.MustCompile(`^(sandbox (already exists|not found|still running): storm` +
	`|sandbox 'storm' is not running \(status: (Starting|Stopped|Crashed|Created)\)` +
	`|sandbox "storm" ended(: .*)?` +
	`|the sandbox was stopped while it started` +
	`|failed to start "storm")$`)

// TestStorm does all that can be done to a sandbox at once, and finds legal states only and nothing left.
func TestStorm(t *testing.T) {
	rounds, crowd := soak(4, 60), 6
	commands := []string{"create -q --name storm host", "start -q storm", "stop -q storm", "stop -f -q storm", "restart -q storm", "exec -q storm -- true",
		"exec -q storm -- true", "run -q --name storm host -- true", "rm -q storm", "rm -f -q storm", "create -q --replace --name storm host", "inspect storm"}
	each(t, func(w *world) {
		said := map[string]int{}
		for round := range rounds {
			picked := make([]string, crowd)
			for i := range picked {
				picked[i] = commands[rand.IntN(len(commands))]
			}
			for i, r := range w.together(crowd, func(i int) []string { return strings.Fields(picked[i]) }) {
				if r.code == 0 {
					said[strings.Fields(picked[i])[0]+": done"]++
					continue
				}
				first, _, _ := strings.Cut(strings.TrimSpace(r.err), "\n")
				message, _ := strings.CutPrefix(first, "error: ")
				said[strings.Fields(picked[i])[0]+": "+message]++
				killed := r.err == "" && strings.HasPrefix(picked[i], "exec") || strings.HasPrefix(picked[i], "run") && r.err == "" // its command was
				if !told.MatchString(message) && !killed {
					w.t.Errorf("round %d (%s): %s: exit code %d, stderr %q", round, strings.Join(picked, "; "), picked[i], r.code, r.err)
				}
			}
			if r := w.run("inspect", "storm", "--format", "json"); r.code == 0 {
				if s := w.inspect("storm").Status; !slices.Contains([]string{"Running", "Stopped", "Crashed"}, s) {
					w.t.Errorf("round %d (%s): it is left %s", round, strings.Join(picked, "; "), s)
				}
			} else if !strings.Contains(r.err, "sandbox not found: storm") {
				w.t.Errorf("round %d: %s", round, r.err)
			}
		}
		// Whatever it is now, it can be used.
		w.ok("create", "-q", "--replace", "--name", "storm", "host")
		if out := w.ok("exec", "storm", "--", "echo", "calm"); out != "calm\n" {
			w.t.Errorf("stdout %q", out)
		}
		var all []string
		for s, n := range said {
			all = append(all, fmt.Sprintf("%d × %s", n, s))
		}
		slices.Sort(all)
		w.t.Log(strings.Join(all, "\n"))
	})
}
