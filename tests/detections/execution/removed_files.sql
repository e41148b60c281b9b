-- title = "Thousands of files removed"
-- description = "Every aggregate, each with as much as it keeps at most."
-- message = "{files} files in {container_id}"
-- severity = "medium"
-- status = "stable"
SELECT
  container_id,
  count(*) AS rows,
  count(DISTINCT fd_name) AS files,
  approx_distinct(fd_name) AS about,
  sample(fd_name, 20) AS names,
  min(fd_name) AS low,
  max(fd_name) AS high,
  first_value(fd_name ORDER BY ts, seq) AS first,
  last_value(fd_name ORDER BY ts, seq) AS last,
  avg(fd_num) AS mean,
  sum(fd_num) AS total,
  bit_or(fd_num) AS bits,
  bool_and(evt_failed) AS failed
FROM tumble(events, INTERVAL '1 minute')
WHERE evt_type = 'unlinkat'
GROUP BY container_id, window_start, window_end
HAVING count(DISTINCT fd_name) >= 5000
