"""`python -m sweeps eval`: score any model folder on benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sweeps.cli.answer import Answer, refuse, stopped
from sweeps.cli.command_results import BenchmarkScore, Evaluation
from sweeps.finetune.strict_model import expanded
from sweeps.storage.interrupts import interruptible


def evaluate_models(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, a hub name, or mini:model.")
    ],
    benchmarks: Annotated[
        str, typer.Option(help="Names, or your own .yaml and .py files, separated by commas.")
    ],
    preset: Annotated[
        str | None,
        typer.Option(
            help="Protocol: table1, table2, table2_chat or full; depends on the benchmark."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="A benchmark's file, folder or hub:owner/name@revision. Repeatable.",
        ),
    ] = None,
    data_folder: Annotated[
        Path, typer.Option(help="Default folder of NAME.jsonl, NAME.json or a folder NAME.")
    ] = Path("data"),
    split: Annotated[str, typer.Option(help="all (as published), test or validation.")] = "all",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items per benchmark; always the same ones.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="bits_per_byte: the likelihood of the reference answers.")
    ] = None,
    sandbox: Annotated[
        str | None, typer.Option(help="bubblewrap or rlimits, for benchmarks that run code.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Demonstrations before each item.")
    ] = None,
    fewshot_seed: Annotated[
        int | None, typer.Option(help="Seed for drawing the demonstrations.")
    ] = None,
    shots_from: Annotated[
        str | None, typer.Option(help="File of the validation items, if --data lacks them.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="Text before every prompt.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of tokens of a completion.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 decodes greedily; higher values sample.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Probability mass of nucleus sampling.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Completions per item.")] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="The k of pass@k and maj@k, at most --samples.")
    ] = None,
    prompt_format: Annotated[
        str | None,
        typer.Option(
            help="raw, chat (the tokenizer's template), tulu, chatml, alpaca, metamath, magicoder."
        ),
    ] = None,
    fewshot_as: Annotated[
        str | None, typer.Option(help="Demonstrations in a prompt format: turns or text.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, mixed_bfloat16.")] = "auto",
    add_bos: Annotated[
        str,
        typer.Option(help="Begin prompts with BOS: true, false, or auto (as the tokenizer does)."),
    ] = "auto",
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Padded tokens per batch; halved when memory runs out.")
    ] = 16384,
    samples_out: Annotated[
        Path | None, typer.Option(help="Folder for one JSONL file of items per benchmark.")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Cache of scored items, to resume after an interruption.")
    ] = Path("~/.cache/gmt-sweep/evaluations"),
) -> Answer[Evaluation]:
    """Score a model on benchmarks: a table with 95 % intervals, and optionally the items.

    After an interruption, run the same command to resume. Scored items are cached under a hash
    of weights, protocol and items.
    """
    from evaluators.protocol import Changes
    from sweeps.execution.evaluation_run import Options, run
    from sweeps.finetune.divergence import DivergedError

    try:
        options = Options.parse(
            model=model,
            benchmarks=benchmarks,
            preset=preset,
            data=data or [],
            data_folder=data_folder,
            split=split,
            limit=limit,
            metric=metric,
            sandbox=sandbox,
            device=device,
            dtype=dtype,
            add_bos=add_bos,
            batch_tokens=batch_tokens,
            samples_out=samples_out,
            cache=expanded(cache),
            changes=Changes(
                shots=shots,
                fewshot_seed=fewshot_seed,
                shots_from=shots_from,
                system_prompt=system_prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                samples=samples,
                k=k,
                prompt_format=prompt_format,
                fewshot_as=fewshot_as,
            ),
        )
        with interruptible():
            found = Evaluation.model_validate(run(options))
    except (ValueError, OSError) as error:
        refuse(str(error))
    except DivergedError as error:
        refuse(f"{model}: no score: {error}", code=1)
    except KeyboardInterrupt:
        message = "Stopped. Scored items are kept: run the same command to resume."
        raise stopped(message) from None
    title = f"{found.model} on {found.split} items"
    return Answer(found, [_table(title, found.results.values())])


def _table(title: str, scores: Iterable[BenchmarkScore]) -> Table:
    table = Table(title=title)
    for column in ("benchmark", "metric", "score", "95 % interval", "n", "cut off", "sandbox"):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    for each in scores:
        # A score is minus bits per byte, so that higher is better; show bits per byte.
        sign = -1 if each.metric == "bits_per_byte" else 1
        low, high = sorted((sign * each.low, sign * each.high))
        table.add_row(
            each.name,
            each.metric,
            f"{sign * each.score:.4f}",
            f"{low:.4f} to {high:.4f}",
            str(each.n),
            f"{each.metrics.get('truncated_fraction', 0.0):.1%}",
            each.sandbox_level or "",
        )
    return table
