/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Calls that failed, counted by process, call and errno. User space reads the table every round of samples, and removes what
 * has not grown and what is of processes that ended. Nothing is evicted: what finds no room is counted.
 */
#pragma once

#define ERRNO_LAST 511 /* above: the kernel's own; it begins again, or says EINTR */
#define FAILURES_MAX 16384
#define FAILURES_NEW_MAX 2048 /* new entries of a share between two readings, so that none fills the table */
#define NUMBER_UNKNOWN 0xffff
#define ENTRY_IA32 0x8000
#define ENTRY_X32 0x4000

volatile const u8 failures_wanted = 1;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FAILURES_MAX);
	__type(key, struct failure_key);
	__type(value, struct failure);
} failures SEC(".maps");

/* New entries of each share; user space removes them at each reading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u64);
} failures_new SEC(".maps");

/* Failures that were counted nowhere else. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} failures_refused SEC(".maps");

/*
 * Behind a signal's handler the registers are those of the interrupted code, without a number: no call failed there, and the
 * handler chooses what `ret` is. A process that calls -1 itself has ENOSYS.
 *
 * The verifier must not learn from this what `ret` is: it lies on the stack afterwards, and when a function reads it there
 * through a pointer, Linux before 6.8 takes what it found of the first way it came for all others, and cuts what that one does
 * not need.
 */
static __always_inline bool is_failure(u32 number, s64 ret)
{
	u64 above = (u64)ret + ERRNO_LAST;
	asm volatile("" : "+r"(above));
	return failures_wanted && above < ERRNO_LAST && (number != (u32)-1 || above == ERRNO_LAST - ENOSYS);
}

/* True while a share may have one more, counted in `map`; two CPUs at once may let one too many through. */
static __always_inline bool may_have_another(void *map, u64 share, u64 max)
{
	u64 one = 1, *count = bpf_map_lookup_elem(map, &share);
	if (!count)
		return !bpf_map_update_elem(map, &share, &one, BPF_NOEXIST) || bpf_map_lookup_elem(map, &share);
	if (*count >= max)
		return false;
	__sync_fetch_and_add(count, 1);
	return true;
}

static __always_inline bool add_failure(struct failure_key *key, struct task_struct *task)
{
	struct subject who;
	struct failure first = {.count = 1};
	place(&who, task);
	if (!may_have_another(&failures_new, who.share, FAILURES_NEW_MAX))
		return false;
	first.cgroup_id = who.cgroup_id;
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	BPF_CORE_READ_INTO(&first.comm, leader, comm);
	return !bpf_map_update_elem(&failures, key, &first, BPF_NOEXIST);
}

static __always_inline void count_refused_failure(void)
{
	u32 zero = 0;
	u64 *refused = bpf_map_lookup_elem(&failures_refused, &zero);
	if (refused)
		__sync_fetch_and_add(refused, 1);
}

/* Global, so that it is verified once and its stack is its own. */
__attribute__((noinline)) int count_failure(u32 number, s64 ret)
{
	struct task_struct *task = current_task();
	u32 index = number & ~X32_BIT;
	struct failure_key key = {
		.start_ns = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = bpf_get_current_pid_tgid() >> 32,
		.number = index < NUMBERS_MAX ? index : NUMBER_UNKNOWN,
		.error = -ret,
	};
#if HAS_IA32
	if (came_through_ia32(task))
		key.error |= ENTRY_IA32;
	else if (number & X32_BIT && index < NUMBERS_MAX)
		key.error |= ENTRY_X32;
#endif
	struct failure *known = bpf_map_lookup_elem(&failures, &key);
	if (!known) {
		if (add_failure(&key, task))
			return 0;
		known = bpf_map_lookup_elem(&failures, &key); /* another thread was first */
	}
	if (known)
		__sync_fetch_and_add(&known->count, 1);
	else
		count_refused_failure();
	return 0;
}
