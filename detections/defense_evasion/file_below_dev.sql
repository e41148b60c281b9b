-- title = "File or folder made below /dev in a container"
-- description = "A process in a container made an ordinary file or a folder below /dev, where nobody looks for one: a classic place to hide tools."
-- message = "{program} makes {file} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 45
-- attack = ["T1564.001"]
-- false_positives = ["programs that make their own device files", "start scripts that link or make /dev/log and its kin"]
-- blind_spots = ["shared memory and queues (/dev/shm, /dev/mqueue); what runs from there is seen by execution_from_memory", "files that are moved there"]
-- references = ["https://attack.mitre.org/techniques/T1564/001/"]
-- response = "Look at what the file is, and at what the program did before."
-- dedup = { key = ["file"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_name AS file,
  evt_type AS call,
  fd_flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat', 'mkdir', 'mkdirat')
  AND starts_with(fd_name, '/dev/')
  AND evt_outcome = 'success'
  AND (evt_type IN ('creat', 'mkdir', 'mkdirat') OR (evt_is_open_create AND fd_type = 'file'))
  AND NOT regexp_like(fd_name, '^/dev/(shm|mqueue|hugepages|pts|net|mapper|disk|input|null|stdout|stderr|fd|tty|log)(/|$)')
