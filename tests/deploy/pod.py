"""Runs the sensor as the chart's DaemonSet does, as far as Docker can stand in for kubelet: with the rendered capabilities,
mounts and settings, in a cgroup namespace of its own and under Docker's seccomp profile.

Needs root and Docker; the environment is that of check.py.
"""

import subprocess
import tempfile
import unittest
from pathlib import Path

from check import PROGRAMS, REPOSITORY, pods, rendered, run

IMAGE = "dogwatch/sensor:pod-test"


def docker(*arguments, **options):
    return run("docker", *arguments, **options)


def build_image(folder):
    """The sensor's image, packed as the Dockerfile packs it."""
    made = run(REPOSITORY / "docker/rootfs.sh", folder, PROGRAMS / "dogwatch-sensor")
    assert made.returncode == 0, made.stdout
    with subprocess.Popen(["tar", "-C", folder, "-cf", "-", "."], stdout=subprocess.PIPE) as archive:
        done = docker("import", "--change", 'ENTRYPOINT ["/usr/bin/dogwatch-sensor"]', "-", IMAGE, stdin=archive.stdout)
    assert done.returncode == 0, done.stdout


def capabilities(wanted):
    """Those that this Docker knows: before 23 there are no BPF and PERFMON, and SYS_ADMIN stands for both."""
    version = docker("version", "--format", "{{.Server.Version}}").stdout.strip()
    assert version[:1].isdigit(), f"Docker's daemon does not answer: {version}"
    return [name for name in wanted if int(version.split(".")[0]) >= 23 or name not in ("BPF", "PERFMON")]


def as_kubelet_would(values, folder, without=()):
    """The options of `docker run` for the sensor's pod."""
    pod = pods(values)["sensor"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert pod["hostPID"] and context["readOnlyRootFilesystem"] and context["capabilities"]["drop"] == ["ALL"]
    options = ["--rm", "--network", "none", "--pid", "host", "--cgroupns", "private", "--read-only", "--cap-drop", "ALL"]
    options += ["--security-opt", "apparmor=unconfined"]
    for name in capabilities(context["capabilities"]["add"]):
        if name not in without:
            options += ["--cap-add", name]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "hostPath" in volume:
            # What the sensor remembers stays out of the machine's own folder.
            source = volume["hostPath"]["path"] if mount.get("readOnly") else folder
        else:
            source = Path(folder) / mount["subPath"]
            source.write_text(rendered(values)[("ConfigMap", volume["configMap"]["name"])]["data"][mount["subPath"]])
        options += ["--volume", f"{source}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")]
    return options


class Pod(unittest.TestCase):
    def check(self, without=()):
        with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as folder:
            build_image(root)
            try:
                options = as_kubelet_would("least", folder, without)
                return docker("run", *options, IMAGE, "check", "--config", "/etc/dogwatch/sensor.toml")
            finally:
                docker("rmi", IMAGE)

    def test_the_sensor_can_run_with_what_the_chart_gives_it(self):
        said = self.check()
        self.assertEqual(said.returncode, 0, said.stdout)
        self.assertIn("the sensor can run here", said.stdout)
        self.assertRegex(said.stdout, r"works +cgroups .*/host/sys/fs/cgroup")
        for name in ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "hooks"]:
            self.assertRegex(said.stdout, rf"works +{name} ")

    def test_what_reads_other_processes_is_needed(self):
        said = self.check(without=["SYS_PTRACE"])
        self.assertRegex(said.stdout, r"missing +CAP_SYS_PTRACE ")


if __name__ == "__main__":
    unittest.main(verbosity=2)
