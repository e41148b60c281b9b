-- title = "Container at its CPU limit"
-- description = "A container used nearly all the CPU that it may for five minutes: a miner, a loop that somebody else can set off, or a limit that is too small."
-- message = "container {container} ({container_image}) used {cpu_percent} % of its CPU limit for five minutes, and was held back in {throttled} of {periods} periods"
-- severity = "low"
-- status = "experimental"
-- risk = 30
-- attack = ["T1496", "T1499.003"]
-- false_positives = ["builds and batch jobs", "a limit that is too small for the load"]
-- blind_spots = ["containers without a limit of their own", "a limit of a cgroup above, such as a pod's", "bursts of less than five minutes"]
-- references = ["https://attack.mitre.org/techniques/T1496/"]
-- response = "Look at which of its processes uses the CPU (process_samples), and since when."
-- dedup = { key = [], period = "6h" }
SELECT
  window_start,
  window_end,
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  sum(cpu_total_ns) * 100 / nullif(sum(sample_interval_ns * cpu_limit_millicores / 1000), 0) AS cpu_percent,
  sum(cpu_throttled_periods) AS throttled,
  sum(cpu_periods) AS periods
FROM tumble(container_samples, INTERVAL '5 minutes')
WHERE cpu_limit_millicores > 0
  AND container_id <> 'host'
GROUP BY window_start, window_end, container_id, container_name, container_image
HAVING sum(sample_interval_ns) >= 240000000000
  AND sum(cpu_total_ns) * 100 >= sum(sample_interval_ns * cpu_limit_millicores / 1000) * 90
