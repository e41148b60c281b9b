-- title = "Container near its memory limit"
-- description = "A container needed more than nine tenths of the memory that it may have for five minutes: it leaks, somebody fills it, or the limit is too small."
-- message = "container {container} ({container_image}) needs {used_percent} % of its memory limit of {limit_bytes} bytes and more for five minutes"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1499.003"]
-- false_positives = ["a limit that is too small for the load", "runtimes that take all memory they may, such as a JVM with a heap near the limit"]
-- blind_spots = ["containers without a limit of their own", "a limit of a cgroup above, such as a pod's"]
-- references = ["https://attack.mitre.org/techniques/T1499/003/"]
-- response = "Look at which of its processes grows (process_samples), and since when."
-- dedup = { key = [], period = "6h" }
SELECT
  window_start,
  window_end,
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  min(mem_working_set_bytes * 100 / nullif(mem_limit_bytes, 0)) AS used_percent,
  max(mem_limit_bytes) AS limit_bytes,
  sum(mem_limit_hits) AS limit_hits
FROM tumble(container_samples, INTERVAL '5 minutes')
WHERE mem_limit_bytes > 0
  AND container_id <> 'host'
GROUP BY window_start, window_end, container_id, container_name, container_image
HAVING sum(sample_interval_ns) >= 240000000000
  AND min(mem_working_set_bytes * 100 / nullif(mem_limit_bytes, 0)) >= 90
