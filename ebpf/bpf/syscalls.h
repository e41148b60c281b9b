/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The rows of calls.def as the programs use them, and which call a number means.
 * A number means nothing without its entry: 5 is fstat natively and open through the 32-bit one, and any 64-bit program may
 * use the latter (int $0x80). The kernel marks such calls in thread_info.status until the return to user mode.
 */
#pragma once

#define CALLS_MAX 128
#define NUMBERS_MAX 1024 /* a power of two; x32's own numbers begin at 512 */
#define NO (NUMBERS_MAX - 1) /* a number that no call has */
#define ARGUMENTS_MAX 6
#define X32_BIT 0x40000000
#define TS_COMPAT 2
#define ENOSYS 38
#define IA32_SOCKETCALL 102
#define IA32_OLD_MMAP 90

enum call {
	CALL_NONE,
#define CALL(name, ...) CALL_##name,
#define ALIAS(...)
#include "calls.def"
#undef CALL
	CALL_COUNT,
};
_Static_assert(CALL_COUNT <= CALLS_MAX, "a call's number is masked with CALLS_MAX - 1");
_Static_assert(COUNTED_CALLS + CALLS_MAX <= COUNTED_MAX, "each call has its counters");

/* How an argument is read. */
enum argument {
	ARG_NONE,
	ARG_SKIP,     /* not told */
	ARG_NUMBER,
	ARG_STRING,   /* a short text in user memory */
	ARG_PROGRAM,  /* a long one */
	ARG_FD,       /* the file or socket behind a descriptor */
	ARG_RETURNED, /* the same, of the descriptor that the call returned: no argument, behind them */
	ARG_DIRFD,    /* where the next ARG_PATH_AT starts from */
	ARG_PATH,
	ARG_PATH_AT,
	ARG_SOCKADDR, /* its length is the next argument */
	ARG_MSGHDR,   /* the address in it */
};

/* What else a call changes. */
enum effect {
	EFFECT_NONE,
	EFFECT_OPEN,     /* it has a record of its own: opens.h */
	EFFECT_NAMES,    /* files already seen may have other paths afterwards */
	EFFECT_REMOVAL,  /* the same where a folder is removed: unlinkat */
	EFFECT_IDENTITY, /* who the process is, or its namespaces */
	EFFECT_CWD,      /* its working directory */
	EFFECT_ROOT,     /* its root */
	EFFECT_CONNECT,  /* whom it tried to reach, where that shows in the socket no more */
};

/* Which calls are sent; `gate_value` has a meaning where one is named. */
enum gate {
	GATE_ANY,
	GATE_FAILED,           /* success is told by another hook */
	GATE_DONE,             /* not where there was nothing to do yet: EAGAIN, a signal */
	GATE_ALL_OF,           /* all bits of gate_value are in the argument */
	GATE_NOT,              /* the argument is another number than gate_value */
	GATE_SOCKET,           /* a family or type that ordinary programs seldom use */
	GATE_PRCTL,            /* an option that changes what the process may do, or its name */
	GATE_PTRACE,           /* a request that attaches or changes something */
	GATE_BPF,              /* a command that loads or attaches, or gets hold of what others have loaded */
	GATE_SIGNAL,           /* a signal for another process */
	GATE_STDIO,            /* one of descriptors 0 to 2 is a socket from now on */
	GATE_STDIO_FCNTL,
	GATE_CAPABILITY_XATTR, /* the argument names the attribute that holds a file's capabilities */
	GATE_PEER,             /* the first to this peer through this socket; the argument has the address */
};

struct call_row {
	u8 arguments[ARGUMENTS_MAX]; /* enum argument */
	u8 mode, class, gate, gate_argument, effect; /* enums of the same names */
	u32 gate_value;
};

#define GATE_ARGUMENT(name, argument, value) .gate = GATE_##name, .gate_argument = argument, .gate_value = value
#define OPENS_ANY GATE_ARGUMENT(ANY, 0, 0)
#define OPENS_FAILED GATE_ARGUMENT(FAILED, 0, 0)
#define OPENS_DONE GATE_ARGUMENT(DONE, 0, 0)
#define OPENS_ALL_OF(argument, bits) GATE_ARGUMENT(ALL_OF, argument, bits)
#define OPENS_NOT(argument, number) GATE_ARGUMENT(NOT, argument, number)
#define OPENS_SOCKET GATE_ARGUMENT(SOCKET, 0, 0)
#define OPENS_PRCTL GATE_ARGUMENT(PRCTL, 0, 0)
#define OPENS_PTRACE GATE_ARGUMENT(PTRACE, 0, 0)
#define OPENS_BPF GATE_ARGUMENT(BPF, 0, 0)
#define OPENS_SIGNAL(argument) GATE_ARGUMENT(SIGNAL, argument, 0)
#define OPENS_STDIO GATE_ARGUMENT(STDIO, 0, 0)
#define OPENS_STDIO_FCNTL GATE_ARGUMENT(STDIO_FCNTL, 0, 0)
#define OPENS_CAPABILITY_XATTR(argument) GATE_ARGUMENT(CAPABILITY_XATTR, argument, 0)
#define OPENS_PEER(argument) GATE_ARGUMENT(PEER, argument, 0)

/* Types of arguments in calls.def; how a number is to be written is user space's business. */
#define SKIP(name) ARG_SKIP,
#define INT(name) ARG_NUMBER,
#define SIZE(name) ARG_NUMBER,
#define ID(name) ARG_NUMBER,
#define MODE(name) ARG_NUMBER,
#define DEV(name) ARG_NUMBER,
#define PTR(name) ARG_NUMBER,
#define FLAGS(name, names) ARG_NUMBER,
#define ENUM(name, names) ARG_NUMBER,
#define STRING(name) ARG_STRING,
#define TARGET(name) ARG_PROGRAM,
#define PROGRAM(name) ARG_PROGRAM,
#define FD(name) ARG_FD,
#define RETURNED(name) ARG_RETURNED,
#define DIRFD(name) ARG_DIRFD,
#define PATH(name) ARG_PATH,
#define PATH_AT(name) ARG_PATH_AT,
#define SOCKADDR(name) ARG_SOCKADDR,
#define MSGHDR(name) ARG_MSGHDR,

static const struct call_row rows[CALLS_MAX] = {
#define CALL(name, x86, ia32, arm64, category, least_mode, its_class, its_gate, its_effect, its_arguments) \
	[CALL_##name] = {                                                                                   \
		.arguments = {its_arguments},                                                               \
		.mode = MODE_##least_mode,                                                                  \
		.class = CLASS_##its_class,                                                                 \
		.effect = EFFECT_##its_effect,                                                              \
		OPENS_##its_gate,                                                                           \
	},
#include "calls.def"
#undef CALL
};
#undef ALIAS

/* Calls that the configuration switches off, by number; what the programs note of them (names) they note all the same. */
volatile const u8 switched_off[CALLS_MAX] = {};

/* Numbers that mean the same natively and for x32, which adds its own from 512 on. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Winitializer-overrides" /* NO, several times */
#if defined(__TARGET_ARCH_x86)
#define NATIVE(name, x86, ia32, arm64, ...) [x86] = CALL_##name,
#elif defined(__TARGET_ARCH_arm64)
#define NATIVE(name, x86, ia32, arm64, ...) [arm64] = CALL_##name,
#endif
static const u8 native_calls[NUMBERS_MAX] = {
#define CALL(...) NATIVE(__VA_ARGS__)
#define ALIAS(...) NATIVE(__VA_ARGS__)
#include "calls.def"
#undef CALL
#undef ALIAS
	[NO] = CALL_NONE,
};
static const u8 ia32_calls[NUMBERS_MAX] = {
#define CALL(name, x86, ia32, ...) [ia32] = CALL_##name,
#define ALIAS(name, x86, ia32, ...) [ia32] = CALL_##name,
#include "calls.def"
#undef CALL
#undef ALIAS
	[IA32_SOCKETCALL] = CALL_connect, /* or another, see unfold_socketcall */
	[IA32_OLD_MMAP] = CALL_mmap,
	[NO] = CALL_NONE,
};
#pragma clang diagnostic pop

struct syscall {
	u32 call; /* enum call */
	u32 flags; /* FLAG_IA32, FLAG_X32 */
	s64 ret;
	u64 args[ARGUMENTS_MAX];
};

static __always_inline const struct call_row *row_of(u32 call)
{
	asm volatile("" : "+r"(call));
	return &rows[call & (CALLS_MAX - 1)];
}

static __always_inline void take_arguments(struct syscall *out, struct pt_regs *regs)
{
#if HAS_IA32
	if (out->flags & FLAG_IA32) {
		out->args[0] = (u32)regs->bx;
		out->args[1] = (u32)regs->cx;
		out->args[2] = (u32)regs->dx;
		out->args[3] = (u32)regs->si;
		out->args[4] = (u32)regs->di;
		out->args[5] = (u32)regs->bp;
		return;
	}
#endif
	out->args[0] = regs->ARGUMENT_0;
	out->args[1] = regs->ARGUMENT_1;
	out->args[2] = regs->ARGUMENT_2;
	out->args[3] = regs->ARGUMENT_3;
	out->args[4] = regs->ARGUMENT_4;
	out->args[5] = regs->ARGUMENT_5;
}

#if HAS_IA32
/* Arguments that older 32-bit programs hand over in memory. */
static __always_inline bool take_from_memory(struct syscall *out, u64 address, u32 bytes)
{
	u32 inner[ARGUMENTS_MAX] = {};
	if (bpf_probe_read_user(inner, bytes, (void *)address))
		return false;
	for (u32 i = 0; i < ARGUMENTS_MAX; i++)
		out->args[i] = inner[i];
	return true;
}

/* socketcall(which, arguments) is how older 32-bit programs use sockets. */
static __always_inline bool unfold_socketcall(struct syscall *out)
{
	u32 bytes = 3 * sizeof(u32);
	switch (out->args[0]) {
	case 1:
		out->call = CALL_socket;
		break;
	case 2:
		out->call = CALL_bind;
		break;
	case 3:
		out->call = CALL_connect;
		break;
	case 4:
		out->call = CALL_listen;
		bytes = 2 * sizeof(u32);
		break;
	case 5:
		out->call = CALL_accept;
		break;
	case 11:
		out->call = CALL_sendto;
		bytes = 6 * sizeof(u32);
		break;
	case 16:
		out->call = CALL_sendmsg;
		break;
	case 18:
		out->call = CALL_accept4;
		bytes = 4 * sizeof(u32);
		break;
	case 20:
		out->call = CALL_sendmmsg;
		bytes = 4 * sizeof(u32);
		break;
	default:
		return false;
	}
	return take_from_memory(out, out->args[1], bytes);
}

static __always_inline bool came_through_ia32(struct task_struct *task)
{
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}
#endif

/* The call that a number and its entry mean, without its arguments; CALL_NONE, as soon as can be known, for what does not matter. */
static __always_inline u32 call_of(u64 number, u32 *flags)
{
	u32 index = number & ~X32_BIT;
	*flags = 0;
	if (index >= NUMBERS_MAX)
		return CALL_NONE;
	asm volatile("" : "+r"(index)); /* or the compiler drops the mask and the verifier the bound */
	index &= NUMBERS_MAX - 1;
#if HAS_IA32
	if (!(native_calls[index] | ia32_calls[index]))
		return CALL_NONE;
	if (came_through_ia32(current_task())) {
		*flags = FLAG_IA32;
		return ia32_calls[index];
	}
	if (number & X32_BIT)
		*flags = FLAG_X32;
#endif
	return native_calls[index];
}

/* This runs at every system call of the machine: false, as soon as can be known, for those that do not matter. */
static __always_inline bool recognise(struct syscall *out, struct pt_regs *regs, s64 ret)
{
	u32 number = regs->CALL_NUMBER;
	out->call = call_of(number, &out->flags);
	if (out->call == CALL_NONE)
		return false;
	out->ret = out->flags & FLAG_IA32 ? (s32)ret : ret;
	if (out->flags == FLAG_X32 && ret == -ENOSYS) /* a kernel without x32 */
		return false;
	take_arguments(out, regs);
#if HAS_IA32
	if (out->flags & FLAG_IA32 && number == IA32_SOCKETCALL)
		return unfold_socketcall(out);
	if (out->flags & FLAG_IA32 && number == IA32_OLD_MMAP)
		return take_from_memory(out, out->args[0], sizeof(u32) * ARGUMENTS_MAX);
#endif
	return true;
}
