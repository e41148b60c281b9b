-- title = "One dropped program on several hosts"
-- description = "Containers of at least three hosts executed the same file that their images do not hold, within ten minutes: a worm, or somebody who brings a tool to each place that was reached."
-- message = "{proc_exepath} is in no image and ran in containers of {hosts} hosts within ten minutes, such as {samples}"
-- severity = "critical"
-- status = "experimental"
-- risk = 90
-- attack = ["T1570", "T1105", "T1204.003"]
-- false_positives = ["an update or an agent that is brought into running containers of the whole fleet"]
-- blind_spots = ["programs that have another path on each host", "fewer than three hosts in ten minutes", "what package managers and builds bring, by the names of the ancestors, which a program can take", "files on volumes; execution_not_in_image sees these on each host", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1570/", "https://attack.mitre.org/techniques/T1105/"]
-- response = "Keep the file of one host, and look at what brought it there: the same way is open on the others. Cut the containers off the network before they reach further hosts."
-- dedup = { key = ["proc_exepath"], period = "1h" }
SELECT
  window_start,
  window_end,
  proc_exepath,
  count(DISTINCT host_id) AS hosts,
  sample(concat(container, ' on ', host_name), 5) AS samples
FROM hop(container_execs, INTERVAL '1 minute', INTERVAL '10 minutes')
WHERE proc_exe_from = 'upper'
  AND NOT under_build
  AND NOT under_package_manager
  AND NOT image_build
GROUP BY window_start, window_end, proc_exepath
HAVING hosts_known(INTERVAL '1 minute') >= 3
