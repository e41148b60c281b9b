-- title = "Process killed for want of memory"
-- description = "The kernel killed processes of a container because it had used up its memory: it leaks, somebody fills it, or the limit is too small."
-- message = "{kills} processes of container {container} ({container_image}) were killed for want of memory; it may have {limit_bytes} bytes"
-- severity = "low"
-- status = "experimental"
-- risk = 30
-- attack = ["T1499.003"]
-- false_positives = ["a limit that is too small for the load"]
-- blind_spots = ["processes that end by themselves when memory runs out"]
-- references = ["https://attack.mitre.org/techniques/T1499/003/"]
-- response = "Look at which of its processes grew (process_samples), and at its log."
-- dedup = { key = [], period = "1h" }
SELECT
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  mem_oom_kills AS kills,
  mem_limit_bytes AS limit_bytes,
  mem_working_set_bytes
FROM container_samples
WHERE mem_oom_kills > 0
  AND container_id <> 'host'
