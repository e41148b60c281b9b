-- title = "Files streamed out of a container"
-- description = "An archive of a container's files was made onto the standard output of a command that was put into it from outside: how kubectl cp, and people with docker exec, take files away."
-- message = "{program} streams files out of container {container} ({container_image}), as {user_name}: {proc_cmdline}"
-- severity = "low"
-- status = "experimental"
-- risk = 30
-- attack = ["T1005", "T1048"]
-- false_positives = ["people who copy files out by kubectl cp", "backups by docker exec"]
-- blind_spots = ["docker cp and other ways that start no program inside", "single files by cat"]
-- references = ["https://attack.mitre.org/techniques/T1005/", "https://attack.mitre.org/techniques/T1048/"]
-- response = "Ask who took them and what the folder holds."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_args,
  proc_stdout_type,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE proc_stage = 'exec'
  AND program IN ('tar', 'cpio', 'zip', 'bsdtar')
  AND proc_pname IN (SELECT name FROM runtimes)
  AND regexp_like(array_to_string(proc_args, ' '), '^-?[a-eg-zA-Z]*c[a-eg-zA-Z]* |^-?o|(^| )-( |$)')
  AND NOT regexp_like(array_to_string(proc_args, ' '), '^-?[a-zA-Z]*x|(^| )--extract')
