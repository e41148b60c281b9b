-- title = "Thousands of threads in a process"
-- description = "A process in a container has two thousand threads and more: a thread bomb, meant to exhaust the host, or a program that makes one for each request and never ends it."
-- message = "{proc_name} in container {container} ({container_image}) has {threads} threads"
-- severity = "medium"
-- status = "experimental"
-- risk = 45
-- attack = ["T1499.001"]
-- false_positives = ["servers that hold a thread for each of thousands of connections"]
-- blind_spots = ["threads that live for less than the interval of samples, 10 seconds", "fewer than 2,000 in one process; tasks_near_limit sees all of a container against its limit"]
-- references = ["https://attack.mitre.org/techniques/T1499/001/"]
-- response = "Pause the container; set a limit on its processes and threads (pids.max)."
-- dedup = { key = ["proc_name"], period = "1h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  proc_name,
  proc_pid,
  proc_nthreads AS threads
FROM process_samples
WHERE proc_nthreads >= 2000
  AND container_id <> 'host'
