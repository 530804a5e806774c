"""What jobs run: tiny processes that write down who they are, and that they are there.

Each has a file of its own: ``start job run rank size pid node gpus time``, ``at time`` every 50 ms,
``saved step``, ``loaded step`` and ``end time``; times are of CLOCK_BOOTTIME, in microseconds,
which all processes of a machine share.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_MODULES = f"{_ROOT}:{sysconfig.get_path('purelib')}"

BEAT_MS = 50

_HEAD = """
import os, signal, sys, time, resource
folder, kind, seconds, code = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # a full disk is not meant for this file
e = os.environ
job, run, rank = e["QUARTERMASTER_JOB_ID"], e["QUARTERMASTER_RUN"], e["RANK"]
node = os.getcwd().split("/agents/")[1].split("/")[0]
file = os.open(f"{folder}/{job}-{run}-{rank}-{os.getpid()}", os.O_WRONLY|os.O_APPEND|os.O_CREAT)
def now(): return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
def say(*words): os.write(file, (" ".join(map(str, words)) + "\\n").encode())
begin = now()
say("start", job, run, rank, e["WORLD_SIZE"], os.getpid(), node,
    e["CUDA_VISIBLE_DEVICES"] or "-", begin)
"""

_PLAIN = """
if kind == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
while now() < begin + seconds * 1e6:
    time.sleep(0.05)
    say("at", now())
say("end", now())
sys.exit(code)
"""

# Work is counted in steps of a millisecond. Rank 0 saves; what it loads it verifies.
_SPEAKER = """
import json, select, socket
from pathlib import Path
root = Path(e["QUARTERMASTER_CHECKPOINT_DIR"])
step = 0
if kind != "elastic" and root.is_dir() and any(root.glob("step-*")):
    sys.path[:0] = sys.argv[5].split(":")
    from orchestrator.worker import manifests
    found, _ = manifests.search(root)
    if found is not None: step = int((found.folder / "state").read_text())
say("loaded", step)
line = socket.socket(socket.AF_UNIX)
line.connect(e["QUARTERMASTER_CONTROL"])
def tell(what): line.sendall(json.dumps(what).encode() + b"\\n")
tell({"hello": {"job": job, "run": int(run), "rank": int(rank)}})
def until():
    if kind != "elastic": return begin + seconds * 1e6 - step * 1000
    mark, own = f"{folder}/.{job}-{run}", f"{folder}/.{job}-{run}-{os.getpid()}"
    Path(own).write_text(str(begin + seconds * 1e6))
    try: os.link(own, mark)  # whoever comes first says when the run is over
    except FileExistsError: pass
    return float(Path(mark).read_text())
def save(number):
    if kind == "hung": return
    done = step + (now() - begin) // 1000
    if rank == "0" and kind != "elastic":
        sys.path[:0] = sys.argv[5].split(":")
        from orchestrator.worker import manifests
        made = manifests.begin(root)
        (made / "state").write_text(str(done))
        manifests.seal(made, done, 1)
        manifests.commit(made, root, done)
        say("saved", done)
    tell({"saved": number, "step": done})
end, text = until(), b""
while now() < end:
    if select.select([line], [], [], 0.05)[0]:
        data = line.recv(65536)
        if not data: break
        *lines, text = (text + data).split(b"\\n")
        for said in map(json.loads, lines):
            if "save" in said:
                try: save(said["save"])
                except OSError as error: tell({"failed": said["save"], "reason": str(error)})
            elif "world" in said:
                if said["world"]["rank"] is None: say("left"); sys.exit(0)
                tell({"joined": said["world"]["generation"]})
            elif "stop" in said: say("stopped"); sys.exit(0)
    say("at", now())
while now() < end: time.sleep(0.05); say("at", now())
say("end", now())
sys.exit(code)
"""

KINDS = ("plain", "plain", "deaf", "saver", "saver", "hung", "elastic", "fails")


def command(folder: Path, kind: str, seconds: float) -> tuple[str, ...]:
    """The argument vector of a job's workers."""
    code = _HEAD + (_SPEAKER if kind in ("saver", "hung", "elastic") else _PLAIN)
    exit_code = "3" if kind == "fails" else "0"
    arguments = str(folder), kind, repr(seconds), exit_code, _MODULES
    return (sys.executable, "-S", "-E", "-c", code, *arguments)


@dataclass
class Life:
    """A worker, by its own account; ``seen_us``: when it was there last, by anybody's."""

    job: str
    run: int
    rank: int
    size: int
    pid: int
    node: str
    gpus: tuple[int, ...]
    begin_us: int
    seen_us: int
    end_us: int | None = None
    loaded: int | None = None
    saved: tuple[int, ...] = ()
    left: bool = False

    def __str__(self) -> str:
        """Its identity and times, for people."""
        where = f"{self.node}:{','.join(map(str, self.gpus))}"
        when = f"{self.begin_us / 1e6:.3f} to {self.seen_us / 1e6:.3f}"
        ended = "" if self.end_us is None else ", ended by itself"
        return f"{self.job} run {self.run} rank {self.rank} on {where} from {when}{ended}"


def read(folder: Path) -> list[Life]:
    """All workers that have written something."""
    found = [_read(path.read_text().splitlines()) for path in sorted(folder.glob("[!.]*"))]
    return sorted((life for life in found if life), key=lambda life: life.begin_us)


def _read(lines: Sequence[str]) -> Life | None:
    """A worker's file; None: it was killed before it had written a line."""
    if not lines:
        return None
    _, job, run, rank, size, pid, node, gpus, begin = lines[0].split()
    held = () if gpus == "-" else tuple(map(int, gpus.split(",")))
    life = Life(job, int(run), int(rank), int(size), int(pid), node, held, int(begin), int(begin))
    for line in lines[1:]:
        what, *more = line.split()
        if what in ("at", "end"):
            life.seen_us = int(more[0])
            life.end_us = life.seen_us if what == "end" else None
        elif what == "saved":
            life.saved += (int(more[0]),)
        elif what == "loaded":
            life.loaded = int(more[0])
        else:
            life.left = True
    return life
