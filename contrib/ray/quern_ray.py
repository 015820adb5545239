"""quern on a Ray cluster: a Ray Data pipeline whose actors each keep one `quern batch -i - -o -` process with the model mapped.

    python quern_ray.py -i requests.jsonl -o results.jsonl -m model.quern --workers 4

One line in is one line out, so an actor sends a batch of lines and reads as many. A record's result depends on the record alone, so it does not matter
which actor answers it, nor whether one did so before and died: Ray gives a lost batch to another actor, and the results of a batch appear all at
once or not at all. The output has the bytes of `quern batch` on one machine.

Every record needs a `custom_id` or `id`: the seed of one without a name follows from its place in its process, which is another one here.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from typing import Any, Iterator

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

# Lines that a task reads from the input and hands on together, and lines that an actor has under way at a time. The more there are under way, the
# better quern's passes are filled; the fewer, the less is done again when somebody dies.
LINES_PER_CHUNK = 512
LINES_PER_BATCH = 128
# A plain result says its place in its process; here it is to say that in the input.
INDEX = re.compile(rb'^\{"index":\d+')


class QuernError(RuntimeError):
    """quern ended, and not because its input did."""


class Quern:
    """One quern process. Ray Data makes one of these per actor."""

    def __init__(self, command: list[str]):
        self.command = command
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def restart(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.stop()
        self.start()

    def stop(self) -> int:
        """Ends the process and returns its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        return process.wait()

    def answers(self, lines: list[bytes]) -> list[bytes]:
        """Sends lines and returns one result for each, in order."""
        process = self.process
        if process is None:
            raise QuernError("quern is not running")

        def feed() -> None:
            try:
                process.stdin.write(b"".join(line + b"\n" for line in lines))
                process.stdin.flush()
            except BrokenPipeError:
                pass  # the reader below sees the end of the results and says so

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        results = []
        for _ in lines:
            result = process.stdout.readline()
            if not result.endswith(b"\n"):
                raise QuernError(f"quern answered {len(results)} of {len(lines)} records and ended")
            results.append(result[:-1])
        feeder.join()
        return results

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        numbers = list(batch["number"])
        lines = [bytes(line) for line in batch["line"]]
        try:
            results = self.answers(lines)
        except QuernError:
            # The process was killed, or something in the batch ends it. A second one tells which; what was answered before is answered again.
            self.restart()
            results = self.answers(lines)
        except BaseException:
            # Results that nobody took must not be taken for those of the next batch.
            self.restart()
            raise
        return {"number": numbers, "result": [placed(n, r) for n, r in zip(numbers, results)]}

    def __del__(self) -> None:
        self.stop()


def placed(number: int, result: bytes) -> bytes:
    """The result of record `number` of the input."""
    return INDEX.sub(b'{"index":%d' % number, result, count=1)


def is_blank(line: bytes) -> bool:
    return not line.strip()


def chunks(path: str, size: int = LINES_PER_CHUNK) -> Iterator[dict[str, Any]]:
    """Where chunks of lines begin, how long they are, and the number of the first record in each."""
    names: set[str] = set()
    with open(path, "rb") as file:
        start = end = number = first = 0
        for line in file:
            end += len(line)
            if not is_blank(line):
                check_name(path, number, line, names)
                number += 1
            if number - first == size:
                yield {"start": start, "length": end - start, "first": first}
                start, first = end, number
        if end > start:
            yield {"start": start, "length": end - start, "first": first}


def check_name(path: str, number: int, line: bytes, names: set[str]) -> None:
    """A record that says what it is called; one that is no record at all is answered with an error wherever it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return
    if not isinstance(record, dict):
        return
    name = record.get("custom_id", record.get("id"))
    if not isinstance(name, str):
        raise SystemExit(f"{path}: record {number} has no custom_id or id, which it needs here")
    if name in names:
        raise SystemExit(f"{path}: record {number} is called {name!r} as an earlier one is")
    names.add(name)


class ReadChunk:
    """Reads the lines of a chunk, on the machine where the task runs: the path must mean the same file there."""

    def __init__(self, path: str):
        self.path = path

    def __call__(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        with open(self.path, "rb") as file:
            file.seek(chunk["start"])
            lines = file.read(chunk["length"]).split(b"\n")
        if chunk["first"] == 0 and lines:
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        records = (line for line in lines if not is_blank(line))
        return [{"number": chunk["first"] + i, "line": line} for i, line in enumerate(records)]


def answer(lines: Dataset, command: list[str], workers: int, cpus: float, batch: int = LINES_PER_BATCH) -> Dataset:
    """Results (`number`, `result`) of lines (`number`, `line`), for pipelines of your own."""
    return lines.map_batches(
        Quern,
        fn_constructor_args=(command,),
        batch_size=batch,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=cpus,
        # A worker that dies takes its batch with it and nothing else.
        max_restarts=-1,
        max_task_retries=-1,
    )


def run(
    path: str,
    output: str,
    command: list[str],
    workers: int,
    cpus: float,
    chunk: int = LINES_PER_CHUNK,
    batch: int = LINES_PER_BATCH,
) -> tuple[int, int]:
    """Answers a file and writes the results in its order. Returns how many there are and how many of them are errors."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    places = list(chunks(path, chunk))
    total = failed = 0
    temporary = f"{output}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            if places:
                # Small blocks, so that every worker has something to do from the beginning.
                lines = ray.data.from_items(places, override_num_blocks=len(places)).flat_map(ReadChunk(path))
                results = answer(lines, command, workers, cpus, batch)
                for row in results.iter_rows():
                    if row["number"] != total:
                        raise QuernError(f"record {row['number']} came where {total} was expected")
                    result = bytes(row["result"])
                    file.write(result + b"\n")
                    failed += json.loads(result).get("error") is not None
                    total += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, output)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return total, failed


def main() -> int:
    parser = argparse.ArgumentParser(description="quern batch on a Ray cluster; what follows -- goes to quern batch")
    parser.add_argument("-i", "--input", required=True, help="records; a path that every machine of the cluster can read")
    parser.add_argument("-o", "--output", required=True, help="results, written on this machine, in the order of the input")
    parser.add_argument("-m", "--model", help="the model; a path that every machine can read (default: the built-in one)")
    parser.add_argument("--quern", default="quern", help="the program, on every machine (default: quern)")
    parser.add_argument("--workers", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument("--cpus", type=float, default=1, help="processors that each of them has, and threads that it runs (default: 1)")
    parser.add_argument("--chunk", type=int, default=LINES_PER_CHUNK, help="records that a task reads (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=LINES_PER_BATCH, help="records that a process has under way (default: %(default)s)")
    parser.add_argument("--address", help="of a cluster that runs already (default: start one on this machine)")
    parser.add_argument("rest", nargs="*", metavar="-- ARGS", help="arguments of quern batch, such as -- --temp 0 -n 100")
    args = parser.parse_args()
    # Ray may give a batch that was lost to an actor that has answered it before; names are compared here.
    command = [args.quern, "batch", "-i", "-", "-o", "-", "--quiet", "--allow-duplicates"]
    command += ["-t", str(max(1, int(args.cpus)))]
    if args.model:
        command += ["-m", os.path.abspath(args.model)]
    command += args.rest
    ray.init(address=args.address, log_to_driver=False)
    path = os.path.abspath(args.input)
    total, failed = run(path, args.output, command, args.workers, args.cpus, args.chunk, args.batch)
    print(f"{total} records, {failed} of them failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
