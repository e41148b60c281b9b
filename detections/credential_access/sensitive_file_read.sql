-- title = "Sensitive file read in a container"
-- description = "A process in a container opened a file of password hashes, keys or credentials: system files by any program but those whose work it is, an application's secrets by programs that read whatever they are told to."
-- message = "{program} reads {file} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "stable"
-- risk = 70
-- attack = ["T1003.008", "T1552.001", "T1552.004"]
-- false_positives = ["scanning agents, and backups by programs of no known name or by a shell of busybox that is its own tar", "start scripts that read keys and credentials of other places with cat"]
-- blind_spots = ["reads that were refused", "keys of names of their own after the first reading by a program of that name in an hour", "keys in /etc/ssl/private and tokens of Kubernetes in the first minute of a container's own start", "an application's secrets that a container's start script reads in its first quarter of an hour", "archives and copies of whole trees by tar, rsync, cp -r and their kin, unless the command names the secret; secrets_in_archive tells, at a lower severity", "package managers and what they run, by the names of the ancestors, which a program can take", "files that were renamed, or linked to another name by hard links", "an application or a script that reads an application's secrets for an intruder", "secrets of Docker (/run/secrets), which start scripts read", "descriptors taken over from another process", "files named only by a folder far above them (deep below sudoers.d, pki or a cloud's folder), which the mount of another root shows: the first read an hour of each program is seen"]
-- reads = [
--   "*/etc/shadow*", "*/etc/gshadow*", "*/etc/sudoers", "*/sudoers.d/*", "*/security/opasswd", "*/krb5.keytab", "*/pki/*",
--   "*/kubernetes/admin.conf", "*/kubernetes/controller-manager.conf", "*/kubernetes/kubelet.conf", "*/kubernetes/scheduler.conf",
--   "*/kubernetes/super-admin.conf", "/etc/kubernetes", "/etc/sudoers.d", "/proc/kcore", "/dev/mem", "/dev/kmem",
--   "/root/.ssh", "*/.ssh/id_*", "*/.ssh/identity", "*/.ssh/authorized_keys*", "*/ssh/ssh_host_*", "*/.aws/credentials", "*/.azure/*",
--   "*/.docker/config.json", "*/.git-credentials", "*/.kube/config", "*/.my.cnf", "*/.netrc", "*/.npmrc", "*/.pgpass",
--   "*/.pypirc", "*/gcloud/*", "*/adc.json", "*/.ash_history", "*/.bash_history", "*/.irb_history", "*/.ksh_history",
--   "*/.mariadb_history", "*/.mysql_history", "*/.php_history", "*/.psql_history", "*/.python_history", "*/.rediscli_history",
--   "*/.sh_history", "*/.sqlite_history", "*/.zsh_history", "/run/secrets/kubernetes.io", "/var/run/secrets/kubernetes.io",
--   "/etc/ssl/private", "*/environ",
-- ]
-- references = ["https://attack.mitre.org/techniques/T1003/008/", "https://attack.mitre.org/techniques/T1552/001/"]
-- response = "Find out who asked for it. Treat what the file holds as known to others: change passwords, keys and tokens."
-- dedup = { key = ["program", "proc_key"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_key,
  -- As the container knows it, and as the host does.
  CASE WHEN fd_host_name <> fd_name THEN concat(fd_name, ' (', fd_host_name, ' of the host)') ELSE fd_name END AS file,
  fd_name,
  fd_nameraw,
  fd_flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_reads
WHERE secret IS NOT NULL
  -- Backups: secrets_in_archive tells.
  AND NOT in_bulk
  AND (
    (
      secret = 'system'
      -- What a package manager runs to set a package up.
      AND NOT under_package_manager
      AND NOT (
        coalesce(program, '') IN (SELECT name FROM credential_readers WHERE reads = 'accounts')
        AND regexp_like(coalesce(proc_exepath, ''), '^/(usr/)?(local/)?(s?bin|lib(exec)?(/openssh|/ssh|/systemd)?)/[^/]+$')
      )
    )
    OR (
      secret = 'key'
      AND NOT (
        coalesce(program, '') IN (SELECT name FROM credential_readers WHERE reads = 'keys')
        AND regexp_like(coalesce(proc_exepath, ''), '^/(usr/)?(local/)?(s?bin|lib(exec)?(/openssh|/ssh)?)/[^/]+$')
      )
    )
    OR (
      -- An application reads its own secrets; these programs read for whoever calls them.
      secret = 'application'
      AND (
        coalesce(program, '') IN (SELECT name FROM general_readers)
        OR one_liner
        OR (
          regexp_like(program, '^(python|perl|ruby|node|php|lua)')
          AND regexp_like(fd_name, '^/proc/[0-9]+/(task/[0-9]+/)?environ$')
        )
        -- A shell reads its own history when it starts.
        OR (
          program IN (SELECT name FROM shells)
          AND NOT regexp_like(fd_name, '_history$')
        )
      )
      AND coalesce(proc_stage, '') <> 'healthcheck'
      -- Its own environment.
      AND coalesce(fd_name <> concat('/proc/', CAST(proc_vpid AS VARCHAR), '/environ'), true)
      -- Certificates and tokens that a container's start makes ready.
      AND NOT (
        coalesce(proc_stage, '') = 'entrypoint'
        AND coalesce(ts < container_start_ts + INTERVAL '1 minute', container_name IS NOT NULL)
        AND coalesce(regexp_like(fd_name, '^(/var)?/run/secrets/kubernetes\.io/|^/etc/ssl/private/'), false)
      )
      AND NOT start_script
    )
  )
