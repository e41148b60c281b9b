-- title = "Accounts or rights of login changed in a container"
-- description = "A process in a running container changed a file that decides who may log in or become root: accounts, passwords, sudo's rules, PAM, keys that SSH accepts. Accounts come with the image; what is added later lets somebody in again."
-- message = "{program} changes {file} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1098.004", "T1136.001", "T1548.003", "T1556.003"]
-- false_positives = ["start scripts that add a line to /etc/passwd for a user id they were given", "containers that keep accounts, such as SSH and FTP servers"]
-- blind_spots = ["tools for accounts in the first minute of a container's own start", "package managers and what they run, by the names of the ancestors, which a program can take, and steps of docker build", "accounts kept elsewhere, such as in LDAP or an application's database", "files changed through a descriptor that was opened before, or by the kernel for io_uring"]
-- references = ["https://attack.mitre.org/techniques/T1098/004/", "https://attack.mitre.org/techniques/T1136/001/"]
-- response = "Look at what was added and who runs the program. If nobody of yours: take the container off the network, look for logins since, and start it anew from the image."
-- dedup = { key = ["file", "program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fs_path_target, fd_name) AS file,
  evt_type AS call,
  fs_path_source,
  fd_flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat', 'rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'truncate')
  AND evt_outcome = 'success'
  AND (evt_is_open_write OR evt_type IN ('rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'truncate'))
  AND (
    regexp_like(fd_name, '^/etc/(passwd|shadow|group|gshadow|sudoers|sudoers\.d/[^/]+|pam\.d/[^/]+|security/[^/]+|ssh/sshd_config(\.d/[^/]+)?|login\.access|hosts\.equiv)$|^/(root|(home|var|srv|opt|usr)/.+|[^/]+)/\.(ssh/(authorized_keys2?|rc|environment)|rhosts|shosts|k5login)$')
    OR regexp_like(fs_path_target, '^/etc/(passwd|shadow|group|gshadow|sudoers|sudoers\.d/[^/]+|pam\.d/[^/]+|security/[^/]+|ssh/sshd_config(\.d/[^/]+)?|login\.access|hosts\.equiv)$|^/(root|(home|var|srv|opt|usr)/.+|[^/]+)/\.(ssh/(authorized_keys2?|rc|environment)|rhosts|shosts|k5login)$')
  )
  -- A package manager's own work; package_manager tells that it ran.
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
  -- A step of docker build.
  AND NOT image_build
  -- A user made when the container starts; its start is not known in its first moments.
  AND NOT (
    coalesce(proc_stage, '') = 'entrypoint'
    AND coalesce(ts < container_start_ts + INTERVAL '1 minute', container_name IS NOT NULL)
    AND coalesce(program, '') IN (SELECT name FROM credential_readers WHERE reads = 'accounts')
    AND regexp_like(coalesce(proc_exepath, ''), '^/(usr/)?s?bin/[^/]+$')
  )
