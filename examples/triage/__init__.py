"""The sample task: customer-support message in, one line of JSON out.

``schema`` fixes the record, ``phrases`` holds the wording, ``generate`` writes
the data set.  Try: ``python -m examples.triage.generate --out data/triage --seed 17``
"""
