-- title = "Many refused opens in a container"
-- description = "One program in a container was refused one file after the other within a minute: it tries what it may read."
-- message = "{program} in container {container} ({container_image}) was refused {count} opens of {files} files in a minute, such as {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 40
-- attack = ["T1083"]
-- false_positives = ["backup and indexing agents without the rights they need", "find over the whole tree as an ordinary user"]
-- blind_spots = ["refusals that the sensor does not report: files that do not exist"]
-- references = ["https://attack.mitre.org/techniques/T1083/"]
-- response = "Look at which files it tried and as whom it runs."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  proc_name AS program,
  count(*) AS count,
  count(DISTINCT fd_name) AS files,
  sample(fd_name, 5) AS samples
FROM tumble(container_events, INTERVAL '1 minute')
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat')
  AND evt_failed
  AND evt_res IN ('EACCES', 'EPERM')
GROUP BY window_start, window_end, container_id, container, container_image, proc_name
HAVING count(*) >= 50
