-- title = "Somebody looks around in a container"
-- description = "Many of the commands that tell who one is, where, and what runs there were executed in a container within a minute: the first thing that an intruder does by hand or by script."
-- message = "{programs} commands that tell of users, system and network ran within a minute in container {container} ({container_image}): {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 45
-- attack = ["T1033", "T1082", "T1057", "T1016"]
-- false_positives = ["people who look for a fault by hand", "scripts that collect a system's state for support"]
-- blind_spots = ["the same by reading /proc and /etc, and by one program that asks for all", "fewer than six different ones a minute"]
-- references = ["https://attack.mitre.org/techniques/T1033/", "https://attack.mitre.org/techniques/T1082/"]
-- response = "Ask who is at work there. If nobody: look at the parent of the first of them."
-- dedup = { key = [], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  count(DISTINCT program) AS programs,
  sample(proc_cmdline, 10) AS samples
FROM tumble(container_execs, INTERVAL '1 minute')
WHERE coalesce(proc_stage, '') <> 'healthcheck'
  AND program IN ('id', 'whoami', 'who', 'w', 'last', 'lastlog', 'groups', 'uname', 'hostname', 'hostnamectl', 'ifconfig', 'ip', 'route', 'arp', 'netstat', 'ss', 'ps', 'top', 'env', 'printenv', 'lsmod', 'capsh', 'getcap', 'getent', 'dmesg', 'lscpu', 'lsblk', 'df', 'mount', 'findmnt', 'lsof', 'lspci', 'crontab', 'docker', 'kubectl', 'systemd-detect-virt', 'amicontained', 'nproc', 'free', 'uptime')
GROUP BY window_start, window_end, container_id, container, container_image
HAVING count(DISTINCT program) >= 6
