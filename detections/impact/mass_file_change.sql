-- title = "Mass change of files in a container"
-- description = "One program in a container opened hundreds of files that were there for writing within a minute: files are encrypted, wiped or defaced."
-- message = "{program} in container {container} ({container_image}) wrote {files} different files in a minute, in folders such as {folders}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1486", "T1485", "T1565.001"]
-- false_positives = ["copies that overwrite what is there"]
-- blind_spots = ["files changed through memory maps; mass_file_removal counts those that are renamed", "files that are made anew, as archives, builds and databases do; mass_file_removal sees that the old ones are removed", "package managers and what they run, by names, which a program can take", "what a container's start script changes in its first quarter of an hour", "fewer than 200 files a minute"]
-- references = ["https://attack.mitre.org/techniques/T1486/", "https://attack.mitre.org/techniques/T1485/"]
-- response = "Stop the container, keep its file system and its volumes, and compare a few of the files with a backup."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  proc_name AS program,
  count(DISTINCT fd_name) AS files,
  sample(fd_directory, 5) AS folders
FROM tumble(container_events, INTERVAL '1 minute')
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat')
  AND evt_is_open_write
  AND evt_outcome = 'success'
  AND coalesce(fd_type, '') = 'file'
  -- What was there before: builds, archives and databases make theirs anew. Who writes new ones for the old removes the old.
  AND NOT coalesce(fd_created, false)
  AND NOT under_package_manager
  AND coalesce(proc_name, '') NOT IN (SELECT name FROM package_managers)
  AND NOT coalesce(regexp_like(proc_name, '^(pip|pipx|npm|yarn|pnpm|gem|cargo|composer|conda|mamba|uv|bun|poetry|pipenv|cpanm?|luarocks|easy_install)([0-9. ]|$)'), false)
  AND NOT regexp_like(coalesce(fd_name, ''), '^/(proc|sys|dev)/|/(node_modules|site-packages|dist-packages|\.git|\.cache|go-build|__pycache__)/')
  -- A database makes its own files when it is first started, by a start script or in a process of its own.
  AND NOT start_script
  AND NOT (coalesce(proc_name, '') IN (SELECT name FROM servers) AND coalesce(proc_stage, '') = 'entrypoint')
GROUP BY window_start, window_end, container_id, container, container_image, proc_name
HAVING count(DISTINCT fd_name) >= 200
