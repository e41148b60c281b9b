-- title = "Shells of several hosts connect to one address"
-- description = "Shells in containers of at least three hosts opened connections to the same address and port within ten minutes, by themselves: one listener that commands several hosts."
-- message = "shells of {hosts} hosts connect to {peer_ip}:{peer_port}, such as {samples}"
-- severity = "critical"
-- status = "experimental"
-- risk = 90
-- attack = ["T1059.004", "T1071", "T1570"]
-- false_positives = ["start scripts that wait for one service by /dev/tcp, where a whole deployment starts at once"]
-- blind_spots = ["a listener with another address or port for each host", "connections of programs that a shell starts", "fewer than three hosts in ten minutes", "shells of a configured healthcheck", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1071/"]
-- response = "Close the address off for the whole fleet first, then look at each host: connection_from_shell has the command lines."
-- dedup = { key = ["peer_ip", "peer_port"], period = "1h" }
SELECT
  window_start,
  window_end,
  fd_sip AS peer_ip,
  fd_sport AS peer_port,
  count(DISTINCT host_id) AS hosts,
  sample(concat(program, ' in ', container, ' on ', host_name), 5) AS samples
FROM hop(container_events, INTERVAL '1 minute', INTERVAL '10 minutes')
WHERE evt_type = 'connect'
  AND fd_family IN ('ipv4', 'ipv6')
  AND fd_sport <> 0
  AND NOT coalesce(starts_with(fd_sip, '127.'), false)
  AND (fd_sip IS DISTINCT FROM '::1')
  AND program IN (SELECT name FROM shells)
  AND coalesce(proc_stage, '') <> 'healthcheck'
GROUP BY window_start, window_end, fd_sip, fd_sport
HAVING hosts_known(INTERVAL '1 minute') >= 3
