"""Runs the pipeline on a Ray cluster of this machine, kills a worker and a quern process midway, and compares with one process alone.

    make ray
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import ray

import quern_ray

QUERN = os.environ.get("QUERN", str(pathlib.Path(__file__).parents[2] / "target" / "release" / "quern"))
RECORDS = 600
# Texts of some length, so that there is time to kill somebody.
OPTIONS = ["-n", "60", "--ignore-eos", "--temp", "2", "-t", "1"]


def records() -> list[str]:
    lines = []
    for i in range(RECORDS):
        match i % 4:
            case 0:
                lines.append(json.dumps({"id": f"r{i}", "prompt": f"Count to {i}."}))
            case 1:
                body = {"messages": [{"role": "user", "content": f"Spell word {i}."}], "max_tokens": 1 + i % 50}
                url = "/v1/chat/completions"
                lines.append(json.dumps({"custom_id": f"c{i}", "method": "POST", "url": url, "body": body}))
            case 2:
                lines.append(json.dumps({"id": f"s{i}", "prompt": "2 + 3 =", "completion": f" {i}"}))
            case 3:
                lines.append(json.dumps({"id": f"t{i}", "prompt": f"Tell story {i}.", "n": 2}))
        if i % 97 == 0:
            lines.append("")
    lines[100] = '{"id": "bad"'
    lines[101] = '{"id": "worse", "prompt": 7}'
    return lines


def processes(part: str) -> list[int]:
    """Processes below this one whose command line has this part."""
    found, parents = [], {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            parents[int(entry.name)] = int(stat[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if part in command:
            found.append(int(entry.name))

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid in found if is_ours(pid)]


def fields(pid: int) -> list[str]:
    """What the system says of a process, from its state on."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def parent(pid: int) -> int:
    return int(fields(pid)[1])


def seconds(pid: int) -> float:
    """Processor time that it has had."""
    try:
        return int(fields(pid)[11]) / os.sysconf("SC_CLK_TCK")
    except ProcessLookupError:
        return 0.0


class Pipeline(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        cls.input = cls.path / "in.jsonl"
        cls.input.write_text("\n".join(records()))
        alone = cls.path / "alone.jsonl"
        command = [QUERN, "batch", "-i", cls.input, "-o", alone, "--quiet", *OPTIONS]
        code = subprocess.run(command, stderr=subprocess.DEVNULL).returncode
        assert code == 1, f"two records fail: {code}"
        cls.expected = alone.read_bytes()
        # Ray looks this module up by name where its workers run.
        here = str(pathlib.Path(__file__).parent)
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": here}})

    @classmethod
    def tearDownClass(cls) -> None:
        ray.shutdown()
        cls.folder.cleanup()

    def run_pipeline(self, name: str) -> bytes:
        output = self.path / name
        command = [QUERN, "batch", "-i", "-", "-o", "-", "--quiet", "--allow-duplicates", *OPTIONS]
        total, failed = quern_ray.run(str(self.input), str(output), command, workers=3, cpus=1, chunk=40, batch=20)
        self.assertEqual((total, failed), (RECORDS, 2))
        return output.read_bytes()

    def test_the_output_is_that_of_one_process(self) -> None:
        self.assertEqual(self.run_pipeline("ray.jsonl"), self.expected)

    def test_a_worker_and_a_process_are_killed_midway(self) -> None:
        killed: list[str] = []

        def kill() -> None:
            # The first quern process that has worked for a moment loses its worker, the next one is killed itself.
            before: set[int] = set()
            while not done.is_set() and len(killed) < 2:
                time.sleep(0.05)
                busy = [pid for pid in processes(f"{QUERN} batch") if pid not in before and seconds(pid) > 0.1]
                if not busy:
                    continue
                pid = busy[0]
                try:
                    if not killed:
                        before.add(pid)
                        os.kill(parent(pid), signal.SIGKILL)
                        killed.append("worker")
                    else:
                        os.kill(pid, signal.SIGKILL)
                        killed.append("process")
                except ProcessLookupError:
                    continue

        done = threading.Event()
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            output = self.run_pipeline("killed.jsonl")
        finally:
            done.set()
            killer.join()
        self.assertEqual(killed, ["worker", "process"])
        self.assertEqual(output, self.expected)

    def test_records_without_names_are_refused(self) -> None:
        nameless = self.path / "nameless.jsonl"
        nameless.write_text('{"id": "a", "prompt": "x"}\n\n{"prompt": "y"}\n')
        with self.assertRaisesRegex(SystemExit, "record 1 has no custom_id"):
            list(quern_ray.chunks(str(nameless)))
        nameless.write_text('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "x"}\n')
        with self.assertRaisesRegex(SystemExit, "record 1 is called 'a'"):
            list(quern_ray.chunks(str(nameless)))


class Lines(unittest.TestCase):
    def test_places_are_those_in_the_input(self) -> None:
        self.assertEqual(quern_ray.placed(12, b'{"index":3,"id":"a"}'), b'{"index":12,"id":"a"}')
        self.assertEqual(quern_ray.placed(12, b'{"id":"a","index":3}'), b'{"id":"a","index":3}')


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
