-- title = "Ports tried one by one from a container"
-- description = "A container was refused, or got no answer, at many different addresses and ports within half an hour: a scan that is slow so that no minute shows it."
-- message = "container {container} ({container_image}) was refused at {targets} different addresses and ports in half an hour, such as {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 50
-- attack = ["T1046"]
-- false_positives = ["clients of a service that is down and has many addresses", "monitoring of many endpoints"]
-- blind_spots = ["fewer than 25 refused targets in half an hour", "open ports, which refuse nothing", "connections that do not wait for their end (non-blocking)", "scans by raw sockets; raw_packet_socket sees these"]
-- references = ["https://attack.mitre.org/techniques/T1046/"]
-- response = "Find the process among the samples, and look at what ran before it."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  count(DISTINCT concat(fd_sip, ' ', CAST(fd_sport AS VARCHAR))) AS targets,
  sample(concat(proc_name, ' to ', fd_sip, ' port ', CAST(fd_sport AS VARCHAR)), 5) AS samples
FROM hop(container_events, INTERVAL '5 minutes', INTERVAL '30 minutes')
WHERE evt_type = 'connect'
  AND evt_failed
  AND evt_res IN ('ECONNREFUSED', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH')
  AND fd_sip IS NOT NULL
  AND fd_sport IS NOT NULL
GROUP BY window_start, window_end, container_id, container, container_image
HAVING count(DISTINCT concat(fd_sip, ' ', CAST(fd_sport AS VARCHAR))) >= 25
