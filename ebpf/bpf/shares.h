/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Shares: how many records a container may send, so that none blinds the others.
 *
 * Each share has token buckets, one a class of records, as the time until which they are paid: a record moves it on by its
 * cost, and a time in the future means used up. Unused time is kept for BURST_NS. Of each class a share has an assured part
 * to itself; what goes beyond must fit into what is allowed one share and into what all may send together. So many busy
 * containers cannot use up what a quiet one needs.
 *
 * Two CPUs that pay at once may both be let through: the limit is exceeded by one record a CPU at most.
 */
#pragma once

#define BURST_NS 2000000000ull
#define ns_to_keep(now) ((now) > BURST_NS ? (now) - BURST_NS : 0)

/* User space sets its own. */
volatile const struct rate rates[CLASS_COUNT] = {};
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

static __always_inline bool pay(u64 *until, u64 now, u64 cost_ns)
{
	u64 paid = *until;
	if (paid < ns_to_keep(now))
		*until = paid = ns_to_keep(now);
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
	if (pay(&share->paid[class].assured_until, now, rates[class].assured_ns))
		return true;
	if (!pay(&share->paid[class].further_until, now, rates[class].further_ns))
		return false;
	total = bpf_map_lookup_elem(&totals, &zero);
	return total && pay(&total->until[class], now, rates[class].total_ns);
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
	if (share->texts_until < ns_to_keep(now))
		share->texts_until = ns_to_keep(now);
	__sync_fetch_and_add(&share->texts_until, bytes * text_byte_ns);
}
