-- title = "A port above a thousand"
-- description = "A label is taken for a number, and some are none: those rows cannot be judged."
-- message = "{port} in {container_id}"
-- severity = "low"
-- status = "stable"
SELECT container_id, CAST(container_labels['port'] AS BIGINT) AS port
FROM events
WHERE evt_type = 'execve'
  AND CAST(container_labels['port'] AS BIGINT) > 8500
