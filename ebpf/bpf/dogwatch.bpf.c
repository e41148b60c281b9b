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
#include "shares.h"
#include "syscalls.h"
#include "files.h"
#include "sockets.h"
#include "exec.h"
#include "process.h"
#include "cgroups.h"
#include "repeats.h"
#include "opens.h"
#include "peers.h"
#include "calls.h"
#include "failures.h"
#include "net_bytes.h"
#include "open_files.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* trace_sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	struct subject who;
	if (admit(&who, task))
		send_exec(&who, bprm);
	return 0;
}

/* trace_sched_process_fork(struct task_struct *parent, struct task_struct *child) */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct subject who;
	if (BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid)) {
		u32 threads = newly_told_threads(parent);
		if (threads && admit(&who, parent))
			send_threads(&who, parent, threads);
	} else if (admit(&who, parent))
		send_fork(&who, parent, child);
	return 0;
}

/* trace_sched_process_exit(struct task_struct *p), since 6.16 with a bool group_dead */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct subject who;
	if (is_last_thread(task) && admit(&who, task))
		send_exit(&who);
	return 0;
}

/* trace_sys_exit(struct pt_regs *regs, long ret) */
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	struct syscall call;
	u32 number = regs->CALL_NUMBER;
	if (is_failure(number, ret))
		count_failure(number, ret);
	if (recognise(&call, regs, ret))
		dispatch(&call);
	return 0;
}

/* trace_inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate) */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_tcp_state, struct sock *sk, int before, int now)
{
	if (now == TCP_SYN_SENT)
		note_tried_peer(sk);
	return 0;
}

/* trace_cgroup_mkdir(struct cgroup *cgrp, const char *path) */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	struct subject who;
	if (!in_hierarchy(cgroup))
		return 0;
	inherit_policy(cgroup);
	place(&who, current_task());
	send_cgroup(&who, cgroup, path, true);
	return 0;
}

/* trace_cgroup_rmdir(struct cgroup *cgrp, const char *path) */
SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_cgroup_rmdir, struct cgroup *cgroup, const char *path)
{
	struct subject who;
	if (!in_hierarchy(cgroup))
		return 0;
	u64 id = BPF_CORE_READ(cgroup, kn, id);
	bpf_map_delete_elem(&modes, &id);
	place(&who, current_task());
	send_cgroup(&who, cgroup, path, false);
	return 0;
}

/* trace_cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup) */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_cgroup_attach_task, struct cgroup *to, const char *path, struct task_struct *moved, bool threadgroup)
{
	struct subject who;
	if (!threadgroup && BPF_CORE_READ(moved, group_leader) != moved)
		return 0; /* a single thread, see cgroup_id_of */
	if (!in_hierarchy(to))
		return 0;
	place(&who, current_task());
	send_cgroup_move(&who, to, path, moved);
	return 0;
}

/* trace_sock_send_length(struct sock *sk, int ret, int flags); since 6.3, and loaded where it is there */
SEC("tp_btf/sock_send_length")
int BPF_PROG(on_sent, struct sock *sk, int ret, int flags)
{
	add_net_bytes(sk, ret, flags, true);
	return 0;
}

/* trace_sock_recv_length(struct sock *sk, int ret, int flags); since 6.3, and loaded where it is there */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_received, struct sock *sk, int ret, int flags)
{
	add_net_bytes(sk, ret, flags, false);
	return 0;
}

/* struct bpf_iter__task_file: one run for each descriptor of each process; the last one has neither task nor file */
SEC("iter/task_file")
int on_open_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	if (task && file)
		tell_open_file(ctx->meta->seq, task, ctx->fd, file);
	return 0;
}
