#!/usr/bin/env python3
"""What gpu.sh runs: the parts below, in order, on the GPU of this machine. Standard library only.

    doctor       what csplade sees
    conformance  what the device does, kept as a fixture for the emulator and compared with the emulator
    parity       every op against its reference, whole training steps against the CPU; of what fails, memcheck
    program      csplade as a user runs it: training, evaluation, resumption, encoding, search, export
    bench        csplade's own measurements
    demo         scripts/demo.py on WordNet, a minute of training, where the bundle has its text
    memcheck     compute-sanitizer over the same programs, smaller shapes
    peers        the measurements beside PyTorch, where the Python here has it
    racecheck, initcheck, synccheck    compute-sanitizer again

The order is that of their worth, for where time is short; programs that measure nothing run several at a
time. Every finding is kept at once, so that a run that was cut short, even killed, goes on where it stopped:
what passed or failed is not run again (--again does), unless the bundle is another one. Written are
results.json, report.txt, log.txt, conformance.txt, bench.json and demo.html. Exit status: 0 all passed or skipped,
1 something failed, 3 time is up and something is left, 77 no device.
"""
import argparse
import concurrent.futures
import datetime
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
PARTS = ("doctor", "conformance", "parity", "program", "bench", "demo", "memcheck", "peers", "racecheck", "initcheck",
         "synccheck")
# Seconds one program of a part may take: one that hangs must not cost the others their time. A lent machine may
# end a command after ten minutes, so an invocation ends itself before that (--time), and the next one goes on.
LIMITS = {"doctor": 60, "conformance": 60, "parity": 120, "program": 180, "bench": 120, "demo": 240, "peers": 300,
          **{tool: 180 for tool in SANITIZERS}}
LARGE_LIMIT = 240  # of a case of bench with a model of 8B, or one that looks for the largest batch
STANDARD_TIME = 560
MOST_JOBS = 4  # programs at a time, each with a context of the device and a gigabyte of its memory
# What says most comes first; large models, which take longest, last.
CASES = ("ceilings", "K1", "S1", "K3", "K8", "K11", "K7", "S8", "K10", "K5", "K9", "K4", "K6", "S7", "S4", "M1", "S5", "S6")
LARGE_CASES = ("S5", "S6", "M1")
PROFILED = ("S1", "S8")  # also what each op of a step takes
PEER_CASES = ("K2", "K8", "S2", "K7", "K4", "S8", "K6", "S4", "S3", "K5", "M1")
SANITIZER_FOUND = 86
LOGGED = 60000  # bytes of what one program printed that log.txt keeps, so that it stays small
DONE = ("passed", "failed")
RUNNING = set()  # process groups of the programs that run


class Bundle:
    """What was unpacked, and the environment its programs run in."""

    def __init__(self, top, cuda_libs):
        self.top = top
        with open(os.path.join(top, "manifest.json")) as file:
            self.manifest = json.load(file)
        digests = json.dumps(self.manifest["sha256"], sort_keys=True)
        self.name = "%s, %s" % (self.manifest["program"], hashlib.sha256(digests.encode()).hexdigest()[:12])
        self.found, self.missing = find_cuda_libraries(self.manifest["cuda_libraries"], cuda_libs)
        joining, _ = find_cuda_libraries(["libnccl.so.2"], cuda_libs)  # without it its tests are skipped
        folders = [os.path.join(top, "lib")] + sorted({*self.found.values(), *joining.values()})
        self.environment = dict(os.environ)
        before = os.environ.get("LD_LIBRARY_PATH")
        self.environment["LD_LIBRARY_PATH"] = ":".join(folders + ([before] if before else []))
        self.environment["CSPLADE_CUDA_PLUGIN"] = os.path.join(top, "lib", "libcsplade_cuda.so")
        self.environment.setdefault("OMP_WAIT_POLICY", "passive")

    def program(self, name):
        return os.path.join(self.top, "bin", name)

    def tests(self):
        return sorted(os.path.basename(path) for path in glob.glob(self.program("test_*")))


def pip_folders():
    """Where pip's wheels of CUDA's components put their libraries."""
    for entry in sys.path:
        yield from sorted(glob.glob(os.path.join(entry, "nvidia", "cu1[3-9]", "lib")))
        yield from sorted(glob.glob(os.path.join(entry, "nvidia", "*", "lib")))


def cuda_folders(asked):
    """Places of CUDA's libraries, in the order they are taken."""
    if asked:
        yield asked
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"),
             os.path.dirname(os.path.dirname(os.path.realpath(nvcc))) if nvcc else None,
             "/usr/local/cuda"] + sorted(glob.glob("/usr/local/cuda-*"), reverse=True)
    for home in homes:
        if home:
            yield os.path.join(home, "lib64")
            yield os.path.join(home, "lib")
            yield os.path.join(home, "targets", "x86_64-linux", "lib")
    yield from pip_folders()


def find_cuda_libraries(names, asked):
    """Folder of each library that the loader does not find by itself; names that are nowhere."""
    found, missing = {}, []
    listed = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True, check=False).stdout if os.path.exists("/sbin/ldconfig") else ""
    for name in names:
        folder = next((f for f in cuda_folders(asked) if os.path.exists(os.path.join(f, name))), None)
        if folder:
            found[name] = folder
        elif not re.search(r"\b%s\b" % re.escape(name), listed):
            missing.append(name)
    return found, missing


class Results:
    """results.json: one entry a finding, written whenever one is added."""

    def __init__(self, folder, bundle):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "results.json")
        self.lock = threading.RLock()  # findings of programs that run at a time
        self.data = {"bundle": bundle, "machine": {}, "items": {}}
        if os.path.exists(self.path):
            with open(self.path) as file:
                earlier = json.load(file)
            if earlier.get("bundle") == bundle:
                self.data = earlier
            else:  # of other programs, so of no use for these
                os.replace(self.path, os.path.join(folder, "results-earlier.json"))
                print("the results in %s are another bundle's: kept as results-earlier.json" % folder, flush=True)

    def is_done(self, name):
        return self.data["items"].get(name, {}).get("status") in DONE

    def add(self, name, status, seconds, reason="", **more):
        with self.lock:
            self.data["items"][name] = {"status": status, "seconds": round(seconds, 2), "reason": reason,
                                        "date": datetime.datetime.now().isoformat(timespec="seconds"), **more}
            self.save()
            self.report()
            print("%-10s %-34s %7.1f s  %s" % (status, name, seconds, reason), flush=True)

    def write(self, name, text):
        """A whole file or none, whenever this is killed; always the same two names."""
        partial = os.path.join(self.folder, "partial")
        with open(partial, "w") as file:
            file.write(text)
        os.replace(partial, os.path.join(self.folder, name))

    def save(self):
        self.write("results.json", json.dumps(self.data, indent=1) + "\n")

    def log(self, title, text):
        if len(text) > LOGGED:
            text = "%s\n[...]\n%s" % (text[:LOGGED // 2], text[-LOGGED // 2:])
        with self.lock, open(os.path.join(self.folder, "log.txt"), "a") as file:
            file.write("==== %s, %s\n%s\n" % (title, datetime.datetime.now().isoformat(timespec="seconds"), text))

    def report(self):
        """report.txt: the machine, counts of each part, what is not passed, the measurements."""
        lines = ["%s: %s" % pair for pair in self.data["machine"].items()] + [""]
        for part in PARTS:
            items = {k: v for k, v in self.data["items"].items() if k.split("/")[0] == part}
            counts = {}
            for item in items.values():
                counts[item["status"]] = counts.get(item["status"], 0) + 1
            if items:
                lines.append("%-12s %s" % (part, ", ".join("%d %s" % (n, s) for s, n in sorted(counts.items()))))
        lines.append("")
        for name, item in self.data["items"].items():
            if item["status"] != "passed":
                lines.append("%s: %s: %s" % (name, item["status"], item["reason"]))
        for name, item in self.data["items"].items():
            for row in item.get("rows", []):
                lines.append("%s: %s" % (name, json.dumps(row)))
        self.write("report.txt", "\n".join(lines) + "\n")
        rows = [row for item in self.data["items"].values() for row in item.get("rows", [])]
        self.write("bench.json", json.dumps({"machine": self.data["machine"], "rows": rows}, indent=1) + "\n")


class Runner:
    def __init__(self, bundle, results, args):
        self.bundle, self.results, self.args = bundle, results, args
        self.deadline = time.monotonic() + args.time
        self.left = False  # time was up before something was done
        self.unsupported = None  # why compute-sanitizer is of no use

    def spend(self, name, command, limit, environment=None, good=lambda code, text: None):
        """Runs one program and keeps what came of it. good returns None, or (status, reason)."""
        if self.results.is_done(name) and not self.args.again:
            return None
        remaining = self.deadline - time.monotonic()
        if remaining < 5:
            self.left = True
            return None
        start = time.monotonic()
        text, code = run_limited(command, min(limit, remaining), {**self.bundle.environment, **(environment or {})})
        seconds = time.monotonic() - start
        self.results.log("%s: %s" % (name, " ".join(command)), text)
        rows = json_rows(text)
        more = {"rows": rows} if rows else {}
        last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
        if code is None and remaining < limit:
            self.left = True
            self.results.add(name, "unfinished", seconds, "the time of this run was up", **more)
            return None
        verdict = good(code, text)
        if code is None:
            verdict = ("failed", "ran past its limit of %d s" % limit)
        elif verdict is None:
            verdict = {0: ("passed", ""), 77: ("skipped", last)}.get(code, ("failed", "status %d: %s" % (code, last)))
        self.results.add(name, verdict[0], seconds, verdict[1], **more)
        return text

    def spend_all(self, calls):
        """spend with each of the arguments, several at a time; their threads of the CPU share its cores."""
        jobs = self.args.jobs
        environment = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda call: self.spend(*call[:3], {**environment, **call[3]}, *call[4:]), calls))

    def skip(self, name, reason):
        if not self.results.is_done(name) or self.args.again:
            self.results.add(name, "skipped", 0.0, reason)

    def doctor(self):
        """Returns why there is no device, or None."""
        machine = describe_machine(self.bundle)
        if self.bundle.missing:
            reason = "%s not found in the CUDA toolkit, pip's wheels (nvidia-cublas) or the loader's " \
                     "cache (--cuda-libs names a folder)" % ", ".join(self.bundle.missing)
        else:
            text, code = run_limited([self.bundle.program("csplade"), "doctor"], LIMITS["doctor"],
                                     self.bundle.environment)
            self.results.log("doctor", text)
            devices = re.findall(r"^device +(cuda:\d+ .*)$", text, re.M)
            machine.update({"device": "; ".join(devices), "csplade": self.bundle.manifest["program"]})
            said = re.findall(r"^backend +(cuda: .*|.*no NVIDIA driver.*|.*sees no device.*|.*is for CUDA.*)$", text, re.M)
            machine["backend"] = said[0] if said else ""
            reason = None if devices and code == 0 else (said[-1] if said else "csplade doctor ends with %s" % code)
        self.results.data["machine"] = {k: v for k, v in machine.items() if v}
        if reason:
            self.results.add("doctor", "skipped", 0.0, reason)
        else:
            self.results.add("doctor", "passed", 0.0, machine["device"])
        return reason

    def conformance(self):
        written = os.path.join(self.results.folder, "conformance.txt")
        program = self.bundle.program("conformance")
        self.spend("conformance/write", [program, "--write", written], LIMITS["conformance"])
        for name in ("emulator", "gpu"):
            file = os.path.join(self.bundle.top, "share", "conformance_%s.txt" % name)
            if os.path.exists(file):
                self.spend("conformance/against the %s's" % name, [program, "--compare", file],
                           LIMITS["conformance"])

    def parity(self):
        beside = [self.program_call()] if "program" in self.args.only else []  # it starts csplade often, so it takes long
        self.spend_all(beside + [("parity/" + test, [self.bundle.program(test), "cuda:0"], LIMITS["parity"], {})
                                 for test in self.bundle.tests()])
        if self.failed_parity():  # why, before anything is measured
            self.sanitize("memcheck", self.failed_parity())

    def failed_parity(self):
        return [test for test in self.bundle.tests()
                if self.results.data["items"].get("parity/" + test, {}).get("status") == "failed"]

    def program_call(self):
        test = os.path.join(self.bundle.top, "tests", "cli", "test_gpu_machine.py")
        return ("program/csplade", [sys.executable, test, self.bundle.program("csplade"), self.bundle.top],
                LIMITS["program"], {})

    def program(self):
        self.spend(*self.program_call())

    def sanitize(self, tool, tests):
        checker = shutil.which("compute-sanitizer") or next(
            (p for p in sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer"))), None)
        if checker is None or self.unsupported:
            self.skip(tool, self.unsupported or "compute-sanitizer is not installed")
            return
        offered = run_limited([checker, "--help"], 30, self.bundle.environment)[0]
        command = [checker, "--tool", tool, "--error-exitcode", str(SANITIZER_FOUND)]
        if "--report-api-errors" in offered:  # tests ask for what is refused
            command += ["--report-api-errors", "no"]
        # Ours, not cuBLAS's, whose global writes memcheck and initcheck must see: what they write, ours read.
        if tool in ("racecheck", "synccheck") and "--kernel-regex" in offered:
            command += ["--kernel-regex", "kns=_kernel"]

        def good(code, text):
            if code == SANITIZER_FOUND:
                return "failed", (re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*$", text, re.M) or ["errors"])[-1]
            if re.search(r"Device not supported|is not supported on this", text):
                self.unsupported = "compute-sanitizer does not support this device, or it here"
                return "skipped", self.unsupported
            return None

        small = {"CSPLADE_SMALL_SHAPES": "1"}
        with tempfile.TemporaryDirectory() as folder:  # first, alone: it is soon told what is not supported
            self.spend("%s/conformance" % tool,
                       command + [self.bundle.program("conformance"), "--write", os.path.join(folder, "out.txt")],
                       LIMITS[tool], small, good)
        if not self.unsupported:
            self.spend_all([("%s/%s" % (tool, test), command + [self.bundle.program(test), "cuda:0"], LIMITS[tool],
                             small, good) for test in tests])

    def bench(self):
        for case in CASES:
            command = [self.bundle.program("csplade"), "bench", case, "--device", "cuda:0", "--steps", "10", "--warmup", "3",
                       "--tune-products", "--format", "json"]
            self.spend("bench/" + case, command + (["--profile"] if case in PROFILED else []),
                       LARGE_LIMIT if case in LARGE_CASES else LIMITS["bench"])

    def demo(self):
        """Of its 5 minutes 230 seconds are kept for what a CPU takes to encode: training gets the least it gets."""
        archive, work = os.path.join(self.bundle.top, "share", "demo.tar.xz"), os.path.join(self.bundle.top, "demo")
        if not os.path.exists(archive):
            self.skip("demo", "this bundle was made without the demo's text")
            return
        if not os.path.exists(os.path.join(work, "done.data")):
            with tarfile.open(archive) as text:
                text.extractall(work)
        self.spend("demo/wordnet", [sys.executable, os.path.join(self.bundle.top, "scripts", "demo.py"), "--csplade",
                                    self.bundle.program("csplade"), "--work", work, "--minutes", "5",
                                    "--device", "cuda:0"], LIMITS["demo"])
        if self.results.is_done("demo/wordnet") and os.path.exists(os.path.join(work, "done.report")):
            with open(os.path.join(work, "table.json")) as file:
                rows = json.load(file)["rows"]
            self.results.data["items"]["demo/wordnet"]["rows"] = [{"demo": row} for row in rows]
            with open(os.path.join(work, "report.html"), encoding="utf-8") as file:
                self.results.write("demo.html", file.read())

    def peers(self):
        python = self.args.torch_python
        check, code = run_limited([python, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"],
                                  120, dict(os.environ))
        if code != 0 or "True" not in check:
            self.skip("peers", "no PyTorch with a GPU in %s: %s" % (python, check.strip().split("\n")[-1]))
            return
        self.results.data["machine"]["torch"] = check.split()[0]
        for case in PEER_CASES:
            # PyTorch brings its own libraries: those of the bundle are for csplade, which gpu.sh run starts.
            self.spend("peers/" + case, [python, os.path.join(self.bundle.top, "scripts", "bench_gpu.py"), "--json",
                                         "--rounds", str(self.args.rounds), "--limit", str(LIMITS["peers"] // 2),
                                         "--csplade", os.path.join(self.bundle.top, "gpu.sh") + " run csplade", case],
                       LIMITS["peers"], {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}, all_measured)

    def run(self, parts):
        absent = self.doctor()
        for part in parts:
            if part == "doctor":
                continue
            if absent:
                self.skip(part, "no device: " + absent)
            elif part in SANITIZERS:
                self.results.data["items"].pop(part, None)  # why an earlier run left it out
                failed = self.failed_parity()
                self.sanitize(part, sorted(self.bundle.tests(), key=lambda test: test not in failed))
            else:
                self.results.data["items"].pop(part, None)
                getattr(self, part)()
        self.results.save()
        self.results.report()  # also where nothing was added
        wanted = [v for k, v in self.results.data["items"].items() if k.split("/")[0] in parts]
        if absent:
            return 77
        if any(item["status"] == "failed" for item in wanted):
            return 1
        return 3 if self.left else 0


def json_rows(text):
    """The objects that a program printed, a line each; what only looks like one is other output."""
    rows = []
    for line in re.findall(r"^{.*}$", text, re.M):
        try:
            rows.append(json.loads(line))
        except ValueError:
            pass
    return rows


def all_measured(code, text):
    """Of a case of peers: failed where a claim has no figure, with what is missing, or None."""
    claims = [row for row in json_rows(text) if "verdict" in row]
    without = [row for row in claims if row["verdict"] == "not measured"]
    if code != 0 or not without:
        return None
    missing = sorted("%s: %s" % pair for pair in {k: v for row in without for k, v in row["absent"].items()}.items())
    return "failed", "%d of %d claims not measured: %s" % (len(without), len(claims), "; ".join(missing))


def run_limited(command, limit, environment):
    """Output (both streams) and status of a program; status None where it ran past the limit."""
    # A group of its own, to be ended as a whole, but no session, which would outlive a lent machine's end of
    # this command and keep the device.
    apart = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, errors="replace", env=environment, **apart)
    RUNNING.add(process.pid)
    try:
        return process.communicate(timeout=limit)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], None
    finally:
        RUNNING.discard(process.pid)


def end_all(number, _):
    """What runs is ended with this; what was found is on disk."""
    for group in list(RUNNING):
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
    os._exit(128 + number)


def describe_machine(bundle):
    """Driver, compiler and Python of this machine; where it is told apart by name, not."""
    smi = shutil.which("nvidia-smi")
    machine = {"date": str(datetime.date.today()), "system": "%s %s" % (platform.system(), platform.machine()),
               "glibc": platform.libc_ver()[1], "python": platform.python_version(),
               "cuda libraries": ", ".join("%s in %s" % pair for pair in sorted(bundle.found.items()))}
    if smi:
        machine["driver"] = run_limited([smi, "--query-gpu=name,driver_version,memory.total,compute_cap,"
                                         "clocks.max.sm,power.limit",
                                         "--format=csv,noheader"], 30, dict(os.environ))[0].strip()
    nvcc = shutil.which("nvcc")
    if nvcc:
        machine["nvcc"] = run_limited([nvcc, "--version"], 30, dict(os.environ))[0].strip().split("\n")[-1]
    return machine


def check_machine(bundle):
    """What stops everything, in words, or None."""
    wanted = tuple(int(n) for n in bundle.manifest["glibc"].split("."))
    present = platform.libc_ver()
    if platform.machine() != bundle.manifest["machine"]:
        return "this bundle is for %s, the machine is %s" % (bundle.manifest["machine"], platform.machine())
    if present[0] == "glibc" and tuple(int(n) for n in present[1].split(".")[:2]) < wanted:
        return "glibc %s is too old, these programs need %s" % (present[1], bundle.manifest["glibc"])
    for name, digest in bundle.manifest["sha256"].items():
        with open(os.path.join(bundle.top, name), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != digest and name not in rebuilt(bundle):
                return "%s is not as it was packed" % name
    return None


def rebuilt(bundle):
    """Files that --rebuild has replaced."""
    return [name for name in ("lib/libcsplade_cuda.so", "bin/conformance")
            if os.path.exists(os.path.join(bundle.top, name + ".shipped"))]


def rebuild(bundle, architecture):
    """Compiles the CUDA sources for this machine's GPU. Returns None, or what went wrong."""
    nvcc = shutil.which("nvcc") or next(iter(sorted(glob.glob("/usr/local/cuda*/bin/nvcc"), reverse=True)), None)
    if nvcc is None:
        return "--rebuild: no nvcc on this machine"
    if not architecture:
        smi = shutil.which("nvidia-smi")
        said = run_limited([smi, "--query-gpu=compute_cap", "--format=csv,noheader"], 30, dict(os.environ))[0] if smi else ""
        match = re.match(r"(\d+)\.(\d+)", said)
        if not match:
            return "--rebuild: which architecture? nvidia-smi does not say; --arch 90 does"
        architecture = match.group(1) + match.group(2)
    work = os.path.join(bundle.top, "rebuild")
    os.makedirs(work, exist_ok=True)
    common = [nvcc, "--options-file", os.path.join(bundle.top, "src", "cuda", "nvcc.options"),
              "-I" + os.path.join(bundle.top, "src", "cuda"),
              "-I" + os.path.join(bundle.top, "src", "host")]

    def compiled(source):
        """The command that compiles a file, and its object; *_sm90.cu are for compute capability 9.0 alone."""
        target = "90a" if source.endswith("_sm90.cu") else architecture
        made = os.path.join(work, os.path.basename(source)[:-3] + ".o")
        return common + ["-gencode", "arch=compute_%s,code=sm_%s" % (target, target),
                         "-Xcompiler", "-fPIC,-fvisibility=hidden", "-c", source, "-o", made], made

    commands, objects = zip(*map(compiled, sorted(glob.glob(os.path.join(bundle.top, "src", "cuda", "*.cu")))))
    programs, conformance = zip(*map(compiled, sorted(glob.glob(os.path.join(bundle.top, "tests", "conformance", "*.cu")))))
    libraries = [os.path.join(bundle.found[n], n) for n in sorted(bundle.found)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for text, code in pool.map(lambda c: run_limited(c, 500, dict(os.environ)), commands + programs):
            if code != 0:
                return "--rebuild: nvcc: " + text
    for target, command in (
            ("lib/libcsplade_cuda.so", [nvcc, "-shared", "-cudart", "static"] + list(objects) +
             [word for path in libraries for word in ("-Xlinker", path)]),
            ("bin/conformance", [nvcc, "-cudart", "static"] + list(conformance))):
        path = os.path.join(bundle.top, target)
        text, code = run_limited(command + ["-o", path + ".new"], 500, dict(os.environ))
        if code != 0:
            return "--rebuild: %s: %s" % (target, text)
        if not os.path.exists(path + ".shipped"):
            os.replace(path, path + ".shipped")
        os.replace(path + ".new", path)
    shutil.rmtree(work)
    return None


def parse(words):
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help="some of the parts")
    parser.add_argument("--output", default="gpu-results", metavar="DIR", help="results; an earlier run's are continued")
    parser.add_argument("--time", type=float, default=STANDARD_TIME, metavar="SECONDS",
                        help="of this run (standard %(default)s)")
    parser.add_argument("--jobs", type=int, default=max(1, min(MOST_JOBS, (os.cpu_count() or 1) // 2)), metavar="N",
                        help="programs of parity and compute-sanitizer at a time (standard %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N",
                        help="of peers; two for a table to be kept (standard %(default)s)")
    parser.add_argument("--again", action="store_true", help="also what is done already")
    parser.add_argument("--rebuild", action="store_true", help="compile the CUDA sources for this GPU first")
    parser.add_argument("--arch", metavar="NN", help="of --rebuild, as 90 (standard: what nvidia-smi says)")
    parser.add_argument("--cuda-libs", metavar="DIR", help="where libcublas.so and CUDA's other libraries are")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PROGRAM", help="a Python with PyTorch, for peers")
    args = parser.parse_args(words)
    args.only = [part for part in args.only.split(",") if part]
    for part in args.only:
        if part not in PARTS:
            parser.error("%s is no part: %s" % (part, ", ".join(PARTS)))
    if args.jobs < 1 or args.rounds < 1:
        parser.error("--jobs and --rounds must be at least 1")
    return args


def main():
    top, words = sys.argv[1], sys.argv[2:]
    if words[:1] == ["run"]:
        bundle = Bundle(top, os.environ.get("CSPLADE_CUDA_LIBS"))
        if len(words) < 2:
            print("usage: gpu.sh run COMMAND [WORD...]", file=sys.stderr)
            return 2
        program = bundle.program(words[1])
        os.execve(program, [program] + words[2:], bundle.environment)
    args = parse(words)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end_all)
    if args.cuda_libs:  # also for the csplade that bench_gpu.py starts by gpu.sh run
        os.environ["CSPLADE_CUDA_LIBS"] = args.cuda_libs
    bundle = Bundle(top, args.cuda_libs)
    trouble = check_machine(bundle)
    if trouble is None and args.rebuild:
        trouble = rebuild(bundle, args.arch)
    if trouble is not None:
        print("gpu.sh: " + trouble, file=sys.stderr)
        return 5
    runner = Runner(bundle, Results(args.output, bundle.name), args)
    status = runner.run(args.only)
    print("%s%s, results in %s" % ({0: "all passed", 1: "something failed", 3: "nothing failed", 77: "no device"}[status],
                                  ", time is up: run it again to go on" if runner.left else "", args.output))
    return status


sys.exit(main())
