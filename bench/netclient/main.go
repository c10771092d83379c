// Command netclient is what runs in the sandbox when the network is measured: it moves bytes or opens connections, and prints
// how long that took.
//
//	netclient down|up|connect ADDRESS AMOUNT FLOWS
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: netclient down|up|connect ADDRESS AMOUNT FLOWS")
	}
	how, to := os.Args[1], os.Args[2]
	amount, aerr := strconv.Atoi(os.Args[3])
	flows, ferr := strconv.Atoi(os.Args[4])
	if aerr != nil || ferr != nil {
		log.Fatal("AMOUNT and FLOWS are numbers")
	}
	if how == "connect" {
		fmt.Println(connect(to, amount).Nanoseconds())
		return
	}
	begin := time.Now()
	var all sync.WaitGroup
	for range flows {
		all.Go(func() { transfer(how, to, amount/flows) })
	}
	all.Wait()
	fmt.Println(time.Since(begin).Nanoseconds())
}

func dial(to, how string) net.Conn {
	c, err := net.Dial("tcp", to)
	if err == nil {
		_, err = io.WriteString(c, how)
	}
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func transfer(how, to string, amount int) {
	c := dial(to, how[:1])
	defer c.Close()
	buf := make([]byte, 256<<10)
	for moved := 0; moved < amount; {
		var n int
		var err error
		if how == "up" {
			n, err = c.Write(buf)
		} else {
			n, err = c.Read(buf)
		}
		if err != nil {
			log.Fatal(err)
		}
		moved += n
	}
	if how == "up" {
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadFull(c, buf[:1])
	}
}

// connect is the median of the times that a connection with a byte each way takes.
func connect(to string, times int) time.Duration {
	took := make([]time.Duration, times)
	for i := range took {
		begin := time.Now()
		c := dial(to, "e")
		_, _ = io.ReadFull(c, make([]byte, 1))
		took[i] = time.Since(begin)
		c.Close()
	}
	slices.Sort(took)
	return took[len(took)/2]
}
