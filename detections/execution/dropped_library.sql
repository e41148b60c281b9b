-- title = "Library from a place where none belongs"
-- description = "A process in a container opened a library that was written into the container after its start, or lies in memory, in a temporary or a home folder: a program of the image is made to run foreign code so, by a loader's variable, dlopen or a plug-in; or the loader was told to run a program from there."
-- message = "{program} loads {file} ({fd_from}) in container {container} ({container_image}), as {user_name}, started by {proc_pname}: {proc_cmdline}"
-- severity = "high"
-- status = "experimental"
-- risk = 70
-- attack = ["T1574.006", "T1129", "T1055.001"]
-- false_positives = ["programs that unpack their own libraries below /tmp to load them (Java's JNI, PyInstaller, Node's native modules)", "programs that share memory by a memfd and open it anew by /proc/self/fd", "programs that read a library without loading it, such as a backup or strip"]
-- blind_spots = ["libraries on a disk whose name does not end as a library's; execution_from_memory sees those from memory that the loader reads", "folders of packages of a language, which are filled at run time", "libraries on a volume", "what build tools load, by the names of the ancestors", "what a container's start script runs in its first quarter of an hour"]
-- references = ["https://attack.mitre.org/techniques/T1574/006/", "https://attack.mitre.org/techniques/T1129/"]
-- response = "Keep the library and its hash, look at how it came there, and what the program that loaded it can do."
-- dedup = { key = ["file", "program"], period = "1h" }
SELECT
  container_id,
  container,
  container_image,
  program,
  fd_name AS file,
  fd_from,
  proc_exepath,
  proc_cmdline,
  proc_pname,
  proc_stage,
  user_told AS user_name,
  user_host_uid
FROM container_reads
WHERE (
    -- Whatever its name: nobody opens another's memfd by a path but to load it.
    fd_from = 'memfd'
    OR (fd_from IN ('upper', 'memory') AND regexp_like(fd_name, '\.so(\.[0-9.]+)?$'))
    -- A program that the loader is told to run, so that it is not executed itself.
    OR (fd_from IN ('upper', 'memory') AND regexp_like(proc_exepath, '/(ld-[^/]*\.so[^/]*|ld-musl[^/]*|ld\.so)$'))
  )
  AND NOT regexp_like(coalesce(fd_name, ''), '^(/usr)?(/local)?/lib(32|64|x32)?/|/(site-packages|dist-packages|node_modules|lib-dynload|jvm|gems)/')
  AND coalesce(program, '') NOT IN (SELECT name FROM general_readers)
  AND coalesce(program, '') NOT IN (SELECT name FROM archivers)
  AND coalesce(program, '') NOT IN ('ld', 'strip', 'objdump', 'readelf', 'file', 'gcc', 'collect2', 'ldconfig', 'nm', 'install', 'git')
  AND NOT under_package_manager
  AND NOT coalesce(array_has_any(proc_aname, (SELECT array_agg(name) FROM build_tools)), false)
  AND NOT start_script
