/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Opens: which of them are sent, and what of them. */
#pragma once

#define FMODE_READ 1
#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
#define AT_FDCWD -100
#define REPEAT_NS (3600ull * 1000000000)

struct open_how {
	u64 flags, mode;
};

/*
 * Reads already sent. The dentry and the mount are part of the key: a file's hard link or bind mount under a harmless name
 * must not hide a later read under its sensitive one.
 */
struct seen_key {
	u64 cgroup_id, ino, dentry, mount;
	u32 dev, access;
};
struct seen {
	u64 at_ns;
	u64 sensitive;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct seen_key);
	__type(value, struct seen);
} seen SEC(".maps");

struct open_request {
	u32 call; /* enum open_call */
	s32 dirfd;
	u64 raw; /* the path in user memory */
	u64 flags, mode;
};

static __always_inline void take_request(struct open_request *out, struct syscall *call)
{
	struct open_how how = {};
	out->dirfd = AT_FDCWD;
	switch (call->call) {
	case CALL_OPEN:
		*out = (struct open_request){OPEN_OPEN, AT_FDCWD, call->args[0], (u32)call->args[1], (u32)call->args[2]};
		break;
	case CALL_OPENAT:
		*out = (struct open_request){OPEN_OPENAT, call->args[0], call->args[1], (u32)call->args[2], (u32)call->args[3]};
		break;
	case CALL_OPENAT2:
		bpf_probe_read_user(&how, sizeof how, (void *)call->args[2]);
		*out = (struct open_request){OPEN_OPENAT2, call->args[0], call->args[1], how.flags, how.mode};
		break;
	default:
		*out = (struct open_request){OPEN_CREAT, AT_FDCWD, call->args[0], O_CREAT | O_TRUNC | 1, (u32)call->args[1]};
	}
}

/* openat2's flags lie in user memory, where another thread may have changed them: the file knows how it was opened. */
static __always_inline void correct_access(struct open_request *request, struct file *file)
{
	request->flags = (request->flags & ~(u64)O_ACCMODE) | (BPF_CORE_READ(file, f_flags) & O_ACCMODE);
}

static __always_inline bool wants_to_write(struct open_request *request)
{
	return request->flags & (O_ACCMODE | O_CREAT | O_TRUNC);
}

/* Walks the path. True when a successful read is to be sent: sensitive, or not seen within the hour. */
static __always_inline bool admit_read(struct scratch *s, struct file *file, u64 cgroup_id, u64 now)
{
	struct path *path = &file->f_path;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct seen_key key = {
		.cgroup_id = cgroup_id,
		.ino = BPF_CORE_READ(inode, i_ino),
		.dentry = (u64)dentry,
		.mount = (u64)BPF_CORE_READ(path, mnt),
		.dev = BPF_CORE_READ(inode, i_sb, s_dev),
		.access = BPF_CORE_READ(file, f_mode) & (FMODE_READ | FMODE_WRITE | FMODE_PATH),
	};
	struct seen *before = bpf_map_lookup_elem(&seen, &key);
	if (before && !before->sensitive && now - before->at_ns < REPEAT_NS)
		return false;
	walk(path);
	struct seen value = {
		.at_ns = now,
		.sensitive = name_is_sensitive((u64)path) || walked_is_in(&sensitive_reads, s),
	};
	bpf_map_update_elem(&seen, &key, &value, BPF_ANY);
	return true;
}

/* Walks the path. True when the open is to be sent at this mode; otherwise it is counted. */
static __always_inline bool admit_open(struct scratch *s, struct open_request *request, struct file *file, int mode, u64 cgroup_id)
{
	if (!file)
		return true;
	if (mode == MODE_LIFECYCLE) {
		walk(&file->f_path);
		if (walked_is_in(&host_writes, s))
			return true;
		count_filtered(FILTERED_LIFECYCLE);
		return false;
	}
	if (mode == MODE_NORMAL && !wants_to_write(request)) {
		if (admit_read(s, file, cgroup_id, header_of(s)->boot_ns))
			return true;
		count_filtered(FILTERED_REPEATED_OPEN);
		return false;
	}
	walk(&file->f_path);
	return true;
}

/* The directory a relative path starts from. */
static __always_inline void append_base(struct scratch *s, struct task_struct *task, s32 dirfd)
{
	if (dirfd == AT_FDCWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);
		append_path((u64)&fs->pwd, TEXT_MAX);
		return;
	}
	struct file *directory = file_of(task, dirfd);
	if (directory)
		append_path((u64)&directory->f_path, TEXT_MAX);
	else
		append_empty(s);
}

static __always_inline void send_open(struct task_struct *task, struct syscall *call, int mode, u64 cgroup_id)
{
	struct open_request request;
	take_request(&request, call);
	/* No file after a success: another thread has closed the descriptor already. That is sent, unresolved. */
	struct file *file = call->ret >= 0 ? file_of(task, call->ret) : 0;
	if (file)
		correct_access(&request, file);
	if (mode == MODE_LIFECYCLE && (call->ret < 0 || !wants_to_write(&request))) {
		count_filtered(FILTERED_LIFECYCLE);
		return;
	}
	struct scratch *s = begin(task, KIND_OPEN, sizeof(struct record_open), cgroup_id);
	if (!s || !admit_open(s, &request, file, mode, cgroup_id))
		return;
	struct record_open *r = &s->record.open;
	r->header.ret = call->ret;
	r->header.flags |= call->flags;
	__builtin_memset(&r->file, 0, sizeof r->file);
	r->open_flags = request.flags;
	r->mode = request.mode;
	r->mnt_ns = mount_namespace_of(task);
	r->call = request.call;
	r->pad = 0;
	if (file) {
		fill_file(&r->file, file);
		append_walked(s, TEXT_MAX);
	} else {
		set_flag(s, FLAG_UNRESOLVED);
		append_empty(s);
	}
	u32 raw = text_start(s);
	append_string(s, (void *)request.raw, TEXT_MAX, true);
	if (!file && *text_at(s, raw) != '/')
		append_base(s, task, request.dirfd);
	else
		append_empty(s);
	submit(s, KIND_OPEN);
}
