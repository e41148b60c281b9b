-- description = "What happens in containers, or in a process that left one, but for the work of the runtime itself, which prepares a container before its program runs."
SELECT
  *,
  coalesce(container_name, container_id) AS container,
  program(proc_exepath, proc_exe, proc_args) AS program,
  coalesce(user_name, CASE WHEN user_uid = 0 THEN 'root' ELSE 'uid ' || CAST(user_uid AS VARCHAR) END) AS user_told
FROM events
WHERE (container_id <> 'host' OR container_origin_id IS NOT NULL)
  AND coalesce(proc_stage, '') <> 'runtime'
