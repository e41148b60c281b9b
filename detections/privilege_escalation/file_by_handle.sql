-- title = "File opened by its handle from a container"
-- description = "A process in a container opened a file by a handle instead of a path, or tried to: with CAP_DAC_READ_SEARCH any file of the file system below can be had so, the host's too (the shocker escape)."
-- message = "{program} opens a file by its handle ({evt_outcome}, {evt_res}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1611"]
-- false_positives = ["file servers and scanners that work by handles (NFS servers, fanotify)"]
-- blind_spots = ["which file it was, where the kernel does not tell its path"]
-- references = ["https://attack.mitre.org/techniques/T1611/"]
-- response = "Treat what the host keeps as read. Take CAP_DAC_READ_SEARCH away from the container; look at what the program is."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_outcome,
  evt_res,
  fd_name AS file,
  evt_args['flags'] AS flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'open_by_handle_at'
