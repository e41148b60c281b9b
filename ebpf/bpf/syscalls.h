/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Which system calls matter, by number and entry, and where their arguments are.
 * A number means nothing without its entry: 5 is fstat natively and open through the 32-bit one, and any 64-bit program may
 * use the latter (int $0x80). The kernel marks such calls in thread_info.status until the return to user mode.
 */
#pragma once

enum call {
	CALL_NONE,
	CALL_OPEN,
	CALL_OPENAT,
	CALL_OPENAT2,
	CALL_CREAT,
	CALL_CONNECT,
	CALL_SOCKETCALL,
	CALL_EXECVE,
	CALL_EXECVEAT,
	CALL_SETNS,
	CALL_UNSHARE,
	CALL_REMOVE, /* unlinkat: of a folder */
	CALL_MOVE,   /* gives files paths they did not have */
};

#define NUMBERS_MAX 1024 /* a power of two; x32's own numbers begin at 512 */
#define X32_BIT 0x40000000
#define TS_COMPAT 2
#define ENOSYS 38
#define SOCKETCALL_CONNECT 3

/* Also right for x32, which shares these numbers and adds its own for the two execs. */
static const u8 native_calls[NUMBERS_MAX] = {
	[2] = CALL_OPEN, [85] = CALL_CREAT, [257] = CALL_OPENAT, [437] = CALL_OPENAT2,
	[42] = CALL_CONNECT,
	[59] = CALL_EXECVE, [322] = CALL_EXECVEAT, [520] = CALL_EXECVE, [545] = CALL_EXECVEAT,
	[272] = CALL_UNSHARE, [308] = CALL_SETNS,
	[82] = CALL_MOVE, [264] = CALL_MOVE, [316] = CALL_MOVE, /* rename, renameat, renameat2 */
	[165] = CALL_MOVE, [166] = CALL_MOVE, [429] = CALL_MOVE, [155] = CALL_MOVE, /* mount, umount2, move_mount, pivot_root */
	[84] = CALL_MOVE, [263] = CALL_REMOVE, /* rmdir, unlinkat */
};

static const u8 ia32_calls[NUMBERS_MAX] = {
	[5] = CALL_OPEN, [8] = CALL_CREAT, [295] = CALL_OPENAT, [437] = CALL_OPENAT2,
	[362] = CALL_CONNECT, [102] = CALL_SOCKETCALL,
	[11] = CALL_EXECVE, [358] = CALL_EXECVEAT,
	[310] = CALL_UNSHARE, [346] = CALL_SETNS,
	[38] = CALL_MOVE, [302] = CALL_MOVE, [353] = CALL_MOVE, /* rename, renameat, renameat2 */
	[21] = CALL_MOVE, [22] = CALL_MOVE, [52] = CALL_MOVE, [429] = CALL_MOVE, [217] = CALL_MOVE, /* umount is 22 here */
	[40] = CALL_MOVE, [301] = CALL_REMOVE, /* rmdir, unlinkat */
};

struct syscall {
	enum call call;
	u16 flags; /* FLAG_IA32, FLAG_X32 */
	s64 ret;
	u64 args[4];
};

static __always_inline bool came_through_ia32(struct task_struct *task)
{
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

static __always_inline void take_arguments(struct syscall *out, struct pt_regs *regs)
{
	if (out->flags & FLAG_IA32) {
		out->args[0] = (u32)regs->bx;
		out->args[1] = (u32)regs->cx;
		out->args[2] = (u32)regs->dx;
		out->args[3] = (u32)regs->si;
	} else {
		out->args[0] = regs->di;
		out->args[1] = regs->si;
		out->args[2] = regs->dx;
		out->args[3] = regs->r10;
	}
}

/* socketcall(SYS_CONNECT, [fd, address, length]) is how older 32-bit programs connect. */
static __always_inline bool unfold_socketcall(struct syscall *out)
{
	u32 inner[3];
	if (out->args[0] != SOCKETCALL_CONNECT || bpf_probe_read_user(inner, sizeof inner, (void *)out->args[1]))
		return false;
	out->call = CALL_CONNECT;
	out->args[0] = inner[0];
	out->args[1] = inner[1];
	out->args[2] = inner[2];
	return true;
}

/* False, as soon as can be known, for the calls that do not matter: this runs at every system call of the machine. */
static __always_inline bool recognise(struct syscall *out, struct pt_regs *regs, s64 ret)
{
	u32 number = regs->orig_ax;
	u32 index = number & ~X32_BIT;
	if (index >= NUMBERS_MAX)
		return false;
	asm volatile("" : "+r"(index)); /* or the compiler drops the mask and the verifier the bound */
	index &= NUMBERS_MAX - 1;
	if (!(native_calls[index] | ia32_calls[index]))
		return false;
	out->flags = 0;
	if (came_through_ia32(current_task()))
		out->flags = FLAG_IA32;
	else if (number & X32_BIT)
		out->flags = FLAG_X32;
	out->call = out->flags & FLAG_IA32 ? ia32_calls[index] : native_calls[index];
	out->ret = out->flags & FLAG_IA32 ? (s32)ret : ret;
	if (out->call == CALL_NONE || (out->flags == FLAG_X32 && ret == -ENOSYS)) /* a kernel without x32 */
		return false;
	take_arguments(out, regs);
	return out->call != CALL_SOCKETCALL || unfold_socketcall(out);
}
