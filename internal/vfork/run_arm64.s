//go:build linux

#include "textflag.h"

// func run(clone *cloneArgs, calls *call) (pid, errno uintptr)
//
// The child shares the parent's memory and stack, so it must not touch the stack: all it has is in registers.
TEXT ·run(SB), NOSPLIT|NOFRAME, $0-32
	MOVD clone+0(FP), R0
	MOVD calls+8(FP), R20
	MOVD $88, R1           // the size of cloneArgs
	MOVD $435, R8          // clone3
	SVC
	CBZ  R0, child
	CMN  $4095, R0
	BCS  refused
	MOVD R0, pid+16(FP)
	MOVD ZR, errno+24(FP)
	RET

refused:
	NEG  R0, R0
	MOVD ZR, pid+16(FP)
	MOVD R0, errno+24(FP)
	RET

child:
	MOVD 0(R20), R8
	MOVD 8(R20), R0
	MOVD 16(R20), R1
	MOVD 24(R20), R2
	MOVD 32(R20), R3
	MOVD $0, R4
	MOVD $0, R5
	SVC
	CMN  $4095, R0
	BCS  failed
	ADD  $48, R20
	B    child

failed:
	NEG  R0, R0
	MOVD R0, 40(R20)

exit:
	MOVD $93, R8
	MOVD $253, R0
	SVC
	B    exit
