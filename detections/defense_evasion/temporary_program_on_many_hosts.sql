-- title = "One program from memory or temporary files on several hosts"
-- description = "Containers of at least three hosts executed the same program from /tmp, /var/tmp, /dev/shm or a memfd within ten minutes: a payload that goes from host to host."
-- message = "{what} ran from memory or temporary files in containers of {hosts} hosts, such as {samples}"
-- severity = "critical"
-- status = "experimental"
-- risk = 90
-- attack = ["T1570", "T1620", "T1036.005"]
-- false_positives = ["software that unpacks itself below /tmp and runs from there, where a whole deployment starts at once"]
-- blind_spots = ["another name on each host", "scripts: what is executed is their interpreter", "fewer than three hosts in ten minutes", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1570/", "https://attack.mitre.org/techniques/T1620/"]
-- response = "Stop the containers before the processes end, if their memory can be kept; look for what they have in common."
-- dedup = { key = ["what"], period = "1h" }
SELECT
  window_start,
  window_end,
  proc_exepath AS what,
  count(DISTINCT host_id) AS hosts,
  sample(concat(container, ' on ', host_name), 5) AS samples
FROM hop(container_execs, INTERVAL '1 minute', INTERVAL '10 minutes')
WHERE (
    proc_exe_from = 'memfd'
    OR regexp_like(proc_exepath, '^(/tmp/|/var/tmp/|/dev/shm/|/run/shm/|/?memfd:)')
  )
  AND NOT under_build
  AND NOT under_package_manager
GROUP BY window_start, window_end, proc_exepath
HAVING hosts_known(INTERVAL '1 minute') >= 3
