-- title = "Containers of one image die on several hosts"
-- description = "The first process of containers of one image crashed, or ended with an error, on at least three hosts within ten minutes: one message or request kills the program wherever it goes, somebody tries an exploit on each, or a rollout is broken."
-- message = "containers of {container_image} died on {hosts} hosts within ten minutes, such as {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 50
-- attack = ["T1499.004", "T1203"]
-- false_positives = ["jobs that end with an error, started on many hosts at once", "a broken rollout", "a dependency that is away, where the program gives up"]
-- blind_spots = ["fewer than three hosts in ten minutes", "containers that are killed by SIGKILL, as an orderly stop that takes too long and a want of memory do", "containers without a pid namespace of their own", "containers whose image is not known", "programs that a first process of another kind starts again", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1499/004/", "https://attack.mitre.org/techniques/T1203/"]
-- response = "Look at the last lines of their logs: what they have in common came from outside, or with the image. Keep a core file of one, if it crashed."
-- dedup = { key = ["container_image"], period = "1h" }
SELECT
  window_start,
  window_end,
  container_image,
  count(DISTINCT host_id) AS hosts,
  count(DISTINCT container_id) AS containers,
  sample(
    concat(
      container, ' on ', host_name,
      CASE WHEN proc_exit_signal > 0 THEN concat(' by signal ', proc_exit_signal) ELSE concat(' with ', proc_exit_code) END
    ),
    5
  ) AS samples
FROM hop(container_events, INTERVAL '1 minute', INTERVAL '10 minutes')
WHERE evt_type = 'procexit'
  AND proc_stage = 'entrypoint'
  AND proc_vpid = 1
  AND container_image IS NOT NULL
  AND (proc_exit_signal IN (4, 6, 7, 8, 11, 31) OR (proc_exit_signal = 0 AND proc_exit_code NOT IN (0, 130, 137, 143)))
GROUP BY window_start, window_end, container_image
HAVING hosts_known(INTERVAL '1 minute') >= 3
