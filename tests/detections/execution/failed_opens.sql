-- title = "Many failed opens"
-- description = "A threshold on filtered rows; the rows of a minute wait for stragglers."
-- message = "{failed} of {opens} opens failed in {container_id}"
-- severity = "low"
-- status = "stable"
-- lateness = "5s"
-- out_of_orderness = "2s"
SELECT
  container_id,
  proc_key,
  count(*) FILTER (WHERE evt_outcome = 'failed') AS failed,
  count(*) AS opens,
  avg(fd_num) AS number
FROM tumble(events, INTERVAL '1 minute')
WHERE evt_type = 'openat'
GROUP BY container_id, window_start, window_end, proc_key
HAVING count(*) FILTER (WHERE evt_outcome = 'failed') >= 12
