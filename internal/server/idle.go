package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// idlers closes connections on which nobody asks anything when there are more than most in all, those first that have been silent
// longest: a client that opens many and leaves them must not keep others out.
type idlers struct {
	most int

	mu     sync.Mutex
	open   int
	silent list.List // of net.Conn, longest first
	at     map[net.Conn]*list.Element
}

// watch is for [http.Server.ConnState].
func (i *idlers) watch(c net.Conn, state http.ConnState) {
	if old := i.note(c, state); old != nil {
		if t, ok := old.(*tls.Conn); ok {
			old = t.NetConn() // it would write a farewell first
		}
		_ = old.Close()
	}
}

// note returns the connection that has to go, if one has.
func (i *idlers) note(c net.Conn, state http.ConnState) net.Conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e := i.at[c]; e != nil {
		i.silent.Remove(e)
		delete(i.at, c)
	}
	switch state {
	case http.StateNew, http.StateIdle:
		i.at[c] = i.silent.PushBack(c)
		if state == http.StateNew {
			i.open++
		}
	case http.StateClosed, http.StateHijacked:
		i.open--
	}
	first := i.silent.Front()
	if i.open <= i.most || first == nil || first.Value == c {
		return nil
	}
	i.silent.Remove(first)
	delete(i.at, first.Value.(net.Conn))
	return first.Value.(net.Conn)
}
