//go:build linux

#include "textflag.h"

// func run(clone *cloneArgs, calls *call) (pid, errno uintptr)
//
// The child shares the parent's memory and stack, so it must not touch the stack: all it has is in registers.
TEXT ·run(SB), NOSPLIT|NOFRAME, $0-32
	MOVQ clone+0(FP), DI
	MOVQ calls+8(FP), R12
	MOVQ $88, SI           // the size of cloneArgs
	MOVQ $435, AX          // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ  child
	CMPQ AX, $0xfffffffffffff001
	JCC  refused
	MOVQ AX, pid+16(FP)
	MOVQ $0, errno+24(FP)
	RET

refused:
	NEGQ AX
	MOVQ $0, pid+16(FP)
	MOVQ AX, errno+24(FP)
	RET

child:
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ $0, R8
	MOVQ $0, R9
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JCC  failed
	ADDQ $48, R12
	JMP  child

failed:
	NEGQ AX
	MOVQ AX, 40(R12)

exit:
	MOVQ $60, AX
	MOVQ $253, DI
	SYSCALL
	JMP  exit
