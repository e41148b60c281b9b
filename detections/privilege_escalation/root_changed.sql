-- title = "Another root entered in a container"
-- description = "A process in a container made another folder its root, by a program for that (chroot, unshare), by a path of another process, or onto a mount of the host's root: a container that has the host's files mounted becomes the host so."
-- message = "{program} makes {place} its root in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1611"]
-- false_positives = ["builders of images and packages (debootstrap, mock)", "node agents that run the host's programs by chroot"]
-- blind_spots = ["a program of the intruder's own that calls chroot below a service, unless the folder has a name that tells it"]
-- references = ["https://attack.mitre.org/techniques/T1611/"]
-- response = "Look at what was mounted there and what ran next. Give containers no mount of the host's root."
-- dedup = { key = ["place"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fd_name, fs_path_source) AS place,
  fd_nameraw,
  container_privileged,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('chroot', 'pivot_root')
  AND evt_outcome = 'success'
  AND coalesce(proc_name, '') NOT IN (SELECT name FROM runtimes)
  AND (
    program IN ('chroot', 'unshare', 'nsenter', 'setpriv', 'switch_root', 'pivot_root')
    OR program IN (SELECT name FROM script_runners)
    OR regexp_like(program, '^python[0-9.]+$')
    -- A mount of the host's root, under whatever name.
    OR fd_host_name = '/'
    -- By whatever was put into the container, but to folders where servers and transfers of files are shut in.
    OR (proc_stage = 'exec' AND NOT coalesce(regexp_like(fd_name, '^/(var|run|srv|home|usr/share/empty|nonexistent)(/|$)'), false))
    OR regexp_like(concat(fd_name, ' ', fd_nameraw), '(^| )(/proc/[0-9]+/root|(/mnt|/media)?/(host|rootfs|hostfs|host-root|node|mnt)/?( |$))')
  )
