-- title = "Port scan from a container"
-- description = "A container tried to reach many different ports or hosts within a minute, refused connections included: it looks for what it could reach."
-- message = "container {container} ({container_image}) tried {targets} different addresses and ports in a minute, {refused} refused, such as {samples}"
-- severity = "high"
-- status = "experimental"
-- risk = 65
-- attack = ["T1046"]
-- false_positives = ["service meshes and monitoring that probe many endpoints", "crawlers and peer-to-peer software"]
-- blind_spots = ["slow scans of fewer than 30 targets a minute", "scans by raw sockets (SYN scans), which make no such call; raw_packet_socket sees their sockets"]
-- references = ["https://attack.mitre.org/techniques/T1046/"]
-- response = "Find the process among the samples. A scan from inside usually follows a foothold: look at what ran before it."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  count(DISTINCT concat(fd_sip, ' ', CAST(fd_sport AS VARCHAR))) AS targets,
  count(*) FILTER (WHERE evt_failed AND coalesce(evt_res, '') <> 'EINPROGRESS') AS refused,
  sample(concat(proc_name, ' to ', fd_sip, ' port ', CAST(fd_sport AS VARCHAR)), 5) AS samples
FROM tumble(container_events, INTERVAL '1 minute')
WHERE evt_type IN ('connect', 'sendto', 'sendmsg')
  AND fd_sip IS NOT NULL
  AND fd_sport IS NOT NULL
GROUP BY window_start, window_end, container_id, container, container_image
HAVING count(DISTINCT concat(fd_sip, ' ', CAST(fd_sport AS VARCHAR))) >= 30
