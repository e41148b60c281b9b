/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The ring, its counters, and the buffer in which a record grows: begin, append texts, submit. */
#pragma once

/* Large enough for every record by construction: fixed part and the texts before the last end below TEXT_START_MAX. */
#define TEXT_START_MAX 16384
#define RECORD_MAX (TEXT_START_MAX + TEXT_MAX + 2)

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
	struct record_exec_failed exec_failed;
	struct record_fork fork;
	struct record_exit exit;
	struct record_open open;
	struct record_connect connect;
	struct record_cgroup cgroup;
	struct record_cgroup_move cgroup_move;
	struct record_namespace namespace;
	u8 bytes[RECORD_MAX];
};

/*
 * One a CPU is enough: these tracepoints run with preemption off and none of them runs in an interrupt. The kernel caps an
 * element at 32 KiB.
 */
struct scratch {
	u32 used; /* bytes of the record so far */
	u32 path_start;
	u32 names_walked;  /* of the two below, those that the path has */
	u32 name_start[2]; /* in `path`: where the file's own name and its folder's begin, each with its '/' */
	struct path_key path_key;
	union record record;
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

static __always_inline void submit(struct scratch *s, enum record_kind kind)
{
	struct cpu_counters *c = cpu_counters();
	u32 len = s->used;
	if (!c)
		return;
	asm volatile("" : "+r"(len));
	if (len > RECORD_MAX)
		return;
	header_of(s)->len = len;
	header_of(s)->cpu_seq = c->tried++;
	/* Waking costs 8 µs, a record 0.1: wake once, by the record that crosses the mark. */
	u64 waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	u64 wake = waiting < wake_bytes && waiting + len >= wake_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
	if (bpf_ringbuf_output(&ring, &s->record, len, wake))
		c->dropped[kind]++;
	else
		c->sent[kind]++;
}
