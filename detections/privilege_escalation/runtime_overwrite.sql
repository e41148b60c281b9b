-- title = "Running program opened for writing through /proc"
-- description = "A process in a container opened the executable of a running process for writing, through /proc/PID/exe, or the container runtime's own file: that is how runc on the host is replaced from inside (CVE-2019-5736 and its kin)."
-- message = "{program} opens {given} for writing ({evt_outcome}, {evt_res}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "critical"
-- status = "experimental"
-- risk = 90
-- attack = ["T1611", "T1554"]
-- false_positives = ["none known"]
-- blind_spots = ["a descriptor that was opened for reading and is opened anew by /proc/self/fd", "the runtime under another name than runc, crun, youki, containerd-shim or docker-init"]
-- references = ["https://attack.mitre.org/techniques/T1611/", "https://attack.mitre.org/techniques/T1554/"]
-- response = "Treat the host as taken where it succeeded: compare the runtime's file with the package's. Update the runtime."
-- dedup = { key = ["given"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fd_nameraw, fd_name) AS given,
  fd_name AS file,
  fd_host_name,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat')
  AND evt_is_open_write
  AND (
    regexp_like(coalesce(fd_nameraw, fd_name), '^/proc/(self|thread-self|[0-9]+)/exe$')
    OR regexp_like(fd_host_name, '/(runc|crun|youki|containerd-shim[^/]*|docker-init)$')
  )
