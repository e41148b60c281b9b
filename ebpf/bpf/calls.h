/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What is sent of each system call; opens have a file of their own. */
#pragma once

#define EINPROGRESS 115
#define CLONE_NEW_ANY 0x7e020080 /* CLONE_NEWTIME, NS, CGROUP, UTS, IPC, USER, PID, NET */

static __always_inline void send_exec_failed(struct task_struct *task, struct syscall *call, u64 cgroup_id)
{
	struct scratch *s = begin(task, KIND_EXEC_FAILED, sizeof(struct record_exec_failed), cgroup_id);
	if (!s)
		return;
	struct record_exec_failed *r = &s->record.exec_failed;
	r->header.ret = call->ret;
	r->header.flags |= call->flags | FLAG_UNRESOLVED;
	r->at = call->call == CALL_EXECVEAT;
	r->pad = 0;
	append_string(s, (void *)(r->at ? call->args[1] : call->args[0]), TEXT_MAX, true);
	submit(s, KIND_EXEC_FAILED);
}

/* The socket has forgotten its peer after a refusal, and never knew one after an error. */
static __always_inline bool has_peer(struct record_socket *socket, s64 ret)
{
	if (socket->family == AF_INET || socket->family == AF_INET6)
		return socket->remote_port != 0;
	return ret == 0 || ret == -EINPROGRESS;
}

static __always_inline void send_connect(struct task_struct *task, struct syscall *call, u64 cgroup_id)
{
	struct scratch *s = begin(task, KIND_CONNECT, sizeof(struct record_connect), cgroup_id);
	if (!s)
		return;
	struct record_connect *r = &s->record.connect;
	struct file *file = file_of(task, call->args[0]);
	struct sock *sk = is_socket(file) ? sock_of(file) : 0;
	r->header.ret = call->ret;
	r->header.flags |= call->flags;
	r->fd = call->args[0];
	r->pad = 0;
	__builtin_memset(&r->socket, 0, sizeof r->socket);
	__builtin_memset(&r->asked, 0, sizeof r->asked);
	if (sk)
		fill_socket(&r->socket, sk);
	append_unix_name(s, sk, call->ret == 0 ? r->socket.family : 0);
	if (has_peer(&r->socket, call->ret)) {
		append_empty(s);
	} else {
		set_flag(s, FLAG_UNRESOLVED);
		fill_asked(s, &r->asked, call->args[1], call->args[2]);
	}
	submit(s, KIND_CONNECT);
}

static __always_inline void send_namespace(struct task_struct *task, struct syscall *call, u64 cgroup_id)
{
	bool setns = call->call == CALL_SETNS;
	u64 flags = (u32)(setns ? call->args[1] : call->args[0]);
	if (!setns && !(flags & CLONE_NEW_ANY))
		return; /* unshare of files or the like */
	struct scratch *s = begin(task, KIND_NAMESPACE, sizeof(struct record_namespace), cgroup_id);
	if (!s)
		return;
	struct record_namespace *r = &s->record.namespace;
	r->header.ret = call->ret;
	r->header.flags |= call->flags;
	r->ns_flags = flags;
	r->setns = setns;
	r->mnt_ns = mount_namespace_of(task);
	r->pid_ns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	r->pad = 0;
	submit(s, KIND_NAMESPACE);
}

static __always_inline void dispatch(struct syscall *call)
{
	struct task_struct *task = current_task();
	u64 cgroup_id;
	bool is_exec = call->call == CALL_EXECVE || call->call == CALL_EXECVEAT;
	if (is_exec && call->ret >= 0)
		return; /* sched_process_exec tells more */
	int mode = admit(task, &cgroup_id);
	if (mode < 0)
		return;
	switch (call->call) {
	case CALL_EXECVE:
	case CALL_EXECVEAT:
		send_exec_failed(task, call, cgroup_id);
		break;
	case CALL_SETNS:
	case CALL_UNSHARE:
		send_namespace(task, call, cgroup_id);
		break;
	case CALL_CONNECT:
		if (mode == MODE_LIFECYCLE)
			count_filtered(FILTERED_LIFECYCLE);
		else
			send_connect(task, call, cgroup_id);
		break;
	default:
		send_open(task, call, mode, cgroup_id);
	}
}
