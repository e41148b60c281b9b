-- title = "Many programs in ten seconds"
-- description = "A monotone threshold over a tumbling window: said early and again at the close."
-- message = "{programs} programs in {container_id}"
-- severity = "medium"
-- status = "stable"
SELECT container_id, window_start, count(*) AS programs, max(proc_pid) AS last_pid
FROM tumble(events, INTERVAL '10 seconds')
WHERE evt_type = 'execve'
GROUP BY window_start, window_end, container_id
HAVING count(*) >= 25
