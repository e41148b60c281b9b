-- title = "Mount made in a container"
-- description = "A process in a running container mounted something, or tried to: the host's disk, a control group's hierarchy, a bind mount over a file. Mounts are the runtime's work; a container that can make them can reach the host."
-- message = "{program} mounts {what} at {place} ({evt_outcome}, {evt_res}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 75
-- attack = ["T1611"]
-- false_positives = ["storage plug-ins (CSI), containers that run containers, and builders of images"]
-- blind_spots = ["what is mounted by the new calls (fsopen, fsconfig), which tell the kind apart from the place", "changes of mounts that are there (remount, propagation)", "mounts in a user namespace of the process's own look alike", "attempts that fail for another reason than missing rights, such as a device that is not there"]
-- references = ["https://attack.mitre.org/techniques/T1611/"]
-- response = "If the host's disk or a control group was mounted, treat the host as taken. Take CAP_SYS_ADMIN away from the container."
-- dedup = { key = ["program", "place"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(evt_args['dev'], fs_path_source, evt_type) AS what,
  coalesce(fd_name, fs_path_target) AS place,
  evt_args['type'] AS kind,
  evt_args['flags'] AS flags,
  evt_outcome,
  evt_res,
  container_privileged,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('mount', 'move_mount')
  AND (evt_outcome = 'success' OR evt_res IN ('EPERM', 'EACCES'))
  AND NOT coalesce(regexp_like(evt_args['flags'], 'MS_(REMOUNT|PRIVATE|SLAVE|SHARED|UNBINDABLE)'), false)
  -- Containers in a container.
  AND coalesce(proc_name, '') NOT IN (SELECT name FROM runtimes)
