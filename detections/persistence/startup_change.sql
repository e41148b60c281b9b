-- title = "Something that runs later was changed in a container"
-- description = "A process in a running container changed a file that is run by itself later: a job of cron or at, what a shell or a login reads at its start, a service of init or systemd, a rule of udev, the loader's list of libraries for every program, a module that Python loads at each start."
-- message = "{program} changes {file} in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "medium"
-- status = "experimental"
-- risk = 60
-- attack = ["T1053.003", "T1546.004", "T1574.006", "T1543.002"]
-- false_positives = ["people who set up a shell in a development container"]
-- blind_spots = ["what an application runs by itself: its plugins, hooks and configuration", "jobs of cron that a container's start script writes in its first quarter of an hour; start_script_unusual tells, at a lower severity", "what Python's own installer puts beside its packages (.pth)", "package managers and what they run, by the names of the ancestors, which a program can take, and steps of docker build", "files changed through a descriptor that was opened before, or by the kernel for io_uring"]
-- references = ["https://attack.mitre.org/techniques/T1053/003/", "https://attack.mitre.org/techniques/T1546/004/"]
-- response = "Read the file. If its content is not yours: stop the container, keep its file system, and start it anew from the image."
-- dedup = { key = ["file", "program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  coalesce(fs_path_target, fd_name) AS file,
  evt_type AS call,
  fs_path_source,
  fd_flags,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_events
WHERE evt_type IN ('open', 'openat', 'openat2', 'creat', 'rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'truncate')
  AND evt_outcome = 'success'
  AND (evt_is_open_write OR evt_type IN ('rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'truncate'))
  AND (
    regexp_like(fd_name, '^/etc/(ld\.so\.(preload|conf(\.d/[^/]+)?)|crontab|anacrontab|cron\.[^/]+/[^/]+|at\.(allow|deny)|profile(\.d/[^/]+)?|bash\.bashrc|bashrc|zsh/[^/]+|environment|rc\.local|rc[0-9S]\.d/[^/]+|init\.d/[^/]+|inittab|systemd/(system|user)/.+|udev/rules\.d/[^/]+|update-motd\.d/[^/]+)$|^/var/spool/(cron|at)/.+|/lib/(systemd/system|udev/rules\.d)/[^/]+$|^/(root|(home|var|srv|opt|usr)/.+|etc/skel)/\.(bashrc|bash_profile|bash_login|bash_logout|bash_aliases|profile|zshrc|zshenv|zprofile|zlogin|kshrc|cshrc|tcshrc|xinitrc|config/(autostart|fish|systemd)/.+)$|^/(usr|opt|home|root)/.+/((site|user)customize\.py|(site|dist)-packages/[^/]+\.pth)$')
    OR regexp_like(fs_path_target, '^/etc/(ld\.so\.(preload|conf(\.d/[^/]+)?)|crontab|anacrontab|cron\.[^/]+/[^/]+|at\.(allow|deny)|profile(\.d/[^/]+)?|bash\.bashrc|bashrc|zsh/[^/]+|environment|rc\.local|rc[0-9S]\.d/[^/]+|init\.d/[^/]+|inittab|systemd/(system|user)/.+|udev/rules\.d/[^/]+|update-motd\.d/[^/]+)$|^/var/spool/(cron|at)/.+|/lib/(systemd/system|udev/rules\.d)/[^/]+$|^/(root|(home|var|srv|opt|usr)/.+|etc/skel)/\.(bashrc|bash_profile|bash_login|bash_logout|bash_aliases|profile|zshrc|zshenv|zprofile|zlogin|kshrc|cshrc|tcshrc|xinitrc|config/(autostart|fish|systemd)/.+)$|^/(usr|opt|home|root)/.+/((site|user)customize\.py|(site|dist)-packages/[^/]+\.pth)$')
  )
  -- A package manager's own work; package_manager tells that it ran.
  AND coalesce(proc_exepath, '') NOT IN (SELECT path FROM package_manager_files)
  AND NOT under_package_manager
  -- A step of docker build.
  AND NOT image_build
  -- The table of jobs that a start script writes; start_script_unusual tells.
  AND NOT (start_script AND evt_type IN ('open', 'openat', 'openat2', 'creat') AND coalesce(regexp_like(fd_name, '^/etc/(cron|anacron)|^/var/spool/cron'), false))
  -- Packages of Python bring such files along.
  AND NOT coalesce(regexp_like(concat(proc_name, ' ', array_to_string(proc_args, ' ')), '^(\S+ )*(\S*/)?(pip[0-9.]*|pipx|uv|poetry|conda|mamba)( -\S+)* (install|sync|add)( |$)'), false)
  -- A new user's folder is filled from /etc/skel.
  AND coalesce(program, '') NOT IN (SELECT name FROM credential_readers WHERE reads = 'accounts')
