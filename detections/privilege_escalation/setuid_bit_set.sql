-- title = "File made to give its caller the owner's rights"
-- description = "A process in a container set the set-user-id bit of a file, or gave a file capabilities: whoever runs it gets rights that are not theirs. It is how root is kept for later."
-- message = "{program} gives {file} the rights of its owner ({rights}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1548.001"]
-- false_positives = ["archives with such files that are unpacked by root, such as another root file system", "image builds by other programs than package managers"]
-- blind_spots = ["the set-group-id bit, which folders have for other reasons", "files that are created with the bit, or moved here with it", "package managers and what they run, by the names of the ancestors, which a program can take, and steps of docker build"]
-- references = ["https://attack.mitre.org/techniques/T1548/001/"]
-- response = "Look at the file and remove the bit; find out who ran it since."
-- dedup = { key = ["file"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_name AS file,
  coalesce(evt_args['mode'], evt_args['name']) AS rights,
  evt_type AS call,
  fd_host_name,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('chmod', 'fchmod', 'fchmodat', 'fchmodat2', 'setxattr', 'lsetxattr', 'fsetxattr', 'setxattrat')
  AND evt_outcome = 'success'
  AND (regexp_like(evt_args['mode'], '^0[4-7][0-7]{3}$') OR evt_args['name'] = 'security.capability')
  -- A package manager's own work; package_manager tells that it ran.
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
  -- A step of docker build.
  AND NOT image_build
