-- title = "Scan that is spread over hosts"
-- description = "Containers of at least three hosts were refused, or got no answer, at the same port of many different addresses within half an hour: a scan that is spread thin, so that no single container shows it."
-- message = "containers of {hosts} hosts were refused at port {port} of {targets} different addresses in half an hour, such as {samples}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1046"]
-- false_positives = ["a deployment whose service is down and has many addresses"]
-- blind_spots = ["fewer than 30 refused addresses of a port in half an hour, or fewer than three hosts", "open ports, which refuse nothing", "connections that do not wait for their end (non-blocking)", "scans by raw sockets; raw_packet_socket sees these", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1046/"]
-- response = "Find the processes among the samples, and what their containers have in common: image, node, or who reached them."
-- dedup = { key = ["port"], period = "1h" }
SELECT
  window_start,
  window_end,
  fd_sport AS port,
  count(DISTINCT host_id) AS hosts,
  count(DISTINCT fd_sip) AS targets,
  sample(concat(proc_name, ' in ', container, ' on ', host_name), 5) AS samples
FROM hop(container_events, INTERVAL '5 minutes', INTERVAL '30 minutes')
WHERE evt_type = 'connect'
  AND evt_failed
  AND evt_res IN ('ECONNREFUSED', 'ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH')
  AND fd_sip IS NOT NULL
  AND fd_sport IS NOT NULL
GROUP BY window_start, window_end, fd_sport
HAVING count(DISTINCT fd_sip) >= 30
  AND hosts_known(INTERVAL '1 minute') >= 3
