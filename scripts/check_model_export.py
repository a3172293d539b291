#!/usr/bin/env python3
"""Holds an exported model folder to the model it was made from, with transformers and PEFT.

    check_model_export.py REFERENCE EXPORTED                     csplade export of a model
    check_model_export.py --adapter A REFERENCE EXPORTED         ... with the PEFT adapter A merged
    check_model_export.py --adapter A --peft REFERENCE EXPORTED  EXPORTED is an adapter as well

Loads both in float32, compares logits on random token ids and the tokenizer with its file, and
prints the largest difference and the largest logit. Exit status 1 above 1e-5 of the largest logit. Needs torch, transformers and
peft.
"""

import argparse
import os
import sys

import peft
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["Once upon a time, there was a dog.", "Hello world  foo\n\nbar 1234",
         "caf\u00e9 \u65e5\u672c don't"]


def load(folder, adapter=None):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter")
    parser.add_argument("--peft", action="store_true")
    parser.add_argument("reference")
    parser.add_argument("exported")
    args = parser.parse_args()
    ours = load(args.reference, args.exported) if args.peft else load(args.exported)
    reference = load(args.reference, args.adapter)
    torch.manual_seed(1)
    ids = torch.randint(0, reference.config.vocab_size, (4, 30))
    with torch.no_grad():
        a, b = reference(ids).logits, ours(ids).logits
    worst, size = float((a - b).abs().max()), float(a.abs().max())
    tokenizer = AutoTokenizer.from_pretrained(args.exported)
    plain = tokenizers.Tokenizer.from_file(os.path.join(args.exported, "tokenizer.json"))
    for text in TEXTS:
        if tokenizer(text)["input_ids"] != plain.encode(text).ids:
            sys.exit(f"{type(tokenizer).__name__} gives other ids than tokenizer.json: {text!r}")
    print(f"logits differ by at most {worst:.3g}, the largest is {size:.3g}; "
          f"tokenizer {type(tokenizer).__name__} with {len(tokenizer)} tokens, "
          f"bos {tokenizer.bos_token!r}, eos {tokenizer.eos_token!r}")
    if not worst <= 1e-5 * size:
        sys.exit("the exported model is another model")


if __name__ == "__main__":
    main()
