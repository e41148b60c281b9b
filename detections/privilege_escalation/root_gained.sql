-- title = "Root gained by other means than su and sudo"
-- description = "A program runs, or makes itself, root in a container though its parent is another user, and it is none of the programs that are made for that: a set-user-id copy of a shell, a file with capabilities, an exploit."
-- message = "{program} runs as root in container {container} ({container_image}), started by {proc_pname} of host user {parent_uid}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1548.001", "T1068"]
-- false_positives = ["an application's own set-user-id program, whose name is in no list (lists/setuid_programs.csv)"]
-- blind_spots = ["an exploit that makes a process root without a call for it, until it executes a program", "set-user-id programs of the system that are talked into running a command", "parents that are not known, and those of other user namespaces", "what a user's process executes in its own place, when its parent is root"]
-- references = ["https://attack.mitre.org/techniques/T1548/001/", "https://attack.mitre.org/techniques/T1068/"]
-- response = "Look at the program's file: its mode, its capabilities, when it came there. Treat the container's root as taken."
-- dedup = { key = ["program", "parent_uid"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_auid[1] AS parent_uid,
  proc_exe_from,
  proc_exe_ino_ctime,
  user_uid,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_host_uid
FROM container_events
WHERE evt_type IN ('execve', 'execveat', 'setuid', 'setreuid', 'setresuid')
  AND evt_outcome = 'success'
  AND user_host_uid = 0
  AND proc_auid[1] IS NOT NULL
  AND proc_auid[1] <> 0
  AND NOT (
    coalesce(program, '') IN (SELECT name FROM setuid_programs)
    AND regexp_like(coalesce(proc_exepath, ''), '^/(usr/)?(local/)?(s?bin|lib(exec)?(/[^/]+)?)/[^/]+$')
  )
