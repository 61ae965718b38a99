"""The model card of a registered version, written from what the run knows: nothing in it is typed by hand.

It is the version's description in MLflow and `card.md` in its evidence. Sections follow the model cards of Mitchell et
al. 2019 (arXiv:1810.03993): what it is, what it was trained and measured on, how good it is, what to mind.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.core.artifacts import Artifact
from components.core.machine import human_bytes, machine
from components.core.recipe import Recipe

CARD = "card.md"


def model_card(
    recipe: Recipe,
    base: Artifact,
    chosen: Artifact,
    variant: str,
    dataset: Artifact,
    tags: Mapping[str, str],
    report: str,
) -> str:
    """The card as Markdown; it ends with the report of the run, its headings one level lower."""
    name = recipe.register_as.model if recipe.register_as else recipe.name
    lines = [f"# {name}", "", *_what(recipe, base, chosen, variant), "", *_data(dataset), "", *_use(name, dataset)]
    lines += ["", *_limits(recipe, dataset), "", *_origin(tags), "", "## Evidence", ""]
    body = [line.replace("# ", "### ", 1) if line.startswith("# ") else line for line in report.splitlines()]
    body = [f"##{line}" if line.startswith("## ") else line for line in body]
    return "\n".join([*lines, *body]).rstrip("\n") + "\n"


def _what(recipe: Recipe, base: Artifact, chosen: Artifact, variant: str) -> list[str]:
    facts = base.meta
    size = f", {facts['parameters'] / 1e6:,.0f} M weights" if facts.get("parameters") else ""
    profile = facts.get("profile") or {}
    family = f" ({profile['family']}{size})" if profile.get("family") else ""
    chain = recipe.optimize.get(variant)
    passes = " -> ".join(spec.type for spec in chain) if chain else "found by search"
    steps = " -> ".join(spec.type for spec in recipe.train if spec.enabled)
    return [
        f"- base model: {facts.get('name', base.key)}{family}",
        f"- license: {facts.get('license') or 'not stated by the base model; ask its publisher'}",
        f"- trained: {steps}, seed {recipe.seed}",
        f"- variant: {variant} ({passes}), {chosen.kind}, {human_bytes(chosen.size)}",
    ]


def _data(dataset: Artifact) -> list[str]:
    rows = ", ".join(f"{count:,} {split}" for split, count in dataset.meta["rows"].items())
    bad = sum(dataset.meta.get("quarantined", {}).values())
    files = [f"`{name}`" for names in dataset.meta.get("sources", {}).values() for name in names]
    return ["## Data", "", f"{rows} rows ({bad} quarantined), from {', '.join(files) or 'no file'}.", _shape(dataset)]


def _shape(dataset: Artifact) -> str:
    system = dataset.meta.get("system")
    return f"System message of the training rows: `{system}`" if system else "The training rows have no system message."


def _use(name: str, dataset: Artifact) -> list[str]:
    prompt = "..." if dataset.meta.get("system") else "your prompt"
    return ["## Use", "", "```", f'postmill generate {name}@production "{prompt}"', "```"]


def _limits(recipe: Recipe, dataset: Artifact) -> list[str]:
    measured = ", ".join(spec.type for spec in recipe.benchmark)
    here = f"{machine().processor}, {machine().cores} cores, {human_bytes(machine().memory)}"
    changed = dataset.meta.get("changed")
    return [
        "## Limits",
        "",
        f"- Proven is what the gates below checked ({measured}), on rows held out of the same source as the training "
        "rows. Other languages, longer inputs and other questions were not measured.",
        "- Answers can be wrong and are not filtered. Base model and rows bring their biases along.",
        f"- Measured on: {here}. Speed and memory differ elsewhere.",
        *([f"- Data changed since it was locked: {'; '.join(map(str, changed))}"] if changed else []),
    ]


def _origin(tags: Mapping[str, str]) -> list[str]:
    wanted = {
        "recipe": "postmill.recipe",
        "data set": "postmill.dataset",
        "verdict": "postmill.verdict",
        "chat template": "postmill.template",
        "tokenizer": "postmill.tokenizer",
        "git commit": "git.commit",
        "uncommitted changes": "git.dirty",
    }
    return ["## Origin", "", *(f"- {title}: `{tags[tag]}`" for title, tag in wanted.items() if tags.get(tag))]
