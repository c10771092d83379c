package agentproto

// Type is the name of a message on the wire.
type Type string

// The messages of contract msb-0.6 §4.2.
const (
	TypeReady              Type = "core.ready"
	TypeInitResolved       Type = "core.init.resolved"
	TypeInitAck            Type = "core.init.ack"
	TypeBootstrap          Type = "core.bootstrap"
	TypeShutdown           Type = "core.shutdown"
	TypeClientDisconnected Type = "core.relay.client.disconnected"
	TypeClockSync          Type = "core.clock.sync"
	TypePing               Type = "core.ping"
	TypePong               Type = "core.pong"
	TypeTouch              Type = "core.touch"
	TypeTouched            Type = "core.touched"
	TypeError              Type = "core.error"

	TypeExecRequest    Type = "core.exec.request"
	TypeExecStarted    Type = "core.exec.started"
	TypeExecStdin      Type = "core.exec.stdin"
	TypeExecStdinError Type = "core.exec.stdin.error"
	TypeExecStdout     Type = "core.exec.stdout"
	TypeExecStderr     Type = "core.exec.stderr"
	TypeExecExited     Type = "core.exec.exited"
	TypeExecFailed     Type = "core.exec.failed"
	TypeExecResize     Type = "core.exec.resize"
	TypeExecSignal     Type = "core.exec.signal"

	TypeFSRequest  Type = "core.fs.request"
	TypeFSResponse Type = "core.fs.response"
	TypeFSData     Type = "core.fs.data"

	TypeTCPConnect   Type = "core.tcp.connect"
	TypeTCPConnected Type = "core.tcp.connected"
	TypeTCPData      Type = "core.tcp.data"
	TypeTCPEOF       Type = "core.tcp.eof"
	TypeTCPClose     Type = "core.tcp.close"
	TypeTCPClosed    Type = "core.tcp.closed"
	TypeTCPFailed    Type = "core.tcp.failed"
)

// The messages of our own. An agent announces them in core.ready (Ready.Types); a peer that does not is not sent them.
const (
	// TypeFiles carries a tar stream after core.bootstrap, in chunks of at most MaxFilesChunk; an empty one ends it.
	TypeFiles Type = "x.msb.files"
	// TypeAck says how many bytes of a session's data were consumed since the last one. Only sessions whose opening
	// request set a Window send and expect it.
	TypeAck Type = "x.msb.ack"
	// TypeCancel says that the client has no more interest in a session. The agent drops it and does not answer.
	TypeCancel Type = "x.msb.cancel"

	// Files that fit into one frame; see FSPut and FSGet.
	TypeFSPut Type = "x.msb.fs.put"
	TypeFSGet Type = "x.msb.fs.get"
	TypeFSGot Type = "x.msb.fs.got"

	// Code interpreters that live in the guest; see KernelRun.
	TypeKernelRun      Type = "x.msb.kernel.run"
	TypeKernelStarted  Type = "x.msb.kernel.started"
	TypeKernelStdout   Type = "x.msb.kernel.stdout"
	TypeKernelStderr   Type = "x.msb.kernel.stderr"
	TypeKernelResult   Type = "x.msb.kernel.result"
	TypeKernelDone     Type = "x.msb.kernel.done"
	TypeKernelRequest  Type = "x.msb.kernel.request"
	TypeKernelResponse Type = "x.msb.kernel.response"
	TypeKernelFailed   Type = "x.msb.kernel.failed"
)

// MaxFilesChunk is the most data that one x.msb.files frame carries, in bytes.
const MaxFilesChunk = 1 << 20

// TypeInfo says what a type asks of a frame.
type TypeInfo struct {
	Type   Type
	MinGen uint8 // the first generation that has it
	Flags  Flags // the flags byte, exactly
}

var types = [...]TypeInfo{
	{TypeExecStdout, 1, 0},
	{TypeExecStderr, 1, 0},
	{TypeExecStdin, 1, 0},
	{TypeAck, 7, 0},
	{TypeFSData, 2, 0},
	{TypeTCPData, 4, 0},
	{TypeExecRequest, 1, SessionStart},
	{TypeExecStarted, 1, 0},
	{TypeExecExited, 1, Terminal},
	{TypeExecFailed, 1, Terminal},
	{TypeExecStdinError, 1, 0},
	{TypeExecResize, 1, 0},
	{TypeExecSignal, 1, 0},
	{TypeFSRequest, 2, SessionStart},
	{TypeFSResponse, 2, Terminal},
	{TypeTCPConnect, 4, SessionStart},
	{TypeTCPConnected, 4, 0},
	{TypeTCPEOF, 4, 0},
	{TypeTCPClose, 4, 0},
	{TypeTCPClosed, 4, Terminal},
	{TypeTCPFailed, 4, Terminal},
	{TypeReady, 1, 0},
	{TypeInitResolved, 1, 0},
	{TypeInitAck, 1, 0},
	{TypeBootstrap, 7, 0},
	{TypeShutdown, 1, Shutdown},
	{TypeClientDisconnected, 1, 0},
	{TypeClockSync, 1, 0},
	{TypePing, 6, 0},
	{TypePong, 6, Terminal},
	{TypeTouch, 6, 0},
	{TypeTouched, 6, Terminal},
	{TypeError, 5, Terminal},
	{TypeFiles, 7, 0},
	{TypeCancel, 7, 0},
	{TypeFSPut, 7, SessionStart},
	{TypeFSGet, 7, SessionStart},
	{TypeFSGot, 7, Terminal},
	{TypeKernelRun, 7, SessionStart},
	{TypeKernelStarted, 7, 0},
	{TypeKernelStdout, 7, 0},
	{TypeKernelStderr, 7, 0},
	{TypeKernelResult, 7, 0},
	{TypeKernelDone, 7, Terminal},
	{TypeKernelRequest, 7, SessionStart},
	{TypeKernelResponse, 7, Terminal},
	{TypeKernelFailed, 7, Terminal},
}

// Lookup returns what is known about a type; ok is false for one that nobody has heard of.
func Lookup(t Type) (info TypeInfo, ok bool) {
	for i := range types {
		if types[i].Type == t {
			return types[i], true
		}
	}
	return TypeInfo{Type: t}, false
}

// intern returns the Type spelled by b, without allocating when it is a known one.
func intern(b []byte) Type {
	for i := range types {
		if string(types[i].Type) == string(b) {
			return types[i].Type
		}
	}
	return Type(b)
}

// flagsOf returns the flags of a known type, 0 for others.
func flagsOf(t Type) Flags {
	info, _ := Lookup(t)
	return info.Flags
}

// MaxFiles is the most that the tar behind a bootstrap may take, in bytes.
const MaxFiles = 1 << 30

// FilesOp says what an entry of that tar is to do, beyond being there afterwards, whatever was there before. It is the
// value of the PAX record FilesOpRecord.
type FilesOp string

// FilesOpRecord is the name of the record.
const FilesOpRecord = "MSB.op"

// The operations: to fail if there is something, to be appended to what is there, to remove what is there, to be trusted as
// a file of certificates.
const (
	FilesNew    FilesOp = "new"
	FilesAppend FilesOp = "append"
	FilesRemove FilesOp = "remove"
	FilesTrust  FilesOp = "trust"
)
