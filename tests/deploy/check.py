"""Holds deploy/ to the schemas of Kubernetes, to what systemd says of units, and to our own programs.

Run by tests/deploy/run, which says in the environment where the tools and the programs are:
HELM, PROMTOOL, PROGRAMS (the folder of dogwatch-sensor and dogwatch-processor).

Nothing here talks to a cluster: manifests are rendered and judged, and what they configure is given to the real programs.
"""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CHART = REPOSITORY / "deploy/kubernetes"
UNITS = REPOSITORY / "deploy/systemd"
PROGRAMS = Path(os.environ["PROGRAMS"])
VALUE_SETS = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
# The oldest that the chart allows, one on either side of AppArmor's field, and the newest that schemas are there for.
VERSIONS = ["1.25", "1.29", "1.30", kubernetes_validate.latest_version()[:4]]

# Custom resources are not in Kubernetes' schemas. These hold the fields that the chart uses, as monitoring.coreos.com/v1
# (Prometheus operator 0.80) has them; what is in the rules is promtool's to judge.
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(**properties):
    """A schema of an object with exactly these fields."""
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


RELABELING = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "targetLabel": {"type": "string"},
        "replacement": {"type": "string"},
        "sourceLabels": {"type": "array", "items": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}},
    },
}
RULE = closed(alert={"type": "string"}, expr={"type": "string"}, labels=STRINGS, annotations=STRINGS)
RULE["properties"]["for"] = {"type": "string", "pattern": "^[0-9]+[smh]$"}
CUSTOM = {
    "ServiceMonitor": closed(
        selector=closed(matchLabels=STRINGS),
        namespaceSelector=closed(matchNames={"type": "array", "items": {"type": "string"}}),
        endpoints={
            "type": "array",
            "items": closed(
                port={"type": "string"},
                interval={"type": "string", "pattern": "^[0-9]+[smh]$"},
                relabelings={"type": "array", "items": RELABELING},
            ),
        },
    ),
    "PrometheusRule": closed(
        groups={
            "type": "array",
            "items": closed(name={"type": "string"}, rules={"type": "array", "items": RULE}),
        }
    ),
}


def run(*command, **options):
    """Runs a program to its end; output and errors together, as text."""
    return subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **options
    )


def helm(*arguments):
    return run(os.environ["HELM"], *arguments)


@lru_cache(maxsize=None)
def rendered(values, version="1.30"):
    """The manifests that a value set makes, by kind and name."""
    made = helm("template", "dogwatch", CHART, "--namespace", "watch", "--kube-version", version + ".0", "--values", HERE / f"values/{values}.yaml")
    assert made.returncode == 0, made.stdout
    documents = [document for document in yaml.safe_load_all(made.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def of_kind(values, kind, version="1.30"):
    return [document for (found, _), document in rendered(values, version).items() if found == kind]


def pods(values):
    """The pods' specifications, by part (sensor or processor)."""
    workloads = of_kind(values, "DaemonSet") + of_kind(values, "StatefulSet")
    return {workload["metadata"]["labels"]["app.kubernetes.io/component"]: workload["spec"]["template"]["spec"] for workload in workloads}


def text(*path):
    return REPOSITORY.joinpath(*path).read_text()


class Chart(unittest.TestCase):
    def test_lint_finds_nothing(self):
        for values in VALUE_SETS:
            with self.subTest(values):
                lint = helm("lint", "--strict", "--quiet", CHART, "--values", HERE / f"values/{values}.yaml")
                self.assertEqual(lint.returncode, 0, lint.stdout)

    def test_manifests_fit_the_schemas(self):
        kinds = set()
        for values in VALUE_SETS:
            for version in VERSIONS:
                for (kind, name), document in rendered(values, version).items():
                    with self.subTest(values=values, version=version, kind=kind, name=name):
                        kinds.add(kind)
                        if kind in CUSTOM:
                            self.assertEqual(document["apiVersion"], "monitoring.coreos.com/v1")
                            jsonschema.validate(document["spec"], CUSTOM[kind])
                        else:
                            kubernetes_validate.validate(document, version, strict=True)
        # Every template took part.
        self.assertEqual(len(kinds), 9, kinds)

    def test_values_and_their_schema_name_the_same(self):
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        schema = yaml.safe_load((CHART / "values.schema.json").read_text())
        del schema["properties"]["global"]  # Helm's own

        def compare(value, schema, place):
            known = schema.get("properties")
            if known is None or schema.get("patternProperties"):
                return
            # A part's own kafka holds only what differs.
            if value or not place.endswith(".kafka"):
                self.assertEqual(set(value), set(known), place)
            for name, inside in value.items():
                compare(inside, known[name], f"{place}.{name}")

        compare(values, schema, "values")

    def test_what_cannot_be_meant_is_refused(self):
        for setting, sentence in {
            "kafka.bootstrapServers=": "kafka.bootstrapServers is empty",
            "kafka.bootstrapServers=kafka": "needs host:port",
            "kafka.sasl.mechanism=PLAIN": "needs kafka.sasl.secret",
            "kafka.sasl.secret=login": "needs kafka.sasl.mechanism",
            "kafka.sasl.mechanism=MD5": "must be one of",
            "kafka.tls.secret=certificates": "kafka.tls.enabled is false",
            "sensor.kafka.tls.clientCertificate=true": "needs kafka.tls.secret",
            "sensor.hostPid=true": "hostPid is not allowed",
            "sensor.config.host_name=web": "which follows from the node's name",
            "sensor.config.state_file=/x": "which follows from sensor.stateFolder",
            "sensor.config.metrics.listen=x": "which follows from metrics.address",
            "sensor.config.containers.docker_root=/x": "which follows from sensor.dockerRoot",
            "sensor.config.containers.sockets=x": "which follows from sensor.sockets",
            "sensor.sockets[0]=/run/c.sock": "sensor.sockets.0: Does not match pattern",
            "processor.config.kafka.instance=one": "which follows from the pod's name",
            "processor.config.kafka.bootstrap_servers=x": "which follows from kafka.bootstrapServers",
            "processor.config.detections.folder=/x": "which follows from processor.detections",
            "processor.detections.files.shell\\.sql=SELECT": "Additional property shell.sql is not allowed",
            "metrics.sensorPort=80": "1024",
        }.items():
            with self.subTest(setting):
                made = helm("template", CHART, "--kube-version", "1.30.0", "--set", "kafka.bootstrapServers=a:1", "--set", setting)
                self.assertNotEqual(made.returncode, 0)
                self.assertIn(sentence, made.stdout)

    def test_the_programs_version_is_the_images_tag(self):
        version = re.search(r'^version = "(.*)"', text("Cargo.toml"), re.M).group(1)
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual(chart["appVersion"], version)
        self.assertEqual(pods("least")["sensor"]["containers"][0]["image"], f"dogwatch/sensor:{version}")

    def test_all_objects_are_in_the_releases_namespace(self):
        for values in VALUE_SETS:
            for document in rendered(values).values():
                self.assertEqual(document["metadata"]["namespace"], "watch")

    def test_selectors_find_their_pods_and_no_others(self):
        for values in VALUE_SETS:
            labels = {
                workload["metadata"]["name"]: workload["spec"]["template"]["metadata"]["labels"]
                for workload in of_kind(values, "DaemonSet") + of_kind(values, "StatefulSet")
            }
            for document in rendered(values).values():
                selector = document.get("spec", {}).get("podSelector") or document.get("spec", {}).get("selector")
                if not selector:
                    continue
                wanted = selector.get("matchLabels", selector).items()
                found = [name for name, of_pod in labels.items() if wanted <= of_pod.items()]
                self.assertEqual(found, [document["metadata"]["name"]], document["kind"])


class Rights(unittest.TestCase):
    """What the pods and the units may do, held to what the sensor's source says it needs."""

    @staticmethod
    def needed():
        source = text("sensor/src/probe/capabilities.rs")
        to_load = source[source.index("fn missing_to_load"):].split("\n}", 1)[0]
        kept = source[source.index("pub const KEPT"):].split("];", 1)[0]
        found = re.findall(r"Capability::CAP_(\w+),", to_load) + re.findall(r"Capability::CAP_(\w+),", kept)
        return set(found) - {"SYS_ADMIN"}

    def test_the_sensor_has_the_capabilities_it_needs_and_no_others(self):
        needed = self.needed()
        self.assertEqual(len(needed), 4, needed)
        for values, further in {"least": {"SYS_ADMIN"}, "sensors": {"SYS_RESOURCE"}}.items():
            pod = pods(values)["sensor"]
            context = pod["containers"][0]["securityContext"]
            self.assertEqual(set(context["capabilities"]["add"]), needed | further)
            self.assertEqual(context["capabilities"]["drop"], ["ALL"])
            self.assertFalse(context["privileged"])
            self.assertTrue(context["readOnlyRootFilesystem"])
            self.assertTrue(pod["hostPID"])
            writable = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")]
            self.assertEqual(writable, ["/var/lib/dogwatch"])
        mounts = pods("sensors")["sensor"]["containers"][0]["volumeMounts"]
        self.assertLessEqual({"/run/containerd", "/run/podman"}, {mount["mountPath"] for mount in mounts})
        unit = text("deploy/systemd/dogwatch-sensor.service")
        for setting in ["AmbientCapabilities", "CapabilityBoundingSet"]:
            given = re.search(rf"^{setting}=(.*)$", unit, re.M).group(1).split()
            self.assertEqual({name.removeprefix("CAP_") for name in given}, needed, setting)

    def test_the_processor_fits_the_restricted_standard(self):
        for values in ["least", "secured", "processors"]:
            pod = pods(values)["processor"]
            context = pod["containers"][0]["securityContext"]
            self.assertFalse({"hostPID", "hostNetwork", "hostIPC"} & set(pod))
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse(context["allowPrivilegeEscalation"])
            self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
            kinds = {kind for volume in pod["volumes"] for kind in volume} - {"name"}
            self.assertLessEqual(kinds, {"configMap", "secret"})

    def test_no_pod_has_a_token_or_variables_of_services(self):
        for values in VALUE_SETS:
            for pod in pods(values).values():
                self.assertIs(pod["automountServiceAccountToken"], False)
                self.assertIs(pod["enableServiceLinks"], False)

    def test_secrets_stand_in_no_config_map(self):
        made = rendered("secured")
        for (kind, _), document in made.items():
            if kind == "ConfigMap":
                self.assertNotIn("password", yaml.dump(document).lower())
        names = {
            part: [one["valueFrom"]["secretKeyRef"]["name"] for one in pod["containers"][0]["env"] if "PASSWORD" in one["name"]]
            for part, pod in pods("secured").items()
        }
        self.assertEqual(names, {"sensor": ["kafka-login-sensors"], "processor": ["kafka-login"]})

    def test_the_policy_lets_brokers_names_and_metrics_through(self):
        policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("secured", "NetworkPolicy")}
        self.assertEqual(set(policies), {"dogwatch-sensor", "dogwatch-processor"})
        names, brokers = policies["dogwatch-sensor"]["egress"]
        self.assertEqual({port["port"] for port in names["ports"]}, {53})
        self.assertEqual([port["port"] for port in brokers["ports"]], [9094, 9095])
        self.assertEqual(brokers["to"], [{"ipBlock": {"cidr": "10.1.0.0/16"}}])
        self.assertEqual(policies["dogwatch-sensor"]["ingress"][0]["ports"], [{"port": "metrics", "protocol": "TCP"}])
        (other,) = of_kind("processors", "NetworkPolicy")
        self.assertEqual([port["port"] for port in other["spec"]["egress"][1]["ports"]], [9092, 9093])

    def test_one_processor_can_be_moved_and_several_go_one_by_one(self):
        self.assertEqual(of_kind("processors", "PodDisruptionBudget"), [])
        (budget,) = of_kind("secured", "PodDisruptionBudget")
        self.assertEqual(budget["spec"]["maxUnavailable"], 1)


class Settings(unittest.TestCase):
    """What the chart configures, given to the programs themselves."""

    def lay_out(self, folder, values, part):
        """What the pod would see of its volumes below `folder`; returns the variables and arguments of the program."""
        container = pods(values)[part]["containers"][0]
        volumes = {volume["name"]: volume for volume in pods(values)[part]["volumes"]}
        shutil.copytree(REPOSITORY / "detections", folder / "detections")
        for mount in container["volumeMounts"]:
            place = folder / mount["mountPath"].lstrip("/")
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                self.fill(place, volume["configMap"], mount.get("subPath"), values)
            elif "secret" in volume:
                place.mkdir(parents=True)
                self.certificates(place)
        variables = {"PATH": os.environ["PATH"]}
        for variable in container["env"]:
            source = variable["valueFrom"]
            variables[variable["name"]] = source.get("fieldRef", source.get("secretKeyRef", {})).get("fieldPath", "a secret")
        return variables, [self.moved(folder, argument) for argument in container["args"]]

    @staticmethod
    def moved(folder, path):
        return str(folder) + path if path.startswith("/") else path

    @staticmethod
    def certificates(folder):
        made = run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
                   "-keyout", folder / "tls.key", "-out", folder / "tls.crt")
        assert made.returncode == 0, made.stdout
        shutil.copy(folder / "tls.crt", folder / "ca.crt")

    @staticmethod
    def fill(place, config_map, sub_path, values):
        made = rendered(values).get(("ConfigMap", config_map["name"]), {}).get("data")
        if made is None:
            # The site's own: a detection, its view and its list.
            made = {item["key"]: (HERE / "site" / item["path"]).read_text() for item in config_map["items"]}
        if sub_path:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(made[sub_path])
            return
        # As kubelet lays it out: a hidden folder with the files, and links to what is in it.
        shutil.rmtree(place, ignore_errors=True)
        hidden = place / "..2026_11_30"
        for item in config_map["items"]:
            file = hidden / item["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(made[item["key"]])
            link = place / item["path"].split("/")[0]
            link.is_symlink() or link.symlink_to(Path("..data") / link.name)
        (place / "..data").symlink_to(hidden.name)

    @staticmethod
    def locally(folder, part):
        """Names a broker that is not there, so that a client is made of all options and fails at once."""
        file = folder / f"etc/dogwatch/{part}.toml"
        settings = re.sub(r'bootstrap_servers = ".*"', 'bootstrap_servers = "127.0.0.1:1"', file.read_text())
        file.write_text(settings.replace("/etc/dogwatch/tls", f"{folder}/etc/dogwatch/tls"))

    def program(self, values, part):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            variables, arguments = self.lay_out(folder, values, part)
            self.locally(folder, part)
            if part == "sensor":
                # A replay makes the same client as a run, and needs no rights.
                arguments = ["replay", REPOSITORY / "console/demo.capture", *arguments[1:]]
                variables["DOGWATCH_KAFKA__START_TIMEOUT"] = "1s"
            else:
                arguments = ["check", *arguments[1:]]
            return run(PROGRAMS / f"dogwatch-{part}", *arguments, env=variables)

    def test_programs_take_what_the_chart_configures(self):
        cases = [(values, part) for values in VALUE_SETS for part in pods(values)]
        self.assertEqual(len(cases), 6)
        with ThreadPoolExecutor(len(cases)) as threads:
            said = list(threads.map(lambda case: self.program(*case), cases))
        for case, end in zip(cases, said):
            with self.subTest(case):
                # All is understood, and nobody is there.
                self.assertEqual(end.returncode, 3, end.stdout)
                self.assertIn("127.0.0.1:1", end.stdout)
                if case[1] == "processor":
                    found = int(re.search(r"detections: (\d+) loaded", end.stdout).group(1))
                    files = (REPOSITORY / "detections").rglob("*.sql")
                    shipped = sum(file.parent.name != "views" for file in files)
                    self.assertEqual(found, {"least": shipped, "secured": shipped + 1, "processors": 1}[case[0]])

    def test_a_setting_that_does_not_exist_is_refused_by_the_program(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "sensor.toml"
            made = rendered("least")[("ConfigMap", "dogwatch-sensor")]["data"]["sensor.toml"]
            file.write_text(made.replace("bootstrap_servers", "bootstrap_server"))
            end = run(PROGRAMS / "dogwatch-sensor", "check", "--config", file, env={})
            self.assertEqual(end.returncode, 2, end.stdout)

    def test_variables_that_kubernetes_injects_do_no_harm(self):
        # Of services named dogwatch, dogwatch-kafka and dogwatch-processor, with a named port.
        injected = {}
        for service in ["DOGWATCH", "DOGWATCH_KAFKA", "DOGWATCH_PROCESSOR", "DOGWATCH_LOG"]:
            injected |= {
                f"{service}_SERVICE_HOST": "10.0.0.1",
                f"{service}_SERVICE_PORT": "9092",
                f"{service}_SERVICE_PORT_TCP_CLIENT": "9092",
                f"{service}_PORT": "tcp://10.0.0.1:9092",
                f"{service}_PORT_9092_TCP": "tcp://10.0.0.1:9092",
                f"{service}_PORT_9092_TCP_PROTO": "tcp",
                f"{service}_PORT_9092_TCP_PORT": "9092",
                f"{service}_PORT_9092_TCP_ADDR": "10.0.0.1",
            }
        detections = REPOSITORY / "detections"
        said = run(PROGRAMS / "dogwatch-processor", "check", "--kafka", "127.0.0.1:1", "--detections", detections, env=injected)
        self.assertIn("configuration: fine", said.stdout)
        said = run(PROGRAMS / "dogwatch-sensor", "replay", REPOSITORY / "console/demo.capture", "--output", "json", env=injected)
        self.assertEqual(said.returncode, 0, said.stdout[-2000:])
        typed = {"DOGWATCH_DELIVERI": "exactly_once"}
        said = run(PROGRAMS / "dogwatch-processor", "check", "--detections", detections, env=typed)
        self.assertEqual(said.returncode, 2, said.stdout)


class Rules(unittest.TestCase):
    """The alerts on Dogwatch itself."""

    @staticmethod
    def rules():
        groups = yaml.safe_load((CHART / "rules.yaml").read_text())["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def test_the_chart_ships_them_as_they_are(self):
        (made,) = of_kind("secured", "PrometheusRule")
        self.assertEqual(made["spec"], yaml.safe_load((CHART / "rules.yaml").read_text()))

    def test_metrics_and_labels_are_the_programs(self):
        source = text("sensor/src/metrics.rs") + text("stream-processor/src/metrics.rs")
        # Prometheus gives a target's own; the programs' stand as "class" => ... or ("topic", ...).
        labels = {"job", "namespace", "node", "instance"} | set(re.findall(r'\(?"(\w+)"(?: =>|, \w+\.to_)', source))
        classes = set(re.findall(r'=> "(\w+)"', text("sensor/src/loss.rs")))
        seen = 0
        for rule in self.rules():
            for name in re.findall(r"dogwatch_\w+", rule["expr"]):
                seen += 1
                self.assertIn(f'"{name}"', source, rule["alert"])
            for group in re.findall(r"by \(([^)]*)\)", rule["expr"]):
                self.assertLessEqual(set(group.split(", ")), labels, rule["alert"])
            for name in re.findall(r'class!?="(\w+)"', rule["expr"]):
                self.assertIn(name, classes, rule["alert"])
        self.assertGreater(seen, 20)

    def test_their_texts_use_labels_that_they_have(self):
        for rule in self.rules():
            used = set(re.findall(r"\$labels\.(\w+)", yaml.dump(rule["annotations"])))
            groups = re.findall(r"by \(([^)]*)\)", rule["expr"])
            for group in groups:
                self.assertLessEqual(used, set(group.split(", ")), rule["alert"])

    def test_they_fire_when_they_must(self):
        with tempfile.TemporaryDirectory() as folder:
            for file in [CHART / "rules.yaml", HERE / "rules_test.yaml"]:
                shutil.copy(file, folder)
            for command in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]]:
                done = run(os.environ["PROMTOOL"], *command, cwd=folder)
                self.assertEqual(done.returncode, 0, done.stdout)


class Units(unittest.TestCase):
    # Tenths, as systemd-analyze takes them.
    EXPOSURE_MAX = {"sensor": 35, "processor": 15}

    def test_systemd_finds_nothing_to_say(self):
        with tempfile.TemporaryDirectory() as folder:
            for part in self.EXPOSURE_MAX:
                unit = text(f"deploy/systemd/dogwatch-{part}.service")
                # Programs are looked for on this machine.
                unit = unit.replace("/usr/bin/dogwatch-", f"{PROGRAMS}/dogwatch-")
                file = Path(folder) / f"dogwatch-{part}.service"
                file.write_text(unit)
                done = run("systemd-analyze", "verify", "--man=no", file)
                ours = [line for line in done.stdout.splitlines() if "dogwatch" in line]
                self.assertEqual((done.returncode, ours), (0, []), done.stdout)

    def test_they_expose_no_more_than_they_must(self):
        for part, most in self.EXPOSURE_MAX.items():
            done = run("systemd-analyze", "security", "--offline=true", f"--threshold={most}", UNITS / f"dogwatch-{part}.service")
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_settings_that_a_unit_holds_are_settings(self):
        known = text("stream-processor/processor.toml")
        unit = text("deploy/systemd/dogwatch-processor.service")
        self.assertIn("DOGWATCH_KAFKA__INSTANCE=%H", unit)
        self.assertIn("\ninstance = ", known)

    def test_what_chart_and_units_grant_is_alike(self):
        memory = pods("least")["sensor"]["containers"][0]["resources"]["limits"]["memory"]
        self.assertIn(f"MemoryMax={memory.removesuffix('i')}\n", text("deploy/systemd/dogwatch-sensor.service"))
        memory = pods("least")["processor"]["containers"][0]["resources"]["limits"]["memory"]
        self.assertIn(f"MemoryMax={memory.removesuffix('i')}\n", text("deploy/systemd/dogwatch-processor.service"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
