// Webservice runs an HTTP server in a sandbox that has no network, and talks to it all the same: from within.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"

	"github.com/microsandbox-go/microsandbox"
)

const server = `
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"served " + self.path.encode())
    def log_message(self, *args): pass
s = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(s.server_port, flush=True)
s.serve_forever()
`

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-webservice", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true),
		microsandbox.WithNetwork(microsandbox.NetworkPolicy.None()))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	ctx, cancel := context.WithCancel(ctx)
	cmd := sb.CommandContext(ctx, "python3", "-c", server)
	out, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	var port int
	if _, err := fmt.Fscan(bufio.NewReader(out), &port); err != nil {
		log.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: sb.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/hello", port))
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Body.Close()
	fmt.Printf("%s %v\n", body, err)
	cancel()
	_ = cmd.Wait()
}
