-- title = "Fork bomb in a container"
-- description = "Processes of a container made hundreds of new processes within ten seconds: a fork bomb, meant to exhaust the host."
-- message = "{count} processes were made in ten seconds in container {container} ({container_image}) by {programs}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1499.001"]
-- false_positives = ["heavily parallel builds and test runs"]
-- blind_spots = ["threads, which are no processes"]
-- references = ["https://attack.mitre.org/techniques/T1499/001/"]
-- response = "Pause the container; set a limit on its processes (pids.max)."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  count(*) AS count,
  sample(proc_name, 5) AS programs
FROM tumble(container_events, INTERVAL '10 seconds')
WHERE evt_type = 'clone'
  AND NOT evt_failed
GROUP BY window_start, window_end, container_id, container, container_image
HAVING count(*) >= 500
