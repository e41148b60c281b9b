/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Files: the one behind a descriptor, its identity, its path, and the lists of paths that matter. */
#pragma once

#define PATH_STEPS_MAX 128 /* components and mount points a path is followed through */
#define ON_NO_MOUNT (TEXT_MAX + 1)
#define OVERLAYFS_MAGIC 0x794c7630
#define S_IFMT 0170000
#define S_IFDIR 0040000
#define S_IFSOCK 0140000

/* Host paths whose opening for writing is captured at lifecycle; reads captured every time. Longest prefix match. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct path_key);
	__type(value, u32);
} host_writes SEC(".maps"), sensitive_reads SEC(".maps");

/*
 * Files whose reading is captured every time wherever they lie, by the end of their path: "name", or "/folder/name".
 * No name holds a '/', so an entry of one kind never takes a key of the other.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct path_key);
	__type(value, u32);
} sensitive_names SEC(".maps");

static __always_inline struct file *file_of(struct task_struct *task, u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = 0;
	if (fd < BPF_CORE_READ(table, max_fds))
		bpf_probe_read_kernel(&file, sizeof file, files + fd);
	return file;
}

static __always_inline s64 nanoseconds(s64 sec, s64 nsec)
{
	return sec * 1000000000 + nsec;
}

/* A field of the struct whose copy has the pointer's name. */
#define COPIED(pointer, field) FIELD_OF_COPY(s->pointer, pointer, field)
#define INODE_TIME(of, field) \
	nanoseconds(FIELD_OF_COPY(s->inode, of, field.tv_sec), FIELD_OF_COPY(s->inode, of, field.tv_nsec))

static __always_inline void copy_file(struct scratch *s, struct file *file)
{
	bpf_probe_read_kernel(s->file, sizeof s->file, file);
}

/* Copies the inode and its superblock. */
static __always_inline void copy_inode(struct scratch *s, struct inode *inode)
{
	bpf_probe_read_kernel(s->inode, sizeof s->inode, inode);
	bpf_probe_read_kernel(s->superblock, sizeof s->superblock, COPIED(inode, i_sb));
}

static __always_inline s64 mtime_of(struct scratch *s, struct inode *inode)
{
	struct inode___underscored *newer = (void *)inode;
	struct inode___old *older = (void *)inode;
	if (bpf_core_field_exists(inode->i_mtime_sec))
		return nanoseconds(COPIED(inode, i_mtime_sec), COPIED(inode, i_mtime_nsec));
	if (bpf_core_field_exists(newer->__i_mtime))
		return INODE_TIME(newer, __i_mtime);
	return INODE_TIME(older, i_mtime);
}

static __always_inline s64 ctime_of(struct scratch *s, struct inode *inode)
{
	struct inode___underscored *newer = (void *)inode;
	struct inode___old *older = (void *)inode;
	if (bpf_core_field_exists(inode->i_ctime_sec))
		return nanoseconds(COPIED(inode, i_ctime_sec), COPIED(inode, i_ctime_nsec));
	if (bpf_core_field_exists(newer->__i_ctime))
		return INODE_TIME(newer, __i_ctime);
	return INODE_TIME(older, i_ctime);
}

/*
 * An overlay keeps the upper layer's dentry right behind the inode it embeds (struct ovl_inode, every kernel since 4.19).
 * Taken by the inode's size and not by ovl_inode's BTF, which is missing where overlayfs is a module.
 */
static __always_inline bool lies_in_upper_layer(struct inode *inode)
{
	void *upper = 0;
	bpf_probe_read_kernel(&upper, sizeof upper, (char *)inode + bpf_core_type_size(struct inode));
	return upper != 0;
}

/* The inode is copied. */
static __always_inline void fill_file(struct scratch *s, struct record_file *out, struct inode *inode)
{
	struct super_block *superblock = COPIED(inode, i_sb);
	out->ino = COPIED(inode, i_ino);
	out->mtime_ns = mtime_of(s, inode);
	out->ctime_ns = ctime_of(s, inode);
	out->fs_magic = COPIED(superblock, s_magic);
	out->dev = COPIED(superblock, s_dev);
	out->nlink = COPIED(inode, i_nlink);
	out->mode = COPIED(inode, i_mode);
	out->overlay_upper = out->fs_magic == OVERLAYFS_MAGIC && lies_in_upper_layer(inode);
	out->pad = 0;
}

static __always_inline void copy_dentry(struct scratch *s, struct dentry *dentry)
{
	bpf_probe_read_kernel(s->dentry, sizeof s->dentry, dentry);
}

/* Puts "/" and the name of the dentry just copied in front of the path; false when there is no room left. */
static __always_inline bool prepend_name(struct scratch *s, struct dentry *dentry)
{
	u32 len = COPIED(dentry, d_name.len);
	if (len > 255)
		len = 255;
	if (s->path_start < len + 1)
		return false;
	u32 start = s->path_start - len;
	bpf_probe_read_kernel(&s->path[start & (TEXT_MAX - 1)], len & 255, COPIED(dentry, d_name.name));
	start--;
	s->path[start & (TEXT_MAX - 1)] = '/';
	s->path_start = start;
	if (s->names_walked < 2)
		s->name_start[s->names_walked++ & 1] = start;
	return true;
}

static __always_inline bool is_directory(struct dentry *dentry)
{
	return (BPF_CORE_READ(dentry, d_inode, i_mode) & S_IFMT) == S_IFDIR;
}

/*
 * Writes the path of (dentry, vfsmount) into scratch.path: upwards through the mounts to the root of the mount namespace,
 * so a container's file has the container's path. A file of no directory (memfd, pipe) gives its name alone.
 * Global, so that it is verified once and not for each of its callers; numbers, because such a function takes no pointers.
 */
__attribute__((noinline)) int walk_path(u64 dentry_address, u64 vfsmount_address)
{
	struct scratch *s = scratch();
	if (!s)
		return -1;
	s->path_start = TEXT_MAX;
	s->names_walked = 0;
	s->name_start[0] = TEXT_MAX - 1; /* no names: both are empty, which no list holds */
	s->name_start[1] = TEXT_MAX;
	struct dentry *dentry = (void *)dentry_address;
	struct mount *mount = (void *)(vfsmount_address - bpf_core_field_offset(struct mount, mnt));
	struct dentry *root = BPF_CORE_READ(mount, mnt.mnt_root);
	s->mount_root = (u64)root;
	s->mount_start = ON_NO_MOUNT;

	for (int i = 0; i < PATH_STEPS_MAX; i++) {
		if (dentry == root) {
			struct mount *up = BPF_CORE_READ(mount, mnt_parent);
			if (up == mount) {
				if (s->path_start == TEXT_MAX && !is_directory(dentry)) {
					copy_dentry(s, dentry); /* a file mounted by itself and detached: runc's own copy */
					prepend_name(s, dentry);
				}
				return 0;
			}
			if (s->mount_start == ON_NO_MOUNT)
				s->mount_start = s->path_start;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = up;
			root = BPF_CORE_READ(mount, mnt.mnt_root);
			continue;
		}
		copy_dentry(s, dentry);
		struct dentry *parent = COPIED(dentry, d_parent);
		if (!prepend_name(s, dentry))
			break;
		if (parent == dentry)
			return 0;
		dentry = parent;
	}
	set_flag(s, FLAG_TRUNCATED);
	return 0;
}

/* Whose tree of mounts a file was reached in: another process's, where it was reached through /proc/PID/root. 0 = in none. */
static __always_inline u32 mount_namespace_of_file(u64 vfsmount_address)
{
	struct mount *mount = (void *)(vfsmount_address - bpf_core_field_offset(struct mount, mnt));
	return BPF_CORE_READ(mount, mnt_ns, ns.inum);
}

static __always_inline void walk(struct path *path)
{
	walk_path((u64)BPF_CORE_READ(path, dentry), (u64)BPF_CORE_READ(path, mnt));
}

/* Appends what `walk_path` found, at most `max` bytes less one; its end is kept when it is longer. */
static __always_inline void append_walked(struct scratch *s, u32 max)
{
	if (s->path_start >= TEXT_MAX) { /* nothing was added: the root itself */
		s->path_start = TEXT_MAX - 1;
		s->path[TEXT_MAX - 1] = '/';
	}
	u32 len = TEXT_MAX - s->path_start;
	if (len > max - 1) {
		len = max - 1;
		set_flag(s, FLAG_TRUNCATED);
	}
	append_bytes(s, &s->path[(TEXT_MAX - len) & (TEXT_MAX - 1)], len);
}

/* Paths for callers that have nothing to decide between the walk and the text. Global for the same reason. */
__attribute__((noinline)) int append_path(u64 path_address, u32 max)
{
	struct scratch *s = scratch();
	if (!s)
		return -1;
	walk((struct path *)path_address);
	append_walked(s, max);
	return 0;
}

/*
 * Appends where the root of the mount of the file that was walked last lies in its file system, where only a part of that is
 * mounted. Takes the place of the path.
 */
static __always_inline void append_mount_root(struct scratch *s)
{
	struct dentry *root = (void *)s->mount_root;
	bool on_trees_root = s->mount_start == ON_NO_MOUNT || s->mount_start == s->path_start;
	if (on_trees_root || BPF_CORE_READ(root, d_parent) == root)
		return append_empty(s);
	walk_path((u64)root, 0); /* through no mounts */
	append_walked(s, TEXT_MAX);
}

/* Whether what was walked is in a list, from `start` in scratch.path on. */
static __always_inline bool walked_end_is_in(void *list, struct scratch *s, u32 start)
{
	u32 len = TEXT_MAX - start;
	struct path_key *key = &s->path_key;
	if (len > PATH_KEY_BYTES - 1)
		len = PATH_KEY_BYTES - 1;
	asm volatile("" : "+r"(len));
	bpf_probe_read_kernel(key->path, len & 255, &s->path[start & (TEXT_MAX - 1)]);
	key->path[len & 255] = 0;
	key->bits = (len + 1) * 8;
	return bpf_map_lookup_elem(list, key) != 0;
}

static __always_inline bool walked_is_in(void *list, struct scratch *s)
{
	return walked_end_is_in(list, s, s->path_start);
}

#define OWN_NAME_MAX 112 /* bytes with the NUL: more than user space takes into the list, and two fit into a key */

/* Whether a file is in the list by its names in its own file system: where it or its folder is mounted, the path has others. */
static __always_inline bool own_name_is_sensitive(struct scratch *s, struct dentry *dentry, struct dentry *parent)
{
	struct path_key *key = &s->path_key;
	long name = bpf_probe_read_kernel_str(key->path, OWN_NAME_MAX, BPF_CORE_READ(dentry, d_name.name));
	if (name <= 0)
		return false;
	key->bits = (name & 127) * 8;
	if (bpf_map_lookup_elem(&sensitive_names, key))
		return true;
	key->path[0] = '/';
	long folder = bpf_probe_read_kernel_str(&key->path[1], OWN_NAME_MAX, BPF_CORE_READ(parent, d_name.name));
	if (folder <= 0)
		return false;
	u32 slash = folder & 127; /* where the NUL of the folder's name is */
	key->path[slash] = '/';
	name = bpf_probe_read_kernel_str(&key->path[slash + 1], OWN_NAME_MAX, BPF_CORE_READ(dentry, d_name.name));
	key->bits = (slash + 1 + (name & 127)) * 8;
	return bpf_map_lookup_elem(&sensitive_names, key) != 0;
}

/* Whether the file that was walked last is in the list of names. Global, so that it is verified once. */
__attribute__((noinline)) int name_is_sensitive(u64 path_address)
{
	struct scratch *s = scratch();
	struct path *path = (void *)path_address;
	if (!s)
		return 0;
	if (walked_end_is_in(&sensitive_names, s, s->name_start[0] + 1) || walked_end_is_in(&sensitive_names, s, s->name_start[1]))
		return 1;
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
	struct dentry *root = BPF_CORE_READ(path, mnt, mnt_root);
	return (dentry == root || parent == root) && own_name_is_sensitive(s, dentry, parent);
}
