-- title = "Ports of labels"
-- description = "A window over what may be no number, divided by what may be zero."
-- message = "{ports} in {container_id}"
-- severity = "low"
-- status = "stable"
SELECT container_id, count(*) AS ports, sum(CAST(container_labels['port'] AS BIGINT)) / count(*) FILTER (WHERE evt_failed) AS each
FROM tumble(events, INTERVAL '10 seconds')
WHERE evt_type = 'execve'
  AND container_labels['port'] IS NOT NULL
GROUP BY container_id, window_start, window_end
HAVING sum(CAST(container_labels['port'] AS BIGINT)) / count(*) FILTER (WHERE evt_failed) > 3
