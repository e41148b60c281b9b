-- title = "Connection made by a shell itself"
-- description = "A shell opened a network connection without any other program: bash's /dev/tcp and /dev/udp, ksh's and zsh's own sockets. Scripts call programs for that; intruders, who find none in a slim container, use the shell."
-- message = "{shell} in container {container} ({container_image}) connects to {peer_ip}:{peer_port} ({evt_outcome}), as {user_name}: {proc_cmdline}"
-- severity = "high"
-- status = "stable"
-- risk = 75
-- attack = ["T1059.004", "T1071", "T1048"]
-- false_positives = ["scripts that wait for a port by /dev/tcp, later than in the first quarter of an hour of their container or at a public address"]
-- blind_spots = ["connections of programs that a shell starts, such as nc or curl", "shells of a configured healthcheck", "a container's start script that tries an address of a private network in its first quarter of an hour; start_script_unusual tells, at a lower severity, and socket_on_standard_streams where it takes commands from there", "connections taken over from another process; shell_on_socket sees a shell that starts on one"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1048/"]
-- response = "Look at the command line and at the peer. If the script is not yours: cut the container off the network and keep its file system."
-- dedup = { key = ["shell", "peer_ip"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program AS shell,
  fd_sip AS peer_ip,
  fd_sport AS peer_port,
  fd_l4proto,
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
  -- Port 0: how a resolver asks the kernel which way a packet would go.
  AND fd_sport <> 0
  -- A name that is looked up at the runtime's own server.
  AND NOT (fd_sport = 53 AND starts_with(fd_sip, '127.'))
  -- The file, not the kernel's name of the process, which a program can change: a script's name is no shell's.
  AND program IN (SELECT name FROM shells)
  AND coalesce(proc_stage, '') <> 'healthcheck'
  -- A start script that waits for what its service needs; start_script_unusual tells.
  AND NOT (start_script AND regexp_like(fd_sip, '^(10|127|192\.168|172\.(1[6-9]|2[0-9]|3[01])|100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7]))\.|^(::1$|f[cd][0-9a-f]{2}:|fe80:)'))
