-- title = "Process near its limit of open files"
-- description = "A process in a container has nine tenths of the files and connections open that it may have: it leaks them, or somebody opens connections and leaves them."
-- message = "{proc_name} in container {container} ({container_image}) has {open} of {open_limit} files and connections open"
-- severity = "low"
-- status = "experimental"
-- risk = 25
-- attack = ["T1499.002"]
-- false_positives = ["servers with a limit that is too small for the load"]
-- blind_spots = ["processes without a limit"]
-- references = ["https://attack.mitre.org/techniques/T1499/002/"]
-- response = "Look at what it has open: ls -l /proc/PID/fd on the host."
-- dedup = { key = ["proc_name"], period = "1h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  proc_name,
  proc_pid,
  proc_fdopencount AS open,
  proc_fdlimit AS open_limit
FROM process_samples
WHERE proc_fdlimit > 0
  AND proc_fdopencount * 10 >= proc_fdlimit * 9
  AND container_id <> 'host'
