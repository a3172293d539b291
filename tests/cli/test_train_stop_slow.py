#!/usr/bin/env python3
"""How csplade train stops: signals, time, NaN, collapse, full and read-only disks, damaged
checkpoints, a second run. What was saved stays, and the run goes on to the same bytes.
Arguments: the program, the source folder, names of tests (all)."""
import os
import resource
import signal
import sys
import time

from workspace import run_tests, without_override

# Long enough to be met in the middle; a checkpoint after every step shows that it began.
LONG = ["adapt.max_steps=1", "contrastive.max_steps=40", "run.save_steps=1", "run.save_total_limit=2"]
LAST = "contrastive-00000040.h5"


def wait_for(condition, process, seconds=60):
    """True when the condition holds; False when the process ended or the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def begin(w, name, *settings, **options):
    """A run that has written a checkpoint of its second phase."""
    process = w.start("train", "config.yaml", f"run.output_dir={name}", *LONG, *settings, **options)
    w.expect(wait_for(lambda: any("contrastive" in c for c in w.checkpoints(name)), process),
             f"{name} did not begin")
    return process


def end(w, process, code, *messages):
    out, err = process.communicate()
    w.expect(process.returncode == code and all(m in err for m in messages),
             f"exit {process.returncode}, wanted {code} and {messages}\n{err}")
    return out


def goes_on_to_the_same_bytes(w, name, *settings):
    w.expect_exit(w.train(name, *LONG, *settings), 0, "going on from")
    w.expect(w.checkpoint(name, LAST) == w.checkpoint("whole", LAST), f"{name}: other bytes")
    steps = [("adapt", 1)] + [("contrastive", i) for i in range(1, 41)]
    w.expect(w.steps(name) == steps, f"{name}: {w.steps(name)}")
    leftover = [p for p in (w.folder / name).rglob("*") if ".tmp." in p.name]
    w.expect(not leftover, leftover)
    w.remove(name)


def the_whole_run_to_compare_with(w):
    w.expect_exit(w.train("whole", *LONG), 0)


def sigterm_saves_and_exits_with_75(w):
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        process = begin(w, "s")
        process.send_signal(number)
        end(w, process, 75, "with a checkpoint", "the same command goes on")
        step = w.steps("s")[-1][1]
        w.expect(f"contrastive-{step:08d}.h5" in w.checkpoints("s"), (step, w.checkpoints("s")))
        goes_on_to_the_same_bytes(w, "s")


def sigusr1_saves_and_goes_on(w):
    process = w.start("train", "config.yaml", "run.output_dir=u", *LONG, "run.save_steps=0")
    w.expect(wait_for(lambda: w.checkpoints("u"), process), "no checkpoint of the first phase")
    process.send_signal(signal.SIGUSR1)
    w.expect(wait_for(lambda: len(w.checkpoints("u")) > 1, process), "no checkpoint on SIGUSR1")
    end(w, process, 0)
    names = w.checkpoints("u")
    w.expect(len(names) == 2 and LAST in names and "adapt-00000001.h5" not in names, names)
    w.expect(w.checkpoint("u", LAST) == w.checkpoint("whole", LAST), "saving changed the result")
    w.remove("u")


def a_second_ctrl_c_stops_at_once(w):
    process = begin(w, "c", "contrastive.batch.queries=64", "contrastive.batch.micro_batch_tokens=24")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    # Both may arrive as one, or the step may end between them.
    w.expect(process.returncode in (130, 75) and "Ctrl-C again" in err, (process.returncode, err))
    w.remove("c")


def time_limits_stop_with_a_checkpoint(w):
    settings = ["run.max_minutes=0.005"]
    result = w.train("t", *LONG, *settings)
    while result.returncode == 75:
        w.expect("run.max_minutes" in result.stderr, result.stderr)
        result = w.train("t", *LONG, *settings)
    w.expect_exit(result, 0)
    w.expect(w.checkpoint("t", LAST) == w.checkpoint("whole", LAST), "other bytes")
    w.remove("t")


def two_runs_in_one_folder_are_refused(w):
    process = begin(w, "two")
    w.expect_exit(w.train("two", *LONG), 1, "locked by process", str(process.pid))
    process.send_signal(signal.SIGTERM)
    end(w, process, 75)
    goes_on_to_the_same_bytes(w, "two")


def damaged_checkpoints_are_passed_over(w):
    process = begin(w, "d")
    wait_for(lambda: len(w.checkpoints("d")) == 2, process)
    process.kill()
    process.communicate()
    names = w.checkpoints("d")
    newest = w.folder / "d/checkpoints" / (w.folder / "d/checkpoints/LATEST").read_text()
    whole = newest.read_bytes()
    newest.write_bytes(whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 8]) +
                       whole[len(whole) // 2 + 1:])
    result = w.train("d", *LONG, "run.max_minutes=0.0001", "run.save_total_limit=1")
    w.expect_exit(result, 75, "passed over a damaged checkpoint", newest.name)
    # The damaged one is not counted as the newest: the one just written stays, the run goes on.
    for text in ("", "nonsense", "../../model.h5", "contrastive-99999999.h5"):
        (w.folder / "d/checkpoints/LATEST").write_text(text)
        w.expect_exit(w.train("d", *LONG, "run.max_minutes=0.0001", "run.save_total_limit=1"), 75)
    goes_on_to_the_same_bytes(w, "d")
    # None can be read: that is an error, not a fresh start.
    (w.folder / "x/checkpoints").mkdir(parents=True)
    (w.folder / "x/checkpoints/contrastive-00000001.h5").write_bytes(whole[:1000])
    w.expect_exit(w.train("x", *LONG), 3, "none of its 1 checkpoints can be read", "truncated")
    w.expect_exit(w.train("x", *LONG, "run.resume=config.yaml"), 3, "config.yaml")
    w.expect(names, "checkpoints")
    w.remove("x")


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def a_full_disk_leaves_the_last_checkpoint(w):
    process = begin(w, "f")
    process.send_signal(signal.SIGTERM)
    end(w, process, 75)
    before = {name: w.checkpoint("f", name) for name in w.checkpoints("f")}
    w.expect(all(len(data) > 300_000 for data in before.values()), "checkpoints are too small")
    result = w.train("f", *LONG, preexec_fn=limit_files)
    w.expect_exit(result, 1, "File too large", "f/checkpoints/contrastive-")
    after = {name: w.checkpoint("f", name) for name in w.checkpoints("f")}
    w.expect(before == after, "a failed checkpoint changed others")
    goes_on_to_the_same_bytes(w, "f")
    # The metrics too: a line that cannot be written is an error, and names the file.
    result = w.train("g", *LONG, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (9_000, 9_000)))
    w.expect_exit(result, 1, "File too large")
    w.remove("g")


def a_read_only_folder_leaves_the_last_checkpoint(w):
    try:
        process = begin(w, "r", preexec_fn=without_override)
    except Exception as reason:  # the child could not give up its rights
        print(f"skipped: {reason}")
        return
    folder = w.folder / "r/checkpoints"
    folder.chmod(0o555)
    end(w, process, 1, "Permission denied", "r/checkpoints")
    folder.chmod(0o755)
    goes_on_to_the_same_bytes(w, "r")
    (w.folder / "q").mkdir(mode=0o555)
    w.expect_exit(w.train("q", preexec_fn=without_override), 1, "Permission denied", "q/")
    w.expect_exit(w.train("q/deep", preexec_fn=without_override), 1, "Permission denied")


def not_enough_disk_space_is_said_before(w):
    w.expect_exit(w.train("n", "run.save_total_limit=1000000"), 1, "MB free, but checkpoints")
    w.remove("n")


def nan_stops_and_names_where(w):
    # Each update multiplies every weight by 1 - 10 * 10: overflow within some steps.
    bad = ["optim.learning_rate=10", "optim.weight_decay=10", "optim.lr_scheduler_type=constant",
           "optim.warmup_ratio=0", "run.save_steps=1", "run.save_total_limit=100"]
    result = w.train("nan", *bad, "adapt.max_steps=40")
    w.expect_exit(result, 4, "adapt step", "not finite")
    names = w.checkpoints("nan")
    steps = w.steps("nan")
    w.expect(len(names) == len(steps) and f"step {len(steps) + 1}:" in result.stderr,
             (names, steps, result.stderr))
    w.expect_exit(w.run("info", f"nan/checkpoints/{names[-1]}"), 0)
    w.expect_exit(w.train("nan", *bad, "adapt.max_steps=40"), 4, "going on from", "adapt step")
    w.expect(w.checkpoints("nan") == names, "the last good checkpoint is not kept")
    result = w.train("nan2", *bad, "contrastive.max_steps=60", "run.phases=[contrastive]")
    w.expect_exit(result, 4, "contrastive step", "not finite")
    w.remove("nan", "nan2")


def collapse_is_said_and_can_stop(w):
    # A strong sparsity term and no ramp: soon no term is left.
    strong = ["contrastive.lambda_q=100", "contrastive.lambda_d=100", "contrastive.ramp_steps=0",
              "contrastive.max_steps=60", "run.phases=[contrastive]", "optim.learning_rate=2e-2",
              "contrastive.regularizer=l1", "optim.lr_scheduler_type=constant"]
    result = w.train("z", *strong)
    w.expect_exit(result, 0, "have no term at all: collapse", "at chance level")
    w.expect(w.metrics("z")[-1]["zero_d"] == 1, w.metrics("z")[-1])
    result = w.train("y", *strong, "run.stop_on_collapse=true")
    w.expect_exit(result, 4, "collapsed (run.stop_on_collapse)", "contrastive step")
    w.expect(0 < len(w.steps("y")) < 60 and w.metrics("y")[-1]["zero_d"] > 0.5, len(w.steps("y")))
    result = w.train("x", *strong, "run.collapse_share=1", "contrastive.max_steps=20")
    w.expect_exit(result, 0)
    w.expect("no term at all" not in result.stderr, result.stderr)
    w.remove("x", "y", "z")


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.pop(name, None)
    sys.exit(run_tests([
        the_whole_run_to_compare_with,
        sigterm_saves_and_exits_with_75,
        sigusr1_saves_and_goes_on,
        a_second_ctrl_c_stops_at_once,
        time_limits_stop_with_a_checkpoint,
        two_runs_in_one_folder_are_refused,
        damaged_checkpoints_are_passed_over,
        a_full_disk_leaves_the_last_checkpoint,
        a_read_only_folder_leaves_the_last_checkpoint,
        not_enough_disk_space_is_said_before,
        nan_stops_and_names_where,
        collapse_is_said_and_can_stop,
    ]))
