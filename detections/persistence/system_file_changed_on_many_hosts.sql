-- title = "One system file changed on several hosts"
-- description = "Containers of at least three hosts wrote or replaced the same program or library of the system, or ld.so.preload, within ten minutes: the same backdoor is put into place after place."
-- message = "{file} is changed in containers of {hosts} hosts, such as {samples}"
-- severity = "critical"
-- status = "experimental"
-- risk = 85
-- attack = ["T1554", "T1574.006", "T1570"]
-- false_positives = ["containers that install or update software when they start, where a whole deployment starts at once"]
-- blind_spots = ["another file on each host", "changes that were refused", "package managers, make and what they run, by the names of the ancestors, which a program can take", "fewer than three hosts in ten minutes", "hosts that were first heard of less than a minute ago"]
-- references = ["https://attack.mitre.org/techniques/T1554/", "https://attack.mitre.org/techniques/T1574/006/"]
-- response = "Compare the file with the image's on one host. If it is not yours: start the containers anew from the image, all of them, and look for how it came there."
-- dedup = { key = ["file"], period = "1h" }
SELECT
  window_start,
  window_end,
  coalesce(fs_path_target, fd_name) AS file,
  count(DISTINCT host_id) AS hosts,
  sample(concat(program, ' in ', container, ' on ', host_name), 5) AS samples
FROM hop(container_events, INTERVAL '1 minute', INTERVAL '10 minutes')
WHERE (
    (evt_type IN ('open', 'openat', 'openat2', 'creat') AND (evt_is_open_write OR evt_is_open_create))
    OR evt_type IN ('rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat')
  )
  AND evt_outcome = 'success'
  AND regexp_like(
    coalesce(fs_path_target, fd_name),
    '^(/usr)?(/local)?/s?bin/.|^(/usr)?(/local)?/lib(32|64|x32)?/([^/]+/)?[^/]+\.so(\.[0-9.]+)?$|^/etc/ld\.so\.preload$'
  )
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
  AND NOT under_build
  AND NOT image_build
GROUP BY window_start, window_end, coalesce(fs_path_target, fd_name)
HAVING hosts_known(INTERVAL '1 minute') >= 3
