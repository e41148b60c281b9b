-- title = "Command line of a miner in a container"
-- description = "A program was started with what only miners of cryptocurrency take: the address of a pool (stratum), their algorithm, their share for the author."
-- message = "a miner was started in container {container} ({container_image}), as {user_name}, by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 80
-- attack = ["T1496"]
-- false_positives = ["tests and documentation that print such a line"]
-- blind_spots = ["settings in a file or in the environment", "a pool reached through a proxy by another protocol"]
-- references = ["https://attack.mitre.org/techniques/T1496/"]
-- response = "Stop the container. Find the way in: what was downloaded or written before, and by whom."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  proc_exe_from,
  proc_exe_sha256,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_execs
WHERE regexp_like(proc_cmdline, 'stratum2?\+?(tcp|udp|ssl|tls)?://|--donate-level|--randomx-|--cpu-max-threads-hint|--nicehash|--(algo|coin)[= ](rx|cn|randomx|cryptonight|argon2|kawpow|ethash|monero|xmr)')
  -- Who looks for the word mines nothing.
  AND coalesce(program, '') NOT IN (SELECT name FROM search_programs)
