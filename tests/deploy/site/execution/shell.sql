-- title = "A shell that our images do not have"
-- description = "Somebody brought it."
-- message = "{proc_name} was started in {container_name}"
-- severity = "high"
-- status = "experimental"
-- attack = ["T1059.004"]
SELECT container_id, container_name, proc_name
FROM our_execs
WHERE proc_name IN (SELECT value FROM odd_shells)
