-- title = "Shell with a terminal in a container"
-- description = "A shell was started in a container and has a terminal: a person is at work where a service should be, by docker exec, docker run -t, or from a pseudo-terminal that an intruder made to get a better shell. An interpreter without a script, put into the container from outside, is a shell, too."
-- message = "{shell} with a terminal in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "stable"
-- risk = 50
-- attack = ["T1059.004", "T1609"]
-- false_positives = ["administrators and developers who look into a container by hand", "containers started with a terminal although nobody sits at it (tty: true)"]
-- blind_spots = ["shells built or renamed so that neither file, link nor argument tells them; execution_not_in_image sees those brought into the container", "system(3) calls of a service whose container has a terminal", "shells of a configured healthcheck"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1609/"]
-- response = "Ask who opened it. If nobody did: pause the container, keep its file system, and look at what the session's processes did."
-- dedup = { key = ["shell", "proc_stage", "proc_pname"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program AS shell,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  proc_tty,
  proc_sid,
  proc_skey,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE (
    program IN (SELECT name FROM shells)
    OR proc_name IN (SELECT name FROM shells)
    OR (
      coalesce(proc_stage, '') <> 'entrypoint'
      AND (program IN (SELECT name FROM script_runners) OR regexp_like(program, '^python[0-9.]+$'))
      AND NOT coalesce(regexp_like(array_to_string(proc_args, ' '), '(^| )[^- ]|(^| )-[a-zA-Z]*[cem]'), false)
    )
  )
  AND (proc_tty <> 0 OR proc_stdin_type = 'tty' OR proc_stdout_type = 'tty' OR proc_stderr_type = 'tty')
  AND coalesce(proc_stage, '') <> 'healthcheck'
  -- dpkg gives what it runs a terminal. A shell that a package manager was talked into has no script of its own.
  AND NOT (under_package_manager AND proc_runs IS NOT NULL)
  -- The container's own program and what it starts: an interactive shell, or the -c of the container's command,
  -- not an entrypoint's script that happens to have the terminal of docker run -t.
  AND (
    coalesce(proc_stage, '') <> 'entrypoint'
    OR proc_args IS NULL
    OR regexp_like(array_to_string(proc_args, ' '), '^((busybox|ash|sh|hush|bash)( |$))?([-+][a-bd-zA-Z]*( |$)|--[a-z]+( |$))*$')
    OR regexp_like(array_to_string(proc_args, ' '), '(^| )-[a-zA-Z]*i[a-zA-Z]*( |$)')
    OR (proc_vpid = 1 AND regexp_like(array_to_string(proc_args, ' '), '^([-+][a-zA-Z]+ |--[a-z]+ )*-[a-zA-Z]*c '))
  )
