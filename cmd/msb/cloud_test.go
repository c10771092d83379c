package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/backend/remote"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/rest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// cloud is a server of a backend, which can be started again at its address.
type cloud struct {
	t    *testing.T
	from *local.Backend
	addr string
	stop func()

	keys  *server.Keys // nil asks for none
	token string
}

// key is one for all namespaces; "" where none is asked for.
func (c *cloud) key() string {
	c.t.Helper()
	if c.keys != nil && c.token == "" {
		var err error
		if c.token, _, err = c.keys.Make(server.AllNamespaces, time.Hour); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.token
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, from: newLocal(t), addr: "127.0.0.1:0"}
	c.start()
	t.Cleanup(func() {
		c.stop()
		if err := c.from.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		infos, err := c.from.List(context.Background(), sandbox.DefaultNamespace)
		if err != nil {
			t.Error(err)
		}
		for _, i := range infos {
			if err := c.from.Remove(context.Background(), i.Ref, true); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *cloud) start() {
	c.t.Helper()
	s := server.New(server.Config{Backend: c.from, Keys: c.keys, HostImage: true})
	s.Mount(rest.New(s).Routes()...)
	ctx, cancel := context.WithCancel(context.Background())
	l, err := s.Listen(ctx, c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
}

func (c *cloud) client() *remote.Backend {
	b := remote.New(remote.Config{URL: "http://" + c.addr, Key: c.key()})
	c.t.Cleanup(func() { _ = b.Close() })
	return b
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func made(t *testing.T, b backend.Backend, name string, prepare bool, labels map[string]string) sandbox.Ref {
	t.Helper()
	ref := sandbox.DefaultRef(name)
	spec := sandbox.Spec{Name: ref.Name, Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: sandbox.HostImage}}, Labels: labels}
	spec.Resources.MemoryMiB = 256
	if _, err := b.Create(within(t), backend.CreateRequest{Ref: ref, Spec: spec, Prepare: prepare}); err != nil {
		t.Fatal(err)
	}
	return ref
}

func dialled(t *testing.T, b backend.Backend, ref sandbox.Ref) *agentclient.Client {
	t.Helper()
	conn, err := b.Dial(within(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	c, err := agentclient.Connect(within(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runOver runs a script over a connection of its own.
func runOver(ctx context.Context, b backend.Backend, ref sandbox.Ref, script string) (string, error) {
	conn, err := b.Dial(ctx, ref)
	if err != nil {
		return "", err
	}
	c, err := agentclient.Connect(ctx, conn)
	if err != nil {
		return "", err
	}
	defer c.Close()
	var out bytes.Buffer
	x, err := c.Exec(ctx, agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", script}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	if err != nil {
		return "", err
	}
	code, err := x.Wait()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	return out.String(), err
}

// TestCloudManyPipes has a hundred connections to one agent at once.
func TestCloudManyPipes(t *testing.T) {
	needSandboxes(t)
	b := newCloud(t).client()
	ref := made(t, b, "pipes", false, nil)
	const n = 100
	clients := make([]*agentclient.Client, n)
	for i := range clients {
		clients[i] = dialled(t, b, ref)
		defer clients[i].Close()
	}
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() {
			var out bytes.Buffer
			x, err := c.Exec(within(t), agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", fmt.Sprintf("echo %d; cat", i)}, Stdin: strings.NewReader(strings.Repeat("x", 10_000)), Stdout: &out, Stderr: &out})
			if err != nil {
				t.Error(err)
				return
			}
			if code, err := x.Wait(); code != 0 || err != nil || out.String() != fmt.Sprintf("%d\n", i)+strings.Repeat("x", 10_000) {
				t.Errorf("pipe %d: exit code %d, %v, %d bytes", i, code, err, out.Len())
			}
		})
	}
	all.Wait()
}

// TestCloudDroppedPipe drops a connection: what runs over it is killed, and nothing else.
func TestCloudDroppedPipe(t *testing.T) {
	needSandboxes(t)
	b := newCloud(t).client()
	ref := made(t, b, "dropped", false, nil)
	conn, err := b.Dial(within(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	doomed, err := agentclient.Connect(within(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	stays := dialled(t, b, ref)
	defer stays.Close()
	start := func(c *agentclient.Client, name string) {
		t.Helper()
		x, err := c.Exec(within(t), agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", "echo $$ >/tmp/" + name + ".new; mv /tmp/" + name + ".new /tmp/" + name + "; exec sleep 600"}, Stdout: io.Discard, Stderr: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = x.Wait() }()
	}
	start(doomed, "doomed")
	start(stays, "stays")
	const both = "until test -e /tmp/doomed && test -e /tmp/stays; do sleep 0.05; done; kill -0 $(cat /tmp/doomed) && kill -0 $(cat /tmp/stays)"
	if _, err := runOver(within(t), b, ref, both); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close() // without a word, as clients do
	if _, err := runOver(within(t), b, ref, "while kill -0 $(cat /tmp/doomed) 2>/dev/null; do sleep 0.05; done; kill -0 $(cat /tmp/stays)"); err != nil {
		t.Errorf("after the drop: %v", err)
	}
	_ = doomed.Close()
}

// TestCloudLogsOverARestart follows a log while the server ends and another takes its place: nothing is lost, nothing comes twice.
func TestCloudLogsOverARestart(t *testing.T) {
	needSandboxes(t)
	c := newCloud(t)
	b := c.client()
	ref := made(t, b, "logs", false, nil)
	lines := func(from, to int) {
		t.Helper()
		if _, err := runOver(within(t), c.from, ref, fmt.Sprintf("for i in $(seq %d %d); do echo line $i; done", from, to)); err != nil {
			t.Fatal(err)
		}
	}
	lines(1, 100)
	stream, err := b.OpenLogs(within(t), ref, sandbox.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var have strings.Builder
	until := func(text string) {
		t.Helper()
		for !strings.Contains(have.String(), text) {
			e, err := stream.Next()
			if err != nil {
				t.Fatalf("%v, after %d bytes", err, have.Len())
			}
			have.Write(e.Data)
		}
	}
	for round := range 3 {
		until(fmt.Sprintf("line %d\n", 100*(round+1)))
		c.stop()
		lines(100*(round+1)+1, 100*(round+1)+50) // while nobody serves
		c.start()
		lines(100*(round+1)+51, 100*(round+2))
	}
	if err := b.Stop(within(t), ref, backend.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		e, err := stream.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		have.Write(e.Data)
	}
	var want strings.Builder
	for i := range 400 {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	if have.String() != want.String() {
		t.Errorf("the log has %d bytes, want %d:\n%s", have.Len(), want.Len(), have.String())
	}
}

// TestCloudPages lists 500 sandboxes, page by page and by label.
func TestCloudPages(t *testing.T) {
	needSandboxes(t)
	c := newCloud(t)
	b := c.client()
	const n = 500
	for i := range n {
		made(t, b, fmt.Sprintf("p%03d", i), true, map[string]string{"even": fmt.Sprint(i%2 == 0)})
	}
	infos, err := b.List(within(t), sandbox.DefaultNamespace)
	if err != nil || len(infos) != n {
		t.Fatalf("%d are listed, %v", len(infos), err)
	}
	for i, info := range infos {
		if want := sandbox.Name(fmt.Sprintf("p%03d", n-1-i)); info.Ref.Name != want || info.Status != sandbox.Created {
			t.Fatalf("at place %d is %s, %s; want %s", i, info.Ref.Name, info.Status, want)
		}
	}
	seen, cursor := 0, ""
	for pages := 0; ; pages++ {
		resp, err := http.Get("http://" + c.addr + "/v1/sandboxes?limit=33&labels=%7B%22even%22%3A%22true%22%7D&cursor=" + cursor)
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Data       []struct{ Name string }
			NextCursor *string `json:"next_cursor"`
			HasMore    bool    `json:"has_more"`
		}
		decode(t, resp, &page)
		seen += len(page.Data)
		if page.HasMore != (page.NextCursor != nil) || pages > n {
			t.Fatalf("page %d: has_more is %v", pages, page.HasMore)
		}
		if !page.HasMore {
			break
		}
		cursor = *page.NextCursor
	}
	if seen != n/2 {
		t.Errorf("%d have the label, want %d", seen, n/2)
	}
}

func decode(t *testing.T, resp *http.Response, into any) {
	t.Helper()
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v: %s", resp.Status, err, data)
	}
}
