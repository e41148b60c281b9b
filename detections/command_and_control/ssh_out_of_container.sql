-- title = "SSH to an odd port or with a tunnel from a container"
-- description = "An SSH client in a container connected to another port than 22, or was told to forward ports: a way out, or in, that other defences take for administration."
-- message = "{program} connects to {peer_ip}:{peer_port} ({evt_outcome}) from container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 50
-- attack = ["T1572", "T1021.004"]
-- false_positives = ["git servers at another port, and tunnels to databases that are meant to be"]
-- blind_spots = ["clients of other names, and libraries of SSH", "forwarding that a configuration file asks for"]
-- references = ["https://attack.mitre.org/techniques/T1572/", "https://attack.mitre.org/techniques/T1021/004/"]
-- response = "Ask who runs it. Look at what the peer is."
-- dedup = { key = ["program", "peer_ip", "peer_port"], period = "24h" }
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
  AND program IN ('ssh', 'dbclient', 'autossh', 'plink', 'sshuttle')
  AND coalesce(fd_sport, 0) NOT IN (0, 53)
  AND (fd_sport <> 22 OR regexp_like(array_to_string(proc_args, ' '), '(^| )-[a-zA-Z]*[RDLw]'))
