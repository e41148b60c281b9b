-- title = "Mass change of files in a container"
-- description = "One program in a container opened hundreds of different files for writing within a minute: files are encrypted, wiped or defaced."
-- message = "{program} in container {container} ({container_image}) wrote {files} different files in a minute, in folders such as {folders}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1486", "T1485", "T1565.001"]
-- false_positives = ["builds, and copies that overwrite what is there"]
-- blind_spots = ["files changed through memory maps; mass_file_removal counts those that are renamed", "files that are made anew for certain (O_EXCL), as archives and databases do", "package managers, by the name of the process, which a program can take", "fewer than 200 files a minute"]
-- references = ["https://attack.mitre.org/techniques/T1486/", "https://attack.mitre.org/techniques/T1485/"]
-- response = "Stop the container, keep its file system and its volumes, and compare a few of the files with a backup."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  coalesce(container_name, container_id) AS container,
  container_image,
  proc_name AS program,
  count(DISTINCT fd_name) AS files,
  sample(fd_directory, 5) AS folders
FROM tumble(events, INTERVAL '1 minute')
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat')
  AND evt_is_open_write
  AND evt_outcome = 'success'
  AND container_id <> 'host'
  AND coalesce(fd_type, '') = 'file'
  AND coalesce(fd_flags, '') NOT LIKE '%O_EXCL%'
  AND coalesce(proc_name, '') NOT IN (SELECT name FROM package_managers)
  AND NOT coalesce(regexp_like(proc_name, '^(pip|pipx|npm|yarn|pnpm|gem|cargo|composer|conda|mamba|uv|bun|poetry|pipenv|cpanm?|luarocks|easy_install)([0-9. ]|$)'), false)
  AND NOT regexp_like(coalesce(fd_name, ''), '^/(proc|sys|dev)/|/(node_modules|site-packages|dist-packages|\.git|\.cache|go-build|__pycache__)/')
  -- A database makes its own files when it is first started.
  AND NOT (coalesce(proc_name, '') IN (SELECT name FROM servers) AND coalesce(proc_stage, '') = 'entrypoint')
  AND coalesce(proc_stage, '') <> 'runtime'
GROUP BY window_start, window_end, container_id, container_name, container_image, proc_name
HAVING count(DISTINCT fd_name) >= 200
