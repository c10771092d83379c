package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

// pullView shows how an image is got: a bar per layer below the spinner on a terminal, elsewhere a line per phase.
type pullView struct {
	a    *app
	name string

	mu     sync.Mutex
	layers []layerView
	seen   map[backend.PullPhase]bool // the phases that there have been
}

// layerView is what is known of one layer.
type layerView struct {
	backend.PullEvent // the last one; the zero value is none yet

	sampled time.Time // when rate was taken, of what was done then
	then    int64
	rate    float64 // bytes in a second
}

// viewPull returns what is to be called with the events of the pull of name. The spinner has begun, if there is to be one.
func (a *app) viewPull(quiet bool, name string) func(backend.PullEvent) {
	if quiet {
		return func(backend.PullEvent) {}
	}
	return (&pullView{a: a, name: name, seen: map[backend.PullPhase]bool{}}).event
}

func (v *pullView) event(e backend.PullEvent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Layers > len(v.layers) && e.Layers < 1<<16 {
		v.layers = append(v.layers, make([]layerView, e.Layers-len(v.layers))...)
	}
	spin := v.a.spin
	if e.Phase == backend.PullLayer && e.Layer >= 0 && e.Layer < len(v.layers) {
		l := &v.layers[e.Layer]
		before := l.words()
		l.update(e, time.Now())
		if spin == nil && before != l.words() {
			v.line(fmt.Sprintf("Layer %d/%d", e.Layer+1, len(v.layers)), shortDigest(e.Digest)+" "+l.words())
		}
	}
	if first := !v.seen[e.Phase]; first && spin == nil {
		v.note(e)
	}
	v.seen[e.Phase] = true
	switch {
	case spin == nil:
	case e.Phase == backend.PullDone:
		spin.show(nil)
	default:
		spin.say(v.title(e))
		spin.show(v.draw)
	}
}

// title is what the spinner says.
func (v *pullView) title(e backend.PullEvent) string {
	switch e.Phase {
	case backend.PullWaiting:
		return "Waiting for the other process that pulls " + v.name
	case backend.PullWriting:
		return "Writing " + v.name
	}
	return "Pulling " + v.name
}

// note prints a phase of the whole image.
func (v *pullView) note(e backend.PullEvent) {
	switch e.Phase {
	case backend.PullResolving:
		v.line("Pulling", v.name)
	case backend.PullWaiting:
		v.line("Waiting", "for the other process that pulls "+v.name)
	case backend.PullWriting:
		v.line("Writing", fmt.Sprintf("%s of %s", v.name, count(e.Layers, "layer")))
	}
}

func (v *pullView) line(verb, text string) {
	fmt.Fprintf(v.a.err, "   %-14s %s\n", verb, oneLine(text))
}

// update takes what is known now. The rate follows what was done in the last half second or more.
func (l *layerView) update(e backend.PullEvent, now time.Time) {
	if l.Phase == "" {
		l.sampled, l.then = now, e.Done
	}
	l.PullEvent = e
	if d := now.Sub(l.sampled); d >= 500*time.Millisecond {
		l.rate = float64(l.Done-l.then) / d.Seconds()
		l.sampled, l.then = now, l.Done
	}
}

// words say where the layer is.
func (l *layerView) words() string {
	switch {
	case l.Phase == "":
		return "waiting"
	case l.moving() && l.Cached:
		return "unpacking " + bytesText(l.Total)
	case l.moving():
		return "downloading " + bytesText(l.Total)
	case l.Cached:
		return "was here, verified"
	}
	return "downloaded and verified"
}

// moving tells the layers that are worth a bar, and a line when there is not one for each.
func (l *layerView) moving() bool { return l.Phase != "" && l.Done < l.Total }

// draw is what is shown below the spinner.
func (v *pullView) draw(rows, cols int) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := styleOf(v.a.err)
	var lines []string
	for i := range v.layers {
		l := &v.layers[i]
		if len(v.layers) > rows && (!l.moving() || len(lines) == rows-1) {
			continue
		}
		lines = append(lines, l.draw(st, cols))
	}
	if hidden := len(v.layers) - len(lines); hidden > 0 {
		lines = append(lines, shorten(fmt.Sprintf("     and %s more", count(hidden, "layer")), cols))
	}
	return lines
}

const barWidth = 24

func (l *layerView) draw(st style, cols int) string {
	line := "     " + fmt.Sprintf("%-12s", shortDigest(l.Digest)) + "  "
	if !l.moving() {
		return st.dim(shorten(line+l.words(), cols))
	}
	done := max(l.Done, 0)
	full := int(done * barWidth / l.Total)
	line += strings.Repeat("━", full) + strings.Repeat("─", barWidth-full) + "  " + bytesText(done) + " / " + bytesText(l.Total)
	if l.rate > 0 {
		line += "  " + bytesText(int64(l.rate)) + "/s"
	}
	return shorten(line, cols)
}

// shortDigest is enough of a digest for people to tell it from others.
func shortDigest(d string) string {
	_, hex, ok := strings.Cut(d, ":")
	if !ok {
		return "-"
	}
	return hex[:min(len(hex), 12)]
}

// bytesText is an amount of bytes for people.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 1023.95 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// count is "1 layer" or "2 layers".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
