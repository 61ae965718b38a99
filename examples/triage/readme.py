"""The README that travels with the generated files; its numbers come from the run.

Try: ``python -c "from examples.triage.readme import readme; print(readme(17, 1, 2, 3))"``
"""

from __future__ import annotations

from .catalogue import HELD_OUT_PRODUCTS
from .phrases import templates
from .schema import SYSTEM

TEXT = """\
# Support triage: a synthetic sample task

A customer-support message in English goes in, one line of JSON comes out.
All text is made up by a program; names, orders and phone numbers are invented.
Licence: Apache-2.0.

| file | rows | what |
|---|---|---|
| `train.jsonl` | {train} | chats from the training templates |
| `eval.jsonl` | {held_out} | chats from the held-out templates |
| `preferences.jsonl` | {pairs} | true record against a faulty one, training side only |

Made by `python -m examples.triage.generate --out data/triage --seed {seed}`;
the same seed gives the same bytes.

## Rows

`train` and `eval`: `{{"messages": [system, user, assistant]}}`. The system message is always

> {system}

`preferences`: `{{"prompt": [system, user], "chosen": [assistant], "rejected": [assistant],
"fault": kind}}`, where kind is `chatty`, `wrong_schema`, `invented_field`, `markdown_fence`
or `distractor_value`, in turn.

## The record

Compact JSON (no spaces), these seven keys in this order:

| key | value |
|---|---|
| `category` | see below |
| `priority` | `low`, `normal`, `high`, `urgent` |
| `product` | the product with the problem, in lower case, or null |
| `order` | the order number as written, without a leading `#`, or null |
| `amount` | a number, or null |
| `currency` | ISO 4217 code; null exactly when `amount` is null |
| `language` | ISO 639-1 code of the language asked for in the answer, or null |

**category**

- `refund`: wants the money for goods back, whatever the reason
- `delivery`: the parcel is late, lost, stuck or at the wrong address
- `damage`: it arrived broken, incomplete or in the wrong version
- `billing`: a charge, invoice, fee, discount or payment is wrong
- `account`: login, password, e-mail address, personal data, deletion
- `technical`: in use, and now it does not work properly
- `question`: asks for information and reports no problem

**priority**

- `urgent`: says so, or names a lawyer, smoke or fire
- `high`: writes for the third time, has waited for weeks, or calls it unacceptable
- `low`: says that there is no rush or no hurry
- `normal`: none of these; a plain delay or a plain defect is normal

**product**: where two are mentioned, only the one the message is about counts.
`account` messages have none.

**order**: phone, customer, serial and model numbers, postcodes and dates are not orders.

**amount**: what the customer paid, was charged or is asking about, never what somebody
else charges or paid elsewhere. Group separators go, the decimal sign becomes a point,
trailing zeros go: `1.250,00 €` is 1250, `€49.90` is 49.9, `3,500 yen` is 3500. In the
data, a group always has three digits and decimals always two.
`$` alone means USD, `¥` means JPY, `£` means GBP; other dollars and crowns are named.

**language**: only what the answer should be written in; a manual in French does not count.

## What the evaluation measures

Every wording that carries meaning comes from one of two lists:
{train_templates} templates for training, {held_out_templates} for evaluation, none in both
(`examples.triage.phrases.templates` lists them). Among interchangeable sentences of five
words or more, no held-out one shares over 45 % of its words with a training one.
Shorter ones, above all the priority cues, can be close: "Very urgent." in training, "Very
urgent, please." in evaluation.
{reserved_products} products occur in evaluation only.

What the two sides do share: customers' names, the other products, the notations of numbers,
and the key words of each label (`examples.triage.anchors`), such as "refund", "courier" or
"no hurry". Every problem and every priority cue contains one of its own label and none of
another, so the task is meant to be learned from a few hundred rows by a small model.

Both lists were written by the same authors, who knew both while writing, and who reworded
both after looking at the evaluation rows that a bag-of-words baseline got wrong.
`eval.jsonl` is therefore **not a blind test**: a good score here says that a model has
learned this task from other sentences, not that it is ready for real mail.
"""


def readme(seed: int, train: int, held_out: int, pairs: int) -> str:
    """The README for one run of the generator."""
    return TEXT.format(
        seed=seed,
        train=train,
        held_out=held_out,
        pairs=pairs,
        system=SYSTEM,
        train_templates=len(templates("train")),
        reserved_products=len(HELD_OUT_PRODUCTS),
        held_out_templates=len(templates("held_out")),
    )
