-- title = "Connection made by a line of a script language"
-- description = "An interpreter whose whole program stands in its command line (python -c, perl -e, php -r, node -e, ruby -e) opened a connection to another machine: how a reverse shell, a loop of commands or a download is made where neither bash nor curl is there."
-- message = "{program} connects to {peer_ip}:{peer_port} ({evt_outcome}) by a line in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 55
-- attack = ["T1059.006", "T1071", "T1105"]
-- false_positives = ["scripts that ask another service by a line of Python or Perl", "health checks of an orchestrator that are no configured healthcheck"]
-- blind_spots = ["programs in files and on standard input", "a container's start script in its first quarter of an hour", "UDP without connect", "connections within the container (loopback)"]
-- references = ["https://attack.mitre.org/techniques/T1059/006/"]
-- response = "Read the line. Look at the peer and at what the process started; cut the container off the network if neither is yours."
-- dedup = { key = ["program", "peer_ip"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_sip AS peer_ip,
  fd_sport AS peer_port,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'connect'
  AND fd_family IN ('ipv4', 'ipv6')
  AND coalesce(fd_sport, 0) NOT IN (0, 53)
  AND fd_sip IS NOT NULL
  AND NOT regexp_like(fd_sip, '^(127\.|::1$|::ffff:127\.)')
  AND one_liner
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND NOT start_script
  AND NOT under_package_manager
  AND NOT under_build
