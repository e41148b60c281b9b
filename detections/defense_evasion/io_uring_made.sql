-- title = "Calls through io_uring in a container"
-- description = "A process in a container made an io_uring: files that it opens and connections that it makes so are seen by no detection. Servers and databases use it for speed, intruders to pass by."
-- message = "{program} may call the kernel unseen by io_uring in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1562.001"]
-- false_positives = ["databases, proxies and run times that use it for speed"]
-- blind_spots = ["what is done through it"]
-- references = ["https://attack.mitre.org/techniques/T1562/001/"]
-- response = "Forbid it to containers that do not need it, by their seccomp profile (Docker does from version 25 on) or kernel.io_uring_disabled."
-- dedup = { key = ["program"], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  evt_args['entries'] AS entries,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'io_uring_setup'
  AND evt_outcome = 'success'
