-- title = "Write below a folder of programs in a container"
-- description = "A process in a running container wrote, removed, renamed or linked a file below a folder of programs, or a library of the system: programs come with the image, so what comes there later is a replaced tool, a backdoor or a dropped payload."
-- message = "{program} changes {file} ({call}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "stable"
-- risk = 70
-- attack = ["T1543", "T1554", "T1036.005"]
-- false_positives = ["containers that install or update software when they start", "image builds"]
-- blind_spots = ["changes that were refused", "writes through a descriptor that was opened for reading, or by the kernel for io_uring", "what a container's start script changes in its first quarter of an hour; start_script_unusual tells, at a lower severity", "rights and owners that are changed; setuid_bit_set sees the dangerous ones", "package managers, make and what they run, by the names of the ancestors, which a program can take; package_manager sees the former"]
-- references = ["https://attack.mitre.org/techniques/T1554/", "https://attack.mitre.org/techniques/T1036/005/"]
-- response = "Compare the file with the image's. If it is not yours: stop the container, keep its file system, and start it anew from the image."
-- dedup = { key = ["file"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fs_path_target, fd_name) AS file,
  evt_type AS call,
  fs_path_source,
  fd_host_name,
  fd_flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat', 'rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'unlink', 'unlinkat', 'truncate', 'mkdir', 'mkdirat')
  AND (
    evt_is_open_write
    OR evt_is_open_create
    OR evt_type IN ('rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'unlink', 'unlinkat', 'truncate', 'mkdir', 'mkdirat')
  )
  AND evt_outcome = 'success'
  AND (
    regexp_like(fd_name, '^(/usr)?(/local)?/s?bin/.')
    OR regexp_like(fd_host_name, '^(/usr)?(/local)?/s?bin/.')
    OR regexp_like(coalesce(fs_path_target, fd_name), '^(/usr)?(/local)?/lib(32|64|x32)?/([^/]+/)?([^/]+\.so(\.[0-9.]+)?|security/[^/]+)$')
    OR regexp_like(fs_path_target, '^(/usr)?(/local)?/s?bin/.')
    OR (evt_type IN ('rename', 'renameat', 'renameat2') AND regexp_like(fs_path_source, '^(/usr)?(/local)?/s?bin/.'))
  )
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
  -- Builds, and installations of a language's packages, which package_manager tells.
  AND NOT under_build
  AND NOT coalesce(regexp_like(proc_name, '^(pip|pipx|npm|yarn|pnpm|gem|cargo|composer|conda|mamba|uv|bun|poetry|pipenv|cpanm?|luarocks|easy_install)([0-9. ]|$)'), false)
  AND NOT image_build
  -- An update at the start; start_script_unusual tells.
  AND NOT start_script
