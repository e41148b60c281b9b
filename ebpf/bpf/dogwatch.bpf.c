/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Entry points of the tracepoint back end. Each asks `admit` whether the current process is captured, and sends a record.
 * Above each stands the tracepoint's prototype in the kernel.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "record.h"
#include "ring.h"
#include "identity.h"
#include "files.h"
#include "sockets.h"
#include "exec.h"
#include "process.h"
#include "cgroups.h"
#include "syscalls.h"
#include "opens.h"
#include "calls.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* trace_sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	u64 cgroup_id;
	if (admit(task, &cgroup_id) >= 0)
		send_exec(task, bprm, cgroup_id);
	return 0;
}

/* trace_sched_process_fork(struct task_struct *parent, struct task_struct *child) */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	u64 cgroup_id;
	if (BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid))
		return 0; /* a thread */
	if (admit(parent, &cgroup_id) >= 0)
		send_fork(parent, child, cgroup_id);
	return 0;
}

/* trace_sched_process_exit(struct task_struct *p), since 6.16 with a bool group_dead */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	u64 cgroup_id;
	if (is_last_thread(task) && admit(task, &cgroup_id) >= 0)
		send_exit(task, cgroup_id);
	return 0;
}

/* trace_sys_exit(struct pt_regs *regs, long ret) */
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	struct syscall call;
	if (recognise(&call, regs, ret))
		dispatch(&call);
	return 0;
}

/* trace_cgroup_mkdir(struct cgroup *cgrp, const char *path) */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	struct task_struct *task = current_task();
	if (in_hierarchy(cgroup))
		send_cgroup(task, cgroup_id_of(task), cgroup, path, true);
	return 0;
}

/* trace_cgroup_rmdir(struct cgroup *cgrp, const char *path) */
SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_cgroup_rmdir, struct cgroup *cgroup, const char *path)
{
	struct task_struct *task = current_task();
	if (in_hierarchy(cgroup))
		send_cgroup(task, cgroup_id_of(task), cgroup, path, false);
	return 0;
}

/* trace_cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup) */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_cgroup_attach_task, struct cgroup *to, const char *path, struct task_struct *moved, bool threadgroup)
{
	if (!threadgroup && BPF_CORE_READ(moved, group_leader) != moved)
		return 0; /* a single thread, see cgroup_id_of */
	struct task_struct *task = current_task();
	if (in_hierarchy(to))
		send_cgroup_move(task, cgroup_id_of(task), to, path, moved);
	return 0;
}
