-- title = "Container near its limit of processes"
-- description = "A container has nine tenths of the processes and threads that it may have: it makes more and more of them, or the limit is too small."
-- message = "container {container} ({container_image}) has {tasks} of {tasks_limit} processes and threads"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1499.001"]
-- false_positives = ["a limit that is too small for the load"]
-- blind_spots = ["containers without a limit (pids.max)"]
-- references = ["https://attack.mitre.org/techniques/T1499/001/"]
-- response = "Look at which program makes them (events of type clone)."
-- dedup = { key = [], period = "1h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  pids_current AS tasks,
  pids_limit AS tasks_limit
FROM container_samples
WHERE pids_limit > 0
  AND pids_current * 10 >= pids_limit * 9
  AND container_id <> 'host'
