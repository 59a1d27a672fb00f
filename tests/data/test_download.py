"""Getting a dataset from a server on this machine that does everything a server can do wrong."""

import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from winclip_bench.data import download
from winclip_bench.data.download import main, parse_source, read_source, source_names

FILES = {
    "candle/Data/Images/Normal/0000.JPG": bytes(range(256)) * 5000,
    "pcb1/Data/Images/Normal/0000.JPG": bytes(range(255, -1, -1)) * 3000,
    "split_csv/1cls.csv": b"object,split,label,image,mask\n",
}


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, goal in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, goal
            archive.addfile(info)
    return stream.getvalue()


ARCHIVE = tar_of(FILES)
HALF = len(ARCHIVE) // 2

Answer = Callable[["Handler", "Server"], None]


@dataclass
class Server:
    """Where it listens, what it does at which path and what it has been asked: (path, Range)."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def address(self, name: str, answer: Answer) -> str:
        self.answers[f"/{name}"] = answer
        return f"{self.url}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        self.state.asked.append((self.path, self.headers["Range"]))
        self.close_connection = True
        self.state.answers[self.path](self, self.state)

    def reply(self, status: int, body: bytes = b"", **headers: str | int) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": len(body), "Connection": "close", **headers}.items():
            if value != "":
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def wanted(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")
        assert match
        return int(match[1])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    class Bound(Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as listening:
        Bound.state = Server(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Bound.state
        listening.shutdown()
        thread.join()


def honest(handler: Handler, server: Server, data: bytes = ARCHIVE, upto: int | None = None) -> None:
    """Knows ranges; with `upto`, breaks off there while declaring the rest."""
    begin = handler.wanted()
    sent, length = data[begin:upto], len(data) - begin
    if begin:
        content_range = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        handler.reply(206, sent, Content_Length=length, Content_Range=content_range)
    else:
        handler.reply(200, sent, Content_Length=length)


def without_ranges(handler: Handler, server: Server) -> None:
    handler.reply(200, ARCHIVE)


def breaking_off(handler: Handler, server: Server) -> None:
    """Never sends more than a third at once."""
    honest(handler, server, upto=handler.wanted() + len(ARCHIVE) // 3)


def breaking_off_without_ranges(handler: Handler, server: Server) -> None:
    handler.reply(200, ARCHIVE[:HALF], Content_Length=len(ARCHIVE))


def status(code: int) -> Answer:
    return lambda handler, server: handler.reply(code, b"sorry")


def page(handler: Handler, server: Server) -> None:
    handler.reply(200, b"<html>please log in</html>")


def endless(handler: Handler, server: Server) -> None:
    handler.reply(200, ARCHIVE + b"more", Content_Length="")


def lengthless(handler: Handler, server: Server) -> None:
    handler.reply(200, ARCHIVE, Content_Length="")


def another_file(handler: Handler, server: Server) -> None:
    honest(handler, server, data=bytes(len(ARCHIVE)))


def wrong_range(handler: Handler, server: Server) -> None:
    if handler.wanted():
        handler.reply(206, ARCHIVE[:10], Content_Range=f"bytes 0-9/{len(ARCHIVE)}")
    else:
        breaking_off(handler, server)


def grown_since(handler: Handler, server: Server) -> None:
    if handler.wanted():
        honest(handler, server, data=ARCHIVE + b"more")
    else:
        breaking_off(handler, server)


def changing_once(handler: Handler, server: Server) -> None:
    """Breaks off half-way; whoever comes back gets another file, or from the start the right one."""
    if len(server.asked) == 1:
        honest(handler, server, data=bytes(len(ARCHIVE)), upto=HALF)
    else:
        honest(handler, server)


def redirecting(handler: Handler, server: Server) -> None:
    server.answers["/elsewhere"] = honest
    handler.reply(302, Location=f"{server.url}/elsewhere")


def redirecting_in_circles(handler: Handler, server: Server) -> None:
    handler.reply(302, Location=f"{server.url}{handler.path}")


def redirecting_to_a_file(handler: Handler, server: Server) -> None:
    handler.reply(302, Location="file:///etc/passwd")


def hanging_up(handler: Handler, server: Server) -> None:
    pass


def garbage(handler: Handler, server: Server) -> None:
    handler.wfile.write(b"220 this is ftp\r\n")


def content_of(server: Server, *answers: Answer, data: bytes = ARCHIVE, **changed: Any) -> dict[str, Any]:
    """What a file in sources/ would say of an archive that these answers serve."""
    return {
        "title": "Candles",
        "page": "https://example.org/candles",
        "file": "candles.tar",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "addresses": [server.address(f"{number}", answer) for number, answer in enumerate(answers)],
        "licence": "CC BY 4.0",
        "licence_page": "https://creativecommons.org/licenses/by/4.0/",
        "terms": "name the authors",
        "max_bytes": len(ARCHIVE),
        "max_members": 10,
        "folders": ["candle", "pcb1", "split_csv"],
        "files": {"split_csv/1cls.csv": hashlib.sha256(FILES["split_csv/1cls.csv"]).hexdigest()},
        **changed,
    }


@dataclass
class Run:
    """The command `download visa` with another source, below a root of its own."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    @property
    def target(self) -> Path:
        return self.root / "visa"

    @property
    def part(self) -> Path:
        return self.root / ".visa.download/candles.tar.part"

    def __call__(self, content: dict[str, Any], *arguments: str, accept: bool = True) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        self.monkeypatch.setattr(download, "read_source", lambda name: parse_source(content))
        flags = ["--accept-licence"] if accept else []
        code = main(["visa", "--root", str(self.root), *flags, *arguments])
        return code, *self.capsys.readouterr()

    def begin(self, data: bytes) -> None:
        """As if an earlier run had been interrupted after so much."""
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(data)

    def left(self) -> list[str]:
        """What lies in the root."""
        return sorted(path.name for path in self.root.iterdir())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return Run(tmp_path / "data", monkeypatch, capsys)


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "answer",
    [honest, without_ranges, breaking_off, lengthless, redirecting],
    ids=lambda answer: answer.__name__,
)
def test_the_dataset_arrives_whole(server: Server, run: Run, answer: Answer) -> None:
    code, out, err = run(content_of(server, answer))
    assert code == 0, err
    assert found(run.target) == FILES
    assert run.left() == ["visa"]
    assert f"Candles: 3 files in {run.target}" in out
    assert "winclip_bench.data check dataset=visa" in out


def test_progress_without_a_terminal_is_a_line_per_tenth(server: Server, run: Run) -> None:
    _, _, err = run(content_of(server, honest))
    assert "Candles: downloading, 100 %\n" in err
    assert "Candles: unpacking, 90 %\n" in err
    assert len(err.splitlines()) < 30
    assert "\r" not in err


@pytest.mark.parametrize("have", [1, HALF, len(ARCHIVE) - 1])
def test_it_continues_where_it_was_interrupted(server: Server, run: Run, have: int) -> None:
    run.begin(ARCHIVE[:have])
    code, _, err = run(content_of(server, honest))
    assert code == 0, err
    assert server.asked == [("/0", f"bytes={have}-")]
    assert f"{have:,} of {len(ARCHIVE):,} bytes are there" in err
    assert found(run.target) == FILES


def test_a_range_survives_a_redirect(server: Server, run: Run) -> None:
    run.begin(ARCHIVE[:HALF])
    assert run(content_of(server, redirecting))[0] == 0
    assert server.asked == [("/0", f"bytes={HALF}-"), ("/elsewhere", f"bytes={HALF}-")]


def test_a_complete_download_is_not_asked_for_again(server: Server, run: Run) -> None:
    run.begin(ARCHIVE)
    assert run(content_of(server, honest))[0] == 0
    assert server.asked == []
    assert found(run.target) == FILES


@pytest.mark.parametrize("answer", [without_ranges, lengthless], ids=lambda answer: answer.__name__)
def test_a_server_without_ranges_costs_nothing_that_is_there(server: Server, run: Run, answer: Answer) -> None:
    run.begin(ARCHIVE[:HALF])
    code, _, err = run(content_of(server, answer))
    assert code == 0, err
    assert found(run.target) == FILES


def test_a_worse_server_does_not_shorten_what_is_there(server: Server, run: Run) -> None:
    run.begin(ARCHIVE[: HALF + 10])
    code, _, err = run(content_of(server, breaking_off_without_ranges))
    assert code == 1
    assert f"breaks off after {HALF:,} of {len(ARCHIVE):,} bytes" in err
    assert run.part.read_bytes() == ARCHIVE[: HALF + 10]


@pytest.mark.parametrize("begun", [bytes(HALF), bytes(len(ARCHIVE)), ARCHIVE + b"more"], ids=["half", "all", "more"])
def test_what_does_not_belong_to_the_archive_is_dropped(server: Server, run: Run, begun: bytes) -> None:
    run.begin(begun)
    code, _, err = run(content_of(server, honest))
    assert code == 0, err
    assert server.asked[-1] == ("/0", None)
    assert found(run.target) == FILES


def test_a_file_that_changes_between_two_answers_is_got_again(server: Server, run: Run) -> None:
    code, _, err = run(content_of(server, changing_once))
    assert code == 0, err
    assert [asked for _, asked in server.asked] == [None, f"bytes={HALF}-", None]
    assert "the pieces do not belong together and are dropped" in err
    assert found(run.target) == FILES


FAILURES = [
    (status(404), "answers 404 Not Found"),
    (status(403), "answers 403 Forbidden"),
    (status(500), "answers 500 Internal Server Error"),
    (status(503), "answers 503 Service Unavailable"),
    (status(204), "answers 204 No Content"),
    (page, f"has a file of 26 bytes instead of {len(ARCHIVE):,}"),
    (endless, f"sends more than the {len(ARCHIVE):,} bytes"),
    (another_file, "serves another file of the same size"),
    (wrong_range, "that it was asked for"),
    (grown_since, f"has a file of {len(ARCHIVE) + 4} bytes instead of {len(ARCHIVE):,}"),
    (breaking_off_without_ranges, f"breaks off after {HALF:,} of {len(ARCHIVE):,} bytes"),
    (redirecting_in_circles, "answers 302"),
    (redirecting_to_a_file, "answers 302"),
    (hanging_up, "cannot be reached or breaks off"),
    (garbage, "cannot be reached or breaks off"),
]


@pytest.mark.parametrize(("answer", "words"), FAILURES, ids=[words for _, words in FAILURES])
def test_an_address_that_fails_is_named_and_the_way_by_hand_told(
    server: Server, run: Run, answer: Answer, words: str
) -> None:
    content = content_of(server, answer)
    code, _, err = run(content)
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: no address serves candles.tar: 127.0.0.1:")
    assert words in last
    for told in (content["page"], f"{len(ARCHIVE):,} bytes", content["sha256"], str(run.root / "candles.tar")):
        assert told in last
    assert "Run the same command again to continue" in last
    assert run.left() == [".visa.download"]
    assert "Traceback" not in err


@pytest.mark.parametrize(("answer", "words"), FAILURES, ids=[words for _, words in FAILURES])
def test_the_next_address_makes_up_for_one_that_fails(server: Server, run: Run, answer: Answer, words: str) -> None:
    code, _, err = run(content_of(server, answer, honest))
    assert code == 0, err
    assert words in err
    assert found(run.target) == FILES


def test_addresses_are_tried_in_order(server: Server, run: Run) -> None:
    assert run(content_of(server, status(404), status(500), honest, another_file))[0] == 0
    assert [path for path, _ in server.asked] == ["/0", "/1", "/2"]


def test_nobody_listens(server: Server, run: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        code, _, err = run(content_of(server, addresses=[address]))
    assert code == 1
    assert "cannot be reached or breaks off ([Errno" in err


def test_a_server_that_falls_silent(server: Server, run: Run) -> None:
    released = threading.Event()

    def silent(handler: Handler, server: Server) -> None:
        handler.reply(200, ARCHIVE[:HALF], Content_Length=len(ARCHIVE))
        released.wait(60)

    run.monkeypatch.setattr(download, "TIMEOUT", 0.2)
    code, _, err = run(content_of(server, silent, honest))
    released.set()
    assert code == 0, err
    assert server.asked[1][1] == f"bytes={HALF}-"
    assert found(run.target) == FILES


# ---- archives that are already there ----


@pytest.mark.parametrize("keep", [[], ["--keep-archive"]])
@pytest.mark.parametrize("beside", [True, False])
def test_an_archive_that_is_there_is_used_and_kept(server: Server, run: Run, beside: bool, keep: list[str]) -> None:
    archive = run.root / "candles.tar" if beside else run.root.parent / "elsewhere.bin"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(ARCHIVE)
    code, _, err = run(content_of(server, status(404)), *([] if beside else ["--archive", str(archive)]), *keep)
    assert code == 0, err
    assert f"checking the sha256 of {archive}" in err
    assert server.asked == []
    assert found(run.target) == FILES
    assert archive.read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ARCHIVE[:-1], f"has {len(ARCHIVE) - 1:,} bytes instead of {len(ARCHIVE):,}"),
        (bytes(len(ARCHIVE)), "has the sha256 "),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_wrong_archive_is_refused_and_left_alone(
    server: Server, run: Run, beside: bool, data: bytes, words: str
) -> None:
    archive = run.root / "candles.tar" if beside else run.root.parent / "elsewhere.bin"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(data)
    code, _, err = run(content_of(server, honest), *([] if beside else ["--archive", str(archive)]))
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {archive} {words}")
    assert "https://example.org/candles" in err
    assert archive.read_bytes() == data
    assert not run.target.exists()


def test_an_archive_that_is_missing(server: Server, run: Run) -> None:
    code, _, err = run(content_of(server, honest), "--archive", "nowhere.tar")
    assert (code, err) == (1, "error: nowhere.tar is not a file; name candles.tar with --archive\n")


def test_keep_archive(server: Server, run: Run) -> None:
    assert run(content_of(server, honest), "--keep-archive")[0] == 0
    assert run.left() == ["candles.tar", "visa"]
    assert (run.root / "candles.tar").read_bytes() == ARCHIVE


# ---- what comes out ----


@pytest.mark.parametrize(
    ("files", "links", "words"),
    [
        ({"/tmp/winclip-bench-absolute": b"x"}, {}, "is absolute"),
        ({"../../outside": b"x"}, {}, "leads out of the folder"),
        ({}, {"candle/link": "/etc/passwd"}, "is a symbolic link"),
        ({"big": bytes(3_000_000)}, {}, "its content is larger than"),
        ({"CANDLE/x": b"x"}, {}, "has the place of 'candle'"),
    ],
)
def test_a_hostile_archive_is_refused(
    server: Server, run: Run, files: dict[str, bytes], links: dict[str, str], words: str
) -> None:
    data = tar_of({**FILES, **files}, links)
    content = content_of(server, lambda handler, server: honest(handler, server, data), data=data)
    code, _, err = run(content)
    assert code == 1
    assert words in err.splitlines()[-1]
    assert run.left() == [".visa.download"]
    assert not Path("/tmp/winclip-bench-absolute").exists()


def test_an_archive_without_what_it_should_hold(server: Server, run: Run) -> None:
    code, _, err = run(content_of(server, honest, folders=["candle", "macaroni1"]))
    assert code == 1
    assert "holds no folder macaroni1" in err
    assert not run.target.exists()


def test_another_split_file_is_a_warning(server: Server, run: Run) -> None:
    """The archive itself is proven, so that what is in doubt is what we know of the file in it."""
    code, _, err = run(content_of(server, honest, files={"split_csv/1cls.csv": "0" * 64}))
    assert code == 0
    assert "warning: split_csv/1cls.csv has the sha256" in err
    assert found(run.target) == FILES


def test_leftovers_of_an_interrupted_unpacking_are_dropped(server: Server, run: Run) -> None:
    run.begin(ARCHIVE)
    stale = run.part.with_name("unpacked") / "candle/stale.JPG"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    assert run(content_of(server, honest))[0] == 0
    assert found(run.target) == FILES


# ---- what is already there, and what is not ----


def test_an_existing_dataset_is_left_alone(server: Server, run: Run) -> None:
    run.target.mkdir(parents=True)
    (run.target / "mine.txt").write_text("mine")
    code, out, _ = run(content_of(server, honest), accept=False)
    assert (code, out) == (0, f"{run.target} is already there and left alone\n")
    assert found(run.target) == {"mine.txt": b"mine"}
    assert server.asked == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_stands_in_the_way_is_left_alone(server: Server, run: Run, make: Callable[[Path], None]) -> None:
    run.root.mkdir()
    make(run.target)
    code, _, err = run(content_of(server, honest))
    assert (code, err) == (1, f"error: {run.target} is there but holds no dataset; take it away and run this again\n")
    assert os.path.lexists(run.target)
    assert server.asked == []


def test_what_appears_meanwhile_is_left_alone(server: Server, run: Run) -> None:
    def meanwhile(handler: Handler, server: Server) -> None:
        run.target.mkdir()
        honest(handler, server)

    code, _, err = run(content_of(server, meanwhile))
    assert code == 1
    assert "has appeared meanwhile and is left alone" in err
    assert list(run.target.iterdir()) == []


def test_an_interruption_in_the_last_step_is_tidied_up(server: Server, run: Run) -> None:
    run.begin(ARCHIVE)
    run.target.mkdir()
    (run.target / "x").touch()
    assert run(content_of(server, honest))[0] == 0
    assert run.left() == ["visa"]


def test_a_full_disk_is_noticed_before(server: Server, run: Run) -> None:
    usage = type("Usage", (), {"free": 2 * len(ARCHIVE) - 1})
    run.monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)  # type: ignore[attr-defined]
    content = content_of(server, honest)
    code, _, err = run(content)
    assert code == 1
    message = f"error: {run.root} has {usage.free:,} bytes free and Candles needs at least {2 * len(ARCHIVE):,}"
    assert err.startswith(message)
    assert server.asked == []
    run.part.write_bytes(ARCHIVE[:1])
    assert run(content)[0] == 0


def test_a_disk_that_fills_up(server: Server, run: Run) -> None:
    run.begin(b"")
    run.part.unlink()
    run.part.symlink_to("/dev/full")
    run.monkeypatch.setattr(download, "_size", lambda path: 0)
    code, _, err = run(content_of(server, honest))
    assert code == 1
    assert f"{run.part} cannot be written (No space left on device); make room" in err


def test_a_root_that_cannot_be_made(server: Server, run: Run) -> None:
    run.root.touch()
    code, _, err = run(content_of(server, honest))
    assert code == 1
    assert "cannot be made (Not a directory); choose another --root" in err


def test_one_process_at_a_time(server: Server, run: Run) -> None:
    with download._workplace(run.target):
        code, _, err = run(content_of(server, honest))
    assert code == 1
    assert "another process is at work in" in err
    assert server.asked == []


# ---- the licence ----


def test_without_a_terminal_the_licence_has_to_be_accepted_by_name(server: Server, run: Run) -> None:
    run.monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = run(content_of(server, honest), accept=False)
    assert code == 1
    assert "Candles (https://example.org/candles) comes under CC BY 4.0: name the authors." in out
    assert "https://creativecommons.org/licenses/by/4.0/" in out
    assert err == "error: the licence of Candles has to be accepted; add --accept-licence if you do\n"
    assert not run.root.exists()
    assert server.asked == []


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_on_a_terminal_the_licence_is_asked_for(server: Server, run: Run, typed: str, code: int) -> None:
    terminal = io.StringIO(typed)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    run.monkeypatch.setattr("sys.stdin", terminal)
    result, out, err = run(content_of(server, honest), accept=False)
    assert result == code
    assert "Do you accept it? [y/N]" in out
    assert run.target.exists() == (code == 0)
    if code:
        assert err == "error: without its licence Candles is not downloaded; nothing has been done\n"
        assert server.asked == []


# ---- interruption ----

CHILD = """
import json, os, signal, sys
from winclip_bench.data import download

content, trigger, number, *arguments = json.loads(sys.argv[1])
download.read_source = lambda name: download.parse_source(content)
say = download._say

def say_and_die(text):
    say(text)
    if trigger in text:
        os.kill(os.getpid(), number)

download._say = say_and_die
sys.exit(download.main(arguments))
"""


@pytest.mark.parametrize(
    "trigger", ["downloading, 50 %", "downloading, 100 %", "checking the sha256", "unpacking, 50 %", "unpacking, 90 %"]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_is_continued(server: Server, run: Run, trigger: str, number: signal.Signals) -> None:
    content = content_of(server, honest)
    arguments = [content, trigger, int(number), "visa", "--root", str(run.root), "--accept-licence"]
    command = [sys.executable, "-c", CHILD, json.dumps(arguments)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if number == signal.SIGKILL:
        assert child.returncode == -signal.SIGKILL, child.stderr
    else:
        assert child.returncode == 130
        assert child.stderr.endswith("interrupted; the same command continues\n")
        assert "Traceback" not in child.stderr
    assert run.left() == [".visa.download"]
    had = run.part.stat().st_size
    assert had > len(ARCHIVE) // 3

    server.asked.clear()
    code, _, err = run(content)
    assert code == 0, err
    assert server.asked == ([] if had == len(ARCHIVE) else [("/0", f"bytes={had}-")])
    assert found(run.target) == FILES
    assert run.left() == ["visa"]


# ---- the sources themselves ----


def test_every_source_is_complete() -> None:
    assert source_names() == ["mvtec", "visa"]
    for source in map(read_source, source_names()):
        assert len(source.addresses) == len(set(source.addresses)) >= 2
        for address in (*source.addresses, source.page, source.licence_page):
            assert address.startswith("https://")
        assert all(address.endswith(f"/{source.file}") for address in source.addresses)
        for sha256 in (source.sha256, *source.files.values()):
            assert re.fullmatch("[0-9a-f]{64}", sha256)
        assert source.max_bytes >= source.size
        assert all(any(name.startswith(f"{folder}/") for folder in source.folders) for name in source.files)
    assert len(read_source("mvtec").folders) == 15
    assert len(read_source("visa").folders) == 12 + 1


def test_the_root_is_where_runs_look_for_datasets(run: Run, tmp_path: Path) -> None:
    run.monkeypatch.setenv("WINCLIP_BENCH_DATA", str(tmp_path))
    assert download._parser().parse_args(["visa"]).root == tmp_path
    run.monkeypatch.setenv("WINCLIP_BENCH_DATA", "")
    assert download._parser().parse_args(["visa"]).root == Path("data")


def test_an_unknown_dataset_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["imagenet"])
    assert caught.value.code == 2
    assert "invalid choice: 'imagenet'" in capsys.readouterr().err
