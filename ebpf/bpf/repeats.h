/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Opens that say nothing new: files read again, and failures that repeat. */
#pragma once

#define FMODE_READ 1
#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
#define AT_FDCWD -100

struct open_how {
	u64 flags, mode;
};

struct open_request {
	s32 dirfd;
	u64 raw; /* the path in user memory */
	u64 flags, mode;
};

#define REPEAT_NS (3600ull * 1000000000)
#define EPERM 1
#define EACCES 13
#define FOLD_SLOTS 256 /* failures of one share counted at a time: a byte of the hash names one */
#define FOLD_PLACES 4  /* slots that a failure may be in; with one alone, two that share it would push each other out */
/* So long after its last repeat a failure keeps its slot: user space, which reads every 10 s, has its number by then. */
#define FOLD_KEEP_NS 30000000000ull

/*
 * Reads already sent. The dentry, its name and the mount are part of the key: a file's hard link, bind mount or new name
 * must not hide a later read under its sensitive one, even where the kernel uses a dentry's memory again.
 * So is the program: another one that reads the same file is news.
 */
struct seen_key {
	u64 cgroup_id, ino, dentry, name, mount;
	struct program program;
	u32 dev, access;
};
struct seen {
	u64 at_ns;
	u64 generation; /* of the names when the path was walked last */
	u64 path;       /* its hash; 0 = too long for one */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 24576);
	__type(key, struct seen_key);
	__type(value, struct seen);
} seen SEC(".maps");

/* Keyed by share and slot, so that no container's failures push out another's. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct folded_key);
	__type(value, struct tally);
} folded SEC(".maps");

/* Moved on by every call that gives paths to files they did not have: renamed folders, mounts. See calls.h. */
u64 names_generation = 0;

/* `inode` is the file's; both are copied. */
static __always_inline void fill_seen_key(struct seen_key *key, struct scratch *s, struct subject *who, struct file *file,
					  struct inode *inode)
{
	struct dentry *dentry = COPIED(file, f_path.dentry);
	struct super_block *superblock = COPIED(inode, i_sb);
	key->cgroup_id = who->cgroup_id;
	key->ino = COPIED(inode, i_ino);
	key->dentry = (u64)dentry;
	key->name = BPF_CORE_READ(dentry, d_name.hash_len);
	key->mount = (u64)COPIED(file, f_path.mnt);
	key->program = program_of(who->task);
	key->dev = COPIED(superblock, s_dev);
	key->access = COPIED(file, f_mode) & (FMODE_READ | FMODE_WRITE | FMODE_PATH);
}

/* The hash of what `walk_path` found and `is_sensitive` left in the path key; 0 when that is longer than a hash is made of. */
static __always_inline u64 hash_walked(struct scratch *s)
{
	u32 len = TEXT_MAX - s->path_start;
	return len < PATH_KEY_BYTES ? hash_path_key(s, hash_seed, len) : 0;
}

/* Failures that mean that something was refused are always sent. */
static __always_inline bool folds(s64 ret)
{
	return ret < 0 && ret != -EACCES && ret != -EPERM;
}

/*
 * What makes a failure the same as one before: who, which program, how it failed, how it was to be opened, the path as
 * given and the folder it starts from. 0 when the path is longer than a hash is made of.
 */
static __always_inline u64 hash_failure(struct scratch *s, struct subject *who, struct syscall *call, struct open_request *request,
					struct path *base, u32 raw)
{
	u32 len = s->used - raw - 2;
	if (len > PATH_KEY_BYTES - 1)
		return 0;
	u64 hash = mix(hash_seed, who->cgroup_id);
	hash = mix(hash, (u64)program_file_of(who->task));
	hash = mix(hash, (u64)-call->ret << 32 | (request->flags & (O_ACCMODE | O_CREAT | O_TRUNC)));
	if (base) {
		hash = mix(hash, (u64)BPF_CORE_READ(base, dentry));
		hash = mix(hash, (u64)BPF_CORE_READ(base, mnt));
	}
	asm volatile("" : "+r"(len));
	bpf_probe_read_kernel(s->path_key.path, len & (PATH_KEY_BYTES - 1), text_at(s, raw));
	return hash_path_key(s, hash, len);
}

/* One of the slots that a failure may be in. */
static __always_inline struct folded_key folded_key(u64 share, u64 hash, u32 place)
{
	return (struct folded_key){.share = share, .slot = hash >> (32 + 8 * (place & (FOLD_PLACES - 1))) & (FOLD_SLOTS - 1)};
}

/* What `fold_place` says beside a place. */
enum { FOLD_REPEATED = FOLD_PLACES, FOLD_NO_ROOM };

/*
 * Counts a failure that was sent before (FOLD_REPEATED). Of another one the place where its repeats can be counted: the
 * first that is empty, else the one that was silent the longest, unless user space may still have to read it. Global, so
 * that it is verified once.
 */
__attribute__((noinline)) int fold_place(u64 share, u64 hash, u64 now)
{
	u32 best = FOLD_NO_ROOM;
	u64 best_ns = now > FOLD_KEEP_NS ? now - FOLD_KEEP_NS : 1; /* an empty one was never used */
#pragma unroll
	for (u32 place = 0; place < FOLD_PLACES; place++) {
		struct folded_key key = folded_key(share, hash, place);
		struct tally *slot = bpf_map_lookup_elem(&folded, &key);
		u64 last_ns = slot ? slot->last_ns : 0;
		if (slot && slot->hash == hash) {
			__sync_fetch_and_add(&slot->count, 1);
			slot->last_ns = now;
			return FOLD_REPEATED;
		}
		if (last_ns < best_ns) {
			best = place;
			best_ns = last_ns;
		}
	}
	return best;
}

/* True when the failure repeats one that was sent: it is counted. Otherwise the record says whether its repeats will be. */
static __always_inline bool is_repeated_failure(struct scratch *s, u64 share, u64 hash, u64 now)
{
	u32 place = hash ? fold_place(share, hash, now) : FOLD_NO_ROOM;
	if (place == FOLD_REPEATED)
		return true;
	s->fold_place = place;
	s->record.open.fold = place < FOLD_PLACES ? hash : 0;
	return false;
}

/* From now on repeats of the failure are counted; it is about to be sent itself. */
static __always_inline void count_repeats(struct scratch *s, u64 share, u64 hash, u64 now)
{
	struct folded_key key = folded_key(share, hash, s->fold_place);
	struct tally none = {.hash = hash, .first_ns = now, .last_ns = now};
	bpf_map_update_elem(&folded, &key, &none, BPF_ANY);
}
