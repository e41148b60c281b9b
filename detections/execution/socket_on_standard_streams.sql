-- title = "Interpreter takes its input from a connection"
-- description = "A shell or a script language put a network connection onto its own standard input: the step that makes a reverse shell, whether a shell is started then or the interpreter takes the commands itself."
-- message = "{program} takes its input from the connection {peer} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1059.004", "T1059.006", "T1095"]
-- false_positives = ["servers written in a script language that hand a connection to what they start, as inetd does"]
-- blind_spots = ["a connection that stays on another descriptor, or carries the output alone", "unix sockets, and pipes to a relay", "compiled programs, unless they start a shell then, which shell_on_socket sees"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1059/006/"]
-- response = "Cut the container off the network, keep its file system and the process tree, and block the peer."
-- dedup = { key = ["program", "proc_key"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_name AS peer,
  fd_num,
  evt_type AS call,
  proc_key,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('dup', 'dup2', 'dup3', 'fcntl')
  AND fd_num = 0
  AND fd_family IN ('ipv4', 'ipv6')
  AND evt_outcome = 'success'
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND (
    program IN (SELECT name FROM shells)
    OR program IN (SELECT name FROM script_runners)
    OR regexp_like(program, '^python[0-9.]+$')
  )
