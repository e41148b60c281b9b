-- title = "Connection made by a tool that has none to make"
-- description = "A program of the system that has nothing to do with the network (cat, ls, ps, sleep, awk ...) opened a connection: something else runs in it, or it is made to carry data."
-- message = "{program} in container {container} ({container_image}) connects to {peer_ip}:{peer_port} ({evt_outcome}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1055", "T1071", "T1048"]
-- false_positives = ["systems that look up names of users over the network (LDAP)"]
-- blind_spots = ["connections that the program was given", "programs that are not in lists/plain_tools.csv"]
-- references = ["https://attack.mitre.org/techniques/T1055/", "https://attack.mitre.org/techniques/T1071/"]
-- response = "Look at what the process has loaded, and at the peer."
-- dedup = { key = ["program", "peer_ip", "peer_port"], period = "1h" }
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
WHERE evt_type IN ('connect', 'sendto', 'sendmsg')
  AND fd_family IN ('ipv4', 'ipv6')
  AND coalesce(fd_sport, 0) NOT IN (0, 53)
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND program IN (SELECT name FROM plain_tools)
