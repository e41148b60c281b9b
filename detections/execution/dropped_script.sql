-- title = "Script that is not in the image runs in a container"
-- description = "A shell or a script language of the image read its program from a file that was written into the container after its start: as its argument, by the script's first line, sourced, or on standard input. A payload that is no program of its own runs so."
-- message = "{program} runs the script {script} ({place}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 50
-- attack = ["T1059.004", "T1059.006", "T1105"]
-- false_positives = ["people who write a script by hand in a container and try it", "configuration that a shell reads as its argument", "applications that write scripts and run them"]
-- blind_spots = ["scripts on a volume or a bind mount", "what a container's start script makes and runs in its first quarter of an hour, but for temporary folders", "modules that a script loads", "what build tools and package managers run", "on standard input only from a temporary folder", "a script's second run in an hour under another interpreter's session"]
-- references = ["https://attack.mitre.org/techniques/T1059/004/", "https://attack.mitre.org/techniques/T1105/"]
-- response = "Read the script, and look at how it came there: the process tree, downloads before it. Start the container anew from the image."
-- dedup = { key = ["script"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(CASE WHEN evt_type IN ('execve', 'execveat') THEN proc_stdin_name ELSE fd_name END, proc_cmdline) AS script,
  coalesce(fd_from, 'standard input') AS place,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'execve', 'execveat')
  AND evt_outcome = 'success'
  AND (program IN (SELECT name FROM shells) OR program IN (SELECT name FROM script_runners) OR regexp_like(program, '^python[0-9.]+$'))
  AND (
    (
      evt_type IN ('open', 'openat', 'openat2')
      AND evt_is_open_read
      AND NOT evt_is_open_write
      AND fd_type = 'file'
      AND fd_from = 'upper'
      AND (
        -- The first argument that is no option, or what is sourced.
        ends_with(regexp_match(array_to_string(proc_args, ' '), '^(?:--[^ ]+ |-[^ c]* )*([^- ][^ ]*)')[1], fd_filename)
        OR (
          regexp_like(array_to_string(proc_args, ' '), '(^|[;&|( ])(\.|source) +[^ ;]')
          AND strpos(array_to_string(proc_args, ' '), fd_filename) > 0
        )
      )
      AND NOT regexp_like(fd_name, '/(site-packages|dist-packages|node_modules)/|/var/lib/dpkg/|_history$')
    )
    OR (
      evt_type IN ('execve', 'execveat')
      AND proc_stdin_type = 'file'
      AND regexp_like(proc_stdin_name, '^/(tmp|var/tmp|run|home/[^/]+|root)/')
      AND NOT coalesce(regexp_like(array_to_string(proc_args, ' '), '(^| )[^- ]|(^| )-[a-z]*c'), false)
    )
  )
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND NOT image_build
  AND NOT under_package_manager
  AND NOT under_build
  AND NOT (start_script AND NOT coalesce(regexp_like(fd_name, '^/(tmp|var/tmp|run)/|/\.[^/]*$'), false))
