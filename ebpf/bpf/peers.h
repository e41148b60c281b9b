/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Peers of sockets: where the kernel tried to connect to, and who was sent something for the first time. */
#pragma once

#define TCP_SYN_SENT 2

/* Where a thread's connect leads, as the kernel took it: a refused socket has forgotten it by the end of the call. */
struct tried_peer {
	u64 sock;
	struct record_socket socket;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); /* thread */
	__type(value, struct tried_peer);
} tried_peers SEC(".maps");

/* Peers that a socket has sent to without being connected. */
struct peer_key {
	u64 socket; /* inode number of the socket */
	u32 family, port;
	u8 address[16];
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct peer_key);
	__type(value, u8);
} known_peers SEC(".maps");

static __always_inline void note_tried_peer(struct sock *sk)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct tried_peer tried = {.sock = (u64)sk};
	fill_socket(&tried.socket, sk);
	bpf_map_update_elem(&tried_peers, &thread, &tried, BPF_ANY);
}

/* A message's address and its length, by the layout of the caller's entry. */
static __always_inline u64 address_of_message(u64 message, u32 flags, u32 *len)
{
	struct {
		u64 name;
		u32 len;
	} native = {};
	struct {
		u32 name, len;
	} compat = {};
	if (flags & (FLAG_IA32 | FLAG_X32)) {
		bpf_probe_read_user(&compat, sizeof compat, (void *)message);
		*len = compat.len;
		return compat.name;
	}
	bpf_probe_read_user(&native, sizeof native, (void *)message);
	*len = native.len;
	return native.name;
}

/*
 * Whether nothing was sent to this address through this socket before; false of what is no address of the internet, and of
 * connected sockets, which give none. Global, so that the key is not on the caller's stack.
 */
__attribute__((noinline)) int is_first_to_peer(u64 descriptor, u64 address)
{
	struct {
		u16 family, port;
		u32 v4;
		u8 v6[16];
	} given = {};
	struct peer_key key = {};
	u8 one = 1;
	if (!address || bpf_probe_read_user(&given, 8, (void *)address)) /* most often there is none */
		return 0;
	struct file *file = file_of(current_task(), descriptor);
	if (!is_socket(file))
		return 0;
	key.family = given.family;
	key.port = given.port;
	if (given.family == AF_INET)
		__builtin_memcpy(key.address, &given.v4, sizeof given.v4);
	else if (given.family != AF_INET6 || bpf_probe_read_user(key.address, sizeof key.address, (void *)(address + 8)))
		return 0;
	key.socket = BPF_CORE_READ(file, f_inode, i_ino);
	if (bpf_map_lookup_elem(&known_peers, &key))
		return 0;
	bpf_map_update_elem(&known_peers, &key, &one, BPF_ANY);
	return 1;
}
