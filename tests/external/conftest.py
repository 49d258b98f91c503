"""An Orthanc server for the tests of this folder, on the loopback alone."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

import pytest

SECONDS_TO_START = 30
CALLED, CALLING = "ORTHANC", ("MEDSHIELD", "STORESCU")


@dataclass(frozen=True)
class Answer:
    """What the server says: the status and the body."""

    status: int
    body: bytes

    @property
    def json(self):
        """The body, which is JSON."""
        return json.loads(self.body)


class Orthanc:
    """The few calls that an archive needs."""

    def __init__(self, port, dicom_port):
        self._root = f"http://127.0.0.1:{port}"
        self.dicom_port = dicom_port

    def ask(self, path, data=None, method=None):
        """One request; an error status is an answer, too."""
        request = urllib.request.Request(self._root + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())

    def is_up(self):
        """Whether it answers."""
        try:
            return self.ask("/system").status == 200
        except OSError:
            return False

    def store(self, content):
        """Send a file; the answer has its Status and its ID."""
        return self.ask("/instances", content)

    def delete(self, identity):
        """Forget an instance."""
        return self.ask(f"/instances/{identity}", method="DELETE")


@pytest.fixture(scope="session")
def orthanc(program, tmp_path_factory):
    """A server with an empty archive: no plugins, and it takes nothing from other machines."""
    binary = program("Orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, dicom_port = one.getsockname()[1], two.getsockname()[1]
    configuration = {
        "Name": "tests",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": True,
        "DicomAet": CALLED,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {name: [name, "127.0.0.1", 104] for name in CALLING},
        "OverwriteInstances": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, folder / "orthanc.json"], stdout=log, stderr=log)
    server = Orthanc(port, dicom_port)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not server.is_up():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(SECONDS_TO_START)
