// Package agentproto is the language that the agent in the guest, the relay beside it and their clients speak:
// generation 7 of the agent protocol (contract msb-0.6 §4). A [Reader] yields frames, [Open] looks into one, [Decode]
// reads its payload; [Append] and [DataBuffer] write frames.
//
// Nothing here trusts its input: lengths, nesting and counts are bounded, and what is not understood is an error, never
// a panic. There is no reflection and no package initialisation, because the agent's first answer waits for both.
//
// To add a message: 1. its Type and its row in types.go, 2. a struct with a fields method that names its keys in wire
// order, 3. a golden line in golden_test.go.
package agentproto

import "errors"

// Generation is the protocol generation that we speak and that every frame of ours carries.
const Generation = 7

// Frame sizes in bytes. The length field counts the id, the flags and the body.
const (
	MinLength = 5
	MaxLength = 4 << 20
	// HeaderLen is the length field, the id and the flags.
	HeaderLen = 4 + MinLength
	// MaxBody is the longest body of a frame.
	MaxBody = MaxLength - MinLength
	// MaxData is the most data that a frame of file content carries (contract msb-0.6 §4.2).
	MaxData = 3 << 20
)

// A relay gives each of its clients one of SlotCount slots, and with it a range of SlotStep ids (contract msb-0.6 §4.3).
const (
	SlotCount = 128
	SlotStep  = (1<<32 - 1) / SlotCount
)

// IDRange returns the ids of a slot: start is its first, end the first beyond it.
func IDRange(slot int) (start, end uint32) {
	start = uint32(slot)*SlotStep + 1
	return start, uint32(slot)*SlotStep + SlotStep
}

// SlotOf returns the slot that an id other than 0 belongs to; it may be SlotCount for ids that no slot has.
func SlotOf(id uint32) int { return int(id / SlotStep) }

// Flags are the bits of a frame that a relay may act on without decoding it.
type Flags uint8

// The flags of a frame. Terminal is the last frame of its session, SessionStart the first.
const (
	Terminal     Flags = 1
	SessionStart Flags = 2
	Shutdown     Flags = 4
)

// What can be wrong with a frame.
var (
	ErrLength    = errors.New("agent frame length out of bounds")
	ErrMalformed = errors.New("malformed agent message")
)
