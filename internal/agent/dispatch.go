package agent

import (
	"errors"
	"fmt"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// dispatch acts on one frame. It does not wait for the host or for a command.
func (a *Agent) dispatch(f *agentproto.Frame) {
	id := f.ID
	m, err := agentproto.Open(f.Body())
	if err != nil {
		f.Release()
		a.refuse(id, agentproto.MalformedMessage, "", err.Error())
		return
	}
	info, known := agentproto.Lookup(m.Type)
	switch {
	case !known:
		a.refuse(id, agentproto.UnsupportedType, m.Type, fmt.Sprintf("unknown message type %q", m.Type))
	case f.Flags != info.Flags:
		a.refuse(id, agentproto.InvalidFlags, m.Type, fmt.Sprintf("flags %#02x, want %#02x", uint8(f.Flags), uint8(info.Flags)))
	case m.Gen < uint32(info.MinGen):
		a.refuse(id, agentproto.UnsupportedGeneration, m.Type, fmt.Sprintf("needs generation %d, the sender speaks %d", info.MinGen, m.Gen))
	default:
		a.out.count(m.Type)
		kept, err := a.handle(id, m, f)
		if err != nil {
			a.refuseErr(id, m.Type, err)
		}
		if kept {
			return
		}
	}
	f.Release()
}

func (a *Agent) refuse(id uint32, kind agentproto.ErrorKind, t agentproto.Type, message string) {
	a.out.reply(id, agentproto.TypeError, &agentproto.Error{Kind: kind, Message: message, OffendingType: string(t)})
}

func (a *Agent) refuseErr(id uint32, t agentproto.Type, err error) {
	var e *agentproto.Error
	if errors.As(err, &e) {
		a.refuse(id, e.Kind, t, e.Message)
		return
	}
	a.refuse(id, agentproto.InvalidPayload, t, err.Error())
}

// handle acts on a well-formed message. kept says that the frame now belongs to a session.
func (a *Agent) handle(id uint32, m agentproto.Message, f *agentproto.Frame) (kept bool, err error) {
	switch m.Type {
	case agentproto.TypeExecRequest:
		return false, a.exec(id, m.Payload)
	case agentproto.TypeFSRequest:
		return false, a.fs(id, m.Payload)
	case agentproto.TypeFSPut, agentproto.TypeFSGet:
		return false, a.small(id, m.Type, m.Payload)
	case agentproto.TypeTCPConnect:
		return false, a.tcp(id, m.Payload)
	case agentproto.TypeKernelRun:
		return false, a.runCell(id, m.Payload)
	case agentproto.TypeKernelRequest:
		return false, a.kernels.request(id, m.Payload)

	case agentproto.TypeExecStdin, agentproto.TypeExecResize, agentproto.TypeExecSignal, agentproto.TypeFSData,
		agentproto.TypeTCPData, agentproto.TypeTCPEOF, agentproto.TypeTCPClose, agentproto.TypeAck:
		s := a.session(id)
		if s == nil { // it is finished (contract msb-0.6 §4.5)
			return false, nil
		}
		return true, s.message(m.Type, m.Payload, f)

	case agentproto.TypeCancel:
		if s := a.session(id); s != nil {
			s.drop()
		}
	case agentproto.TypePing:
		a.out.reply(id, agentproto.TypePong, nil)
	case agentproto.TypeTouch:
		a.out.reply(id, agentproto.TypeTouched, &agentproto.Touched{ActivitySeq: a.activity.Load()})
	case agentproto.TypeBootstrap:
		if id != 0 { // only the runner speaks with it
			return false, &agentproto.Error{Kind: agentproto.UnsupportedType, Message: fmt.Sprintf("%s is not for clients", m.Type)}
		}
		var b agentproto.Bootstrap
		if err := agentproto.Decode(m.Payload, &b); err != nil {
			return false, err
		}
		a.redefine(&b)
	case agentproto.TypeClientDisconnected:
		var gone agentproto.ClientDisconnected
		if err := agentproto.Decode(m.Payload, &gone); err != nil {
			return false, err
		}
		a.drop(func(id uint32) bool { return gone.IDStart <= id && id < gone.IDEnd })
		a.handles.dropRange(gone.IDStart, gone.IDEnd)
	case agentproto.TypeClockSync, agentproto.TypeInitAck: // the clock is the host's; a second ack says nothing new
	case agentproto.TypeShutdown:
		a.shutdown()
	default:
		return false, &agentproto.Error{Kind: agentproto.UnsupportedType, Message: fmt.Sprintf("%s is not for an agent", m.Type)}
	}
	return false, nil
}
