-- title = "Neither few opens nor many"
-- description = "A condition that a later row may undo: only the close can say it."
-- message = "{opens} opens in {container_id}"
-- severity = "low"
-- status = "stable"
SELECT container_id, window_end, count(*) AS opens, sum(fd_num) AS numbers
FROM tumble(events, INTERVAL '10 seconds')
WHERE evt_type = 'openat'
  AND evt_is_open_write
GROUP BY container_id, window_start, window_end
HAVING count(*) BETWEEN 18 AND 20
