-- description = "Programs that containers, or processes that left one, execute with success, but for those of the runtime itself."
SELECT
  *,
  coalesce(container_name, container_id) AS container,
  program(proc_exepath, proc_exe, proc_args) AS program,
  coalesce(user_name, CASE WHEN user_uid = 0 THEN 'root' ELSE 'uid ' || CAST(user_uid AS VARCHAR) END) AS user_told
FROM events
WHERE evt_type IN ('execve', 'execveat')
  AND evt_outcome = 'success'
  AND (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') <> 'runtime'
