-- title = "Log or history cleared in a container"
-- description = "A shell or a tool of the system emptied, removed or replaced a log, the record of logins, or the history of a shell: traces are removed."
-- message = "{program} clears {file} ({call}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 65
-- attack = ["T1070.002", "T1070.003", "T1070.004"]
-- false_positives = ["scripts that begin their own log anew with a shell's >", "clean-up jobs written by hand"]
-- blind_spots = ["programs that write a log and empty it themselves, and those of the intruder's own", "single lines that are taken out of a file by an editor that keeps its name open", "logs that go to standard output, which containers' usually do", "package managers and what they run, and logrotate, by the names of the ancestors, which a program can take"]
-- references = ["https://attack.mitre.org/techniques/T1070/002/", "https://attack.mitre.org/techniques/T1070/003/"]
-- response = "Take the log from where it is collected, and look at what happened before."
-- dedup = { key = ["program", "proc_pkey"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fd_name, fs_path_source) AS file,
  evt_type AS call,
  fd_flags,
  fs_path_target,
  proc_pkey,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat', 'truncate', 'ftruncate', 'unlink', 'unlinkat', 'rename', 'renameat', 'renameat2', 'symlink', 'symlinkat')
  AND evt_outcome = 'success'
  AND (
    evt_type IN ('creat', 'unlink', 'unlinkat', 'rename', 'renameat', 'renameat2', 'symlink', 'symlinkat')
    OR (evt_is_open_write AND fd_flags LIKE '%O_TRUNC%')
    OR (evt_type IN ('truncate', 'ftruncate') AND evt_args['length'] = '0')
  )
  AND (
    regexp_like(fd_name, '^/var/(log|adm)/(.+/)?((w|b|u)tmp|lastlog|faillog|tallylog|auth\.log|secure|syslog|messages|kern\.log|daemon\.log|user\.log|audit\.log|access[^/]*|error[^/]*|[^/]+\.log)$|^/(var/)?run/utmp$|/\.(ash|bash|irb|ksh|mariadb|mysql|php|psql|python|rediscli|sh|sqlite|zsh)_history$')
    -- The host's, through a mount.
    OR regexp_like(fd_host_name, '^/var/log/(.+/)?((w|b|u)tmp|lastlog|faillog|tallylog|auth\.log|secure|syslog|messages|kern\.log|daemon\.log|user\.log|audit\.log|[^/]+\.log)$')
    OR (evt_type IN ('rename', 'renameat', 'renameat2') AND regexp_like(fs_path_source, '^/var/(log|adm)/(.+/)?((w|b|u)tmp|lastlog|faillog|tallylog|auth\.log|secure|syslog|messages|kern\.log|daemon\.log|user\.log|audit\.log|access[^/]*|error[^/]*|[^/]+\.log)$|^/(var/)?run/utmp$|/\.(ash|bash|irb|ksh|mariadb|mysql|php|psql|python|rediscli|sh|sqlite|zsh)_history$'))
    OR (evt_type IN ('symlink', 'symlinkat') AND regexp_like(fs_path_target, '^/var/(log|adm)/(.+/)?((w|b|u)tmp|lastlog|faillog|tallylog|auth\.log|secure|syslog|messages|kern\.log|daemon\.log|user\.log|audit\.log|access[^/]*|error[^/]*|[^/]+\.log)$|^/(var/)?run/utmp$|/\.(ash|bash|irb|ksh|mariadb|mysql|php|psql|python|rediscli|sh|sqlite|zsh)_history$'))
  )
  AND coalesce(proc_stage, '') NOT IN ('healthcheck', 'entrypoint')
  AND (
    program IN (SELECT name FROM general_readers)
    OR program IN (SELECT name FROM shells)
    OR program IN ('rm', 'ln', 'shred', 'truncate', 'unlink', 'srm', 'wipe', 'python3', 'perl')
    OR regexp_like(program, '^(python|perl|ruby|node|php|lua)')
  )
  -- A shell writes its own history anew.
  AND NOT (program IN (SELECT name FROM shells) AND evt_type IN ('open', 'openat', 'rename') AND regexp_like(coalesce(fd_name, fs_path_source), '_history$') AND coalesce(proc_tty, 0) <> 0)
  AND NOT coalesce(array_has_any(proc_aname, make_array('logrotate', 'savelog', 'newsyslog')), false)
  -- A package manager's own work; package_manager tells that it ran.
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
