"""A real SLURM on this machine for the length of a test: slurmctld and one slurmd for each virtual node,
in a folder of the test's own, without systemd, cgroups or munge. auth/none trusts everybody who reaches
the ports, so it listens on the loopback only and is for tests alone.

    with Cluster(folder, nodes=2) as cluster:
        job = cluster.submit("job.sbatch", "--time=5")
        state = cluster.wait(job)
"""
import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ranks_job import free_port

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GOING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED"}
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONF = """
ClusterName=csplade
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/ctl
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctl.log
SlurmdLogFile={folder}/%n.log
TmpFS={folder}/tmp-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
ReturnToService=2
KillWait=30
SlurmdTimeout=10
JobRequeue=1
GresTypes=gpu
"""


def missing_program():
    """The first program of SLURM that is not installed; None where all are."""
    return next((name for name in PROGRAMS if shutil.which(name, path=PATH) is None), None)


def prctl(option, value):
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError("prctl")


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def descendants():
    """Processes that this one has started, and theirs."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    found, front = set(), {os.getpid()}
    while front:
        front = {pid for pid, parent in parents.items() if parent in front} - found
        found |= front
    return found


def run_watched(main):
    """Runs main in a process that learns when this one is killed, so that its context managers end what
    it has started: daemons of SLURM leave their parents."""
    worker = os.fork()
    if worker == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("killed from outside"))
        sys.exit(main())
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


class Cluster:
    """nodes virtual machines n1, n2, ... of cpus cores and two GPUs each, none of which computes."""

    def __init__(self, folder, nodes=1, cpus=4):
        self.folder, self.nodes, self.cpus = Path(folder), nodes, cpus
        self.daemons = {}
        # Not the variables of a cluster on which the test itself may run.
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("SLURM", "SRUN", "SBATCH", "PMI", "OMPI"))}
        self.env.update(PATH=PATH, SLURM_CONF=f"{self.folder}/slurm.conf",
                        TMPDIR=f"{self.folder}/tmp", OMPI_ALLOW_RUN_AS_ROOT="1",
                        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        if nodes > 1:
            # The nodes are one machine that takes itself for several: shared memory would fail.
            self.env.update(OMPI_MCA_btl="self,tcp", OMPI_MCA_btl_tcp_if_include="lo")

    def write_config(self):
        host = socket.gethostname().split(".")[0]
        names = [f"n{i + 1}" for i in range(self.nodes)]
        for name in ("ctl", "tmp", *(f"{kind}-{n}" for kind in ("spool", "tmp") for n in names)):
            (self.folder / name).mkdir(parents=True)
        port, *ports = (free_port() for _ in range(1 + self.nodes))
        text = CONF.format(host=host, port=port, user=getpass.getuser(), folder=self.folder)
        for name, port in zip(names, ports):
            text += (f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
                     f"CPUs={self.cpus} RealMemory=1000 Gres=gpu:2 State=UNKNOWN\n")
        for name, tier, words in (("batch", 1, "Default=YES GraceTime=120"), ("urgent", 2, "")):
            text += (f"PartitionName={name} Nodes={','.join(names)} PriorityTier={tier} "
                     f"MaxTime=INFINITE DefaultTime=60 State=UP {words}\n")
        (self.folder / "slurm.conf").write_text(text.lstrip())
        # GPUs need device files; nothing opens these.
        (self.folder / "gres.conf").write_text("".join(
            f"NodeName={n} Name=gpu File={file}\n" for n in names for file in ("/dev/null", "/dev/zero")))
        return names

    def __enter__(self):
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a daemon leaves behind is ours to end
        try:
            names = self.write_config()
            self.daemon("controller", "slurmctld", "-D", "-c")
            for name in names:
                self.start_node(name)
            self.until(lambda: self.call("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >=
                       2 * self.nodes, "the nodes are not idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def daemon(self, name, *words):
        with (self.folder / "daemons.log").open("a") as log:
            self.daemons[name] = subprocess.Popen(
                words, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))

    def start_node(self, name):
        self.daemon(name, "slurmd", "-D", "-N", name)

    def task(self, job, rank):
        """The process of a rank of a job's step."""
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
        for pid in descendants():
            try:
                command = Path(f"/proc/{pid}/comm").read_text().strip()
                words = set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            except OSError:
                continue  # it has ended
            if command == "csplade" and wanted <= words:
                return pid
        raise LookupError(f"job {job} has no rank {rank}")

    def kill_node(self, name):
        """As a power cut: its slurmd, every process of its jobs, and the files that those would remove."""
        victims = set()
        for pid in descendants():
            try:
                of_node = f"SLURMD_NODENAME={name}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
                if of_node:  # a task; its parent is the slurmstepd
                    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
                    victims |= {pid, int(stat.split()[1])}
            except OSError:
                continue  # it has ended
        daemon = self.daemons.pop(name)
        for pid in victims - {os.getpid()}:
            kill(pid)
        daemon.kill()
        daemon.wait()
        for kind in ("spool", "tmp"):
            shutil.rmtree(self.folder / f"{kind}-{name}")
            (self.folder / f"{kind}-{name}").mkdir()

    def __exit__(self, *_):
        for process in self.daemons.values():
            process.kill()
        deadline = time.monotonic() + 20
        while (left := descendants()) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            for process in self.daemons.values():
                process.poll()
            try:
                while os.waitpid(-1, os.WNOHANG)[0] != 0:
                    pass
            except ChildProcessError:
                break
            time.sleep(0.05)

    def run(self, *words, env=None, cwd=None):
        return subprocess.run([str(w) for w in words], env={**self.env, **(env or {})},
                              cwd=cwd, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                              timeout=120, check=False)

    def call(self, *words, **options):
        """What a command of SLURM prints; "" where it fails, as while the controller starts."""
        result = self.run(*words, **options)
        return result.stdout if result.returncode == 0 else ""

    def until(self, condition, what, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            if any(process.poll() is not None for process in self.daemons.values()):
                raise RuntimeError(f"a daemon of SLURM has ended\n{self.logs()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} after {seconds} s\n{self.logs()}")
            time.sleep(0.1)

    def logs(self):
        texts = []
        for path in sorted(self.folder.glob("*.log")):
            texts.append(f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-30:]))
        return "\n".join(texts) + "\n" + self.call("squeue", "-a")

    def submit(self, script, *words, options=(), cwd=None, env=None):
        """sbatch; the number of the job."""
        result = self.run("sbatch", "--parsable", *options, script, *words, cwd=cwd, env=env)
        if result.returncode != 0:
            raise RuntimeError(f"sbatch {script}: {result.stderr}")
        return result.stdout.strip()

    def show(self, job):
        """What scontrol says of a job."""
        text = self.call("scontrol", "show", "job", "-o", job).split("\n")[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait(self, *jobs, seconds=240):
        """Until the jobs, of arrays all their tasks, are no longer queued."""
        def ended():
            states = self.call("squeue", "-h", "-r", "-t", "all", "-o", "%T", "-j", ",".join(jobs))
            return not GOING & set(states.split())

        self.until(ended, f"jobs {jobs} have not ended", seconds)
        return self.show(jobs[0])
