"""Compare objectives: one teacher and monitor, then every student of a suite, with paired seeds and one table.

    python scripts/benchmark_objectives.py --suite paper --dataset clips.csv --output_dir runs/benchmark --tune \\
        --seeds 5 --teacher_options "--preset tiny --config_fields hidden_size=64 num_attention_heads=2" \\
        --student_fields modality_specific_depth=2 --num_train_epochs 10 --learning_rate 4e-3
    python scripts/benchmark_objectives.py --suite kernels window --teacher runs/teacher --output_dir runs/benchmark
    python scripts/benchmark_objectives.py --suite paper --rows "KD" "EM-KTD + KD" --teacher runs/teacher \\
        --output_dir runs/benchmark

Options that are not listed below, and those after `--`, go to distill.py for every row. With `--tune` each row's
weight is first chosen on the validation split, one seed, from the same grid for all: times 0.1, 1 and 10 its default;
of EM-KTD + EM-clip-KTD both weights, in the nine combinations. The weight of logit distillation is chosen before all
others, and every "+ KD" row has it.

`--teacher_cache DIR` (of cache_teacher.py) spares the teacher's forward pass in every row whose objectives the cache
serves; the others run beside the teacher, which is said.

The same call goes on where it was interrupted: a run whose results are there is not repeated. Writes results.json,
table.md and a picture for each suite: learning curves on validation beside the final numbers on test. A run that
fails is told with the end of its log, and the others go on. Teachers of masks are compared by MJ and MF, with the two
controls: the sound of another clip, and silence.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import sys
from pathlib import Path

import torch

from hf_emktd.benchmark import (
    CACHE_OPTION,
    SUITES,
    Benchmark,
    Executor,
    Report,
    Row,
    check_typed_options,
    draw_suite,
    missing_objectives,
    suite_rows,
    value_of,
)

SCRIPTS = Path(__file__).resolve().parent
SUITE_NAMES = [*dict.fromkeys(name for suites in SUITES.values() for name in suites), "all"]
DATA_OPTIONS = ("dataset", "data_dir", "dataset_options")


def main() -> None:
    parser, args, typed = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the runs end with this process
    executor = Executor(args.jobs, lambda line: print(line, flush=True))
    benchmark = Benchmark(
        args.output_dir,
        SCRIPTS,
        executor,
        teacher_options=shlex.split(args.teacher_options),
        student_options=typed,
        data_options=[
            word for name in DATA_OPTIONS if (value := getattr(args, name)) for word in (f"--{name}", value)
        ],
        monitor_options=shlex.split(args.monitor_options),
        teacher=args.teacher,
        factors=args.grid,
    )
    try:
        check_typed_options(typed)
        benchmark.prepare_teacher()
        suites = chosen_rows(benchmark.task, args)
        rows = list({row.name: row for rows in suites.values() for row in rows}.values())
        benchmark.prepare_monitors(rows)
        say_uncached(benchmark, rows)
        benchmark.expect(rows, args.seeds, args.tune)
        if args.tune:
            benchmark.tune(rows)
        benchmark.repeat(rows, args.seeds, lambda: Report(benchmark, suites, args.seeds, args.reference).save())
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "Interrupted; the same call goes on from here.\n")
    told = Report(benchmark, suites, args.seeds, args.reference)
    for name, rows in suites.items():
        draw_suite(told, rows, args.output_dir / f"{name}.png")
    print(f"\n{told.to_markdown()}\n\n({args.output_dir}/results.json, table.md, {', '.join(suites)}.png)")
    if executor.failed:
        parser.exit(1, f"{len(executor.failed)} runs failed; the same call tries them again.\n")


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    """The parser, its options and those for distill.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--suite", nargs="+", default=["paper"], choices=SUITE_NAMES, help="Which rows.")
    parser.add_argument("--rows", nargs="+", help="Of these suites only the rows of these names.")
    parser.add_argument("--output_dir", required=True, type=Path, help="Folder of all runs and of the tables.")
    parser.add_argument("--teacher", help="Directory of a trained teacher; by default one is trained.")
    parser.add_argument("--dataset", help="As in train_teacher.py; by default the built-in one, or the teacher's.")
    parser.add_argument("--data_dir", help="As in train_teacher.py.")
    parser.add_argument("--dataset_options", help="As in train_teacher.py.")
    parser.add_argument("--teacher_options", default="", help="Options of train_teacher.py, in one string.")
    parser.add_argument("--monitor_options", default="", help="Options of train_monitor.py, in one string.")
    parser.add_argument("--seeds", default=3, type=int, help="Paired seeds of each row.")
    tuning = parser.add_mutually_exclusive_group()
    tuning.add_argument("--tune", action="store_true", help="Choose each row's weight on validation first.")
    tuning.add_argument("--untuned", action="store_true", help="Keep every row's default, which is the default.")
    parser.add_argument(
        "--grid", nargs="+", type=float, default=[0.1, 1.0, 10.0], help="Candidates of a weight, times its default."
    )
    parser.add_argument("--reference", help="Compare all rows with this one instead of KD.")
    cores = 1 if torch.accelerator.is_available() else os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=cores, help="Students at a time; the cores are shared out.")
    before, after = (sys.argv[1:], []) if "--" not in sys.argv else split_at_dashes(sys.argv[1:])
    args, unknown = parser.parse_known_args(before)
    for name in ("seeds", "jobs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return parser, args, [*unknown, *after]


def split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and after `--`."""
    place = words.index("--")
    return words[:place], words[place + 1 :]


def chosen_rows(task: str, args: argparse.Namespace) -> dict[str, list[Row]]:
    """
    By suite the rows that were asked for; those whose objectives do not exist are left out, which is said.

    Raises:
        ValueError: if a suite, a row or the reference is unknown, or a row that was named cannot be run.
    """
    names = list(SUITES[task]) if "all" in args.suite else args.suite
    suites = {name: suite_rows(task, name) for name in names}
    known = [row.name for rows in suites.values() for row in rows]
    for name in [*(args.rows or []), *([args.reference] if args.reference else [])]:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"no row {name!r} in {', '.join(names)}; "
                + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(dict.fromkeys(known))}.")
            )
    wanted = known if args.rows is None else args.rows
    suites = {name: [row for row in rows if row.name in wanted] for name, rows in suites.items()}
    return without_missing({name: rows for name, rows in suites.items() if rows}, task, named=args.rows is not None)


def say_uncached(benchmark: Benchmark, rows: list[Row]) -> None:
    """Which rows cannot take their signals from the teacher cache that was given."""
    beside = [row.name for row in rows if not benchmark.is_cached(row)]
    if value_of(benchmark.student_options, CACHE_OPTION) and beside:
        print(f"Beside the teacher itself, as the cache does not serve them: {', '.join(beside)}.", flush=True)


def without_missing(suites: dict[str, list[Row]], task: str, named: bool) -> dict[str, list[Row]]:
    """The rows whose objectives exist."""
    missing = {row.name: lacks for rows in suites.values() for row in rows if (lacks := missing_objectives(row, task))}
    if missing:
        text = ", ".join(f"{name} ({', '.join(objectives)})" for name, objectives in missing.items())
        message = f"there are no objectives for {len(missing)} rows: {text}"
        if named:
            raise ValueError(message)
        print(f"Left out, {message}.", flush=True)
    return {name: [row for row in rows if row.name not in missing] for name, rows in suites.items()}


if __name__ == "__main__":
    main()
