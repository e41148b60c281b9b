/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Who a process is, which cgroup it is in, and whether anything of it is captured. */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* By cgroup id. A cgroup that is not in here is captured at MODE_NORMAL and has a share of its own: a container's first event
 * comes before user space has heard of it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct cgroup_policy);
} modes SEC(".maps");

/* The map of modes had no room for a cgroup: from then on one that is not in it may be below a container's. */
volatile u32 modes_full = 0;

#define PF_EXITING 4
#define CGROUP_LEVELS_MAX 16 /* that are climbed to find a container's own cgroup */

/*
 * Modes that no map holds. Variables, so that no verifier knows their values: before Linux 6.8 it loses track of what it
 * knows of a variable on the stack where a function reads that through a pointer (`send_open`). It then takes the paths on
 * which the mode is another one for the same, never looks at them, and cuts the comparisons out of the program.
 */
volatile u32 mode_of_unlisted = MODE_NORMAL;
volatile u32 mode_of_canary = MODE_FULL;

/* The process that does something, and what may be sent of it. */
struct subject {
	struct task_struct *task;
	u64 cgroup_id;
	u64 share;
	int mode; /* enum capture_mode */
};

/* A program by its file: address and number of the inode, so that neither's being used again makes two programs one. */
struct program {
	u64 inode, ino;
};

/* The hierarchy in which containers are found: the unified one, or one of version 1. */
enum { HIERARCHY_UNIFIED = 0, HIERARCHY_PIDS = 1, HIERARCHY_MEMORY = 2 };
volatile const u32 hierarchy_kind = HIERARCHY_UNIFIED;
volatile const u32 hierarchy_id = 0; /* as in /proc/PID/cgroup */

static __always_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/* Index of the controller in css_set.subsys: depends on the kernel's configuration, so it is looked up, never assumed. */
static __always_inline u32 controller_index(void)
{
	if (hierarchy_kind == HIERARCHY_PIDS && bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		return bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	return 0;
}

static __always_inline u64 id_of(struct cgroup *cgroup)
{
	return BPF_CORE_READ(cgroup, kn, id);
}

/*
 * The cgroup of the process: that of its first thread, or of the thread itself when the first has ended. Version 1 and
 * threaded cgroups let a single thread be put elsewhere, which must not take its process out of its container.
 */
static __always_inline struct cgroup *cgroup_of(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	if (leader != task && !(BPF_CORE_READ(leader, flags) & PF_EXITING))
		task = leader;
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	if (hierarchy_kind == HIERARCHY_UNIFIED)
		return BPF_CORE_READ(set, dfl_cgrp);
	struct cgroup_subsys_state *state = 0;
	bpf_core_read(&state, sizeof state, &set->subsys[controller_index() & 15]);
	return BPF_CORE_READ(state, cgroup);
}

static __always_inline u64 cgroup_id_of(struct task_struct *task)
{
	return id_of(cgroup_of(task));
}

/*
 * The share of a cgroup that is not in the map of modes though it may be below a container's: that of the first above it which
 * is in the map, or of the topmost which is not.
 */
static __always_inline u64 share_above(struct cgroup *cgroup)
{
	u64 share = id_of(cgroup);
	for (u32 i = 0; i < CGROUP_LEVELS_MAX; i++) {
		struct cgroup_subsys_state *above = BPF_CORE_READ(cgroup, self.parent);
		if (!above)
			break;
		cgroup = BPF_CORE_READ(above, cgroup);
		u64 id = id_of(cgroup);
		struct cgroup_policy *policy = bpf_map_lookup_elem(&modes, &id);
		if (policy)
			return policy->contained ? policy->share : share;
		if (BPF_CORE_READ(cgroup, self.parent)) /* the hierarchy's root is in no container */
			share = id;
	}
	return share;
}

/* The same of the current process. Global, so that it is verified once. */
__attribute__((noinline)) u64 share_of_unlisted(void)
{
	return share_above(cgroup_of(current_task()));
}

/* A process's own number in its own pid namespace, and that namespace, by its leading thread. */
static __always_inline struct upid innermost_pid_of(struct task_struct *leader)
{
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	struct upid innermost = {};
	bpf_core_read(&innermost, sizeof innermost, &pid->numbers[level]);
	return innermost;
}

static __always_inline struct upid innermost_pid(struct task_struct *task)
{
	return innermost_pid_of(BPF_CORE_READ(task, group_leader));
}

static __always_inline u32 pid_namespace_of(struct upid *pid)
{
	struct pid_namespace *ns = pid->ns;
	return BPF_CORE_READ(ns, ns.inum);
}

static __always_inline bool is_canary(struct settings *set, struct task_struct *task)
{
	if (!set->canary_pid)
		return false;
	struct upid pid = innermost_pid(task);
	return (u32)pid.nr == set->canary_pid && pid_namespace_of(&pid) == set->canary_pid_ns;
}

static __always_inline struct inode *program_file_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, mm, exe_file, f_inode);
}

static __always_inline struct program program_of(struct task_struct *task)
{
	struct inode *inode = program_file_of(task);
	return (struct program){.inode = (u64)inode, .ino = BPF_CORE_READ(inode, i_ino)};
}

/* Finds the cgroup and the share of the current process, whatever its mode. */
static __always_inline void place(struct subject *who, struct task_struct *task)
{
	who->task = task;
	u64 id = bpf_get_current_pid_tgid();
	bool is_leader = (u32)id == id >> 32;
	/* One call for nine reads. */
	who->cgroup_id = is_leader && hierarchy_kind == HIERARCHY_UNIFIED ? bpf_get_current_cgroup_id() : cgroup_id_of(task);
	struct cgroup_policy *policy = bpf_map_lookup_elem(&modes, &who->cgroup_id);
	who->share = policy ? policy->share : modes_full ? share_of_unlisted() : who->cgroup_id;
	who->mode = policy ? policy->mode : mode_of_unlisted;
}

/* Whether anything is captured of the current process; what is not is counted. */
static __always_inline bool admit(struct subject *who, struct task_struct *task)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return false;
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	if (set->own_pid && pid == set->own_pid) {
		count_filtered(FILTERED_OWN);
		return false;
	}
	place(who, task);
	if (who->mode >= MODE_NORMAL)
		return true;
	if (is_canary(set, task))
		who->mode = mode_of_canary;
	if (who->mode != MODE_OFF)
		return true;
	count_filtered(FILTERED_MODE_OFF);
	return false;
}

/* Fills what every record begins with. */
static __always_inline void fill_header(struct scratch *s, struct subject *who, s64 ret, u16 flags)
{
	struct record_header *h = header_of(s);
	struct task_struct *task = who->task;
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	const struct cred *cred = BPF_CORE_READ(task, cred);
	u64 id = bpf_get_current_pid_tgid();
	h->flags |= flags;
	h->cgroup_id = who->cgroup_id;
	h->start_ns = BPF_CORE_READ(leader, start_boottime);
	h->pid = id >> 32;
	h->tid = id;
	h->vpid = innermost_pid_of(leader).nr;
	h->uid = BPF_CORE_READ(cred, euid.val);
	h->gid = BPF_CORE_READ(cred, egid.val);
	h->cpu = bpf_get_smp_processor_id();
	h->ret = ret;
}

/* A host id as the user namespace shows it. Maps of more than five ranges (kept elsewhere by the kernel) are not followed. */
static __always_inline u32 id_in_namespace(struct uid_gid_map *map, u32 host_id)
{
	u32 count = BPF_CORE_READ(map, nr_extents);
	if (count > 5)
		return -1;
	for (u32 i = 0; i < 5; i++) {
		u32 lower = BPF_CORE_READ(map, extent[i].lower_first);
		if (i < count && host_id - lower < BPF_CORE_READ(map, extent[i].count))
			return BPF_CORE_READ(map, extent[i].first) + (host_id - lower);
	}
	return -1;
}

static __always_inline u32 initial_number(struct task_struct *task, enum pid_type type)
{
	struct pid *pid = BPF_CORE_READ(task, signal, pids[type]);
	return BPF_CORE_READ(pid, numbers[0].nr);
}

static __always_inline u32 terminal_of(struct task_struct *task)
{
	struct tty_struct *tty = BPF_CORE_READ(task, signal, tty);
	if (!tty)
		return 0;
	u32 minor = BPF_CORE_READ(tty, driver, minor_start) + BPF_CORE_READ(tty, index);
	return (u32)BPF_CORE_READ(tty, driver, major) << 20 | minor;
}

static __always_inline u32 mount_namespace_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
}

static __always_inline void fill_credentials(struct record_identity *out, const struct cred *cred)
{
	bpf_core_read(&out->cap_effective, sizeof out->cap_effective, &cred->cap_effective);
	bpf_core_read(&out->cap_permitted, sizeof out->cap_permitted, &cred->cap_permitted);
	bpf_core_read(&out->cap_inheritable, sizeof out->cap_inheritable, &cred->cap_inheritable);
	out->saved_uid = BPF_CORE_READ(cred, suid.val);
	out->saved_gid = BPF_CORE_READ(cred, sgid.val);
	out->fs_uid = BPF_CORE_READ(cred, fsuid.val);
	out->fs_gid = BPF_CORE_READ(cred, fsgid.val);
}

static __always_inline void fill_identity(struct record_identity *out, struct task_struct *task)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct user_namespace *users = BPF_CORE_READ(task, cred, user_ns);
	struct upid pid = innermost_pid(task);

	out->parent_start_ns = BPF_CORE_READ(parent, group_leader, start_boottime);
	out->parent_pid = BPF_CORE_READ(parent, tgid);
	out->sid = initial_number(task, PIDTYPE_SID);
	out->pgid = initial_number(task, PIDTYPE_PGID);
	out->tty = terminal_of(task);
	out->loginuid = -1;
	if (bpf_core_field_exists(task->loginuid))
		out->loginuid = BPF_CORE_READ(task, loginuid.val);
	out->mnt_ns = mount_namespace_of(task);
	out->pid_ns = pid_namespace_of(&pid);
	out->ns_uid = id_in_namespace(&users->uid_map, BPF_CORE_READ(task, cred, euid.val));
	out->ns_gid = id_in_namespace(&users->gid_map, BPF_CORE_READ(task, cred, egid.val));
	out->children_pid_ns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	fill_credentials(out, BPF_CORE_READ(task, cred));
	struct task_struct *leader = BPF_CORE_READ(task, group_leader); /* a thread may have a name of its own */
	BPF_CORE_READ_INTO(&out->comm, leader, comm);
}
