-- title = "Container's start script does what intruders do"
-- description = "In a container's first quarter of an hour its own command, or a script right below it, ran a program that the image does not hold, changed a program or a job of cron, installed packages, or opened a connection by the shell itself. Start scripts, builds and CI do so, and so does a container that somebody starts to do harm; each is an alert of its own, and a more severe one, where it is done later or by anything else."
-- message = "the start of container {container} ({container_image}) {act}, as {user_name}: {proc_cmdline}"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1610", "T1059.004", "T1105"]
-- false_positives = ["CI, builds, and start scripts that update their software, or wait for a port"]
-- blind_spots = ["what a service does that the start script has started", "an application's secrets that it reads, as start scripts do", "a start script that is seen without its container's name and start"]
-- references = ["https://attack.mitre.org/techniques/T1610/"]
-- response = "Read the container's command and its start script, and ask who started it. Leave images that are built this way out of a copy of this detection."
-- dedup = { key = [], period = "24h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  CASE
    WHEN evt_type IN ('execve', 'execveat') AND proc_exe_from = 'upper' THEN concat('runs ', proc_exepath, ', which the image does not hold')
    WHEN evt_type IN ('execve', 'execveat') THEN 'installs packages'
    WHEN evt_type = 'connect' THEN concat('connects to ', fd_sip, ':', CAST(fd_sport AS VARCHAR), ' by the shell itself')
    ELSE concat('changes ', coalesce(fs_path_target, fd_name))
  END AS act,
  evt_type AS call,
  proc_exepath,
  proc_exe_sha256,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('execve', 'execveat', 'connect', 'open', 'openat', 'openat2', 'creat', 'rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'unlink', 'unlinkat', 'truncate')
  AND start_script
  AND NOT image_build
  AND (
    (
      evt_type IN ('execve', 'execveat')
      AND evt_outcome = 'success'
      AND (
        proc_exe_from = 'upper'
        OR program IN (SELECT name FROM package_managers)
        OR regexp_like(concat(proc_name, ' ', array_to_string(proc_args, ' ')), '^(\S+ )*(\S*/)?(pip[0-9.]*|pipx|npm|npm-cli\.js|yarn|pnpm|gem[0-9.]*|cpanm?)( -\S+)* (install|add|i|ci)( |$)')
      )
    )
    OR (
      evt_type = 'connect'
      AND fd_family IN ('ipv4', 'ipv6')
      AND coalesce(fd_sport, 0) NOT IN (0, 53)
      AND program IN (SELECT name FROM shells)
    )
    OR (
      (evt_is_open_write OR evt_type IN ('creat', 'rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'unlink', 'unlinkat', 'truncate'))
      AND evt_outcome = 'success'
      AND (regexp_like(fd_name, '^(/usr)?(/local)?/s?bin/.|^/etc/(cron|anacron)|^/var/spool/cron') OR regexp_like(fs_path_target, '^(/usr)?(/local)?/s?bin/.'))
    )
  )
