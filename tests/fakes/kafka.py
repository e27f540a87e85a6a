"""A real Apache Kafka of one node (KRaft) for tests: started, killed and started again on the same port with the same data.

    broker = Kafka(folder, scripts_get_kafka_folder)
    broker.start(); broker.bootstrap; broker.kill(); broker.start(); broker.stop()

With tls=FOLDER of scripts/certs it listens on `secure` as well, by TLS, for the user corral with the password "secret", by SCRAM-SHA-256 or PLAIN.
What it acknowledged survives kill -9 (page cache), with durable=True the loss of power too (each batch is flushed before it is acknowledged); the other
options are those that make a single node start and come back fast.
`kafka.py --archive FOLDER` writes the archive of classes that scripts/get-kafka keeps beside the jars.
"""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from apart import free_port        # not one that the kernel gives to connections: a client that tries again may connect to itself while the broker is away

SECURE = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{secure}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://localhost:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_corral="secret";
listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={folder}/server.pem
"""
DURABLE = "log.flush.interval.messages=1\n"
CLUSTER = "Y29ycmFsLWthZmthLXRlcw"
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=2
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=200
controller.quorum.election.timeout.ms=200
controller.quorum.election.backoff.max.ms=100
controller.quorum.fetch.timeout.ms=500
"""


class Kafka:
    def __init__(self, folder, jars, port=None, tls=None, durable=False, settings=PROPERTIES):
        self.folder, self.jars, self.tls, self.durable, self.settings = Path(folder), Path(jars), tls, durable, settings
        self.secure = f"localhost:{free_port()}"
        self.port, self.handle = port or free_port(), None
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.log = self.folder / "kafka.log"

    def _java(self, *words, heap="256m", options=()):
        archive = self.jars / "classes.jsa"
        shared = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        return ["java", "-Xms64m", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xlog:cds=off",
                f"-Dlog4j2.configurationFile={self.jars}/log4j2.yaml", *shared, *options, *words]

    def _environment(self):
        return {**os.environ, "CLASSPATH": f"{self.jars}/libs/*"}

    def _format(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        places = {"port": self.port, "controller": free_port(), "folder": self.folder, "secure": self.secure.split(":")[1]}
        self.properties.write_text(self.settings.format(**places) + (SECURE.format(**places) if self.tls else "") + (DURABLE if self.durable else ""))
        scram = ["--add-scram", "SCRAM-SHA-256=[name=corral,password=secret]"] if self.tls else []
        if self.tls:
            key = subprocess.run(["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{self.tls}/gateway.key"], check=True, capture_output=True, text=True)
            (self.folder / "server.pem").write_text(key.stdout + (Path(self.tls) / "gateway.pem").read_text())
        with self.log.open("ab") as log:
            subprocess.run(self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(self.properties), *scram), env=self._environment(),
                           stdout=log, stderr=subprocess.STDOUT, check=True)

    @property
    def properties(self):
        return self.folder / "server.properties"

    def start(self, wait_s=120, options=()):
        """Until it takes connections; what it knew before is there again."""
        if not self.properties.exists():
            self._format()
        with self.log.open("ab") as log:
            self.handle = subprocess.Popen(self._java("kafka.Kafka", str(self.properties), options=options), env=self._environment(), stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        end = time.monotonic() + wait_s
        while not self._answers():
            if self.handle.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"Kafka did not start; its log ends with:\n{self.tail()}")
            time.sleep(0.05)
        return self

    def _answers(self):
        with socket.socket() as s:
            s.settimeout(1)
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def tail(self, lines=20):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        """kill -9."""
        if self.handle and self.handle.poll() is None:
            self.handle.kill()
        if self.handle:
            self.handle.wait()

    def stop(self, wait_s=60):
        if self.handle and self.handle.poll() is None:
            self.handle.send_signal(signal.SIGTERM)
            try:
                self.handle.wait(wait_s)
            except subprocess.TimeoutExpired:
                self.kill()


def archive(jars):
    with tempfile.TemporaryDirectory() as folder:
        broker = Kafka(folder, jars)
        file = Path(jars) / "classes.jsa"
        broker.start(options=[f"-XX:ArchiveClassesAtExit={file}.new"])
        broker.stop()
        os.rename(f"{file}.new", file)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--archive":
        sys.exit(__doc__)
    archive(sys.argv[2])
