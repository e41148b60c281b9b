-- title = "Shell whose standard streams are a socket"
-- description = "A shell was started whose input, output or errors go to a network connection: the shape of reverse and bind shells, whatever made it (bash's /dev/tcp, nc -e, socat, python, perl, php, a compiled payload). A relay (socat, ncat, mkfifo and nc, php's proc_open) puts pipes between: a shell between pipes that the relay started, that one of them has a name in the file system, or that is told to be interactive counts as well, and so does an interpreter without a script on a connection."
-- message = "{shell} talks to {peer} from container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "critical"
-- status = "stable"
-- risk = 95
-- attack = ["T1059.004", "T1095"]
-- false_positives = ["services that hand a connection to a script, such as inetd, CGI and git daemons", "tools that drive an interactive shell through pipes (docker exec -i with sh -i)"]
-- blind_spots = ["relays that give the shell a pseudo-terminal; shell_with_terminal sees those in containers", "relays of other files and names over pipes without a name", "a shell that is not interactive, between two pipes without a name (cat fifo | sh | nc)", "sockets of other families than IPv4 and IPv6"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1095/"]
-- response = "Cut the container off the network, keep its file system and the process tree, and block the peer."
-- dedup = { key = ["shell", "proc_pkey"], period = "1h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  program(proc_exepath, proc_exe, proc_args) AS shell,
  CASE
    WHEN proc_stdin_type IN ('ipv4', 'ipv6') THEN proc_stdin_name
    WHEN proc_stdout_type IN ('ipv4', 'ipv6') THEN proc_stdout_name
    WHEN proc_stderr_type IN ('ipv4', 'ipv6') THEN proc_stderr_name
    ELSE concat(proc_pname, ' through a ', proc_stdin_type)
  END AS peer,
  proc_stdin_type,
  proc_stdout_type,
  proc_stderr_type,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_pkey,
  proc_stage,
  coalesce(user_name, CASE WHEN user_uid = 0 THEN 'root' ELSE 'uid ' || CAST(user_uid AS VARCHAR) END) AS user_name,
  user_host_uid
FROM events
WHERE evt_type IN ('execve', 'execveat')
  AND evt_outcome = 'success'
  AND (
    program(proc_exepath, proc_exe, proc_args) IN (SELECT name FROM shells)
    OR proc_name IN (SELECT name FROM shells)
    -- An interpreter that takes its commands from the connection.
    OR (
      proc_stdin_type IN ('ipv4', 'ipv6')
      AND (program(proc_exepath, proc_exe, proc_args) IN (SELECT name FROM script_runners) OR regexp_like(program(proc_exepath, proc_exe, proc_args), '^python[0-9.]+$'))
      AND NOT coalesce(regexp_like(array_to_string(proc_args, ' '), '(^| )[^- ]'), false)
    )
  )
  AND (
    proc_stdin_type IN ('ipv4', 'ipv6')
    OR proc_stdout_type IN ('ipv4', 'ipv6')
    OR proc_stderr_type IN ('ipv4', 'ipv6')
    OR (
      proc_stdin_type IN ('pipe', 'unix')
      AND proc_stdout_type IN ('pipe', 'unix')
      AND (
        proc_pname IN (SELECT name FROM relays)
        OR regexp_replace(proc_pexepath, '^.*/', '') IN (SELECT name FROM relays)
      )
    )
    -- Node talks to what it starts through such sockets, and to no shell without a command.
    OR (
      container_id <> 'host'
      AND proc_stdin_type = 'unix'
      AND proc_stdout_type = 'unix'
      AND NOT coalesce(regexp_like(array_to_string(proc_args, ' '), '(^| )([^- ]|-[a-zA-Z]*c)'), false)
    )
    OR (
      container_id <> 'host'
      AND proc_stdin_type = 'pipe'
      AND proc_stdout_type = 'pipe'
      AND coalesce(proc_tty, 0) = 0
      AND (
        proc_stdin_name LIKE '/_%'
        OR proc_stdout_name LIKE '/_%'
        OR regexp_like(array_to_string(proc_args, ' '), '(^| )-[abd-zA-Z]*i[abd-zA-Z]*( |$)')
      )
    )
  )
  AND coalesce(proc_stage, '') <> 'runtime'
