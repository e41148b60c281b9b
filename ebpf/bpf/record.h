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

/* The shapes of records. What a system call's record tells is in its row of calls.def. */
enum record_kind {
	KIND_EXEC = 1,
	KIND_EXEC_MORE = 2,
	KIND_FORK = 3,
	KIND_EXIT = 4,
	KIND_OPEN = 5,
	KIND_CALL = 6,
	KIND_CGROUP = 7,
	KIND_CGROUP_MOVE = 8,
};

/* What records are counted by: those of system calls by the call's number from COUNTED_CALLS on, others by their kind. */
#define COUNTED_CALLS 16
#define COUNTED_MAX 256

enum record_flag {
	FLAG_TRUNCATED = 1,  /* a text was longer than its limit */
	FLAG_FAULT = 2,      /* some memory could not be read */
	FLAG_UNRESOLVED = 4, /* the path or address is from user memory */
	FLAG_IA32 = 8,       /* through the 32-bit entry */
	FLAG_X32 = 16,       /* with the x32 bit */
	FLAG_CREATED = 32,   /* the open made the file */
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
	u32 call;     /* number of its row in calls.def, from 1 on; 0 = none */
	s64 ret;
};

struct record_identity {
	u64 parent_start_ns;
	u64 cap_effective, cap_permitted, cap_inheritable;
	u32 parent_pid;
	u32 sid, pgid; /* in the initial pid namespace */
	u32 tty;       /* kernel's dev_t, 0 = none */
	u32 loginuid;
	u32 mnt_ns, pid_ns;
	u32 ns_uid, ns_gid; /* effective, in the process's user namespace; -1 = not known */
	u32 children_pid_ns; /* of the children that it makes from now on */
	u32 saved_uid, saved_gid, fs_uid, fs_gid; /* on the host */
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

/* texts: argv (its first piece), path, filename, interp, cwd, then one a descriptor: path, or a unix socket's name; the
 * environment's first bytes */
struct record_exec {
	struct record_header header;
	struct record_identity identity;
	struct record_file file;
	u32 argv_bytes; /* all there were */
	u32 argv_sent;  /* all that will come, the continuation records included, unless one is lost */
	u32 env_bytes;  /* of the environment, all there were */
	u32 argc;
	u32 sockets;    /* among descriptors 3 to 63 */
	u32 pad;
	struct record_socket socket; /* the first of them that is connected over the internet; no port: none is */
	struct record_stdio stdio[3];
};

/* texts: the piece of argv */
struct record_exec_more {
	struct record_header header;
	u32 offset;
	u32 pad;
};

/* of a process with a conspicuous number of threads the child is the process itself, and `ret` that number */
struct record_fork {
	struct record_header header;
	u64 child_start_ns;
	u64 child_cgroup_id;
	u32 child_pid, child_vpid;
	u64 clone_flags; /* 0 where the call has none, or is not known */
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

/* texts: path (empty where it failed), raw, base, where the mount's root lies in its file system (empty: it is that of all of it) */
struct record_open {
	struct record_header header;
	struct record_file file;
	u64 open_flags;
	u32 mode;
	u32 mnt_ns; /* in which the file was reached; of a failure the process's */
	u64 fold; /* under which repeats of a failure are counted (struct fold); 0 = they are not */
	u32 below_mount; /* the last bytes of the path that are below the root of the file's own mount */
	u32 on_mount;    /* 1 = there is one; below all of the path it is the root of the tree */
};

/* Shapes of the values behind a record_call. Each value: its place (u8), its shape (u8), and what the shape says. */
enum value_shape {
	VALUE_NUMBER = 1,  /* u64 */
	VALUE_STRING = 2,  /* text, as the program gave it */
	VALUE_PATH = 3,    /* texts: as the program gave it, the folder it starts from as the kernel knows it */
	VALUE_FILE = 4,    /* descriptor (u64), record_file, text: path */
	VALUE_SOCKET = 5,  /* descriptor (u64), record_socket, text: a unix socket's name */
	VALUE_ADDRESS = 6, /* record_socket of which the remote end is filled, text: a unix socket's name; from user memory */
	VALUE_PEER = 7,    /* the same, as the kernel took it */
	VALUE_IDENTITY = 8, /* record_identity */
};

/* Places of values: 0 to 5 are the call's arguments. */
enum value_place {
	PLACE_IDENTITY = 6, /* who the process is after the call */
	PLACE_CWD = 7,      /* its working directory after the call */
	PLACE_PEER = 8,     /* where the kernel tried to connect to */
};

/* values as above; how many there are follows from the record's length */
struct record_call {
	struct record_header header;
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

/* What user space tells the programs; the only element of the map `settings`. */
struct settings {
	u32 own_pid;       /* in the initial pid namespace; 0 = not known yet */
	u32 canary_pid_ns; /* while the canary runs, this process is captured whatever its cgroup's mode */
	u32 canary_pid;
	u32 pad;
};

/* One a CPU, in the map `counters`. Every record that was to be sent is in exactly one of the first five. */
struct cpu_counters {
	u64 sent[COUNTED_MAX];
	u64 dropped[COUNTED_MAX];     /* the ring was full */
	u64 crowded[COUNTED_MAX];     /* what was left of the ring is for other kinds */
	u64 limited[COUNTED_MAX];     /* its container's share, or all containers' together, was used up */
	u64 interrupted[COUNTED_MAX]; /* another record was being made on this CPU */
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
	CLASS_CALL = 3,      /* system calls of which many are usual */
	CLASS_SENSITIVE = 4, /* opens of sensitive files that CLASS_CALL refused */
	CLASS_PRIVILEGE = 5, /* calls that change what a process may do or see, or that reach into others: few are usual */
	CLASS_TRAFFIC = 6,   /* connections accepted and new peers: others on the network decide how many */
	CLASS_COUNT = 7,
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
	u32 counted; /* see COUNTED_CALLS */
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

/* Calls of a process that failed in the same way, in the map `failures`; counts go on until user space removes the entry. */
struct failure_key {
	u64 start_ns; /* of the process, since boot */
	u32 pid;
	u16 number; /* of the call; 0xffff: one that no call has */
	u16 error;  /* errno, and by which entry the call came: see failures.h */
};
struct failure {
	u64 count;
	u64 cgroup_id; /* at the first of them */
	char comm[16]; /* the process's name at the first of them */
};

/* Bytes that sends and receives of IP sockets returned to a process, in the map `net_bytes`. */
struct net_bytes_key {
	u64 start_ns; /* of the process, since boot */
	u32 pid;
	u32 pad;
};
struct net_bytes {
	u64 rx, tx;
	u64 share; /* of the process at the first of them */
};

/* A file or socket that a process has open, as the iterator tells it; counters are since the file or socket was made. */
struct open_file {
	u64 file; /* names this opening, which several descriptors and processes may share */
	u64 ino;
	u64 start_ns; /* of the process, since boot */
	u64 share;    /* see cgroup_policy */
	s64 position, size; /* of a file */
	u64 received, acked; /* bytes of a TCP connection; of a socket of UDP received and sent, where they are counted */
	u32 segments_in, segments_out, retransmitted;
	u32 dropped;              /* by a socket that listens */
	u32 backlog, backlog_max; /* connections that wait to be accepted there, and how many may */
	u32 pid, fd;
	u32 dev; /* kernel's dev_t */
	u32 flags; /* of the opening */
	u32 links; /* names that the file has */
	u32 net_ns;
	u16 mode;
	u16 state; /* of TCP */
	u32 counted; /* 1 = the bytes of this socket of UDP are known */
	struct record_socket socket;
	char comm[16];
};
/* How many of a share were told in this round, and how many were not looked at; in the map `walked`. */
struct walked {
	u64 told, left;
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
