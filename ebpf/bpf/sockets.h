/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sockets: both ends as the kernel holds them, and addresses as programs give them. */
#pragma once

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define UNIX_NAME_MAX 108
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

static __always_inline bool is_socket(struct file *file)
{
	return file && (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) == S_IFSOCK;
}

static __always_inline struct sock *sock_of(struct file *file)
{
	struct socket *socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

static __always_inline void fill_socket(struct record_socket *out, struct sock *sk)
{
	out->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	out->type = BPF_CORE_READ(sk, sk_type);
	out->protocol = BPF_CORE_READ(sk, sk_protocol);
	if (out->family != AF_INET && out->family != AF_INET6)
		return;
	out->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	out->remote_port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (out->family == AF_INET) {
		u32 local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr), remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		__builtin_memcpy(out->local, &local, sizeof local);
		__builtin_memcpy(out->remote, &remote, sizeof remote);
	} else {
		struct in6_addr address;
		BPF_CORE_READ_INTO(&address, sk, __sk_common.skc_v6_rcv_saddr);
		__builtin_memcpy(out->local, &address, sizeof address);
		BPF_CORE_READ_INTO(&address, sk, __sk_common.skc_v6_daddr);
		__builtin_memcpy(out->remote, &address, sizeof address);
	}
}

/* Appends the name in `address`, an abstract one with '@' for its leading NUL; false where there is none. */
static __always_inline bool append_unix_address(struct scratch *s, struct unix_address *address)
{
	int len = BPF_CORE_READ(address, len) - (int)sizeof(u16);
	if (!address || len <= 0)
		return false;
	u32 start = text_start(s);
	const char *name = (const char *)&address->name[0].sun_path;
	if (len > UNIX_NAME_MAX)
		len = UNIX_NAME_MAX;
	append_bytes(s, name, len);
	u8 *copy = text_at(s, start);
	if (*copy == 0)
		*copy = '@';
	else if (*bytes_at(s, start + 1 + len) == 0) /* the kernel counts a path's NUL */
		end_text(s, start, len - 1);
	return true;
}

/* Appends the peer's name, or the socket's own where the peer has none (a server's end of an accepted connection). */
static __always_inline void append_unix_name(struct scratch *s, struct sock *sk, u16 family)
{
	if (family == AF_UNIX && bpf_core_type_exists(struct unix_sock)) {
		struct unix_sock *own = (void *)sk;
		struct unix_sock *peer = (void *)BPF_CORE_READ(own, peer);
		if (peer && append_unix_address(s, BPF_CORE_READ(peer, addr)))
			return;
		if (append_unix_address(s, BPF_CORE_READ(own, addr)))
			return;
	}
	append_empty(s);
}

/* Takes the address a program handed to connect apart; a unix socket's name goes to the texts. */
static __always_inline void fill_asked(struct scratch *s, struct record_socket *out, u64 address, u32 len)
{
	struct {
		u16 family;
		u16 port;
		u8 v4[4];
		u8 v6[16];
	} given = {};
	u32 wanted = len < sizeof given ? len : sizeof given;

	asm volatile("" : "+r"(wanted));
	if (wanted > sizeof given || bpf_probe_read_user(&given, wanted & 31, (void *)address)) {
		set_flag(s, FLAG_FAULT);
		append_empty(s);
		return;
	}
	out->family = given.family;
	if (given.family == AF_INET) {
		out->remote_port = __builtin_bswap16(given.port);
		__builtin_memcpy(out->remote, given.v4, sizeof given.v4);
	} else if (given.family == AF_INET6) {
		out->remote_port = __builtin_bswap16(given.port);
		__builtin_memcpy(out->remote, given.v6, sizeof given.v6);
	}
	if (given.family != AF_UNIX || len <= sizeof(u16)) {
		append_empty(s);
		return;
	}
	u32 start = text_start(s), name_len = len - sizeof(u16);
	u8 first = 0;
	bpf_probe_read_user(&first, sizeof first, (void *)(address + sizeof(u16)));
	if (first) {
		append_string(s, (void *)(address + sizeof(u16)), UNIX_NAME_MAX + 1, true);
		return;
	}
	if (name_len > UNIX_NAME_MAX)
		name_len = UNIX_NAME_MAX;
	asm volatile("" : "+r"(name_len));
	u8 *name = text_at(s, start);
	bpf_probe_read_user(name, name_len & 127, (void *)(address + sizeof(u16)));
	*name = '@';
	end_text(s, start, name_len & 127);
}
