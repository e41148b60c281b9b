/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Cgroups made, removed and entered, in the hierarchy in which containers are found. */
#pragma once

static __always_inline bool in_hierarchy(struct cgroup *cgroup)
{
	return (u32)BPF_CORE_READ(cgroup, root, hierarchy_id) == hierarchy_id;
}

static __always_inline void send_cgroup(struct task_struct *task, u64 own_cgroup, struct cgroup *cgroup, const char *path, bool made)
{
	struct scratch *s = begin(task, KIND_CGROUP, sizeof(struct record_cgroup), own_cgroup);
	if (!s)
		return;
	struct record_cgroup *r = &s->record.cgroup;
	r->id = BPF_CORE_READ(cgroup, kn, id);
	r->made = made;
	r->pad = 0;
	append_string(s, path, TEXT_MAX, false);
	submit(s, KIND_CGROUP);
}

static __always_inline void send_cgroup_move(struct task_struct *mover, u64 own_cgroup, struct cgroup *to, const char *path,
					     struct task_struct *moved)
{
	struct scratch *s = begin(mover, KIND_CGROUP_MOVE, sizeof(struct record_cgroup_move), own_cgroup);
	if (!s)
		return;
	struct record_cgroup_move *r = &s->record.cgroup_move;
	r->to_id = BPF_CORE_READ(to, kn, id);
	r->start_ns = BPF_CORE_READ(moved, group_leader, start_boottime);
	r->pid = BPF_CORE_READ(moved, tgid);
	r->pad = 0;
	append_string(s, path, TEXT_MAX, false);
	submit(s, KIND_CGROUP_MOVE);
}
