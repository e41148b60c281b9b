/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What is sent of each system call; opens have a file of their own. */
#pragma once

#define EINPROGRESS 115
#define AT_REMOVEDIR 0x200
#define CLONE_NEW_ANY 0x7e020080 /* CLONE_NEWTIME, NS, CGROUP, UTS, IPC, USER, PID, NET */

static __always_inline void send_exec_failed(struct subject *who, struct syscall *call)
{
	if (!within_share(who->share, KIND_EXEC_FAILED, CLASS_CALL, bpf_ktime_get_boot_ns()))
		return;
	struct scratch *s = begin(KIND_EXEC_FAILED, sizeof(struct record_exec_failed));
	if (!s)
		return;
	fill_header(s, who, call->ret, call->flags | FLAG_UNRESOLVED);
	struct record_exec_failed *r = &s->record.exec_failed;
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

static __always_inline void send_connect(struct subject *who, struct syscall *call)
{
	if (!within_share(who->share, KIND_CONNECT, CLASS_CALL, bpf_ktime_get_boot_ns()))
		return;
	struct scratch *s = begin(KIND_CONNECT, sizeof(struct record_connect));
	if (!s)
		return;
	fill_header(s, who, call->ret, call->flags);
	struct record_connect *r = &s->record.connect;
	struct file *file = file_of(who->task, call->args[0]);
	struct sock *sk = is_socket(file) ? sock_of(file) : 0;
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

static __always_inline void send_namespace(struct subject *who, struct syscall *call)
{
	bool setns = call->call == CALL_SETNS;
	u64 flags = (u32)(setns ? call->args[1] : call->args[0]);
	if (!setns && !(flags & CLONE_NEW_ANY))
		return; /* unshare of files or the like */
	if (!within_share(who->share, KIND_NAMESPACE, CLASS_NAMESPACE, bpf_ktime_get_boot_ns()))
		return;
	struct scratch *s = begin(KIND_NAMESPACE, sizeof(struct record_namespace));
	if (!s)
		return;
	fill_header(s, who, call->ret, call->flags);
	struct record_namespace *r = &s->record.namespace;
	r->ns_flags = flags;
	r->setns = setns;
	r->mnt_ns = mount_namespace_of(who->task);
	struct task_struct *task = who->task;
	r->pid_ns = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);
	r->pad = 0;
	submit(s, KIND_NAMESPACE);
}

/*
 * A renamed or removed folder, a mount: the paths of files already seen may have changed. The new name of a single file
 * shows in its dentry, but which of the two was renamed is not known here. chroot changes no path as `walk_path` sees it.
 */
static __always_inline void note_move(struct syscall *call)
{
	if (call->call == CALL_REMOVE && !(call->args[2] & AT_REMOVEDIR))
		return;
	if (call->ret == 0)
		__sync_fetch_and_add(&names_generation, 1);
}

static __always_inline void dispatch(struct syscall *call)
{
	struct subject who;
	if (call->call == CALL_MOVE || call->call == CALL_REMOVE)
		return note_move(call); /* whoever does it, the host's own processes included */
	if ((call->call == CALL_EXECVE || call->call == CALL_EXECVEAT) && call->ret >= 0)
		return; /* sched_process_exec tells more */
	if (!admit(&who, current_task()))
		return;
	switch (call->call) {
	case CALL_EXECVE:
	case CALL_EXECVEAT:
		return send_exec_failed(&who, call);
	case CALL_SETNS:
	case CALL_UNSHARE:
		return send_namespace(&who, call);
	case CALL_CONNECT:
		if (who.mode == MODE_LIFECYCLE)
			return count_filtered(FILTERED_LIFECYCLE);
		return send_connect(&who, call);
	case CALL_OPEN:
	case CALL_OPENAT:
	case CALL_OPENAT2:
	case CALL_CREAT:
		return send_open(&who, call);
	default:
		return;
	}
}
