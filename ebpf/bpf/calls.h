/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* System calls: which of them are sent, and what of them; opens have a file of their own. */
#pragma once

#define EAGAIN 11
#define ERESTARTSYS 512 /* and above: the kernel begins again, or says EINTR */
#define AT_REMOVEDIR 0x200
#define STRING_MAX 256 /* bytes of a text that is no path, with its NUL */
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define PR_SET_NAME 15
#define PTRACE_SETREGSET 0x4205
#define PTRACE_SEIZE 0x4206
#define SOCK_TYPE_MASK 15
#define SOCK_RAW 3
#define SOCK_PACKET 10

/* AF_KEY, AF_NETLINK, AF_PACKET, AF_TIPC, AF_ALG, AF_VSOCK, AF_XDP */
#define UNUSUAL_FAMILIES (1ull << 15 | 1ull << 16 | 1ull << 17 | 1ull << 30 | 1ull << 38 | 1ull << 40 | 1ull << 44)
/* PR_SET_DUMPABLE, KEEPCAPS, NAME, SECCOMP, SECUREBITS, MM, CHILD_SUBREAPER, NO_NEW_PRIVS, PR_CAP_AMBIENT */
#define TELLING_PRCTLS \
	(1ull << 4 | 1ull << 8 | 1ull << 15 | 1ull << 22 | 1ull << 28 | 1ull << 35 | 1ull << 36 | 1ull << 38 | 1ull << 47)
/* PTRACE_TRACEME, POKETEXT, POKEDATA, POKEUSR, SETREGS, SETFPREGS, ATTACH */
#define TELLING_PTRACES (1ull << 0 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 13 | 1ull << 15 | 1ull << 16)

/*
 * BPF_PROG_LOAD, OBJ_PIN, OBJ_GET, PROG_ATTACH, PROG_DETACH, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, RAW_TRACEPOINT_OPEN,
 * LINK_CREATE, LINK_UPDATE, LINK_GET_FD_BY_ID, LINK_DETACH, TOKEN_CREATE. Whoever reads his maps does so all the time.
 */
#define TELLING_BPFS \
	(1ull << 5 | 1ull << 6 | 1ull << 7 | 1ull << 8 | 1ull << 9 | 1ull << 13 | 1ull << 14 | 1ull << 17 | 1ull << 28 | \
	 1ull << 29 | 1ull << 30 | 1ull << 34 | 1ull << 36)

static __always_inline bool is_in(u64 set, u64 number)
{
	return number < 64 && set >> (number & 63) & 1;
}

/* --- gates --- */

/* By now the descriptor is one of 0 to 2, and a socket. */
static __always_inline bool is_socket_on_stdio(s64 descriptor)
{
	return descriptor >= 0 && descriptor <= 2 && is_socket(file_of(current_task(), descriptor));
}

/* Global, so that its texts are not on the caller's stack. */
__attribute__((noinline)) int names_capabilities(u64 name)
{
	const char wanted[] = "security.capability";
	char found[sizeof wanted] = {};
	bpf_probe_read_user_str(found, sizeof found, (void *)name);
	for (u32 i = 0; i < sizeof wanted; i++)
		if (found[i] != wanted[i])
			return false;
	return true;
}

/* Signals between threads of one process are its own business; 0 only asks whether somebody is there. */
static __always_inline bool is_signal_for_others(s32 target, u32 signal)
{
	u32 own_thread = bpf_get_current_pid_tgid();
	return signal && (u32)target != (u32)innermost_pid(current_task()).nr && (u32)target != own_thread;
}

/* Whether the call is one of those that are sent; what is asked is the row's, see enum gate. */
static __always_inline bool is_gate_open(const struct call_row *row, struct syscall *call)
{
	u64 argument = row->gate_argument == 0 ? call->args[0] : row->gate_argument == 1 ? call->args[1] :
		       row->gate_argument == 2 ? call->args[2] : row->gate_argument == 3 ? call->args[3] : call->args[4];
	switch (row->gate) {
	case GATE_FAILED:
		return call->ret < 0;
	case GATE_DONE:
		return call->ret != -EAGAIN && call->ret > -ERESTARTSYS;
	case GATE_ALL_OF:
		return (argument & row->gate_value) == row->gate_value;
	case GATE_NOT:
		return (u32)argument != row->gate_value;
	case GATE_SOCKET: {
		u32 type = call->args[1] & SOCK_TYPE_MASK;
		return is_in(UNUSUAL_FAMILIES, (u32)call->args[0]) || type == SOCK_RAW || type == SOCK_PACKET;
	}
	case GATE_PRCTL: {
		u64 id = bpf_get_current_pid_tgid();
		if ((u32)call->args[0] == PR_SET_NAME && (u32)id != id >> 32)
			return false; /* the name of a thread */
		return is_in(TELLING_PRCTLS, (u32)call->args[0]);
	}
	case GATE_PTRACE: {
		u32 request = call->args[0];
		return is_in(TELLING_PTRACES, request) || request == PTRACE_SEIZE || request == PTRACE_SETREGSET;
	}
	case GATE_BPF:
		return is_in(TELLING_BPFS, (u32)call->args[0]);
	case GATE_SIGNAL:
		return is_signal_for_others(call->args[0], argument);
	case GATE_STDIO:
		return is_socket_on_stdio(call->ret);
	case GATE_STDIO_FCNTL: {
		u32 command = call->args[1];
		return (command == F_DUPFD || command == F_DUPFD_CLOEXEC) && is_socket_on_stdio(call->ret);
	}
	case GATE_CAPABILITY_XATTR:
		return names_capabilities(argument);
	case GATE_PEER: {
		u32 len;
		u64 address = call->call == CALL_sendto ? argument : address_of_message(argument, call->flags, &len);
		return call->ret != -EAGAIN && is_first_to_peer(call->args[0], address);
	}
	default:
		return true;
	}
}

/* --- values --- */

static __always_inline void append_tag(struct scratch *s, u32 place, u32 shape)
{
	u32 start = text_start(s);
	u8 *at = bytes_at(s, start);
	at[0] = place;
	at[1] = shape;
	s->used = start + 2;
}

static __always_inline void append_number(struct scratch *s, u64 number)
{
	u32 start = text_start(s);
	*(u64 *)bytes_at(s, start) = number;
	s->used = start + sizeof number;
}

/* The file or the socket that the descriptor is. */
static __always_inline void append_descriptor(struct scratch *s, u32 place, s64 descriptor)
{
	struct file *file = descriptor < 0 ? 0 : file_of(current_task(), descriptor);
	if (!file) {
		append_tag(s, place, VALUE_NUMBER);
		append_number(s, descriptor);
		return;
	}
	bool socket = is_socket(file);
	append_tag(s, place, socket ? VALUE_SOCKET : VALUE_FILE);
	append_number(s, descriptor);
	u32 start = text_start(s);
	if (socket) {
		struct record_socket *out = (void *)bytes_at(s, start);
		struct sock *sk = sock_of(file);
		__builtin_memset(out, 0, sizeof *out);
		fill_socket(out, sk);
		s->used = start + sizeof *out;
		append_unix_name(s, sk, BPF_CORE_READ(sk, __sk_common.skc_family));
	} else {
		struct inode *inode = BPF_CORE_READ(file, f_inode);
		copy_inode(s, inode);
		fill_file(s, (void *)bytes_at(s, start), inode);
		s->used = start + sizeof(struct record_file);
		append_path((u64)&file->f_path, TEXT_MAX);
	}
}

/* The path as given, and what it starts from: the folder, or the process's root where it has another one than its namespace. */
static __always_inline void append_given_path(struct scratch *s, u32 place, u64 path, s32 dirfd)
{
	struct task_struct *task = current_task();
	append_tag(s, place, VALUE_PATH);
	u32 start = text_start(s);
	append_string(s, (void *)path, TEXT_MAX, true);
	struct path *base = *text_at(s, start) == '/' ? root_of(task) : base_of(task, dirfd);
	if (base)
		append_path((u64)base, TEXT_MAX);
	else
		append_empty(s);
}

static __always_inline void append_address(struct scratch *s, u32 place, u64 address, u32 len)
{
	append_tag(s, place, VALUE_ADDRESS);
	u32 start = text_start(s);
	struct record_socket *out = (void *)bytes_at(s, start);
	__builtin_memset(out, 0, sizeof *out);
	s->used = start + sizeof *out;
	fill_asked(s, out, address, len);
}

/*
 * One argument; `next` is the one after it. Global, so that it is verified once and not for six places of many calls;
 * numbers, because such a function takes no pointers.
 */
__attribute__((noinline)) int append_argument(u32 place, u32 argument, u64 value, u64 next)
{
	struct scratch *s = scratch();
	if (!s)
		return -1;
	switch (argument) {
	case ARG_NUMBER:
		append_tag(s, place, VALUE_NUMBER);
		append_number(s, value);
		break;
	case ARG_STRING:
		append_tag(s, place, VALUE_STRING);
		append_string(s, (void *)value, STRING_MAX, true);
		break;
	case ARG_PROGRAM:
		append_tag(s, place, VALUE_STRING);
		append_string(s, (void *)value, TEXT_MAX, true);
		break;
	case ARG_FD:
	case ARG_RETURNED:
		append_descriptor(s, place, (s32)value);
		break;
	case ARG_DIRFD:
		s->dirfd = value;
		break;
	case ARG_PATH:
		append_given_path(s, place, value, AT_FDCWD);
		break;
	case ARG_PATH_AT:
		append_given_path(s, place, value, s->dirfd);
		break;
	case ARG_SOCKADDR:
		append_address(s, place, value, next);
		break;
	case ARG_MSGHDR: {
		u32 len = 0;
		u64 address = address_of_message(value, header_of(s)->flags, &len);
		append_address(s, place, address, len);
		break;
	}
	}
	return 0;
}

/* Where the kernel tried to connect to, if it did: the program's address may be another one by now. */
static __always_inline void append_tried_peer(struct scratch *s, u64 descriptor)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct tried_peer *tried = bpf_map_lookup_elem(&tried_peers, &thread);
	struct file *file = file_of(current_task(), descriptor);
	if (!tried)
		return;
	if (is_socket(file) && (u64)sock_of(file) == tried->sock) {
		append_tag(s, PLACE_PEER, VALUE_PEER);
		u32 start = text_start(s);
		*(struct record_socket *)bytes_at(s, start) = tried->socket;
		s->used = start + sizeof tried->socket;
		append_empty(s);
	}
	bpf_map_delete_elem(&tried_peers, &thread);
}

/* What the process is after the call, and whom it tried to reach. */
__attribute__((noinline)) int append_effect(u32 effect, u64 descriptor)
{
	struct scratch *s = scratch();
	struct task_struct *task = current_task();
	if (!s)
		return -1;
	if (effect == EFFECT_IDENTITY) {
		append_tag(s, PLACE_IDENTITY, VALUE_IDENTITY);
		u32 start = text_start(s);
		fill_identity((void *)bytes_at(s, start), task);
		s->used = start + sizeof(struct record_identity);
	} else if (effect == EFFECT_CWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);
		append_tag(s, PLACE_CWD, VALUE_STRING);
		append_path((u64)&fs->pwd, TEXT_MAX);
	} else if (effect == EFFECT_CONNECT) {
		append_tried_peer(s, descriptor);
	}
	return 0;
}

static __always_inline void send_call(struct subject *who, struct syscall *call, const struct call_row *row)
{
	u64 now = bpf_ktime_get_boot_ns();
	if (!within_share(who->share, counted_as(KIND_CALL, call->call), row->class, now))
		return;
	struct scratch *s = begin(KIND_CALL, call->call, sizeof(struct record_call));
	if (!s)
		return;
	fill_header(s, who, call->ret, call->flags);
	s->dirfd = AT_FDCWD;
#pragma unroll
	for (u32 i = 0; i < ARGUMENTS_MAX; i++) {
		u32 argument = row->arguments[i];
		if (argument > ARG_SKIP)
			append_argument(i, argument, argument == ARG_RETURNED ? (u64)call->ret : call->args[i],
					i < ARGUMENTS_MAX - 1 ? call->args[i + 1] : 0);
	}
	append_effect(row->effect, call->args[0]);
	pay_for_bytes(who->share, row->class, now, s->used);
	submit(s);
}

/* --- all of them --- */

/*
 * A renamed or removed folder, a mount: the paths of files already seen may have changed. The new name of a single file
 * shows in its dentry, but which of the two was renamed is not known here. chroot changes no path as `walk_path` sees it.
 */
static __always_inline void note_names(const struct call_row *row, struct syscall *call)
{
	bool changes = row->effect == EFFECT_NAMES || (row->effect == EFFECT_REMOVAL && call->args[2] & AT_REMOVEDIR);
	if (changes && call->ret == 0)
		__sync_fetch_and_add(&names_generation, 1);
}

static __always_inline void dispatch(struct syscall *call)
{
	const struct call_row *row = row_of(call->call);
	struct subject who;
	note_names(row, call); /* whoever does it, the host's own processes included */
	if (switched_off[call->call & (CALLS_MAX - 1)] || !is_gate_open(row, call) || !admit(&who, current_task()))
		return;
	if (who.mode < row->mode)
		return count_filtered(FILTERED_LIFECYCLE);
	if (row->effect == EFFECT_OPEN)
		send_open(&who, call);
	else
		send_call(&who, call, row);
}
