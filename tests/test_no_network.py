"""That the tests have no network, in this process and in those they start."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.no_network import sitecustomize as no_network

ELSEWHERE = "192.0.2.1"  # reserved for documentation: nobody has it
ATTEMPTS = {
    "connect": f"socket.create_connection(('{ELSEWHERE}', 80), timeout=30)",
    "connect_ex": f"socket.socket().connect_ex(('{ELSEWHERE}', 80))",
    "sendto": f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{ELSEWHERE}', 53))",
    "sendmsg": f"socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('{ELSEWHERE}', 53))",
    "IPv6": "socket.create_connection(('2001:db8::1', 80), timeout=30)",
    "getaddrinfo": "socket.getaddrinfo('example.org', 443)",
    "gethostbyname": "socket.gethostbyname('example.org')",
    "gethostbyaddr": f"socket.gethostbyaddr('{ELSEWHERE}')",
    "urlopen": "__import__('urllib.request').request.urlopen('https://example.org/', timeout=30)",
}
PATIENCE = 5.0  # seconds; a real attempt would take its timeout


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What these tests reach for is meant, and noted elsewhere."""
    monkeypatch.setenv(no_network.NOTES, str(tmp_path / "notes.txt"))
    return tmp_path / "notes.txt"


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_what_leads_elsewhere_is_refused_at_once(attempt: str, notes: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(OSError, match=r"tests use no network, and socket\.\w+ was to reach '(192|2001|example)"):
        eval(attempt)
    assert time.monotonic() - begun < PATIENCE
    assert "was to reach" in notes.read_text()


@pytest.mark.parametrize("flags", [[], ["-P"]])
def test_a_process_that_a_test_starts_has_none_either(flags: list[str], notes: Path) -> None:
    script = "\n".join(
        [
            "import socket",
            *(f"try: {attempt}\nexcept OSError as error: print(error)" for attempt in ATTEMPTS.values()),
        ]
    )
    done = subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tests use no network") == len(ATTEMPTS)
    assert notes.read_text().count("\n") == len(ATTEMPTS)


def test_what_is_on_this_machine_is_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
                client.sendall(b"x")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


def test_another_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other one')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(tmp_path)])}
    script = "import socket; socket.gethostbyname('127.0.0.1')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "the other one\n"
