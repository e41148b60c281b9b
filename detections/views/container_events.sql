-- description = "What happens in containers, or in a process that left one, but for the work of the runtime itself, which prepares a container before its program runs."
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
  -- A step of docker build: a container of an image that has no name.
  coalesce(container_type = 'docker' AND starts_with(container_image, 'sha256:') AND proc_stage = 'entrypoint' AND k8s_pod_name IS NULL, false) AS image_build,
  -- By the files of the ancestors where the row has them, which no program can choose for itself as it can its name. Some package
  -- managers are scripts of Python.
  coalesce(
    array_has_any(proc_aname, (SELECT array_agg(name) FROM package_managers)) AND proc_aexepath IS NULL
    OR array_has_any(proc_aexepath, (SELECT array_agg(path) FROM package_manager_files))
    OR (
      array_has_any(proc_aname, make_array('dnf', 'dnf-3', 'yum', 'emerge'))
      AND regexp_like(array_to_string(proc_aexepath, ' '), '(^| )/usr/(bin|libexec)/(platform-)?python[0-9.]*( |$)')
    ),
    false
  ) AS under_package_manager,
  -- Likewise; the kernel's names of those that are scripts end with what they were asked to do.
  coalesce(
    array_has_any(proc_aname, (SELECT array_agg(name) FROM build_tools)) AND proc_aexepath IS NULL
    OR regexp_like(
      array_to_string(proc_aexepath, ' '),
      '(^| )(/(usr|opt)/|/s?bin/|(/root|/home/[^/ ]+)/(\.cargo|\.rustup|go|sdk)/)([^ ]+/)?(make|gmake|ninja|samu|cmake|ctest|cargo|rustc|go|bazel)( |$)'
    )
    OR (
      regexp_like(array_to_string(proc_aname, ','), '(^|,)(npm|npx|yarn|pnpm|pip[0-9.]*|mvn|gradle|meson|scons|dpkg-buildpacka)([ ,-]|$)')
      AND regexp_like(array_to_string(proc_aexepath, ' '), '(^| )/(usr|opt)/([^ ]+/)?(java|node|perl|python[0-9.]*)( |$)')
    ),
    false
  ) AS under_build,
  -- An interpreter with its program in the command line.
  coalesce(
    regexp_like(
      concat(program(proc_exepath, proc_exe, proc_args), ' ', array_to_string(proc_args, ' ')),
      '^(python[^ ]* (-[WX] [^ ]+ |-[^ c-][^ c]* )*-[a-zA-Z]*c|(perl|ruby|lua)[^ ]* (-[rIM] [^ ]+ |-[^ ]+ )*-[a-zA-Z]*e|perl[^ ]* (-[^ ]+ )*-[a-zA-Z]*E|node[^ ]* (-r [^ ]+ |-[^ ]+ )*(-p?e|-p|--eval|--print)|php[^ ]* (-[cd] [^ ]+ |-[^ ]+ )*-r)( |$)'
    ),
    false
  ) AS one_liner
FROM events
WHERE (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') <> 'runtime'
