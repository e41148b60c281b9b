-- title = "The two busiest containers of a host"
-- description = "An order and a limit, which act in each host and window."
-- message = "{container_id} made {connections} connections"
-- severity = "informational"
-- status = "stable"
SELECT container_id, count(*) AS connections, stddev(fd_sport) AS spread
FROM tumble(events, INTERVAL '30 seconds')
WHERE evt_type = 'connect'
GROUP BY window_start, window_end, container_id
HAVING count(*) >= 10
ORDER BY count(*) DESC, container_id
LIMIT 2
