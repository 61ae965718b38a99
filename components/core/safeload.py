"""The one safe door to weights: safetensors or ONNX, a config.json of plain architecture facts, no code, no pickles.

`trust_remote_code=False` has been bypassed several times (CVE-2026-4372, CVE-2026-5241), so a directory is checked
here before any library opens it. Nothing else in the project calls `from_pretrained` on a directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from components.core.errors import LoadFault, ModelLoadError, PostmillError, UnsafeModelError

WEIGHTS = (".safetensors", ".onnx", ".gguf")
FORBIDDEN_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack", ".npy", ".npz")
FORBIDDEN_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "_attn_implementation_internal")
MAX_CONFIG_BYTES = 1_000_000
BUILDING = RLock()
"""Held while transformers builds a network: it replaces methods of its classes meanwhile (`tie_weights`, for one), and
two threads that do so at once leave them replaced, so that no tied model can be loaded any more. Other threads are not
kept away: torch's default type may change for them meanwhile, so what can run beside should name its types."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
HEADS = ("score.", "classifier.", "classification_head.")
"""How the weights of a scoring layer begin."""
FORMATS: dict[str, tuple[str, ...]] = {
    "safetensors": (".safetensors",),
    "adapter": (),
    "onnx": (".onnx",),
    "gguf": (".gguf",),
    "pickle": FORBIDDEN_SUFFIXES,
}
"""Formats of weights, and the endings of their files."""
SIGNS: dict[LoadFault, tuple[str, ...]] = {
    "out_of_memory": ("memoryerror", "out of memory", "allocate memory", "not enough memory"),
    "device": ("cuda", "cudnn", "nvidia", "no kernel image"),
    "corrupt": ("safetensorerror", "jsondecodeerror", "unicodedecodeerror"),
    "missing": ("filenotfounderror", "no such file", "no file named", "instantiate the backend tokenizer"),
    "network": ("connectionerror", "timeout", "localentrynotfound"),
}
"""What libraries say, in small letters, by fault; the first that fits counts, and whatever else is `incompatible`."""
REMEDIES: dict[LoadFault, str] = {
    "out_of_memory": "close other programs, or take a smaller model, bfloat16, or weights in few bits",
    "device": "run on the CPU (device: cpu), or repair the driver: 'postmill doctor' tells what is wrong with it",
    "network": "go online, or give a local directory",
    "corrupt": "a download or copy was cut off: fetch the model anew",
    "incompatible": "config, weights and base must belong together, and this transformers must know the architecture",
    "missing": "copy the whole directory, or fetch the model anew",
}


def check_model_directory(path: Path) -> None:
    """Refuse a directory that could run code or that holds no safe weights. Reads JSON only."""
    if not path.is_dir():
        raise ModelLoadError(f"model directory '{path}' does not exist; {REMEDIES['missing']}", "missing")
    files = [p for p in path.rglob("*") if p.is_file() or p.is_symlink()]
    if formats_in(path) == ["pickle"]:
        raise UnsafeModelError(
            f"'{path}' has its weights in pickles only, which run code when loaded and are never read; convert them "
            "where you trust them: load the model with transformers there, and save it with save_pretrained"
        )
    for file in files:
        _check_file(file, path)
    if not any(file.suffix.lower() in WEIGHTS for file in files):
        raise ModelLoadError(
            f"model directory '{path}' has no weights: expected *.safetensors (or *.onnx, *.gguf), "
            f"found {', '.join(sorted(f.name for f in files)[:8]) or 'nothing'}; {REMEDIES['missing']}",
            "missing",
        )


def formats_in(path: Path) -> list[str]:
    """Formats of the weights in a directory, by the files that are there: keys of `FORMATS`, in that order."""
    found = {_format(file) for file in path.rglob("*") if file.is_file()}
    return [name for name in FORMATS if name in found]


def _format(file: Path) -> str | None:
    if file.name in ADAPTER:
        return "adapter"
    return next((name for name, endings in FORMATS.items() if file.suffix.lower() in endings), None)


def _check_file(file: Path, root: Path) -> None:
    if not file.resolve().is_relative_to(root.resolve()):
        raise UnsafeModelError(f"'{file}' is a link that leaves the model directory; copy the file instead")
    suffix = file.suffix.lower()
    if suffix in FORBIDDEN_SUFFIXES:
        raise UnsafeModelError(
            f"'{file}' can run code when it is loaded (pickle family); convert the weights to safetensors and remove it"
        )
    if suffix == ".py":
        raise UnsafeModelError(f"'{file}': a model directory must not bring code; remove it")
    if suffix == ".json":
        _check_json(file)


def _check_json(file: Path) -> None:
    configures_loading = "config" in file.name
    if configures_loading and file.stat().st_size > MAX_CONFIG_BYTES:
        raise UnsafeModelError(f"'{file}' has {file.stat().st_size:,} bytes; at most {MAX_CONFIG_BYTES:,} are read")
    if not configures_loading:
        return
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelLoadError(f"'{file}' is not valid JSON: {error}; {REMEDIES['corrupt']}", "corrupt") from error
    for key in FORBIDDEN_KEYS:
        if _has_key(content, key):
            raise UnsafeModelError(f"'{file}' sets '{key}', which makes a loader fetch or run code; remove the key")


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    if isinstance(value, list):
        return any(_has_key(item, key) for item in value)
    return False


def fault_of(error: BaseException, path: Path | str = "") -> LoadFault:
    """Why a library failed on `path`, from the class of its error and from what it says of anything but the path."""
    said = f"{type(error).__name__}: {error}".replace(str(path), "").lower()
    return next((fault for fault, signs in SIGNS.items() if any(sign in said for sign in signs)), "incompatible")


@contextmanager
def explained(what: str, path: Path | str = "") -> Iterator[None]:
    """Whatever a library raises in the block, as a ModelLoadError: `what`, the cause, the remedy."""
    try:
        yield
    except PostmillError:
        raise
    except Exception as error:  # what is wrong with a file comes out as KeyError or ZeroDivisionError, too
        fault, said = fault_of(error, path), " ".join(str(error).split())[:400]
        raise ModelLoadError(f"{what}: {type(error).__name__}: {said}; {REMEDIES[fault]}", fault) from error


def _refuse_gaps(what: str, found: Mapping[str, Any]) -> None:
    """transformers fills weights that are missing, or do not fit, with random ones, and goes on."""
    gaps = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    gaps += [f"{name} is {tuple(has)}, not {tuple(should)}" for name, has, should in sorted(found["mismatched_keys"])]
    if gaps:
        more = f" and {len(gaps) - 4} more" if len(gaps) > 4 else ""
        raise ModelLoadError(f"{what}: {', '.join(gaps[:4])}{more}; {REMEDIES['incompatible']}", "incompatible")


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checked model directory."""
    check_model_directory(path)
    from transformers import AutoTokenizer

    with explained(f"no usable tokenizer in '{path}'", path):
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def load_causal_lm(path: Path, dtype: str = "float32", quantization: Any = None) -> Any:
    """A causal language model from a checked directory, in evaluation mode; `quantization`: of its weights, as read."""
    check_model_directory(path)
    _require(path, "config.json")
    import torch
    from transformers import AutoModelForCausalLM

    what = f"cannot load the model in '{path}'"
    with explained(what, path), BUILDING:
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_refuse_gaps` names them; transformers only says that there are some
            **({"quantization_config": quantization} if quantization else {}),
        )
    _refuse_gaps(what, found)
    return model.eval()


def gguf_file(path: Path) -> Path:
    """The one GGUF file of a directory."""
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        raise ModelLoadError(
            f"expected one .gguf file in '{path}', found {len(files)}; {REMEDIES['missing']}", "missing"
        )
    return files[0]


def load_gguf(path: Path) -> Any:
    """The network of a checked directory's one GGUF file in float32: transformers expands what is in few bits."""
    check_model_directory(path)
    import torch
    from transformers import AutoModelForCausalLM

    file = gguf_file(path)
    what = f"cannot read the model in '{file}'"
    with explained(what, path), BUILDING:
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            gguf_file=file.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _refuse_gaps(what, found)
    return model.eval()


def _require(path: Path, *names: str) -> None:
    absent = [name for name in names if not (path / name).is_file()]
    if absent:
        raise ModelLoadError(f"'{path}' has no {' and no '.join(absent)}; {REMEDIES['missing']}", "missing")


def load_reward_model(path: Path, dtype: str = "float32", new_head: bool = False) -> Any:
    """A model that gives each text one number, from a checked directory, in evaluation mode.

    `new_head`: the directory holds a language model; the layer that scores is new and random. Without it, a directory
    that has no such layer is refused.
    """
    check_model_directory(path)
    import torch
    from transformers import AutoModelForSequenceClassification

    with explained(f"cannot load the reward model in '{path}'", path), BUILDING:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=1,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    head = {name for name in found["missing_keys"] if name.startswith(HEADS)}
    if head and not new_head:
        missing = ", ".join(sorted(head))
        raise ModelLoadError(f"'{path}' holds no reward model: {missing} missing; train one: train: [{{type: reward}}]")
    _refuse_gaps(f"cannot load the reward model in '{path}'", {**found, "missing_keys": found["missing_keys"] - head})
    return model.eval()


def load_adapter(model: Any, path: Path) -> Any:
    """Put a PEFT adapter from a checked directory on a loaded model."""
    check_model_directory(path)
    _require(path, *ADAPTER)
    from peft import PeftModel

    with explained(f"the adapter in '{path}' does not fit this model", path):
        return PeftModel.from_pretrained(model, path, is_trainable=False, local_files_only=True).eval()
