-- title = "Server does not accept connections in time"
-- description = "So many connections to a server in a container wait to be accepted that its queue is full, and clients are turned away: it hangs, is too slow for the load, or somebody floods it with connections."
-- message = "{proc_name} in container {container} ({container_image}) has {waiting} connections waiting at {address}, where {allowed} may, and dropped {refused}"
-- severity = "low"
-- status = "experimental"
-- risk = 30
-- attack = ["T1499.002"]
-- false_positives = ["servers with a queue of one or two connections", "servers that start, or stop for a moment"]
-- blind_spots = ["queues that are full between two samples only", "unix sockets"]
-- references = ["https://attack.mitre.org/techniques/T1499/002/", "https://man7.org/linux/man-pages/man2/listen.2.html"]
-- response = "Look at what the server does (its threads, its CPU) and at who connects: ss -tn sport = :PORT in its network namespace."
-- dedup = { key = ["proc_name", "address"], period = "1h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  proc_name,
  proc_pid,
  fd_name AS address,
  fd_backlog AS waiting,
  fd_backlog_limit AS allowed,
  fd_refused AS refused
FROM io_samples
WHERE fd_state = 'listen'
  -- What a socket drops with room in its queue is something else, such as a scanner's resets.
  AND (fd_backlog > fd_backlog_limit OR (fd_refused > 0 AND fd_backlog * 2 > fd_backlog_limit))
  AND container_id <> 'host'
