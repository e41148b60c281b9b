/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Exec: the new program, its arguments from the new image's memory, and descriptors 0 to 2. */
#pragma once

#define ARGV_PIECE (TEXT_MAX - 1)
#define ARGV_PIECES (ARGV_MAX / TEXT_MAX)
#define PAGE_BYTES 4096
#define ENV_HEAD 1024    /* bytes of its environment, where that is all it may have */
#define ARGV_HEAD 1024   /* bytes of arguments that every exec has, and that cost its container nothing */
#define FIRST_FURTHER_FD 3
#define SHORT_TEXT 256   /* bytes of each path of an exec whose container has used up its share of texts */

/* Appends `len` bytes of user memory, or as many of them as the first of the two pages they may span holds. */
static __always_inline u32 append_user_bytes(struct scratch *s, u64 from, u32 len)
{
	u32 start = text_start(s);
	u8 *to = text_at(s, start);
	asm volatile("" : "+r"(len));
	len &= TEXT_MAX - 1;
	if (bpf_probe_read_user(to, len, (void *)from)) {
		u32 on_first_page = PAGE_BYTES - (from & (PAGE_BYTES - 1));
		set_flag(s, FLAG_FAULT);
		if (len > on_first_page)
			len = on_first_page;
		asm volatile("" : "+r"(len));
		len &= TEXT_MAX - 1;
		if (bpf_probe_read_user(to, len, (void *)from))
			len = 0;
	}
	end_text(s, start, len);
	return len;
}

static __always_inline void fill_stdio_path(struct scratch *s, struct record_stdio *out, struct file *file, u32 max)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	out->kind = STDIO_FILE;
	out->mode = BPF_CORE_READ(inode, i_mode);
	out->rdev = BPF_CORE_READ(inode, i_rdev);
	out->fs_magic = BPF_CORE_READ(inode, i_sb, s_magic);
	append_path((u64)&file->f_path, max);
}

static __always_inline void fill_stdio(struct scratch *s, struct record_stdio *out, struct task_struct *task, u32 fd, u32 max)
{
	struct file *file = file_of(task, fd);
	__builtin_memset(out, 0, sizeof *out);
	if (!file) {
		append_empty(s);
	} else if (is_socket(file)) {
		struct sock *sk = sock_of(file);
		out->kind = STDIO_SOCKET;
		fill_socket(&out->socket, sk);
		append_unix_name(s, sk, out->socket.family);
	} else {
		fill_stdio_path(s, out, file, max);
	}
}

/*
 * Counts the sockets among descriptors 3 to 63, those of the first word of the table of open ones, and tells the first that is
 * connected over the internet: who is left with a connection may be talked to through it. Global, so that it is verified once.
 */
__attribute__((noinline)) int fill_sockets(void)
{
	struct scratch *s = scratch();
	if (!s)
		return -1;
	struct task_struct *task = current_task();
	struct record_exec *r = &s->record.exec;
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	unsigned long open = 0;
	bpf_probe_read_kernel(&open, sizeof open, BPF_CORE_READ(table, open_fds));
	__builtin_memset(&r->socket, 0, sizeof r->socket);
	r->sockets = 0;
	r->pad = 0;
#pragma clang loop unroll(disable)
	for (u32 fd = FIRST_FURTHER_FD; fd < 64; fd++) {
		if (!(open >> fd & 1))
			continue;
		struct file *file = file_of(task, fd);
		if (!is_socket(file))
			continue;
		r->sockets++;
		if (!r->socket.remote_port)
			fill_socket(&r->socket, sock_of(file));
	}
	return 0;
}

/* The rest of the arguments, a piece a record. Stops at the first byte that cannot be read: nothing is made up. */
static __always_inline void send_more_arguments(struct subject *who, u64 from, u32 total)
{
	for (u32 piece = 1; piece <= ARGV_PIECES; piece++) {
		u32 offset = piece * ARGV_PIECE;
		if (offset >= total)
			return;
		struct scratch *s = begin(KIND_EXEC_MORE, CALL_NONE, sizeof(struct record_exec_more));
		if (!s)
			return;
		fill_header(s, who, 0, 0);
		struct record_exec_more *r = &s->record.exec_more;
		u32 len = total - offset < ARGV_PIECE ? total - offset : ARGV_PIECE;
		r->offset = offset;
		r->pad = 0;
		u32 got = append_user_bytes(s, from + offset, len);
		submit(s);
		if (got < len)
			return;
	}
}

/* Appends the paths and descriptors, each path at most `path_max` bytes long. */
static __always_inline void append_exec_paths(struct scratch *s, struct task_struct *task, struct linux_binprm *bprm, bool whole)
{
	struct record_exec *r = &s->record.exec;
	struct file *file = BPF_CORE_READ(bprm, file);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	u32 path_max = whole ? TEXT_MAX : SHORT_TEXT, name_max = whole ? NAME_MAX_BYTES : SHORT_TEXT;
	u32 stdio_max = whole ? STDIO_TEXT_MAX : SHORT_TEXT;
	append_path((u64)&file->f_path, path_max);
	append_string(s, BPF_CORE_READ(bprm, filename), name_max, false);
	append_string(s, BPF_CORE_READ(bprm, interp), name_max, false);
	append_path((u64)&fs->pwd, path_max);
	fill_stdio(s, &r->stdio[0], task, 0, stdio_max);
	fill_stdio(s, &r->stdio[1], task, 1, stdio_max);
	fill_stdio(s, &r->stdio[2], task, 2, stdio_max);
}

/* Appends the environment's first bytes; which variables are told is user space's business. */
static __always_inline void append_environment(struct scratch *s, struct task_struct *task, bool whole)
{
	u64 from = BPF_CORE_READ(task, mm, env_start);
	u32 total = BPF_CORE_READ(task, mm, env_end) - from, most = whole ? TEXT_MAX - 1 : ENV_HEAD;
	s->record.exec.env_bytes = total;
	append_user_bytes(s, from, total < most ? total : most);
}

/* What of an exec's record and its arguments goes beyond what every exec may have. */
static __always_inline u32 long_texts(u32 record_bytes, u32 arguments_beyond)
{
	u32 bytes = record_bytes + arguments_beyond, free = sizeof(struct record_exec) + 2 * ARGV_HEAD;
	return bytes > free ? bytes - free : 0;
}

/* By which call it was executed, as far as it shows: an execveat that names no folder is like an execve. */
static __always_inline u32 exec_call_of(struct linux_binprm *bprm)
{
	if (bpf_core_field_exists(bprm->fdpath) && BPF_CORE_READ(bprm, fdpath))
		return CALL_execveat;
	return CALL_execve;
}

static __always_inline void send_exec(struct subject *who, struct linux_binprm *bprm)
{
	u64 now = bpf_ktime_get_boot_ns();
	if (!within_share(who->share, KIND_EXEC, CLASS_EXEC, now))
		return;
	struct scratch *s = begin(KIND_EXEC, exec_call_of(bprm), sizeof(struct record_exec));
	if (!s)
		return;
	struct record_exec *r = &s->record.exec;
	struct share *share = share_of(who->share);
	bool whole = may_send_texts(share, now);
	struct task_struct *task = who->task;
	u64 arguments = BPF_CORE_READ(task, mm, arg_start);
	u32 total = BPF_CORE_READ(task, mm, arg_end) - arguments;
	u32 most = whole ? ARGV_MAX : ARGV_HEAD;
	u32 sent = total < most ? total : most;
	u32 first = sent < ARGV_PIECE ? sent : ARGV_PIECE;

	fill_header(s, who, 0, 0);
	fill_identity(&r->identity, who->task);
	struct inode *inode = BPF_CORE_READ(bprm, file, f_inode);
	copy_inode(s, inode);
	fill_file(s, &r->file, inode);
	r->argv_bytes = total;
	r->argc = BPF_CORE_READ(bprm, argc);
	fill_sockets();
	if (sent < total)
		set_flag(s, FLAG_TRUNCATED);
	u32 got = append_user_bytes(s, arguments, first);
	if (got < first)
		sent = got;
	r->argv_sent = sent;
	append_exec_paths(s, who->task, bprm, whole);
	pay_for_texts(share, now, long_texts(s->used, sent - got));
	append_environment(s, task, whole);
	submit(s);
	send_more_arguments(who, arguments, sent);
}
