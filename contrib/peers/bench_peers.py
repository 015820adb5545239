#!/usr/bin/env python3
"""Measures quern and llama.cpp side by side: the same weights, the same number of threads, in turns.

    python3 contrib/peers/bench_peers.py --llama-bin path/to/llama.cpp/build/bin [--shape llama-1b] [--types q4_0,q8_0,q4_k_m]

Of each shape and type a GGUF with random weights is made once, in target/peers, and imported by quern; llama-bench and llama-batched-bench read the GGUF, `quern bench model` the imported
file. Every round runs each program once, in alternating order; a ratio is the median of the rounds' ratios, and beside it stands the range from the lowest to the highest of
them. With --vocab VOCAB.gguf, which lends its tokenizer, the time and private memory of one token from a cold process are measured too. Needs Python 3.9 and nothing else.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import shape_gguf  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMANDS = []


def note(text):
    print(text, file=sys.stderr, flush=True)


def run(command):
    """Standard output of a command, which is remembered for the report; its failure ends everything."""
    shown = shlex.join(os.path.relpath(c, ROOT) if os.path.isabs(c) and c.startswith(ROOT) else os.path.basename(c) if os.path.isabs(c) else c for c in command)
    if shown not in COMMANDS:
        COMMANDS.append(shown)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shown}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def quern(o, model, threads, more):
    command = [o.quern, "bench", "model", "-m", model, "-t", str(threads), "-r", "1", "--json"] + more
    report = json.loads(run(command))
    rows = {r["name"]: statistics.median(r["samples"]) for r in report["rows"] if r["group"] == "model"}
    limits = [statistics.median(r["samples"]) for r in report["rows"] if r["name"].startswith("read memory") and r["threads"] == threads]
    rates = {r["name"]: r.get("gb_per_s") for r in report["rows"] if r["group"] == "model"}
    return rows, max(limits), rates


def llama_bench(o, model, threads):
    command = [os.path.join(o.llama_bin, "llama-bench"), "-m", model, "-t", str(threads), "-p", o.prompt, "-n", o.decode, "-d", o.depth, "-r", "1", "-fa", "1", "-o", "json"]
    out = {}
    for test in json.loads(run(command)):
        name = f"pp{test['n_prompt']}" if test["n_prompt"] else f"tg{test['n_gen']}"
        depth = test.get("n_depth", 0)
        out[name + (f" @ d{depth}" if depth else "")] = test["avg_ts"]
    return out


def llama_batched(o, model, threads, batches):
    most = max(int(b) for b in batches) * (o.batch_prompt + o.batch_decode)
    command = [os.path.join(o.llama_bin, "llama-batched-bench"), "-m", model, "-t", str(threads), "-c", str(most), "-fa", "1", "-npp", str(o.batch_prompt), "-ntg", str(o.batch_decode)]
    command += ["-npl", ",".join(batches), "--output-format", "jsonl"]
    # Newer versions print their results as a log of this verbosity.
    command += ["-lv", "3"]
    out = {}
    for line in run(command).splitlines():
        if line.startswith("{"):
            test = json.loads(line)
            out[f"tg{o.batch_decode} x{test['pl']} @ d{o.batch_prompt}"] = test["speed_tg"]
    return out


def one_token(command):
    """Seconds of a process, and the most private memory that it was seen with, in MiB."""
    start, most = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                fields = [line.split() for line in status if line.startswith("RssAnon:")]
            most = max([most] + [int(f[1]) / 1024 for f in fields])
        except OSError:
            pass
        time.sleep(0.002)
    if process.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit {process.returncode}")
    return time.monotonic() - start, most


def first_token(o, gguf, model, threads):
    word = ["-p", "Hello", "-n", "1", "-t", str(threads)]
    ours = one_token([o.quern, "run", "-m", model, "--raw", "--ignore-eos", "--temp", "0", "-n", "1", "-t", str(threads), "Hello"])
    theirs = one_token([os.path.join(o.llama_bin, "llama-completion"), "-m", gguf, "-c", "512", "-no-cnv", "--no-warmup"] + word)
    return ours, theirs


def prepare(o, kind):
    os.makedirs(o.dir, exist_ok=True)
    config = o.shape if o.shape.endswith(".json") else os.path.join(ROOT, "models", "shapes", f"{o.shape}.json")
    if not os.path.exists(config):
        sys.exit(f"{config} does not exist, expected the configuration of a shape")
    name = os.path.splitext(os.path.basename(config))[0]
    stem = os.path.join(o.dir, f"{name}-{kind}" + ("-vocab" if o.vocab else ""))
    gguf, model = stem + ".gguf", stem + ".quern"
    if not os.path.exists(gguf):
        note(f"making {gguf}")
        shape_gguf.write(config, kind, o.vocab, gguf)
    if not os.path.exists(model) or os.path.getmtime(model) < os.path.getmtime(gguf):
        note(f"importing {gguf}")
        run([o.quern, "import", gguf, "-o", model])
    return gguf, model


def processor():
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bin", required=True, help="folder with llama-bench and llama-batched-bench, built for this machine")
    parser.add_argument("--quern", default=os.path.join(ROOT, "target", "release", "quern"))
    parser.add_argument("--shape", default="llama-1b", help="a file of models/shapes, or a config.json")
    parser.add_argument("--types", default="q4_0", help=f"of {', '.join(shape_gguf.FILE_TYPES)}")
    parser.add_argument("--vocab", help="a GGUF whose tokenizer the model gets")
    parser.add_argument("--dir", default=os.path.join(ROOT, "target", "peers"))
    parser.add_argument("-p", "--prompt", default="512")
    parser.add_argument("-n", "--decode", default="32")
    parser.add_argument("-d", "--depth", default="0")
    parser.add_argument("-b", "--batch", default="8,32", help="sequences side by side; empty: none")
    parser.add_argument("--batch-prompt", type=int, default=16)
    parser.add_argument("--batch-decode", type=int, default=16)
    parser.add_argument("-t", "--threads", default=str(os.cpu_count() or 1))
    parser.add_argument("-r", "--rounds", type=int, default=5)
    o = parser.parse_args()
    for name in ["llama-bench"] + (["llama-batched-bench"] if o.batch else []):
        if not os.access(os.path.join(o.llama_bin, name), os.X_OK):
            sys.exit(f"{o.llama_bin} has no {name}: give the folder of a native build of llama.cpp with LLAMA_BIN or --llama-bin")
    if not os.access(o.quern, os.X_OK):
        sys.exit(f"{o.quern} does not exist: cargo build --release makes it")
    batches = [b for b in o.batch.split(",") if b]
    print(f"{processor()}, {os.cpu_count()} processors, shape {o.shape}, {o.rounds} rounds in turns\n")
    print("| weights | test | threads | quern | llama.cpp | ratio | lowest to highest |\n|---|---|---:|---:|---:|---:|---:|")
    for kind in o.types.split(","):
        if kind not in shape_gguf.FILE_TYPES:
            sys.exit(f"type {kind}, expected one of {', '.join(shape_gguf.FILE_TYPES)}")
        gguf, model = prepare(o, kind)
        for threads in [int(t) for t in o.threads.split(",")]:
            table(o, kind, gguf, model, threads, batches)
    print("\nCommands of a round:\n")
    for command in COMMANDS:
        print(f"    {command}")


def table(o, kind, gguf, model, threads, batches):
    pairs, shares = {}, {}

    def ours():
        rows, read, rates = quern(o, model, threads, ["-p", o.prompt, "-n", o.decode, "-d", o.depth])
        for name, rate in rates.items():
            if name.startswith("tg"):
                shares.setdefault(name, []).append(rate / read)
        if batches:
            more = ["-p", "0", "-n", str(o.batch_decode), "-d", str(o.batch_prompt), "-b", ",".join(batches)]
            rows.update(quern(o, model, threads, more)[0])
        return rows

    def theirs():
        rows = llama_bench(o, gguf, threads)
        if batches:
            rows.update(llama_batched(o, gguf, threads, batches))
        return rows

    for i in range(o.rounds):
        note(f"{kind}, {threads} threads, round {i + 1} of {o.rounds}")
        # Who is first has the other one's heat, or its share of the turbo: take turns.
        if i % 2 == 0:
            a, b = ours(), theirs()
        else:
            b, a = theirs(), ours()
        for name in a:
            if name in b:
                pairs.setdefault(name, []).append((a[name], b[name], a[name] / b[name]))
        if o.vocab and os.access(os.path.join(o.llama_bin, "llama-completion"), os.X_OK):
            (s1, m1), (s2, m2) = first_token(o, gguf, model, threads)
            pairs.setdefault("one token, ms", []).append((s1 * 1e3, s2 * 1e3, s2 / s1))
            pairs.setdefault("private memory, MiB", []).append((m1, m2, m2 / max(m1, 0.1)))
    for name, values in pairs.items():
        us, them, ratio = (statistics.median(v[i] for v in values) for i in range(3))
        low, high = min(v[2] for v in values), max(v[2] for v in values)
        print(f"| {kind} | {name} | {threads} | {us:.1f} | {them:.1f} | {ratio:.2f} | {low:.2f} to {high:.2f} |", flush=True)
    for name, values in shares.items():
        note(f"{kind}, {threads} threads: quern's {name} reads {100 * statistics.median(values):.0f} % of what the memory gives")


if __name__ == "__main__":
    main()
