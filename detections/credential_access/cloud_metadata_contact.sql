-- title = "Cloud's metadata asked by hand in a container"
-- description = "A program that fetches whatever it is told to (curl, wget, nc, a shell, a line of a script language) contacted the address where clouds give out a machine's credentials."
-- message = "{program} contacts the cloud's metadata at {peer_ip} ({evt_outcome}) from container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1552.005"]
-- false_positives = ["start scripts that ask where they run with curl"]
-- blind_spots = ["an application that is talked into it (SSRF): its own libraries ask there, too", "a script file of the intruder's", "a proxy in between, and addresses of private clouds that are others"]
-- references = ["https://attack.mitre.org/techniques/T1552/005/"]
-- response = "Take the machine's credentials as known to others: look for their use from elsewhere. Close the address to containers."
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
WHERE evt_type IN ('connect', 'sendto', 'sendmsg')
  AND fd_sip IN ('169.254.169.254', '169.254.170.2', '169.254.170.23', '100.100.100.200', '192.0.0.192', '168.63.129.16', 'fd00:ec2::254', 'fd00:ec2::23')
  -- 53: some clouds answer for names there.
  AND coalesce(fd_sport, 0) <> 53
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND (
    program IN (SELECT name FROM general_readers)
    OR program IN (SELECT name FROM shells)
    OR program IN (SELECT name FROM relays)
    OR one_liner
  )
