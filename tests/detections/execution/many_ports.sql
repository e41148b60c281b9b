-- title = "Many ports in a minute"
-- description = "Distinct values over a hopping window."
-- message = "{ports} ports from {container_id}"
-- severity = "medium"
-- status = "stable"
-- lateness = "2s"
SELECT container_id, count(DISTINCT fd_sport) AS ports, min(fd_sport) AS lowest
FROM hop(events, INTERVAL '30 seconds', INTERVAL '1 minute')
WHERE evt_type = 'connect'
GROUP BY container_id, window_start, window_end
HAVING count(DISTINCT fd_sport) >= 24
