"""``validate``: what is wrong with a sweep, before anything runs."""

from __future__ import annotations

from sweeps.commands.shared import (
    ConfigFile,
    Overrides,
    command_line,
    load,
    mistakes_explained,
)


def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a sweep's file, its model, every data row and the tracker. Nothing is started."""
    with mistakes_explained():
        parsed = load(config, overrides)
        from sweeps import study

        study.validate(parsed)
    domains = ", ".join(parsed.domains)
    kind = parsed.study.kind
    what = f"{sum(map(parsed.search_trials, parsed.domains))} trials" if kind == "search" else kind
    for domain in parsed.domains:
        if short := parsed.shortfall(domain):
            print(f"{domain}: {short}")
    print(f"{config} is fine: {what} over {domains}. Run it with:")
    print(f"  {command_line('run', config, overrides)}")
