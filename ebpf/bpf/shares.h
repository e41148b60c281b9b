/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Shares: how many records a container may send, so that none blinds the others.
 *
 * Each share has token buckets, one a class of records, as the time until which they are paid: a record moves it on by its
 * cost, and a time in the future means used up. Of each class a share has an assured part to itself; what goes beyond must
 * fit into what is allowed one share and into what all may send together. So many busy containers cannot use up what a
 * quiet one needs.
 *
 * Unused time is kept for BURST_NS. While much waits in the ring, only for CROWDED_BURST_NS beyond the assured part: else
 * a single container, silent for a while, could fill the ring before anything of it is read.
 *
 * Two CPUs that pay at once may both be let through: the limit is exceeded by one record a CPU at most.
 */
#pragma once

#define BURST_NS 2000000000ull
#define CROWDED_BURST_NS 250000000ull
#define RECORD_BYTES 512          /* more than most have */
#define DEBT_MAX_NS 1000000000ull /* a class that is paid for so long is not charged for long records */

/* User space sets its own. */
volatile const struct rate rates[CLASS_COUNT] = {};
/* Bursts are short while more than this waits in the ring. */
volatile const u64 burst_bytes = 1 << 20;
volatile const u64 text_byte_ns = 0; /* what a byte of an exec's long texts costs; 0 = no limit */

/* An evicted share begins again with full buckets; cgroups below a container use the container's, so none can make many. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct share);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct total);
} totals SEC(".maps");

/* When it is full a refusal is in the counters alone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, struct limited_key);
	__type(value, struct tally);
} limited SEC(".maps");

static const struct share full_buckets = {};

static __always_inline struct share *share_of(u64 id)
{
	struct share *share = bpf_map_lookup_elem(&shares, &id);
	if (share)
		return share;
	bpf_map_update_elem(&shares, &id, &full_buckets, BPF_NOEXIST);
	return bpf_map_lookup_elem(&shares, &id);
}

static __always_inline u64 before(u64 now, u64 ns)
{
	return now > ns ? now - ns : 0;
}

/* Since when unused time is kept beyond the assured part. */
static __always_inline u64 kept_from(u64 now)
{
	return before(now, bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > burst_bytes ? CROWDED_BURST_NS : BURST_NS);
}

/* `from`: unused time before it is not kept. */
static __always_inline bool pay(u64 *until, u64 from, u64 now, u64 cost_ns)
{
	u64 paid = *until;
	if (paid < from)
		*until = paid = from;
	if (paid > now)
		return false;
	__sync_fetch_and_add(until, cost_ns);
	return true;
}

static __always_inline bool pay_for(struct share *share, u32 class, u64 now)
{
	u32 zero = 0;
	struct total *total;
	asm volatile("" : "+r"(class));
	if (class >= CLASS_COUNT) /* cannot be, but the verifier does not know */
		return true;
	if (pay(&share->paid[class].assured_until, before(now, BURST_NS), now, rates[class].assured_ns))
		return true;
	u64 from = kept_from(now);
	if (!pay(&share->paid[class].further_until, from, now, rates[class].further_ns))
		return false;
	total = bpf_map_lookup_elem(&totals, &zero);
	return total && pay(&total->until[class], from, now, rates[class].total_ns);
}

static __always_inline void pay_more(u64 *until, u64 now, u64 cost_ns)
{
	if (*until < now + DEBT_MAX_NS)
		__sync_fetch_and_add(until, cost_ns);
}

/* What a record has beyond RECORD_BYTES is paid when it is known, as so many records more: long paths fill the ring, too. */
__attribute__((noinline)) int pay_for_bytes(u64 share_id, u32 class, u64 now, u32 bytes)
{
	u32 zero = 0;
	u64 more = bytes / RECORD_BYTES;
	struct share *share = more ? share_of(share_id) : 0;
	struct total *total = bpf_map_lookup_elem(&totals, &zero);
	asm volatile("" : "+r"(class));
	if (!share || !total || class >= CLASS_COUNT)
		return 0;
	pay_more(&share->paid[class].assured_until, now, more * rates[class].assured_ns);
	pay_more(&share->paid[class].further_until, now, more * rates[class].further_ns);
	pay_more(&total->until[class], now, more * rates[class].total_ns);
	return 0;
}

/* True when a share can pay for a record. This and the next are global: what they keep on the stack is not the caller's. */
__attribute__((noinline)) int pays(u64 share_id, u32 class, u64 now)
{
	struct share *share = share_of(share_id);
	return !share || pay_for(share, class, now);
}

/* Adds to a tally; false when there is none and no room for one. */
static __always_inline bool tally(void *map, void *key, u64 hash, u64 now)
{
	struct tally first = {.hash = hash, .count = 1, .first_ns = now, .last_ns = now};
	struct tally *before = bpf_map_lookup_elem(map, key);
	if (!before) {
		if (!bpf_map_update_elem(map, key, &first, BPF_NOEXIST))
			return true;
		before = bpf_map_lookup_elem(map, key);
		if (!before)
			return false;
	}
	__sync_fetch_and_add(&before->count, 1);
	before->last_ns = now;
	return true;
}

/* Counts a record that was refused, as `counted_as` says. */
__attribute__((noinline)) int count_limited(u64 share_id, u32 counted, u64 now)
{
	struct limited_key key = {.share = share_id, .counted = counted};
	struct cpu_counters *c = cpu_counters();
	if (c)
		c->limited[counted & (COUNTED_MAX - 1)]++;
	tally(&limited, &key, 0, now);
	return 0;
}

/* True when a record may be sent; otherwise it is counted, as `counted_as` says. */
static __always_inline bool within_share(u64 share_id, u32 counted, u32 class, u64 now)
{
	if (pays(share_id, class, now))
		return true;
	count_limited(share_id, counted, now);
	return false;
}

/* True while an exec may have its texts whole: its share can pay for them, and half of the ring is free. */
static __always_inline bool may_send_texts(struct share *share, u64 now)
{
	if (bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > texts_bytes)
		return false;
	return !share || share->texts_until <= now;
}

/* Texts are paid when their length is known: the last one may go beyond the share. */
static __always_inline void pay_for_texts(struct share *share, u64 now, u32 bytes)
{
	if (!share)
		return;
	u64 from = kept_from(now);
	if (share->texts_until < from)
		share->texts_until = from;
	__sync_fetch_and_add(&share->texts_until, bytes * text_byte_ns);
}
