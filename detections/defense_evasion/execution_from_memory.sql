-- title = "Execution from memory in a container"
-- description = "A container executed a program that lies on no disk: from a memfd, or from the shared memory below /dev/shm. Payloads run so to leave nothing behind and to pass a read-only file system. A try that the mount refused counts as well, and so does a script or a library from there, however an interpreter or the loader comes to read it: as its argument, sourced, as its standard input, by a relative path."
-- message = "container {container} ({container_image}) runs {what} from memory ({evt_outcome}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "critical"
-- status = "stable"
-- risk = 90
-- attack = ["T1620", "T1059.004", "T1027.011"]
-- false_positives = ["programs that start themselves again from a memfd, such as container runtimes inside the container and some protected commercial software"]
-- blind_spots = ["code that a compiled program loads by itself, where its file is named as no library", "data that a shell or a script only reads there look like a script"]
-- reads = ["/dev/shm", "/run/shm", "/memfd:*"]
-- references = ["https://attack.mitre.org/techniques/T1620/", "https://attack.mitre.org/techniques/T1027/011/"]
-- response = "Stop the container before the process ends, if its memory can be kept; look at what brought the program there."
-- dedup = { key = ["what"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  -- The file where it is told, so that an interpreter and the script that it opens are one alert.
  CASE
    WHEN evt_type NOT IN ('execve', 'execveat') THEN fd_name
    WHEN evt_failed THEN evt_args['filename']
    WHEN proc_exe_from = 'memfd' OR regexp_like(proc_exepath, '^(/dev/shm/|/run/shm/|/?memfd:)') THEN proc_exepath
    WHEN proc_stdin_type = 'file' AND regexp_like(proc_stdin_name, '^(/dev/shm/|/run/shm/|/?memfd:)') THEN proc_stdin_name
    ELSE coalesce(regexp_match(array_to_string(proc_args, ' '), '((/dev/shm|/run/shm)/[^ ]*)')[1], proc_cmdline)
  END AS what,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_exe_from,
  proc_exe_sha256,
  proc_cmdline,
  proc_cwd,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('execve', 'execveat', 'open', 'openat', 'openat2')
  AND (
    (
      evt_type IN ('execve', 'execveat')
      AND evt_outcome = 'success'
      AND (
        proc_exe_from = 'memfd'
        OR regexp_like(proc_exepath, '^(/dev/shm/|/run/shm/|/?memfd:)')
        OR (
          -- A script, or a program handed to the loader: the first of its arguments that is a path.
          (
            program IN (SELECT name FROM shells)
            OR program IN (SELECT name FROM script_runners)
            OR regexp_like(proc_exepath, '/(python[0-9.]+|ld-[^/]*\.so[^/]*|ld-musl[^/]*|ld\.so)$')
          )
          AND (
            regexp_like(concat(' ', array_to_string(proc_args, ' ')), '^( -[^ ]*| --[^ ]+| busybox| [a-z]*sh)* (/dev/shm/|/run/shm/)')
            -- As its input.
            OR (proc_stdin_type = 'file' AND regexp_like(proc_stdin_name, '^(/dev/shm/|/run/shm/|/?memfd:)'))
            OR (
              regexp_like(concat(coalesce(proc_cwd, ''), '/'), '^(/dev/shm|/run/shm)/')
              AND regexp_like(array_to_string(proc_args, ' '), '^(-[abd-z]+ )*(\./)?[A-Za-z0-9_.][^ /]*( |$)')
              AND NOT regexp_like(array_to_string(proc_args, ' '), '^(busybox|[a-z]*sh)$')
            )
          )
        )
      )
    )
    -- Docker mounts /dev/shm without the right to execute.
    OR (
      evt_type IN ('execve', 'execveat')
      AND evt_failed
      AND evt_res IN ('EACCES', 'EPERM', 'ENOEXEC')
      AND regexp_like(evt_args['filename'], '^(/dev/shm|/run/shm)/')
    )
    -- Scripts and libraries, by who reads them. Shared memory itself is opened to be written, too.
    OR (
      evt_type IN ('open', 'openat', 'openat2')
      AND evt_is_open_read
      AND NOT evt_is_open_write
      AND evt_outcome = 'success'
      AND regexp_like(fd_name, '^(/dev/shm/.|/run/shm/.|/?memfd:)')
      AND (
        program IN (SELECT name FROM shells)
        OR program IN (SELECT name FROM script_runners)
        OR regexp_like(proc_exepath, '/(python[0-9.]+|ld-[^/]*\.so[^/]*|ld-musl[^/]*|ld\.so)$')
        OR regexp_like(fd_name, '\.so(\.[0-9.]+)?$')
      )
    )
  )
