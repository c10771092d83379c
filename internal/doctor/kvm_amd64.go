package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of Linux's KVM interface (include/uapi/linux/kvm.h) that it takes to run one instruction.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84

	kvmAPIVersion = 12
	kvmExitHLT    = 5
	exitReasonAt  = 8 // in struct kvm_run

	regsSize, ripAt, rflagsAt = 144, 128, 136 // struct kvm_regs

	// struct kvm_sregs: cs and ss among the segments, then the control registers.
	sregsSize                       = 312
	csAt, dsAt, ssAt                = 0, 24, 120
	cr0At, cr3At, cr4At, eferAt     = 224, 240, 248, 264
	segmentSelectorAt, segmentEndAt = 12, 24
)

// The guest's memory. It runs in long mode with its first 2 MiB mapped onto themselves.
const (
	guestSize = 32 << 10
	codeAt    = 0x1000
	pml4At    = 0x2000
	pdptAt    = 0x3000
	pdAt      = 0x4000
	answerAt  = 0x5000
	answer    = 42
)

// guest counts ten million down, which takes a real machine some milliseconds and an emulated one seconds, answers and halts.
var guest = []byte{
	0x48, 0xc7, 0xc1, 0x80, 0x96, 0x98, 0x00, // mov rcx, 10000000
	0x48, 0xff, 0xc9, // dec rcx
	0x75, 0xfb, // jnz to the dec
	0x48, 0xc7, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00, answer, 0, 0, 0, // mov qword [answerAt], answer
	0xf4, // hlt
}

type memoryRegion struct {
	slot, flags           uint32
	guest, size, userAddr uint64
}

// tryKVM is the child of kvm: a small guest runs and halts.
func tryKVM() error {
	dev, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if v, err := ioctl(dev, kvmGetAPIVersion, nil); err != nil || v != kvmAPIVersion {
		return fmt.Errorf("its interface has version %d (%v)", v, err)
	}
	vm, err := ioctl(dev, kvmCreateVM, nil)
	if err != nil {
		return fmt.Errorf("make a machine: %w", err)
	}
	mem, err := unix.Mmap(-1, 0, guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	put := func(b []byte, at int, v uint64) { binary.NativeEndian.PutUint64(b[at:], v) }
	const present, large = 3, 0x80
	copy(mem[codeAt:], guest)
	put(mem, pml4At, pdptAt|present)
	put(mem, pdptAt, pdAt|present)
	put(mem, pdAt, large|present)
	region := memoryRegion{size: guestSize, userAddr: uint64(uintptr(unsafe.Pointer(&mem[0])))}
	if _, err := ioctl(vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return fmt.Errorf("give it memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, nil)
	if err != nil {
		return fmt.Errorf("give it a CPU: %w", err)
	}
	size, err := ioctl(dev, kvmGetVCPUMmapSize, nil)
	if err != nil {
		return err
	}
	run, err := unix.Mmap(cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	var sregs [sregsSize]byte
	if _, err := ioctl(cpu, kvmGetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("read its registers: %w", err)
	}
	setSegment(sregs[csAt:], 1<<3, 11, true)
	setSegment(sregs[dsAt:], 2<<3, 3, false)
	setSegment(sregs[ssAt:], 2<<3, 3, false)
	const protected, paging, extensions, pae, longMode = 1 << 0, 1 << 31, 1 << 4, 1 << 5, 1<<8 | 1<<10
	put(sregs[:], cr0At, protected|extensions|paging)
	put(sregs[:], cr3At, pml4At)
	put(sregs[:], cr4At, pae)
	put(sregs[:], eferAt, longMode)
	if _, err := ioctl(cpu, kvmSetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	var regs [regsSize]byte
	put(regs[:], ripAt, codeAt)
	put(regs[:], rflagsAt, 2)
	if _, err := ioctl(cpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	for {
		_, err := ioctl(cpu, kvmRun, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("run it: %w", err)
		}
		if reason := binary.NativeEndian.Uint32(run[exitReasonAt:]); reason != kvmExitHLT {
			return fmt.Errorf("it ended for reason %d instead of halting", reason)
		}
		if binary.NativeEndian.Uint64(mem[answerAt:]) != answer {
			return errors.New("it did not do what it was told")
		}
		return nil
	}
}

// setSegment makes a struct kvm_segment a flat one for code or data.
func setSegment(b []byte, selector uint16, kind byte, code bool) {
	clear(b[:segmentEndAt])
	binary.NativeEndian.PutUint32(b[8:], 0xffffffff)
	binary.NativeEndian.PutUint16(b[segmentSelectorAt:], selector)
	const present, system, long, big, pages = 15, 18, 19, 17, 20
	b[14], b[present], b[system], b[pages] = kind, 1, 1, 1
	if code {
		b[long] = 1
	} else {
		b[big] = 1
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
