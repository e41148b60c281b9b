/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Opens: which of them are sent, and what of them. */
#pragma once

#define FMODE_CREATED 0x100000 /* the same on every kernel since 4.19 */

static __always_inline void take_request(struct open_request *out, struct syscall *call)
{
	struct open_how how = {};
	out->dirfd = AT_FDCWD;
	switch (call->call) {
	case CALL_open:
		*out = (struct open_request){AT_FDCWD, call->args[0], (u32)call->args[1], (u32)call->args[2]};
		break;
	case CALL_openat:
		*out = (struct open_request){call->args[0], call->args[1], (u32)call->args[2], (u32)call->args[3]};
		break;
	case CALL_openat2:
		bpf_probe_read_user(&how, sizeof how, (void *)call->args[2]);
		*out = (struct open_request){call->args[0], call->args[1], how.flags, how.mode};
		break;
	default:
		*out = (struct open_request){AT_FDCWD, call->args[0], O_CREAT | O_TRUNC | 1, (u32)call->args[1]};
	}
}

/* openat2's flags lie in user memory, where another thread may have changed them: the file knows how it was opened. */
static __always_inline void correct_access(struct open_request *request, struct scratch *s, struct file *file)
{
	request->flags = (request->flags & ~(u64)O_ACCMODE) | (COPIED(file, f_flags) & O_ACCMODE);
}

static __always_inline bool wants_to_write(struct open_request *request)
{
	return request->flags & (O_ACCMODE | O_CREAT | O_TRUNC);
}

/* Where an absolute path starts from. */
static __always_inline struct path *root_of(struct task_struct *task)
{
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	return &fs->root;
}

/* The directory a relative path starts from. */
static __always_inline struct path *base_of(struct task_struct *task, s32 dirfd)
{
	if (dirfd == AT_FDCWD) {
		struct fs_struct *fs = BPF_CORE_READ(task, fs);
		return &fs->pwd;
	}
	struct file *directory = file_of(task, dirfd);
	return directory ? &directory->f_path : 0;
}

/* Of a file whose path is walked. The list of paths comes last: it leaves the path behind for `hash_walked`. */
static __always_inline bool is_sensitive(struct scratch *s, struct file *file)
{
	return name_is_sensitive((u64)&file->f_path) || walked_is_in(&sensitive_reads, s);
}

enum judgement { ORDINARY, SENSITIVE, NOT_JUDGED };

/* Beyond the share of calls there is a small one for what matters: a flood of opens does not hide the one it is made for. */
static __always_inline bool within_open_share(struct scratch *s, struct subject *who, struct file *file, enum judgement judgement)
{
	u64 now = header_of(s)->boot_ns;
	if (pays(who->share, CLASS_CALL, now))
		return true;
	if (judgement == NOT_JUDGED && (is_sensitive(s, file) || walked_is_in(&host_writes, s)))
		judgement = SENSITIVE;
	if (judgement == SENSITIVE && pays(who->share, CLASS_SENSITIVE, now))
		return true;
	count_limited(who->share, counted_as(KIND_OPEN, header_of(s)->call), now);
	return false;
}

static __always_inline void fill_open(struct scratch *s, struct open_request *request, u32 mnt_ns)
{
	struct record_open *r = &s->record.open;
	r->open_flags = request->flags;
	r->mode = request->mode;
	r->mnt_ns = mnt_ns;
}

/* The open failed, or another thread has closed its descriptor already: what user memory says of it. */
static __always_inline void send_unresolved_open(struct scratch *s, struct subject *who, struct syscall *call, struct open_request *request)
{
	struct record_open *r = &s->record.open;
	u64 now = header_of(s)->boot_ns;
	struct path *base = 0;
	set_flag(s, FLAG_UNRESOLVED);
	append_empty(s);
	u32 raw = text_start(s);
	append_string(s, (void *)request->raw, TEXT_MAX, true);
	if (*text_at(s, raw) != '/')
		base = base_of(who->task, request->dirfd);
	r->fold = 0;
	if (who->mode == MODE_NORMAL && folds(call->ret) &&
	    is_repeated_failure(s, who->share, hash_failure(s, who, call, request, base, raw), now)) {
		count_filtered(FILTERED_FOLDED_OPEN);
		return abandon(s);
	}
	if (!within_share(who->share, counted_as(KIND_OPEN, call->call), CLASS_CALL, now))
		return abandon(s);
	if (r->fold)
		count_repeats(s, who->share, r->fold, now);
	fill_header(s, who, call->ret, call->flags);
	fill_open(s, request, mount_namespace_of(who->task));
	__builtin_memset(&r->file, 0, sizeof r->file);
	r->on_mount = 0;
	r->below_mount = 0;
	if (base)
		append_path((u64)base, TEXT_MAX);
	else
		append_empty(s);
	append_empty(s);
	pay_for_bytes(who->share, CLASS_CALL, now, s->used);
	submit(s);
}

/* The path is walked, the inode copied. */
static __always_inline void send_file(struct scratch *s, struct subject *who, struct syscall *call, struct open_request *request,
				      struct file *file, struct inode *inode)
{
	struct record_open *r = &s->record.open;
	fill_header(s, who, call->ret, call->flags);
	fill_open(s, request, mount_namespace_of_file((u64)COPIED(file, f_path.mnt)));
	r->fold = 0;
	fill_file(s, &r->file, inode);
	r->on_mount = s->mount_start != ON_NO_MOUNT;
	r->below_mount = r->on_mount ? TEXT_MAX - s->mount_start : 0;
	append_walked(s, TEXT_MAX);
	append_string(s, (void *)request->raw, TEXT_MAX, true);
	append_empty(s);
	append_mount_root(s);
	pay_for_bytes(who->share, CLASS_CALL, header_of(s)->boot_ns, s->used);
	submit(s);
}

/*
 * Walks the path of a read, unless it was sent within the hour and no path has changed since. True when it is to be sent:
 * the file is sensitive, or the program has not read it under this path within the hour.
 */
static __always_inline bool judge_read(struct scratch *s, struct seen_key *key, struct seen *value, struct file *file, bool *sensitive)
{
	struct seen *before = bpf_map_lookup_elem(&seen, key);
	bool fresh = before && value->at_ns - before->at_ns < REPEAT_NS;
	value->generation = names_generation;
	if (fresh && before->generation == value->generation)
		return false;
	walk_path((u64)COPIED(file, f_path.dentry), (u64)COPIED(file, f_path.mnt));
	*sensitive = is_sensitive(s, file);
	value->path = hash_walked(s);
	if (*sensitive || !fresh || !value->path || before->path != value->path)
		return true;
	before->generation = value->generation;
	return false;
}

/* A read at normal: the first of its program within the hour, and every one of a sensitive file. */
static __always_inline void send_read(struct scratch *s, struct subject *who, struct syscall *call, struct open_request *request,
				      struct file *file, struct inode *inode)
{
	struct seen_key *key = (void *)s->seen_key;
	struct seen *value = (void *)s->seen;
	bool sensitive = false;
	_Static_assert(sizeof *key == sizeof s->seen_key && sizeof *value == sizeof s->seen, "they fill their room");
	fill_seen_key(key, s, who, file, inode);
	value->at_ns = header_of(s)->boot_ns;
	if (!judge_read(s, key, value, file, &sensitive)) {
		count_filtered(FILTERED_REPEATED_OPEN);
		return abandon(s);
	}
	if (!within_open_share(s, who, file, sensitive ? SENSITIVE : ORDINARY))
		return abandon(s);
	if (!sensitive)
		bpf_map_update_elem(&seen, key, value, BPF_ANY);
	send_file(s, who, call, request, file, inode);
}

/* Every other open of a file: all of them, at lifecycle those for writing below the host's paths. */
static __always_inline void send_other_open(struct scratch *s, struct subject *who, struct syscall *call, struct open_request *request,
					    struct file *file, struct inode *inode)
{
	walk_path((u64)COPIED(file, f_path.dentry), (u64)COPIED(file, f_path.mnt));
	if (who->mode == MODE_LIFECYCLE && !walked_is_in(&host_writes, s)) {
		count_filtered(FILTERED_LIFECYCLE);
		return abandon(s);
	}
	if (!within_open_share(s, who, file, NOT_JUDGED))
		return abandon(s);
	send_file(s, who, call, request, file, inode);
}

static __always_inline void judge_open(struct subject *who, struct syscall *call)
{
	struct open_request request;
	take_request(&request, call);
	struct file *file = call->ret >= 0 ? file_of(who->task, call->ret) : 0;
	struct scratch *s = begin(KIND_OPEN, call->call, sizeof(struct record_open));
	if (!s)
		return;
	if (file) {
		copy_file(s, file);
		correct_access(&request, s, file);
		if (COPIED(file, f_mode) & FMODE_CREATED)
			set_flag(s, FLAG_CREATED);
	}
	if (who->mode == MODE_LIFECYCLE && (call->ret < 0 || !wants_to_write(&request))) {
		count_filtered(FILTERED_LIFECYCLE);
		return abandon(s);
	}
	if (!file)
		return send_unresolved_open(s, who, call, &request);
	struct inode *inode = COPIED(file, f_inode);
	copy_inode(s, inode);
	if (who->mode == MODE_NORMAL && !wants_to_write(&request))
		send_read(s, who, call, &request, file, inode);
	else
		send_other_open(s, who, call, &request, file, inode);
}

/* A function of its own, so that what it keeps on the stack is not there while other calls are told: the kernel allows 512 bytes. */
static __attribute__((noinline)) int send_open(struct subject *who, struct syscall *call)
{
	judge_open(who, call);
	return 0;
}
