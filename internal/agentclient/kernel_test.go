package agentclient_test

import (
	"testing"
	"fmt"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestSmoke(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		for _, x := range [][2]string{{"python", "x=1\nprint('hi', end='')\nx+1"}, {"python", "x+5"}, {"python", "1/0"}, {"python", "foo(1,"},{"python", "import sys; sys.exit(3)"},
			{"python","import asyncio\nawait asyncio.sleep(0.01)\n[1,2]"},
			{"node","const x=1; let y=[1,{a:2}]; y"},{"node","x+5"},{"node","function f(){\n\n  nope()\n}\nf()"},{"node","const z = await Promise.resolve(4); z+x"},{"node","z*2"},{"node","process.exit(4)"},{"node","foo(1,"},
			{"node","(await import('fs')).existsSync('/')"},{"node","{a:1}"},{"node","setTimeout(()=>process.exit(5),5); await new Promise(()=>{})"},{"node","x"},{"node", "console.error('e'); throw 5"},{"node","require('path').join('a','b')"},{"node","fs.existsSync('/')"},
			{"bash","cd /usr; x=5; declare z=4"},{"bash","echo $PWD $x $z; false"},{"bash","exit 7"},{"bash","echo x$x; echo 'a"},
		} {
			c, err := g.Client.Interpreter(x[0], "").Run(t.Context(), x[1], agentclient.CellOptions{})
			if err != nil { t.Fatal(err) }
			r, err := c.Collect()
			if err != nil { t.Fatal(err) }
			fmt.Printf("--- %q\n%+v fresh=%v n=%d\n out %q err %s text %q\n", x[1], r.KernelDone, r.Fresh, r.Number, r.Stdout(), r.Stderr(), r.Text())
			for _, o := range r.Outputs { if o.Result != nil { for _, f := range o.Result.Forms { fmt.Printf("   %s %q\n", f.MIME, f.Data)}}}
		}
		l, err := g.Client.Interpreters(t.Context())
		fmt.Println(l, err)
	})
}
