-- title = "Execution of a program that is not in the image"
-- description = "A container executed a file that its image does not hold: written into the container after its start, or changed on a volume since. Images are built elsewhere, so in production this is a dropped tool, a miner or a compiled payload."
-- message = "container {container} ({container_image}) runs {proc_exepath} ({proc_exe_from}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "stable"
-- risk = 80
-- attack = ["T1105", "T1204.003"]
-- false_positives = ["containers that build, update or download software and run it", "development containers with code on a mounted volume", "a file of the image whose mode or owner was changed in the container"]
-- blind_spots = ["scripts: what is executed is their interpreter, which is the image's; dropped_script sees those", "files that were on a volume before the container's start", "programs that a loader of the image was told to load; dropped_library sees those", "what the image's own make, ninja, cargo, go, npm, pip and their kin run, and package managers, whatever they were asked to run, and programs below an interpreter that took the name of npm, pip, mvn or another tool that is a script", "what a container's start script runs itself in its first quarter of an hour, but for temporary folders; start_script_unusual tells, at a lower severity", "steps of docker build"]
-- references = ["https://attack.mitre.org/techniques/T1105/", "https://attack.mitre.org/techniques/T1204/003/"]
-- response = "Keep the file and its hash, look at how it came there (the process tree, downloads before it), stop the container and start it anew from the image."
-- dedup = { key = ["proc_exepath"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  proc_exepath,
  proc_exe_from,
  proc_exe_sha256,
  proc_exe_ino_mtime,
  proc_exe_ino_ctime,
  container_start_ts,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE (
    proc_exe_from = 'upper'
    -- The inode's own time of change, which no program can set back.
    -- Runtimes say the start a moment after the first process has begun, and what is said comes later still.
    OR (
      proc_exe_from = 'mount'
      AND proc_exe_ino_ctime > coalesce(container_start_ts - INTERVAL '1 second', ts - INTERVAL '10 seconds')
    )
    -- A root that is no overlay may have been copied for this container, right before its start.
    OR (
      proc_exe_from = 'unknown'
      AND proc_exe_ino_ctime > coalesce(container_start_ts, CASE WHEN proc_stage = 'entrypoint' THEN ts ELSE ts - INTERVAL '10 seconds' END)
    )
  )
  -- Builds: what was compiled is tried out, what was installed is set up.
  AND NOT under_build
  AND NOT under_package_manager
  AND NOT image_build
  -- What the container's own script makes and runs where programs may lie; start_script_unusual tells.
  AND NOT (start_script AND NOT coalesce(regexp_like(proc_exepath, '^/(tmp|var/tmp|dev|run|proc)/|/\.[^/]*$'), false))
