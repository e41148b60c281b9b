-- title = "Search for keys and passwords in a container"
-- description = "Somebody searches a container's files for private keys, cloud credentials or passwords, with find, grep or a program like them."
-- message = "a search for credentials in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 60
-- attack = ["T1552.001", "T1552.004"]
-- false_positives = ["scanners for secrets", "people who look for a setting by hand"]
-- blind_spots = ["programs that search by themselves, and shells' own patterns", "words that are spelt so that the pattern does not see them", "searches of a single file or a narrow folder"]
-- references = ["https://attack.mitre.org/techniques/T1552/001/", "https://attack.mitre.org/techniques/T1552/004/"]
-- response = "Look at what was found and read next. Treat it as known to others."
-- dedup = { key = ["proc_cmdline"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_args,
  proc_skey,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE program IN (SELECT name FROM search_programs)
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND regexp_like(
    array_to_string(proc_args, ' '),
    'id_(rsa|dsa|ecdsa|ed25519)|\.ppk|\.kdbx|\.p12|\.pfx|\.aws|(aws|azure|gcp|google)_[a-z_]*(secret|key|credential)|\bA[KS]IA|credentials|\.git-credentials|\.kube/config|\.pgpass|\.htpasswd|wp-config|PRIVATE|(?i)passw|secret|api[_-]?key|access[_-]?token'
  )
  -- Far and wide: through folders, from a root of many.
  AND (
    (
      regexp_like(array_to_string(proc_args, ' '), '(^| )(/|/(home|root|etc|var|opt|srv|mnt|host|usr|proc|app|data|run|tmp)[^ ]*|~[^ ]*|\.)( |$)')
      AND (
        program IN ('find', 'fd', 'rg', 'ag', 'ack')
        OR regexp_like(array_to_string(proc_args, ' '), '(^| )(-[a-zA-Z]*[rR][a-zA-Z]*|--(dereference-)?recursive)( |$)')
      )
    )
    OR program IN ('locate', 'plocate', 'mlocate')
  )
  AND NOT under_package_manager
