-- title = "Shell that is left with a connection"
-- description = "A shell was executed in a container while it still had a connection over the internet on a descriptor above the standard ones: a reverse or bind shell that keeps its standard streams clean, or a service that hands its clients' connections down by mistake, which a command in it can then use."
-- message = "{shell} in container {container} ({container_image}) starts with the connection {proc_socket_name}, as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1059.004", "T1095"]
-- false_positives = ["services that do not close their connections in what they start (no close-on-exec)", "scripts that open a connection with exec 3<>/dev/tcp and call other scripts"]
-- blind_spots = ["descriptors above 63", "unix sockets", "connections that the shell opens itself, which connection_from_shell sees", "scripts, which are called by their name"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1095/"]
-- response = "Look at the peer and at what the shell ran. Cut the container off the network if neither is yours."
-- dedup = { key = ["shell", "proc_pname"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program AS shell,
  proc_socket_name,
  proc_sockets,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE program IN (SELECT name FROM shells)
  AND proc_sockets > 0
  AND proc_socket_name IS NOT NULL
  AND proc_runs IS NULL
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND NOT start_script
