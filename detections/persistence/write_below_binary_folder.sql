-- title = "Write below a folder of programs in a container"
-- description = "A process in a running container opened a file below a folder of programs for writing: programs come with the image, so what is written there later is a replaced tool, a backdoor or a dropped payload."
-- message = "{program} writes {file} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "stable"
-- risk = 70
-- attack = ["T1543", "T1554", "T1036.005"]
-- false_positives = ["containers that install or update software when they start", "image builds"]
-- blind_spots = ["files moved or linked there from the same file system", "writes that were refused", "writes through a descriptor that was opened for reading, or by the kernel for io_uring", "package managers of the image; package_manager sees them"]
-- references = ["https://attack.mitre.org/techniques/T1554/", "https://attack.mitre.org/techniques/T1036/005/"]
-- response = "Compare the file with the image's. If it is not yours: stop the container, keep its file system, and start it anew from the image."
-- dedup = { key = ["file"] }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  program(proc_exepath, proc_exe, proc_args) AS program,
  fd_name AS file,
  fd_host_name,
  fd_flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_name,
  user_host_uid
FROM events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat')
  AND (evt_is_open_write OR evt_is_open_create)
  AND evt_outcome = 'success'
  AND (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') <> 'runtime'
  AND (
    regexp_like(fd_name, '^(/usr)?(/local)?/s?bin/.')
    OR regexp_like(fd_host_name, '^(/usr)?(/local)?/s?bin/.')
  )
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
