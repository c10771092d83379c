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
	a     *app
	verbs pullVerbs
	name  string

	mu     sync.Mutex
	layers []layerView
	notes  map[backend.PullPhase]bool // the phases of the whole image that there have been
}

// pullVerbs are the words for what is done to an image and to its layers.
type pullVerbs struct{ image, layer, layerDone string }

var (
	pulling = pullVerbs{"Pulling", "downloading", "downloaded"}
	loading = pullVerbs{"Loading", "reading", "read"}
)

// layerView is what is known of one layer.
type layerView struct {
	digest      string
	phase       backend.PullPhase
	done, total int64

	sampled time.Time // when rate was taken, of what was done then
	then    int64
	rate    float64 // bytes in a second
}

// viewPull returns what is to be called with the events of the pull, or the load, of name. The spinner has begun, if there is
// to be one.
func (a *app) viewPull(quiet bool, verbs pullVerbs, name string) func(backend.PullEvent) {
	if quiet {
		return func(backend.PullEvent) {}
	}
	return (&pullView{a: a, verbs: verbs, name: name, notes: map[backend.PullPhase]bool{}}).event
}

func (v *pullView) event(e backend.PullEvent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Layers > len(v.layers) && e.Layers < 1<<16 {
		v.layers = append(v.layers, make([]layerView, e.Layers-len(v.layers))...)
	}
	spin := v.a.spin
	switch e.Phase {
	case backend.PullDownloading, backend.PullDownloaded, backend.PullCached, backend.PullUnpacking, backend.PullUnpacked:
		if e.Layer < 0 || e.Layer >= len(v.layers) {
			return
		}
		l := &v.layers[e.Layer]
		before := l.phase
		l.update(e, time.Now())
		if spin == nil && before != e.Phase && !(before == backend.PullDownloaded && e.Phase == backend.PullUnpacked) { // they come together
			v.line(fmt.Sprintf("layer %d/%d", e.Layer+1, len(v.layers)), shortDigest(e.Digest)+" "+l.words(v.verbs))
		}
	default:
		if first := !v.notes[e.Phase]; first && spin == nil {
			v.note(e)
		}
		v.notes[e.Phase] = true
	}
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
	return v.verbs.image + " " + v.name
}

// note prints a phase of the whole image.
func (v *pullView) note(e backend.PullEvent) {
	switch e.Phase {
	case backend.PullWaiting:
		v.line("Waiting", "for the other process that pulls "+v.name)
	case backend.PullResolved:
		v.line(v.verbs.image, fmt.Sprintf("%s: %s, %s", v.name, shortDigest(e.Digest), count(e.Layers, "layer")))
	case backend.PullWriting:
		v.line("Writing", v.name)
	}
}

func (v *pullView) line(verb, text string) {
	fmt.Fprintf(v.a.err, "   %-14s %s\n", verb, oneLine(text))
}

// update takes what is known now. The rate follows what was done in the last half second or more.
func (l *layerView) update(e backend.PullEvent, now time.Time) {
	if e.Digest != "" {
		l.digest = e.Digest
	}
	if l.phase != e.Phase {
		l.phase, l.sampled, l.then, l.rate = e.Phase, now, e.Done, 0
	}
	l.done = e.Done
	if e.Total > 0 {
		l.total = e.Total
	}
	if d := now.Sub(l.sampled); d >= 500*time.Millisecond {
		l.rate = float64(l.done-l.then) / d.Seconds()
		l.sampled, l.then = now, l.done
	}
}

// words say where the layer is.
func (l *layerView) words(verbs pullVerbs) string {
	switch l.phase {
	case backend.PullDownloading:
		return verbs.layer + " " + bytesText(l.total)
	case backend.PullDownloaded:
		return verbs.layerDone + ", verified"
	case backend.PullCached:
		return "is there already"
	case backend.PullUnpacking:
		return "unpacking"
	case backend.PullUnpacked:
		return "unpacked, verified"
	}
	return "waiting"
}

// moving tells the layers that are worth a line when there is not a line for each.
func (l *layerView) moving() bool {
	return l.phase == backend.PullDownloading || l.phase == backend.PullUnpacking
}

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
		lines = append(lines, l.draw(st, v.verbs, cols))
	}
	if hidden := len(v.layers) - len(lines); hidden > 0 {
		lines = append(lines, shorten(fmt.Sprintf("     and %s more", count(hidden, "layer")), cols))
	}
	return lines
}

func (l *layerView) draw(st style, verbs pullVerbs, cols int) string {
	line := fmt.Sprintf("     %-12s  ", shortDigest(l.digest))
	if !l.moving() || l.total <= 0 {
		return st.dim(shorten(line+l.words(verbs), cols))
	}
	done := min(max(l.done, 0), l.total)
	width := min(max(cols-60, 8), 24)
	full := int(done * int64(width) / l.total)
	line += strings.Repeat("━", full) + strings.Repeat("─", width-full) + fmt.Sprintf("  %s / %s", bytesText(done), bytesText(l.total))
	if l.rate > 0 {
		line += "  " + bytesText(int64(l.rate)) + "/s"
	}
	if l.phase == backend.PullUnpacking {
		line += "  unpacking"
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
