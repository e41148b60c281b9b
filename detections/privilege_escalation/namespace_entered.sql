-- title = "Namespace of another process entered from a container"
-- description = "A process of a container joined another namespace (setns, nsenter): one with rights for that steps into other containers, or onto the host, without writing anything."
-- message = "{program} enters a namespace ({flags}, {evt_outcome}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1611"]
-- false_positives = ["agents that set up networks or storage for containers (ip netns exec, CSI and CNI plug-ins)", "containers that run containers"]
-- blind_spots = ["which namespace it was, beside its kind", "a path through /proc/PID/root, which needs no namespace"]
-- references = ["https://attack.mitre.org/techniques/T1611/"]
-- response = "Look at what the process did next: its events bear container_origin_id when it has left the container. Take CAP_SYS_ADMIN and the host's pid namespace away from the container."
-- dedup = { key = ["program", "flags"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_args['flags'] AS flags,
  evt_outcome,
  evt_res,
  proc_in_host_mntns,
  container_privileged,
  container_host_pid,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'setns'
  AND (evt_outcome = 'success' OR evt_res IN ('EPERM', 'EACCES'))
  -- Containers in a container.
  AND coalesce(proc_name, '') NOT IN (SELECT name FROM runtimes)
