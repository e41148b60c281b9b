-- title = "Many processes in a container"
-- description = "A container that executed more programs in a minute than a service does: a script that tries things out, a miner that spawns workers, or a loop gone wild."
-- message = "{count} programs were executed in a minute in container {container} ({container_image}), such as {samples}"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1059"]
-- false_positives = ["builds and test runs in containers by programs that are no known build tools", "services that start a program for each request"]
-- blind_spots = ["fewer than 300 programs a minute", "programs that only fork; fork_bomb counts those", "what the image's build tools and package managers run"]
-- references = ["https://attack.mitre.org/techniques/T1059/"]
-- response = "Look at the samples. Raise the number in a copy of this detection for images that are built this way."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  count(*) AS count,
  count(DISTINCT proc_exepath) AS programs,
  sample(proc_cmdline, 5) AS samples
FROM tumble(container_execs, INTERVAL '1 minute')
WHERE coalesce(proc_stage, '') <> 'healthcheck'
  AND NOT under_build
  AND NOT under_package_manager
GROUP BY window_start, window_end, container_id, container, container_image
HAVING count(*) >= 300
