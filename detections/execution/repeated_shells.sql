-- title = "Shells again and again in a container"
-- description = "Shells were started in a container by programs other than shells, several within five minutes: commands sent one by one through a web shell or an injected command."
-- message = "{count} shells in five minutes in container {container} ({container_image}), started by {parents}: {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 50
-- attack = ["T1059.004", "T1505.003"]
-- false_positives = ["services that run a shell with another command for each job"]
-- blind_spots = ["a single shell that stays open; shell_with_terminal and shell_on_socket see it", "shells that are renamed", "one command again and again", "a script that is called by its own name (CGI, hooks)", "shells of cron, sudo, su, and of the image's make, npm, pip, package managers and their kin", "shells that are put into the container from outside, such as by docker exec; shell_with_terminal sees those with a terminal"]
-- references = ["https://attack.mitre.org/techniques/T1505/003/"]
-- response = "Look at what the parents are and what was asked for: the first command of an intruder is often id, whoami or uname."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  count(*) AS count,
  sample(proc_pname, 5) AS parents,
  sample(proc_cmdline, 5) AS samples
FROM hop(container_execs, INTERVAL '1 minute', INTERVAL '5 minutes')
WHERE coalesce(proc_stage, '') <> 'healthcheck'
  AND program IN (SELECT name FROM shells)
  AND coalesce(proc_pname, '') NOT IN (SELECT name FROM shells)
  -- docker exec: whoever can do that has the host, and needs no web shell.
  AND coalesce(proc_pname, '') NOT IN (SELECT name FROM runtimes)
  AND coalesce(proc_pname, '') NOT IN ('cron', 'crond', 'anacron', 'atd', 'sudo', 'su', 'su-exec', 'gosu', 'runuser', 'doas', 'initdb', 'pg_ctl')
  -- A script that is called by its name, as CGI is, and not a line that somebody sent.
  AND proc_runs IS NULL
  AND NOT under_package_manager
  AND NOT under_build
GROUP BY window_start, window_end, container_id, container, container_image
HAVING count(*) >= 5
  AND count(DISTINCT proc_cmdline) >= 3
