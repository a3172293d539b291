"""What the tests of whole runs stand on: a small collection, tokenizer and model, made by the test
itself and the same on every machine, and ways to run the program and look at what it left."""
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

CONFIG = """
model: {path: model, query_max_len: 12, passage_max_len: 20, query_prefix: "", passage_prefix: ""}
data: {corpus: beir, qrels: beir/qrels/train.tsv, train_group_size: 2, text: [text.txt]}
adapt: {max_steps: 4, max_len: 24, batch: {texts: 8}}
contrastive: {max_steps: 6, temperature: 2, lambda_q: 1e-3, lambda_d: 1e-3, batch: {queries: 8}}
optim: {learning_rate: 2e-3, warmup_ratio: 0.1}
run: {output_dir: run, save_steps: 2, save_total_limit: 3, logging_steps: 5, eval_steps: 0}
device: {name: cpu, threads: 2}
"""


class Numbers:
    """A linear congruential generator: the same numbers under every version of Python."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n

    def choice(self, items):
        return items[self.below(len(items))]


class Workspace:
    """A folder with beir/, text.txt, tok/, model/ and config.yaml, in which runs are started: on the CPU, also
    where auto would take a GPU and bf16, unless a test names another device. test_gpu_machine.py holds that."""

    def __init__(self, program, folder, documents=100):
        self.program, self.folder = program, Path(folder)
        self.failures = []
        self.make_collection(documents)
        self.must("tokenize", "--train", "--vocab-size", 320, "--output", "tok", "text.txt")
        self.must("init", "--tokenizer", "tok", "--hidden", 32, "--layers", 2, "--heads", 2,
                  "--max-position", 64, "--output", "model")
        (self.folder / "config.yaml").write_text(CONFIG)

    def make_collection(self, count):
        numbers = Numbers(7)
        syllables = [c + v for c in "bcdfglmnprst" for v in "aeiou"]
        words = ["".join(numbers.choice(syllables) for _ in range(1 + numbers.below(3)))
                 for _ in range(120)]
        documents = [[numbers.choice(words) for _ in range(3 + numbers.below(8))]
                     for _ in range(count)]
        qrels = self.folder / "beir/qrels"
        qrels.mkdir(parents=True)
        with (self.folder / "beir/corpus.jsonl").open("w") as stream:
            for i, text in enumerate(documents):
                row = {"_id": f"d{i}", "title": text[0] if i % 3 == 0 else "", "text": " ".join(text)}
                stream.write(json.dumps(row) + "\n")
        with (self.folder / "beir/queries.jsonl").open("w") as stream:
            for i, text in enumerate(documents):
                query = " ".join(numbers.choice(text) for _ in range(3))
                stream.write(json.dumps({"_id": f"q{i}", "text": query}) + "\n")
        for name, ids in (("train", range(0, count * 4 // 5)), ("dev", range(count * 4 // 5, count))):
            with (qrels / f"{name}.tsv").open("w") as stream:
                stream.write("query-id\tcorpus-id\tscore\n")
                stream.writelines(f"q{i}\td{i}\t1\n" for i in ids)
        (self.folder / "text.txt").write_text("".join(" ".join(text) + "\n" for text in documents))

    def start(self, *words, cwd=None, **options):
        words = [*map(str, words)]
        computes = words[0] == "encode" or (words[0] == "search" and "--queries" not in words)
        if computes and "--device" not in words:
            words += ["--device", "cpu"]
        return subprocess.Popen([self.program, *words], cwd=cwd or self.folder, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def run(self, *words, **options):
        process = self.start(*words, **options)
        out, err = process.communicate()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def must(self, *words, **options):
        result = self.run(*words, **options)
        if result.returncode != 0:
            raise SystemExit(f"{words}: exit {result.returncode}\n{result.stderr}")
        return result

    def train(self, name, *settings, **options):
        return self.run("train", "config.yaml", f"run.output_dir={name}", *settings, **options)

    def expect(self, condition, what):
        if not condition:
            self.failures.append(str(what))
            print(f"FAILED: {what}", flush=True)

    def expect_exit(self, result, code, *messages):
        """The exit code, and each message on stderr, which never shows a crash."""
        self.expect(result.returncode == code and all(m in result.stderr for m in messages),
                    f"{result.args}: exit {result.returncode}, wanted {code} and {messages}\n"
                    f"{result.stderr}")
        return result

    def checkpoints(self, name):
        folder = self.folder / name / "checkpoints"
        return sorted(p.name for p in folder.glob("*.h5")) if folder.is_dir() else []

    def checkpoint(self, name, file):
        return (self.folder / name / "checkpoints" / file).read_bytes()

    def metrics(self, name):
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def steps(self, name):
        return [(row["phase"], row["step"]) for row in self.metrics(name) if "loss" in row]

    def remove(self, *names):
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def finish(self):
        print(f"{len(self.failures)} failures")
        return 1 if self.failures else 0


def with_contract(w, name, **changes):
    """A copy of the model with some of its contract changed."""
    shutil.rmtree(w.folder / name, ignore_errors=True)
    shutil.copytree(w.folder / "model", w.folder / name)
    path = w.folder / name / "csplade.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return name


def run_tests(tests, documents=100):
    """Runs every test in one workspace; a test leaves the collection and the model as they are."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(sys.argv[1], folder, documents)
        chosen = sys.argv[3:]
        for test in tests:
            if not chosen or test.__name__ in chosen:
                print(test.__name__.replace("_", " "), flush=True)
                test(workspace)
        return workspace.finish()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def fields(data):
    """(number, value) of a protobuf message: varints, fixed 64 and 32 bits, bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif key & 7 == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
        yield key >> 3, value


def read_events(path):
    """(step, tag, value) of a TensorBoard file, every checksum checked."""
    data, at, found = Path(path).read_bytes(), 0, []
    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        record = data[at + 12:at + 12 + length]
        assert check == masked(data[at:at + 8]), "checksum of a length"
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(record), "of a record"
        at += 16 + length
        event = dict(fields(record))
        for number, summary in fields(event.get(5, b"")):
            value = dict(fields(summary))
            found.append((event.get(2, 0), value[1].decode(), value[2]))
    return found


def without_override():
    """For preexec_fn: a process that obeys file permissions although it is root."""
    import ctypes

    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
                raise OSError("capabilities cannot be dropped")
