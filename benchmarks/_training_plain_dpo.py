"""What a user of TRL writes to learn from preferences, with TRL's defaults wherever the job does not ask otherwise.

    python -m benchmarks._training_plain_dpo MODEL pairs.jsonl OUT STEPS

Prints the probe's report as JSON.
"""

import json
import sys

from benchmarks._training_probe import install

probe = install()

from datasets import load_dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

model, file, out, steps = sys.argv[1:5]

trainer = DPOTrainer(
    model=model,
    args=DPOConfig(
        output_dir=out,
        max_steps=int(steps),
        per_device_train_batch_size=4,
        learning_rate=5e-5,
        use_cpu=True,  # without it TRL's default dtype, bfloat16, is refused
        report_to="none",
        seed=17,
    ),
    train_dataset=load_dataset("json", data_files=file, split="train"),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model(out)
print(json.dumps(probe.report()))
