package runner

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// bench is a relay between a test that plays the agent and clients of the test's.
type bench struct {
	t     *testing.T
	r     *relay
	agent net.Conn
	in    *agentproto.Reader // what the relay sends to the agent
	asked chan struct{}
	done  chan error
}

func newBench(t *testing.T) *bench {
	t.Helper()
	leak := goleak.IgnoreCurrent()
	ours, relays := net.Pipe()
	b := &bench{t: t, agent: ours, in: agentproto.NewReader(ours), asked: make(chan struct{}, 1), done: make(chan error, 1)}
	ready := agentproto.Append(nil, 0, agentproto.TypeReady, &agentproto.Ready{AgentVersion: "test"})
	b.r = &relay{agent: relays, in: agentproto.NewReader(relays), ready: ready, ending: make(chan struct{}), onShutdown: func() { b.asked <- struct{}{} }}
	go func() {
		err := b.r.run()
		b.r.close()
		b.done <- err
	}()
	t.Cleanup(func() {
		ours.Close()
		relays.Close()
		<-b.done
		goleak.VerifyNone(t, leak)
	})
	return b
}

// client is one of the relay's clients.
type testClient struct {
	net.Conn
	in         *agentproto.Reader
	start, end uint32
}

func (b *bench) connect() *testClient {
	b.t.Helper()
	ours, relays := net.Pipe()
	b.t.Cleanup(func() { ours.Close() })
	b.r.serve(relays)
	c := &testClient{Conn: ours, in: agentproto.NewReader(ours)}
	_ = ours.SetDeadline(time.Now().Add(10 * time.Second))
	var err error
	if c.start, c.end, err = c.in.Words(); err != nil {
		b.t.Fatalf("the relay's greeting: %v", err)
	}
	f, err := c.in.Next()
	if err != nil || agentproto.TypeOf(f.Body()) != agentproto.TypeReady {
		b.t.Fatalf("the relay's second word: %v", err)
	}
	return c
}

// want reads the next frame of the agent and checks it.
func (b *bench) want(id uint32, typ agentproto.Type) *agentproto.Frame {
	b.t.Helper()
	_ = b.agent.SetReadDeadline(time.Now().Add(10 * time.Second))
	f, err := b.in.Next()
	if err != nil {
		b.t.Fatalf("the agent waits for %s: %v", typ, err)
	}
	if got := agentproto.TypeOf(f.Body()); f.ID != id || got != typ {
		b.t.Fatalf("the agent got %s of %d, want %s of %d", got, f.ID, typ, id)
	}
	return f
}

func (b *bench) say(c io.Writer, frame []byte) {
	b.t.Helper()
	if _, err := c.Write(frame); err != nil {
		b.t.Fatal(err)
	}
}

func TestRelayRoutesByID(t *testing.T) {
	b := newBench(t)
	clients := []*testClient{b.connect(), b.connect(), b.connect()}
	for i, c := range clients {
		if start, end := agentproto.IDRange(i); c.start != start || c.end != end {
			t.Errorf("client %d has the ids %d-%d, want %d-%d", i, c.start, c.end, start, end)
		}
		b.say(c, agentproto.Append(nil, c.start+5, agentproto.TypePing, nil))
		b.want(c.start+5, agentproto.TypePing)
	}
	// Nobody has these; they must not reach anyone, nor hurt.
	stray := agentproto.Append(nil, 0, agentproto.TypePong, nil)
	stray = agentproto.Append(stray, clients[2].end, agentproto.TypePong, nil)
	stray = agentproto.Append(stray, 1<<32-1, agentproto.TypePong, nil)
	b.say(b.agent, stray)
	for _, i := range []int{2, 0, 1} {
		c := clients[i]
		b.say(b.agent, agentproto.AppendData(nil, c.start+5, agentproto.TypeExecStdout, []byte{byte(i)}))
		f, err := c.in.Next()
		if err != nil || f.ID != c.start+5 || !bytes.Contains(f.Body(), []byte{byte(i)}) {
			t.Errorf("client %d got %v, %v", i, f, err)
		}
	}
}

func TestRelayEndsSessionsOfWhoLeaves(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	for _, id := range []uint32{c.start, c.start + 1} {
		b.say(c, agentproto.Append(nil, id, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: "x"}))
		b.want(id, agentproto.TypeExecRequest)
	}
	b.say(b.agent, agentproto.Append(nil, c.start, agentproto.TypeExecExited, &agentproto.ExecExited{}))
	if _, err := c.in.Next(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	b.want(c.start+1, agentproto.TypeExecSignal) // the other has ended
	f := b.want(0, agentproto.TypeClientDisconnected)
	m, err := agentproto.Open(f.Body())
	var left agentproto.ClientDisconnected
	if err == nil {
		err = agentproto.Decode(m.Payload, &left)
	}
	if err != nil || left.IDStart != c.start || left.IDEnd != c.end {
		t.Errorf("the agent hears that %+v left (%v)", left, err)
	}
	// The slot is not given again before the agent has said all that it had to say to the old client.
	b.want(c.start, agentproto.TypePing)
	for range agentproto.SlotCount - 1 {
		if other := b.connect(); other.start == c.start {
			t.Fatal("the slot was given again at once")
		}
	}
	// One more has to wait for it.
	came := make(chan *testClient, 1)
	go func() { came <- b.connect() }()
	select {
	case <-came:
		t.Fatal("a client more than there are slots was let in")
	case <-time.After(50 * time.Millisecond):
	}
	late := agentproto.AppendData(nil, c.start+1, agentproto.TypeExecStdout, []byte("late"))
	b.say(b.agent, agentproto.Append(late, c.start, agentproto.TypePong, nil))
	if again := <-came; again.start != c.start {
		t.Errorf("the slot was not given again: ids from %d", again.start)
	}
}

// TestRelayOutlivesAClientThatDoesNotRead fills one client's queue and ends the relay, which must not wait for it.
func TestRelayOutlivesAClientThatDoesNotRead(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		for {
			if _, err := b.agent.Write(agentproto.AppendData(nil, c.start, agentproto.TypeExecStdout, make([]byte, 1000))); err != nil {
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond) // long enough for the queue to fill; shorter makes the test weaker, not wrong
	b.r.end()
	b.agent.Close()
	<-stuck
	select {
	case err := <-b.done:
		b.done <- err
	case <-time.After(10 * time.Second):
		t.Fatal("the relay waits for a client that does not read")
	}
}

func TestRelayDropsWhoBreaksTheRules(t *testing.T) {
	for name, frame := range map[string][]byte{
		"foreign id":    agentproto.Append(nil, agentproto.SlotStep*5, agentproto.TypePing, nil),
		"control id":    agentproto.Append(nil, 0, agentproto.TypePing, nil),
		"short length":  {0, 0, 0, 1, 0, 0, 0, 0, 0},
		"endless frame": {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0},
	} {
		b := newBench(t)
		c := b.connect()
		other := b.connect()
		b.say(c, frame)
		b.want(0, agentproto.TypeClientDisconnected)
		b.want(c.start, agentproto.TypePing)
		if _, err := c.in.Next(); err == nil {
			t.Errorf("%s: the client is still connected", name)
		}
		b.say(other, agentproto.Append(nil, other.start, agentproto.TypePing, nil))
		b.want(other.start, agentproto.TypePing)
	}
}

func TestRelayPassesShutdown(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	b.say(c, agentproto.Append(nil, 0, agentproto.TypeShutdown, nil))
	b.want(0, agentproto.TypeShutdown)
	select {
	case <-b.asked:
	case <-time.After(10 * time.Second):
		t.Error("the runner was not told")
	}
}

func TestRelayHasSlotsForSoMany(t *testing.T) {
	b := newBench(t)
	for range agentproto.SlotCount {
		b.connect()
	}
	ours, relays := net.Pipe()
	defer ours.Close()
	b.r.serve(relays)
	_ = ours.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := ours.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one too many got %d bytes, %v", n, err)
	}
	if !b.r.busy() {
		t.Error("it says that nobody is there")
	}
}

// TestRelaySendsTheLastFrames has the agent end right after its last words, which every client must still get.
func TestRelaySendsTheLastFrames(t *testing.T) {
	b := newBench(t)
	c := b.connect()
	go func() {
		var frames []byte
		for i := range 40 {
			frames = agentproto.AppendData(frames, c.start, agentproto.TypeExecStdout, []byte{byte(i)})
		}
		frames = agentproto.Append(frames, c.start, agentproto.TypeExecExited, &agentproto.ExecExited{Code: 3})
		_, _ = b.agent.Write(frames)
		b.agent.Close()
	}()
	n := 0
	for {
		f, err := c.in.Next()
		if err != nil {
			t.Fatalf("after %d frames: %v", n, err)
		}
		n++
		if agentproto.TypeOf(f.Body()) == agentproto.TypeExecExited {
			break
		}
	}
	if n != 41 {
		t.Errorf("%d frames came, want 41", n)
	}
}
