-- title = "Many refused system calls in a container"
-- description = "One program in a container was refused hundreds of system calls within a minute: it tries what it may do."
-- message = "{program} in container {container} ({container_image}) was refused {refused} system calls in a minute, such as {calls}"
-- severity = "medium"
-- status = "experimental"
-- risk = 40
-- attack = ["T1082", "T1611"]
-- false_positives = ["installers that change owners without the right to", "a program that tries again and again what it may not"]
-- blind_spots = ["fewer than 300 in a minute", "calls that a seccomp filter answers with another errno"]
-- references = ["https://attack.mitre.org/techniques/T1611/"]
-- response = "Look at which calls they are (syscall_samples) and as whom it runs."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  proc_name AS program,
  sum(call_failed) AS refused,
  sample(call_name, 5) AS calls
FROM tumble(syscall_samples, INTERVAL '1 minute')
WHERE call_errno IN ('EACCES', 'EPERM')
  AND container_id <> 'host'
  AND coalesce(proc_stage, '') <> 'runtime'
GROUP BY window_start, window_end, container_id, container_name, container_image, proc_name
HAVING sum(call_failed) >= 300
