/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The ring, its counters, and the buffer in which a record grows: begin, append texts, submit. */
#pragma once

/* Large enough for every record: its fixed part and the texts before the last end below TEXT_START_MAX. */
#define TEXT_START_MAX 16384
#define RECORD_MAX (TEXT_START_MAX + TEXT_MAX + 2)
#define text_bytes(max) (2 + (max) - 1)
_Static_assert(sizeof(struct record_exec) + 3 * text_bytes(TEXT_MAX) + 2 * text_bytes(NAME_MAX_BYTES) + 3 * text_bytes(STDIO_TEXT_MAX) <
		       TEXT_START_MAX,
	       "an exec's last text begins below TEXT_START_MAX, or text_start's mask would put it over the others");
_Static_assert(sizeof(struct record_open) + 2 * text_bytes(TEXT_MAX) + text_bytes(1) < TEXT_START_MAX, "so does an open's");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20); /* bytes; user space sets its own */
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_counters);
} counters SEC(".maps");

union record {
	struct record_header header;
	struct record_exec exec;
	struct record_exec_more exec_more;
	struct record_fork fork;
	struct record_exit exit;
	struct record_open open;
	struct record_call call;
	struct record_cgroup cgroup;
	struct record_cgroup_move cgroup_move;
	u8 bytes[RECORD_MAX];
};

/*
 * One a CPU is enough: these tracepoints run with preemption off and none of them runs in an interrupt. Should a kernel
 * run them otherwise, `busy` makes the second record on a CPU a counted loss. The kernel caps an element at 32 KiB.
 */
struct scratch {
	u32 busy; /* a record is being made */
	u32 used; /* bytes of the record so far */
	u32 path_start;
	s32 dirfd; /* of the call whose arguments are being appended: where its next path starts from */
	u32 names_walked;  /* of the two below, those that the path has */
	u32 name_start[2]; /* in `path`: where the file's own name and its folder's begin, each with its '/' */
	struct path_key path_key; /* its text lies at a multiple of 8 */
	u64 mount_root; /* of the mount that the walked file is on, a dentry */
	u64 mount_start; /* in `path`: where what is below that mount begins; beyond its end: it is on the tree's root */
	u64 hash; /* of the last text that was hashed */
	u64 fold_place; /* where repeats of the failure that is being sent will be counted */
	u64 seen_key[8], seen[3]; /* struct seen_key and struct seen of the read that is being judged, off the stack */
	union record record;
	u64 file[16], dentry[16], inode[32], superblock[16]; /* copies of the first bytes of the kernel's */
	u8 path[TEXT_MAX + 256]; /* a path, grown from byte TEXT_MAX towards the front */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* The consumer is woken when the ring fills beyond this many bytes; below, it comes by itself every 20 ms. */
volatile const u64 wake_bytes = 256 << 10;
/* Kinds that can be missed for a while are refused when more than this waits: what is left is for execs, forks and exits. */
volatile const u64 crowded_bytes = 6 << 20;
/* Execs go without long texts when more than this waits. */
volatile const u64 texts_bytes = 4 << 20;
/* Differs on every run, so that nobody can make two paths of one hash. */
volatile const u64 hash_seed = 0;

/*
 * Why a map could not be changed, 0 where it was. Before Linux 6.4 the kernel returns it as 32 bits, the others of the
 * register being anything: compared as 64 it is never what it seems.
 */
static __always_inline int update_error(void *map, const void *key, const void *value, u64 flags)
{
	int error = bpf_map_update_elem(map, key, value, flags);
	asm volatile("" : "+r"(error)); /* or the compiler takes the helper's word for 64 bits */
	return error;
}

static __always_inline struct scratch *scratch(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&scratches, &zero);
}

static __always_inline struct cpu_counters *cpu_counters(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline void count_filtered(enum filter_reason reason)
{
	struct cpu_counters *c = cpu_counters();
	if (c)
		c->filtered[reason]++;
}

static __always_inline struct record_header *header_of(struct scratch *s)
{
	return &s->record.header;
}

/* What a record is counted by, see COUNTED_CALLS. */
static __always_inline u32 counted_as(enum record_kind kind, u32 call)
{
	u32 counted = kind == KIND_OPEN || kind == KIND_CALL ? COUNTED_CALLS + call : kind;
	asm volatile("" : "+r"(counted));
	return counted & (COUNTED_MAX - 1);
}

/*
 * The scratch with an empty record of this kind; 0 when another one is being made on this CPU, which is counted. `call` is
 * the system call behind it (enum call), 0 where there is none or it is not known.
 */
static __always_inline struct scratch *begin(enum record_kind kind, u32 call, u32 fixed_bytes)
{
	struct scratch *s = scratch();
	if (!s)
		return 0;
	if (s->busy) {
		struct cpu_counters *c = cpu_counters();
		if (c)
			c->interrupted[counted_as(kind, call)]++;
		return 0;
	}
	s->busy = 1;
	s->used = fixed_bytes;
	header_of(s)->kind = kind;
	header_of(s)->flags = 0;
	header_of(s)->call = call;
	header_of(s)->boot_ns = bpf_ktime_get_boot_ns();
	return s;
}

/* Ends a record that is not sent. */
static __always_inline void abandon(struct scratch *s)
{
	s->busy = 0;
}

static __always_inline void set_flag(struct scratch *s, u16 flag)
{
	header_of(s)->flags |= flag;
}

/*
 * The record from byte `at` on; the only place where the record is indexed by a variable (a test holds that).
 * Masked here, at its use: a compiler may spill an index or keep its bound in another register, and every verifier before
 * 6.12 then refuses the program ("unbounded memory access"). The mask never bites, see TEXT_START_MAX.
 */
static __always_inline u8 *bytes_at(struct scratch *s, u32 at)
{
	asm volatile("" : "+r"(at));
	return &s->record.bytes[at & (TEXT_START_MAX - 1)];
}

/* Where the next text's length goes. */
static __always_inline u32 text_start(struct scratch *s)
{
	return s->used;
}

/* Where the bytes of the text that starts at `start` go, behind its length. */
static __always_inline u8 *text_at(struct scratch *s, u32 start)
{
	return bytes_at(s, start) + 2;
}

static __always_inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

/* Mixes the first `len` bytes of scratch.path_key into scratch.hash. Global, so that it is verified once. */
__attribute__((noinline)) int hash_text(u32 len)
{
	struct scratch *s = scratch();
	if (!s)
		return -1;
	u64 hash = mix(s->hash, len);
	u64 *words = (u64 *)s->path_key.path;
	_Static_assert(offsetof(struct scratch, path_key.path) % sizeof *words == 0, "the text is read in words");
	for (u32 i = 0; i < PATH_KEY_BYTES / sizeof *words; i++) {
		u32 at = i * sizeof *words;
		if (at >= len)
			break;
		u64 word = words[i];
		if (len - at < 8)
			word &= (1ull << (len - at) * 8) - 1;
		hash = mix(hash, word);
	}
	s->hash = hash;
	return 0;
}

/* The hash of what is in the path key, begun with `hash`; never 0. */
static __always_inline u64 hash_path_key(struct scratch *s, u64 hash, u32 len)
{
	s->hash = hash;
	hash_text(len);
	return s->hash | 1;
}

static __always_inline void end_text(struct scratch *s, u32 start, u32 len)
{
	u8 *at = bytes_at(s, start);
	at[0] = len;
	at[1] = len >> 8;
	s->used = start + 2 + len;
}

static __always_inline void append_empty(struct scratch *s)
{
	end_text(s, text_start(s), 0);
}

/* Appends `len` bytes (at most TEXT_MAX - 1) of kernel memory. */
static __always_inline void append_bytes(struct scratch *s, const void *from, u32 len)
{
	u32 start = text_start(s);
	len &= TEXT_MAX - 1;
	asm volatile("" : "+r"(len));
	if (bpf_probe_read_kernel(text_at(s, start), len & (TEXT_MAX - 1), from)) {
		set_flag(s, FLAG_FAULT);
		len = 0;
	}
	end_text(s, start, len);
}

static __always_inline void append_string(struct scratch *s, const void *from, u32 max, bool user)
{
	u32 start = text_start(s);
	u8 *to = text_at(s, start);
	long n = user ? bpf_probe_read_user_str(to, max, from) : bpf_probe_read_kernel_str(to, max, from);
	if (n < 0) {
		set_flag(s, FLAG_FAULT);
		n = 1;
	}
	if (n == max)
		set_flag(s, FLAG_TRUNCATED); /* or exactly as long as the limit: the flag may say too much, never too little */
	end_text(s, start, n > 0 ? n - 1 : 0);
}

/* The kinds that leave the last part of the ring to the others. */
#define CAN_BE_MISSED (1 << KIND_OPEN | 1 << KIND_CALL)

/* Hands the record to the ring, or counts why not. */
static __always_inline void hand_over(struct scratch *s, struct cpu_counters *c)
{
	u32 len = s->used, kind = header_of(s)->kind & 15, counted = counted_as(kind, header_of(s)->call);
	asm volatile("" : "+r"(len));
	if (len > RECORD_MAX) { /* cannot be, but the verifier does not know */
		c->dropped[counted]++;
		return;
	}
	header_of(s)->len = len;
	header_of(s)->cpu_seq = c->tried++;
	u64 waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	if (CAN_BE_MISSED & 1 << kind && waiting + len > crowded_bytes) {
		c->crowded[counted]++;
		return;
	}
	/* Waking costs 8 µs, a record 0.1: wake once, by the record that crosses the mark. */
	u64 wake = waiting < wake_bytes && waiting + len >= wake_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
	if (bpf_ringbuf_output(&ring, &s->record, len, wake))
		c->dropped[counted]++;
	else
		c->sent[counted]++;
}

static __always_inline void submit(struct scratch *s)
{
	struct cpu_counters *c = cpu_counters();
	if (c)
		hand_over(s, c);
	s->busy = 0;
}
