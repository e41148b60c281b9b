-- title = "Execution from memory in a container"
-- description = "A container executed a program that lies on no disk: from a memfd, or from the shared memory below /dev/shm. Payloads run so to leave nothing behind and to pass a read-only file system. A try that the mount refused, and a script or library that an interpreter or the loader runs from there, count as well."
-- message = "container {container} ({container_image}) runs {what} from memory ({evt_outcome}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "critical"
-- status = "stable"
-- risk = 90
-- attack = ["T1620", "T1059.004", "T1027.011"]
-- false_positives = ["programs that start themselves again from a memfd, such as container runtimes inside the container and some protected commercial software"]
-- blind_spots = ["code loaded into a running process", "scripts called by a relative path after a change of folder inside a shell", "scripts read from standard input"]
-- references = ["https://attack.mitre.org/techniques/T1620/", "https://attack.mitre.org/techniques/T1027/011/"]
-- response = "Stop the container before the process ends, if its memory can be kept; look at what brought the program there."
-- dedup = { key = ["what"] }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  CASE WHEN evt_failed THEN evt_args['filename'] WHEN proc_exe_from = 'memfd' THEN proc_exepath ELSE proc_cmdline END AS what,
  evt_outcome,
  evt_res,
  proc_exepath,
  proc_exe_from,
  proc_exe_sha256,
  proc_cmdline,
  proc_cwd,
  proc_pname,
  proc_stage,
  user_name,
  user_host_uid
FROM events
WHERE evt_type IN ('execve', 'execveat')
  AND (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') <> 'runtime'
  AND (
    (
      evt_outcome = 'success'
      AND (
        proc_exe_from = 'memfd'
        OR regexp_like(proc_exepath, '^(/dev/shm/|/run/shm/|/?memfd:)')
        OR (
          -- A script, or a program handed to the loader: the first of its arguments that is a path.
          (
            program(proc_exepath, proc_exe, proc_args) IN (SELECT name FROM shells)
            OR program(proc_exepath, proc_exe, proc_args) IN (SELECT name FROM script_runners)
            OR regexp_like(proc_exepath, '/(python[0-9.]+|ld-[^/]*\.so[^/]*|ld-musl[^/]*|ld\.so)$')
          )
          AND (
            regexp_like(concat(' ', array_to_string(proc_args, ' ')), '^( -[^ ]*| --[^ ]+| busybox| [a-z]*sh)* (/dev/shm/|/run/shm/)')
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
      evt_failed
      AND evt_res IN ('EACCES', 'EPERM', 'ENOEXEC')
      AND regexp_like(evt_args['filename'], '^(/dev/shm|/run/shm)/')
    )
  )
