"""What a training run has to say for itself in numbers: losses, pace, memory, utilisation, how exact it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.core.machine import peak_rss
from components.training.ceiling import peak_flops
from components.training.flops import flops_per_token

if TYPE_CHECKING:
    from components.training.run import Run

SOMETIMES = ("figures", "evaluations", "samples", "adapted", "resumed_from", "best_step")
"""What only some runs have, by its name in the meter."""


def figures_of(run: Run, trainer: Any) -> dict[str, Any]:
    """The figures of the whole run, also of what was trained before a kill; plain data."""
    run.settle_clock()
    meter, world = run.meter, run.config.launcher.world
    tokens = _of_all(meter.tokens, world)
    return {
        "steps": trainer.state.global_step,
        "final_loss": round(meter.losses[-1], 4),
        "losses": [round(loss, 5) for loss in meter.losses],
        "grad_norms": [round(norm, 5) for norm in meter.grad_norms],
        "learning_rates": meter.learning_rates,
        "tokens": tokens,
        "tokens_per_s": round(tokens / meter.seconds if meter.seconds else 0.0, 1),
        "train_seconds": round(meter.seconds, 1),
        "rows": len(run.rows),
        **({"processes": world} if world > 1 else {}),
        **run.packs,
        "dtype": run.setting.dtype,
        "determinism": _tier(run),
        "speed": {"choice": run.setting.notes(), "tried": meter.tried},
        "peak_rss": peak_rss(),
        **_cost(run, trainer),
        **{name: found for name in SOMETIMES if (found := getattr(meter, name))},
    }


def _of_all(count: int, world: int) -> int:
    """The sum over all processes."""
    if world == 1:
        return count
    from accelerate.utils import gather_object

    return sum(gather_object([count]))


def _tier(run: Run) -> str:
    """What a second run of the recipe gives: the same bytes or not; for that, measured choices must be said."""
    if run.config.determinism != "exact":
        return run.config.determinism
    if run.meter.adapted:
        return "exact until memory ran out"
    return "exact with this speed choice" if run.config.speed == "auto" else "exact"


def _cost(run: Run, trainer: Any) -> dict[str, float]:
    """Utilisation of what the machine can do, measured just now, and energy where it is counted."""
    setting, mean = run.setting, run.meter.tokens // max(1, run.meter.rows)
    ceiling = peak_flops(setting.device, setting.dtype, setting.threads)
    flops = flops_per_token(trainer.model, mean) - trainer.spared_flops()
    used = run.meter.tokens_per_s * flops / ceiling
    energy = {"energy_j": round(run.meter.joules, 1)} if run.settle_energy() else {}
    return {"utilisation": round(used, 4), "ceiling_gflops": round(ceiling / 1e9, 1), **energy}
