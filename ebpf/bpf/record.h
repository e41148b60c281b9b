/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The one definition of what the kernel part writes into the ring.
 *
 * Native little-endian. A record is one of the structs below (all begin with `record_header`), followed by its texts in
 * the order its comment names: each a length (u16, little-endian, unaligned) and that many bytes, without NUL.
 * `src/wire.rs` holds the same structs for user space; a test compares both through the object's BTF.
 */
#pragma once

#define TEXT_MAX 4096        /* bytes of one path, or of one piece of argv */
#define NAME_MAX_BYTES 1024  /* bytes of exec's filename and interpreter */
#define STDIO_TEXT_MAX 512   /* bytes of the path of one of descriptors 0 to 2 */
#define ARGV_MAX 32768       /* bytes of arguments sent, continuation records included */

enum record_kind {
	KIND_EXEC = 1,
	KIND_EXEC_MORE = 2,
	KIND_EXEC_FAILED = 3,
	KIND_FORK = 4,
	KIND_EXIT = 5,
	KIND_OPEN = 6,
	KIND_CONNECT = 7,
	KIND_CGROUP = 8,
	KIND_CGROUP_MOVE = 9,
	KIND_NAMESPACE = 10,
	KIND_COUNT = 16,
};

enum record_flag {
	FLAG_TRUNCATED = 1,  /* a text was longer than its limit */
	FLAG_FAULT = 2,      /* some memory could not be read */
	FLAG_UNRESOLVED = 4, /* the path or address is from user memory */
	FLAG_IA32 = 8,       /* through the 32-bit entry */
	FLAG_X32 = 16,       /* with the x32 bit */
};

/* Why something was seen and not sent. */
enum filter_reason {
	FILTERED_OWN = 0,           /* the sensor itself */
	FILTERED_MODE_OFF = 1,      /* its cgroup is off */
	FILTERED_LIFECYCLE = 2,     /* its cgroup is at lifecycle and the call is none of that */
	FILTERED_REPEATED_OPEN = 3, /* read again by the same program within the hour */
	FILTERED_FOLDED_OPEN = 4,   /* failed again in the same way; counted in the map `folded` */
	FILTERED_COUNT = 8,
};

/* What is captured of a cgroup's processes; a cgroup that is not in the map is at MODE_NORMAL. */
enum capture_mode {
	MODE_OFF = 0,
	MODE_LIFECYCLE = 1,
	MODE_NORMAL = 2,
	MODE_FULL = 3,
};

struct record_header {
	u32 len;  /* of the whole record */
	u16 kind; /* enum record_kind */
	u16 flags;
	u64 boot_ns;
	u64 cgroup_id;
	u64 start_ns; /* of the thread group leader, since boot */
	u32 pid, tid; /* in the initial pid namespace */
	u32 vpid;     /* the process in its own pid namespace */
	u32 uid, gid; /* effective, on the host */
	u32 cpu;
	u32 cpu_seq;  /* records tried on this CPU: a gap is a loss */
	u32 pad;
	s64 ret;
};

struct record_identity {
	u64 parent_start_ns;
	u32 parent_pid;
	u32 sid, pgid; /* in the initial pid namespace */
	u32 tty;       /* kernel's dev_t, 0 = none */
	u32 loginuid;
	u32 mnt_ns, pid_ns;
	u32 ns_uid, ns_gid; /* effective, in the process's user namespace; -1 = not known */
	u32 pad;
	u8 comm[16];
};

struct record_file {
	u64 ino;
	s64 mtime_ns, ctime_ns;
	u64 fs_magic;
	u32 dev; /* kernel's dev_t */
	u32 nlink;
	u16 mode;
	u16 overlay_upper; /* 1 = the overlay's upper layer holds it */
	u32 pad;
};

struct record_socket {
	u16 family, type, protocol;
	u16 local_port, remote_port; /* host order */
	u16 pad[3];
	u8 local[16], remote[16];
};

enum stdio_kind { STDIO_CLOSED = 0, STDIO_SOCKET = 1, STDIO_FILE = 2 };

struct record_stdio {
	u64 fs_magic;
	u32 rdev; /* kernel's dev_t */
	u16 kind; /* enum stdio_kind */
	u16 mode;
	struct record_socket socket;
};

/* texts: argv (its first piece), path, filename, interp, cwd, then one a descriptor: path, or a unix socket's name */
struct record_exec {
	struct record_header header;
	struct record_identity identity;
	struct record_file file;
	u32 argv_bytes; /* all there were */
	u32 argv_sent;  /* all that will come, the continuation records included, unless one is lost */
	struct record_stdio stdio[3];
};

/* texts: the piece of argv */
struct record_exec_more {
	struct record_header header;
	u32 offset;
	u32 pad;
};

/* texts: path as the program gave it */
struct record_exec_failed {
	struct record_header header;
	u32 at; /* 1 = execveat */
	u32 pad;
};

struct record_fork {
	struct record_header header;
	u64 child_start_ns;
	u64 child_cgroup_id;
	u32 child_pid, child_vpid;
	struct record_identity child;
};

struct record_exit {
	struct record_header header;
	u64 utime_ns, stime_ns; /* sampled at ticks on most kernels: their ratio counts */
	u64 run_ns;             /* exact */
	u64 min_flt, maj_flt, rchar, wchar, read_bytes, write_bytes;
	u32 status;
	u32 pad;
};

enum open_call { OPEN_OPEN = 0, OPEN_OPENAT = 1, OPEN_OPENAT2 = 2, OPEN_CREAT = 3 };

/* texts: path (empty where it failed), raw, base */
struct record_open {
	struct record_header header;
	struct record_file file;
	u64 open_flags;
	u32 mode;
	u32 mnt_ns;
	u32 call; /* enum open_call */
	u32 pad;
	u64 fold; /* under which repeats of a failure are counted (struct fold); 0 = they are not */
};

/* texts: unix name of the socket's peer, unix name asked for */
struct record_connect {
	struct record_header header;
	s32 fd;
	u32 pad;
	struct record_socket socket, asked;
};

/* texts: path below the hierarchy's root */
struct record_cgroup {
	struct record_header header;
	u64 id;
	u32 made; /* 1 = made, 0 = removed */
	u32 pad;
};

/* texts: path of the destination below the hierarchy's root */
struct record_cgroup_move {
	struct record_header header;
	u64 to_id;
	u64 start_ns;
	u32 pid;
	u32 pad;
};

struct record_namespace {
	struct record_header header;
	u64 ns_flags;
	u32 setns; /* 1 = setns, 0 = unshare */
	u32 mnt_ns, pid_ns;
	u32 pad;
};

/* What user space tells the programs; the only element of the map `settings`. */
struct settings {
	u32 own_pid;       /* in the initial pid namespace; 0 = not known yet */
	u32 canary_pid_ns; /* while the canary runs, this process is captured whatever its cgroup's mode */
	u32 canary_pid;
	u32 pad;
};

/* One a CPU, in the map `counters`. Every record that was to be sent is in exactly one of the first five. */
struct cpu_counters {
	u64 sent[KIND_COUNT];
	u64 dropped[KIND_COUNT];     /* the ring was full */
	u64 crowded[KIND_COUNT];     /* what was left of the ring is for other kinds */
	u64 limited[KIND_COUNT];     /* its container's share, or all containers' together, was used up */
	u64 interrupted[KIND_COUNT]; /* another record was being made on this CPU */
	u64 filtered[FILTERED_COUNT];
	u64 tried; /* records handed to the ring, taken or not */
};

/* What is captured of a cgroup's processes and which share their records use; in the map `modes`. */
struct cgroup_policy {
	u32 mode;      /* enum capture_mode */
	u32 contained; /* 1 = a container's: cgroups made below it belong to the same share */
	u64 share;     /* id of the container's own cgroup; of this cgroup where there is no container */
};

/* Records of one class use up the same part of a share. */
enum rate_class {
	CLASS_EXEC = 0,
	CLASS_PROCESS = 1,   /* fork, exit, and what happens to cgroups */
	CLASS_NAMESPACE = 2,
	CLASS_CALL = 3,      /* every other system call */
	CLASS_SENSITIVE = 4, /* opens of sensitive files that CLASS_CALL refused */
	CLASS_COUNT = 5,
};

/* Nanoseconds that one record of a class costs; 0 = no limit. */
struct rate {
	u64 assured_ns; /* paid from what a share has to itself */
	u64 further_ns; /* beyond that, paid by the share ... */
	u64 total_ns;   /* ... and once more from what all shares have together */
};

/* Until when a class is paid: in the future = used up. Never further in the past than the burst. */
struct paid {
	u64 assured_until, further_until;
};
/* One a container (or cgroup that is in none), in the map `shares`. */
struct share {
	struct paid paid[CLASS_COUNT];
	u64 texts_until;
};
/* The only element of the map `totals`. */
struct total {
	u64 until[CLASS_COUNT];
};

/* What a share refused, in the map `limited`; counts go on until user space removes the entry. */
struct limited_key {
	u64 share;
	u32 kind; /* enum record_kind */
	u32 pad;
};
/* Repeats of one failed open, in the map `folded`: `slot` is taken from the hash, so that a share has no more than its own. */
struct folded_key {
	u64 share;
	u32 slot;
	u32 pad;
};
struct tally {
	u64 hash; /* of what is counted; in `limited` 0 */
	u64 count;
	u64 first_ns, last_ns; /* since boot */
};

/*
 * Key of the lists of paths and names: the longest prefix wins. An entry ends in '/' (all below), in NUL (exactly that), or
 * anywhere (whatever begins so).
 */
#define PATH_KEY_BYTES 256 /* also of the texts of which a hash is made */
struct path_key {
	u32 bits;
	u8 path[PATH_KEY_BYTES];
};
