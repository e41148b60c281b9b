-- title = "Many programs, folded"
-- description = "Windows that follow each other are folded, first words and last."
-- message = "{programs} programs in {container_id}"
-- severity = "medium"
-- status = "stable"
-- dedup = { key = ["container_id"], period = "1m", limit = 1 }
SELECT container_id, count(*) AS programs
FROM tumble(events, INTERVAL '10 seconds')
WHERE evt_type = 'execve'
GROUP BY container_id, window_start, window_end
HAVING count(*) > 20
