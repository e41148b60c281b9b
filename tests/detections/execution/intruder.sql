-- title = "An intruder"
-- description = "A program is found by its name: a detection on single events."
-- message = "{proc_name} in {container_id}"
-- severity = "high"
-- status = "stable"
SELECT container_id, proc_name, proc_cmdline
FROM events
WHERE evt_type = 'execve'
  AND evt_outcome = 'success'
  AND proc_name = 'intruder'
