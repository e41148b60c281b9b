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
  coalesce(container_name, container_id) AS container,
  container_image,
  program(proc_exepath, proc_exe, proc_args) AS program,
  fd_sip AS peer_ip,
  fd_sport AS peer_port,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  coalesce(user_name, CASE WHEN user_uid = 0 THEN 'root' ELSE 'uid ' || CAST(user_uid AS VARCHAR) END) AS user_name,
  user_host_uid
FROM events
WHERE evt_type IN ('connect', 'sendto', 'sendmsg')
  AND fd_family IN ('ipv4', 'ipv6')
  AND coalesce(fd_sport, 0) NOT IN (0, 53)
  AND (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') NOT IN ('runtime', 'healthcheck')
  AND program(proc_exepath, proc_exe, proc_args) IN (SELECT name FROM plain_tools)
