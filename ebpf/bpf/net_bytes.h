/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Bytes that sends and receives of IP sockets returned: by process, and by socket of UDP, of which the kernel keeps no count.
 * Only where the kernel has the two tracepoints of it (Linux 6.3 and later); whatever 5.11 has may be used here.
 *
 * By process they are in a table that user space reads every round of samples; it removes what has not grown, so that
 * of processes that ended as well. Nothing is evicted: what finds no room is counted. By socket they are kept with the socket
 * itself, for the iterator of open files: there is no key that another socket could come to have, no table that one
 * container could fill, and what a socket had goes with it.
 */
#pragma once

#define NET_BYTES_MAX 16384
#define NET_BYTES_NEW_MAX 2048 /* new entries of a share between two readings, so that none fills the table */
#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000

/* What a kernel with storage of sockets for these programs has, since Linux 5.11, which brought both. */
enum bpf_func_id___sockets { BPF_FUNC_sock_from_file___sockets = 162 };

/* User space wants them, and the kernel has the tracepoints. */
volatile const u8 net_bytes_wanted = 1;

/* Entries take memory when there are some: none where the kernel has no tracepoints. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NET_BYTES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct net_bytes_key);
	__type(value, struct net_bytes);
} net_bytes SEC(".maps");

/* New entries of each share; user space removes them at each reading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, u64);
} net_bytes_new SEC(".maps");

/* Sends and receives that were counted nowhere: [0] of a process, [1] of a socket of UDP. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, u64);
} net_bytes_refused SEC(".maps");
enum { REFUSED_PROCESS = 0, REFUSED_SOCKET = 1 };

struct socket_bytes {
	u64 rx, tx;
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_bytes);
} socket_bytes SEC(".maps");

static __always_inline void count_refused_bytes(u32 of)
{
	u64 *refused = bpf_map_lookup_elem(&net_bytes_refused, &of);
	if (refused)
		__sync_fetch_and_add(refused, 1);
}

/* Makes the entry of the current process. Global, so that it is verified once; it is called once a process. */
__attribute__((noinline)) int begin_net_bytes(u64 start_ns, u32 pid)
{
	struct net_bytes_key key = {.start_ns = start_ns, .pid = pid};
	struct net_bytes none = {};
	struct subject who;
	place(&who, current_task());
	none.share = who.share;
	if (may_have_another(&net_bytes_new, who.share, NET_BYTES_NEW_MAX))
		bpf_map_update_elem(&net_bytes, &key, &none, BPF_NOEXIST);
	return 0;
}

static __always_inline void add_to_process(u64 bytes, bool sent)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct net_bytes_key key = {.start_ns = task->group_leader->start_boottime, .pid = task->tgid};
	struct net_bytes *account = bpf_map_lookup_elem(&net_bytes, &key);
	if (!account) {
		begin_net_bytes(key.start_ns, key.pid);
		account = bpf_map_lookup_elem(&net_bytes, &key);
	}
	if (!account)
		count_refused_bytes(REFUSED_PROCESS);
	else
		__sync_fetch_and_add(sent ? &account->tx : &account->rx, bytes);
}

static __always_inline void add_to_socket(struct sock *sk, u64 bytes, bool sent)
{
	struct socket_bytes *account = bpf_sk_storage_get(&socket_bytes, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!account) /* no memory, or none that the socket may take */
		count_refused_bytes(REFUSED_SOCKET);
	else
		__sync_fetch_and_add(sent ? &account->tx : &account->rx, bytes);
}

/* A peek is followed by the receive, and what comes from the queue of errors is what was sent. */
static __always_inline void add_net_bytes(struct sock *sk, int ret, int flags, bool sent)
{
	u16 family = sk->__sk_common.skc_family;
	if (ret <= 0 || (flags & (MSG_PEEK | MSG_ERRQUEUE)) || (family != AF_INET && family != AF_INET6))
		return;
	add_to_process(ret, sent);
	if (sk->sk_protocol == IPPROTO_UDP && sk->sk_type == SOCK_DGRAM)
		add_to_socket(sk, ret, sent);
}
