-- title = "Program made to load a library from a folder of temporary files"
-- description = "A program was started in a container with a variable that makes the loader take a library from a folder where anybody writes, from memory or through /proc, or with a value of GLIBC_TUNABLES that exploits have (CVE-2023-4911)."
-- message = "{program} was started with {variable} in container {container} ({container_image}), as {user_name}, by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1574.006", "T1068"]
-- false_positives = ["builds and tests that preload a library they have just made"]
-- blind_spots = ["libraries in other folders; write_below_binary_folder sees those put beside the system's", "variables that were beyond what is looked at (proc_env_cut)", "programs that load a library by themselves"]
-- references = ["https://attack.mitre.org/techniques/T1574/006/", "https://attack.mitre.org/techniques/T1068/"]
-- response = "Keep the library. Look at who wrote it, and at every program of that session."
-- dedup = { key = ["variable"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce('LD_PRELOAD=' || proc_env['LD_PRELOAD'], 'LD_AUDIT=' || proc_env['LD_AUDIT'], 'GLIBC_TUNABLES=' || proc_env['GLIBC_TUNABLES'], 'LD_LIBRARY_PATH=' || proc_env['LD_LIBRARY_PATH']) AS variable,
  proc_skey,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('execve', 'execveat')
  AND proc_env IS NOT NULL
  AND evt_outcome = 'success'
  AND (
    regexp_like(concat(proc_env['LD_PRELOAD'], ':', proc_env['LD_AUDIT']), '(^|[: ])((/var)?/tmp/|/dev/|/run/shm/|/proc/|/?memfd:)')
    OR regexp_like(proc_env['LD_LIBRARY_PATH'], '(^|:)(/dev/shm|/proc/)')
    OR regexp_like(proc_env['GLIBC_TUNABLES'], 'glibc\.[^:=]+=glibc\.')
  )
