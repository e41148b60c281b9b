-- description = "Files that containers, or processes that left one, open for reading with success. secret says what kind of secret the file is by its name: of the system, a key, of an application; in_bulk that an archive or a copy of a whole tree is made by somebody who did not name it."
SELECT
  *,
  coalesce(container_name, container_id) AS container,
  program(proc_exepath, proc_exe, proc_args) AS program,
  coalesce(user_name, CASE WHEN user_uid = 0 THEN 'root' ELSE 'uid ' || CAST(user_uid AS VARCHAR) END) AS user_told,
  -- What the container was started with, in its first quarter of an hour: its command itself, or what stands below it with nothing
  -- between but shells and what shells begin with. Where its start is not known, its name must be.
  coalesce(
    proc_stage = 'entrypoint'
    AND coalesce(ts < container_start_ts + INTERVAL '15 minutes', container_name IS NOT NULL)
    AND (
      proc_vpid = 1
      OR (proc_pvpid = 1 AND regexp_like(proc_pexepath, '/((ba|da|a|k|z)?sh|busybox)$'))
      OR regexp_like(
        array_to_string(proc_aname, ','),
        '^((ash|bash|dash|ksh|sh|zsh|busybox|[^,]+\.sh|docker-entrypoi|entrypoint|env|gosu|nice|nohup|runuser|setpriv|su|su-exec|sudo|time|timeout|tini|dumb-init|docker-init|catatonit),)*(containerd-shim|conmon|runc[^,]*|crun|youki)(,|$)'
      )
    ),
    false
  ) AS start_script,
  coalesce(array_has_any(proc_aname, (SELECT array_agg(name) FROM package_managers)), false) AS under_package_manager,
  -- An interpreter with its program in the command line.
  coalesce(
    regexp_like(
      concat(program(proc_exepath, proc_exe, proc_args), ' ', array_to_string(proc_args, ' ')),
      '^(python[^ ]* (-[WX] [^ ]+ |-[^ c-][^ c]* )*-[a-zA-Z]*c|(perl|ruby|lua)[^ ]* (-[rIM] [^ ]+ |-[^ ]+ )*-[a-zA-Z]*e|perl[^ ]* (-[^ ]+ )*-[a-zA-Z]*E|node[^ ]* (-r [^ ]+ |-[^ ]+ )*(-p?e|-p|--eval|--print)|php[^ ]* (-[cd] [^ ]+ |-[^ ]+ )*-r)( |$)'
    ),
    false
  ) AS one_liner,
  CASE
    -- Below any root: a mount of the host's at /mnt/host/etc/shadow is no less.
    WHEN regexp_like(
      concat(fd_name, ' ', fd_host_name),
      '/etc/(g?shadow([-~]|\.[a-z0-9]+)?|sudoers|sudoers\.d/[^ ]+|security/opasswd|krb5\.keytab|kubernetes/(admin|controller-manager|kubelet|scheduler|super-admin)\.conf|kubernetes/pki/[^ ]+\.key)( |$)|(^| )/(proc/kcore|dev/k?mem)( |$)'
    ) THEN 'system'
    WHEN regexp_like(concat(fd_name, ' ', fd_host_name), '/\.ssh/(id_[a-z0-9_]+|identity)( |$)|/etc/ssh/ssh_host_[a-z0-9]+_key( |$)') THEN 'key'
    -- Keys of any other name.
    WHEN regexp_like(concat(fd_name, ' ', fd_host_name), '/\.ssh/[^/ ]+( |$)|/privkey[0-9]*\.pem( |$)|/[^/ ]+\.(p12|pfx|jks|kdbx|ppk)( |$)')
      AND NOT regexp_like(concat(fd_name, ' ', fd_host_name), '/\.ssh/(config|known_hosts[^/ ]*|authorized_keys2?|environment|rc|[^/ ]+\.pub)( |$)') THEN 'application'
    WHEN regexp_like(
      concat(fd_name, ' ', fd_host_name),
      '/\.(aws/credentials|docker/config\.json|kube/config|git-credentials|netrc|pgpass|my\.cnf|npmrc|pypirc|azure/[^ ]*[Tt]oken[^ ]*|config/gcloud/[^ ]*(credentials|tokens)[^ ]*|ssh/authorized_keys2?)( |$)|/\.(ash|bash|irb|ksh|mariadb|mysql|php|psql|python|rediscli|sh|sqlite|zsh)_history( |$)|(^| )(/var)?/run/secrets/kubernetes\.io/[^ ]+|(^| )/etc/ssl/private/[^ ]+|/proc/[0-9]+/(task/[0-9]+/)?environ( |$)'
    ) THEN 'application'
  END AS secret,
  coalesce(
    (
      program(proc_exepath, proc_exe, proc_args) IN (SELECT name FROM archivers)
      OR (program(proc_exepath, proc_exe, proc_args) = 'cp' AND regexp_like(array_to_string(proc_args, ' '), '(^| )(-[a-zA-Z]*[aRr][a-zA-Z]*|--(archive|recursive))( |$)'))
    )
    AND NOT regexp_like(
      array_to_string(proc_args, ' '),
      'shadow|sudoers|/security|/\.?ssh\b|\bid_[a-z]|ssh_host|\.(aws|azure|docker|kube|git-credentials|netrc|pgpass|my\.cnf|npmrc|pypirc)|gcloud|[Cc]redential|[Ss]ecret|[Tt]oken|_history|authorized_keys|/proc\b|environ|/private|keytab|kubernetes|kcore|/dev\b'
    ),
    false
  ) AS in_bulk
FROM events
WHERE evt_type IN ('open', 'openat', 'openat2')
  AND evt_is_open_read
  AND evt_outcome = 'success'
  AND (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') <> 'runtime'
