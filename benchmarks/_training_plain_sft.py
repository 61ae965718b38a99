"""What a user of TRL writes for the same job, with TRL's defaults wherever the job does not ask for something else.

    python -m benchmarks._training_plain_sft MODEL rows.jsonl OUT STEPS [--in-order] [--float32 | --eager]

`assistant_only_loss` refuses this model's chat template, so the rows become prompt and completion, which is TRL's other
way to learn from answers only. `--in-order`: rows that are tokens and labels already, in the order of the file instead
of TRL's shuffled one, for comparing losses. `--float32`, `--eager`: another precision, another attention, to see what
rounding alone does to a loss. Prints the probe's report as JSON.
"""

import json
import sys

from benchmarks._training_probe import install

probe = install()

from datasets import load_dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

model, file, out, steps = sys.argv[1:5]
in_order = "--in-order" in sys.argv
other: dict = {"train_sampling_strategy": "sequential"} if in_order else {}
if "--float32" in sys.argv:
    other["bf16"] = False
if "--eager" in sys.argv:
    other["model_init_kwargs"] = {"attn_implementation": "eager"}

rows = load_dataset("json", data_files=file, split="train")
if not in_order:
    rows = rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns=["messages"]
    )
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=out,
        max_steps=int(steps),
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        use_cpu=True,  # without it TRL's default dtype, bfloat16, is refused
        report_to="none",
        seed=17,
        **other,
    ),
    train_dataset=rows,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model(out)
print(json.dumps(probe.report()))
