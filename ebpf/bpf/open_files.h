/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Files and sockets that processes have open, for samples: user space reads the iterator once a round, so nothing is hooked
 * where files are read and written, or packets come and go, but for the bytes of UDP (net_bytes.h). Paths are not told: user space looks up those of the few that
 * get a row.
 */
#pragma once

#define ANON_INODE_FS_MAGIC 0x09041934 /* event loops, timers and the like, plain files by their mode since Linux 6.16 */
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define TCP_LISTEN 10
#define DESCRIPTORS_MAX 4096 /* of a process: those with higher numbers are counted, and not looked at */
#define OPEN_FILES_MAX 4096  /* told of a share in a round; the others are counted */

/* What was told of each share in this round; user space removes the entries after it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct walked);
} walked SEC(".maps");

/* So that the object's BTF has the type, which is on the stack alone; a function that is not inlined would hand a pointer to it
 * on, where verifiers before 6.8 lose track of what they know (failures.h). */
const struct open_file *type_of_open_file __attribute__((unused));

/* The share of a process that is not the current one; see `place`. */
static __always_inline u64 share_id_of(struct task_struct *task)
{
	struct cgroup *cgroup = cgroup_of(task);
	u64 cgroup_id = id_of(cgroup);
	struct cgroup_policy *policy = bpf_map_lookup_elem(&modes, &cgroup_id);
	if (policy)
		return policy->share;
	return modes_full ? share_above(cgroup) : cgroup_id;
}

/* Whether one more of the share may be told; where it may not, it is counted. */
static __always_inline bool may_tell_another(u64 share, u32 fd)
{
	struct walked *so_far = bpf_map_lookup_elem(&walked, &share);
	if (!so_far) {
		struct walked first = {};
		bpf_map_update_elem(&walked, &share, &first, BPF_NOEXIST);
		so_far = bpf_map_lookup_elem(&walked, &share);
		if (!so_far) /* too many shares: then only the bound of each process is kept */
			return fd < DESCRIPTORS_MAX;
	}
	if (fd >= DESCRIPTORS_MAX || so_far->told >= OPEN_FILES_MAX) {
		so_far->left++;
		return false;
	}
	so_far->told++;
	return true;
}

static __always_inline bool is_tcp(struct open_file *out)
{
	return out->socket.protocol == IPPROTO_TCP && out->socket.type == SOCK_STREAM;
}

/* What was counted of a socket of UDP (net_bytes.h): of one that has nothing yet, nothing, unless there was no room for it. */
static __always_inline void fill_bytes(struct open_file *out, struct file *file)
{
	u32 of_sockets = REFUSED_SOCKET;
	if (!net_bytes_wanted ||
	    !bpf_core_enum_value_exists(enum bpf_func_id___sockets, BPF_FUNC_sock_from_file___sockets))
		return;
	struct socket *socket = bpf_sock_from_file(file);
	if (!socket)
		return;
	struct socket_bytes *account = bpf_sk_storage_get(&socket_bytes, socket->sk, 0, 0);
	if (account) {
		out->counted = 1;
		out->received = account->rx;
		out->acked = account->tx;
		return;
	}
	u64 *refused = bpf_map_lookup_elem(&net_bytes_refused, &of_sockets);
	out->counted = refused && !*refused;
}

static __always_inline bool is_udp(struct open_file *out)
{
	return out->socket.protocol == IPPROTO_UDP && out->socket.type == SOCK_DGRAM;
}

/* False of what has no ends, no place to wait at, or another protocol. */
static __always_inline bool fill_open_socket(struct open_file *out, struct file *file)
{
	struct sock *sk = sock_of(file);
	struct tcp_sock *tcp = (void *)sk;
	fill_socket(&out->socket, sk);
	if (!out->socket.local_port)
		return false;
	out->net_ns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (is_udp(out)) {
		fill_bytes(out, file);
		return true;
	}
	if (!is_tcp(out))
		return false;
	out->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (out->state == TCP_LISTEN) {
		out->backlog = BPF_CORE_READ(sk, sk_ack_backlog);
		out->backlog_max = BPF_CORE_READ(sk, sk_max_ack_backlog);
		out->dropped = BPF_CORE_READ(sk, sk_drops.counter);
		return true;
	}
	out->received = BPF_CORE_READ(tcp, bytes_received);
	out->acked = BPF_CORE_READ(tcp, bytes_acked);
	out->segments_in = BPF_CORE_READ(tcp, segs_in);
	out->segments_out = BPF_CORE_READ(tcp, segs_out);
	out->retransmitted = BPF_CORE_READ(tcp, total_retrans);
	return true;
}

/* False of what is neither a file with contents nor a socket with ends. */
static __always_inline bool fill_open_file(struct open_file *out, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	out->mode = BPF_CORE_READ(inode, i_mode);
	out->ino = BPF_CORE_READ(inode, i_ino);
	u32 kind = out->mode & S_IFMT;
	if (kind == S_IFSOCK)
		return fill_open_socket(out, file);
	struct super_block *superblock = BPF_CORE_READ(inode, i_sb);
	if ((kind != S_IFREG && kind != S_IFBLK) || BPF_CORE_READ(superblock, s_magic) == ANON_INODE_FS_MAGIC)
		return false;
	out->dev = BPF_CORE_READ(superblock, s_dev);
	out->links = BPF_CORE_READ(inode, i_nlink);
	out->size = BPF_CORE_READ(inode, i_size);
	out->flags = BPF_CORE_READ(file, f_flags);
	out->position = BPF_CORE_READ(file, f_pos);
	return true;
}

static __always_inline void tell_open_file(struct seq_file *to, struct task_struct *task, u32 fd, struct file *file)
{
	struct open_file out = {.file = (u64)file, .fd = fd};
	bool is_far = fd >= DESCRIPTORS_MAX;
	if (!is_far && !fill_open_file(&out, file))
		return;
	out.share = share_id_of(task);
	if (!may_tell_another(out.share, fd))
		return;
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	out.pid = BPF_CORE_READ(task, tgid);
	out.start_ns = BPF_CORE_READ(leader, start_boottime);
	BPF_CORE_READ_INTO(&out.comm, leader, comm);
	bpf_seq_write(to, &out, sizeof out);
}
