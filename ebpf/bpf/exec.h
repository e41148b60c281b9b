/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Exec: the new program, its arguments from the new image's memory, and descriptors 0 to 2. */
#pragma once

#define ARGV_PIECE (TEXT_MAX - 1)
#define ARGV_PIECES (ARGV_MAX / TEXT_MAX)
#define PAGE_BYTES 4096

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

static __always_inline void fill_stdio_path(struct scratch *s, struct record_stdio *out, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	out->kind = STDIO_FILE;
	out->mode = BPF_CORE_READ(inode, i_mode);
	out->rdev = BPF_CORE_READ(inode, i_rdev);
	out->fs_magic = BPF_CORE_READ(inode, i_sb, s_magic);
	append_path((u64)&file->f_path, STDIO_TEXT_MAX);
}

static __always_inline void fill_stdio(struct scratch *s, struct record_stdio *out, struct task_struct *task, u32 fd)
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
		fill_stdio_path(s, out, file);
	}
}

/* The rest of the arguments, a piece a record. Stops at the first byte that cannot be read: nothing is made up. */
static __always_inline void send_more_arguments(struct task_struct *task, u64 cgroup_id, u64 from, u32 total)
{
	for (u32 piece = 1; piece <= ARGV_PIECES; piece++) {
		u32 offset = piece * ARGV_PIECE;
		if (offset >= total)
			return;
		struct scratch *s = begin(task, KIND_EXEC_MORE, sizeof(struct record_exec_more), cgroup_id);
		if (!s)
			return;
		struct record_exec_more *r = &s->record.exec_more;
		u32 len = total - offset < ARGV_PIECE ? total - offset : ARGV_PIECE;
		r->offset = offset;
		r->pad = 0;
		u32 got = append_user_bytes(s, from + offset, len);
		submit(s, KIND_EXEC_MORE);
		if (got < len)
			return;
	}
}

static __always_inline void send_exec(struct task_struct *task, struct linux_binprm *bprm, u64 cgroup_id)
{
	struct scratch *s = begin(task, KIND_EXEC, sizeof(struct record_exec), cgroup_id);
	if (!s)
		return;
	struct record_exec *r = &s->record.exec;
	struct file *file = BPF_CORE_READ(bprm, file);
	u64 arguments = BPF_CORE_READ(task, mm, arg_start);
	u32 total = BPF_CORE_READ(task, mm, arg_end) - arguments;
	u32 sent = total < ARGV_MAX ? total : ARGV_MAX;
	u32 first = sent < ARGV_PIECE ? sent : ARGV_PIECE;

	fill_identity(&r->identity, task);
	fill_file(&r->file, file);
	r->argv_bytes = total;
	if (sent < total)
		set_flag(s, FLAG_TRUNCATED);
	u32 got = append_user_bytes(s, arguments, first);
	if (got < first)
		sent = got;
	r->argv_sent = sent;
	append_path((u64)&file->f_path, TEXT_MAX);
	append_string(s, BPF_CORE_READ(bprm, filename), NAME_MAX_BYTES, false);
	append_string(s, BPF_CORE_READ(bprm, interp), NAME_MAX_BYTES, false);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	append_path((u64)&fs->pwd, TEXT_MAX);
	fill_stdio(s, &r->stdio[0], task, 0);
	fill_stdio(s, &r->stdio[1], task, 1);
	fill_stdio(s, &r->stdio[2], task, 2);
	submit(s, KIND_EXEC);
	send_more_arguments(task, cgroup_id, arguments, sent);
}
