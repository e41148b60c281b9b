-- title = "Mass removal or renaming of files in a container"
-- description = "One program in a container removed hundreds of different files within a minute, or gave hundreds a longer name: data are destroyed, or were encrypted and marked so."
-- message = "{program} in container {container} ({container_image}) removed or renamed {files} different files in a minute, such as {samples}"
-- severity = "medium"
-- status = "experimental"
-- risk = 60
-- attack = ["T1485", "T1486"]
-- false_positives = ["clean-up jobs, and trees that are removed by hand", "caches of applications outside of the usual folders"]
-- blind_spots = ["fewer than 200 files a minute", "files below folders of caches, builds and packages", "file systems that are overwritten as a whole"]
-- references = ["https://attack.mitre.org/techniques/T1485/", "https://attack.mitre.org/techniques/T1486/"]
-- response = "Stop the container, keep its volumes as they are, and compare with a backup."
-- dedup = { key = ["program"], period = "1h" }
SELECT
  window_start,
  window_end,
  container_id,
  container,
  container_image,
  proc_name AS program,
  count(DISTINCT coalesce(fd_name, fs_path_source)) AS files,
  sample(coalesce(fd_name, fs_path_target), 5) AS samples
FROM tumble(container_events, INTERVAL '1 minute')
WHERE evt_type IN ('unlink', 'unlinkat', 'rename', 'renameat', 'renameat2')
  AND evt_outcome = 'success'
  AND coalesce(proc_name, '') NOT IN (SELECT name FROM package_managers)
  AND (
    (evt_type IN ('unlink', 'unlinkat') AND NOT regexp_like(fd_name, '^/(tmp|var/tmp|var/cache|var/lib/(apt|dpkg)|proc|dev|run)/|/(node_modules|site-packages|dist-packages|\.git|\.cache|\.npm|\.cargo|__pycache__|target|build|dist)/'))
    -- A new ending, not a temporary name that becomes the final one.
    OR (fs_path_target LIKE concat(fs_path_source, '_%') AND NOT regexp_like(fs_path_source, '^/(tmp|var/tmp|var/cache|var/lib/(apt|dpkg)|proc|dev|run)/|/(node_modules|site-packages|dist-packages|\.git|\.cache|\.npm|\.cargo|__pycache__|target|build|dist)/'))
  )
GROUP BY window_start, window_end, container_id, container, container_image, proc_name
HAVING count(DISTINCT coalesce(fd_name, fs_path_source)) >= 200
