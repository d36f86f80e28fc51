"""A thousand single-frame files over a slow wire: medkit against scp, sftp, rsync and tar.

An OpenSSH server listens on this machine; before it stands a proxy that holds each direction to
50 Mbit/s and adds 40 ms each way. The files are those of `archive.py`. medkit's time is that of
packing and sending together, with the proof and the comparison at the far end: of `push TREE`,
which sends while it packs, and of `pack` and `push` one after the other. Prints the median of the
seconds, the bytes on the wire, the seconds that the wire alone takes for these, and how many times
faster than scp and tar medkit is, beside what it promises; tools that are not installed are left
out, or those whose names do not begin with one of the names that are given.

    python benchmarks/push.py [files] [rounds] [names ...]
"""

from __future__ import annotations

import asyncio
import getpass
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fsspec

sys.path.insert(0, str(Path(__file__).parent))
from archive import sum_sizes, write_tree

from medkit.archive.pack import pack
from medkit.archive.push import push
from medkit.archive.relay import push_tree

DELAY, RATE = 0.040, 50e6 / 8
_CHUNK = 1 << 14
_SLACK = 0.02
TREE = {"medkit push TREE": "jpeg-ls", "medkit push TREE --codec htj2k": "htj2k"}


class Proxy:
    """Passes TCP on, late and slowly, and counts bytes."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.bytes = 0
        self._free = {"up": 0.0, "down": 0.0}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        started = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.port = started.result()

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(
            self._pass(reader, far_writer, "up"), self._pass(far_reader, writer, "down")
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0, due - time.monotonic()))
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        task = asyncio.create_task(deliver())
        try:
            while data := await reader.read(_CHUNK):
                self.bytes += len(data)
                # All connections share the wire.
                # A sleep that lasted too long is made good: the wire is no slower than it says.
                now = time.monotonic()
                self._free[way] = max(self._free[way], now - _SLACK) + len(data) / RATE
                await queue.put((max(self._free[way], now) + DELAY, data))
                await asyncio.sleep(max(0, self._free[way] - now))
        except ConnectionError:
            pass
        await queue.put((time.monotonic() + DELAY, b""))
        await asyncio.gather(task, return_exceptions=True)


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start an SSH server that lets this user in by a key of its own."""
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    shutil.copy(folder / "client.pub", folder / "authorized")
    port = find_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nUsePAM no\n"
        f"PidFile {folder / 'pid'}\nSubsystem sftp internal-sftp\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", folder / "sshd_config"],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    return server, port


def find_port() -> int:
    """Return a port that is free."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def take_files(folder: Path, count: int) -> Path:
    """Write a tree of so many files."""
    frames, _ = write_tree(folder / "probe", 1)
    shutil.rmtree(folder / "probe")
    write_tree(folder / "tree", -(-count // frames))
    for path in sorted((folder / "tree").rglob("*.dcm"))[count:]:
        path.unlink()
    return folder / "tree"


def measure(
    ways: dict[str, Callable[[], None]], there: Path, proxy: Proxy, rounds: int,
    only: tuple[str, ...],
) -> dict[str, float]:  # fmt: skip
    """Print a table, and return the median of the seconds of each way."""
    print("| | seconds | MB on the wire | seconds of the wire alone |")
    print("|---|---|---|---|")
    seconds: dict[str, float] = {}
    for name, work in ways.items():
        tool = name.split()[0].strip(",")
        if not name.startswith(only or "") or not (tool == "medkit" or shutil.which(tool)):
            continue
        took = []
        for _ in range(rounds):
            for inner in ("", "sftp", "rsync"):
                (there / inner).mkdir(exist_ok=True)
            fsspec.get_filesystem_class("sftp").clear_instance_cache()  # each connects anew
            proxy.bytes, began = 0, time.monotonic()
            work()
            took.append(time.monotonic() - began)
            shutil.rmtree(there)
        seconds[name] = statistics.median(took)
        wire = proxy.bytes
        print(
            f"| {name} | {seconds[name]:.1f} | {wire / 1e6:.1f} | {wire / RATE:.1f} |", flush=True
        )
    return seconds


def compare(ours: str, seconds: dict[str, float], ratio: float) -> None:
    """Print how many times faster than others, and how many are promised."""
    for other, promise in (("scp -r", 10), ("tar, ssh", 0.8 * ratio)):
        if other in seconds:
            found = seconds[other] / seconds[ours]
            print(f"{ours}: {found:.2f} times as fast as {other}; promised {promise:.2f}")


def main(count: int = 1000, rounds: int = 1, *only: str) -> None:
    """Print a table."""
    warnings.simplefilter("ignore")
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        print("an OpenSSH server is not installed: nothing is measured")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = take_files(folder, count)
        server, port = start_server(folder)
        proxy = Proxy(port)
        user = getpass.getuser()
        options = f"-i {folder / 'client'} -o StrictHostKeyChecking=no -o LogLevel=ERROR " \
            f"-o UserKnownHostsFile={folder / 'known'}"  # fmt: skip
        there = folder / "there"
        ratios: dict[str, float] = {}

        def run(command: str) -> Callable[[], None]:
            return lambda: subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True,
                                          stdout=subprocess.DEVNULL) and None  # fmt: skip

        def address(name: str) -> str:
            return f"sftp://{user}@127.0.0.1:{proxy.port}{there}/{name}"

        def send(codec: str) -> None:
            shutil.rmtree(folder / f"archive-{codec}", ignore_errors=True)
            pack(tree, folder / f"archive-{codec}", codec=codec)
            push(folder / f"archive-{codec}", address(f"two-{codec}"), identified=True)

        def relay(codec: str) -> None:
            work = folder / f"work-{codec}"
            sent = push_tree(tree, address(f"one-{codec}"), work, codec=codec, identified=True)
            ratios[codec] = sum_sizes(tree) / sent.size

        fsspec.config.conf["sftp"] = {
            "known_hosts": None, "client_keys": [str(folder / "client")], "config": None,
        }  # fmt: skip
        ssh = f"ssh -p {proxy.port} {options}"
        place = f"{user}@127.0.0.1:{there}"
        ways = {
            **{name: partial(relay, codec) for name, codec in TREE.items()},
            "medkit pack, then push": partial(send, "jpeg-ls"),
            "tar, ssh": run(f"tar -C {tree} -c . | {ssh} {user}@127.0.0.1 "
                            f"'mkdir -p {there}/tar && tar -C {there}/tar -x'"),
            "rsync -a": run(f"rsync -a -e '{ssh}' {tree}/ {place}/rsync/"),
            "scp -r": run(f"scp -q -r -P {proxy.port} {options} {tree} {place}/scp"),
            "sftp": run(f"echo 'put -r {tree} {there}/sftp' | "
                        f"sftp -b - -P {proxy.port} {options} {user}@127.0.0.1"),
        }  # fmt: skip
        print(f"{count} files, {sum_sizes(tree) / 1e6:.1f} MB\n")
        seconds = measure(ways, there, proxy, rounds, only)
        print()
        for name, codec in TREE.items():
            if name in seconds:
                print(f"{name}: the archive has a ratio of {ratios[codec]:.2f}")
                compare(name, seconds, ratios[codec])
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
