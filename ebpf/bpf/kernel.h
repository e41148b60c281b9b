/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The few kernel structures the programs touch, naming only the fields they use.
 * Offsets here mean nothing: every access is relocated against the running kernel's BTF (CO-RE). Fields that were renamed
 * over time have flavours (`___old`), chosen by `bpf_core_field_exists`.
 */
#pragma once

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define offsetof(type, field) __builtin_offsetof(type, field)
#define false 0
typedef int pid_t;
typedef u32 dev_t;
typedef unsigned long size_t;
typedef unsigned short umode_t;

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_F_NO_PREALLOC = 1 };
enum { BPF_LOCAL_STORAGE_GET_F_CREATE = 1 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0 };

#include "registers.h"

/* What the helpers of a kernel are numbered, as far as it is asked whether it has one. */
enum bpf_func_id___known { BPF_FUNC_task_pt_regs___known = 175 };

/*
 * A field of a struct whose first bytes were copied to `copy`: one read by the kernel's helper for many fields, each of
 * which would cost 20 ns by itself. Where a kernel keeps the field further back it is read by itself after all.
 */
#define FIELD_OF_COPY(copy, pointer, field)                                                                            \
	({                                                                                                             \
		typeof((pointer)->field) value;                                                                        \
		u32 at = bpf_core_field_offset((pointer)->field);                                                      \
		if (at <= sizeof(copy) - sizeof value)                                                                 \
			value = *(typeof(value) *)((u8 *)(copy) + at);                                                 \
		else                                                                                                   \
			value = BPF_CORE_READ(pointer, field);                                                         \
		value;                                                                                                 \
	})

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	u32 val;
} kuid_t;
typedef struct {
	u32 val;
} kgid_t;

struct ns_common {
	unsigned int inum;
};
struct pid_namespace {
	struct ns_common ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct upid numbers[1];
};
enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID };

struct uid_gid_extent {
	u32 first, lower_first, count;
};
struct uid_gid_map {
	u32 nr_extents;
	struct uid_gid_extent extent[5];
};
struct user_namespace {
	struct uid_gid_map uid_map, gid_map;
};
typedef struct {
	u64 val; /* before 6.3 two words of 32 bits, the lower one first */
} kernel_cap_t;
struct cred {
	kuid_t suid, euid, fsuid;
	kgid_t sgid, egid, fsgid;
	kernel_cap_t cap_inheritable, cap_permitted, cap_effective;
	struct user_namespace *user_ns;
};

struct kernfs_node {
	u64 id;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
enum cgroup_subsys_id { memory_cgrp_id = 4, pids_cgrp_id = 11 };
struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

struct qstr {
	u64 hash_len;
	u32 len;
	const unsigned char *name;
};
struct super_block {
	dev_t s_dev;
	unsigned long s_magic;
};
struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};
struct inode {
	umode_t i_mode;
	s64 i_size;
	unsigned long i_ino;
	struct super_block *i_sb;
	unsigned int i_nlink;
	dev_t i_rdev;
	s64 i_mtime_sec, i_ctime_sec; /* since 6.11 */
	u32 i_mtime_nsec, i_ctime_nsec;
};
struct inode___underscored { /* __i_ctime since 6.6, __i_mtime since 6.7 */
	struct timespec64 __i_mtime, __i_ctime;
};
struct inode___old {
	struct timespec64 i_mtime, i_ctime;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};
struct vfsmount {
	struct dentry *mnt_root;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct path f_path;
	struct inode *f_inode;
	unsigned int f_mode, f_flags;
	s64 f_pos;
	void *private_data;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
	unsigned long *open_fds;
};
struct files_struct {
	struct fdtable *fdt;
};
struct fs_struct {
	struct path root, pwd;
};

struct mm_struct {
	unsigned long arg_start, arg_end, env_start, env_end;
	struct file *exe_file;
};
struct tty_driver {
	int major, minor_start;
};
struct tty_struct {
	int index;
	struct tty_driver *driver;
};
struct task_io_accounting {
	u64 rchar, wchar, read_bytes, write_bytes;
};
struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	int group_exit_code;
	unsigned int flags;
	struct pid *pids[4];
	struct tty_struct *tty;
	u64 utime, stime;
	unsigned long min_flt, maj_flt;
	struct task_io_accounting ioac;
	unsigned long long sum_sched_runtime;
};
struct sched_entity {
	u64 sum_exec_runtime;
};
struct task_struct {
	struct thread_info thread_info;
	void *stack;
	struct sched_entity se;
	unsigned int flags;
	pid_t pid, tgid;
	struct task_struct *real_parent, *group_leader;
	struct list_head thread_node;
	struct mm_struct *mm;
	struct pid *thread_pid;
	const struct cred *cred;
	char comm[16];
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct files_struct *files;
	struct fs_struct *fs;
	u64 start_boottime;
	int exit_code;
	kuid_t loginuid;
	u64 utime, stime;
	unsigned long min_flt, maj_flt;
	struct task_io_accounting ioac;
};
struct linux_binprm {
	struct file *file;
	int argc;
	const char *filename, *interp, *fdpath;
};

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct sock_common {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	u16 sk_type, sk_protocol;
	u32 sk_ack_backlog, sk_max_ack_backlog;
	atomic_t sk_drops;
};
struct tcp_sock {
	u64 bytes_received, bytes_acked;
	u32 segs_in, segs_out, total_retrans;
};
struct socket {
	struct sock *sk;
};
struct sockaddr_un {
	char sun_path[108];
};
struct unix_address {
	int len;
	struct sockaddr_un name[1];
};
struct unix_sock {
	struct unix_address *addr;
	struct sock *peer;
};

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop
