/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Where each architecture has a system call's number and arguments. */
#pragma once

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#if defined(__TARGET_ARCH_x86)

struct pt_regs {
	unsigned long bp, bx, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
};
struct thread_info {
	u32 status;
};
#define REGISTERS_BYTES 168 /* of the kernel's whole struct, which lies at the end of a task's stack */
#define STACK_BYTES 16384
#define CALL_NUMBER orig_ax
#define ARGUMENT_0 di
#define ARGUMENT_1 si
#define ARGUMENT_2 dx
#define ARGUMENT_3 r10
#define ARGUMENT_4 r8
#define ARGUMENT_5 r9
#define HAS_IA32 1

#elif defined(__TARGET_ARCH_arm64)

/* The first argument's register holds the result by then; 32-bit programs are not seen. */
struct pt_regs {
	u64 regs[31];
	u64 orig_x0;
	s32 syscallno;
};
struct thread_info {
	unsigned long flags;
};
#define REGISTERS_BYTES 336
#define STACK_BYTES 16384
#define CALL_NUMBER syscallno
#define ARGUMENT_0 orig_x0
#define ARGUMENT_1 regs[1]
#define ARGUMENT_2 regs[2]
#define ARGUMENT_3 regs[3]
#define ARGUMENT_4 regs[4]
#define ARGUMENT_5 regs[5]
#define HAS_IA32 0

#else
#error "registers are known for x86-64 and arm64 only: add the architecture here and its numbers in calls.def"
#endif
#pragma clang attribute pop
