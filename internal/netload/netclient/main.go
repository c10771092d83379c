// Command netclient is what runs in the sandbox, and beside it, when the network is measured: it moves bytes or opens
// connections, and prints how many nanoseconds that took, or is the server and prints where it listens.
//
//	netclient down|up|connect ADDRESS AMOUNT FLOWS
//	netclient loopback - AMOUNT 1	(connections to itself: what is left of connect without the network)
//	netclient serve
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/netload"
)

const usage = "usage: netclient down|up|connect|loopback ADDRESS AMOUNT FLOWS | netclient serve"

func main() {
	log.SetFlags(0)
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		l := listen()
		fmt.Println(l.Addr())
		netload.Serve(l)
		return
	}
	if len(os.Args) != 5 {
		log.Fatal(usage)
	}
	how, to := os.Args[1], os.Args[2]
	amount, aerr := strconv.Atoi(os.Args[3])
	flows, ferr := strconv.Atoi(os.Args[4])
	if aerr != nil || ferr != nil || amount < 1 || flows < 1 {
		log.Fatal("AMOUNT and FLOWS are numbers")
	}
	took, err := measure(how, to, amount, flows)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(took.Nanoseconds())
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return l
}

func measure(how, to string, amount, flows int) (time.Duration, error) {
	if how == "loopback" {
		l := listen()
		defer l.Close()
		go netload.Serve(l)
		to = l.Addr().String()
	}
	at, err := net.ResolveTCPAddr("tcp", to) // once: the resolver is not what is measured
	if err != nil {
		return 0, err
	}
	dial := func() (netload.Conn, error) { return net.DialTCP("tcp", nil, at) }
	switch how {
	case "connect", "loopback":
		return netload.Connect(dial, amount)
	case "down", "up":
		begin := time.Now()
		errs := make(chan error, flows)
		var all sync.WaitGroup
		for range flows {
			all.Go(func() { errs <- netload.Transfer(dial, how[0], amount/flows) })
		}
		all.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return 0, err
			}
		}
		return time.Since(begin), nil
	}
	return 0, fmt.Errorf("%s", usage)
}
