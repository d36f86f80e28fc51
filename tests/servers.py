"""Real servers, started for a test, and what skips a test where one is not installed."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

ORTHANC = shutil.which("Orthanc")
SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd",) if Path(p).exists()), None)
_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@contextlib.contextmanager
def run(command: list[str], port: int, log: Path, **options: Any) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            wait_for(port, process)
            yield
        finally:
            process.terminate()
            process.wait(30)


# ---- Orthanc: DICOMweb, C-FIND, C-GET and C-MOVE -------------------------------------------------


@dataclass(frozen=True)
class Orthanc:
    """A running archive.

    Attributes
    ----------
    http, dicom, ours : int
        Its ports, and the one where it knows the AE title MEDKIT.
    """

    http: int
    dicom: int
    ours: int

    def store(self, content: bytes) -> str:
        """Return what it makes of a file: Success, AlreadyStored, or nothing if it refuses."""
        url = f"http://127.0.0.1:{self.http}/instances"
        answer = requests.post(url, data=content, timeout=60)
        return str(answer.json()["Status"]) if answer.ok else ""


@contextlib.contextmanager
def start_orthanc(folder: Path) -> Iterator[Orthanc]:
    if ORTHANC is None or not _DICOMWEB.exists():
        pytest.skip("Orthanc and its DICOMweb plugin are not installed")
    server = Orthanc(find_port(), find_port(), find_port())
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": server.http,
        "DicomPort": server.dicom,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "Plugins": [str(_DICOMWEB)],
        "DicomModalities": {"medkit": ["MEDKIT", "127.0.0.1", server.ours]},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with run([ORTHANC, str(path)], server.http, folder / "orthanc.log"):
        yield server


# ---- OpenSSH -------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_sshd(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the address of the whole file system, and a home that has the keys to it."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("the OpenSSH server is not installed")
    pytest.importorskip("sshfs", reason="the driver of sftp:// is not installed")
    home, port = folder / "home", find_port()
    (home / ".ssh").mkdir(parents=True)
    for name in (folder / "host_key", home / ".ssh" / "id_ed25519"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(name)]
        subprocess.run(command, check=True)
    host = (folder / "host_key.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host_key'}",
        f"AuthorizedKeysFile {home / '.ssh' / 'id_ed25519.pub'}",
        f"PidFile {folder / 'sshd.pid'}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin yes",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with contextlib.suppress(OSError):  # of root's; others need none
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    with run(command, port, folder / "sshd.log"):
        yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}", home


# ---- S3 ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_s3() -> Iterator[str]:
    """Yield the address of a server of S3 in this process."""
    moto = pytest.importorskip("moto.server", reason="moto's server of S3 is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        address = f"http://127.0.0.1:{port}"
        # All servers of one process have the same objects.
        requests.post(f"{address}/moto-api/reset", timeout=60).raise_for_status()
        yield address
    finally:
        server.stop()


def put_objects(endpoint: str, bucket: str, objects: dict[str, bytes]) -> None:
    """Make a bucket, open to all, and fill it."""
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"}
    requests.put(f"{endpoint}/{bucket}", headers={**signed, "x-amz-acl": "public-read"}, timeout=60)
    for key, content in objects.items():
        url = f"{endpoint}/{bucket}/{key}"
        answer = requests.put(url, data=content, headers=signed, timeout=60)
        answer.raise_for_status()
