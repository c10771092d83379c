package agentclient_test

import (
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestExec(t *testing.T) {
	b := agentproto.Bootstrap{DefaultEnv: []agentproto.EnvVar{{Key: "A", Value: "1"}, {Key: "B", Value: "2"}}}
	eachPlace(t, b, func(t *testing.T, g *guest) {
		out, errs, code := g.output(t, agentclient.ExecRequest{Cmd: "sh", Args: []string{"-c", "echo $A $B $PATH; pwd; echo no >&2; exit 7"}, Env: []string{"B=3"}})
		want := "1 3 /.msb/scripts:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/\n"
		if out != want || errs != "no\n" || code != 7 {
			t.Errorf("have %q, %q, %d", out, errs, code)
		}
	})
}
