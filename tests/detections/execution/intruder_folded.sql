-- title = "An intruder, folded"
-- description = "Single events of one container are folded: the first two a minute, then how many there were."
-- message = "{proc_name} in {container_id}"
-- severity = "low"
-- status = "stable"
-- dedup = { key = ["container_id"], period = "1m", limit = 2 }
SELECT container_id, proc_name
FROM events
WHERE evt_type = 'execve'
  AND proc_name = 'intruder'
