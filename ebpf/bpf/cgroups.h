/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Cgroups made, removed and entered, in the hierarchy in which containers are found. */
#pragma once

#define E2BIG 7

static __always_inline bool in_hierarchy(struct cgroup *cgroup)
{
	return (u32)BPF_CORE_READ(cgroup, root, hierarchy_id) == hierarchy_id;
}

/*
 * A cgroup below a container's is the container's, too, before user space has heard of it: it brings no share of its own.
 * One that is not in the map may be a container's; the hierarchy's root, which has no parent, is none.
 */
static __always_inline void inherit_policy(struct cgroup *cgroup)
{
	u64 id = id_of(cgroup);
	struct cgroup_subsys_state *above = BPF_CORE_READ(cgroup, self.parent);
	u64 parent_id = BPF_CORE_READ(above, cgroup, kn, id);
	struct cgroup_policy policy = {.mode = MODE_NORMAL, .contained = 1, .share = parent_id};
	struct cgroup_policy *parent = bpf_map_lookup_elem(&modes, &parent_id);
	if (parent ? !parent->contained : !BPF_CORE_READ(above, parent))
		return;
	if (parent)
		policy = *parent;
	if (update_error(&modes, &id, &policy, BPF_NOEXIST) == -E2BIG)
		modes_full = 1;
}

static __always_inline void send_cgroup(struct subject *who, struct cgroup *cgroup, const char *path, bool made)
{
	if (!within_share(who->share, KIND_CGROUP, CLASS_PROCESS, bpf_ktime_get_boot_ns()))
		return;
	struct scratch *s = begin(KIND_CGROUP, CALL_NONE, sizeof(struct record_cgroup));
	if (!s)
		return;
	fill_header(s, who, 0, 0);
	struct record_cgroup *r = &s->record.cgroup;
	r->id = BPF_CORE_READ(cgroup, kn, id);
	r->made = made;
	r->pad = 0;
	append_string(s, path, TEXT_MAX, false);
	submit(s);
}

static __always_inline void send_cgroup_move(struct subject *who, struct cgroup *to, const char *path, struct task_struct *moved)
{
	if (!within_share(who->share, KIND_CGROUP_MOVE, CLASS_PROCESS, bpf_ktime_get_boot_ns()))
		return;
	struct scratch *s = begin(KIND_CGROUP_MOVE, CALL_NONE, sizeof(struct record_cgroup_move));
	if (!s)
		return;
	fill_header(s, who, 0, 0);
	struct record_cgroup_move *r = &s->record.cgroup_move;
	r->to_id = BPF_CORE_READ(to, kn, id);
	r->start_ns = BPF_CORE_READ(moved, group_leader, start_boottime);
	r->pid = BPF_CORE_READ(moved, tgid);
	r->pad = 0;
	append_string(s, path, TEXT_MAX, false);
	submit(s);
}
