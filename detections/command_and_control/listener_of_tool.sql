-- title = "Port opened by a program that is no server"
-- description = "A shell, a relay, a tool of the system or a line of a script language waits for connections: a bind shell, a relay into the network behind, a quick server to take files away."
-- message = "{program} waits for connections at {address}:{port} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 60
-- attack = ["T1571", "T1090.001", "T1048.003"]
-- false_positives = ["relays that a container is made of (socat as its command)", "people who try a connection out"]
-- blind_spots = ["programs of the intruder's own and script files", "ports that are opened for UDP", "a server of the image that is made to serve something else"]
-- references = ["https://attack.mitre.org/techniques/T1571/", "https://attack.mitre.org/techniques/T1090/001/"]
-- response = "Look at who connected (accept) and at what the program hands them."
-- dedup = { key = ["program", "port"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_lip AS address,
  fd_lport AS port,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type = 'listen'
  AND evt_outcome = 'success'
  AND fd_family IN ('ipv4', 'ipv6')
  AND coalesce(proc_stage, '') <> 'healthcheck'
  -- The container's own program.
  AND NOT (coalesce(proc_stage, '') = 'entrypoint' AND coalesce(proc_vpid, 0) = 1)
  AND (
    program IN (SELECT name FROM relays)
    OR program IN (SELECT name FROM shells)
    OR program IN (SELECT name FROM general_readers)
    OR (
      regexp_like(program, '^(python|perl|ruby|node|php|lua)')
      AND (
        array_has_any(proc_args, make_array('-c', '-e', '-r', '-E', '-S', '-un', '-run'))
        OR regexp_like(array_to_string(proc_args, ' '), '(^| )-m (http\.server|SimpleHTTPServer|pyftpdlib)')
      )
    )
  )
