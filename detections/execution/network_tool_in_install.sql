-- title = "Package's script fetches something by a tool"
-- description = "While packages of a language were installed (npm, pip, gem, cargo, composer), one of their scripts started a tool of the network: how a poisoned package loads the rest of itself."
-- message = "an installation starts {program} in container {container} ({container_image}), as {user_name}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 60
-- attack = ["T1195.002", "T1105"]
-- false_positives = ["packages that fetch a prebuilt part with curl or git over ssh"]
-- blind_spots = ["scripts that fetch by their own language", "tools of other names"]
-- references = ["https://attack.mitre.org/techniques/T1195/002/", "https://attack.mitre.org/techniques/T1105/"]
-- response = "Look at which package it was and at the address. Take what that container may read as known to others."
-- dedup = { key = ["proc_cmdline"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_acmdline,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE program IN ('curl', 'wget', 'nc', 'ncat', 'netcat', 'socat', 'telnet', 'ssh', 'scp', 'sftp', 'ftp', 'tftp', 'dig', 'nslookup', 'host')
  AND regexp_like(array_to_string(proc_acmdline, ' | '), '(^|[/ ])(npm|npm-cli\.js|npx|yarn|yarn\.js|pnpm|pip[0-9.]*|pipx|gem[0-9.]*|cargo|composer|bun|poetry|uv)( -\S+)* (install|ci|i|add|require|update|upgrade|build|exec)( |$)')
