-- title = "Package manager in a container"
-- description = "A package manager ran in a running container, or something else changed its database or its list of sources, as a renamed one does. Packages belong into the image; an intruder installs tools."
-- message = "{act} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "stable"
-- risk = 55
-- attack = ["T1105", "T1072"]
-- false_positives = ["image builds", "scanners that ask the package manager what is installed"]
-- blind_spots = ["package managers that are renamed and keep no database of the distribution's", "packages unpacked by other programs", "what a container's start script installs in its first quarter of an hour; start_script_unusual tells, at a lower severity"]
-- references = ["https://attack.mitre.org/techniques/T1105/", "https://attack.mitre.org/techniques/T1072/"]
-- response = "Ask who installs software there and move it into the image. If nobody does: look at what was installed and what ran next."
-- dedup = { key = ["program", "proc_stage"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  -- pip and npm are scripts: the file that runs is their interpreter, the kernel's name is theirs.
  CASE
    WHEN evt_type IN ('execve', 'execveat')
      AND regexp_like(program, '^(python|node|ruby|perl|php|lua)|^(a|ba|da|k)?sh$')
      THEN proc_name
    ELSE program
  END AS program,
  CASE
    WHEN evt_type IN ('execve', 'execveat') THEN concat('package manager ', proc_name, ' runs')
    ELSE concat(program, ', which is none of the package managers, changes ', fd_name)
  END AS act,
  fd_name AS database_file,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_skey,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('execve', 'execveat', 'open', 'openat', 'openat2', 'creat')
  AND evt_outcome = 'success'
  AND coalesce(proc_stage, '') <> 'healthcheck'
  AND (
    (
      evt_type IN ('execve', 'execveat')
      AND (
        program IN (SELECT name FROM package_managers)
        OR proc_name IN (SELECT name FROM package_managers)
        -- Package managers of languages also run programs and tests: only what brings in code counts.
        OR (
          regexp_like(
            concat(proc_name, ' ', array_to_string(proc_args, ' ')),
            '^(\S+ )*(\S*/)?(pip[0-9.]*|pipx|npm|npm-cli\.js|yarn|yarn\.js|pnpm|gem[0-9.]*|cpan|cpanm|conda|mamba|cargo|composer|luarocks|easy_install|uv|bun|go|poetry|pipenv)( -\S+)* (install|add|i|ci|require|update|upgrade)( |$)'
          )
          AND (
            regexp_like(proc_name, '^(pip[0-9.]*|pipx|npm|yarn|pnpm|gem[0-9.]*|cpanm?|conda|mamba|cargo|composer|luarocks|easy_install|uv|bun|go|poetry|pipenv)$')
            OR regexp_like(program, '^(python|node|ruby|perl|php|lua)')
          )
        )
      )
      -- What the container installs when it starts; start_script_unusual tells.
      AND NOT start_script
      -- One installation is one alert: what a package manager runs, it was asked to.
      AND NOT under_package_manager
    )
    OR (
      evt_type IN ('open', 'openat', 'openat2', 'creat')
      AND (evt_is_open_write OR evt_is_open_create)
      AND regexp_like(fd_name, '^/(usr/)?lib/(apk/db/|sysimage/rpm/)|^/var/lib/(dpkg/(status|lock|updates/|info/)|rpm/|pacman/local/|dnf/)|^/etc/(apt/(sources\.list|trusted\.gpg|keyrings/)|yum\.repos\.d/|apk/(repositories|keys/)|zypp/repos\.d/|pacman\.d/)')
      AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
      AND NOT regexp_like(coalesce(proc_exepath, ''), '^/usr/(libexec/platform-python|lib/apt/|bin/(dpkg-|python3))')
    )
  )
