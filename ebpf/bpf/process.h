/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Fork and exit of whole processes, and their final counters. */
#pragma once

#define SIGNAL_GROUP_EXIT 4
#define THREADS_MAX 64 /* threads not yet reaped whose counters are added at exit */
#define EEXIST 17
#define TOLD_THREADS_MIN 64 /* threads that a process has when that is told for the first time */

/* Processes of several threads whose exit was sent: two last threads may both see no live one. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u8);
} exited SEC(".maps");

/* How many threads processes had when that was told last. One that is pushed out is told of again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u32);
} told_threads SEC(".maps");

/* A process, also while its id is used again. */
static __always_inline u64 process_key(struct task_struct *task, struct signal_struct *signal)
{
	return (u64)signal ^ BPF_CORE_READ(task, group_leader, start_boottime);
}

/*
 * Registers of the system call that a task is in. Before 5.15 there is no function for them; they lie at the end of the
 * stack, which nothing pads on such kernels.
 */
static __always_inline struct pt_regs *registers_of(struct task_struct *task)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id___known, BPF_FUNC_task_pt_regs___known))
		return (struct pt_regs *)bpf_task_pt_regs(task);
	return (struct pt_regs *)((u64)BPF_CORE_READ(task, stack) + STACK_BYTES - REGISTERS_BYTES);
}

/* The call by which a task makes another; CALL_NONE where it is in no row, or the kernel's own. */
static __always_inline u32 forking_call(struct task_struct *task, u64 *clone_flags)
{
	struct pt_regs *regs = registers_of(task);
	u32 flags;
	u32 call = call_of((u32)BPF_CORE_READ(regs, CALL_NUMBER), &flags);
	*clone_flags = 0;
	if (call != CALL_clone && call != CALL_clone3 && call != CALL_fork && call != CALL_vfork)
		return CALL_NONE;
	u64 first = BPF_CORE_READ(regs, ARGUMENT_0);
#if HAS_IA32
	if (flags & FLAG_IA32)
		first = (u32)BPF_CORE_READ(regs, bx);
#endif
	if (call == CALL_clone)
		*clone_flags = (u32)first;
	else if (call == CALL_clone3)
		bpf_probe_read_user(clone_flags, sizeof *clone_flags, (void *)first); /* the first of its arguments' struct */
	return call;
}

static __always_inline void send_fork(struct subject *who, struct task_struct *parent, struct task_struct *child)
{
	if (!within_share(who->share, KIND_FORK, CLASS_PROCESS, bpf_ktime_get_boot_ns()))
		return;
	u64 clone_flags;
	u32 call = forking_call(parent, &clone_flags);
	struct scratch *s = begin(KIND_FORK, call, sizeof(struct record_fork));
	if (!s)
		return;
	fill_header(s, who, 0, 0);
	struct record_fork *r = &s->record.fork;
	r->clone_flags = clone_flags;
	r->child_start_ns = BPF_CORE_READ(child, start_boottime);
	r->child_cgroup_id = cgroup_id_of(child);
	r->child_pid = BPF_CORE_READ(child, tgid);
	r->child_vpid = innermost_pid(child).nr;
	fill_identity(&r->child, child);
	submit(s);
}

/* How many threads the process has, once it has twice as many as when that was told last; else 0. */
static __always_inline u32 newly_told_threads(struct task_struct *task)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	u32 threads = BPF_CORE_READ(signal, nr_threads);
	if (threads < TOLD_THREADS_MIN)
		return 0;
	u64 key = process_key(task, signal);
	u32 *told = bpf_map_lookup_elem(&told_threads, &key);
	if (told && threads / 2 < *told)
		return 0;
	bpf_map_update_elem(&told_threads, &key, &threads, BPF_ANY);
	return threads;
}

/* As a fork of which the child is in the process itself, and the result is how many threads that has. */
static __always_inline void send_threads(struct subject *who, struct task_struct *task, u32 threads)
{
	if (!within_share(who->share, KIND_FORK, CLASS_PROCESS, bpf_ktime_get_boot_ns()))
		return;
	u64 clone_flags;
	u32 call = forking_call(task, &clone_flags);
	struct scratch *s = begin(KIND_FORK, call, sizeof(struct record_fork));
	if (!s)
		return;
	fill_header(s, who, threads, 0);
	struct record_fork *r = &s->record.fork;
	r->clone_flags = clone_flags;
	r->child_start_ns = header_of(s)->start_ns;
	r->child_cgroup_id = who->cgroup_id;
	r->child_pid = header_of(s)->pid;
	r->child_vpid = header_of(s)->vpid;
	fill_identity(&r->child, task);
	submit(s);
}

static __always_inline bool is_last_thread(struct task_struct *task)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	u8 one = 1;
	if (BPF_CORE_READ(signal, live.counter) != 0)
		return false;
	u64 key = process_key(task, signal);
	/* The last but one thread may have sent it and be reaped by now. */
	if (BPF_CORE_READ(signal, nr_threads) <= 1)
		return !bpf_map_lookup_elem(&exited, &key);
	/* Where the kernel has no room (-ENOMEM, -EBUSY) twice is better than never. */
	return update_error(&exited, &key, &one, BPF_NOEXIST) != -EEXIST;
}

/* What `wait` will report. */
static __always_inline u32 exit_status_of(struct task_struct *task)
{
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		return BPF_CORE_READ(task, signal, group_exit_code);
	return BPF_CORE_READ(task, group_leader, exit_code);
}

static __always_inline void add_thread(struct record_exit *r, struct task_struct *task)
{
	r->utime_ns += BPF_CORE_READ(task, utime);
	r->stime_ns += BPF_CORE_READ(task, stime);
	r->run_ns += BPF_CORE_READ(task, se.sum_exec_runtime);
	r->min_flt += BPF_CORE_READ(task, min_flt);
	r->maj_flt += BPF_CORE_READ(task, maj_flt);
	r->rchar += BPF_CORE_READ(task, ioac.rchar);
	r->wchar += BPF_CORE_READ(task, ioac.wchar);
	r->read_bytes += BPF_CORE_READ(task, ioac.read_bytes);
	r->write_bytes += BPF_CORE_READ(task, ioac.write_bytes);
}

/* The signal struct holds what reaped threads used; the others carry their own. */
static __always_inline void fill_counters(struct record_exit *r, struct signal_struct *signal)
{
	r->utime_ns = BPF_CORE_READ(signal, utime);
	r->stime_ns = BPF_CORE_READ(signal, stime);
	r->run_ns = BPF_CORE_READ(signal, sum_sched_runtime);
	r->min_flt = BPF_CORE_READ(signal, min_flt);
	r->maj_flt = BPF_CORE_READ(signal, maj_flt);
	r->rchar = BPF_CORE_READ(signal, ioac.rchar);
	r->wchar = BPF_CORE_READ(signal, ioac.wchar);
	r->read_bytes = BPF_CORE_READ(signal, ioac.read_bytes);
	r->write_bytes = BPF_CORE_READ(signal, ioac.write_bytes);

	struct list_head *head = &signal->thread_head, *node = BPF_CORE_READ(signal, thread_head.next);
	for (int i = 0; i < THREADS_MAX && node != head; i++) {
		add_thread(r, (void *)((u64)node - bpf_core_field_offset(struct task_struct, thread_node)));
		node = BPF_CORE_READ(node, next);
	}
}

static __always_inline void send_exit(struct subject *who)
{
	if (!within_share(who->share, KIND_EXIT, CLASS_PROCESS, bpf_ktime_get_boot_ns()))
		return;
	struct scratch *s = begin(KIND_EXIT, CALL_NONE, sizeof(struct record_exit));
	if (!s)
		return;
	fill_header(s, who, 0, 0);
	struct record_exit *r = &s->record.exit;
	struct task_struct *task = who->task;
	fill_counters(r, BPF_CORE_READ(task, signal));
	r->status = exit_status_of(who->task);
	r->pad = 0;
	submit(s);
}
