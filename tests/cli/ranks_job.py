"""Starts csplade on several ranks for a test, with the variables of torchrun or by mpirun, and knows
the process of each."""
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


CALLS = itertools.count()


def free_port():
    """A port that nobody uses now: below those that the system gives to connections, one of which
    could take it before rank 0 does."""
    while True:
        port = 20000 + (os.getpid() * 37 + next(CALLS)) % 12000
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def mpirun_command(size):
    """Words before the program, and the environment; None where there is no mpirun."""
    if shutil.which("mpirun") is None:
        return None
    # Open MPI leaves memory of its own to the end of the process.
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "ASAN_OPTIONS": "detect_leaks=0"}
    return ["mpirun", "--oversubscribe", "-np", str(size)], env


def mpirun(w, size, name, *settings):
    """A whole run over MPI, as of subprocess.run; None where there is no mpirun."""
    found = mpirun_command(size)
    if found is None:
        print("skipped: no mpirun")
        return None
    command, env = found
    command += [w.program, "train", "config.yaml", f"run.output_dir={name}", "device.threads=1",
                "run.rank_timeout_s=60", *settings]
    return subprocess.run(command, cwd=w.folder, env=env, text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=120)


class Job:
    """Ranks with the variables of torchrun, each with settings, a folder, a program and words before
    it of its own if asked."""

    def __init__(self, w, size, name, *settings, own=None, cwd=None, program=None, before=None,
                 env=None):
        port = free_port()
        self.ranks = []
        for rank in range(size):
            words = [*(before or {}).get(rank, []), (program or {}).get(rank, w.program), "train",
                     "config.yaml", f"run.output_dir={name}", "device.threads=1",
                     "run.rank_timeout_s=60", *settings, *(own or {}).get(rank, [])]
            self.ranks.append(subprocess.Popen(
                [str(word) for word in words], cwd=(cwd or {}).get(rank, w.folder), text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size),
                     "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                     **(env or {})}))

    def pid(self, rank):
        """Of a rank that is there; None before and after."""
        process = self.ranks[rank]
        return process.pid if process.poll() is None else None

    def is_over(self):
        return all(process.poll() is not None for process in self.ranks)

    def wait(self, seconds=120):
        """What each rank gave, as of subprocess.run."""
        deadline, results = time.monotonic() + seconds, []
        for rank, process in enumerate(self.ranks):
            out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            results.append(subprocess.CompletedProcess(f"rank {rank}", process.returncode, out, err))
        return results

    def kill(self):
        for process in self.ranks:
            process.kill()


class MpiJob:
    """The same by mpirun, whose exit code and messages stand for those of all ranks."""

    def __init__(self, w, size, name, *settings):
        command, env = mpirun_command(size)
        self.size, self.pids, self.is_stuck, self.gone_at = size, {}, False, None
        self.launcher = subprocess.Popen(
            [*command, w.program, "train", "config.yaml", f"run.output_dir={name}",
             "device.threads=1", "run.rank_timeout_s=60", *settings], cwd=w.folder, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def look(self):
        children = Path(f"/proc/{self.launcher.pid}/task").glob("*/children")
        try:
            pids = [int(pid) for path in children for pid in path.read_text().split()]
            for pid in set(pids) - set(self.pids.values()):
                for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                        self.pids[int(word.split(b"=")[1])] = pid
        except OSError:
            pass  # it has ended

    def pid(self, rank):
        if self.launcher.poll() is not None:
            return None
        if rank not in self.pids:
            self.look()
        pid = self.pids.get(rank)
        return pid if pid is not None and Path(f"/proc/{pid}").exists() else None

    def is_over(self):
        return self.launcher.poll() is not None

    def is_gone(self, rank):
        try:
            return Path(f"/proc/{self.pids[rank]}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    def wait(self, seconds=120, launcher_s=10):
        """What mpirun gave. Open MPI 4.1's may wait for itself for ever, in PMIx_server_finalize, after a
        rank was killed within MPI_Init: when all ranks are gone it is ended after launcher_s, and is_stuck
        says so."""
        deadline, gone_at = time.monotonic() + seconds, None
        while True:
            try:
                out, err = self.launcher.communicate(timeout=0.1)
                return [subprocess.CompletedProcess("mpirun", self.launcher.returncode, out, err)]
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if now > deadline:
                    raise
                self.look()
                if not self.pids or not all(map(self.is_gone, self.pids)):
                    self.gone_at = None
                elif self.gone_at is None:
                    self.gone_at = now
                if self.gone_at is not None and now - self.gone_at > launcher_s:
                    self.is_stuck = True
                    self.launcher.kill()

    def kill(self):
        for pid in self.pids.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.launcher.kill()
