-- title = "Many processes in a container"
-- description = "A container that executed more programs in a minute than a service does: a script that tries things out, a miner that spawns workers, or a loop gone wild."
-- message = "{count} programs were executed in a minute in container {container} ({container_image}), such as {samples}"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1059"]
-- false_positives = ["builds and test runs in containers by other programs than make, ninja and cmake", "services that start a program for each request"]
-- blind_spots = ["fewer than 300 programs a minute", "programs that only fork; fork_bomb counts those", "what make, ninja and cmake run"]
-- references = ["https://attack.mitre.org/techniques/T1059/"]
-- response = "Look at the samples. Raise the number in a copy of this detection for images that are built this way."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  count(*) AS count,
  count(DISTINCT proc_exepath) AS programs,
  sample(proc_cmdline, 5) AS samples
FROM tumble(events, INTERVAL '1 minute')
WHERE evt_type IN ('execve', 'execveat')
  AND evt_outcome = 'success'
  AND container_id <> 'host'
  AND coalesce(proc_stage, '') NOT IN ('runtime', 'healthcheck')
  AND NOT coalesce(array_has_any(proc_aname, make_array('make', 'gmake', 'ninja', 'cmake', 'ctest')), false)
GROUP BY window_start, window_end, container_id, container_name, container_image
HAVING count(*) >= 300
