-- title = "Password hashes read on many hosts"
-- description = "Containers of at least five hosts opened the file of password hashes within ten minutes, by programs that have no work with it: somebody goes through the fleet."
-- message = "{file} is read in containers of {hosts} hosts, such as {samples}"
-- severity = "critical"
-- status = "experimental"
-- risk = 85
-- attack = ["T1003.008"]
-- false_positives = ["a backup or scanning agent that goes through all containers"]
-- blind_spots = ["fewer than five hosts in ten minutes", "reads that were refused", "package managers and what they run, by the names of the ancestors, which a program can take", "the same through another root; sensitive_file_read sees it on each host", "hosts that were first heard of less than a minute ago"]
-- reads = ["*/etc/shadow*", "*/etc/gshadow*"]
-- references = ["https://attack.mitre.org/techniques/T1003/008/"]
-- response = "Find out who asked for it on all of these hosts. Treat the passwords as known to others."
-- dedup = { key = ["file"], period = "1h" }
SELECT
  window_start,
  window_end,
  fd_name AS file,
  count(DISTINCT host_id) AS hosts,
  sample(concat(program, ' in ', container, ' on ', host_name), 5) AS samples
FROM hop(container_events, INTERVAL '1 minute', INTERVAL '10 minutes')
WHERE evt_type IN ('open', 'openat', 'openat2')
  AND evt_is_open_read
  AND evt_outcome = 'success'
  AND regexp_like(fd_name, '^/etc/g?shadow([-~]|\.[a-z0-9]+)?$')
  AND NOT under_package_manager
  AND coalesce(program, '') NOT IN (SELECT name FROM credential_readers WHERE reads = 'accounts')
GROUP BY window_start, window_end, fd_name
HAVING hosts_known(INTERVAL '1 minute') >= 5
