-- title = "Containers of one image at their CPU limit on many hosts"
-- description = "Containers of one image used nearly all the CPU that they may on at least five hosts in the same five minutes, for fifteen minutes of containers together: a miner that came with the image, a request that is dear wherever it goes, or a limit that is too small for all."
-- message = "containers of {container_image} were at their CPU limit on {hosts} hosts in five minutes, such as {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 40
-- attack = ["T1496", "T1499.003"]
-- false_positives = ["batch jobs that run on many hosts at once", "a rollout of a version whose limit is too small"]
-- blind_spots = ["fewer than five hosts in five minutes", "containers without a limit of their own", "containers whose image is not known", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1496/"]
-- response = "Look at which of their processes uses the CPU (process_samples), and whether it is the image's own program; where all began at once, look at what was rolled out or asked of them then."
-- dedup = { key = ["container_image"], period = "6h" }
SELECT
  window_start,
  window_end,
  container_image,
  count(DISTINCT host_id) AS hosts,
  count(DISTINCT container_id) AS containers,
  sum(sample_interval_ns) / 1000000000 AS seconds_at_limit,
  sample(concat(coalesce(container_name, container_id), ' on ', host_name), 5) AS samples
FROM hop(container_samples, INTERVAL '1 minute', INTERVAL '5 minutes')
WHERE container_image IS NOT NULL
  AND container_id <> 'host'
  AND cpu_limit_millicores > 0
  AND cpu_total_ns * 100 >= sample_interval_ns * cpu_limit_millicores / 1000 * 90
GROUP BY window_start, window_end, container_image
HAVING hosts_known(INTERVAL '1 minute') >= 5
  AND sum(sample_interval_ns) >= 900000000000
